"""Threads that come and go: what is kept of those that ended, so that neither slots nor maps nor memory are used up.

Pairs (a thread, another that woke it, held the CPU or had a lock) are counted in the kernel's hashes. When threads are
folded these are emptied into sums of ours, in which those that are gone are told by their names alone.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from threadinfo.trace.kernel.loader import Programs


class Pair(ctypes.Structure):
    """Mirrors struct pair of bpf/scheduling.bpf.c."""

    _fields_ = (("of", ctypes.c_uint32), ("tid", ctypes.c_uint32))


class Total(ctypes.Structure):
    """Mirrors struct total."""

    _fields_ = (("count", ctypes.c_uint64), ("ns", ctypes.c_uint64))


_PAIR, _TOTAL = np.dtype([("of", "u4"), ("tid", "u4")]), np.dtype([("count", "u8"), ("ns", "u8")])


_OTHERS = 64  # of one thread, before those that ended are told by their names


class Gone(NamedTuple):
    """Threads of one name that have ended, in a pair."""

    pid: int | None
    name: str


Other: TypeAlias = int | Gone
"""The other thread of a pair: its id, or what is left of those that ended."""
Totals: TypeAlias = dict[Other, Total]


def add_total(totals: Totals, other: Other, count: int, ns: int) -> None:
    """Adds to what is known of another thread."""
    known = totals.get(other, Total(0, 0))
    totals[other] = Total(known.count + count, known.ns + ns)


def is_alive(tid: int) -> bool:
    """Whether any thread of the machine has this id: kill(2) with no signal finds it."""
    try:
        os.kill(tid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Pairs:
    """One of the kernel's hashes of pairs, with what was taken from it."""

    def __init__(self, programs: Programs, name: str) -> None:
        self._map = programs.map(name, Pair, Total)
        self._taken: dict[int, Totals] = {}

    def read(self) -> dict[int, Totals]:
        """Everything so far, by the first part of the pair."""
        found = {of: dict(totals) for of, totals in self._taken.items()}
        for key, value in self._map.items():
            add_total(found.setdefault(key.of, {}), key.tid, value.count, value.ns)
        return found

    def tids(self) -> set[int]:
        """The ids of all others that are told by their ids."""
        known = {other for totals in self._taken.values() for other in totals if isinstance(other, int)}
        return known | {int(key.tid) for key, _ in self._map.items()}

    def empty(self, folded: Collection[int], gone: Callable[[int], Gone | None]) -> None:
        """Takes all out of the kernel's hash; `folded`: first parts that are of nobody any more. `gone`: the name of a
        thread that has ended, None for one that has not."""
        taken = {of: totals for of, totals in self._taken.items() if of not in folded}
        keys, values = (
            np.frombuffer(all_, dtype)
            for all_, dtype in zip(self._map.read_bytes(take=True), (_PAIR, _TOTAL), strict=True)
        )
        for index in np.flatnonzero(~np.isin(keys["of"], np.array(list(folded), np.uint32))).tolist():
            (of, tid), (count, ns) = keys[index].item(), values[index].item()
            add_total(taken.setdefault(of, {}), tid, count, ns)
        self._taken = taken
        for of, totals in taken.items():
            if len(totals) > _OTHERS:
                mine = taken[of] = {}
                for other, total in totals.items():
                    add_total(mine, (gone(other) if isinstance(other, int) else None) or other, total.count, total.ns)


class EndedSum:
    """Threads of one name, added up."""

    def __init__(self) -> None:
        self.count = self.on_cpu_ns = self.run_queue_ns = self.blocked_ns = 0
        self.voluntary_count = self.involuntary_count = 0


def oldest_first(slots: Iterable[int], ended_ns: Mapping[int, int], on_cpu_ns: Mapping[int, int]) -> list[int]:
    """Slots of ended threads in the order in which they are given up: those that did least, the oldest first."""
    return sorted(slots, key=lambda slot: (on_cpu_ns[slot].bit_length(), ended_ns[slot]))
