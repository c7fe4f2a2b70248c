"""Registers and stack tops of stopped threads, taken with ptrace(2): what BPF copies, without BPF."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.trace.stacks.unwinder import Sample

_GETREGS, _DETACH, _SEIZE, _INTERRUPT = 12, 17, 0x4206, 0x4207
_WALL = 0x40000000
_USER_REGISTERS_BYTES = 27 * 8  # struct user_regs_struct: pt_regs comes first
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def take_sample(pid: int, tid: int, stack_bytes: int = 8192) -> Sample:
    """A sample of a thread of a process that a test started."""
    registers = ctypes.create_string_buffer(_USER_REGISTERS_BYTES)
    _ptrace(_SEIZE, tid)
    _ptrace(_INTERRUPT, tid)
    os.waitpid(tid, _WALL)
    _ptrace(_GETREGS, tid, ctypes.addressof(registers))
    _ptrace(_DETACH, tid)
    stack_pointer = int.from_bytes(registers.raw[19 * 8 : 20 * 8], "little")
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    with contextlib.closing(os.fdopen(memory, "rb", buffering=0)):
        return Sample(tid, registers.raw[:168], os.pread(memory, stack_bytes, stack_pointer))


def _ptrace(request: int, tid: int, data: int | None = None) -> None:
    if _libc.ptrace(request, tid, None, data):
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x}, {tid})")


def read_maps(pid: int) -> bytes:
    return Path(f"/proc/{pid}/maps").read_bytes()


def open_mapping(pid: int, mapping: str) -> int | None:
    """The file of a mapping, as `Unwinder` wants it."""
    try:
        with ProcDirectory(f"/proc/{pid}") as process:
            return process.mapped_file(mapping)
    except ProcError:
        return None
