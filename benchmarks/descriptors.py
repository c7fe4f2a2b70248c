"""What watching descriptors costs: open and close of the traced process, a bystander's call, and next to it the peers.

Needs root, cc, and for the peers strace, perf, bpftrace and libbpf-tools: one that cannot run is a row that says why.
Medians of rounds that take turns; ratios.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tracers import TURNS, last_line, mount_tracefs, under

HERE = Path(__file__).parent
BUILD = HERE / "build"
PAIRS = 100_000
SLOW_PAIRS = 2_000  # strace and perf trace make a pair a hundred times slower
BPFTRACE = """
tracepoint:syscalls:sys_exit_openat /pid == PID/ { printf("open %d\\n", args->ret); }
tracepoint:syscalls:sys_enter_close /pid == PID/ { printf("close %d\\n", args->fd); }
"""


class Workload:
    """Pairs of open and close, or calls of getppid, that wait for their start."""

    def __init__(self, count: int, *more: str) -> None:
        command = [str(BUILD / "open_storm"), str(count), *more]
        self.count = 5 * count
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def run(self) -> float:
        """Lets it go; the median of its rounds, in nanoseconds."""
        output, _ = self.process.communicate("\n")
        return statistics.median(map(float, output.split()))


def row(name: str, values: list[float], base: float, unit: str, lost: str = "") -> None:
    """One line of the table."""
    median = statistics.median(values)
    print(f"{name:42} {median:9.0f} ns a {unit}  {median / base:7.2f}x  {lost}", flush=True)


def ours(figures: dict[str, list[float]], losses: dict[str, int]) -> None:
    """Nothing, then our report and our stream, then a bystander of ours."""
    tool = [sys.executable, "-m", "threadinfo"]
    figures.setdefault("nothing", []).append(Workload(PAIRS).run())
    with tempfile.NamedTemporaryFile() as file:
        traced = Workload(PAIRS)
        command = [*tool, str(traced.process.pid), "--trace", "600", "--format", "json", "-o", file.name]
        figures.setdefault("threadinfo --trace", []).append(under(command, traced.run))
        trace = json.loads(Path(file.name).read_text())["processes"][0]["trace"]
        lost = traced.count - trace["descriptors"]["by_syscall"]["openat"]
        losses["threadinfo --trace"] = losses.get("threadinfo --trace", 0) + lost
    with tempfile.TemporaryFile() as lines:
        traced = Workload(PAIRS)
        command = [*tool, "trace", str(traced.process.pid), "--only", "descriptors"]
        figures.setdefault("threadinfo trace, to a file", []).append(under(command, traced.run, lines.fileno()))
        lines.seek(0)
        lost = traced.count - sum(b" open " in line for line in lines)
        losses["threadinfo trace, to a file"] = losses.get("threadinfo trace, to a file", 0) + lost
    figures.setdefault("getppid", []).append(Workload(10 * PAIRS, "calls").run())
    with subprocess.Popen(["sleep", "1000"]) as other:
        command = [*tool, str(other.pid), "--trace", "600"]
        figures.setdefault("bystander's getppid", []).append(under(command, Workload(10 * PAIRS, "calls").run))
        other.kill()


def peers(figures: dict[str, list[float]], losses: dict[str, int], reasons: dict[str, str]) -> None:
    """Each, with the opens that it did not print, or the reason why it cannot run."""
    for name, count, needs, command, mark in (
        ("strace -f -e trace=desc", SLOW_PAIRS, "strace", ["strace", "-f", "-e", "trace=desc", "-p", "PID"], b"open"),
        ("perf trace", SLOW_PAIRS, "perf", ["perf", "trace", "-e", "openat,close", "-p", "PID"], b"openat("),
        ("bpftrace", PAIRS, "bpftrace", ["bpftrace", "-e", BPFTRACE], b"open "),
        ("libbpf-tools opensnoop", PAIRS, "/usr/sbin/opensnoop", ["/usr/sbin/opensnoop", "-p", "PID"], b"/dev/null"),
    ):
        if not shutil.which(needs):
            reasons[name] = "it is not installed"
            continue
        traced = Workload(count)
        pid = str(traced.process.pid)
        with tempfile.TemporaryFile() as lines:
            words = [word.replace("PID", pid) for word in command]
            tracer = subprocess.Popen(words, stdout=lines, stderr=lines)
            try:
                status = tracer.wait(timeout=4)  # they do not say when they are ready
                reasons[name] = f"it ended with status {status}: {last_line(lines.fileno())}"
                traced.process.kill()
                traced.process.communicate()
                continue
            except subprocess.TimeoutExpired:
                figures.setdefault(name, []).append(traced.run())
            tracer.terminate()
            tracer.wait()
            lines.seek(0)
            losses[name] = losses.get(name, 0) + traced.count - sum(mark in line for line in lines)


def main() -> None:
    """Prints one table."""
    mount_tracefs()
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O2", "-o", BUILD / "open_storm", HERE / "open_storm.c"], check=True)
    figures: dict[str, list[float]] = {}
    losses: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for turn in range(TURNS):
        ours(figures, losses)
        if not turn:
            peers(figures, losses, reasons)
    for name, values in figures.items():
        is_call = "getppid" in name
        base = statistics.median(figures["getppid" if is_call else "nothing"])
        row(name, values, base, "call" if is_call else "pair", f"{losses[name]} opens lost" if name in losses else "")
    for name, reason in reasons.items():
        print(f"{name:42} not measured: {reason}")


main()
