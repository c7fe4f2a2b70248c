"""Collects a report with a trace: what /proc says before and after, what the kernel's tracepoints said between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from time import monotonic_ns, time_ns

from threadinfo.collect import CollectOptions, collect_process, collect_report, timestamp
from threadinfo.errors import TargetEndedError
from threadinfo.merge import TracedThread, merge_scheduling
from threadinfo.model import Confidence, DelayEvent, ProcessReport, Report
from threadinfo.proc.process import Machine, read_machine
from threadinfo.proc.reader import ProcDirectory, ProcGoneError
from threadinfo.proc.threads import read_thread_owner, read_thread_states
from threadinfo.trace.scheduling import ReadThreads
from threadinfo.trace.session import Progress, stream_delays, trace_scheduling


@contextlib.contextmanager
def _thread_reader(root: ProcDirectory, pids: Sequence[int]) -> Iterator[ReadThreads]:
    """Yields what lists the threads of the targets; the processes stay the same ones though numbers be used again."""
    with contextlib.ExitStack() as stack:
        held = {}
        for pid in pids:
            with contextlib.suppress(ProcGoneError):
                held[pid] = stack.enter_context(root.directory(str(pid)))
        if not held:
            raise TargetEndedError("every process ended before it could be traced")
        yield lambda: {pid: read_thread_states(process) for pid, process in held.items()}


def collect_traced_report(
    root: ProcDirectory, pids: list[int], options: CollectOptions, seconds: float, progress: Progress
) -> Report:
    """The extended report. A target that ends during the trace is reported as it was before."""
    before = collect_report(root, pids, options)
    traced_pids = [process.pid for process in before.processes]
    with _thread_reader(root, traced_pids) as read_threads:
        result = trace_scheduling(
            traced_pids, seconds, read_threads, lambda tid: read_thread_owner(root, tid), progress
        )
    machine = read_machine(root)
    reports = []
    for earlier in before.processes:
        later = _collect_again(root, earlier, options, machine)
        reports.append(
            merge_scheduling(
                later or earlier,
                [
                    TracedThread(activity.tid, activity.name, activity.scheduling)
                    for activity in result.activities
                    if activity.pid == earlier.pid
                ],
                duration_ns=result.duration_ns,
                ended_by=result.ended_by,
                confidence=result.confidence,
                is_alive=later is not None,
            )
        )
    return Report(generated_at=timestamp(), processes=tuple(reports))


def _collect_again(
    root: ProcDirectory, earlier: ProcessReport, options: CollectOptions, machine: Machine
) -> ProcessReport | None:
    """The same process again; None where it has ended, even if its number belongs to another process by now."""
    try:
        later = collect_process(root, earlier.pid, machine, options)
    except TargetEndedError:
        return None
    return later if later.started_at == earlier.started_at and later.descriptors is not None else None


def stream_delay_events(
    root: ProcDirectory, pids: Sequence[int], seconds: float | None, threshold_ns: int
) -> Iterator[tuple[list[DelayEvent], Confidence]]:
    """Yields the waits longer than a threshold as they happen, with the accounts so far."""
    offset_ns = time_ns() - monotonic_ns()  # once: both clocks of an event are then one
    names: dict[int, str] = {}
    with _thread_reader(root, pids) as read_threads:
        for delays, tracer in stream_delays(pids, seconds, threshold_ns, read_threads):
            events = []
            for delay in delays:
                if delay.held_by_tid is not None and delay.held_by_tid not in names:
                    owner = read_thread_owner(root, delay.held_by_tid) or tracer.names().get(delay.held_by_tid)
                    names[delay.held_by_tid] = f"{owner[1] if owner else '(ended)'} {delay.held_by_tid}"
                events.append(
                    DelayEvent(
                        at_ns=delay.at_ns,
                        time=_moment(delay.at_ns + offset_ns),
                        pid=delay.pid,
                        tid=delay.tid,
                        thread_name=_name_of(root, delay.tid, delay.thread_name),
                        cpu=delay.cpu,
                        wait_ns=delay.wait_ns,
                        held_by=names[delay.held_by_tid] if delay.held_by_tid is not None else None,
                    )
                )
            yield events, tracer.confidence()


def _name_of(root: ProcDirectory, tid: int, name: str) -> str:
    owner = read_thread_owner(root, tid)
    return owner[1] if owner else name


def _moment(epoch_ns: int) -> str:
    """UTC, ISO 8601, to the microsecond."""
    moment = datetime.fromtimestamp(epoch_ns // 1_000_000_000, timezone.utc)
    moment = moment.replace(microsecond=epoch_ns // 1000 % 1_000_000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
