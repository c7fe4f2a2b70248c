"""Paths are counted as a dictionary would count them, whatever is left over in the rows behind them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from threadinfo.trace.descriptor_records import EVENT, Batch
from threadinfo.trace.path_totals import PathTotals

WIDTH = 64


def batch_of(paths: list[bytes], rest: int) -> Batch:
    """Rows as the kernel side leaves them: the path, a NUL, and anything after it."""
    rows = np.full((len(paths), WIDTH), rest, np.uint8)
    events = np.zeros(len(paths), EVENT)
    for index, path in enumerate(paths):
        data = path + b"\0"
        rows[index, : len(data)] = np.frombuffer(data, np.uint8)
        rows[index, len(data) :] += index % 256
        events["length"][index] = len(data)
    return Batch(events, np.arange(len(paths), dtype=np.int64), (rows.view(np.uint64),))


paths = st.binary(min_size=1, max_size=WIDTH - 1).filter(lambda path: 0 not in path)


@given(st.lists(paths, min_size=1, max_size=40), st.integers(0, 255))
def test_counts_are_those_of_a_dictionary(found: list[bytes], rest: int) -> None:
    totals = PathTotals()
    for some in (found, found[::2]):
        totals.add(batch_of(some, rest), np.arange(len(some)))
    expected = Counter(path.decode("utf-8", "backslashreplace") for path in [*found, *found[::2]])
    counted: Counter[str] = Counter()
    for path, count in totals.most_common(1000):  # two paths may look the same once they are decoded
        counted[path] += count
    assert counted == expected


def test_paths_beyond_the_room_are_counted_as_such() -> None:
    totals = PathTotals()
    some = [b"/%d" % number for number in range(20_000)]
    totals.add(batch_of(some, 7), np.arange(len(some)))
    assert len(totals.most_common(30_000)) + totals.uncounted == len(some)
    assert totals.uncounted == 20_000 - 16_384
