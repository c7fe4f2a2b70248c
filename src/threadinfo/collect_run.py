"""A command from its first instruction to its end: what the trace saw, and what /proc said shortly before the end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from threadinfo.collect import CollectOptions, collect_process, timestamp
from threadinfo.collect_trace import hold_targets, merge_trace
from threadinfo.errors import TargetEndedError
from threadinfo.launch import Command
from threadinfo.model import Gap, Memory, ProcessReport, Report
from threadinfo.proc.process import read_machine
from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.trace.descriptors import CodeAccess
from threadinfo.trace.session import trace_processes

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

    def __init__(self, root: ProcDirectory, pid: int, options: CollectOptions) -> None:
        self._root, self._pid, self._options = root, pid, options
        self._machine = read_machine(root)
        self._interval = _FIRST_INTERVAL_SECONDS
        self._next = 0.0
        self._has_begun = False
        self._own_arguments = _arguments_address(root, os.getpid())
        self.last: _Snapshot | None = None

    def look(self) -> bool:
        """Takes a snapshot when it is time: soon at first, later as often as costs little. Says whether it did."""
        began = monotonic()
        if self.last is None and not self._has_begun:
            self._has_begun, self._next = True, began + _FIRST_LOOK_SECONDS
        if began < self._next or _arguments_address(self._root, self._pid) in {None, self._own_arguments}:
            return False  # or it is ours still, before exec
        try:
            self.last = _Snapshot(collect_process(self._root, self._pid, self._machine, self._options), began)
        except TargetEndedError:
            return False
        cost = monotonic() - began
        self._interval = min(2 * self._interval, _LONGEST_INTERVAL_SECONDS)
        self._next = monotonic() + max(self._interval, cost / _SHARE)
        return True


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
    watcher = _Watcher(root, command.pid, options)
    with hold_targets(root, [command.pid]) as reader, command.signals_passed_on():
        result = trace_processes(
            [command.pid],
            math.inf,
            with_scheduling="scheduling" in only,
            with_descriptors=bool(only & {"descriptors", "sockets"}),
            with_sockets="sockets" in only,
            code=CodeAccess(reader.maps, reader.open_mapping),
            read_threads=reader.threads,
            read_name=reader.name,
            read_links=reader.links,
            read_link=reader.link,
            read_pids=root.numbers,
            progress=lambda _seconds, _events: None,
            on_watching=command.release,
            on_tick=watcher.look,
            is_interruptible=False,
        )
        status = note_end()
    ended = monotonic()
    if watcher.last is None:
        earlier = _unseen(command)
        gap = Gap("process", "it ended before /proc could be read: only what tracing saw is here", None)
    else:
        earlier = watcher.last.report
        age = ended - watcher.last.at
        gap = Gap("process", f"it has ended; what /proc said is from {age:.1f} s before the end", None)
    merged = merge_trace(earlier, None, result, only, gap)
    return Report(generated_at=timestamp(), processes=(merged,)), status


def _unseen(command: Command) -> ProcessReport:
    """What is known of a command that was too quick."""
    return ProcessReport(
        pid=command.pid,
        name=os.path.basename(command.arguments[0])[:15],
        executable=None,
        command_line=command.arguments,
        user=None,
        started_at=None,
        memory=Memory(),
        threads=None,
        descriptors=None,
        limits=None,
    )
