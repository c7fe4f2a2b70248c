"""What stands out in a report: a few findings, ranked, each with its number, its threshold and what to do next.

Pure: made from the report alone, so that a saved one is judged as a new one is. There is at most one finding of a kind;
it tells of the worst and counts those that are like it. The thresholds are the constants below, and every finding
states its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from threadinfo.containment import contained
from threadinfo.model import (
    Descriptor,
    DescriptorTrace,
    Finding,
    Gap,
    LeakSuspect,
    Origin,
    ProcessReport,
    Report,
    Scheduling,
    Thread,
    Wait,
    WokenBy,
)
from threadinfo.socket_story import is_failure

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
_DESCRIPTORS_PERCENT = 80.0
_DESCRIPTORS_HIGH_PERCENT = 95.0
_SUSPECT_COUNT = 3  # the trace has judged already that they become steadily more (trace/stacks/leaks.py)
_GROWTH_COUNT = 10
_GROWTH_INTERVALS = 4
_GROWTH_HIGH_SECONDS = 3600
_BACKLOG_PERCENT = 100.0
_SWAP_BYTES = 1 << 20
_SWAP_MEDIUM_PERCENT = 10.0
_UNINTERRUPTIBLE_PERCENT = 10.0
_LOCK_PERCENT = 10.0  # of the trace, by one thread or by several together
_LOCK_HIGH_PERCENT = 50.0
_DISK_PERCENT = 10.0
_DISK_HIGH_PERCENT = 50.0
_BLOCKED_PERCENT = 50.0
_LEAST_WAIT_NS = 10_000_000
_OTHERS_PERCENT = 20.0  # of the trace: waiting for a peer, or for other processes of the program
_OTHERS_HIGH_PERCENT = 50.0
_OTHERS_COUNT = 10  # waits: fewer may be one that has nothing to do
_SYNC_CALLS = frozenset({"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "msync"})
_LOCKING_CALLS = frozenset({"fcntl", "flock", "semop", "semtimedop"})
_ACCEPTING_CALLS = frozenset({"accept", "accept4", "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"}) | {
    "select",
    "pselect6",
    "io_uring_enter",
}
_IDLE_STATES = {None, "CLOSED", "UNCONNECTED"}
_ADDRESSED_FAMILIES = {"AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK"}
_SEVERITIES = ("high", "medium", "low")
_NAMED = 2
_REFUSED_COUNT = 10


def with_findings(report: Report) -> Report:
    """The report with the findings of each process, whatever findings it came with."""
    return msgspec.structs.replace(report, processes=tuple(map(_with_findings, report.processes)))


def _with_findings(process: ProcessReport) -> ProcessReport:
    gaps: list[Gap] = []
    with contained("what stands out", gaps):
        return msgspec.structs.replace(process, findings=find(process))
    return msgspec.structs.replace(process, findings=(), gaps=(*process.gaps, *gaps))


def find(process: ProcessReport) -> tuple[Finding, ...]:
    """What stands out in one process, the most urgent first; of equal urgency, in the order of the list below."""
    finders: tuple[Callable[[ProcessReport], Iterator[Finding]], ...] = (
        _failed_for_the_limit,
        _leak,
        _near_the_limit,
        _full_backlog,
        _failed_connects,
        _sleeping_pool,
        _contended_lock,
        _waits_for_disk,
        _waits_for_peer,
        _waits_for_siblings,
        _waits_for_cpu,
        _slow_to_run,
        _uninterruptible,
        _zombie,
        _swap,
        _unbound,
        _lost,
        _disagreement,
        _scheduling_disagreement,
    )
    found = [finding for finder in finders for finding in finder(process)]
    return tuple(sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity)))


def _scheduled(process: ProcessReport) -> list[tuple[int, str, Scheduling]]:
    """Every traced thread, those that ended included, but none whose figures the kernel contradicts."""
    alive = [(thread.tid, thread.name, thread.scheduling) for thread in process.threads or () if thread.scheduling]
    ended = process.trace.ended_threads if process.trace else ()
    doubtful = {one.tid for one in process.trace.confidence.scheduling_differences} if process.trace else set()
    if None in doubtful:  # all together are impossible: nobody knows whose are wrong
        return []
    every = alive + [(thread.tid, thread.name, thread.scheduling) for thread in ended]
    return [one for one in every if one[0] not in doubtful]


def _waits_longer_than_it_runs(scheduling: Scheduling, duration_ns: int) -> bool:
    least = max(_WAITING_LEAST_NS, duration_ns * _WAITING_SHARE_PERCENT / 100)
    return scheduling.run_queue_ns > scheduling.on_cpu_ns and scheduling.run_queue_ns >= least


def _waits_for_cpu(process: ProcessReport) -> Iterator[Finding]:
    if process.trace is None:
        return
    duration = process.trace.duration_ns
    waiting = [one for one in _scheduled(process) if _waits_longer_than_it_runs(one[2], duration)]
    if not waiting:
        return
    waiting.sort(key=lambda one: -one[2].run_queue_ns)
    tid, name, worst = waiting[0]
    share = _percent(worst.run_queue_ns, duration)
    yield Finding(
        kind="thread_waits_for_cpu",
        severity="high" if share >= _WAITING_HIGH_PERCENT and worst.run_queue_ns >= _WAITING_HIGH_NS else "medium",
        words=f"Thread {name} {tid} waited {_time(worst.run_queue_ns)} for a CPU and ran {_time(worst.on_cpu_ns)}"
        + _others(len(waiting) - 1, "thread waited longer than it", "threads waited longer than they", "ran"),
        value=_percent(worst.run_queue_ns, worst.run_queue_ns + worst.on_cpu_ns),
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
    share = _percent(first.time_ns, total)
    number = "" if first.tid is None else f" {first.tid}"
    about = f" ({first.command})" if first.command else ""
    who = f"{first.name}{number}{about} held the CPU for {share:.0f} % of the wait"
    if share < _HOLDER_PERCENT:  # without that one it would have waited nearly as long
        unknown = _percent(scheduling.delayed_by_unknown_ns, total)
        nobody = f", for {unknown:.0f} % nobody is known" if unknown >= 1 else ""
        return f"{who}, and nobody for longer{nobody}: the CPUs are busy with many, or limited: {_LIMITS_OF_CPUS}"
    if first.pid == pid:
        return f"{who}, a thread of the same process: give it less to do at once, or the process more CPUs."
    return f"{who}: give that one a lower priority (renice), or keep the two on different CPUs (taskset)."


def _slow_to_run(process: ProcessReport) -> Iterator[Finding]:
    if process.trace is None:
        return
    slow = [
        (latency.p99, tid, name, scheduling)
        for tid, name, scheduling in _scheduled(process)
        if (latency := scheduling.run_queue_latency_ns).p99 is not None
        and latency.p99 >= _P99_NS
        and latency.count >= _P99_LEAST_COUNT
        and not _waits_longer_than_it_runs(scheduling, process.trace.duration_ns)
    ]
    if not slow:
        return
    slow.sort(key=lambda one: -one[0])
    p99, tid, name, worst = slow[0]
    yield Finding(
        kind="run_queue_latency",
        severity="medium",
        words=f"One of 100 times thread {name} {tid} waited {_time(p99)} or longer for a CPU"
        + _others(len(slow) - 1, "thread is", "threads are", "as slow to run"),
        value=float(p99),
        threshold=float(_P99_NS),
        unit="ns",
        rule=f"the 99th percentile is {_time(_P99_NS)} or more, of at least {_P99_LEAST_COUNT} waits",
        advice=_blame(process.pid, worst),
        tids=tuple(one[1] for one in slow),
    )


def _soft_limit(process: ProcessReport) -> int | None:
    return process.limits.open_files.soft if process.limits else None


def _raise_limit(process: ProcessReport) -> str:
    """The command, with a number that the hard limit allows."""
    limit = process.limits.open_files if process.limits else None
    if limit is not None and limit.hard is not None and limit.soft is not None and limit.hard <= limit.soft:
        return f"as root, prlimit --pid {process.pid} --nofile={limit.soft * 4} (for good: LimitNOFILE= of its unit)"
    wanted = (limit.soft if limit and limit.soft else 1024) * 4
    if limit is not None and limit.hard is not None:
        wanted = min(wanted, limit.hard)
    return f"prlimit --pid {process.pid} --nofile={wanted}: (for good: LimitNOFILE= of its unit)"


def _open_count(process: ProcessReport) -> int | None:
    return None if process.descriptors is None else len(process.descriptors)


def _near_the_limit(process: ProcessReport) -> Iterator[Finding]:
    limit, now = _soft_limit(process), _open_count(process)
    if not limit or now is None:
        return
    churn = process.trace.descriptors if process.trace else None
    most = max(now, churn.peak_open_count if churn else 0)
    if (share := _percent(most, limit)) <= _DESCRIPTORS_PERCENT:
        return
    peak = f" ({most} at the most)" if most > now else ""
    yield Finding(
        kind="descriptors_near_limit",
        severity="high" if share > _DESCRIPTORS_HIGH_PERCENT else "medium",
        words=f"{now} descriptors are open{peak}, and the limit is {limit}",
        value=share,
        threshold=_DESCRIPTORS_PERCENT,
        unit="percent",
        rule=f"more than {_DESCRIPTORS_PERCENT:.0f} % of the soft limit on open files",
        advice=f"Find out whether the number grows (--trace 60), or raise the limit: {_raise_limit(process)}",
    )


def _leak(process: ProcessReport) -> Iterator[Finding]:
    """What the trace suspects; where it knew no call sites, a number of open descriptors that only grew."""
    churn = process.trace.descriptors if process.trace else None
    if churn is None:
        return
    growing = [one for one in churn.leak_suspects if one.surviving_count >= _SUSPECT_COUNT]
    if growing:
        yield _suspected_leak(process, churn, growing)
    elif churn.stacks is None:
        yield from _net_growth(process, churn)


def _suspected_leak(process: ProcessReport, churn: DescriptorTrace, suspects: Sequence[LeakSuspect]) -> Finding:
    """Of the suspects that are surest, the fastest."""
    surest = sorted(suspects, key=lambda one: _SEVERITIES.index(one.confidence))
    worst = surest[0]
    left = worst.seconds_to_limit if churn.seconds_to_limit is None else churn.seconds_to_limit
    peer = _common_peer(process, worst.fds)
    connected = "" if peer is None else f" (connected to {peer})"
    words = f"{_what_leaks(worst)}{connected}, {_rate(worst.growth_per_minute)} more each minute"
    words += _others(len(suspects) - 1, "call site grows", "call sites grow", "too")
    if left is not None:
        words += f". At this rate the limit is reached in {_long_time(left)}"
    severity: Literal["high", "medium", "low"] = "medium"
    if worst.confidence == "low":
        severity = "low"
    elif left is not None and left < _GROWTH_HIGH_SECONDS:
        severity = "high"
    return Finding(
        kind="descriptor_leak",
        severity=severity,
        words=f"{words}. Confidence: {worst.confidence}, watched for {_long_time(worst.watched_ns / 1e9)}. "
        f"Opened at {worst.stack[0] if worst.stack else worst.library or 'an unknown call site'}",
        value=float(worst.surviving_count),
        threshold=float(_SUSPECT_COUNT),
        unit="count",
        rule=f"{_SUSPECT_COUNT} or more that one call site opened stay open, and become steadily more to the end",
        advice="Find the path after that call on which it is not closed. "
        + ("Trace longer to be sure. " if worst.confidence != "high" else "")
        + f"Meanwhile the limit can be raised: {_raise_limit(process)}",
        tids=tuple(thread.tid for thread in worst.threads),
        fds=tuple(dict.fromkeys(fd for one in surest for fd in one.fds)),
    )


def _common_peer(process: ProcessReport, fds: Sequence[int]) -> str | None:
    """The address that most of these sockets are connected to; where it is a port of ours, they were accepted there."""
    listening = _listening_ports(process)
    peers = Counter(
        sock.remote
        for one in process.descriptors or ()
        if one.fd in set(fds) and (sock := one.socket) is not None and sock.remote and sock.port not in listening
    )
    (peer, count), *_ = peers.most_common(1) or [("", 0)]
    return peer if 2 * count > len(fds) else None


def _listening_ports(process: ProcessReport) -> set[int | None]:
    return {
        one.socket.port for one in process.descriptors or () if one.socket is not None and one.socket.state == "LISTEN"
    }


def _what_leaks(suspect: LeakSuspect) -> str:
    """``/etc/passwd, opened by thread reloader 12: 61 of 67 files are still open``."""
    kinds = _plural(suspect.opened_count, (suspect.kind or "descriptor").replace("_", " "))
    words = f"{suspect.surviving_count} of {suspect.opened_count} {kinds} are still open"
    opened = f"opened by {_name_threads([(one.tid, one.name) for one in suspect.threads])}" if suspect.threads else ""
    about = ", ".join(word for word in (suspect.path, opened) if word)
    return f"{about[:1].upper() if suspect.path is None else about[:1]}{about[1:]}: {words}" if about else words


def _name_threads(threads: Sequence[tuple[int, str]]) -> str:
    """``thread reloader 12``, ``threads reloader 12, worker 13 and 5 others``."""
    named = [f"{name or '(ended)'} {tid}" for tid, name in threads]
    others = f" and {len(named) - _NAMED} others" if len(named) > _NAMED else ""
    return f"{_plural(len(named), 'thread')} {', '.join(named[:_NAMED])}{others}"


def _net_growth(process: ProcessReport, churn: DescriptorTrace) -> Iterator[Finding]:
    """Growth in both halves of the trace, whoever made it."""
    if process.trace is None or process.trace.ended_by == "target":
        return
    growth = [born - died for born, died in _per_interval(churn)]
    half = len(growth) // 2
    total, slower = sum(growth), min(sum(growth[:half]), sum(growth[half:]))
    if len(growth) < _GROWTH_INTERVALS or total < _GROWTH_COUNT or 4 * slower < total:
        return
    seconds = process.trace.duration_ns / 1e9
    limit, now = _soft_limit(process), _open_count(process)
    words = f"The number of open descriptors grew by {total} in {seconds:.0f} s"
    left = None
    if limit is not None and now is not None:
        left = max(0.0, (limit - now) * seconds / total)
        words += f"; at this rate the limit of {limit} is reached in {_long_time(left)}" if left else ", to the limit"
    yield Finding(
        kind="descriptor_growth",
        severity="high" if left is not None and left < _GROWTH_HIGH_SECONDS else "medium",
        words=words,
        value=float(total),
        threshold=float(_GROWTH_COUNT),
        unit="count",
        rule=f"{_GROWTH_COUNT} or more, and a quarter of that or more in either half of the trace",
        advice="Call sites are not known here: look at what was born during the trace and stayed, and trace "
        "longer to be sure.",
        fds=tuple(descriptor.fd for descriptor in process.descriptors or () if descriptor.origin),
    )


def _per_interval(churn: DescriptorTrace) -> Sequence[tuple[int, int]]:
    length = max(len(churn.opened_per_interval), len(churn.closed_per_interval))
    opened, closed = (
        (*counts, *[0] * (length - len(counts))) for counts in (churn.opened_per_interval, churn.closed_per_interval)
    )
    return list(zip(opened, closed, strict=True))


def _failed_for_the_limit(process: ProcessReport) -> Iterator[Finding]:
    churn = process.trace.descriptors if process.trace else None
    counts: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for failure in churn.failures if churn else ():
        if failure.error in {"EMFILE", "ENFILE"}:
            counts[failure.error] += failure.count
            calls[failure.syscall] += failure.count
    if not counts:
        return
    total = sum(counts.values())
    limit = _soft_limit(process)
    whole_machine = "EMFILE" not in counts
    yield Finding(
        kind="open_files_limit_reached",
        severity="high",
        words=f"{total} {_plural(total, 'call')} failed for want of a free descriptor ({', '.join(counts)}), "
        f"most of them {calls.most_common(1)[0][0]}"
        + (f"; the limit is {limit}" if limit and not whole_machine else ""),
        value=float(total),
        threshold=1.0,
        unit="count",
        rule="one call or more",
        advice="The whole machine is out of files: see /proc/sys/fs/file-nr and raise fs.file-max."
        if whole_machine
        else f"Find what is not closed, and raise the limit meanwhile: {_raise_limit(process)}",
        tids=tuple(dict.fromkeys(one.tid for one in churn.limit_failures)) if churn else (),
    )


def _failed_connects(process: ProcessReport) -> Iterator[Finding]:
    """By peer and error: the most frequent."""
    sockets = process.trace.sockets if process.trace else None
    failed = [event for event in (sockets.events if sockets else ()) if event.event == "connect" and is_failure(event)]
    most = Counter((event.remote, event.error) for event in failed).most_common()
    if not most or most[0][1] < _REFUSED_COUNT:
        return
    (remote, error), count = most[0]
    alike = [event for event in failed if (event.remote, event.error) == (remote, error)]
    threads = [key for key, _ in Counter((event.tid, event.thread_name) for event in alike).most_common()]
    yield Finding(
        kind="connects_failed",
        severity="medium",
        words=f"{count} connects to {remote or 'nobody'} failed with {error}, by {_name_threads(threads)}"
        + _others(len(failed) - count, "connect", "connects", "failed"),
        value=float(count),
        threshold=float(_REFUSED_COUNT),
        unit="count",
        rule=f"{_REFUSED_COUNT} or more to one address with one error",
        advice="See whether anybody listens there (ss -ltnp, ss -lxp), and whether the address is meant; who made each "
        "socket is in the section on sockets.",
        tids=tuple(tid for tid, _ in threads),
    )


def _full_backlog(process: ProcessReport) -> Iterator[Finding]:
    full = []
    for descriptor in process.descriptors or ():
        waiting, limit = (descriptor.details.get(key) for key in ("backlog_count", "backlog_limit_count"))
        if isinstance(waiting, int) and isinstance(limit, int) and waiting > 0 and waiting >= limit:
            full.append((_percent(waiting, max(limit, 1)), descriptor, waiting, limit))
    if not full or any(_sleeping_pool(process)):  # which says why
        return
    full.sort(key=lambda one: -one[0])
    share, worst, waiting, limit = full[0]
    served = worst.served_by[0] if worst.served_by else None
    loop = next((one.fd for one in process.descriptors or () if worst.fd in _watched_fds(one)), None)
    larger = "or give listen() a larger backlog (and net.core.somaxconn)."
    yield Finding(
        kind="listener_backlog_full",
        severity="high",
        words=f"{waiting} connections wait to be accepted at FD {worst.fd}, {worst.description}; its backlog is {limit}"
        + _others(len(full) - 1, "listener is", "listeners are", "full too"),
        value=share,
        threshold=_BACKLOG_PERCENT,
        unit="percent",
        rule="as many connections wait as listen() allowed, or more: further ones are dropped or refused",
        advice=f"See why {served.thread_name} {served.tid}, which serves it, accepts so slowly, {larger}"
        if served
        else f"An event loop watches it by epoll, FD {loop}: see what keeps the thread that runs it, {larger}"
        if loop is not None
        else f"Nobody waited for it when /proc was read: find the thread that should accept, {larger}",
        fds=tuple(one[1].fd for one in full),
    )


def _watched_fds(descriptor: Descriptor) -> set[object]:
    """What an epoll instance watches."""
    watched = descriptor.details.get("watched")
    return {one.get("fd") for one in watched if isinstance(one, dict)} if isinstance(watched, list) else set()


def _waiting(process: ProcessReport) -> list[tuple[int, str, Scheduling, tuple[Wait, ...]]]:
    """Every thread whose waits were traced, but none whose figures the kernel contradicts."""
    ended = process.trace.ended_threads if process.trace else ()
    waits = {thread.tid: thread.waits for thread in (*ended, *(process.threads or ()))}  # type: ignore[attr-defined]
    return [(tid, name, scheduling, waits[tid]) for tid, name, scheduling in _scheduled(process) if waits.get(tid)]


def _words_of(wait: Wait) -> str:
    """What a thread waited in."""
    call = wait.syscall or {"page_fault": "a page fault", "stopped": "a stop"}.get(wait.cause, "an unknown call")
    target = wait.object
    if target.kind == "descriptor":
        return f"{call} on FD {target.fd}{f' {target.description}' if target.description else ''}"
    return f"lock {target.address:#x}" if target.kind == "lock" and target.address is not None else call


def _sleeping_pool(process: ProcessReport) -> Iterator[Finding]:
    """Connections wait, and so do the threads, but not for connections."""
    full = [
        (descriptor, waiting, limit)
        for descriptor in process.descriptors or ()
        if isinstance(waiting := descriptor.details.get("backlog_count"), int)
        and isinstance(limit := descriptor.details.get("backlog_limit_count"), int)
        and waiting > 0
        and waiting >= limit
    ]
    threads = _waiting(process)
    if not full or not threads or process.trace is None:
        return
    duration = process.trace.duration_ns
    longest = [(max(waits, key=lambda wait: wait.sum_ns), tid, name) for tid, name, _, waits in threads]
    if any(wait.syscall in _ACCEPTING_CALLS for wait, _, _ in longest):
        return
    blocked = sorted(
        ((_percent(wait.sum_ns, duration), tid, name, wait) for wait, tid, name in longest), key=lambda one: -one[0]
    )
    if blocked[-1][0] < _BLOCKED_PERCENT:
        return
    descriptor, waiting, limit = full[0]
    events = process.trace.sockets.events if process.trace.sockets else ()
    acceptors = {one.tid for one in events if one.event == "accept" and one.source_fd == descriptor.fd}
    least = blocked[-1][0]
    blocked.sort(key=lambda one: one[1] not in acceptors)
    told = [
        f"{name} {tid}{', which accepts,' if tid in acceptors else ''} was in {_words_of(wait)} for {share:.0f} %"
        for share, tid, name, wait in blocked[:_NAMED]
    ]
    held = next((wait.held_by[0] for _, _, _, wait in blocked if wait.held_by), None)
    yield Finding(
        kind="threads_sleep_at_full_backlog",
        severity="high",
        words=f"{waiting} connections wait at FD {descriptor.fd}, {descriptor.description} (its backlog is {limit}), "
        f"while thread {', and '.join(told)} of the trace"
        + _others(len(blocked) - len(told), "thread was", "threads were", "blocked as well"),
        value=least,
        threshold=_BLOCKED_PERCENT,
        unit="percent",
        rule=f"a backlog is full, and every thread was blocked for {_BLOCKED_PERCENT:.0f} % of the trace or more in "
        "one thing that is not waiting for connections",
        advice=(
            f"Nobody accepts: {held.name} {held.tid} has the lock that they wait for; see what that one does."
            if held
            else "Nobody accepts: find why the thread that should is in that call, or let another one accept."
        ),
        tids=tuple(one[1] for one in blocked),
        fds=tuple(one[0].fd for one in full),
    )


def _contended_lock(process: ProcessReport) -> Iterator[Finding]:
    locks = [
        lock
        for lock in (process.trace.locks if process.trace else ())
        if lock.percent >= _LOCK_PERCENT and lock.wait_ns >= _LEAST_WAIT_NS
    ]
    if not locks:
        return
    worst = max(locks, key=lambda lock: lock.wait_ns)
    first, holder = worst.waiters[0], worst.held_by[0] if worst.held_by else None
    who = ""
    if holder is not None:
        number = "" if holder.tid is None else f" {holder.tid}"
        who = f"; {holder.name}{number} had it for {_percent(holder.time_ns, worst.wait_ns):.0f} % of that"
    others = len(worst.waiters) - 1
    and_others = f" and {others} other{'s' * (others > 1)}" if others else ""
    yield Finding(
        kind="contended_lock",
        severity="high" if worst.percent >= _LOCK_HIGH_PERCENT else "medium",
        words=f"Thread {first.name} {first.tid}{and_others} waited "
        f"{_time(worst.wait_ns)} for the lock at {worst.address:#x}, {worst.count} times{who}"
        + _others(len(locks) - 1, "lock is", "locks are", "contended too"),
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


def _waits_for_disk(process: ProcessReport) -> Iterator[Finding]:
    duration = process.trace.duration_ns if process.trace else 0
    slow = [
        (ns, tid, name, waits)
        for tid, name, _, waits in _waiting(process)
        if (ns := _disk_ns(waits)) >= _LEAST_WAIT_NS and _percent(ns, duration) >= _DISK_PERCENT
    ]
    if not slow:
        return
    slow.sort(key=lambda one: -one[0])
    ns, tid, name, waits = slow[0]
    worst = max(waits, key=lambda wait: _disk_ns([wait]))
    share = _percent(ns, duration)
    p99 = "" if worst.p99_ns is None else f", of which one of 100 takes {_time(worst.p99_ns)} or longer"
    yield Finding(
        kind="thread_waits_for_disk",
        severity="high" if share >= _DISK_HIGH_PERCENT else "medium",
        words=f"Thread {name} {tid} waited {_time(ns)} ({share:.0f} % of the trace) for a disk, most in "
        f"{_words_of(worst)} ({worst.count} times{p99})"
        + _others(len(slow) - 1, "thread waited", "threads waited", "for a disk too"),
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
    listening = _listening_ports(process)
    for one in process.descriptors or ():
        sock = one.socket
        if sock is not None and sock.remote and sock.port is not None and sock.port not in listening:
            port = sock.remote.rpartition(":")[2]
            if port.isdigit() and int(port) < sock.port:  # a client's port is one of the high, whatever it asks
                connected[one.fd, one.inode] = sock.remote
    for tid, name, _, waits in _waiting(process):
        found: dict[str, list[Wait]] = {}
        for wait in waits:
            remote = connected.get((wait.object.fd, wait.object.inode))
            if remote is not None and not wait.is_idle and wait.object.kind == "descriptor":
                found.setdefault(remote, []).append(wait)
        yield from (_Peer(remote, tid, name, tuple(of_it)) for remote, of_it in found.items())


def _waits_for_peer(process: ProcessReport) -> Iterator[Finding]:
    duration = process.trace.duration_ns if process.trace else 0
    slow = [
        one
        for one in _peers(process)
        if one.wait_count >= _OTHERS_COUNT
        and one.ns >= _LEAST_WAIT_NS
        and _percent(one.ns, duration) >= _OTHERS_PERCENT
    ]
    if not slow:
        return
    worst = max(slow, key=lambda one: one.ns)
    longest = max(worst.waits, key=lambda wait: wait.sum_ns)
    share = _percent(worst.ns, duration)
    answering = _most_of(one for wait in worst.waits for one in wait.released_by if one.pid is not None)
    who = ""
    if answering is not None:
        sender = answering.name.removeprefix("the network, by ")
        who = f": here that is {sender} of process {answering.pid} (threadinfo {answering.pid} --trace 10)"
    yield Finding(
        kind="thread_waits_for_peer",
        severity="high" if share >= _OTHERS_HIGH_PERCENT else "medium",
        words=f"Thread {worst.name} {worst.tid} waited {_time(worst.ns)} ({share:.0f} % of the trace) for its peer "
        f"{worst.remote}, {worst.wait_count} times, on average {_time(worst.ns / worst.wait_count)}, most in "
        f"{longest.syscall or 'an unknown call'} on FD {longest.object.fd}"
        + _others(len(slow) - 1, "wait of a thread for a peer is", "waits of threads for a peer are", "as long"),
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


def _waits_for_siblings(process: ProcessReport) -> Iterator[Finding]:
    """A thread that has work, and waits meanwhile for what other processes of its program hold."""
    duration = process.trace.duration_ns if process.trace else 0
    found = []
    for tid, name, _, waits in _waiting(process):
        has_work = any(_brings_work(process, wait) for wait in waits)
        ended = [wait for wait in waits if has_work or wait.syscall in _LOCKING_CALLS or wait.object.kind == "lock"]
        siblings = [one for wait in ended for one in wait.released_by if _is_sibling(process, wait, one)]
        ns = sum(one.time_ns for one in siblings)
        enough = sum(one.count for one in siblings) >= _OTHERS_COUNT and ns >= _LEAST_WAIT_NS
        if enough and _percent(ns, duration) >= _OTHERS_PERCENT:
            found.append((ns, tid, name, siblings))
    if not found:
        return
    ns, tid, name, siblings = max(found, key=lambda one: one[0])
    share = _percent(ns, duration)
    by_process: Counter[int | None] = Counter()
    for one in siblings:
        by_process[one.pid] += one.time_ns
    (first_pid, own), *others = by_process.most_common()
    rest = f", {len(others)} {_plural(len(others), 'other')} the rest" if others else ""
    yield Finding(
        kind="thread_waits_for_siblings",
        severity="high" if share >= _OTHERS_HIGH_PERCENT else "medium",
        words=f"Thread {name} {tid} waited {_time(ns)} ({share:.0f} % of the trace) for other processes of its "
        f"program, {sum(one.count for one in siblings)} times: {process.name} {first_pid} ended "
        f"{_percent(own, ns):.0f} % of that{rest}"
        + _others(len(found) - 1, "thread waited", "threads waited", "so too"),
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


def _unbound(process: ProcessReport) -> Iterator[Finding]:
    unbound = [
        descriptor
        for descriptor in process.descriptors or ()
        if (sock := descriptor.socket) is not None
        and sock.bound is False
        and sock.family in _ADDRESSED_FAMILIES
        and (sock.type != "SOCK_RAW" or sock.family == "AF_NETLINK")  # a raw one receives without an address
        and sock.state in _IDLE_STATES
        and sock.remote is None
        and not descriptor.details.get("had_connection")
        and not (sock.inference is not None and sock.inference.confidence == "likely")  # its library leaves it so
    ]
    if not unbound:
        return
    count = len(unbound)
    listed = ", ".join(str(descriptor.fd) for descriptor in unbound[:5]) + (", ..." if count > 5 else "")
    origins = [descriptor.origin for descriptor in unbound if descriptor.origin is not None]
    made = _makers(origins, count)
    yield Finding(
        kind="socket_bound_to_nothing",
        severity="low",
        words=f"{count} {_plural(count, 'socket')} {'is' if count == 1 else 'are'} neither bound nor connected: "
        f"FD {listed}{made}",
        value=float(count),
        threshold=1.0,
        unit="count",
        rule="one or more; a socket that was made a moment ago looks the same",
        advice="Find what that code was to do with them after socket()."
        if made
        else "Report again: one that is still there was forgotten after socket(), or its bind or connect failed. "
        "A trace over the program's start (threadinfo trace --kind socket) shows which.",
        tids=tuple(dict.fromkeys(origin.tid for origin in origins)),
        fds=tuple(descriptor.fd for descriptor in unbound),
    )


def _makers(origins: Sequence[Origin], count: int) -> str:
    """``; 61 made by thread maker 12 through libfoo.so.1, 2 by others``; "" where none was seen to be made."""
    if not origins:
        return ""
    makers = Counter((one.tid, one.thread_name, one.library) for one in origins)
    ((tid, name, library), made), *_ = makers.most_common(1)
    all_of_them = "all" if made == count else str(made)
    where = f" through {library}" if library else ""
    rest = f", {len(origins) - made} by others" if len(origins) > made else ""
    older = f", {count - len(origins)} before the trace" if count > len(origins) else ""
    return f"; {all_of_them} made by {_name_threads([(tid, name)])}{where}{rest}{older}"


def _swap(process: ProcessReport) -> Iterator[Finding]:
    memory = process.memory
    swapped = max(memory.swap_bytes or 0, memory.mapped_swap_bytes or 0)
    if swapped < _SWAP_BYTES:
        return
    share = _percent(swapped, swapped + (memory.resident_bytes or 0))
    yield Finding(
        kind="swap_in_use",
        severity="medium" if share >= _SWAP_MEDIUM_PERCENT else "low",
        words=f"{swapped / (1 << 20):.1f} MiB of its memory are in swap, {share:.0f} % of what it uses",
        value=float(swapped),
        threshold=float(_SWAP_BYTES),
        unit="bytes",
        rule="1 MiB or more",
        advice="See whether the machine still swaps (vmstat 1, columns si and so) and who needs the memory; a thread "
        "that touches such a page sleeps until it is read back.",
    )


def _uninterruptible(process: ProcessReport) -> Iterator[Finding]:
    """By a trace where there is one; otherwise by the one moment that /proc shows."""
    duration = process.trace.duration_ns if process.trace else 0
    traced = [
        (_percent(scheduling.uninterruptible_ns, duration), tid, name)
        for tid, name, scheduling in _scheduled(process)
        if duration and _percent(scheduling.uninterruptible_ns, duration) >= _UNINTERRUPTIBLE_PERCENT
    ]
    told = {tid for finding in _waits_for_disk(process) for tid in finding.tids}  # what for is known there
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
            + _others(len(traced) - 1, "thread was", "threads were", "too"),
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
            + _others(len(now) - 1, "thread was", "threads were", "too"),
            value=float(len(now)),
            threshold=1.0,
            unit="count",
            rule="one thread or more, at one moment; report again to see whether it lasts",
            advice=advice,
            tids=tuple(thread.tid for thread in now),
        )


def _zombie(process: ProcessReport) -> Iterator[Finding]:
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
        + _others(len(zombies) - 1, "thread is", "threads are", "zombies too"),
        value=float(len(zombies)),
        threshold=1.0,
        unit="count",
        rule="one thread or more in state Z",
        advice="Its parent has to call wait(2): find it with ps -o ppid= and mend or restart it."
        if whole
        else "Where the first thread ended by pthread_exit that may be meant; otherwise find out what ended it.",
        tids=tuple(thread.tid for thread in zombies),
    )


def _lost(process: ProcessReport) -> Iterator[Finding]:
    if process.trace is None:
        return
    confidence = process.trace.confidence
    lost = confidence.lost_count + confidence.map_full_count
    if not lost:
        return
    yield Finding(
        kind="events_lost",
        severity="medium",
        words=f"{confidence.lost_count} records were lost and {confidence.map_full_count} found no room in a map: "
        "counts of this trace are too low",
        value=float(lost),
        threshold=1.0,
        unit="count",
        rule="one or more",
        advice="Trace again with less at once: --only scheduling or --only descriptors, or fewer targets.",
    )


def _disagreement(process: ProcessReport) -> Iterator[Finding]:
    differences = process.trace.confidence.ledger_differences if process.trace else ()
    if not differences:
        return
    yield Finding(
        kind="ledger_disagrees",
        severity="low",
        words=f"On {len(differences)} {_plural(len(differences), 'descriptor')} the trace and /proc disagree, for "
        f"example FD {differences[0].fd}: {differences[0].reason}",
        value=float(len(differences)),
        threshold=1.0,
        unit="count",
        rule="one descriptor or more",
        advice="The confidence block lists them with the likely reason of each.",
        fds=tuple(difference.fd for difference in differences),
    )


def _scheduling_disagreement(process: ProcessReport) -> Iterator[Finding]:
    own = {None, *(thread.tid for thread in process.threads or ())}
    every = process.trace.confidence.scheduling_differences if process.trace else ()
    differences = [one for one in every if one.tid in own]  # of another process in the same trace
    if not differences:
        return
    tids = tuple(dict.fromkeys(one.tid for one in differences if one.tid is not None))
    words = f"The trace and the kernel's own accounts disagree on {len(tids)} {_plural(len(tids), 'thread')}"
    if any(one.tid is None for one in differences):
        words = "The trace counted more time on the CPUs than there was"
    yield Finding(
        kind="scheduling_disagrees",
        severity="low",
        words=f"{words}: nothing is concluded from such figures",
        value=float(len(differences)),
        threshold=1.0,
        unit="count",
        rule="one figure or more: a thread whose times are 2 % of the trace apart or whose switches are not as many, "
        "or more time of all threads together than the CPUs had",
        advice="The confidence block lists them. Trace again; if it comes again, please report it.",
        tids=tids,
    )


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _rate(per_minute: float) -> str:
    return f"{per_minute:,.0f}" if per_minute >= 10 else f"{per_minute:.2g}"


def _plural(count: int, word: str) -> str:
    if count == 1:
        return word
    return f"{word[:-1]}ies" if word.endswith("ory") else f"{word}s"  # directory, memory


def _others(count: int, one: str, many: str, rest: str) -> str:
    """``; 3 other threads waited longer than they ran``."""
    if not count:
        return ""
    return f"; {count} other {one if count == 1 else many} {rest}"


def _time(ns: float) -> str:
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.0f} ns"


def _long_time(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
