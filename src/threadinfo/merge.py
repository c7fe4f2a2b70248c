"""Joins what tracing saw to what /proc says. Pure functions; /proc has the last word on names and on who is alive.

A thread's name is /proc's, which is newer than the one that the trace took when the thread began. A thread that /proc
no longer lists has ended, whether or not the trace saw its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import msgspec

from threadinfo.descriptor_kinds import KindName
from threadinfo.model import (
    CpuTime,
    Descriptor,
    DescriptorEvent,
    DescriptorTrace,
    EndedThread,
    EndedThreads,
    Gap,
    LeakSuspect,
    Lock,
    LockHolder,
    LockUse,
    Origin,
    ProcessReport,
    Scheduling,
    Socket,
    SocketTrace,
    StackCounts,
    Wait,
    WokenBy,
)
from threadinfo.socket_identity import Sockets
from threadinfo.socket_story import settle

_PATH_KINDS: set[KindName] = {"file", "directory", "symlink", "device", "terminal", "fifo", "memfd", "mqueue"}
_SOURCES_OF_WORK = frozenset({"timerfd", "signalfd", "inotify", "fanotify", "terminal"})


class TracedThread(msgspec.Struct, frozen=True):
    """What the merge needs of a traced thread."""

    tid: int
    name: str
    has_ended: bool
    scheduling: Scheduling
    waits: tuple[Wait, ...] | None = None
    waits_other_ns: int | None = None


def merge_scheduling(
    report: ProcessReport, traced: Sequence[TracedThread], ended_by_name: tuple[EndedThreads, ...]
) -> ProcessReport:
    """The report of a trace with each thread's scheduling; `ended_by_name`: threads that are not among `traced`."""
    if report.trace is None:
        return report
    # Exec gives the number of the first thread to the one that calls it: the one that lives is the one that is listed.
    by_tid = {thread.tid: thread for thread in sorted(traced, key=lambda thread: not thread.has_ended)}
    threads = report.threads
    listed = {thread.tid for thread in threads or ()}
    if threads is not None:
        threads = tuple(
            msgspec.structs.replace(
                thread,
                scheduling=by_tid[thread.tid].scheduling,
                waits=by_tid[thread.tid].waits,
                waits_other_ns=by_tid[thread.tid].waits_other_ns,
            )
            if thread.tid in by_tid
            else thread
            for thread in threads
        )
    ended = tuple(
        EndedThread(thread.tid, thread.name, thread.scheduling, thread.waits, thread.waits_other_ns)
        for thread in traced
        if thread.tid not in listed or by_tid[thread.tid] is not thread
    )
    gaps = list(report.gaps)
    untraced = [thread.tid for thread in threads or () if thread.scheduling is None and thread.state not in "ZX"]
    if untraced:
        example = f"{len(untraced)} threads have none, for example {untraced[0]}"
        why = "born after the trace, given another number by exec, or no room for them"
        gaps.append(Gap("scheduling", f"{example}: {why}", None))
    trace = msgspec.structs.replace(report.trace, ended_threads=ended, ended_threads_by_name=ended_by_name)
    return msgspec.structs.replace(report, threads=threads, trace=trace, gaps=tuple(gaps))


def merge_cpu(report: ProcessReport, cpu: Mapping[int, CpuTime]) -> ProcessReport:
    """The report with where each thread's time on CPUs went, by thread id."""
    trace, threads = report.trace, report.threads
    if trace is None or not cpu:
        return report
    if threads is not None:
        threads = tuple(msgspec.structs.replace(thread, cpu=cpu.get(thread.tid)) for thread in threads)
    alive = {thread.tid for thread in threads or ()}
    ended = tuple(
        thread if thread.tid in alive else msgspec.structs.replace(thread, cpu=cpu.get(thread.tid))
        for thread in trace.ended_threads
    )
    return msgspec.structs.replace(report, threads=threads, trace=msgspec.structs.replace(trace, ended_threads=ended))


