"""Loops of BPF programs by the kernel's own iterators (Linux 6.4): the verifier follows a body once, not once a turn.

Without them a loop is followed turn by turn (Linux 5.3), which takes longer and is the same.
"""

from __future__ import annotations

import os
import struct

from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.btf import KernelTypes

_FUNCTIONS = ("bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy")
"""In the order of their numbers in bpf/lib/kernel.h."""
_INSTRUCTION = struct.Struct("=BBhi")


def find_iterators() -> tuple[int, ...]:
    """BTF ids of the functions; none where this kernel lacks one or does not let a program call it."""
    with KernelTypes() as types:
        found = tuple(types.function(name) for name in _FUNCTIONS)
    if not all(found):
        return ()
    try:
        os.close(bpf.load_program(_trial(found)))
    except OSError:
        return ()
    return found


def _trial(functions: tuple[int, ...]) -> bytes:
    """A loop without a turn: begins an iterator that lies at fp - 8, ends it, and returns 0."""
    begin, _, end = functions
    copy_frame, add, load, call, leave = 0xBF, 0x07, 0xB7, 0x85, 0x95
    to_iterator = ((copy_frame, 0xA1, 0, 0), (add, 0x01, 0, -8))
    words = (
        *to_iterator,
        (load, 0x02, 0, 0),
        (load, 0x03, 0, 1),
        (call, 0x20, 0, begin),
        *to_iterator,
        (call, 0x20, 0, end),
        (load, 0x00, 0, 0),
        (leave, 0x00, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*word) for word in words)
