"""What threads wait for within their work: locks, the disk, a peer, other processes of their program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from threadinfo.findings.descriptors import listening_ports
from threadinfo.findings.threads import scheduled_threads
from threadinfo.findings.words import format_time, others_too, percent, plural
from threadinfo.model import Finding, Lock, ProcessReport, Scheduling, Thread, Wait, WokenBy

_UNINTERRUPTIBLE_PERCENT = 10.0
_LOCK_PERCENT = 10.0  # of the trace, by one thread or by several together
_LOCK_HIGH_PERCENT = 50.0
_DISK_PERCENT = 10.0
_DISK_HIGH_PERCENT = 50.0

LEAST_WAIT_NS = 10_000_000
_OTHERS_PERCENT = 20.0  # of the trace: waiting for a peer, or for other processes of the program
_OTHERS_HIGH_PERCENT = 50.0
_OTHERS_COUNT = 10  # waits: fewer may be one that has nothing to do
_SYNC_CALLS = frozenset({"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "msync"})
_EVENLY_FROM, _EVENLY_PERCENT = 3, 200.0  # holders; the largest share, times how many there are
_ASLEEP_PERCENT = 50.0  # of the trace, in one wait
_LOCKING_CALLS = frozenset({"fcntl", "flock", "semop", "semtimedop"})


def waiting_threads(process: ProcessReport) -> list[tuple[int, str, Scheduling, tuple[Wait, ...]]]:
    """Every thread whose waits were traced, but none whose figures the kernel contradicts."""
    ended = process.trace.ended_threads if process.trace else ()
    waits = {thread.tid: thread.waits for thread in (*ended, *(process.threads or ()))}  # type: ignore[attr-defined]
    every = scheduled_threads(process)
    return [(tid, name, scheduling, waits[tid]) for tid, name, scheduling in every if waits.get(tid)]


def words_of_wait(wait: Wait) -> str:
    """What a thread waited in."""
    call = wait.syscall or {"page_fault": "a page fault", "stopped": "a stop"}.get(wait.cause, "an unknown call")
    target = wait.object
    if target.kind == "descriptor":
        return f"{call} on FD {target.fd}{f' {target.description}' if target.description else ''}"
    return f"lock {target.address:#x}" if target.kind == "lock" and target.address is not None else call


def _had_it(process: ProcessReport, lock: Lock) -> str:
    """Who had a lock, and in what it waited itself meanwhile; no name where many had it alike."""
    if not lock.held_by:
        return ""
    holder = lock.held_by[0]
    share = percent(holder.time_ns, lock.wait_ns)
    if len(lock.held_by) >= _EVENLY_FROM and share * len(lock.held_by) < _EVENLY_PERCENT:
        return f"; {len(lock.held_by)} threads had it, none for more than {share:.0f} % of that"
    number = "" if holder.tid is None else f" {holder.tid}"
    waits = next((waits for tid, _, _, waits in waiting_threads(process) if tid == holder.tid), ())
    longest = max(waits, key=lambda wait: wait.sum_ns, default=None)
    duration = process.trace.duration_ns if process.trace else 0
    asleep = ""
    if longest is not None and percent(longest.sum_ns, duration) >= _ASLEEP_PERCENT:
        asleep = f", and was in {words_of_wait(longest)} for {percent(longest.sum_ns, duration):.0f} % of the trace"
    return f"; {holder.name}{number} had it for {share:.0f} % of that{asleep}"


def _from(stack: Sequence[str]) -> str:
    """Where in the program, if that is known."""
    return f", at {stack[0]}" if stack else ""


def contended_lock(process: ProcessReport) -> Iterator[Finding]:
    """Threads waited long for a lock."""
    locks = [
        lock
        for lock in (process.trace.locks if process.trace else ())
        if lock.percent >= _LOCK_PERCENT and lock.wait_ns >= LEAST_WAIT_NS
    ]
    if not locks:
        return
    worst = max(locks, key=lambda lock: lock.wait_ns)
    first = worst.waiters[0]
    who = _had_it(process, worst)
    others = len(worst.waiters) - 1
    and_others = f" and {others} other{'s' * (others > 1)}" if others else ""
    yield Finding(
        kind="contended_lock",
        severity="high" if worst.percent >= _LOCK_HIGH_PERCENT else "medium",
        words=f"Thread {first.name} {first.tid}{and_others} waited "
        f"{format_time(worst.wait_ns)} for the lock at {worst.address:#x}, {worst.count} times{_from(worst.stack)}{who}"
        + others_too(len(locks) - 1, "lock is", "locks are", "contended too"),
        value=round(worst.percent, 2),
        threshold=_LOCK_PERCENT,
        unit="percent",
        rule=f"all threads' waits for a lock are together {_LOCK_PERCENT:.0f} % of the trace or more",
        advice="See what its holder does while it has the lock (its line in Where the Time Went), and do that before "
        "or after; or split what the lock guards.",
        tids=tuple(use.tid for use in worst.waiters),
    )


def _disk_ns(waits: Sequence[Wait]) -> int:
    """Syncing, and what of files' calls and of page faults no signal could end."""
    return sum(
        wait.sum_ns if wait.syscall in _SYNC_CALLS else wait.uninterruptible_ns
        for wait in waits
        if wait.syscall in _SYNC_CALLS or wait.object.kind == "descriptor" or wait.cause == "page_fault"
    )


