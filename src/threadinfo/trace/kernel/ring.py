"""A BPF ring buffer of records of one size, read in bulk through its own memory map: no callback a record.

Layout: Linux Documentation/bpf/ringbuf.rst. The consumer's page can be written, the producer's page and the data can be
read. The kernel would map the data twice in a row, so that what wraps round reads as one piece; that would count as
twice the memory, and what is read is copied anyway. Only what is read is mapped, while it is: all of it would count as
ours as long as the trace lasts.
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
        producer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._read_at = np.frombuffer(consumer, np.uint64, 1)
        self._written_to = np.frombuffer(producer, np.uint64, 1)
        self._fd = map_fd

    def read(self) -> Records:
        """A copy of what was written since the last call, in the order of the buffer; its room is free again."""
        start, end = int(self._read_at[0]), int(self._written_to[0])
        if start == end:
            return np.empty((0, self._words), np.uint64)
        data, first = self._map(start % self._size, end - start)
        count = (end - start) // (8 * self._words)
        headers = (first + self._words * np.arange(count)) % len(data)
        busy = np.flatnonzero(data[headers] & _BUSY)  # looked at before the rest: then that is complete
        words = self._words * (int(busy[0]) if busy.size else count)
        piece = data[first : first + words]
        # What goes on at the beginning is put behind it.
        whole = np.concatenate((piece, data[: words - len(piece)])) if len(piece) < words else piece.copy()
        self._read_at[0] = start + 8 * words
        records: Records = whole.reshape(-1, self._words)
        is_discarded = (records[:, 0] & _DISCARDED) != 0
        return records[~is_discarded] if is_discarded.any() else records

    def _map(self, at: int, length: int) -> tuple[NDArray[np.uint64], int]:
        """The pages of so many bytes from there on, all where it goes on at the beginning; and which word is there."""
        page = mmap.PAGESIZE
        begin, end = (at // page * page, at + length) if at + length <= self._size else (0, self._size)
        size = -(-(end - begin) // page) * page
        memory = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * page + begin)
        return np.frombuffer(memory, np.uint64), (at - begin) // 8
