"""What watching costs: a context switch of a traced process and of a bystander, under us, runqlat and bpftrace.

Needs root, cc, and for the peers libbpf-tools and bpftrace. The medians of rounds that take turns are compared: ratios.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from tracers import under

HERE = Path(__file__).parent
BUILD = HERE / "build"
TURNS = 3
BPFTRACE = """
tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
tracepoint:sched:sched_switch {
  if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; }
  $from = @queued[args->next_pid];
  if ($from) { @waits[args->next_pid] = hist(nsecs - $from); }
  delete(@queued[args->next_pid]);
}
"""


class Workload:
    """A ping-pong that waits for its start."""

    def __init__(self) -> None:
        command = [str(BUILD / "switch_pingpong"), "200000"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def run(self) -> float:
        """Lets it go; the median of its rounds, in nanoseconds a switch."""
        output, _ = self.process.communicate("\n")
        return statistics.median(map(float, output.split()))


def main() -> None:
    """Prints one table."""
    BUILD.mkdir(exist_ok=True)
    program = BUILD / "switch_pingpong"
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, HERE / "switch_pingpong.c"], check=True)
    ours = [sys.executable, "-m", "threadinfo"]
    figures: dict[str, list[float]] = {}
    for _ in range(TURNS):
        figures.setdefault("nothing", []).append(Workload().run())
        for only in ("scheduling", "scheduling,descriptors"):
            options = ["--trace", "120", "--only", only]
            traced = Workload()
            command = [*ours, str(traced.process.pid), *options]
            figures.setdefault(f"threadinfo {only}, traced", []).append(under(command, traced.run))
            with subprocess.Popen(["sleep", "1000"]) as other:
                command = [*ours, str(other.pid), *options]
                figures.setdefault(f"threadinfo {only}, bystander", []).append(under(command, Workload().run))
                other.kill()
        if Path("/usr/sbin/runqlat").exists():
            figures.setdefault("libbpf-tools runqlat -L", []).append(under(["/usr/sbin/runqlat", "-L"], Workload().run))
        if shutil.which("bpftrace"):
            figures.setdefault("bpftrace", []).append(under(["bpftrace", "-e", BPFTRACE], Workload().run))
    base = statistics.median(figures["nothing"])
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"{name:48} {median:6.0f} ns a switch  {median / base:5.2f}x")


main()
