"""How often each path was opened: counted by hash, a batch at a time; a path is decoded once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.descriptor_records import Batch

_MOST_PATHS = 16_384
_WORD = 8
_HASH_FACTORS = np.random.default_rng().integers(1 << 62, size=1 + 4096 // 8, dtype=np.uint64) | np.uint64(1)
"""Chosen anew by every process, so that nobody can name files that collide."""


class PathTotals:
    """Of one process."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._paths: dict[int, str] = {}
        self.uncounted = 0
        """Openings of paths that were one too many to keep."""

    def add(self, batch: Batch, which: NDArray[np.integer[Any]]) -> None:
        """The openings at some indices of a batch, each of which has a path as its data."""
        places = batch.places[which]
        for source in np.unique(places >> 32).tolist():
            of_source = which[places >> 32 == source]
            rows = batch.sources[source][batch.places[of_source] & 0xFFFFFFFF]
            self._add_rows(batch, of_source, _hash(rows, batch.events["length"][of_source]))

    def _add_rows(self, batch: Batch, which: NDArray[np.integer[Any]], hashes: NDArray[np.uint64]) -> None:
        keys, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        for key, index, count in zip(keys.tolist(), first.tolist(), counts.tolist(), strict=True):
            if key not in self._paths:
                if len(self._paths) >= _MOST_PATHS:
                    self.uncounted += count
                    continue
                data = batch.data(int(which[index])).rstrip(b"\0")
                self._paths[key] = data.decode("utf-8", "backslashreplace")
            self._counts[key] += count

    def most_common(self, count: int) -> list[tuple[str, int]]:
        """Paths as the program named them, and how often each was opened."""
        return [(self._paths[key], opened) for key, opened in self._counts.most_common(count)]


def _hash(rows: NDArray[np.uint64], lengths: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Of the first bytes of each row; what comes after them is left over from something else."""
    words = rows.shape[1]
    ends = lengths.astype(np.int64)[:, None] - np.arange(0, words * _WORD, _WORD)
    bits = np.uint64(64) - (np.clip(ends, 0, _WORD) * 8).astype(np.uint64)
    mask = np.where(ends > 0, np.uint64(0xFFFFFFFFFFFFFFFF) >> np.minimum(bits, np.uint64(63)), np.uint64(0))
    hashed = (rows & mask) * _HASH_FACTORS[:words]
    hashed ^= hashed >> np.uint64(32)
    mixed: NDArray[np.uint64] = (hashed * _HASH_FACTORS[1 : words + 1]).sum(axis=1, dtype=np.uint64)
    return mixed + lengths
