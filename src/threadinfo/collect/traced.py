"""Collects a report with a trace: what /proc says before and after, what the kernel's tracepoints said between."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from resource import RLIM_INFINITY
from typing import NamedTuple

import msgspec

from threadinfo.collect.process import (
    CollectOptions,
    collect_process,
    collect_report,
    parse_timestamp,
    timestamp,
    unseen,
)
from threadinfo.collect.target_reader import TargetReader, hold_targets
from threadinfo.collect.watcher import FamilyWatcher
from threadinfo.containment import contained
from threadinfo.errors import TargetEndedError
from threadinfo.merge import TracedThread, merge_cpu, merge_descriptors, merge_scheduling, merge_waits
from threadinfo.model import DescriptorEvent, Gap, Origin, ProcessReport, Report, Trace, TraceTable
from threadinfo.proc.process import Machine, read_machine
from threadinfo.proc.reader import ProcDirectory
from threadinfo.socket_story import tell_maker
from threadinfo.trace.cpu.tracer import CpuActivity
from threadinfo.trace.descriptors.events import Moments
from threadinfo.trace.descriptors.ledger import OpenDescriptor
from threadinfo.trace.descriptors.tracer import DescriptorActivity
from threadinfo.trace.scheduling.tracer import SchedulingActivity
from threadinfo.trace.session.following import Child
from threadinfo.trace.session.session import Hooks, TraceResult, trace_processes
from threadinfo.trace.session.target import TraceOptions
from threadinfo.trace.stacks.site_groups import entry_point, format_frames, site_frames, site_library
from threadinfo.trace.stacks.unwinder import Stack

MOST_CHILDREN = 1000
"""That are followed: each may hold two of our descriptors, and a section of the report."""
_OTHER_FILES = 256  # of ours
_ENDED = Gap("process", "it ended during the trace; what /proc said is from before the trace", None)


def collect_traced_report(
    root: ProcDirectory,
    pids: list[int],
    options: CollectOptions,
    seconds: float,
    only: frozenset[str],
    progress: Callable[[float, int], None] | None,
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
        hooks = Hooks(
            progress=progress,
            on_tick=family.look if family else None,
            on_child=welcome_child(reader, family) if family else None,
        )
        result = trace_processes(reader, seconds, trace_options(only, options, with_children=with_children), hooks)
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


def trace_options(only: frozenset[str], options: CollectOptions, *, with_children: bool) -> TraceOptions:
    """What a report's trace watches."""
    return TraceOptions(
        only,
        frequency=options.frequency,
        debuginfod=options.debuginfod,
        follow_limit=allow_children() if with_children else 0,
    )


def allow_children() -> int:
    """How many children may be traced: as many as files may be open for, two each."""
    wanted = _OTHER_FILES + 2 * MOST_CHILDREN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_CHILDREN if soft == RLIM_INFINITY else min(MOST_CHILDREN, max(0, soft - _OTHER_FILES) // 2)


def welcome_child(reader: TargetReader, family: FamilyWatcher | None) -> Callable[[int], None]:
    """What holds a child that is traced from now on, and looks at it."""

    def hold(pid: int) -> None:
        reader.hold(pid)
        if family:
            family.add(pid)

    return hold


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
    seen = seen_of(result, child.pid)
    names = [thread.name for thread in seen.scheduling.threads if thread.tid == child.pid] if seen.scheduling else []
    earlier = last.report if last else unseen(child.pid, names[-1] if names else child.name)
    gap = NEVER_SEEN if last is None else seen_before_end(ended_ns / 1e9 - last.at)
    own = msgspec.structs.replace(
        result,
        duration_ns=max(0, ended_ns - max(result.started_ns, child.born_ns)),
        ended_by=result.ended_by if later else "target",
    )
    report = merge_trace(earlier, later, own, only, gap)
    gaps = report.gaps
    if seen.descriptors and seen.descriptors.shares_table:
        cause = f"it used the table of process {child.parent_pid}: what it did with it is told there"
        gaps = (*gaps, Gap("descriptors", cause, None))
    return msgspec.structs.replace(report, parent_pid=child.parent_pid, gaps=gaps)


NEVER_SEEN = Gap("process", "it ended before /proc could be read: only what tracing saw is here", None)


def seen_before_end(seconds: float) -> Gap:
    """How old what is told of a process is, that has ended."""
    return Gap("process", f"it has ended; what /proc said is from {max(0.0, seconds):.1f} s before the end", None)


class Seen(NamedTuple):
    """What each tracer saw of one process; None: it was not asked for, or a fault of ours costs it."""

    scheduling: SchedulingActivity | None
    descriptors: DescriptorActivity | None
    cpu: CpuActivity | None


def seen_of(result: TraceResult, pid: int) -> Seen:
    """The parts of a result by their types."""
    values = {type(value): value for value in result.activities.get(pid, ())}
    return Seen(values.get(SchedulingActivity), values.get(DescriptorActivity), values.get(CpuActivity))  # type: ignore[arg-type]


def merge_trace(
    earlier: ProcessReport,
    later: ProcessReport | None,
    result: TraceResult,
    only: frozenset[str],
    gap: Gap,
) -> ProcessReport:
    """One process with what the trace saw of it; without `later`, `gap` says how old `earlier` is."""
    seen = seen_of(result, earlier.pid)
    confidence = result.confidence
    if seen.descriptors and (check := seen.descriptors.check) is not None:
        confidence = msgspec.structs.replace(
            confidence,
            ledger_matches_proc=not check.differences,
            ledger_differences=check.differences,
            ledger_undecided_count=check.undecided_count,
        )
    faults = list(result.gaps)
    tables = tuple(value for value in result.activities.get(earlier.pid, ()) if isinstance(value, TraceTable))
    report = later or earlier
    report = msgspec.structs.replace(
        report,
        trace=Trace(
            duration_ns=result.duration_ns,
            ended_by=result.ended_by,
            ended_threads=(),
            tables=tables,
            confidence=confidence,
        ),
        gaps=report.gaps if later is not None else (*report.gaps, gap),
    )
    if seen.scheduling is not None:
        names = {thread.tid: thread.name for thread in earlier.threads or ()}
        with contained("scheduling", faults):
            report = merge_scheduling(
                report,
                [
                    TracedThread(
                        one.tid,
                        one.name or names.get(one.tid, ""),
                        one.has_ended,
                        one.scheduling,
                        one.waits.waits if one.waits else None,
                        one.waits.other_ns if one.waits else None,
                    )
                    for one in seen.scheduling.threads
                ],
                seen.scheduling.ended_by_name,
            )
    if seen.descriptors is not None:
        with contained("descriptors", faults):
            report = _merge_activity(report, seen.descriptors, result, only)
    if seen.cpu is not None:
        with contained("CPU samples", faults):
            report = merge_cpu(report, seen.cpu.threads)
    with contained("waits", faults):
        report = merge_waits(report, earlier.descriptors or ())
    return msgspec.structs.replace(report, gaps=(*report.gaps, *faults))


def _merge_activity(
    report: ProcessReport, activity: DescriptorActivity, result: TraceResult, only: frozenset[str]
) -> ProcessReport:
    gaps = [] if activity.sees_io_uring else [Gap("descriptors", "this kernel's io_uring is not watched", None)]
    if (problem := activity.stack_problem) is not None:
        gaps.append(Gap("call sites", str(problem), problem.remedy))
    return merge_descriptors(
        report,
        activity.trace if "descriptors" in only else None,
        activity.sockets,
        _origins(report, activity, Moments(result.clock_offset_ns)),
        gaps,
        knows_uses=activity.knows_uses,
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
