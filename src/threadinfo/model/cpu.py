"""Where CPU time went."""

from __future__ import annotations

import msgspec


class CpuSample(msgspec.Struct, frozen=True):
    """Moments at which a thread was in one place."""

    count: int
    stack: tuple[str, ...]
    """Innermost first; empty where it could not be unwound."""
    is_kernel: bool
    """Whether the kernel worked for the thread: the stack is that of its call, or of where it was interrupted."""
    kernel_stack: tuple[str, ...] = ()
    """The kernel's own functions (/proc/kallsyms), innermost first, without offsets; empty outside of it, and
    where it does not tell their addresses (a gap says so)."""


class CpuTime(msgspec.Struct, frozen=True, kw_only=True):
    """Where a thread's time on CPUs went."""

    samples: tuple[CpuSample, ...]
    """Most first."""
    sample_period_ns: int
    """What one stands for."""
