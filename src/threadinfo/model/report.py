"""A report: its processes, what stands out of them, the family they are of."""

from __future__ import annotations

from typing import Literal

import msgspec

from threadinfo.model.descriptors import Descriptor
from threadinfo.model.memory import Limits, Memory
from threadinfo.model.threads import Thread
from threadinfo.model.trace import Trace
from threadinfo.model.values import Gap


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that stands out: one of a kind, for the worst thread or descriptor and those that are like it."""

    kind: str
    """For example "thread_waits_for_cpu"."""
    severity: Literal["high", "medium", "low"]
    words: str
    """What was found, with its number."""
    value: float
    """The number that crossed the threshold, in `unit`."""
    threshold: float
    unit: Literal["percent", "ns", "bytes", "count"]
    rule: str
    """The threshold in words, with the smallest amounts that count."""
    advice: str
    """What to do next."""
    tids: tuple[int, ...] = ()
    """The threads that it is about, the worst first."""
    fds: tuple[int, ...] = ()
    """The descriptors that it is about, the worst first."""


class ProcessReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one process."""

    pid: int
    name: str
    """The kernel's name of the process, or, where that was cut off at 15 characters, the executable's."""
    executable: str | None
    command_line: tuple[str, ...]
    user: str | None
    started_at: str | None
    """UTC, ISO 8601."""
    memory: Memory
    threads: tuple[Thread, ...] | None
    """In the order of their numbers; None where they could not be listed."""
    descriptors: tuple[Descriptor, ...] | None
    """In the order of their numbers; None where they could not be listed."""
    limits: Limits | None
    trace: Trace | None = None
    """What tracing saw; null without a trace."""
    parent_pid: int | None = None
    """Of a child that was followed: the process that made it, or, of one that is older than the trace, its parent."""
    is_fork: bool | None = None
    """Of a child: it executed nothing, so that name and command line are its parent's; null: not known."""
    is_older: bool = False
    """Of a child that was followed: it was there when the trace began."""
    findings: tuple[Finding, ...] = ()
    """What stands out, the most urgent first; made anew from the rest whenever a report is rendered."""
    gaps: tuple[Gap, ...] = ()


class FamilyCommand(msgspec.Struct, frozen=True, kw_only=True):
    """Processes of a family that ran the same command, added up."""

    name: str
    executable: str | None
    command: str
    """The command line, as far as it is known, with # for numbers."""
    is_fork: bool | None
    """They executed nothing: name and command are their parents'; null: not known."""
    count: int
    alive_count: int
    """At the end of the trace."""
    on_cpu_ns: int | None
    """Null where scheduling was not watched; so are the next two."""
    run_queue_ns: int | None
    blocked_ns: int | None
    opened_count: int | None
    """Descriptors; null where they were not watched."""
    failed_count: int | None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """The processes that came from those that were asked for, by --follow; these are not among them."""

    older_count: int
    """They were there when the trace began."""
    made_count: int
    """Made during the trace, and followed."""
    left_out_count: int
    """Made and not followed: too many lived at once."""
    alive_count: int
    told_count: int
    """That have a report of their own: those that ran and waited for a CPU most."""
    commands: tuple[FamilyCommand, ...]
    """All of them, by executable and command, those that ran most first."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the command: every process that was asked for, in PID order."""

    schema: Literal["threadinfo.report/1"] = "threadinfo.report/1"
    generated_at: str
    """UTC, ISO 8601."""
    processes: tuple[ProcessReport, ...]
    family: Family | None = None
    """With --follow."""
