"""The descriptors of some processes: what the kernel's ledger says of them, and whether /proc agrees."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np

from threadinfo.containment import contained, note_fault
from threadinfo.errors import NotAvailableError
from threadinfo.model import (
    Confidence,
    DescriptorEvent,
    DescriptorTrace,
    Failure,
    LedgerDifference,
    LimitFailure,
    PathChurn,
    SocketCalls,
    SocketTrace,
    ThreadChurn,
)
from threadinfo.socket_identity import UNDER_WAY
from threadinfo.trace.descriptors.calls import EXEC, EXIT, FORK, OTHER_CALLS, SYSTEM_CALLS, calls_of
from threadinfo.trace.descriptors.events import ChunkMaker, EventChunk, EventMaker, Moments
from threadinfo.trace.descriptors.growth import OpenAtSites, Rates
from threadinfo.trace.descriptors.ledger import (
    RECORDS_ALL,
    RECORDS_NONE,
    RECORDS_OF_SOCKETS,
    OpenDescriptor,
    TableState,
)
from threadinfo.trace.descriptors.recorder import (
    BUFFER_BYTES,
    FOLLOWED,
    LAST,
    SHARES,
    TABLE_GONE,
    WORDS_BUFFER_BYTES,
    Batch,
    DescriptorRecorder,
    Target,
    error_name,
    kernel_facts,
)
from threadinfo.trace.descriptors.socket_log import SocketLog
from threadinfo.trace.kernel.loader import ProgramStatistics
from threadinfo.trace.kernel.machine import clock_offset_ns
from threadinfo.trace.kernel.privileges import given_up_by_others
from threadinfo.trace.session.awaited import NAME_BYTES
from threadinfo.trace.session.following import Child
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.session.tracer import Tracer
from threadinfo.trace.stacks.call_sites import CallSites
from threadinfo.trace.stacks.shared_unwinder import SharedUnwinder
from threadinfo.trace.stacks.site_report import describe_sites
from threadinfo.trace.stacks.unwinder import Stack

_SETTLE_SECONDS = 0.006  # longer than the recorder holds records back
_LATE_NS = 1_000_000  # a call may have done its work so long before it is seen to return
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILES = 2
_LIBC = ctypes.CDLL(None)
_UNWIND_SECONDS, _FETCH_SECONDS = 3.0, 120.0  # at the end, for what is still waiting
_SHOWN_PATHS = 20
_ACCEPTS = frozenset(call.name for call in (*SYSTEM_CALLS, *OTHER_CALLS.values()) if call.event == "accept")
_SOCKET_RECORDS = 60_000
_SOCKET_RECORDS_OF_KIND = 16  # a tick
"""Of a report: what is done with sockets after so many is counted, and of each call, and of each that fails, some are
told for as long as it lasts."""
_EVENT_OF_CALL = {call.name: call.event for call in (*SYSTEM_CALLS, *OTHER_CALLS.values())}
_MAKES_SOCKETS = frozenset({"socket", "accept", "receive"})
_OF_SOCKETS = frozenset({"socket", "accept", "bind", "listen", "connect", "shutdown"})


class LedgerCheck(NamedTuple):
    """The ledger of a process's table against /proc, at the end."""

    differences: tuple[LedgerDifference, ...]
    undecided_count: int
    """Numbers that moved while /proc was read."""


class DescriptorActivity(NamedTuple):
    """What happened to the descriptors of one process."""

    trace: DescriptorTrace
    """Its threads are named where they have ended; the others' names are for /proc to say."""
    opened: Mapping[int, OpenDescriptor]
    """Of the numbers that are open at the end, those that were opened during the trace."""
    sockets: SocketTrace | None
    """None where it was not asked for."""
    socket_uses: Mapping[int, Sequence[DescriptorEvent]] | None
    """Of the sockets among `opened`: their stories; None where those are not known."""
    knows_uses: bool
    """Whether these are whole."""
    stacks: Mapping[int, Stack]
    """Of `opened`: where they were opened, as far as that is known; by descriptor."""
    stack_problem: NotAvailableError | None
    """Why no stacks are known, although they were asked for."""
    check: LedgerCheck | None
    """None where the process has ended, and while the trace goes on."""
    shares_table: bool
    """Whether it used its parent's table to its end: what it did with it is told of that one."""
    sees_io_uring: bool