def waits_for_disk(process: ProcessReport) -> Iterator[Finding]:
    """A thread waited long for the disk."""
    duration = process.trace.duration_ns if process.trace else 0
    slow = [
        (ns, tid, name, waits)
        for tid, name, _, waits in waiting_threads(process)
        if (ns := _disk_ns(waits)) >= LEAST_WAIT_NS and percent(ns, duration) >= _DISK_PERCENT
    ]
    if not slow:
        return
    slow.sort(key=lambda one: -one[0])
    ns, tid, name, waits = slow[0]
    worst = max(waits, key=lambda wait: _disk_ns([wait]))
    share = percent(ns, duration)
    p99 = "" if worst.p99_ns is None else f", of which one of 100 takes {format_time(worst.p99_ns)} or longer"
    yield Finding(
        kind="thread_waits_for_disk",
        severity="high" if share >= _DISK_HIGH_PERCENT else "medium",
        words=f"Thread {name} {tid} waited {format_time(ns)} ({share:.0f} % of the trace) for a disk, most in "
        f"{words_of_wait(worst)} ({worst.count} times{p99}){_from(worst.stack)}"
        + others_too(len(slow) - 1, "thread waited", "threads waited", "for a disk too"),
        value=share,
        threshold=_DISK_PERCENT,
        unit="percent",
        rule=f"syncing, and uninterruptible waits for files and pages, are {_DISK_PERCENT:.0f} % of the trace or more",
        advice="See with iostat -x 1 whether the disk is busy, and with whom. Otherwise sync less often, or several "
        "writes at once, or from a thread that nobody waits for.",
        tids=tuple(one[1] for one in slow),
        fds=(worst.object.fd,) if worst.object.fd is not None else (),
    )


class _Peer(NamedTuple):
    """What a thread waited for at one address, in connections that the process made itself."""

    remote: str
    tid: int
    name: str
    waits: tuple[Wait, ...]

    @property
    def ns(self) -> int:
        return sum(wait.sum_ns for wait in self.waits)

    @property
    def wait_count(self) -> int:
        return sum(wait.count for wait in self.waits)


def _peers(process: ProcessReport) -> Iterator[_Peer]:
    """By thread and address. A connection that was accepted is none: waiting for its client is waiting for work."""
    events = process.trace.sockets.events if process.trace and process.trace.sockets else ()
    connected = {(one.fd, one.inode): one.remote for one in events if one.event == "connect" and one.remote}
    listening = listening_ports(process)
    for one in process.descriptors or ():
        sock = one.socket
        if sock is not None and sock.remote and sock.port is not None and sock.port not in listening:
            port = sock.remote.rpartition(":")[2]
            if port.isdigit() and int(port) < sock.port:  # a client's port is one of the high, whatever it asks
                connected[one.fd, one.inode] = sock.remote
    for tid, name, _, waits in waiting_threads(process):
        found: dict[str, list[Wait]] = {}
        for wait in waits:
            remote = connected.get((wait.object.fd, wait.object.inode))
            if remote is not None and not wait.is_idle and wait.object.kind == "descriptor":
                found.setdefault(remote, []).append(wait)
        yield from (_Peer(remote, tid, name, tuple(of_it)) for remote, of_it in found.items())