def merge_waits(report: ProcessReport, earlier: Sequence[Descriptor]) -> ProcessReport:
    """The report with the descriptors that threads waited for in words, and with its locks.

    `earlier`: what was open before the trace, which may be closed by now.
    """
    trace, threads = report.trace, report.threads
    if trace is None:
        return report
    every = [thread.waits for thread in threads or ()] + [thread.waits for thread in trace.ended_threads]
    if all(waits is None for waits in every):
        return report
    # A futex that is waited for with other values than a lock's is none: a barrier's round has that value once.
    unlike = {one.object.address for waits in every for one in waits or () if one.object.kind == "futex"}
    held = {one.object.address for waits in every for one in waits or () if one.held_by}
    files = {(one.fd, one.inode): one for one in (*earlier, *(report.descriptors or ()))}
    by_fd = {one.fd: one for one in report.descriptors or () if one.origin is None}

    def named(waits: tuple[Wait, ...] | None) -> tuple[Wait, ...] | None:
        if waits is None:
            return None
        return tuple(_with_description(_unless_lock(wait, unlike - held), files, by_fd) for wait in waits)

    if threads is not None:
        threads = tuple(msgspec.structs.replace(thread, waits=named(thread.waits)) for thread in threads)
    ended = tuple(msgspec.structs.replace(thread, waits=named(thread.waits)) for thread in trace.ended_threads)
    uses = [(thread.tid, thread.name, thread.waits or ()) for thread in threads or ()]
    uses += [(thread.tid, thread.name, thread.waits or ()) for thread in ended]
    trace = msgspec.structs.replace(trace, ended_threads=ended, locks=_locks(uses, trace.duration_ns))
    return msgspec.structs.replace(report, threads=threads, trace=trace)


def _unless_lock(wait: Wait, unlike: Set[int | None]) -> Wait:
    """The wait, as one for a futex where its address is no lock's."""
    if wait.object.kind != "lock" or wait.object.address not in unlike:
        return wait
    return msgspec.structs.replace(wait, is_idle=True, object=msgspec.structs.replace(wait.object, kind="futex"))


def _with_description(
    wait: Wait, files: Mapping[tuple[int, int | None], Descriptor], by_fd: Mapping[int, Descriptor]
) -> Wait:
    """With the descriptor in words; who reads a timer, a signal, a watcher or a terminal waits for work."""
    target = wait.object
    if target.fd is None or target.is_reused:
        return wait
    known = by_fd.get(target.fd) if target.inode is None else files.get((target.fd, target.inode))
    if known is None:
        return wait
    target = msgspec.structs.replace(target, description=known.description)
    return msgspec.structs.replace(wait, object=target, is_idle=wait.is_idle or known.type in _SOURCES_OF_WORK)


def _locks(threads: Sequence[tuple[int, str, tuple[Wait, ...]]], duration_ns: int) -> tuple[Lock, ...]:
    """All locks that threads (id, name, waits) waited for."""
    found: dict[int, list[tuple[int, str, Wait]]] = {}
    for tid, name, waits in threads:
        for wait in waits:
            if wait.object.kind == "lock" and wait.object.address is not None:
                found.setdefault(wait.object.address, []).append((tid, name, wait))
    locks = []
    for address, uses in found.items():
        wait_ns = sum(wait.sum_ns for _, _, wait in uses)
        holders: dict[tuple[int | None, str], LockHolder] = {}
        wakers: dict[tuple[int | None, str], WokenBy] = {}
        for _, _, wait in uses:
            for holder in wait.held_by:
                known = holders.get((holder.tid, holder.name), LockHolder(holder.pid, holder.tid, holder.name, 0, 0))
                count, time_ns = known.count + holder.count, known.time_ns + holder.time_ns
                holders[holder.tid, holder.name] = msgspec.structs.replace(known, count=count, time_ns=time_ns)
            for waker in wait.released_by:
                same = wakers.get((waker.tid, waker.name), WokenBy(waker.pid, waker.tid, waker.name, 0, 0))
                count, time_ns = same.count + waker.count, same.time_ns + waker.time_ns
                wakers[waker.tid, waker.name] = msgspec.structs.replace(same, count=count, time_ns=time_ns)
        uses_by_time = sorted(uses, key=lambda use: -use[2].sum_ns)
        locks.append(
            Lock(
                address=address,
                count=sum(wait.count for _, _, wait in uses),
                wait_ns=wait_ns,
                max_ns=max(wait.max_ns for _, _, wait in uses),
                percent=100 * wait_ns / duration_ns if duration_ns else 0.0,
                waiters=tuple(LockUse(tid, name, wait.count, wait.sum_ns) for tid, name, wait in uses_by_time),
                held_by=tuple(sorted(holders.values(), key=lambda one: -one.time_ns)),
                released_by=tuple(sorted(wakers.values(), key=lambda one: -one.time_ns)),
                stack=_longest_stack([wait for _, _, wait in uses]),
            )
        )
    return tuple(sorted(locks, key=lambda lock: -lock.wait_ns))


