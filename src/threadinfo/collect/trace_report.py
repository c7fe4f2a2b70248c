"""Collects a report with a trace: what /proc says before and after, what the kernel's tracepoints said between."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from threadinfo.collect.family import MOST_TOLD, FamilyRecord, busy_ns, descendants
from threadinfo.collect.process import CollectOptions, collect_process, collect_report, timestamp
from threadinfo.collect.target_reader import hold_targets
from threadinfo.collect.traced import merge_trace, trace_options, with_commands
from threadinfo.errors import TargetEndedError
from threadinfo.model import Family, Gap, ProcessReport, Report
from threadinfo.proc.process import Machine, read_machine
from threadinfo.proc.reader import ProcDirectory
from threadinfo.trace.session.session import Hooks, trace_processes

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
    """The extended report; `only`: some of "scheduling", "descriptors" and "sockets".

    A target that ends during the trace is reported as it was before. `with_children`: processes that came from the
    targets, or that they make meanwhile, are traced and reported too.
    """
    parents = descendants(root, pids) if with_children else {}
    before = collect_report(root, [*pids, *parents], options)
    with hold_targets(root, [process.pid for process in before.processes]) as reader:
        traced_pids = reader.pids
        family = FamilyRecord(root, options, reader) if with_children else None
        hooks = Hooks(
            progress=progress,
            on_tick=family.look if family else None,
            on_child=family.welcome if family else None,
            on_ended=family.note_ended if family else None,
        )
        result = trace_processes(reader, seconds, trace_options(only, options, with_children=with_children), hooks)
    machine = read_machine(root)
    reports: list[ProcessReport] = []
    older: list[tuple[ProcessReport, bool]] = []
    for earlier in sorted(before.processes, key=lambda report: -busy_ns(result.activities.get(report.pid, ()))):
        if earlier.pid not in traced_pids:
            gap = Gap("trace", "it had ended before the trace began", None)
            reports.append(msgspec.structs.replace(earlier, gaps=(*earlier.gaps, gap)))
            continue
        if len(older) >= MOST_TOLD and earlier.pid in parents:
            older.append((earlier, True))
            continue
        later = _collect_again(root, earlier, options, machine)
        report = merge_trace(earlier, later, result, only, _ENDED)
        if earlier.pid in parents:
            report = msgspec.structs.replace(report, parent_pid=parents[earlier.pid], is_older=True)
            older.append((report, later is not None))
        else:
            reports.append(report)
    summary: Family | None = None
    if family is None:
        every = sorted(reports, key=lambda report: report.pid)
    else:
        every, summary = family.told(reports, older, result, only)
    return Report(generated_at=timestamp(), processes=tuple(with_commands(root, every)), family=summary)


def _collect_again(
    root: ProcDirectory, earlier: ProcessReport, options: CollectOptions, machine: Machine
) -> ProcessReport | None:
    """The same process again; None where it has ended, even if its number belongs to another process by now."""
    try:
        later = collect_process(root, earlier.pid, machine, options)
    except TargetEndedError:
        return None
    return later if later.started_at == earlier.started_at and later.descriptors is not None else None
