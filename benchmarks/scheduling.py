"""What watching costs: a context switch of a traced process and of a bystander, under us, runqlat and bpftrace.

Needs root, cc, and for the peers libbpf-tools and bpftrace: one that cannot run is a row that says why. The medians of
rounds that take turns are compared: ratios.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from tracers import TURNS, PeerError, mount_tracefs, under

HERE = Path(__file__).parent
BUILD = HERE / "build"
BPFTRACE = """
tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
tracepoint:sched:sched_switch {
  if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; }
  $from = @queued[args->next_pid];
  if ($from) { @waits[args->next_pid] = hist(nsecs - $from); }
  delete(@queued[args->next_pid]);
}
"""


PEERS = {"libbpf-tools runqlat -L": ["/usr/sbin/runqlat", "-L"], "bpftrace": ["bpftrace", "-e", BPFTRACE]}


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

    def __enter__(self) -> Workload:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Prints one table."""
    mount_tracefs()
    BUILD.mkdir(exist_ok=True)
    program = BUILD / "switch_pingpong"
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, HERE / "switch_pingpong.c"], check=True)
    ours = [sys.executable, "-m", "threadinfo"]
    figures: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    for _ in range(TURNS):
        figures.setdefault("nothing", []).append(Workload().run())
        for only in ("scheduling", "waits", "waits,cpu", "scheduling,descriptors"):
            options = ["--trace", "120", "--only", only]
            traced = Workload()
            command = [*ours, str(traced.process.pid), *options]
            figures.setdefault(f"threadinfo {only}, traced", []).append(under(command, traced.run))
            with subprocess.Popen(["sleep", "1000"]) as other:
                command = [*ours, str(other.pid), *options]
                figures.setdefault(f"threadinfo {only}, bystander", []).append(under(command, Workload().run))
                other.kill()
        for name, command in PEERS.items():
            with Workload() as workload:
                try:
                    figures.setdefault(name, []).append(under(command, workload.run))
                except PeerError as reason:
                    reasons[name] = str(reason)
    base = statistics.median(figures["nothing"])
    for name, values in figures.items():
        if not values:
            print(f"{name:48} not measured: {reasons[name]}")
            continue
        median = statistics.median(values)
        print(f"{name:48} {median:6.0f} ns a switch  {median / base:5.2f}x")


main()
