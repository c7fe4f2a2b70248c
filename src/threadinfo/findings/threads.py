"""Threads that have too little of the CPU, and processes that have none any more."""

from __future__ import annotations

from collections.abc import Iterator

from threadinfo.findings.words import format_time, others_too, percent
from threadinfo.model import Finding, ProcessReport, Scheduling

_WAITING_PERCENT = 50.0  # of the time in which a thread could run
_WAITING_SHARE_PERCENT = 5.0  # of the trace: less does not matter to anybody
_WAITING_LEAST_NS = 10_000_000
_WAITING_HIGH_PERCENT = 20.0  # of the trace
_HOLDER_PERCENT = 25.0  # of a wait: who held the CPU for less is not its cause
_LIMITS_OF_CPUS = "see cpu.max of its control group, taskset -p, top."
_LOOK_AT_CPUS = f"Look whether the CPUs are busy with others or limited: {_LIMITS_OF_CPUS}"
_WAITING_HIGH_NS = 100_000_000
_P99_NS = 10_000_000  # a few turns of other threads: nothing that a CPU with time to spare would make
_P99_LEAST_COUNT = 100  # below that the 99th percentile is the maximum


def scheduled_threads(process: ProcessReport) -> list[tuple[int, str, Scheduling]]:
    """Every traced thread, those that ended included, but none whose figures the kernel contradicts."""
    alive = [(thread.tid, thread.name, thread.scheduling) for thread in process.threads or () if thread.scheduling]
    ended = process.trace.ended_threads if process.trace else ()
    doubtful = {one.tid for one in process.trace.confidence.scheduling_differences} if process.trace else set()
    if None in doubtful:  # all together are impossible: nobody knows whose are wrong
        return []
    every = alive + [(thread.tid, thread.name, thread.scheduling) for thread in ended]
    return [one for one in every if one[0] not in doubtful]


def waits_longer_than_it_runs(scheduling: Scheduling, duration_ns: int) -> bool:
    """Whether it waited for a CPU longer than it had one, and long enough to matter."""
    least = max(_WAITING_LEAST_NS, duration_ns * _WAITING_SHARE_PERCENT / 100)
    return scheduling.run_queue_ns > scheduling.on_cpu_ns and scheduling.run_queue_ns >= least


def waits_for_cpu(process: ProcessReport) -> Iterator[Finding]:
    """A thread waited for a CPU longer than it ran."""
    if process.trace is None:
        return
    duration = process.trace.duration_ns
    waiting = [one for one in scheduled_threads(process) if waits_longer_than_it_runs(one[2], duration)]
    if not waiting:
        return
    waiting.sort(key=lambda one: -one[2].run_queue_ns)
    tid, name, worst = waiting[0]
    share = percent(worst.run_queue_ns, duration)
    yield Finding(
        kind="thread_waits_for_cpu",
        severity="high" if share >= _WAITING_HIGH_PERCENT and worst.run_queue_ns >= _WAITING_HIGH_NS else "medium",
        words=f"Thread {name} {tid} waited {format_time(worst.run_queue_ns)} for a CPU and ran "
        f"{format_time(worst.on_cpu_ns)}"
        + others_too(len(waiting) - 1, "thread waited longer than it", "threads waited longer than they", "ran"),
        value=percent(worst.run_queue_ns, worst.run_queue_ns + worst.on_cpu_ns),
        threshold=_WAITING_PERCENT,
        unit="percent",
        rule=f"waiting is more than {_WAITING_PERCENT:.0f} % of waiting and running, "
        f"and at least {_WAITING_SHARE_PERCENT:.0f} % of the trace",
        advice=_blame(process.pid, worst),
        tids=tuple(one[0] for one in waiting),
    )


def _blame(pid: int, scheduling: Scheduling) -> str:
    """What to do about a wait, by who held the CPU meanwhile."""
    if not scheduling.delayed_by:
        return _LOOK_AT_CPUS
    first = scheduling.delayed_by[0]
    known = sum(holder.time_ns for holder in scheduling.delayed_by)
    total = known + scheduling.delayed_by_unknown_ns
    share = percent(first.time_ns, total)
    number = "" if first.tid is None else f" {first.tid}"
    about = f" ({first.command})" if first.command else ""
    who = f"{first.name}{number}{about} held the CPU for {share:.0f} % of the wait"
    if share < _HOLDER_PERCENT:  # without that one it would have waited nearly as long
        unknown = percent(scheduling.delayed_by_unknown_ns, total)
        nobody = f", for {unknown:.0f} % nobody is known" if unknown >= 1 else ""
        return f"{who}, and nobody for longer{nobody}: the CPUs are busy with many, or limited: {_LIMITS_OF_CPUS}"
    if first.pid == pid:
        return f"{who}, a thread of the same process: give it less to do at once, or the process more CPUs."
    return f"{who}: give that one a lower priority (renice), or keep the two on different CPUs (taskset)."


def slow_to_run(process: ProcessReport) -> Iterator[Finding]:
    """Seldom, but for long, a thread waited for a CPU."""
    if process.trace is None:
        return
    slow = [
        (latency.p99, tid, name, scheduling)
        for tid, name, scheduling in scheduled_threads(process)
        if (latency := scheduling.run_queue_latency_ns).p99 is not None
        and latency.p99 >= _P99_NS
        and latency.count >= _P99_LEAST_COUNT
        and not waits_longer_than_it_runs(scheduling, process.trace.duration_ns)
    ]
    if not slow:
        return
    slow.sort(key=lambda one: -one[0])
    p99, tid, name, worst = slow[0]
    yield Finding(
        kind="run_queue_latency",
        severity="medium",
        words=f"One of 100 times thread {name} {tid} waited {format_time(p99)} or longer for a CPU"
        + others_too(len(slow) - 1, "thread is", "threads are", "as slow to run"),
        value=float(p99),
        threshold=float(_P99_NS),
        unit="ns",
        rule=f"the 99th percentile is {format_time(_P99_NS)} or more, of at least {_P99_LEAST_COUNT} waits",
        advice=_blame(process.pid, worst),
        tids=tuple(one[1] for one in slow),
    )


def zombie(process: ProcessReport) -> Iterator[Finding]:
    """It has ended, and its parent has not asked how."""
    zombies = [thread for thread in process.threads or () if thread.state == "Z"]
    if not zombies:
        return
    whole = len(zombies) == len(process.threads or ())
    yield Finding(
        kind="zombie",
        severity="medium" if whole else "low",
        words="The process has ended, and its parent has not asked how"
        if whole
        else f"Thread {zombies[0].name} {zombies[0].tid} has ended, and the process goes on without it"
        + others_too(len(zombies) - 1, "thread is", "threads are", "zombies too"),
        value=float(len(zombies)),
        threshold=1.0,
        unit="count",
        rule="one thread or more in state Z",
        advice="Its parent has to call wait(2): find it with ps -o ppid= and mend or restart it."
        if whole
        else "Where the first thread ended by pthread_exit that may be meant; otherwise find out what ended it.",
        tids=tuple(thread.tid for thread in zombies),
    )
