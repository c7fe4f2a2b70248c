"""Sockets that are in nobody's use, refused, or not accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from threadinfo.findings.waits import waiting_threads, words_of_wait
from threadinfo.findings.words import MOST_NAMED, name_threads, others_too, percent, plural
from threadinfo.model import Descriptor, Finding, Origin, ProcessReport
from threadinfo.socket_story import is_failure

_BACKLOG_PERCENT = 100.0

_BLOCKED_PERCENT = 50.0

_ACCEPTING_CALLS = frozenset({"accept", "accept4", "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"}) | {
    "select",
    "pselect6",
    "io_uring_enter",
}
_IDLE_STATES = {None, "CLOSED", "UNCONNECTED"}
_ADDRESSED_FAMILIES = {"AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK"}

_REFUSED_COUNT = 10


def failed_connects(process: ProcessReport) -> Iterator[Finding]:
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
        words=f"{count} connects to {remote or 'nobody'} failed with {error}, by {name_threads(threads)}"
        + others_too(len(failed) - count, "connect", "connects", "failed"),
        value=float(count),
        threshold=float(_REFUSED_COUNT),
        unit="count",
        rule=f"{_REFUSED_COUNT} or more to one address with one error",
        advice="See whether anybody listens there (ss -ltnp, ss -lxp), and whether the address is meant; who made each "
        "socket is in the section on sockets.",
        tids=tuple(tid for tid, _ in threads),
    )


def full_backlog(process: ProcessReport) -> Iterator[Finding]:
    """As many connections wait to be accepted as may wait."""
    full = []
    for descriptor in process.descriptors or ():
        waiting, limit = (descriptor.details.get(key) for key in ("backlog_count", "backlog_limit_count"))
        if isinstance(waiting, int) and isinstance(limit, int) and waiting > 0 and waiting >= limit:
            full.append((percent(waiting, max(limit, 1)), descriptor, waiting, limit))
    if not full or any(sleeping_pool(process)):  # which says why
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
        + others_too(len(full) - 1, "listener is", "listeners are", "full too"),
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


def sleeping_pool(process: ProcessReport) -> Iterator[Finding]:
    """Connections wait, and so do the threads, but not for connections."""
    full = [
        (descriptor, waiting, limit)
        for descriptor in process.descriptors or ()
        if isinstance(waiting := descriptor.details.get("backlog_count"), int)
        and isinstance(limit := descriptor.details.get("backlog_limit_count"), int)
        and waiting > 0
        and waiting >= limit
    ]
    threads = waiting_threads(process)
    if not full or not threads or process.trace is None:
        return
    duration = process.trace.duration_ns
    longest = [(max(waits, key=lambda wait: wait.sum_ns), tid, name) for tid, name, _, waits in threads]
    if any(wait.syscall in _ACCEPTING_CALLS for wait, _, _ in longest):
        return
    blocked = sorted(
        ((percent(wait.sum_ns, duration), tid, name, wait) for wait, tid, name in longest), key=lambda one: -one[0]
    )
    if blocked[-1][0] < _BLOCKED_PERCENT:
        return
    descriptor, waiting, limit = full[0]
    events = process.trace.sockets.events if process.trace.sockets else ()
    acceptors = {one.tid for one in events if one.event == "accept" and one.source_fd == descriptor.fd}
    least = blocked[-1][0]
    blocked.sort(key=lambda one: one[1] not in acceptors)
    told = [
        f"{name} {tid}{', which accepts,' if tid in acceptors else ''} was in {words_of_wait(wait)} for {share:.0f} %"
        for share, tid, name, wait in blocked[:MOST_NAMED]
    ]
    held = next((wait.held_by[0] for _, _, _, wait in blocked if wait.held_by), None)
    yield Finding(
        kind="threads_sleep_at_full_backlog",
        severity="high",
        words=f"{waiting} connections wait at FD {descriptor.fd}, {descriptor.description} (its backlog is {limit}), "
        f"while thread {', and '.join(told)} of the trace"
        + others_too(len(blocked) - len(told), "thread was", "threads were", "blocked as well"),
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


def unbound(process: ProcessReport) -> Iterator[Finding]:
    """Sockets that are bound to nothing and connected to nobody."""
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
        words=f"{count} {plural(count, 'socket')} {'is' if count == 1 else 'are'} neither bound nor connected: "
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
    return f"; {all_of_them} made by {name_threads([(tid, name)])}{where}{rest}{older}"
