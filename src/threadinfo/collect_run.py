"""A command from its first instruction to its end: what the trace saw, and what /proc said shortly before the end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic
from typing import TypedDict

import msgspec

from threadinfo.collect import CollectOptions, timestamp, unseen
from threadinfo.collect_trace import (
    NEVER_SEEN,
    TargetReader,
    add_children,
    follow_children,
    hold_none,
    hold_targets,
    merge_trace,
    seen_before_end,
)
from threadinfo.launch import Command
from threadinfo.model import ProcessReport, Report
from threadinfo.proc.reader import ProcDirectory
from threadinfo.trace.awaited import NAME_BYTES
from threadinfo.trace.descriptors import CodeAccess, ReadLinks, ReadNumbers
from threadinfo.trace.kernel_accounts import ReadAccount
from threadinfo.trace.scheduling import ReadThreads
from threadinfo.trace.session import Awaited, ReadName, TraceResult, trace_processes
from threadinfo.trace.waits import ReadCall
from threadinfo.watcher import FamilyWatcher, Watcher, arguments_address


def collect_run(
    root: ProcDirectory,
    command: Command,
    options: CollectOptions,
    only: frozenset[str],
    *,
    with_children: bool = False,
) -> tuple[Report, int]:
    """Lets the command begin when everything is attached; the report, and its exit status.

    `with_children`: the processes that it makes are traced and reported too, until the last of them has ended or, once
    the command has, a signal asks us to end. Raises NotAvailableError, with the command not begun, where tracing is
    impossible.
    """
    watcher = Watcher(root, options, not_yet=arguments_address(root, os.getpid()))
    watcher.pid = command.pid
    family = FamilyWatcher(root, options) if with_children else None

    def on_tick() -> bool:
        command.pass_signals_on()
        has_looked = family.look() if family else False
        return watcher.look() or has_looked

    with hold_targets(root, [command.pid]) as reader:
        result = trace_processes(
            [command.pid],
            math.inf,
            **_tracing(reader, only, options),
            read_pids=root.numbers,
            progress=lambda _seconds, _events: None,
            on_watching=command.release,
            on_tick=on_tick,
            is_interruptible=False,
            follow=follow_children(reader, family) if family else None,
            is_over=lambda: command.is_asked_to_end,
        )
        status = command.wait()
    reports = [_merge_last(watcher, result, only, command.arguments)]
    if family:
        reports = add_children(reports, family, result, only)
    return Report(generated_at=timestamp(), processes=tuple(reports)), status


def collect_awaited(
    root: ProcDirectory,
    name: str,
    seconds: float,
    options: CollectOptions,
    only: frozenset[str],
    on_waiting: Callable[[], None],
    *,
    with_children: bool = False,
) -> Report:
    """Waits for the next process of a name, and traces it from its exec, for a time or until it ends."""
    watcher = Watcher(root, options)
    family = FamilyWatcher(root, options) if with_children else None

    def look() -> bool:
        has_looked = family.look() if family else False
        return watcher.look() or has_looked

    with hold_none(root) as reader:

        def note_come(pid: int) -> None:
            reader.hold(pid)
            watcher.pid = pid

        result = trace_processes(
            [],
            seconds,
            **_tracing(reader, only, options),
            read_pids=root.numbers,
            progress=lambda _seconds, _events: None,
            on_tick=look,
            awaited=Awaited(name, on_waiting, note_come),
            follow=follow_children(reader, family) if family else None,
        )
    reports = [_merge_last(watcher, result, only, (name,))]
    if family:
        reports = add_children(reports, family, result, only)
    return Report(generated_at=timestamp(), processes=tuple(reports))


class _Tracing(TypedDict):
    with_scheduling: bool
    with_descriptors: bool
    with_sockets: bool
    code: CodeAccess
    read_threads: ReadThreads
    read_account: ReadAccount
    read_call: ReadCall | None
    read_name: ReadName
    read_links: ReadLinks
    read_numbers: ReadNumbers
    frequency: int | None


def _tracing(reader: TargetReader, only: frozenset[str], options: CollectOptions) -> _Tracing:
    return {
        "with_scheduling": bool(only & {"scheduling", "waits"}),
        "with_descriptors": bool(only & {"descriptors", "sockets"}),
        "with_sockets": "sockets" in only,
        "code": CodeAccess(reader.maps, reader.open_mapping, options.debuginfod),
        "read_threads": reader.threads,
        "read_account": reader.account,
        "read_call": reader.call if "waits" in only else None,
        "read_name": reader.name,
        "read_links": reader.links,
        "read_numbers": reader.numbers,
        "frequency": options.frequency if "cpu" in only else None,
    }


def _merge_last(watcher: Watcher, result: TraceResult, only: frozenset[str], command: tuple[str, ...]) -> ProcessReport:
    """With what /proc says now, or said last."""
    later = watcher.now() if result.ended_by != "target" else None
    if later is None:  # its children may have been waited for
        result = msgspec.structs.replace(result, ended_by="target")
    if watcher.last is None:
        name = os.path.basename(command[0])[:NAME_BYTES]
        return merge_trace(unseen(watcher.pid, name, command), later, result, only, NEVER_SEEN)
    ended_ns = result.ended_ns.get(watcher.pid)
    ended = monotonic() if ended_ns is None else ended_ns / 1e9
    return merge_trace(watcher.last.report, later, result, only, seen_before_end(ended - watcher.last.at))
