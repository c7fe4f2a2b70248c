"""The reader of ring buffers, on memory that a test writes: records that wrap round, are busy, or were discarded."""

from __future__ import annotations

import mmap
import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from threadinfo.trace.kernel.ring import RingReader

SIZE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Writer:
    """The kernel's side: two pages of positions, and the data."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + SIZE)
        self.memory = mmap.mmap(self.fd, 2 * mmap.PAGESIZE + SIZE)

    def write(self, at: int, words: list[int]) -> None:
        for index, word in enumerate(words):
            struct.pack_into("=Q", self.memory, 2 * mmap.PAGESIZE + (at + 8 * index) % SIZE, word)

    def written_to(self, position: int) -> None:
        struct.pack_into("=Q", self.memory, mmap.PAGESIZE, position)

    def read_at(self) -> int:
        (position,) = struct.unpack_from("=Q", self.memory, 0)
        return int(position)


@settings(max_examples=101, deadline=None)
@given(st.integers(1, 40), st.lists(st.lists(st.sampled_from([0, BUSY, DISCARDED]), max_size=11), max_size=23))
def test_every_record_is_read_once_and_in_order(length: int, rounds: list[list[int]]) -> None:
    writer, position, number, pending = Writer(), 0, 0, []
    reader = RingReader(writer.fd, SIZE, 1 + length)
    expected: list[int] = []
    seen: list[int] = []
    for flags in rounds:
        for flag in flags:
            if position + 8 * (1 + length) - writer.read_at() > SIZE:
                break  # full: the kernel would count it as lost
            number += 1
            writer.write(position, [flag | 8 * length, *[number] * length])
            if flag == BUSY:
                pending.append((position, number))
            if flag != DISCARDED:
                expected.append(number)
            position += 8 * (1 + length)
        writer.written_to(position)
        records = reader.read()
        assert all(len(set(row[1:])) == 1 for row in records.tolist())
        seen += records[:, 1].tolist()
        for at, _ in pending:  # submitted now
            writer.write(at, [8 * length])
        pending = []
    seen += reader.read()[:, 1].tolist()
    assert seen == expected
    os.close(writer.fd)
