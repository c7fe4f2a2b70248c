"""A command from its first instruction to its end: what the trace saw, and what /proc said shortly before the end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic

import msgspec

from threadinfo.collect.family import FamilyRecord
from threadinfo.collect.launch import Command
from threadinfo.collect.process import CollectOptions, timestamp, unseen
from threadinfo.collect.target_reader import hold_none, hold_targets
from threadinfo.collect.traced import (
    NEVER_SEEN,
    merge_trace,
    seen_before_end,
    trace_options,
    with_commands,
)
from threadinfo.collect.watcher import Watcher, arguments_address
from threadinfo.model import ProcessReport, Report
from threadinfo.proc.reader import ProcDirectory
from threadinfo.trace.session.awaited import NAME_BYTES
from threadinfo.trace.session.session import Awaited, Hooks, TraceResult, trace_processes


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

    def on_tick() -> bool:
        command.pass_signals_on()
        has_looked = family.look() if family else False
        return watcher.look() or has_looked

    with hold_targets(root, [command.pid]) as reader:
        family = FamilyRecord(root, options, reader) if with_children else None
        hooks = Hooks(
            on_watching=command.release,
            on_tick=on_tick,
            on_child=family.welcome if family else None,
            on_ended=family.note_ended if family else None,
            is_over=lambda: command.is_asked_to_end,
            is_interruptible=False,
        )
        result = trace_processes(reader, math.inf, trace_options(only, options, with_children=with_children), hooks)
        status = command.wait()
    asked = [_merge_last(watcher, result, only, command.arguments)]
    return _report(root, asked, family, result, only), status


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

    def look() -> bool:
        has_looked = family.look() if family else False
        return watcher.look() or has_looked

    with hold_none(root) as reader:
        family = FamilyRecord(root, options, reader) if with_children else None

        def note_come(pid: int) -> None:
            reader.hold(pid)
            watcher.pid = pid

        result = trace_processes(
            reader,
            seconds,
            trace_options(only, options, with_children=with_children),
            Hooks(
                on_tick=look,
                on_child=family.welcome if family else None,
                on_ended=family.note_ended if family else None,
            ),
            Awaited(name, on_waiting, note_come),
        )
    return _report(root, [_merge_last(watcher, result, only, (name,))], family, result, only)


def _report(
    root: ProcDirectory,
    asked: list[ProcessReport],
    family: FamilyRecord | None,
    result: TraceResult,
    only: frozenset[str],
) -> Report:
    if family is None:
        return Report(generated_at=timestamp(), processes=tuple(with_commands(root, asked)))
    every, summary = family.told(asked, [], result, only)
    return Report(generated_at=timestamp(), processes=tuple(with_commands(root, every)), family=summary)


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
