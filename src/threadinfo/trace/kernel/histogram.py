"""The log-linear histogram of times: eight buckets an octave, so that a percentile is at most 7 % off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from threadinfo.model import Latency

_SUB_BITS, _OCTAVES = 3, 38  # mirrors of bpf/lib/histogram.h
BUCKETS = _OCTAVES << _SUB_BITS


def bucket_bounds(index: int) -> tuple[int, int]:
    """The times that a bucket counts: from the first, in nanoseconds, up to but without the second."""
    if index < 1 << _SUB_BITS:
        return index, index + 1
    shift = (index >> _SUB_BITS) - 1
    low = ((1 << _SUB_BITS) + (index & (1 << _SUB_BITS) - 1)) << shift
    return low, low + (1 << shift)


def bucket_of(ns: int) -> int:
    """The bucket that counts a time: what the program in the kernel computes."""
    if ns < 1 << _SUB_BITS:
        return ns
    power = ns.bit_length() - 1
    index = (power - _SUB_BITS + 1 << _SUB_BITS) + (ns >> power - _SUB_BITS & (1 << _SUB_BITS) - 1)
    return min(index, BUCKETS - 1)


def buckets_of(times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """`bucket_of` for many."""
    small = times_ns < 1 << _SUB_BITS
    power = np.frexp(np.maximum(times_ns, 1).astype(np.float64))[1].astype(np.int64) - 1
    # A number just below a power of two may round up to it.
    power -= (np.int64(1) << np.minimum(power, 62)) > np.maximum(times_ns, 1)
    shift = np.maximum(power - _SUB_BITS, 0)
    index = (power - _SUB_BITS + 1 << _SUB_BITS) + (times_ns >> shift & (1 << _SUB_BITS) - 1)
    return np.minimum(np.where(small, times_ns, index), BUCKETS - 1)


def summarize(count: int, sum_ns: int, max_ns: int, buckets: Sequence[int], *, with_octaves: bool = False) -> Latency:
    """A histogram to the summary of the report; a percentile is the middle of its bucket, and at most the maximum."""
    if not count:
        return Latency(count=0, mean=None, p50=None, p90=None, p99=None, max=None)
    octaves: dict[int, int] = {}
    wanted = [-(-count * percent // 100) for percent in (50, 90, 99)]
    found: list[int] = []
    seen = 0
    for index, number in enumerate(buckets):
        seen += number
        if number:
            end = 1 << (bucket_bounds(index)[1] - 1).bit_length()
            octaves[end] = octaves.get(end, 0) + number
        while len(found) < len(wanted) and number and seen >= wanted[len(found)]:
            low, high = bucket_bounds(index)
            found.append(min((low + high) // 2, max_ns))
    found += [max_ns] * (len(wanted) - len(found))
    return Latency(
        count=count,
        mean=sum_ns / count,
        p50=found[0],
        p90=found[1],
        p99=found[2],
        max=max_ns,
        octaves=octaves if with_octaves else None,
    )