def waits_for_peer(process: ProcessReport) -> Iterator[Finding]:
    """A thread waited long for one peer."""
    duration = process.trace.duration_ns if process.trace else 0
    slow = [
        one
        for one in _peers(process)
        if one.wait_count >= _OTHERS_COUNT and one.ns >= LEAST_WAIT_NS and percent(one.ns, duration) >= _OTHERS_PERCENT
    ]
    if not slow:
        return
    worst = max(slow, key=lambda one: one.ns)
    longest = max(worst.waits, key=lambda wait: wait.sum_ns)
    share = percent(worst.ns, duration)
    answering = _most_of(one for wait in worst.waits for one in wait.released_by if one.pid is not None)
    who = ""
    if answering is not None:
        sender = answering.name.removeprefix("the network, by ")
        who = f": here that is {sender} of process {answering.pid} (threadinfo {answering.pid} --trace 10)"
    yield Finding(
        kind="thread_waits_for_peer",
        severity="high" if share >= _OTHERS_HIGH_PERCENT else "medium",
        words=f"Thread {worst.name} {worst.tid} waited {format_time(worst.ns)} ({share:.0f} % of the trace) for its "
        f"peer {worst.remote}, {worst.wait_count} times, on average {format_time(worst.ns / worst.wait_count)}, "
        f"most in {longest.syscall or 'an unknown call'} on FD {longest.object.fd}{_from(longest.stack)}"
        + others_too(len(slow) - 1, "wait of a thread for a peer is", "waits of threads for a peer are", "as long"),
        value=share,
        threshold=_OTHERS_PERCENT,
        unit="percent",
        rule=f"{_OTHERS_PERCENT:.0f} % of the trace or more, in {_OTHERS_COUNT} waits or more, on connections that the "
        "process made itself",
        advice=f"See why that peer answers so slowly{who}; or ask it less often, or several things at once.",
        tids=tuple(dict.fromkeys(one.tid for one in slow)),
        fds=tuple(dict.fromkeys(wait.object.fd for wait in worst.waits if wait.object.fd is not None)),
    )


def _most_of(wakers: Iterable[WokenBy]) -> WokenBy | None:
    """Whose wake-ups ended the most time."""
    totals: dict[tuple[int | None, int | None], WokenBy] = {}
    for one in wakers:
        known = totals.get((one.pid, one.tid))
        time_ns = one.time_ns + (known.time_ns if known else 0)
        totals[one.pid, one.tid] = msgspec.structs.replace(one, time_ns=time_ns)
    return max(totals.values(), key=lambda one: one.time_ns, default=None)


