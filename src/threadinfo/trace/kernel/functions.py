"""The kernel's own functions (kfuncs) that our programs call where they can; otherwise they do the same at more cost.

Iterators (Linux 6.4): the verifier follows a loop's body once, and not turn by turn. Casts (Linux 6.2): the kernel's
memory is read by a load, where otherwise a helper is called. Their numbers: bpf/lib/kernel.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.btf import KernelTypes

_ITERATORS = ("bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy")
_CAST = "bpf_rdonly_cast"
"""In the order of their numbers: iterators, then this."""
_WORD = "rb_node"  # a struct that begins with a number of 64 bits
_INSTRUCTION = struct.Struct("=BBhi")
_COPY, _ADD, _SET, _LOAD, _CALL, _LEAVE = 0xBF, 0x07, 0xB7, 0x79, 0x85, 0x95


class KernelFunctions(NamedTuple):
    """What is there of them, for the loader and as defines of a program."""

    numbers: tuple[int, ...] = ()
    defines: tuple[tuple[str, int], ...] = ()


def find_functions() -> KernelFunctions:
    """Those that this kernel has and lets a program call."""
    with KernelTypes() as types:
        begin, following, end, cast = (types.function(name) for name in (*_ITERATORS, _CAST))
        word = types.struct(_WORD)
    defines = []
    if begin and following and end and _is_let(_no_turn(begin, end)):
        defines.append(("HAS_ITERATORS", 1))
    if cast and word and _is_let(_read_nothing(cast, word)):
        defines += [("HAS_CASTS", 1), ("WORD_TYPE", word)]
    return KernelFunctions((begin, following, end, cast), tuple(defines)) if defines else KernelFunctions()


def _is_let(program: Iterable[tuple[int, int, int, int]]) -> bool:
    try:
        os.close(bpf.load_program(b"".join(_INSTRUCTION.pack(*word) for word in program)))
    except OSError:
        return False
    return True


def _no_turn(begin: int, end: int) -> Iterable[tuple[int, int, int, int]]:
    """Begins an iterator that lies at fp - 8, and ends it."""
    to_iterator = ((_COPY, 0xA1, 0, 0), (_ADD, 0x01, 0, -8))
    yield from (*to_iterator, (_SET, 0x02, 0, 0), (_SET, 0x03, 0, 1), (_CALL, 0x20, 0, begin))
    yield from (*to_iterator, (_CALL, 0x20, 0, end), (_SET, 0x00, 0, 0), (_LEAVE, 0x00, 0, 0))


def _read_nothing(cast: int, type_id: int) -> Iterable[tuple[int, int, int, int]]:
    """Reads a word from where nothing is: 0, which it returns."""
    yield from ((_SET, 0x01, 0, 0), (_SET, 0x02, 0, type_id), (_CALL, 0x20, 0, cast))
    yield from ((_LOAD, 0x00, 0, 0), (_LEAVE, 0x00, 0, 0))
