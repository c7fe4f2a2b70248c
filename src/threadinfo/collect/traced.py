"""Joins what a trace saw of a process with what /proc says of it: before and after, or shortly before its end."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from resource import RLIM_INFINITY
from typing import NamedTuple

import msgspec

from threadinfo.collect.process import (
    CollectOptions,
    parse_timestamp,
)
from threadinfo.containment import contained
from threadinfo.merge import TracedThread, merge_cpu, merge_descriptors, merge_scheduling, merge_waits
from threadinfo.model import DelayedBy, DescriptorEvent, Gap, Origin, ProcessReport, Scheduling, Trace, TraceTable
from threadinfo.proc.process import read_command_line
from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.proc.threads import read_thread_owner
from threadinfo.socket_story import tell_maker
from threadinfo.trace.cpu.tracer import CpuActivity
from threadinfo.trace.descriptors.events import Moments
from threadinfo.trace.descriptors.ledger import OpenDescriptor
from threadinfo.trace.descriptors.tracer import DescriptorActivity
from threadinfo.trace.scheduling.tracer import SchedulingActivity
from threadinfo.trace.session.session import TraceResult
from threadinfo.trace.session.target import TraceOptions
from threadinfo.trace.stacks.site_groups import entry_point, format_frames, site_frames, site_library
from threadinfo.trace.stacks.unwinder import Stack

MOST_CHILDREN = 1000
"""That are followed at once: each may hold two of our descriptors."""
_OTHER_FILES = 256  # of ours
_NAMED_HOLDERS = 3  # of each thread, whose command lines are told
_COMMAND_CHARACTERS = 80


def trace_options(only: frozenset[str], options: CollectOptions, *, with_children: bool) -> TraceOptions:
    """What a report's trace watches."""
    return TraceOptions(
        only,
        frequency=options.frequency,
        with_stacks=options.with_stacks,
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


NEVER_SEEN = Gap("process", "it ended before /proc could be read: only what tracing saw is here", None)


def seen_before_end(seconds: float) -> Gap:
    """How old what is told of a process is, that has ended."""
    return Gap("process", f"it has ended; what /proc said is from {max(0.0, seconds):.1f} s before the end", None)


class Seen(NamedTuple):
    """What each tracer saw of one process; None: it was not asked for, or a fault of ours costs it."""

    scheduling: SchedulingActivity | None
    descriptors: DescriptorActivity | None
    cpu: CpuActivity | None


def seen_of(activities: Sequence[object]) -> Seen:
    """What the tracers saw, by its types."""
    values = {type(value): value for value in activities}
    return Seen(values.get(SchedulingActivity), values.get(DescriptorActivity), values.get(CpuActivity))  # type: ignore[arg-type]


def merge_trace(
    earlier: ProcessReport,
    later: ProcessReport | None,
    result: TraceResult,
    only: frozenset[str],
    gap: Gap,
) -> ProcessReport:
    """One process with what the trace saw of it; without `later`, `gap` says how old `earlier` is."""
    seen = seen_of(result.activities.get(earlier.pid, ()))
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


def with_commands(root: ProcDirectory, reports: Sequence[ProcessReport]) -> list[ProcessReport]:
    """The reports with the command lines of other processes that held the CPU, as far as those live."""
    known: dict[int, str | None] = {}

    def command(one: DelayedBy) -> str | None:
        if one.pid is None or one.tid is None:
            return None
        if one.pid not in known:
            known[one.pid] = _read_command(root, one.pid, one.tid)
        return known[one.pid]

    def told(own: int, scheduling: Scheduling) -> Scheduling:
        first = scheduling.delayed_by[:_NAMED_HOLDERS]
        named = (one if one.pid == own else msgspec.structs.replace(one, command=command(one)) for one in first)
        return msgspec.structs.replace(scheduling, delayed_by=(*named, *scheduling.delayed_by[_NAMED_HOLDERS:]))

    found = []
    for report in reports:
        threads = report.threads
        if threads is not None:
            threads = tuple(
                msgspec.structs.replace(one, scheduling=told(report.pid, one.scheduling)) if one.scheduling else one
                for one in threads
            )
        found.append(msgspec.structs.replace(report, threads=threads))
    return found


def _read_command(root: ProcDirectory, pid: int, tid: int) -> str | None:
    """None where the process has ended, or its number is another's."""
    try:
        owner = read_thread_owner(root, tid)
        if owner is None or owner[0] != pid:
            return None
        with root.directory(str(pid)) as process:
            line = read_command_line(process)
    except ProcError:
        return None
    first, *arguments = line or ("",)
    return " ".join([first.rpartition("/")[2], *arguments])[:_COMMAND_CHARACTERS].strip() or None
