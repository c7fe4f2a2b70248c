"""What a trace saw of a process, and how far it is to be trusted."""

from __future__ import annotations

from typing import Literal

import msgspec

from threadinfo.model.churn import DescriptorTrace, LedgerDifference
from threadinfo.model.events import SocketTrace
from threadinfo.model.scheduling import SchedulingDifference
from threadinfo.model.threads import EndedThread, EndedThreads
from threadinfo.model.waits import Lock


class Confidence(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what happened the trace saw, and what watching cost."""

    seen_count: int
    """Events of the traced threads."""
    lost_count: int
    """Records that the kernel could not hand over."""
    omitted_line_count: int = 0
    """Of a live stream whose reader was slow; totals and ledger never omit."""
    map_full_count: int
    """Threads, wakers, holders or tables that found no room."""
    unreadable_count: int = 0
    """Paths, addresses and messages that could not be read from the process's memory, or not whole."""
    undecoded_count: int = 0
    """32-bit calls, which are not decoded."""
    missed_count: int | None
    """Runs of a program that the kernel left out, and events that must have been there: the next one does not fit."""
    program_ns_per_event: float | None
    """Run time of the programs, from the kernel's own statistics over a short slice."""
    tool_cpu_seconds: float
    """CPU time of threadinfo itself, compilation included."""
    ledger_matches_proc: bool | None = None
    """Whether the ledger of descriptors and /proc agree at the end; None: not traced, or the process has ended."""
    ledger_differences: tuple[LedgerDifference, ...] = ()
    ledger_undecided_count: int = 0
    """Numbers that moved while /proc was read for the comparison."""
    scheduling_matches_kernel: bool | None = None
    """Whether times and switches of the threads agree with schedstat and status of /proc; None: none was compared."""
    scheduling_differences: tuple[SchedulingDifference, ...] = ()
    scheduling_compared_count: int = 0
    """Threads."""
    scheduling_not_compared_count: int = 0
    """Threads that ended, or that had an account already when the trace met them."""


class TraceTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table that a tracer hands over, shown as it is: of what has no fields of its own here."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]
    """A cell for each column."""
    omitted_count: int = 0
    """Rows that were left out."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What tracing saw of a process."""

    duration_ns: int
    ended_by: Literal["duration", "interrupt", "target"]
    """Whether the time was over, the user interrupted, or the process ended."""
    ended_threads: tuple[EndedThread, ...]
    ended_threads_by_name: tuple[EndedThreads, ...] = ()
    """Those that are not in `ended_threads`, most time on a CPU first."""
    locks: tuple[Lock, ...] = ()
    """Most waiting first; of a trace of waits."""
    descriptors: DescriptorTrace | None = None
    sockets: SocketTrace | None = None
    tables: tuple[TraceTable, ...] = ()
    """What tracers hand over that have no fields of their own here."""
    confidence: Confidence
