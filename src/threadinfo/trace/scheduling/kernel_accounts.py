"""Whether what was counted of the threads agrees with the kernel's own accounts of them, read twice while it counts.

Each thread is read at a moment of its own, since reading 2,000 of them takes longer than what would be a difference.
Our record of it is copied just before and just after, so that both accounts are of the same time, and what moved
meanwhile is known.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from threadinfo.model import KernelAccount, SchedulingDifference

ReadAccount = Callable[[int, int], KernelAccount | None]
"""Gives the kernel's account of a thread, by PID and thread id; None once it has ended."""

# Mirrors of bpf/scheduling.bpf.c.
UNKNOWN, RUNNING, AFTER_WAKEUP, AFTER_PREEMPTION, SLEEPING, UNINTERRUPTIBLE, ENDED = range(7)
_QUEUED = (AFTER_WAKEUP, AFTER_PREEMPTION)
_RECORD = struct.Struct("=4I13Q")

What = Literal["on_cpu_ns", "run_queue_ns", "voluntary_switch_count", "involuntary_switch_count"]

SHARE = 0.02
"""Of the window: two accounts that are further apart than this disagree."""
_SWITCH_NS = 5_000  # the kernel draws the line between running and waiting that much earlier or later
_TICK_NS = 10_000_000  # a turn that goes on is added to the kernel's account once a tick; at the slowest, 100 a second
_EXCESS = 1.01
_COPIES = 100


class Record(NamedTuple):
    """What the programs keep of a thread, but for the histograms: the head of struct thread."""

    tid: int
    tgid: int
    state: int
    first_state: int
    first_ns: int
    since_ns: int
    settled_ns: int
    born_ns: int
    ended_ns: int
    on_cpu_ns: int
    queued_ns: int
    sleeping_ns: int
    uninterruptible_ns: int
    voluntary_count: int
    involuntary_count: int
    migration_count: int
    uncharged_ns: int


def copy_record(memory: memoryview, at: int) -> Record:
    """A record as it was at one moment: read until it did not move meanwhile."""
    end = at + _RECORD.size
    copy = bytes(memory[at:end])
    for _ in range(_COPIES):
        if copy == (copy := bytes(memory[at:end])):
            break
    return Record._make(_RECORD.unpack(copy))


class Reading(NamedTuple):
    """The two accounts of a thread at one moment."""

    from_ns: int
    until_ns: int
    before: Record
    """Ours, at `from_ns`."""
    account: KernelAccount
    """The kernel's, between the two."""
    after: Record
    """Ours, at `until_ns`."""


class Thread(NamedTuple):
    """A thread whose accounts are to be compared."""

    first: Reading | None
    """None: it was forked since, with nothing on its account."""
    last: Reading
    state_before: int
    """What it was doing from the window's start to its first event."""


class Comparison(NamedTuple):
    """What came of it; the first difference can be of all threads together, which is there without any compared one."""

    compared_count: int
    not_compared_count: int
    """Threads that ended, or that had an account when we met them."""
    differences: tuple[SchedulingDifference, ...]


def compare(
    threads: Iterable[Thread],
    not_compared_count: int,
    *,
    started_ns: int,
    stopped_ns: int,
    on_cpu_ns: int,
    cpus: int,
    taken_ns: int,
    has_times: bool,
    is_queue_exact: bool,
) -> Comparison:
    """All threads of a trace. `on_cpu_ns` is ours of all threads together, those that ended included.

    `taken_ns`: what interrupts and the hypervisor took of one CPU at the most; it is on the CPU for us, and need not be
    for the kernel. Without `has_times` the kernel counts switches alone.
    Without `is_queue_exact` its time queued can be too much: since Linux 6.12 a sleeper that is moved to another CPU
    before it has left the queue ("delayed dequeue") is charged with its sleep.
    """
    window_ns = stopped_ns - started_ns
    compared = 0
    differences: list[SchedulingDifference] = []
    for thread in threads:
        compared += 1
        tid = thread.last.after.tid
        found = _counts(thread)
        if has_times:
            found |= _times(thread, started_ns, SHARE * window_ns, taken_ns, is_queue_exact=is_queue_exact)
        differences += [SchedulingDifference(tid, what, *both) for what, both in found.items()]
    if on_cpu_ns > _EXCESS * cpus * window_ns:
        differences.insert(0, SchedulingDifference(None, "on_cpu_ns", on_cpu_ns, cpus * window_ns))
    return Comparison(compared, not_compared_count, tuple(differences))