def waits_for_siblings(process: ProcessReport) -> Iterator[Finding]:
    """A thread that has work, and waits meanwhile for what other processes of its program hold."""
    duration = process.trace.duration_ns if process.trace else 0
    found = []
    for tid, name, _, waits in waiting_threads(process):
        has_work = any(_brings_work(process, wait) for wait in waits)
        ended = [wait for wait in waits if has_work or wait.syscall in _LOCKING_CALLS or wait.object.kind == "lock"]
        siblings = [one for wait in ended for one in wait.released_by if _is_sibling(process, wait, one)]
        ns = sum(one.time_ns for one in siblings)
        enough = sum(one.count for one in siblings) >= _OTHERS_COUNT and ns >= LEAST_WAIT_NS
        if enough and percent(ns, duration) >= _OTHERS_PERCENT:
            found.append((ns, tid, name, siblings))
    if not found:
        return
    ns, tid, name, siblings = max(found, key=lambda one: one[0])
    share = percent(ns, duration)
    by_process: Counter[int | None] = Counter()
    for one in siblings:
        by_process[one.pid] += one.time_ns
    (first_pid, own), *others = by_process.most_common()
    rest = f", {len(others)} {plural(len(others), 'other')} the rest" if others else ""
    yield Finding(
        kind="thread_waits_for_siblings",
        severity="high" if share >= _OTHERS_HIGH_PERCENT else "medium",
        words=f"Thread {name} {tid} waited {format_time(ns)} ({share:.0f} % of the trace) for other processes of its "
        f"program, {sum(one.count for one in siblings)} times: {process.name} {first_pid} ended "
        f"{percent(own, ns):.0f} % of that{rest}"
        + others_too(len(found) - 1, "thread waited", "threads waited", "so too"),
        value=share,
        threshold=_OTHERS_PERCENT,
        unit="percent",
        rule=f"{_OTHERS_PERCENT:.0f} % of the trace or more, in {_OTHERS_COUNT} waits or more that processes of the "
        "same name ended, not the parent: for a lock, or of a thread that others gave work",
        advice="They hold what it needs (a lock, a row, a place in a queue): see what that process does meanwhile "
        f"(threadinfo {first_pid} --trace 10); in PostgreSQL pg_blocking_pids({process.pid}) names who blocks it now.",
        tids=tuple(one[1] for one in found),
    )


def _is_sibling(process: ProcessReport, wait: Wait, waker: WokenBy) -> bool:
    """Whether another process of the same name ended a wait; a child's end, and what its parent hands out, are none."""
    return (
        wait.object.kind != "child"
        and waker.pid not in {None, process.pid, process.parent_pid}
        and waker.name == process.name
    )


def _brings_work(process: ProcessReport, wait: Wait) -> bool:
    """Whether in this the thread waited for requests, which came."""
    others = sum(one.count for one in wait.released_by if not _is_sibling(process, wait, one))
    mine = sum(one.count for one in wait.released_by) - others
    return wait.object.kind == "descriptor" and wait.uninterruptible_ns == 0 and others >= max(_OTHERS_COUNT, 10 * mine)


def uninterruptible(process: ProcessReport) -> Iterator[Finding]:
    """By a trace where there is one; otherwise by the one moment that /proc shows."""
    duration = process.trace.duration_ns if process.trace else 0
    traced = [
        (percent(scheduling.uninterruptible_ns, duration), tid, name)
        for tid, name, scheduling in scheduled_threads(process)
        if duration and percent(scheduling.uninterruptible_ns, duration) >= _UNINTERRUPTIBLE_PERCENT
    ]
    told = {tid for finding in waits_for_disk(process) for tid in finding.tids}  # what for is known there
    traced = [one for one in traced if one[1] not in told]
    now: list[Thread] = [thread for thread in process.threads or () if thread.state == "D"]
    advice = (
        "It waits for a disk, a network file system or the kernel: see /proc/PID/task/TID/stack as root, and "
        "iostat -x 1."
    )
    if traced:
        traced.sort(key=lambda one: -one[0])
        share, tid, name = traced[0]
        yield Finding(
            kind="thread_uninterruptible",
            severity="medium",
            words=f"Thread {name} {tid} was in uninterruptible sleep for {share:.0f} % of the trace"
            + others_too(len(traced) - 1, "thread was", "threads were", "too"),
            value=share,
            threshold=_UNINTERRUPTIBLE_PERCENT,
            unit="percent",
            rule=f"{_UNINTERRUPTIBLE_PERCENT:.0f} % of the trace or more",
            advice=advice,
            tids=tuple(one[1] for one in traced),
        )
    elif now:
        yield Finding(
            kind="thread_uninterruptible",
            severity="low",
            words=f"Thread {now[0].name} {now[0].tid} was in uninterruptible sleep when it was read"
            + others_too(len(now) - 1, "thread was", "threads were", "too"),
            value=float(len(now)),
            threshold=1.0,
            unit="count",
            rule="one thread or more, at one moment; report again to see whether it lasts",
            advice=advice,
            tids=tuple(thread.tid for thread in now),
        )