def _longest_stack(waits: Iterable[Wait]) -> tuple[str, ...]:
    """Where most of the time that waits took began; empty where that is not known."""
    sums: Counter[tuple[str, ...]] = Counter()
    for wait in waits:
        for one in wait.known_stacks:
            sums[one.stack] += one.sum_ns
    return max(sums, key=sums.__getitem__, default=())


def merge_descriptors(
    report: ProcessReport,
    trace: DescriptorTrace | None,
    sockets: SocketTrace | None,
    origins: Mapping[int, Origin],
    gaps: Sequence[Gap],
    *,
    knows_uses: bool = True,
) -> ProcessReport:
    """The report with what happened to its descriptors (None: not asked for), and the origin of each that was born.

    `knows_uses`: whether the origins of sockets tell all that was done with them.
    """
    if report.trace is None:
        return report
    names = {thread.tid: thread.name for thread in report.trace.ended_threads}
    names |= {thread.tid: thread.name for thread in report.threads or ()}
    descriptors = report.descriptors
    if descriptors is not None:
        descriptors = tuple(
            with_origin(descriptor, _name_threads(origins[descriptor.fd], names), knows_uses=knows_uses)
            if descriptor.fd in origins
            else descriptor
            for descriptor in descriptors
        )
    if trace is not None:
        limit = report.limits.open_files.soft if report.limits else None
        trace = _with_paths(_name_churn(trace, names), descriptors or ())
        trace = _with_time_left(trace, limit, None if descriptors is None else len(descriptors))
        gaps = [*gaps, *_stack_gaps(trace.stacks)]
    if sockets is not None:
        told = _with_kind(sockets.events, descriptors or ())
        events = tuple(_name_thread(event, names) for event in name_accepted(told, report.descriptors or ()))
        sockets = msgspec.structs.replace(sockets, events=events)
    return msgspec.structs.replace(
        report,
        descriptors=descriptors,
        trace=msgspec.structs.replace(report.trace, descriptors=trace, sockets=sockets),
        gaps=(*report.gaps, *gaps),
    )


def _name_churn(trace: DescriptorTrace, names: Mapping[int, str]) -> DescriptorTrace:
    return msgspec.structs.replace(
        trace,
        by_thread=tuple(
            msgspec.structs.replace(thread, name=names.get(thread.tid, thread.name)) for thread in trace.by_thread
        ),
        limit_failures=tuple(
            msgspec.structs.replace(failure, thread_name=names.get(failure.tid, failure.thread_name))
            for failure in trace.limit_failures
        ),
        leak_suspects=tuple(
            msgspec.structs.replace(
                suspect,
                threads=tuple(
                    msgspec.structs.replace(thread, name=names.get(thread.tid, thread.name))
                    for thread in suspect.threads
                ),
            )
            for suspect in trace.leak_suspects
        ),
    )


def _with_paths(trace: DescriptorTrace, descriptors: Iterable[Descriptor]) -> DescriptorTrace:
    """What most of the descriptors lead to that stay open, where that is a path."""
    targets = {one.fd: one.target for one in descriptors if one.type in _PATH_KINDS}

    def with_path(suspect: LeakSuspect) -> LeakSuspect:
        paths = Counter(targets[fd] for fd in suspect.fds if fd in targets)
        most = paths.most_common(1)
        is_most = bool(most) and 2 * most[0][1] > len(suspect.fds)
        return msgspec.structs.replace(suspect, path=most[0][0]) if is_most else suspect

    return msgspec.structs.replace(trace, leak_suspects=tuple(map(with_path, trace.leak_suspects)))


