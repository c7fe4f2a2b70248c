"""A BPF ring buffer of records of one size, read in bulk through its own memory map: no callback a record.

Layout: Linux Documentation/bpf/ringbuf.rst. The consumer's page can be written, the producer's page and the data can be
read; the data are mapped twice in a row, so that a record that wraps round reads as one piece.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.uint64]
"""A row a record, a word of 8 bytes a column; the first word is the kernel's header."""

_BUSY, _DISCARDED = 1 << 31, 1 << 30


class RingReader:
    """Reads one ring buffer. `record_words` is the length of a record in words of 8 bytes, its header included."""

    def __init__(self, map_fd: int, size: int, record_words: int) -> None:
        self._words, self._size = record_words, size
        page = mmap.PAGESIZE
        consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        producer = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._read_at = np.frombuffer(consumer, np.uint64, 1)
        self._written_to = np.frombuffer(producer, np.uint64, 1)
        self._data = np.frombuffer(producer, np.uint64, offset=page)

    def read(self) -> Records:
        """A copy of what was written since the last call, in the order of the buffer; its room is free again."""
        start, end = int(self._read_at[0]), int(self._written_to[0])
        count = (end - start) // (8 * self._words)
        # A run that begins near the end of the first mapping reads on in the second.
        first = start % self._size // 8
        rows = self._data[first : first + count * self._words].reshape(count, self._words)
        busy = np.flatnonzero(rows[:, 0] & _BUSY)
        if busy.size:
            rows = rows[: busy[0]]
        copy: Records = rows.copy()
        self._read_at[0] = start + 8 * self._words * len(copy)
        is_discarded = (copy[:, 0] & _DISCARDED) != 0
        return copy[~is_discarded] if is_discarded.any() else copy
