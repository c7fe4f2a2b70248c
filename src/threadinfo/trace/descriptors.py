"""Births and deaths of descriptors: which table each record belongs to, and whether the ledgers agree with /proc."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.errors import NotAvailableError
from threadinfo.model import (
    DescriptorEvent,
    DescriptorTrace,
    Failure,
    LedgerDifference,
    LimitFailure,
    PathChurn,
    SocketTrace,
    ThreadChurn,
)
from threadinfo.trace.awaited import NAME_BYTES
from threadinfo.trace.call_sites import CallSites, ReadMaps
from threadinfo.trace.calls import BITMAP, EXEC, EXIT, FORK, ON_SOCKET, TABLE, calls_of
from threadinfo.trace.changes import ChangeTable, open_numbers
from threadinfo.trace.debug_files import DebugFiles
from threadinfo.trace.descriptor_events import EventMaker, Moments
from threadinfo.trace.descriptor_records import FOLLOWED, LAST, SHARES, Batch, DescriptorRecorder, is_mark
from threadinfo.trace.following import Child
from threadinfo.trace.path_totals import PathTotals
from threadinfo.trace.site_report import describe_sites
from threadinfo.trace.site_totals import SiteTotals
from threadinfo.trace.socket_log import SocketLog
from threadinfo.trace.tables import (
    BatchResult,
    Known,
    ReadLink,
    Table,
    TableTotals,
    TypeTable,
    group_by_table,
)
from threadinfo.trace.totals import Totals, error_name
from threadinfo.trace.unwinder import Stack, Unwinder

ReadLinks = Callable[[int], Mapping[int, str] | None]
"""Gives all of /proc/PID/fd: number to what it points to; None where the process has ended."""

ReadPids = Callable[[], Sequence[int]]
"""Gives the ids of all processes of the machine."""

SETTLE_SECONDS = 0.006
"""Longer than the recorder holds records back."""
_LATE_NS = 1_000_000  # a call may have done its work so long before it is seen to return
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILES = 2
_LIBC = ctypes.CDLL(None)
_UNWIND_SECONDS, _FETCH_SECONDS = 3.0, 120.0  # at the end, for what is still waiting
_SHOWN_PATHS = 20
_NO_DESCRIPTOR_LEFT = (-errno.EMFILE, -errno.ENFILE)


class CodeAccess(NamedTuple):
    """What the unwinding of stacks needs to read of the processes."""

    read_maps: ReadMaps
    open_mapping: Callable[[int, str], int | None]
    """Opens the file that a process has mapped at "START-END", as /proc/PID/maps has it."""
    debuginfod: tuple[str, ...] = ()
    """Servers to ask for debug files that this host lacks."""


class LedgerCheck(NamedTuple):
    """The ledger of a process's table against /proc, at the end."""

    differences: tuple[LedgerDifference, ...]
    undecided_count: int
    """Numbers that moved while /proc was read."""


class DescriptorActivity(NamedTuple):
    """What happened to the descriptors of one process."""

    trace: DescriptorTrace
    """Its threads are named where they have ended; the others' names are for /proc to say."""
    born: Mapping[int, Known]
    """Of the numbers that are open at the end, those that were born during the trace."""
    sockets: SocketTrace | None
    """None where it was not asked for."""
    socket_uses: Mapping[int, Sequence[DescriptorEvent]]
    """Of the sockets among `born`: what was done with them."""
    stacks: Mapping[int, Stack]
    """Of `born`: where they were born, as far as that is known; by descriptor."""
    stack_problem: NotAvailableError | None
    """Why no stacks are known, although they were asked for."""


