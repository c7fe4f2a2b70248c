"""Which processes are traced, as the programs ask it of every event: two bits a process (bpf/lib/marks.h)."""

from __future__ import annotations

from typing import Literal

from threadinfo.trace.kernel.loader import Programs
from threadinfo.trace.kernel.mapped import SparseWords

TARGET: Literal[1] = 1
"""Traced."""
SHARER: Literal[2] = 2
"""May share something with one that is traced."""
_PROCESSES = 32  # an element


class ProcessMarks:
    """What one object of programs is told of processes."""

    def __init__(self, programs: Programs, pid_limit: int) -> None:
        self._groups = SparseWords(programs, "marks", "Q", pid_limit // _PROCESSES + 1)

    def set(self, pid: int, mark: Literal[1, 2]) -> None:
        """Of a process that has none."""
        self._groups[pid // _PROCESSES] |= mark << pid % _PROCESSES * 2
