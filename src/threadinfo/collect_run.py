"""A command from its first instruction to its end: what the trace saw, and what /proc said shortly before the end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, TypedDict

from threadinfo.collect import CollectOptions, collect_process, timestamp
from threadinfo.collect_trace import TargetReader, hold_none, hold_targets, merge_trace
from threadinfo.errors import TargetEndedError
from threadinfo.launch import Command
from threadinfo.model import Gap, Memory, ProcessReport, Report
from threadinfo.proc.process import read_machine
from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.trace.descriptors import CodeAccess, ReadLinks
from threadinfo.trace.scheduling import ReadThreads
from threadinfo.trace.session import Awaited, ReadName, TraceResult, trace_processes
from threadinfo.trace.tables import ReadLink

_FIRST_INTERVAL_SECONDS, _LONGEST_INTERVAL_SECONDS = 0.05, 1.0
_FIRST_LOOK_SECONDS = 0.01  # the stacks of a quick process come first
_SHARE = 0.05  # of one CPU, for looking at /proc meanwhile
_ARGUMENTS_AT = 47 - 2  # field 48 of /proc/PID/stat, arg_start, among those after the name


class _Snapshot(NamedTuple):
    report: ProcessReport
    at: float
    """`time.monotonic`."""


class _Watcher:
    """Looks at /proc now and then: a process that has ended says nothing of what it was."""

    def __init__(self, root: ProcDirectory, options: CollectOptions, not_yet: int | None = None) -> None:
        """`not_yet`: where the arguments lie while the process has not called exec yet."""
        self.pid = 0
        self._root, self._options, self._not_yet = root, options, not_yet
        self._machine = read_machine(root)
        self._interval = _FIRST_INTERVAL_SECONDS
        self._next = 0.0
        self._has_begun = False
        self.last: _Snapshot | None = None

    def look(self) -> bool:
        """Takes a snapshot when it is time: soon at first, later as often as costs little. Says whether it did."""
        began = monotonic()
        if self.last is None and not self._has_begun:
            self._has_begun, self._next = True, began + _FIRST_LOOK_SECONDS
        if began < self._next or _arguments_address(self._root, self.pid) in {None, self._not_yet}:
            return False  # or it is ours still, before exec
        try:
            self.last = _Snapshot(collect_process(self._root, self.pid, self._machine, self._options), began)
        except TargetEndedError:
            return False
        cost = monotonic() - began
        self._interval = min(2 * self._interval, _LONGEST_INTERVAL_SECONDS)
        self._next = monotonic() + max(self._interval, cost / _SHARE)
        return True

    def now(self) -> ProcessReport | None:
        """What /proc says now; None where the process has ended."""
        try:
            return collect_process(self._root, self.pid, self._machine, self._options)
        except TargetEndedError:
            return None


def _arguments_address(root: ProcDirectory, pid: int) -> int | None:
    """Where the arguments lie in memory: another place after exec. None for a process that has ended."""
    try:
        fields = root.read(f"{pid}/stat").rpartition(b")")[2].split()
        return int(fields[_ARGUMENTS_AT]) or None
    except (ProcError, ValueError, IndexError):
        return None


def collect_run(
    root: ProcDirectory,
    command: Command,
    options: CollectOptions,
    only: frozenset[str],
    note_end: Callable[[], int],
) -> tuple[Report, int]:
    """Lets the command begin when everything is attached; the report, and what `note_end` gives: its exit status.

    Raises NotAvailableError, with the command not begun, where tracing is impossible.
    """
    watcher = _Watcher(root, options, not_yet=_arguments_address(root, os.getpid()))
    watcher.pid = command.pid

    def on_tick() -> bool:
        command.pass_signals_on()
        return watcher.look()

    with hold_targets(root, [command.pid]) as reader:
        result = trace_processes(
            [command.pid],
            math.inf,
            **_tracing(reader, only),
            read_pids=root.numbers,
            progress=lambda _seconds, _events: None,
            on_watching=command.release,
            on_tick=on_tick,
            is_interruptible=False,
        )
        status = note_end()
    merged = _merge_last(watcher, result, only, command.arguments)
    return Report(generated_at=timestamp(), processes=(merged,)), status


def collect_awaited(
    root: ProcDirectory,
    name: str,
    seconds: float,
    options: CollectOptions,
    only: frozenset[str],
    on_waiting: Callable[[], None],
) -> Report:
    """Waits for the next process of a name, and traces it from its exec, for a time or until it ends."""
    watcher = _Watcher(root, options)
    with hold_none(root) as reader:

        def note_come(pid: int) -> None:
            reader.hold(pid)
            watcher.pid = pid

        result = trace_processes(
            [],
            seconds,
            **_tracing(reader, only),
            read_pids=root.numbers,
            progress=lambda _seconds, _events: None,
            on_tick=watcher.look,
            awaited=Awaited(name, on_waiting, note_come),
        )
    return Report(generated_at=timestamp(), processes=(_merge_last(watcher, result, only, (name,)),))


class _Tracing(TypedDict):
    with_scheduling: bool
    with_descriptors: bool
    with_sockets: bool
    code: CodeAccess
    read_threads: ReadThreads
    read_name: ReadName
    read_links: ReadLinks
    read_link: ReadLink


def _tracing(reader: TargetReader, only: frozenset[str]) -> _Tracing:
    return {
        "with_scheduling": "scheduling" in only,
        "with_descriptors": bool(only & {"descriptors", "sockets"}),
        "with_sockets": "sockets" in only,
        "code": CodeAccess(reader.maps, reader.open_mapping),
        "read_threads": reader.threads,
        "read_name": reader.name,
        "read_links": reader.links,
        "read_link": reader.link,
    }


def _merge_last(
    watcher: _Watcher, result: TraceResult, only: frozenset[str], command: tuple[str, ...]
) -> ProcessReport:
    """With what /proc says now, or said last."""
    ended = monotonic()
    later = watcher.now() if result.ended_by != "target" else None
    if watcher.last is None:
        earlier = _unseen(watcher.pid, command)
        gap = Gap("process", "it ended before /proc could be read: only what tracing saw is here", None)
    else:
        earlier = watcher.last.report
        age = ended - watcher.last.at
        gap = Gap("process", f"it has ended; what /proc said is from {age:.1f} s before the end", None)
    return merge_trace(earlier, later, result, only, gap)


def _unseen(pid: int, command: tuple[str, ...]) -> ProcessReport:
    """What is known of a command that was too quick."""
    return ProcessReport(
        pid=pid,
        name=os.path.basename(command[0])[:15],
        executable=None,
        command_line=command,
        user=None,
        started_at=None,
        memory=Memory(),
        threads=None,
        descriptors=None,
        limits=None,
    )
