"""The memory of a process, and what limits it."""

from __future__ import annotations

import msgspec


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of the process."""

    virtual_bytes: int | None = None
    """/proc/PID/status, VmSize."""
    resident_bytes: int | None = None
    """/proc/PID/status, VmRSS."""
    swap_bytes: int | None = None
    """/proc/PID/status, VmSwap."""
    percent: float | None = None
    """resident_bytes in percent of the machine's MemTotal."""
    rss_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Rss: exact, where VmRSS is a counter that lags."""
    pss_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Pss: shared pages divided by their users."""
    mapped_swap_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Swap: includes swapped shared memory, which VmSwap does not."""


class OpenFilesLimit(msgspec.Struct, frozen=True):
    """A limit as /proc/PID/limits has it; None is "unlimited"."""

    soft: int | None
    hard: int | None


class Limits(msgspec.Struct, frozen=True):
    """The resource limits that bear on this report."""

    open_files: OpenFilesLimit
