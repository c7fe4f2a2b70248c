"""Collects a report with a trace: what /proc says before and after, what the kernel's tracepoints said between."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from resource import RLIM_INFINITY

import msgspec

from threadinfo.collect import CollectOptions, collect_process, collect_report, parse_timestamp, timestamp, unseen
from threadinfo.containment import contained
from threadinfo.errors import TargetEndedError
from threadinfo.merge import TracedThread, merge_cpu, merge_descriptors, merge_scheduling, merge_waits
from threadinfo.model import BlockedCall, DescriptorEvent, Gap, KernelAccount, Origin, ProcessReport, Report, Trace
from threadinfo.proc.process import ENDED_STATES, Machine, read_machine
from threadinfo.proc.reader import ProcDirectory, ProcError, ProcGoneError
from threadinfo.proc.serving import is_native, read_blocked_call
from threadinfo.proc.threads import read_kernel_account, read_thread_owner, read_thread_states
from threadinfo.socket_story import tell_maker
from threadinfo.trace.descriptor_events import Moments
from threadinfo.trace.descriptors import CodeAccess, DescriptorActivity
from threadinfo.trace.following import Child
from threadinfo.trace.kernel_ledger import OpenDescriptor
from threadinfo.trace.session import Follow, Progress, TraceResult, trace_processes
from threadinfo.trace.site_groups import entry_point, format_frames, site_frames, site_library
from threadinfo.trace.unwinder import Stack
from threadinfo.watcher import FamilyWatcher

MOST_CHILDREN = 1000
"""That are followed: each may hold two of our descriptors, and a section of the report."""
_OTHER_FILES = 256  # of ours
_ENDED = Gap("process", "it ended during the trace; what /proc said is from before the trace", None)


class TargetReader:
    """Reads the targets' own directories of /proc: the same processes, though their numbers be used again."""

    def __init__(self, root: ProcDirectory, held: dict[int, ProcDirectory], stack: contextlib.ExitStack) -> None:
        self._root, self._held, self._stack = root, held, stack
        self.pids = tuple(held)
        self._is_native: dict[int, bool] = {}

    def hold(self, pid: int) -> None:
        """Another target; nothing is known of one that has ended by now."""
        with contextlib.suppress(ProcError):
            self._held[pid] = self._stack.enter_context(self._root.directory(str(pid)))
            self.pids = tuple(self._held)

    def threads(self) -> dict[int, dict[int, str]]:
        """The threads of every target, with the letters of their states."""
        return {pid: read_thread_states(process) for pid, process in self._held.items()}

    def account(self, pid: int, tid: int) -> KernelAccount | None:
        """What the kernel has counted of a thread of a target; None once it has ended."""
        return read_kernel_account(self._held[pid], tid) if pid in self._held else None

    def call(self, pid: int, tid: int) -> BlockedCall | None:
        """What a thread of a target sleeps in; None where it does not, or cannot be read."""
        if pid not in self._held:
            return None
        if pid not in self._is_native:
            try:
                self._is_native[pid] = is_native(self._held[pid])
            except ProcError:
                self._is_native[pid] = False
        return read_blocked_call(self._held[pid], tid) if self._is_native[pid] else None

    def links(self, pid: int) -> dict[int, str] | None:
        """Everything that a target has open; None where it has ended."""
        try:
            return {
                fd: link if isinstance(link, str) else ""
                for fd, link in self._held[pid].links("fd")
                if not isinstance(link, ProcGoneError)
            }
        except (KeyError, ProcError):
            return None

    def numbers(self, pid: int) -> list[int] | None:
        """The numbers that a target has open; None where it has ended."""
        try:
            return self._held[pid].numbers("fd")
        except (KeyError, ProcError):
            return None

    def maps(self, pid: int) -> bytes | None:
        """/proc/PID/maps of a target; None where it has ended."""
        try:
            return self._held[pid].read("maps")
        except (KeyError, ProcError):
            return None

    def open_mapping(self, pid: int, addresses: str) -> int | None:
        """Opens what a target has mapped at "START-END", whatever its name leads to now; the caller closes it."""
        try:
            return self._held[pid].mapped_file(addresses)
        except (KeyError, ProcError):
            return None

    def name(self, tid: int) -> tuple[int | None, str] | None:
        """(PID, name) of any thread of the machine; None once it has ended."""
        return read_thread_owner(self._root, tid)


@contextlib.contextmanager
def hold_targets(root: ProcDirectory, pids: Sequence[int]) -> Iterator[TargetReader]:
    """Yields what reads the targets; raises TargetEndedError where none is left."""
    with contextlib.ExitStack() as stack:
        held = {}
        for pid in pids:
            with contextlib.suppress(ProcGoneError):
                process = stack.enter_context(root.directory(str(pid)))
                if any(state not in ENDED_STATES for state in read_thread_states(process).values()):
                    held[pid] = process
        if not held:
            raise TargetEndedError(
                "every process ended before it could be traced", "a report without --trace says what is left of it"
            )
        yield TargetReader(root, held, stack)