def name_accepted(events: Iterable[DescriptorEvent], descriptors: Iterable[Descriptor]) -> Iterator[DescriptorEvent]:
    """The events with the names of Unix sockets that were accepted: as /proc has them, or as the listener's bind says.

    Addresses of the Internet come with the event; what has a name of a listener's has it as long as it lives.
    """
    of_inode = {one.inode: one.socket for one in descriptors if one.socket is not None}
    of_number = {one.fd: one.socket for one in descriptors if one.socket is not None and one.socket.state == "LISTEN"}
    bound: Sockets[dict[str, str | None]] = Sockets(dict)
    for event in events:
        listener = None if event.source_fd is None else bound.of_number(event.source_fd)
        kept = bound.of_event(event)
        if event.event == "bind" and not event.error:
            kept["local"] = event.local
        if event.event == "accept" and not event.error and event.family == "AF_UNIX":
            known = of_inode.get(event.inode) or Socket()
            older = of_number.get(-1 if event.source_fd is None else event.source_fd) or Socket()
            local = known.local or (listener or {}).get("local") or older.local
            yield msgspec.structs.replace(event, local=local, remote=event.remote or known.remote)
        else:
            yield event


def _with_kind(events: Iterable[DescriptorEvent], descriptors: Iterable[Descriptor]) -> Iterator[DescriptorEvent]:
    """The events with what /proc says of a socket that is open, where its opening came without that."""
    known = {(one.fd, one.origin.opened_at): one for one in descriptors if one.socket is not None and one.origin}
    for event in events:
        found = known.get((event.fd or 0, event.time)) if event.inode is None and not event.error else None
        if found is None or found.socket is None or event.event == "close":
            yield event
            continue
        sock = found.socket
        yield msgspec.structs.replace(
            event,
            inode=found.inode,
            family=sock.family,
            socket_type=sock.type,
            protocol=sock.protocol,
            local=sock.local if event.event == "accept" else None,
            remote=sock.remote if event.event == "accept" else None,
        )


def _name_thread(event: DescriptorEvent, names: Mapping[int, str]) -> DescriptorEvent:
    return msgspec.structs.replace(event, thread_name=names.get(event.tid, event.thread_name))


def _name_threads(origin: Origin, names: Mapping[int, str]) -> Origin:
    return msgspec.structs.replace(origin, events=tuple(_name_thread(event, names) for event in origin.events))


def _with_time_left(trace: DescriptorTrace, limit: int | None, open_count: int | None) -> DescriptorTrace:
    """When the limit on open files is reached: by each suspect alone, and by all of them."""
    if limit is None or open_count is None or not trace.leak_suspects:
        return trace
    left = max(0, limit - open_count)
    suspects = tuple(
        msgspec.structs.replace(suspect, seconds_to_limit=60 * left / suspect.growth_per_minute)
        for suspect in trace.leak_suspects
    )
    total = sum(suspect.growth_per_minute for suspect in suspects)
    return msgspec.structs.replace(trace, leak_suspects=suspects, seconds_to_limit=60 * left / total)


def _stack_gaps(stacks: StackCounts | None) -> list[Gap]:
    if stacks is None or not stacks.problems:
        return []
    count = sum(stacks.problems.values())
    problem, most = next(iter(stacks.problems.items()))
    words = f"{count} of {stacks.unwound_count} stacks end early; {most}: {problem}"
    return [Gap("call sites", words, None)]


def with_origin(descriptor: Descriptor, origin: Origin, *, knows_uses: bool = True) -> Descriptor:
    """What a trace saw of the maker replaces what was inferred; what it saw done with a socket settles what that is."""
    sock = descriptor.socket
    if sock is not None:
        inference = None if origin.library is not None else sock.inference
        sock = msgspec.structs.replace(sock, inference=inference)
        sock = settle(sock, origin) if knows_uses else sock
    return msgspec.structs.replace(descriptor, origin=origin, socket=sock)
