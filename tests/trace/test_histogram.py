"""Histograms in the kernel's buckets, and what a report makes of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from threadinfo.trace.kernel.histogram import BUCKETS, bucket_of, buckets_of, summarize


@given(st.lists(st.integers(1, 1 << 38), min_size=1, max_size=50))
def test_octaves_hold_every_wait_once_and_where_it_belongs(waits: list[int]) -> None:
    buckets = [0] * BUCKETS
    for wait in waits:
        buckets[bucket_of(wait)] += 1
    octaves = summarize(len(waits), sum(waits), max(waits), buckets, with_octaves=True).octaves
    assert octaves is not None
    expected: dict[int, int] = {}
    for wait in waits:
        end = 1 << wait.bit_length()  # a power of two begins its octave
        expected[end] = expected.get(end, 0) + 1
    assert octaves == dict(sorted(expected.items()))


def test_octaves_are_left_out_unless_asked_for() -> None:
    buckets = [0] * BUCKETS
    buckets[bucket_of(100)] = 1
    assert summarize(1, 100, 100, buckets).octaves is None
    assert summarize(0, 0, 0, [0] * BUCKETS, with_octaves=True).octaves is None


@given(st.lists(st.integers(0, 1 << 62), max_size=50))
def test_buckets_of_many_are_those_of_each(times_ns: list[int]) -> None:
    assert buckets_of(np.array(times_ns, np.int64)).tolist() == [bucket_of(ns) for ns in times_ns]
