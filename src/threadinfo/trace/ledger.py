"""The ledger of one table of descriptors: which numbers are open, since when and by whom, moved by arrays of changes.

A close is seen when it returns, and by then another thread may have been given the same number: two changes of one
number that only make sense the other way round, by different threads, are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.changes import Changes, Op

_FIRST_SIZE = 1024
_MOST_EXCHANGES = 16


class Applied(NamedTuple):
    """What a batch of changes did, in the order of its changes: by number, then by time."""

    changes: Changes
    is_birth: NDArray[np.bool_]
    is_death: NDArray[np.bool_]
    born_ns: NDArray[np.int64]
    """When what dies here was born; 0: before the trace, or nothing dies."""
    born_by: NDArray[np.int32]
    """The event of this batch that bore what dies here; -1: an earlier one, or nothing dies."""
    is_last_birth: NDArray[np.bool_]
    """Births that are still alive at the batch's end."""

    def lifetime_ns(self) -> NDArray[np.int64]:
        """From birth to death; -1 where nothing dies, or the birth was not seen."""
        return np.where(self.is_death & (self.born_ns > 0), self.changes.at_ns - self.born_ns, -1)


class Ledger:
    """One table. Numbers are the index of every array."""

    def __init__(self, numbers_open: Iterable[int] = ()) -> None:
        self.is_open = np.zeros(_FIRST_SIZE, bool)
        self.born_ns = np.zeros(_FIRST_SIZE, np.int64)
        """0: before the trace, or not open."""
        self.moved_ns = np.zeros(_FIRST_SIZE, np.int64)
        """The last change."""
        self.open_count = 0
        self.peak_count = 0
        self.unseen_birth_count = 0
        """Numbers that were closed or found open although no birth had been seen."""
        self._owed: dict[int, int] = {}  # number to the thread that was given it while it was not closed yet
        self.seed(numbers_open)

    def seed(self, numbers_open: Iterable[int]) -> None:
        """What is open without a change having been seen; numbers that have moved already are left as they are."""
        numbers = np.fromiter(numbers_open, np.int64)
        if numbers.size:
            self._grow(int(numbers.max()))
            numbers = numbers[self.moved_ns[numbers] == 0]
            self.is_open[numbers] = True
        self.open_count = int(np.count_nonzero(self.is_open))
        self.peak_count = max(self.peak_count, self.open_count)

    def numbers(self) -> NDArray[np.intp]:
        """The open numbers, ascending."""
        return np.flatnonzero(self.is_open)

    def highest(self) -> int:
        """The highest open number; -1 where none is."""
        numbers = self.numbers()
        return int(numbers[-1]) if numbers.size else -1

    def _grow(self, number: int) -> None:
        if number < len(self.is_open):
            return
        more = max(2 * len(self.is_open), number + 1) - len(self.is_open)
        self.is_open = np.concatenate([self.is_open, np.zeros(more, bool)])
        self.born_ns = np.concatenate([self.born_ns, np.zeros(more, np.int64)])
        self.moved_ns = np.concatenate([self.moved_ns, np.zeros(more, np.int64)])

    def apply(self, changes: Changes) -> Applied:
        """Moves the ledger by changes in the order of time."""
        if not len(changes.fd):
            nothing = np.zeros(0, bool)
            return Applied(changes, nothing, nothing, np.zeros(0, np.int64), np.zeros(0, np.int32), nothing)
        self._grow(int(changes.fd.max()))
        changes, order = _by_number(changes)
        is_first = np.ones(len(changes.fd), bool)
        is_first[1:] = changes.fd[1:] != changes.fd[:-1]
        if self._owed:
            self._settle_owed(changes)
        was_open = self._was_open(changes, is_first)
        exchanged, order = _exchange_misordered(changes, order, is_first, was_open)
        if exchanged is not changes:
            changes = exchanged
            was_open = self._was_open(changes, is_first)
        op = changes.op
        is_birth = (op == Op.BIRTH) | (op == Op.BIRTH_OR_REPLACE)
        # A birth on an open number implies that it was closed; a close of a free one, that a birth was not seen.
        is_death = was_open & ((op == Op.CLOSE) | (op == Op.CLOSE_IF_OPEN) | (op == Op.BIRTH_OR_REPLACE) | is_birth)
        self.unseen_birth_count += int(np.count_nonzero(~was_open & ((op == Op.CLOSE) | (op == Op.FOUND_OPEN))))

        position = np.arange(len(op))
        start = np.maximum.accumulate(np.where(is_first, position, 0))
        # Where a number's present life began, or ended: at a birth, a death, or where it was found open.
        is_turn = is_birth | is_death | (~was_open & (op == Op.FOUND_OPEN))
        last_turn = np.maximum.accumulate(np.where(is_turn, position, -1))
        before = np.concatenate([[-1], last_turn[:-1]])
        is_here = (before >= start) & is_death
        is_seen = is_here & is_birth[before]
        older = np.where(is_death & ~is_here, self.born_ns[changes.fd], 0)
        born_ns = np.where(is_seen, changes.at_ns[before], older)
        born_by = np.where(is_seen, changes.event[before], -1).astype(np.int32)

        is_last = np.ones(len(op), bool)
        is_last[:-1] = is_first[1:]
        ends = np.flatnonzero(is_last)
        stays = (op[ends] & 1) == 1
        numbers, births = changes.fd[ends], last_turn[ends]
        turns = births >= start[ends]
        bears = turns & is_birth[births]
        self.is_open[numbers] = stays
        self.moved_ns[numbers] = changes.at_ns[ends]
        self.born_ns[numbers[turns]] = 0
        self.born_ns[numbers[bears & stays]] = changes.at_ns[births[bears & stays]]
        is_last_birth = np.zeros(len(op), bool)
        is_last_birth[births[bears & stays]] = True
        for end in ends[was_open[ends] & (op[ends] == Op.BIRTH)]:
            self._owed[int(changes.fd[end])] = int(changes.tid[end])
        self._count_open(is_birth, is_death, (op == Op.FOUND_OPEN) & ~was_open, order)
        return Applied(changes, is_birth, is_death, born_ns, born_by, is_last_birth)

    def infer_first_states(self, changes: Changes) -> None:
        """The seed was read while these happened: what a number was before is told by what happened to it first."""
        numbers, first = np.unique(changes.fd, return_index=True)
        if not numbers.size:
            return
        self._grow(int(numbers.max()))
        op = changes.op[first]
        certain = (op == Op.CLOSE) | (op == Op.BIRTH)
        self.is_open[numbers[certain]] = op[certain] == Op.CLOSE
        self.open_count = self.peak_count = int(np.count_nonzero(self.is_open))

    def correct(self, first: int, is_open: NDArray[np.bool_]) -> None:
        """Takes what the kernel says of a run of numbers; nothing is counted."""
        end = first + len(is_open)
        self._grow(end)
        self.born_ns[first:end][~is_open] = 0
        self.is_open[first:end] = is_open
        self.open_count = self.peak_count = int(np.count_nonzero(self.is_open))

    def copy(self) -> Ledger:
        """Another table with the same numbers: a fork, or a thread that parts from the others."""
        other = Ledger()
        other.is_open, other.born_ns, other.moved_ns = self.is_open.copy(), self.born_ns.copy(), self.moved_ns.copy()
        other.open_count = other.peak_count = self.open_count
        return other

    def _was_open(self, changes: Changes, is_first: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The state of each number before each change."""
        stays = (changes.op & 1) == 1
        return np.where(is_first, self.is_open[changes.fd], np.concatenate([[False], stays[:-1]]))

    def _settle_owed(self, changes: Changes) -> None:
        """A close that was late for the last batch: the birth that came before it has implied it already."""
        for number, tid in self._owed.items():
            index = int(np.searchsorted(changes.fd, number))
            is_there = index < len(changes.fd) and changes.fd[index] == number
            if is_there and changes.op[index] == Op.CLOSE and changes.tid[index] != tid:
                changes.op[index] = Op.KEEP
        self._owed.clear()

    def _count_open(
        self,
        is_birth: NDArray[np.bool_],
        is_death: NDArray[np.bool_],
        is_found: NDArray[np.bool_],
        order: NDArray[np.intp] | None,
    ) -> None:
        steps = is_birth.astype(np.int64) - is_death + is_found
        if order is not None:
            in_time = np.empty_like(steps)
            in_time[order] = steps
            steps = in_time
        levels = np.cumsum(steps)
        self.peak_count = max(self.peak_count, self.open_count + int(levels.max()))
        self.open_count += int(levels[-1])


def _by_number(changes: Changes) -> tuple[Changes, NDArray[np.intp] | None]:
    """Sorted by number and then by time, with the order; None where nothing had to be moved."""
    fd = changes.fd
    if (fd == fd[0]).all():
        return changes, None
    keys = fd.astype(np.uint16) if int(fd.max()) < 1 << 16 else fd  # 16 bits are sorted in linear time
    order = np.argsort(keys, kind="stable")
    return changes.take(order), order


def _exchange_misordered(
    changes: Changes, order: NDArray[np.intp] | None, is_first: NDArray[np.bool_], was_open: NDArray[np.bool_]
) -> tuple[Changes, NDArray[np.intp] | None]:
    """Exchanges neighbours that contradict what was before and would not the other way round."""
    op = changes.op
    for _ in range(_MOST_EXCHANGES):
        wrong = ((op == Op.BIRTH) & was_open) | ((op == Op.CLOSE) & ~was_open)
        if not wrong.any():
            break
        pair = np.flatnonzero(wrong[:-1] & ~is_first[1:])
        opposite = np.where(op[pair] == Op.BIRTH, Op.CLOSE, Op.BIRTH)
        pair = pair[(op[pair + 1] == opposite) & (changes.tid[pair] != changes.tid[pair + 1])]
        if not pair.size:
            break
        pair = pair[np.concatenate([[True], np.diff(pair) > 1])]
        places = np.arange(len(op))
        places[pair], places[pair + 1] = pair + 1, pair.copy()
        changes = changes.take(places)
        order = places if order is None else order[places]
        op = changes.op
        stays = (op & 1) == 1
        was_open = np.where(is_first, was_open, np.concatenate([[False], stays[:-1]]))
    return changes, order