class DescriptorTracer:
    """Watches the descriptors of some processes. A context manager: it detaches at its end."""

    def __init__(
        self,
        pids: Sequence[int],
        read_links: ReadLinks,
        read_link: ReadLink,
        read_pids: ReadPids,
        *,
        code: CodeAccess | None = None,
        log_sockets_at: int | None = None,
        for_stream: bool = False,
        buffer_bytes: dict[str, int] | None = None,
        follow_limit: int = 0,
    ) -> None:
        """Attaches; raises NotAvailableError. With `code` the call sites are found, where that is possible.

        `log_sockets_at`: from CLOCK_MONOTONIC to UTC; what is done with sockets is then kept.
        `follow_limit`: how many of the processes that traced ones make are traced too.
        """
        self.calls = calls_of(platform.machine())
        self.types = TypeTable(self.calls)
        self._changes = ChangeTable(self.calls)
        self._on_socket = np.zeros(max(self.calls) + 8, bool)  # neither births nor deaths
        self._on_socket[[number for number, call in self.calls.items() if call.action in ON_SOCKET]] = True
        self._read_links, self._read_link = read_links, read_link
        self._for_stream = for_stream
        self._logs: dict[int, SocketLog] = {}
        self._log_sockets_at = log_sockets_at
        sharers = [other for other in read_pids() if any(_is_same_table(pid, other) for pid in pids)]
        self._stack = contextlib.ExitStack()
        self.stack_problem: NotAvailableError | None = None
        """Why there are no call sites, although they were asked for."""
        self.sites: CallSites | None = None
        self._unwind_seconds = _FETCH_SECONDS if code and code.debuginfod else _UNWIND_SECONDS
        with contextlib.ExitStack() as stack:
            if code and (unwinder := self._start_unwinder(code)):
                stack.enter_context(unwinder)
                self.sites = CallSites(unwinder, code.read_maps, pids)
                stack.callback(self.sites.close)
            recorder = DescriptorRecorder(
                pids, sharers, buffer_bytes, with_stacks=self.sites is not None, follow_limit=follow_limit
            )
            self.recorder = stack.enter_context(recorder)
            if self.sites and recorder.stacks:
                self.sites.attach(recorder.stacks, recorder.allow_copies)
            self._stack = stack.pop_all()
        self._niceness = _hurry()
        self.started_ns = self.stopped_ns = time.monotonic_ns()
        self.names: dict[int, str] = {}
        """Names of threads that ended, and of those that were born."""
        self._tables: dict[int, Table] = {}
        self._main: dict[int, Table] = {}
        self.totals: dict[int, Totals] = {}
        self.compat_pids: set[int] = set()
        self._added_up: dict[int, TableTotals] = {}
        self._came: set[int] = set()
        self.children: dict[int, Child] = {}
        """Processes that traced ones made and that are traced too."""
        self.ended_ns: dict[int, int] = {}
        """When a process ended."""
        for pid in pids:
            self._begin(pid)
        for pid, table in self._main.items():  # while records come in already
            table.seed(read_links(pid) or {})
        self._seeded_ns: int | None = time.monotonic_ns()

    def _begin(self, pid: int) -> None:
        self.totals[pid] = Totals(max(self.calls) + 8, 256, self.started_ns)
        sites = SiteTotals(self.started_ns) if self.sites else None
        self._added_up[pid] = TableTotals(self.totals[pid], PathTotals(), sites)
        self._main[pid] = Table(pid, pid, self.calls, self.types, self._added_up[pid])
        if self._log_sockets_at is not None:
            maker = EventMaker(self.calls, self.types, Moments(self._log_sockets_at))
            self._logs[pid] = SocketLog(self.calls, self.types, maker)

    def _receive(self) -> None:
        """A process that was waited for has come: the first that is told of it is what its table is."""
        pid = self.recorder.awaited.pid
        if pid is not None and pid not in self._main:
            self.started_ns = self.recorder.awaited.at_ns
            self._begin(pid)
            self._came.add(pid)

    def _follow(self, batch: Batch) -> dict[int, list[int]]:
        """Begins the tables of children; gives when each address became a child's: it may have been another's before.

        What they have open is told by the first that is told of them; what that is, by what their parents know.
        """
        events = batch.events
        born: dict[int, list[int]] = {}
        for index in np.flatnonzero((events["call"] == FORK) & (events["flags"] & FOLLOWED != 0)).tolist():
            event = events[index]
            pid, parent, shares = int(event["fd2"]), int(event["tgid"]), not int(event["argument"])
            name = batch.data(index).split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
            self.children[pid] = Child(pid, parent, name, int(event["at_ns"]), shares)
            self._begin(pid)
            self._came.add(pid)
            if parent in self._main:
                theirs = events[events["table"] == event["table"]]
                moved = {*theirs["fd"].tolist(), *theirs["fd2"].tolist()}
                self._main[pid].known = {
                    fd: known._replace(at_ns=0, stack=0)
                    for fd, known in self._main[parent].known.items()
                    if fd not in moved
                }
            if not shares:
                born.setdefault(int(event["argument"]), []).append(int(event["at_ns"]))
        return born

    def _lives(self, batch: Batch, born: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """The indices of the events of each table. The kernel gives the address of one that is gone to another."""
        for address, which in group_by_table(batch).items():
            if address not in born:
                yield address, which
                continue
            cuts = np.searchsorted(batch.events["at_ns"][which], sorted(born[address])).tolist()
            if cuts[0]:
                yield address, which[: cuts[0]]
            for start, end in itertools.pairwise([*cuts, len(which)]):
                self._tables.pop(address, None)
                if end > start:
                    yield address, which[start:end]

    def __enter__(self) -> DescriptorTracer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._niceness is not None:
            os.setpriority(os.PRIO_PROCESS, 0, self._niceness)

    def read(self) -> tuple[Batch, list[BatchResult]]:
        """What has happened since the last call."""
        if self._seeded_ns is not None:  # the first batch must hold all that happened while /proc was listed
            time.sleep(max(0.0, SETTLE_SECONDS - (time.monotonic_ns() - self._seeded_ns) / 1e9))
        taken = self._take(self.recorder.read())
        if self.sites:
            self.sites.read()
        return taken

    def _take(self, batch: Batch) -> tuple[Batch, list[BatchResult]]:
        born = self._follow(batch)
        if self._seeded_ns is not None:
            self._seeded_ns = None
            self._infer_first_states(batch, born)
        results = self._apply(batch, born)
        now_ns = time.monotonic_ns()
        for added_up in self._added_up.values():
            if added_up.sites:
                added_up.sites.note_moment(now_ns)
        return batch, results

    def _infer_first_states(self, batch: Batch, born: Mapping[int, Sequence[int]]) -> None:
        """What moved while /proc was listed is told by the records alone."""
        for address, which in group_by_table(batch).items():
            if address in born:
                continue
            table = self._table(address, batch, which)[0]
            highest = table.ledger.highest()
            table.ledger.infer_first_states(self._changes.of(batch, batch.take(which), which, highest))

    def _apply(self, batch: Batch, born: Mapping[int, Sequence[int]]) -> list[BatchResult]:
        self._receive()
        results = []
        for address, group in self._lives(batch, born):
            which = group
            table, is_part = self._table(address, batch, which)
            self._note_processes(table, batch, which)
            if is_part:
                which = self._correct_part(table, batch, which)
            events = batch.take(which)
            self._count_others(table, events)
            changes = self._changes.of(batch, events, which, table.ledger.highest())
            result = table.apply(batch, which, changes, self._read_link, for_stream=self._tells_all())
            results.append(result)
            if not table.users:
                results.append(self._end(table, batch, which))
        for result in results:
            if result.pid in self._logs:
                self._logs[result.pid].add(batch, result)
        return results

    def _tells_all(self) -> bool:
        return self._for_stream or any(not log.omitted_count for log in self._logs.values())

    def _end(self, table: Table, batch: Batch, which: NDArray[np.intp]) -> BatchResult:
        """The last process that used a table has ended."""
        last = batch.events[which[-1]]
        changes = table.close_all(int(last["at_ns"]), int(last["tid"]), EXIT)
        return table.apply(batch, which[:0], changes, self._read_link, for_stream=self._tells_all())

    def _table(self, address: int, batch: Batch, which: NDArray[np.intp]) -> tuple[Table, bool]:
        """The table of an address, and whether it is a part that was not known: a copy of its process's table."""
        if (table := self._tables.get(address)) is not None:
            return table, False
        events = batch.events[which]
        owners = events[np.isin(events["tgid"], list(self._main))]
        first = owners[0] if len(owners) else events[0]
        pid, tid = int(first["tgid"]), int(first["tid"])
        main = self._main.get(pid) or next(iter(self._main.values()))
        if main not in self._tables.values() and _share_table(pid, tid):
            self._tables[address] = main
            has_come = pid in self._came
            self._came.discard(pid)
            return main, has_come
        self._tables[address] = main.part(tid)
        return self._tables[address], True

    def _correct_part(self, table: Table, batch: Batch, which: NDArray[np.intp]) -> NDArray[np.intp]:
        """A part begins as the kernel's bitmap says; gives the events after that."""
        events = batch.events[which]
        bitmaps = np.flatnonzero((events["call"] == BITMAP) & (events["argument"] == 0))
        for index in which[bitmaps].tolist():
            table.ledger.correct(int(batch.events["fd"][index]), open_numbers(batch, index))
        for fd in [fd for fd in table.known if fd >= len(table.ledger.is_open) or not table.ledger.is_open[fd]]:
            del table.known[fd]
        return which[bitmaps[-1] + 1 :] if bitmaps.size else which

    def _note_processes(self, table: Table, batch: Batch, which: NDArray[np.intp]) -> None:
        """Forks, execs and exits: who uses a table, and what threads are called."""
        call_of = batch.events["call"] if len(which) == len(batch.events) else batch.events["call"][which]
        for index in which[(call_of >= FORK) & (call_of < TABLE)].tolist():
            event = batch.events[index]
            call, tgid = int(event["call"]), int(event["tgid"])
            name = batch.data(index).split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
            if call == FORK:
                if int(event["flags"]) & FOLLOWED:  # what it was called later may be known already
                    self.names.setdefault(int(event["fd"]), name)
                else:
                    self.names[int(event["fd"])] = name
                if int(event["flags"]) & SHARES:
                    table.users.add(int(event["fd2"]))
            elif call == EXIT:
                self.names[int(event["tid"])] = name
                if int(event["flags"]) & LAST:
                    table.users.discard(tgid)
                    self.ended_ns[tgid] = int(event["at_ns"])
            elif call == EXEC:
                called = name.rpartition("/")[2][:NAME_BYTES]
                if int(event["tid"]) in self.children:
                    self.names[int(event["tid"])] = called
                self.names.setdefault(int(event["tid"]), called)
            if call == EXEC and tgid in self._main and self._main[tgid] is not table:
                self._main[tgid].users.discard(tgid)
                table.tid = tgid
                self._main[tgid] = table

    def _count_others(self, table: Table, events: NDArray[np.void]) -> None:
        """Failures, and close-on-exec."""
        failed = events["result"] < 0
        if failed.any():
            failed &= ~self._on_socket[events["call"]]
            table.totals.add_failures(events["call"][failed], events["result"][failed])
            full = np.isin(events["result"], _NO_DESCRIPTOR_LEFT)
            if full.any():
                table.totals.add_limit_failures(events["result"][full], events["tid"][full])
                if table.added_up.sites:
                    table.added_up.sites.add_limit_failures(events["stack"][full])
        marks = is_mark(events)
        if marks.any():
            set_count = int(np.count_nonzero(events["argument"][marks] & 1))
            table.totals.marked_count[1] += set_count
            table.totals.marked_count[0] += int(np.count_nonzero(marks)) - set_count

    def remember_open(self) -> None:
        """What is open now is what `activity` gives as born of a process that has ended by then."""
        for table in self._main.values():
            if table.users:
                table.known_before_end, table.is_remembered = dict(table.known), True

    def finish(self) -> tuple[Batch, list[BatchResult], dict[int, LedgerCheck | None]]:
        """Reads /proc, stops, and compares; None for a process that has ended."""
        readings = {pid: (time.monotonic_ns(), self._read_links(pid)) for pid in self._main}
        time.sleep(SETTLE_SECONDS)
        self.recorder.stop()
        self.stopped_ns = time.monotonic_ns()
        batch, results = self._take(self.recorder.read(is_last=True))
        if self.sites:
            self.sites.finish(self._unwind_seconds)
        return batch, results, {pid: self._check(pid, *reading) for pid, reading in readings.items()}

    def _check(self, pid: int, began_ns: int, links: Mapping[int, str] | None) -> LedgerCheck | None:
        table = self._main[pid]
        if links is None or pid not in table.users or self.shares_parents_table(pid):
            return None
        ledger = table.ledger
        moved = set(np.flatnonzero(ledger.moved_ns >= began_ns - _LATE_NS).tolist())
        disputed = set(links) ^ set(ledger.numbers().tolist())
        differences = [self._difference(table, fd, links.get(fd)) for fd in sorted(disputed - moved)]
        return LedgerCheck(tuple(differences), len(moved))

    def shares_parents_table(self, pid: int) -> bool:
        """Whether a child uses its parent's table still: what it does is then told of the parent's."""
        child = self.children.get(pid)
        return child is not None and child.shares_descriptors and self._main[pid] not in self._tables.values()

    def _difference(self, table: Table, fd: int, link: str | None) -> LedgerDifference:
        lost = self.recorder.counts().lost
        if lost:
            reason = f"{lost} records were lost"
        elif self.recorder.counts().compat:
            reason = "the process makes 32-bit calls, which are not decoded"
        elif link is not None:
            reason = "made by no call that is decoded: an ioctl, or another process (seccomp ADDFD, a tracer)"
        else:
            reason = "closed by no call that is decoded, or by one that has not returned"
        known = table.known.get(fd)
        return LedgerDifference(
            fd=fd,
            ledger="closed" if link is not None else "open",
            proc="open" if link is not None else "closed",
            target=link if link is not None else known.text if known else None,
            reason=reason,
        )

    def activity(self, pid: int) -> DescriptorActivity:
        """What happened to the descriptors of a process."""
        table, totals = self._main[pid], self.totals[pid]
        open_now = table.known if table.users else table.known_before_end
        lived = {fd: known for fd, known in open_now.items() if known.at_ns}
        threads = totals.opened_by_thread.keys() | totals.closed_by_thread.keys()
        churn = [
            ThreadChurn(tid, self.names.get(tid, ""), totals.opened_by_thread[tid], totals.closed_by_thread[tid])
            for tid in threads
        ]
        interval, opened, closed = totals.series()
        types = [(name or "unknown", int(totals.opened_by_type[code])) for code, name in enumerate(self.types.names)]
        trace = DescriptorTrace(
            opened_count=int(totals.opened_by_call.sum()),
            closed_count=int(totals.closed_by_call.sum()),
            failed_count=int(totals.failed_by_call.sum()),
            still_open_count=sum(known.at_ns > 0 for known in table.known.values()),
            peak_open_count=table.ledger.peak_count,
            unseen_birth_count=table.ledger.unseen_birth_count,
            close_on_exec_set_count=totals.marked_count[1],
            close_on_exec_cleared_count=totals.marked_count[0],
            by_type={name: count for name, count in sorted(types, key=lambda item: -item[1]) if count},
            by_syscall=totals.by_call(self.calls, totals.opened_by_call),
            closed_by_syscall=totals.by_call(self.calls, totals.closed_by_call),
            closed_by=dict(totals.closed_by_how.most_common()),
            by_thread=tuple(sorted(churn, key=lambda one: (-one.opened_count - one.closed_count, one.tid))),
            failures=tuple(
                Failure(self.calls[call].name, error_name(error), count)
                for (call, error), count in totals.failures.most_common()
            ),
            lifetime_ns=totals.lifetime(),
            interval_seconds=interval,
            opened_per_interval=opened,
            closed_per_interval=closed,
            limit_failures=tuple(
                LimitFailure("EMFILE" if error == errno.EMFILE else "ENFILE", tid, self.names.get(tid, ""), count)
                for (error, tid), count in totals.limit_failures.most_common()
            ),
            by_path=tuple(
                PathChurn(path, count) for path, count in self._added_up[pid].paths.most_common(_SHOWN_PATHS)
            ),
            by_path_omitted_count=self._added_up[pid].paths.uncounted,
        )
        if (sites := self._added_up[pid].sites) is not None and self.sites:
            fds: dict[int, list[int]] = {}
            for fd, known in lived.items():
                fds.setdefault(known.stack, []).append(fd)
            uncopied = self.recorder.counts().uncopied
            trace = describe_sites(trace, sites, self.sites, self.types.names, fds, self.stopped_ns, uncopied)
        log = self._logs.get(pid)
        born_ns = {fd: known.at_ns for fd, known in lived.items()}
        stacks = {fd: self.stack(known.stack) for fd, known in lived.items()}
        return DescriptorActivity(
            trace,
            lived,
            SocketTrace(events=tuple(log.events(self.sites)), omitted_count=log.omitted_count) if log else None,
            log.of_open(born_ns, self.sites) if log else {},
            {fd: stack for fd, stack in stacks.items() if stack is not None},
            self.stack_problem,
        )

    def known(self, pid: int) -> Mapping[int, Known]:
        """What is known of the numbers that a process has open."""
        return self._main[pid].known

    def stack(self, number: int) -> Stack | None:
        """The stack behind a number, where it is known by now."""
        return self.sites.stack(number) if self.sites else None

    def _start_unwinder(self, code: CodeAccess) -> Unwinder | None:
        if platform.machine() != "x86_64":
            self.stack_problem = NotAvailableError(f"stacks are not unwound on {platform.machine()} yet", None)
            return None
        try:
            return Unwinder(code.open_mapping, DebugFiles(code.debuginfod))
        except NotAvailableError as problem:
            self.stack_problem = problem
            return None


def _hurry() -> int | None:
    """A reader that waits for a busy CPU loses records: goes first until the end. Gives the old niceness."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:  # without CAP_SYS_NICE
        return None
    return niceness


def _share_table(pid: int, tid: int) -> bool:
    """Whether a thread uses the table of its process's first thread; taken for granted where not told."""
    return pid == tid or _compare_tables(pid, tid) in {0, -1}


def _is_same_table(pid: int, other: int) -> bool:
    """Whether another process uses a process's table; not taken for granted."""
    return pid != other and _compare_tables(pid, other) == 0


def _compare_tables(one: int, other: int) -> int:
    """kcmp(2): 0 the same, 1 to 3 different, -1 not told."""
    number = _SYS_KCMP.get(platform.machine())
    return -1 if number is None else int(_LIBC.syscall(number, one, other, _KCMP_FILES, 0, 0))
