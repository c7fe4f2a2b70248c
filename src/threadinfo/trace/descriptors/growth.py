"""How much was open, and how much was opened and closed, as a trace went on: read now and then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.descriptors.ledger import KernelLedger

_MOST_MOMENTS = 64
_FIRST_INTERVAL_NS = 100_000_000
_SECOND_NS = 1_000_000_000
_MOST_INTERVALS = 600


class OpenAtSites:
    """How many of those that were opened at each call site were open, at some moments of the trace."""

    def __init__(self, started_ns: int) -> None:
        self.at_ns: list[int] = []
        self.open_counts: list[NDArray[np.int32]] = []
        """By stack id; each may be shorter than there are ids now."""
        self._interval_ns = _FIRST_INTERVAL_NS
        self._next_ns = started_ns + _FIRST_INTERVAL_NS

    def note(self, ledger: KernelLedger, now_ns: int) -> None:
        """Keeps how many are open now, when it is time: at even intervals, which grow so that there are few."""
        if now_ns < self._next_ns:
            return
        if len(self.at_ns) >= _MOST_MOMENTS:
            self._interval_ns *= 2
            del self.at_ns[::2], self.open_counts[::2]
        self._next_ns = now_ns + self._interval_ns
        sites = ledger.sites[: int(ledger.control["next_stack"][0])]
        self.at_ns.append(now_ns)
        self.open_counts.append((sites["opened"] - sites["closed"]).astype(np.int32))


class Rates:
    """What a process opened and closed, a second each; what came between two looks is shared out evenly."""

    def __init__(self, started_ns: int) -> None:
        self._started_ns = self._last_ns = started_ns
        self._last = (0, 0)
        self._counts: list[list[int]] = []

    def note(self, opened: int, closed: int, now_ns: int) -> None:
        """The counts so far."""
        new = (opened - self._last[0], closed - self._last[1])
        first = max(0, self._last_ns - self._started_ns) // _SECOND_NS
        last = max(0, now_ns - self._started_ns) // _SECOND_NS
        while len(self._counts) <= last:
            self._counts.append([0, 0])
        span = max(1, now_ns - self._last_ns)
        for place in range(first, last + 1):
            begin = max(self._last_ns, self._started_ns + place * _SECOND_NS)
            share = min(now_ns, self._started_ns + (place + 1) * _SECOND_NS) - begin
            for index in (0, 1):
                part = new[index] if place == last else new[index] * share // span
                self._counts[place][index] += part
                new = (new[0] - part, new[1]) if index == 0 else (new[0], new[1] - part)
            span = max(1, span - share)
        self._last, self._last_ns = (opened, closed), now_ns

    def series(self) -> tuple[int, Sequence[int], Sequence[int]]:
        """Seconds an element covers, and what was opened and closed in each: no more than 600 elements."""
        counts = list(self._counts)
        while counts and not any(counts[-1]):
            counts.pop()
        interval = max(1, -(-len(counts) // _MOST_INTERVALS))
        groups = [counts[start : start + interval] for start in range(0, len(counts), interval)]
        sums = [tuple(sum(column) for column in zip(*group, strict=True)) for group in groups]
        return interval, tuple(one[0] for one in sums), tuple(one[1] for one in sums)