def _since(thread: Thread, of_kernel: Callable[[KernelAccount], int]) -> int:
    return of_kernel(thread.last.account) - (of_kernel(thread.first.account) if thread.first else 0)


def _range(thread: Thread, ours: Callable[[Record, int], int]) -> tuple[int, int]:
    """What we counted between the two readings, at the least and at the most."""
    first, last = thread.first, thread.last
    low, high = ours(last.before, last.from_ns), ours(last.after, last.until_ns)
    if first is not None:
        low, high = low - ours(first.after, first.until_ns), high - ours(first.before, first.from_ns)
    return low, max(low, high)


def _counts(thread: Thread) -> dict[What, tuple[int, int]]:
    """Switches: exactly, but for those that took place while the thread was read."""
    ends = [reading for reading in (thread.first, thread.last) if reading]
    # The kernel counts a moment before it tells us.
    moving = sum(reading.before != reading.after or reading.after.state in {RUNNING, *_QUEUED} for reading in ends)
    low, high = _range(thread, lambda record, _at: record.voluntary_count + record.involuntary_count)
    kernel = _since(thread, lambda account: account.voluntary_count + account.involuntary_count)
    agrees = low - moving <= kernel <= high + moving
    found: dict[What, tuple[int, int]] = {}
    kinds: dict[What, tuple[Callable[[Record, int], int], Callable[[KernelAccount], int]]] = {
        "voluntary_switch_count": (lambda r, _at: r.voluntary_count, lambda a: a.voluntary_count),
        "involuntary_switch_count": (lambda r, _at: r.involuntary_count, lambda a: a.involuntary_count),
    }
    for what, (of_ours, of_kernel) in kinds.items():
        low, high = _range(thread, of_ours)
        own_kernel = _since(thread, of_kernel)
        # One that was about to sleep when a signal came is voluntary for the kernel and involuntary at the tracepoint.
        slack = moving + (SHARE * kernel + 2 if agrees else 0)
        if not low - slack <= own_kernel <= high + slack:
            found[what] = (_nearest(own_kernel, low, high), own_kernel)
    return found


def _times(
    thread: Thread, started_ns: int, slack_ns: float, taken_ns: int, *, is_queue_exact: bool
) -> dict[What, tuple[int, int]]:
    found: dict[What, tuple[int, int]] = {}
    switches = _since(thread, lambda account: account.voluntary_count + account.involuntary_count)
    slack_ns += _SWITCH_NS * switches

    def charged(record: Record, at_ns: int, states: tuple[int, ...]) -> int:
        """Of the time before the first event."""
        if record.born_ns >= started_ns or thread.state_before not in states:
            return 0
        return max(0, (record.first_ns or at_ns) - started_ns)

    def going_on(record: Record, at_ns: int) -> int:
        """Of a turn on a CPU."""
        state = record.state if record.first_ns else thread.state_before
        return max(0, at_ns - max(record.since_ns, started_ns)) if state == RUNNING else 0

    def on_cpu(record: Record, at_ns: int) -> int:
        before = charged(record, at_ns, (RUNNING,))
        return record.on_cpu_ns + before + (going_on(record, at_ns) if record.first_ns else 0)

    def queued(record: Record, at_ns: int) -> int:
        """Waits that are over: the kernel counts them then."""
        return record.queued_ns + (charged(record, at_ns, _QUEUED) if record.first_ns else 0)

    ends = [reading for reading in (thread.first, thread.last) if reading]
    stale_ns = sum(min(_TICK_NS, going_on(reading.after, reading.until_ns)) for reading in ends)
    kernel = _since(thread, lambda account: account.on_cpu_ns)
    low, high = _range(thread, on_cpu)
    if not low - slack_ns - stale_ns - taken_ns <= kernel <= high + slack_ns + stale_ns:
        found["on_cpu_ns"] = (_nearest(kernel, low, high), kernel)
    kernel = _since(thread, lambda account: account.run_queue_ns)
    low, high = _range(thread, queued)
    was_queued = thread.first is not None and thread.first.account.state == "R"  # since before the window
    too_little = is_queue_exact and not was_queued and kernel > high + slack_ns
    if kernel < low - slack_ns or too_little:
        found["run_queue_ns"] = (_nearest(kernel, low, high), kernel)
    return found


def _nearest(kernel: int, low: int, high: int) -> int:
    return low if kernel < low else high
