"""Reads the copies of user stacks that bpf/lib/stacks.h makes of new ways to a call, and teaches it frames."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.kernel.loader import Programs
from threadinfo.trace.kernel.ring import RingReader

# Mirrors of bpf/lib/stacks.h.
IS_PROGRAM, IS_END, IS_OUTERMOST, IS_ROOT = 1, 2, 4, 8
_MIX = 0x9E3779B97F4A7C15
REGISTER_WORDS, REGISTER_IP, REGISTER_SP = 21, 16, 19  # of struct pt_regs
_HEAD = 3
_CODE_BITS, _PAGE_SHIFT = 1 << 16, 12
_STACK_BYTES = {"long": 8192, "short": 1024}

BUFFER_BYTES = {"long": 1 << 24, "short": 1 << 22}
"""2,000 stacks that are new, and 3,400 more that come before those are learnt."""
MOST_STACKS = 16_384
"""Stack ids of a program."""


def buffer_defines(buffer_bytes: Mapping[str, int]) -> dict[str, int]:
    """What tells a program how large the buffers of copies are."""
    return {f"{name.upper()}_STACK_PAGES": size // mmap.PAGESIZE for name, size in buffer_bytes.items()}


class CopiedStacks(NamedTuple):
    """Registers and the top of the stack of threads, as they were at the end of a call; a row each."""

    number: NDArray[np.uint32]
    """The stack id: events of the same way to the call carry it."""
    pid: NDArray[np.uint32]
    tid: NDArray[np.uint32]
    exec_id: NDArray[np.uint32]
    """How often the process had called exec: with the pid, which program it ran."""
    length: NDArray[np.int64]
    """Of the stack, in bytes; 0 where it could not be read."""
    registers: NDArray[np.uint64]
    """struct pt_regs."""
    stack: NDArray[np.uint64]
    """From the stack pointer upwards; what is beyond the length is left over from something else."""
    is_long: bool

    def ip(self) -> NDArray[np.uint64]:
        """The instruction pointers."""
        ip: NDArray[np.uint64] = self.registers[:, REGISTER_IP]
        return ip

    def sp(self) -> NDArray[np.uint64]:
        """The stack pointers."""
        sp: NDArray[np.uint64] = self.registers[:, REGISTER_SP]
        return sp

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> CopiedStacks:
        """Some of them."""
        number, pid, tid, exec_id, length, registers, stack, is_long = self
        return CopiedStacks(
            number[which],
            pid[which],
            tid[which],
            exec_id[which],
            length[which],
            registers[which],
            stack[which],
            is_long,
        )


class _Frame(ctypes.Structure):  # mirrors struct frame
    _fields_ = (("step", ctypes.c_uint32), ("flags", ctypes.c_uint32))


class StackReader:
    """The copies, and the frames that the kernel side knows."""

    def __init__(self, programs: Programs, buffer_bytes: Mapping[str, int]) -> None:
        self._frames = programs.map("frames", ctypes.c_uint64, _Frame)
        self._readers = {}
        for name, size in buffer_bytes.items():
            words = 1 + _HEAD + REGISTER_WORDS + _STACK_BYTES[name] // 8
            self._readers[name] = RingReader(programs.descriptor(f"{name}_stacks"), size, words)
        self._code = np.frombuffer(programs.memory("code_filter", 8, _CODE_BITS // 64), np.uint64)
        self.untaught_count = 0
        """Frames for which the kernel's table had no room."""

    def read(self) -> list[CopiedStacks]:
        """What was copied since the last call, the long ones first: the short ones may need what those teach."""
        return [
            _copies(records, is_long=name == "long")
            for name, reader in self._readers.items()
            if len(records := reader.read())
        ]

    def teach(self, pid: int, exec_id: int, pc: int, step: int, flags: int) -> None:
        """How far from where the frame of `pc` begins its return address lies; `flags` are `IS_PROGRAM` and so on."""
        program = (pid << 32 | exec_id) * _MIX & 0xFFFFFFFFFFFFFFFF
        try:
            self._frames.set(ctypes.c_uint64(pc ^ program), _Frame(step, flags))
        except OSError:
            self.untaught_count += 1

    def add_code(self, first: int, end: int) -> None:
        """Addresses of code of a traced process: what of a stack points there tells the ways to a call apart."""
        pages = np.arange(first >> _PAGE_SHIFT, (end - 1 >> _PAGE_SHIFT) + 1, dtype=np.uint64)
        bits = pages * np.uint64(_MIX) >> np.uint64(48)
        np.bitwise_or.at(self._code, (bits >> np.uint64(6)).astype(np.intp), np.uint64(1) << (bits & np.uint64(63)))


def _copies(records: NDArray[np.uint64], *, is_long: bool) -> CopiedStacks:
    """`records`: rows of words with the buffer's header."""
    half = np.uint64(32)
    head, registers = records[:, 1 : 1 + _HEAD], records[:, 1 + _HEAD : 1 + _HEAD + REGISTER_WORDS]
    return CopiedStacks(
        number=head[:, 0].astype(np.uint32),
        pid=(head[:, 0] >> half).astype(np.uint32),
        tid=head[:, 1].astype(np.uint32),
        length=(head[:, 1] >> half).astype(np.int64),
        exec_id=head[:, 2].astype(np.uint32),
        registers=registers,
        stack=records[:, 1 + _HEAD + REGISTER_WORDS :],
        is_long=is_long,
    )
