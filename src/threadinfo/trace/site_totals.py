"""What is added up over a trace by where the program made its calls: counts by number of a copied stack.

Numbers grow with the ways that lead to calls, not with the calls; what they mean is known later (trace/call_sites.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from threadinfo.model import Latency
from threadinfo.trace.call_sites import MOST_NUMBERS
from threadinfo.trace.histogram import BUCKETS, summarize
from threadinfo.trace.ledger import Applied
from threadinfo.trace.totals import buckets_of

_FIRST_SIZE = 256
_MOST_MOMENTS = 64
_FIRST_INTERVAL_NS = 100_000_000
_TYPE_BITS, _BUCKET_BITS = 8, 9


class SiteTotals:
    """Of one process. Number 0 stands for calls of which no stack was taken, and for numbers that are too high."""

    def __init__(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self.opened = np.zeros(_FIRST_SIZE, np.int64)
        self.closed = np.zeros(_FIRST_SIZE, np.int64)
        """Of those that were born at a number, however they died."""
        self.limit_failed = np.zeros(_FIRST_SIZE, np.int64)
        """Calls that found the table, or the machine's, full."""
        self.first_ns = np.zeros(_FIRST_SIZE, np.int64)
        """When the first was born; 0: none was."""
        self.lifetime_sum = np.zeros(_FIRST_SIZE, np.int64)
        self.lifetime_max = np.zeros(_FIRST_SIZE, np.int64)
        self.types: Counter[int] = Counter()
        """Births; the key is number << 8 | code of the type."""
        self.lifetimes: Counter[int] = Counter()
        """The key is number << 9 | bucket (trace/histogram.py)."""
        self.moments_ns: list[int] = []
        self.open_at: list[NDArray[np.int32]] = []
        """How many born at each number were open at each of these moments; the array may be shorter than there are
        numbers now."""
        self._interval_ns = _FIRST_INTERVAL_NS
        self._next_ns = started_ns + _FIRST_INTERVAL_NS

    def add_changes(
        self, applied: Applied, types: NDArray[np.uint8], born_at: NDArray[np.uint32], died_at: NDArray[np.uint32]
    ) -> None:
        """Of each change: the code of what is born, the number where it is, and the number where that was that dies."""
        births, deaths = applied.is_birth, applied.is_death & (applied.born_ns > 0)
        numbers, moments = _known(born_at[births]), applied.changes.at_ns[births]
        self._grow(numbers)
        _count(self.opened, numbers)
        _count_pairs(self.types, numbers << _TYPE_BITS | types[births])
        unseen = np.flatnonzero(self.first_ns[numbers] == 0)
        if unseen.size:
            fresh, first = np.unique(numbers[unseen], return_index=True)
            self.first_ns[fresh] = moments[unseen[first]]
        numbers = _known(died_at[deaths])
        if not numbers.size:
            return
        self._grow(numbers)
        _count(self.closed, numbers)
        lifetimes = applied.lifetime_ns()[deaths]
        _count_pairs(self.lifetimes, numbers << _BUCKET_BITS | buckets_of(lifetimes))
        self.lifetime_sum += np.bincount(numbers, lifetimes, minlength=len(self.opened)).astype(np.int64)
        np.maximum.at(self.lifetime_max, numbers, lifetimes)

    def add_limit_failures(self, numbers: NDArray[np.uint32]) -> None:
        """Of calls that failed with EMFILE or ENFILE: where they were."""
        known = _known(numbers)
        self._grow(known)
        _count(self.limit_failed, known)

    def note_moment(self, now_ns: int) -> None:
        """Keeps how many are open now, when it is time: at even intervals, which grow so that there are few."""
        if now_ns < self._next_ns:
            return
        if len(self.moments_ns) >= _MOST_MOMENTS:
            self._interval_ns *= 2
            del self.moments_ns[::2], self.open_at[::2]
        self._next_ns = now_ns + self._interval_ns
        self.moments_ns.append(now_ns)
        self.open_at.append((self.opened - self.closed).astype(np.int32))

    def _grow(self, numbers: NDArray[np.int64]) -> None:
        highest = int(numbers.max(initial=0))
        if highest < len(self.opened):
            return
        more = np.zeros(max(2 * len(self.opened), highest + 1) - len(self.opened), np.int64)
        for name in ("opened", "closed", "limit_failed", "first_ns", "lifetime_sum", "lifetime_max"):
            setattr(self, name, np.concatenate([getattr(self, name), more]))

    def types_of(self, numbers: Collection[int]) -> Counter[int]:
        """Births by the code of their type."""
        return _pick(self.types, numbers, _TYPE_BITS)

    def lifetime_of(self, numbers: Collection[int]) -> Latency:
        """Of those that were born at one of the numbers and died."""
        counts = np.zeros(BUCKETS, np.int64)
        for bucket, count in _pick(self.lifetimes, numbers, _BUCKET_BITS).items():
            counts[bucket] = count
        which = list(numbers)
        total = int(self.lifetime_sum[which].sum())
        return summarize(int(counts.sum()), total, int(self.lifetime_max[which].max(initial=0)), counts.tolist())


def _known(numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.where(numbers < MOST_NUMBERS, numbers, 0).astype(np.int64)


def _count(counts: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
    if numbers.size:
        counts += np.bincount(numbers, minlength=len(counts))


def _count_pairs(counter: Counter[int], pairs: NDArray[np.int64]) -> None:
    if pairs.size:
        keys, counts = np.unique(pairs, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            counter[key] += count


def _pick(counter: Mapping[int, int], numbers: Collection[int], bits: int) -> Counter[int]:
    wanted = numbers if isinstance(numbers, (set, frozenset)) else set(numbers)
    picked: Counter[int] = Counter()
    for key, count in counter.items():
        if key >> bits in wanted:
            picked[key & (1 << bits) - 1] += count
    return picked
