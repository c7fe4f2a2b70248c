"""What is added up over a trace of descriptors: all in numbers of bounded size, however much happens."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from threadinfo.model import Latency
from threadinfo.trace.calls import BITMAP, EXIT, Call
from threadinfo.trace.histogram import BUCKETS, summarize
from threadinfo.trace.ledger import Applied

_SUB_BITS = 3
_MOST_SECONDS = 86_401
_MOST_INTERVALS = 600
CLOSED_BY_EXEC, CLOSED_BY_EXIT = BITMAP, EXIT
"""Deaths whose change came from these are exec's and exit's."""


def buckets_of(times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """`histogram.bucket_of` for many."""
    small = times_ns < 1 << _SUB_BITS
    power = np.frexp(np.maximum(times_ns, 1).astype(np.float64))[1].astype(np.int64) - 1
    # A number just below a power of two may round up to it.
    power -= (np.int64(1) << np.minimum(power, 62)) > np.maximum(times_ns, 1)
    shift = np.maximum(power - _SUB_BITS, 0)
    index = (power - _SUB_BITS + 1 << _SUB_BITS) + (times_ns >> shift & (1 << _SUB_BITS) - 1)
    return np.minimum(np.where(small, times_ns, index), BUCKETS - 1)


class Totals:
    """Of one process."""

    def __init__(self, call_count: int, type_count: int, started_ns: int) -> None:
        self._started_ns = started_ns
        self.opened_by_call = np.zeros(call_count, np.int64)
        self.closed_by_call = np.zeros(call_count, np.int64)
        self.failed_by_call = np.zeros(call_count, np.int64)
        self.opened_by_type = np.zeros(type_count, np.int64)
        self.closed_by_how: Counter[str] = Counter()
        self.failures: Counter[tuple[int, int]] = Counter()
        """By call and error number."""
        self.limit_failures: Counter[tuple[int, int]] = Counter()
        """EMFILE and ENFILE, by error number and thread."""
        self.opened_by_thread: Counter[int] = Counter()
        self.closed_by_thread: Counter[int] = Counter()
        self.marked_count = [0, 0]
        """Close-on-exec taken away, set."""
        self.opened_by_second = np.zeros(64, np.int64)
        self.closed_by_second = np.zeros(64, np.int64)
        self._lifetimes = np.zeros(BUCKETS, np.int64)
        self._lifetime_sum = 0
        self._lifetime_max = 0

    def add_changes(self, applied: Applied, types: NDArray[np.uint8]) -> None:
        """`types`: of each change, the code of what is born."""
        changes, births, deaths = applied.changes, applied.is_birth, applied.is_death
        _add(self.opened_by_call, changes.call[births])
        _add(self.closed_by_call, changes.call[deaths])
        _add(self.opened_by_type, types[births])
        exec_count = int(np.count_nonzero(changes.call[deaths] == CLOSED_BY_EXEC))
        exit_count = int(np.count_nonzero(changes.call[deaths] == CLOSED_BY_EXIT))
        replaced = int(np.count_nonzero(births & deaths))
        total = int(np.count_nonzero(deaths))
        for how, count in (
            ("close", total - exec_count - exit_count - replaced),
            ("replaced", replaced),
            ("exec", exec_count),
            ("exit", exit_count),
        ):
            if count:
                self.closed_by_how[how] += count
        _count_threads(self.opened_by_thread, changes.tid[births])
        _count_threads(self.closed_by_thread, changes.tid[deaths])
        self.opened_by_second = self._add_seconds(self.opened_by_second, changes.at_ns[births])
        self.closed_by_second = self._add_seconds(self.closed_by_second, changes.at_ns[deaths])
        lifetimes = applied.lifetime_ns()
        lifetimes = lifetimes[lifetimes >= 0]
        if lifetimes.size:
            self._lifetimes += np.bincount(buckets_of(lifetimes), minlength=BUCKETS)
            self._lifetime_sum += int(lifetimes.sum())
            self._lifetime_max = max(self._lifetime_max, int(lifetimes.max()))

    def _add_seconds(self, series: NDArray[np.int64], at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        if not at_ns.size:
            return series
        seconds = np.clip((at_ns - self._started_ns) // 1_000_000_000, 0, _MOST_SECONDS - 1)
        if int(seconds.max()) >= len(series):
            series = np.concatenate([series, np.zeros(int(seconds.max()) + 1, np.int64)])
        _add(series, seconds)
        return series

    def add_failures(self, call: NDArray[np.uint16], result: NDArray[np.int32]) -> None:
        """Calls that failed: `result` is negative."""
        _add(self.failed_by_call, call)
        pairs, counts = np.unique(call.astype(np.int64) << 16 | -result.astype(np.int64), return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self.failures[pair >> 16, pair & 0xFFFF] += count

    def add_limit_failures(self, result: NDArray[np.int32], tid: NDArray[np.uint32]) -> None:
        """Calls that failed with EMFILE or ENFILE."""
        pairs, counts = np.unique(-result.astype(np.int64) << 32 | tid, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self.limit_failures[pair >> 32, pair & 0xFFFFFFFF] += count

    def lifetime(self) -> Latency:
        """Of those that were born and died during the trace."""
        count = int(self._lifetimes.sum())
        return summarize(count, self._lifetime_sum, self._lifetime_max, self._lifetimes.tolist(), with_octaves=True)

    def series(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Seconds an element covers, and births and deaths by time: no more than `_MOST_INTERVALS` elements."""
        length = max(len(self.opened_by_second), len(self.closed_by_second))
        both = np.zeros((2, length), np.int64)
        both[0, : len(self.opened_by_second)] = self.opened_by_second
        both[1, : len(self.closed_by_second)] = self.closed_by_second
        used = np.flatnonzero(both.any(axis=0))
        length = int(used[-1]) + 1 if used.size else 0
        interval = max(1, -(-length // _MOST_INTERVALS))
        if not length:
            return interval, (), ()
        sums = np.add.reduceat(both[:, :length], np.arange(0, length, interval), axis=1).tolist()
        return interval, tuple(sums[0]), tuple(sums[1])

    def by_call(self, calls: Mapping[int, Call], counts: NDArray[np.int64]) -> dict[str, int]:
        """Counts by a call's name, the largest first."""
        named: Counter[str] = Counter()
        for number in np.flatnonzero(counts).tolist():
            named[calls[number].name if number in calls else "execve"] += int(counts[number])
        return dict(named.most_common())


def error_name(number: int) -> str:
    """``EMFILE`` for 24."""
    return errno.errorcode.get(number, f"error {number}")


def _add(counts: NDArray[np.int64], which: NDArray[np.generic]) -> None:
    if which.size:
        counts += np.bincount(which.astype(np.intp), minlength=len(counts))


def _count_threads(counter: Counter[int], tids: NDArray[np.uint32]) -> None:
    if not tids.size:
        return
    if (tids == tids[0]).all():
        counter[int(tids[0])] += len(tids)
        return
    for tid, count in zip(*(column.tolist() for column in np.unique(tids, return_counts=True)), strict=True):
        counter[tid] += count