class DescriptorTracer(Tracer):
    """Watches the descriptors of some processes."""

    name = "descriptors"
    settle_seconds = _SETTLE_SECONDS

    def __init__(
        self,
        target: TraceTarget,
        options: TraceOptions,
        *,
        buffer_bytes: Mapping[str, int] | None = None,
    ) -> None:
        """Attaches, and counts at once; raises NotAvailableError. Call sites are found where that is possible.

        Where events travel they are read by `read_events`; otherwise what is done with sockets is kept, if asked for.
        """
        super().__init__()
        pids, read_links = target.pids, target.links
        for_stream = options.sends_events
        is_logging = "sockets" in options.only and not for_stream
        self.calls = calls_of(platform.machine())
        self._target = target
        self._for_stream = for_stream
        self._logs: dict[int, SocketLog] = {}
        self._log_sockets_at = clock_offset_ns() if is_logging else None
        targets = [
            Target(pid, read_links(pid) or {}, _sharer_among(pid, pids[:index])) for index, pid in enumerate(pids)
        ]
        sharers = {
            other: pid for other in target.all_pids() if other not in pids for pid in pids if _is_same_table(pid, other)
        }
        records = RECORDS_ALL if for_stream else RECORDS_OF_SOCKETS if is_logging else RECORDS_NONE
        self._stack = contextlib.ExitStack()
        self.stack_problem: NotAvailableError | None = None
        """Why there are no call sites, although they were asked for."""
        self.sites: CallSites | None = None
        self._unwind_seconds = _FETCH_SECONDS if options.debuginfod else _UNWIND_SECONDS
        with contextlib.ExitStack() as stack:
            if options.with_stacks:
                own = SharedUnwinder(target.open_mapping, target.perf_map, options.debuginfod)
                unwinder = options.unwinder or stack.enter_context(own)
                try:
                    unwinder.start()
                except NotAvailableError as problem:
                    self.stack_problem = problem
                else:
                    self.sites = CallSites(unwinder, given_up_by_others(target.maps), pids)
                    stack.callback(self.sites.close)
            recorder = DescriptorRecorder(
                targets,
                target.numbers,
                sharers,
                buffer_bytes or (BUFFER_BYTES if for_stream else WORDS_BUFFER_BYTES),
                records=records,
                with_stacks=self.sites is not None,
                follow_limit=options.follow_limit,
            )
            self.recorder = stack.enter_context(recorder)
            if self.sites and recorder.stacks:
                self.sites.attach(recorder.stacks, recorder.allow_copies)
            self._stack = stack.pop_all()
        self.ledger = self.recorder.ledger
        self._niceness = _hurry() if for_stream else None
        self.started_ns = self.stopped_ns = int(self.ledger.control["started_ns"][0])
        self.names: dict[int, str] = {}
        """Names of threads that ended, and of those that were born."""
        self._children: dict[int, Child] = {}
        self._ended_ns: dict[int, int] = {}
        self._chunks = ChunkMaker(self.calls, self.ledger)
        self._left_open: dict[int, TableState] = {}  # by slot of a table whose last process has ended
        self._remembered: dict[int, TableState] = {}
        self._growth = OpenAtSites(self.started_ns)
        self._rates: dict[int, Rates] = {}
        self._checks: dict[int, LedgerCheck | None] = {}
        self.awaited, self.following = recorder.awaited, recorder.following
        if records == RECORDS_OF_SOCKETS:
            self.recorder.allow_records(_SOCKET_RECORDS)
        for one in targets:
            if for_stream and (slot := self.slot(one.pid)) is not None:
                table = self.ledger.table_of(slot)
                if table is not None and one.shares_with is None:
                    self._chunks.seed(table, one.links)

    @classmethod
    def attach(cls, target: TraceTarget, options: TraceOptions) -> DescriptorTracer:
        """Attaches, and counts at once."""
        return cls(target, options)

    @classmethod
    def check_kernel(cls) -> int:
        """How many tracepoints it attaches to; raises NotAvailableError where the kernel lacks what it needs."""
        return len(kernel_facts(platform.machine())[1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        finally:
            if self._niceness is not None:
                os.setpriority(os.PRIO_PROCESS, 0, self._niceness)

    def slot(self, pid: int) -> int | None:
        """The slot of a process in the ledger; None where it is not traced."""
        return self.ledger.process_slots().get(pid)

    def start(self) -> None:
        """Reads what has come since it is attached; where events travel, that is for `read_events`."""
        if not self._for_stream:
            self.read()

    def read(self) -> None:
        """Keeps up with the kernel: who came and went, what sockets did, stacks to unwind."""
        self.read_events()

    def read_events(self) -> EventChunk | None:
        """What has happened since the last call; None where no records are wanted."""
        return self._take(self.recorder.read())

    def children(self) -> Sequence[Child]:
        """The processes that traced ones made and that are traced too, by the names that they have now."""
        return [child._replace(name=self.names.get(pid, child.name)) for pid, child in self._children.items()]

    @property
    def ended_ns(self) -> Mapping[int, int]:
        """CLOCK_MONOTONIC, when processes ended, by PID."""
        return self._ended_ns

    def _take(self, batch: Batch) -> EventChunk | None:
        if self.recorder.awaited.pid is not None and self.recorder.awaited.at_ns > self.started_ns:
            self.started_ns = self.recorder.awaited.at_ns
        self._note_processes(batch)
        chunk = self._chunks.make(batch) if self._for_stream else None
        if self._log_sockets_at is not None:
            self.recorder.allow_records_of_kinds(_SOCKET_RECORDS_OF_KIND)
        offset_ns, self._log_sockets_at = self._log_sockets_at, None
        if offset_ns is not None:
            with contained("sockets", self.gaps):  # what they say may be wrong then: none is told, and no more kept
                chunk = chunk or self._chunks.make(batch)
                self._log(chunk.only_sockets(), offset_ns)
                self._log_sockets_at = offset_ns
        self._end_tables(batch)
        self.ledger.fold_threads()
        now_ns = time.monotonic_ns()
        for pid, slot in self.ledger.process_slots().items():
            opened, closed, _ = self.ledger.counts(slot)
            rates = self._rates.get(pid)
            if rates is None:
                rates = self._rates[pid] = Rates(self.started_ns)
            rates.note(opened, closed, now_ns)
        if self.sites:
            self._growth.note(self.ledger, now_ns)
            self.sites.read()
        return chunk

    def _log(self, chunk: EventChunk, offset_ns: int) -> None:
        for pid in sorted(set(chunk.pid.tolist())):
            self._log_of(pid, offset_ns).add(chunk.take(chunk.pid == pid))

    def _log_of(self, pid: int, offset_ns: int) -> SocketLog:
        if pid not in self._logs:
            self._logs[pid] = SocketLog(pid, EventMaker(self.calls, Moments(offset_ns)))
        return self._logs[pid]

    def _note_processes(self, batch: Batch) -> None:
        """Forks, execs and exits: who was born and who is no more, and what threads are called."""
        call = batch.events["call"]
        for index in np.flatnonzero((call >= FORK) & (call <= EXIT)).tolist():
            event = batch.events[index]
            kind, tid, tgid, flags = int(event["call"]), int(event["tid"]), int(event["tgid"]), int(event["flags"])
            name = batch.text(index)
            if kind == FORK:
                if flags & FOLLOWED:
                    child = int(event["fd2"])
                    self._children[child] = Child(child, tgid, name, int(event["at_ns"]), bool(flags & SHARES))
                self.names[int(event["fd"])] = name
            elif kind == EXIT:
                self.names[tid] = name
                if flags & LAST:
                    self._ended_ns[tgid] = int(event["at_ns"])
            elif kind == EXEC:
                called = name.rpartition("/")[2][:NAME_BYTES]
                if tid in self._children:
                    self.names[tid] = called
                    at_ns = int(event["at_ns"])
                    self._children[tid] = self._children[tid]._replace(program=name, executed_ns=at_ns)
                self.names.setdefault(tid, called)

    def _end_tables(self, batch: Batch) -> None:
        """What was open when the last process that used a table ended."""
        gone = (batch.events["call"] == EXIT) & (batch.events["flags"] & TABLE_GONE != 0)
        for table, tid in zip(batch.events["table"][gone].tolist(), batch.events["tid"][gone].tolist(), strict=True):
            if table not in self._left_open and table < self.ledger.sizes.tables:
                self._left_open[table] = self.ledger.end_table(table, tid)

    def remember(self) -> None:
        """What is open now is what `activity` gives as opened of a process that has ended by then."""
        for slot in self.ledger.process_slots().values():
            table = self.ledger.table_of(slot)
            if table is not None and table not in self._left_open and not self.ledger.has_ended(table):
                self._remembered[table] = self.ledger.state(table)

    def note_moment(self, names: Mapping[int, tuple[int | None, str]]) -> None:
        """Lets `activity` tell of the time until now; threads of others are not named in it."""
        self.stopped_ns = time.monotonic_ns()

    def stop(self) -> None:
        """Ends counting, and compares the ledger with /proc; a fault in that costs the comparison alone."""
        with contained("ledger", self.gaps):
            _, self._checks = self.finish()

    def conclude(self) -> None:
        """Waits for the stacks that are still to be unwound."""
        if self.sites:
            self.sites.finish(self._unwind_seconds)
        if self.sites and self.sites.problem:
            note_fault("call sites", self.sites.problem, self.gaps)

    def resume(self) -> None:
        """Lets the programs work again, for measuring them; what they count from now on must not be read."""
        self.recorder.resume()

    def statistics(self) -> ProgramStatistics:
        """The kernel's account of the programs."""
        return self.recorder.statistics()

    def confidence(self) -> Confidence:
        """The accounts so far."""
        counts = self.recorder.counts()
        return Confidence(
            seen_count=counts.seen,
            lost_count=counts.lost,
            map_full_count=counts.map_full,
            missed_count=self.statistics().missed_count,
            unreadable_count=counts.unread,
            undecoded_count=counts.compat,
            program_ns_per_event=None,
            tool_cpu_seconds=time.process_time(),
        )

    def finish(self) -> tuple[EventChunk | None, dict[int, LedgerCheck | None]]:
        """Reads /proc, stops, and compares; None for a process that has ended."""
        pids = [*self.ledger.process_slots()]
        readings = {pid: (time.monotonic_ns(), self._target.numbers(pid)) for pid in pids}
        time.sleep(_SETTLE_SECONDS)
        self.recorder.stop()
        self.stopped_ns = time.monotonic_ns()
        chunk = self._take(self.recorder.read(is_last=True))
        return chunk, {pid: self._check(pid, *reading) for pid, reading in readings.items()}

    def _check(self, pid: int, began_ns: int, numbers: Sequence[int] | None) -> LedgerCheck | None:
        slot = self.slot(pid)
        table = None if slot is None else self.ledger.table_of(slot)
        if numbers is None or table is None or pid in self._ended_ns or self.shares_table(pid):
            return None
        moved = self.ledger.moved_since(table, began_ns - _LATE_NS)
        disputed = set(numbers) ^ set(self.ledger.state(table).fd.tolist())
        is_open = set(numbers)
        links = self._target.links(pid) or {} if disputed - moved else {}
        differences = [self._difference(fd, links.get(fd), is_open=fd in is_open) for fd in sorted(disputed - moved)]
        return LedgerCheck(tuple(differences), len(moved))

    def shares_table(self, pid: int) -> bool:
        """Whether a process uses another's table: what it does with it is told of that one."""
        slot = self.slot(pid)
        table = None if slot is None else self.ledger.table_of(slot)
        return table is not None and self.ledger.owner_of(table) != slot

    def _difference(self, fd: int, link: str | None, *, is_open: bool) -> LedgerDifference:
        counts = self.recorder.counts()
        if counts.compat:
            reason = "the process makes 32-bit calls, which are not decoded"
        elif counts.map_full:
            reason = "there was no room for it"
        elif is_open:
            reason = "made by no call that is decoded: an ioctl, or another process (seccomp ADDFD, a tracer)"
        else:
            reason = "closed by no call that is decoded, or by one that has not returned"
        return LedgerDifference(
            fd=fd,
            ledger="closed" if is_open else "open",
            proc="open" if is_open else "closed",
            target=link,
            reason=reason,
        )

    def activity(self, pid: int) -> DescriptorActivity | None:
        """What happened to the descriptors of a process; None where it is not traced."""
        slot = self.slot(pid)
        if slot is None:
            return None
        ledger, totals = self.ledger, self.ledger.totals(slot)
        table = ledger.table_of(slot)
        opened: dict[int, OpenDescriptor] = {}
        if table is not None and not self.shares_table(pid):
            left = self._remembered.get(table) or self._left_open.get(table)
            has_ended = table in self._left_open or ledger.has_ended(table)
            opened = (left if has_ended and left else ledger.state(table)).opened().descriptors()
        churn = [
            ThreadChurn(tid, self.names.get(tid, ""), counts[0], counts[1])
            for tid, counts in ledger.threads(slot).items()
        ]
        rates = self._rates.get(pid)
        interval, opened_each, closed_each = rates.series() if rates else (1, (), ())
        failures, limit_failures = ledger.failures(slot)
        calls = _socket_calls(totals.by_call(totals.sockets), failures)
        empty = _take_expected(failures)
        unseen = ledger.unseen(table) if table is not None else (0, 0)
        trace = DescriptorTrace(
            opened_count=int(totals.opened.sum()),
            closed_count=int(totals.closed.sum()),
            failed_count=int(totals.failed.sum()) - empty.total(),
            still_open_count=0 if table in self._left_open else len(opened),
            peak_open_count=0 if table is None else ledger.peak_count(table),
            unseen_birth_count=unseen[0],
            close_on_exec_set_count=totals.close_on_exec[1],
            close_on_exec_cleared_count=totals.close_on_exec[0],
            by_type=totals.by_type(),
            by_syscall=totals.by_call(totals.opened),
            closed_by_syscall=totals.by_call(totals.closed),
            closed_by=totals.closed_by(),
            by_thread=tuple(sorted(churn, key=lambda one: (-one.opened_count - one.closed_count, one.tid))),
            failures=tuple(Failure(call, error_name(error), count) for (call, error), count in failures.most_common()),
            empty_by_syscall=dict(empty.most_common()),
            lifetime_ns=totals.lifetime,
            interval_seconds=interval,
            opened_per_interval=tuple(opened_each),
            closed_per_interval=tuple(closed_each),
            limit_failures=tuple(
                LimitFailure("EMFILE" if error == errno.EMFILE else "ENFILE", tid, self.names.get(tid, ""), count)
                for (error, tid), count in limit_failures.most_common()
            ),
            by_path=tuple(PathChurn(path, count) for path, count in ledger.by_path(slot, _SHOWN_PATHS)),
            by_path_omitted_count=totals.path_left_out,
        )
        if self.sites:
            counts = self.recorder.counts()
            trace = describe_sites(
                trace, slot, ledger, self.sites, self._growth, opened, self.stopped_ns, counts.uncopied
            )
        sockets, uses, knows_uses = None, None, False
        if self._log_sockets_at is not None:
            with contained("sockets", self.gaps):
                sockets, uses, knows_uses = self._stories(self._log_of(pid, self._log_sockets_at), opened, calls)
        stacks = {fd: self.stack(known.stack) for fd, known in opened.items()}
        return DescriptorActivity(
            trace,
            opened,
            sockets,
            uses,
            knows_uses,
            {fd: stack for fd, stack in stacks.items() if stack is not None},
            self.stack_problem,
            self._checks.get(pid),
            self.shares_table(pid),
            self.recorder.sees_io_uring,
        )

    def take(self, pids: Sequence[int]) -> dict[int, object | None]:
        """What happened to the descriptors of ended processes; all of it is for others from now on."""
        self.stopped_ns = time.monotonic_ns()
        found: dict[int, object | None] = {}
        for pid in pids:
            with contained("descriptors", self.gaps):
                found[pid] = self.activity(pid)
        tables = self.ledger.release(pids)
        for known in (self._left_open, self._remembered):
            for table in tables & known.keys():
                del known[table]
        for pid in pids:
            for of_pid in (self._logs, self._rates, self._children, self._ended_ns, self._checks):
                of_pid.pop(pid, None)
        threads = {churn.tid for seen in found.values() for churn in (seen.trace.by_thread if seen else ())}  # type: ignore[attr-defined]
        for tid in threads.union(pids):
            self.names.pop(tid, None)
        if self.sites:
            self.sites.forget(pids)
        return found

    def _stories(
        self, log: SocketLog, opened: Mapping[int, OpenDescriptor], calls: Sequence[SocketCalls]
    ) -> tuple[SocketTrace, Mapping[int, Sequence[DescriptorEvent]], bool]:
        """What happened to all sockets, what was done with those that are open, and whether that is all."""
        events = log.events(opened, self.sites)
        told = sum(event.event != "close" for event in events)
        trace = SocketTrace(
            events=tuple(events),
            omitted_count=max(0, sum(one.count for one in calls) - told),
            made_count=sum(
                one.count for one in calls if one.error is None and _EVENT_OF_CALL[one.syscall] in _MAKES_SOCKETS
            ),
            calls=tuple(calls),
        )
        knows_uses = all(log.seen[one.syscall, one.error] >= one.count for one in calls)
        return trace, log.of_open(opened, self.sites), knows_uses

    def opened(self, pid: int) -> Mapping[int, OpenDescriptor]:
        """Of the numbers that a process has open, those that were opened during the trace."""
        slot = self.slot(pid)
        table = None if slot is None else self.ledger.table_of(slot)
        return {} if table is None else self.ledger.state(table).opened().descriptors()

    def counts(self, pid: int) -> tuple[int, int, int]:
        """What a process has opened and closed, and how many calls failed, so far."""
        slot = self.slot(pid)
        if slot is None:
            return 0, 0, 0
        opened, closed, failed = self.ledger.counts(slot)
        return opened, closed, failed - _take_expected(self.ledger.failures(slot)[0]).total()

    def stack(self, number: int) -> Stack | None:
        """The stack behind a stack id, where it is known by now."""
        return self.sites.stack(number) if self.sites else None


def _socket_calls(worked: Mapping[str, int], errors: Mapping[tuple[str, int], int]) -> list[SocketCalls]:
    """What was done with sockets, in counts; accepts that found nobody waiting are left out."""
    failed = {
        (call, error_name(error)): count
        for (call, error), count in errors.items()
        if _EVENT_OF_CALL[call] in _OF_SOCKETS and not (call in _ACCEPTS and error == errno.EAGAIN)
    }
    return [
        *(SocketCalls(call, None, count) for call, count in worked.items()),
        *(SocketCalls(call, error, count) for (call, error), count in sorted(failed.items(), key=lambda one: -one[1])),
    ]


def _take_expected(failures: Counter[tuple[str, int]]) -> Counter[str]:
    """Takes out what is no failure: connections under way, and accepts that found nobody, which it gives by call."""
    for key in [(call, error) for call, error in failures if call == "connect" and error_name(error) in UNDER_WAY]:
        del failures[key]
    empty = Counter({call: failures[call, errno.EAGAIN] for call in _ACCEPTS if (call, errno.EAGAIN) in failures})
    for call in empty:
        del failures[call, errno.EAGAIN]
    return empty


def _hurry() -> int | None:
    """A reader that waits for a busy CPU loses lines: goes first until the end. Gives the old niceness."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:  # without CAP_SYS_NICE
        return None
    return niceness


def _sharer_among(pid: int, others: Sequence[int]) -> int | None:
    """The first of some processes whose table another uses; None where none."""
    return next((other for other in others if _is_same_table(other, pid)), None)


def _is_same_table(pid: int, other: int) -> bool:
    """Whether another process uses a process's table; not taken for granted where not told (kcmp(2))."""
    number = _SYS_KCMP.get(platform.machine())
    return pid != other and number is not None and not _LIBC.syscall(number, pid, other, _KCMP_FILES, 0, 0)
