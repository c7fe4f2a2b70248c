"""A process that has not begun: which name is waited for, and who came; the kernel side picks it at its exec."""

from __future__ import annotations

import ctypes
import mmap

NAME_BYTES = 15
"""Of the kernel's name of a process."""


class _Awaited(ctypes.Structure):  # mirrors struct awaited in bpf/lib/processes.h
    _fields_ = (
        ("name", ctypes.c_char * 16),
        ("left", ctypes.c_int64),
        ("pid", ctypes.c_uint64),
        ("at_ns", ctypes.c_uint64),
    )


AWAITED_BYTES = ctypes.sizeof(_Awaited)


class AwaitedProcess:
    """What one object of programs is told of it, and tells."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._shared = _Awaited.from_buffer(memory)

    def wait_for(self, name: str) -> None:
        """From now on the next process that calls exec and has this name then is traced, from that moment on."""
        self._shared.name = name.encode("utf-8", "surrogateescape")[:NAME_BYTES]
        self._shared.left = 1

    @property
    def pid(self) -> int | None:
        """Who came; None while nobody has."""
        return int(self._shared.pid) or None

    @property
    def at_ns(self) -> int:
        """CLOCK_MONOTONIC, when it came."""
        return int(self._shared.at_ns)
