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


class _Following(ctypes.Structure):  # mirrors struct following in bpf/lib/processes.h
    _fields_ = (("limit", ctypes.c_uint64), ("count", ctypes.c_uint64))


FOLLOWING_BYTES = ctypes.sizeof(_Following)


class Following:
    """What one object of programs is told of it, and tells."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._shared = _Following.from_buffer(memory)

    def allow(self, limit: int) -> None:
        """From now on the children of traced processes are traced, and theirs, but no more than `limit`."""
        self._shared.limit = limit

    @property
    def followed_count(self) -> int:
        """Children that are, or were, traced too."""
        return min(int(self._shared.count), int(self._shared.limit))

    @property
    def left_out_count(self) -> int:
        """Children that were one too many."""
        return max(0, int(self._shared.count) - int(self._shared.limit))
