"""Children of traced processes that are traced too: how many may be, and how many were not."""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple


class Child(NamedTuple):
    """A process that a traced one made."""

    pid: int
    parent_pid: int | None
    """None where only scheduling is watched."""
    name: str
    """Of the thread that made it; exec changes it."""
    born_ns: int
    """CLOCK_MONOTONIC."""
    shares_descriptors: bool
    """Whether it began with its parent's table of descriptors rather than with a copy."""
    program: str | None = None
    """What it executed last, as it named that; None: nothing, or not known."""
    executed_ns: int = 0
    """CLOCK_MONOTONIC, when; 0: not known."""


class _Following(ctypes.Structure):  # mirrors struct following in bpf/lib/processes.h
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("limit", "count", "left_out_count"))


FOLLOWING_BYTES = ctypes.sizeof(_Following)


class Following:
    """What one object of programs is told of it, and tells."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._shared = _Following.from_buffer(memory)

    def allow(self, limit: int) -> None:
        """From now on the children of traced processes are traced, and theirs, until there were `limit` in all."""
        self._shared.limit = limit

    @property
    def followed_count(self) -> int:
        """Children that are, or were, traced too."""
        return int(self._shared.count)

    @property
    def left_out_count(self) -> int:
        """Children that were one too many."""
        return int(self._shared.left_out_count)
