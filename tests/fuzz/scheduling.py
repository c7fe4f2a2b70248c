"""Differential fuzzing of the scheduling tracer: random programs of threads, and what the kernel counted of each one.

`python tests/fuzz/scheduling.py --seconds N` runs as many seeds as fit, `--seed N` one again. Exit status 1 says that
there were differences; they are printed with their seeds. As root.

The programs (scheduling.c) take their counts while all their threads are parked, before the window opens and before it
closes: so switches are equal, to the last one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from threadinfo.collect.process import CollectOptions
from threadinfo.collect.trace_report import collect_traced_report
from threadinfo.model import ProcessReport, Report, Scheduling
from threadinfo.proc.reader import ProcDirectory
from threadinfo.trace.kernel.machine import taken_ns

SEEDS_A_TRACE = 12
_TRACE_SECONDS = 60.0  # of patience: it ends when the programs have
_SWITCH_NS = 6_000  # the kernel draws the line between running and waiting that much elsewhere
_TURN_NS = 500_000
# What the hypervisor takes of a turn is on the CPU for us, and not for the kernel, which tells it in whole ticks. And
# where a switch was not shown to us, a thread that changes its policy or CPUs in that turn has it begin anew for the
# kernel. On a loaded machine 1 to 2 ms of a thread were seen, either way, in 1 of 300 seeds: which threads cannot be
# known, but all of a trace's together must be no further apart than was taken, and one tick a CPU.
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_OPTIONS = CollectOptions(with_details=False, may_borrow=False, ports={})
_EXIT_NS = 5_000_000
_EXIT_SWITCHES = 6  # an ended thread counts itself before it takes its stack back and leaves


class Difference(NamedTuple):
    """What the report says otherwise than the program."""

    seed: int
    thread: str
    what: str
    ours: float
    truth: float

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.thread}: {self.what} is {self.ours:.0f}, and was {self.truth:.0f}"


def build(directory: Path) -> Path:
    """Compiles the program."""
    program = directory / "scheduling-fuzz"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, source], check=True)
    return program


def play(program: Path, seeds: Sequence[int]) -> list[Difference]:
    """Runs the programs of some seeds within one trace, and compares."""
    running = [
        subprocess.Popen([program, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        for seed in seeds
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        before = taken_ns()
        report, truths = _trace(running)
        taken = sum(now - then + _TICK_NS for then, now in zip(before, taken_ns(), strict=True))
        return list(_compare(seeds, [process.pid for process in running], report, truths, taken))
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _trace(running: Sequence[subprocess.Popen[bytes]]) -> tuple[Report, list[dict[str, Any]]]:
    """The report, and what the programs print; the trace ends as by Ctrl-C, once all have."""
    texts = [b""] * len(running)
    has_begun = False

    def on_progress(_seconds: float, _count: int) -> None:
        nonlocal has_begun
        if not has_begun:  # the window is open
            has_begun = True
            for process in running:
                assert process.stdin is not None
                process.stdin.write(b"\n")
            return
        for index, process in enumerate(running):
            assert process.stdout is not None
            while not texts[index].endswith(b"\n") and select.select([process.stdout], [], [], 0)[0]:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                assert chunk, f"{process.args!r} ended: {process.wait()}"
                texts[index] += chunk
        if all(text.endswith(b"\n") for text in texts):
            signal.raise_signal(signal.SIGINT)

    with ProcDirectory("/proc") as root:
        pids = [process.pid for process in running]
        only = frozenset({"scheduling", "waits"})
        report = collect_traced_report(root, pids, _OPTIONS, _TRACE_SECONDS, only, on_progress)
    return report, [json.loads(text) for text in texts]


def _compare(
    seeds: Sequence[int], pids: Sequence[int], report: Report, truths: Iterable[dict[str, Any]], taken_ns: int
) -> Iterator[Difference]:
    by_pid = {process.pid: process for process in report.processes}
    apart: list[tuple[Difference, float]] = []
    for seed, pid, truth in zip(seeds, pids, truths, strict=True):
        yield from _compare_process(seed, by_pid[pid], truth, apart)
    if sum(ns for _, ns in apart) > taken_ns:
        yield from (difference for difference, _ in apart)
    trace = report.processes[0].trace
    assert trace is not None
    told = trace.confidence
    for one in told.scheduling_differences:
        yield Difference(seeds[0], f"one of the trace, {one.tid}", f"confidence: {one.what}", one.ours, one.kernel)
    if told.lost_count:
        yield Difference(seeds[0], "the trace", "lost", told.lost_count, 0)


def _compare_process(
    seed: int, process: ProcessReport, truth: dict[str, Any], apart: list[tuple[Difference, float]]
) -> Iterator[Difference]:
    """Those of time on the CPU go to `apart`, with how far they are beyond what is exact."""
    assert process.trace is not None
    window_ns = process.trace.duration_ns
    missed = process.trace.confidence.missed_count or 0
    by_tid = {thread.tid: thread.scheduling for thread in process.threads or ()}
    waits_of = {thread.tid: thread for thread in process.threads or ()}
    signals = any(thread["kind"] == "signaller" for thread in truth["lived"])
    for thread in truth["lived"]:
        ours, kernel, name = by_tid.get(thread["tid"]), thread["parked"], f"{thread['kind']} {thread['tid']}"
        if ours is None:
            yield Difference(seed, name, "threads", 0, 1)
            continue

        def differ(what: str, ours: float, truth: float, slack: float = 0, name: str = name) -> Iterator[Difference]:
            if abs(ours - truth) > slack:
                yield Difference(seed, name, what, ours, truth)

        total = ours.on_cpu_ns + ours.run_queue_ns + ours.blocked_ns
        yield from differ("the sum of its times", total, window_ns, 0.01 * window_ns)
        waited_ns = sum(wait.sum_ns for wait in waits_of[thread["tid"]].waits or ())
        other_ns = waits_of[thread["tid"]].waits_other_ns or 0
        yield from differ("its waits", waited_ns + other_ns, ours.blocked_ns, 1000)
        yield from differ("waits without a reason", other_ns, 0, 0.01 * window_ns)
        yield from differ("blocked", ours.blocked_ns, ours.sleeping_ns + ours.uninterruptible_ns)
        switches = kernel["voluntary"] + kernel["involuntary"]
        yield from differ("switches", ours.voluntary_switch_count + ours.involuntary_switch_count, switches)
        # A signal that comes when it is about to sleep: voluntary for the kernel, not so at the tracepoint.
        slack = 0.05 * switches + 2 if signals else 0
        yield from differ("voluntary", ours.voluntary_switch_count, kernel["voluntary"], slack)
        slack = 0.02 * kernel["cpu_ns"] + _SWITCH_NS * (switches + 2) + _TURN_NS
        if (beyond := abs(ours.on_cpu_ns - kernel["cpu_ns"]) - slack) > 0:
            apart.append((Difference(seed, name, "on CPU", ours.on_cpu_ns, kernel["cpu_ns"]), beyond))
        yield from _compare_waits(seed, name, ours, missed)
    ended = {thread.tid: thread.scheduling for thread in process.trace.ended_threads}
    for thread in truth["ended"]:
        name = f"ended {thread['tid']}"
        one = ended.pop(thread["tid"], None)
        if one is None:
            yield Difference(seed, name, "threads", 0, 1)
            continue
        switches = one.voluntary_switch_count + one.involuntary_switch_count
        least = thread["voluntary"] + thread["involuntary"] + 1  # with the one in which it ends
        if not least <= switches <= least + _EXIT_SWITCHES:
            yield Difference(seed, name, "switches", switches, least)
        slack = 0.02 * thread["cpu_ns"] + _SWITCH_NS * (switches + 2) + _TURN_NS
        more_ns = one.on_cpu_ns - thread["cpu_ns"]
        if (beyond := max(-more_ns, more_ns - _EXIT_NS) - slack) > 0:
            apart.append((Difference(seed, name, "on CPU", one.on_cpu_ns, thread["cpu_ns"]), beyond))
        yield from _compare_waits(seed, name, one, missed)
    for tid in ended:
        yield Difference(seed, f"ended {tid}", "threads", 1, 0)


def _compare_waits(seed: int, name: str, ours: Scheduling, missed: int) -> Iterator[Difference]:
    """What one part of the report says of another; `missed` events of the whole trace are in none of them."""
    switches, waits = ours.voluntary_switch_count + ours.involuntary_switch_count, ours.run_queue_latency_ns.count
    if abs(waits - switches) > missed:
        yield Difference(seed, name, "waits for a CPU", waits, switches)
    parts = ours.after_wakeup_ns.count + ours.after_preemption_ns.count
    if parts != waits:
        yield Difference(seed, name, "waits after wake-up and after preemption", parts, waits)
    charged = sum(holder.time_ns for holder in ours.delayed_by) + ours.delayed_by_unknown_ns
    if abs(charged - ours.run_queue_ns) > 0.01 * ours.run_queue_ns + 1000 * switches:
        yield Difference(seed, name, "waiting with its holders", charged, ours.run_queue_ns)


def run(seconds: float | None, seeds: Sequence[int] | None = None) -> tuple[int, list[Difference]]:
    """Plays `seeds`, or new ones until the time is over; gives how many, and the differences."""
    until = time.monotonic() + (seconds or 0)
    count, found = 0, []
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        left = list(seeds or ())
        while left or (seeds is None and time.monotonic() < until):
            batch = left[:SEEDS_A_TRACE] or [random.getrandbits(32) for _ in range(SEEDS_A_TRACE)]
            left = left[SEEDS_A_TRACE:]
            differences = play(program, batch)
            for difference in differences:
                print(difference, file=sys.stderr, flush=True)
            found += differences
            count += len(batch)
    return count, found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long, default 60")
    parser.add_argument("--seed", type=int, action="append", help="this one (again); can be given more than once")
    arguments = parser.parse_args()
    count, found = run(arguments.seconds, arguments.seed)
    print(f"{count} seeds, {len(found)} differences")
    for what, number in Counter(difference.what for difference in found).most_common():
        print(f"  {number} {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