@contextlib.contextmanager
def hold_none(root: ProcDirectory) -> Iterator[TargetReader]:
    """Yields what will read a target that has not come yet."""
    with contextlib.ExitStack() as stack:
        yield TargetReader(root, {}, stack)


def collect_traced_report(
    root: ProcDirectory,
    pids: list[int],
    options: CollectOptions,
    seconds: float,
    only: frozenset[str],
    progress: Progress,
    *,
    with_children: bool = False,
) -> Report:
    """The extended report; `only`: some of "scheduling", "waits", "cpu", "descriptors" and "sockets".

    A target that ends during the trace is reported as it was before. `with_children`: processes that the targets make
    are traced and reported too.
    """
    before = collect_report(root, pids, options)
    with hold_targets(root, [process.pid for process in before.processes]) as reader:
        traced_pids = reader.pids
        family = FamilyWatcher(root, options) if with_children else None
        result = trace_processes(
            traced_pids,
            seconds,
            with_scheduling=bool(only & {"scheduling", "waits"}),
            with_descriptors=bool(only & {"descriptors", "sockets"}),
            with_sockets="sockets" in only,
            code=CodeAccess(reader.maps, reader.open_mapping, options.debuginfod),
            read_threads=reader.threads,
            read_account=reader.account,
            read_call=reader.call if "waits" in only else None,
            read_name=reader.name,
            read_links=reader.links,
            read_numbers=reader.numbers,
            read_pids=root.numbers,
            progress=progress,
            on_tick=family.look if family else None,
            frequency=options.frequency if "cpu" in only else None,
            follow=follow_children(reader, family) if family else None,
        )
    machine = read_machine(root)
    reports = []
    for earlier in before.processes:
        if earlier.pid not in traced_pids:
            gap = Gap("trace", "it had ended before the trace began", None)
            reports.append(msgspec.structs.replace(earlier, gaps=(*earlier.gaps, gap)))
            continue
        later = _collect_again(root, earlier, options, machine)
        reports.append(merge_trace(earlier, later, result, only, _ENDED))
    if family:
        reports = add_children(reports, family, result, only)
    return Report(generated_at=timestamp(), processes=tuple(reports))


def follow_children(reader: TargetReader, family: FamilyWatcher | None) -> Follow:
    """That children are traced too: as many as files may be open for, two each."""
    wanted = _OTHER_FILES + 2 * MOST_CHILDREN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit = MOST_CHILDREN if soft == RLIM_INFINITY else min(MOST_CHILDREN, max(0, soft - _OTHER_FILES) // 2)

    def note_child(pid: int) -> None:
        reader.hold(pid)
        if family:
            family.add(pid)

    return Follow(limit, note_child)


def add_children(
    reports: Sequence[ProcessReport], family: FamilyWatcher, result: TraceResult, only: frozenset[str]
) -> list[ProcessReport]:
    """The reports with those of the children, in the order of their PIDs."""
    reports = list(reports)
    if result.left_out_count:
        gap = Gap("children", f"{result.left_out_count} more were made and not followed: they were too many", None)
        reports[0] = msgspec.structs.replace(reports[0], gaps=(*reports[0].gaps, gap))
    children = [_merge_child(child, family, result, only) for child in result.children]
    return sorted([*reports, *children], key=lambda report: report.pid)


def _merge_child(child: Child, family: FamilyWatcher, result: TraceResult, only: frozenset[str]) -> ProcessReport:
    """With what /proc says now, or said last; the trace is as long as the child lived."""
    later, last = family.now(child.pid), family.last(child.pid)
    stopped_ns = result.started_ns + result.duration_ns
    ended_ns = stopped_ns if later else min(stopped_ns, result.ended_ns.get(child.pid, stopped_ns))
    names = [activity.name for activity in result.activities or () if activity.tid == child.pid]
    earlier = last.report if last else unseen(child.pid, names[-1] if names else child.name)
    gap = NEVER_SEEN if last is None else seen_before_end(ended_ns / 1e9 - last.at)
    own = msgspec.structs.replace(
        result,
        duration_ns=max(0, ended_ns - max(result.started_ns, child.born_ns)),
        ended_by=result.ended_by if later else "target",
    )
    report = merge_trace(earlier, later, own, only, gap)
    gaps = report.gaps
    if child.pid in result.sharers:
        cause = f"it used the table of process {child.parent_pid}: what it did with it is told there"
        gaps = (*gaps, Gap("descriptors", cause, None))
    return msgspec.structs.replace(report, parent_pid=child.parent_pid, gaps=gaps)


NEVER_SEEN = Gap("process", "it ended before /proc could be read: only what tracing saw is here", None)


def seen_before_end(seconds: float) -> Gap:
    """How old what is told of a process is, that has ended."""
    return Gap("process", f"it has ended; what /proc said is from {max(0.0, seconds):.1f} s before the end", None)


def merge_trace(
    earlier: ProcessReport,
    later: ProcessReport | None,
    result: TraceResult,
    only: frozenset[str],
    gap: Gap,
) -> ProcessReport:
    """One process with what the trace saw of it; without `later`, `gap` says how old `earlier` is."""
    check = result.checks.get(earlier.pid)
    confidence = result.confidence
    if check is not None:
        confidence = msgspec.structs.replace(
            confidence,
            ledger_matches_proc=not check.differences,
            ledger_differences=check.differences,
            ledger_undecided_count=check.undecided_count,
        )
    names = {thread.tid: thread.name for thread in earlier.threads or ()}
    faults = list(result.gaps)
    report = msgspec.structs.replace(
        later or earlier,
        trace=Trace(duration_ns=result.duration_ns, ended_by=result.ended_by, ended_threads=(), confidence=confidence),
    )
    with contained("scheduling", faults):
        report = merge_scheduling(
            report,
            None
            if result.activities is None
            else [
                TracedThread(
                    activity.tid,
                    activity.name or names.get(activity.tid, ""),
                    activity.has_ended,
                    activity.scheduling,
                    activity.waits.waits if activity.waits else None,
                    activity.waits.other_ns if activity.waits else None,
                )
                for activity in result.activities
                if activity.pid == earlier.pid
            ],
            duration_ns=result.duration_ns,
            ended_by=result.ended_by,
            confidence=confidence,
            gap=None if later is not None else gap,
        )
    if report.trace is not None and (folded := result.ended_by_name.get(earlier.pid)):
        trace = msgspec.structs.replace(report.trace, ended_threads_by_name=folded)
        report = msgspec.structs.replace(report, trace=trace)
    if (activity := result.descriptors.get(earlier.pid)) is not None:
        with contained("descriptors", faults):
            report = _merge_activity(report, activity, result, only)
    with contained("CPU samples", faults):
        report = merge_cpu(report, result.cpu.get(earlier.pid, {}))
    with contained("waits", faults):
        report = merge_waits(report, earlier.descriptors or ())
    return msgspec.structs.replace(report, gaps=(*report.gaps, *faults))


def _merge_activity(
    report: ProcessReport, activity: DescriptorActivity, result: TraceResult, only: frozenset[str]
) -> ProcessReport:
    gaps = [] if result.sees_io_uring else [Gap("descriptors", "this kernel's io_uring is not watched", None)]
    if (problem := activity.stack_problem) is not None:
        gaps.append(Gap("call sites", str(problem), problem.remedy))
    return merge_descriptors(
        report,
        activity.trace if "descriptors" in only else None,
        activity.sockets,
        _origins(report, activity, Moments(result.clock_offset_ns)),
        gaps,
        knows_uses=activity.socket_uses is not None,
    )


def _origins(report: ProcessReport, activity: DescriptorActivity, moments: Moments) -> dict[int, Origin]:
    names = {thread.tid: thread.name for thread in report.threads or ()}
    names |= {thread.tid: thread.name for thread in report.trace.ended_threads} if report.trace else {}
    started = None if report.started_at is None else parse_timestamp(report.started_at)
    listed = {descriptor.fd for descriptor in report.descriptors or ()}
    return {
        fd: make_origin(
            activity.opened[fd],
            activity.stacks.get(fd),
            names.get(activity.opened[fd].tid, ""),
            started,
            moments,
            tuple((activity.socket_uses or {}).get(fd, ())),
        )
        for fd in activity.opened.keys() & listed
    }


def make_origin(
    known: OpenDescriptor,
    stack: Stack | None,
    thread_name: str,
    started: float | None,
    moments: Moments,
    events: tuple[DescriptorEvent, ...],
) -> Origin:
    """The birth of a descriptor in words; `started`: when the process did, in seconds since the epoch."""
    maker = entry_point(stack).words() if stack else None
    after = None if started is None else (known.at_ns + moments.offset_ns) / 1e9 - started
    frames: tuple[str, ...] = ()
    if stack is not None:
        frames = format_frames(stack.frames) if known.type == "socket" else site_frames(stack)
    return Origin(
        opened_at=moments.format(known.at_ns),
        syscall=known.call,
        tid=known.tid,
        thread_name=thread_name,
        stack=frames,
        library=site_library(stack),
        maker=tell_maker(maker, f"{thread_name or '?'} {known.tid}", after) if maker else None,
        events=events,
    )


def _collect_again(
    root: ProcDirectory, earlier: ProcessReport, options: CollectOptions, machine: Machine
) -> ProcessReport | None:
    """The same process again; None where it has ended, even if its number belongs to another process by now."""
    try:
        later = collect_process(root, earlier.pid, machine, options)
    except TargetEndedError:
        return None
    return later if later.started_at == earlier.started_at and later.descriptors is not None else None
