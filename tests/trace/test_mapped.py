"""Mapped arrays of which a part is in use: what is not used is not mapped, what is used is all there."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.trace.conftest import wait_until_it_traces
from threadinfo.trace.kernel.loader import Programs
from threadinfo.trace.kernel.mapped import GrowingMemory, SparseWords

ELEMENT_BYTES, COUNT = 24, 10_007
MOST_RESIDENT_KB = 70_000  # 49,000 were measured; all arrays and ring buffers are 90,000 more


class Arrays:
    """In place of loaded programs: one array, and what was mapped of it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("array")
        os.ftruncate(self.fd, -(-ELEMENT_BYTES * COUNT // mmap.PAGESIZE) * mmap.PAGESIZE)
        self.mapped_bytes = 0

    def memory(self, _name: str, element_bytes: int, count: int, *, first: int = 0) -> mmap.mmap:
        size = -(-element_bytes * count // mmap.PAGESIZE) * mmap.PAGESIZE
        self.mapped_bytes += size
        return mmap.mmap(self.fd, size, offset=first)


@pytest.fixture
def arrays() -> Iterator[Arrays]:
    made = Arrays()
    yield made
    os.close(made.fd)


def test_memory_grows_with_what_is_used_and_never_beyond_the_array(arrays: Arrays) -> None:
    growing = GrowingMemory(cast("Programs", arrays), "array", ELEMENT_BYTES, COUNT)
    first = growing.upto(0)
    assert arrays.mapped_bytes == mmap.PAGESIZE
    assert growing.upto(growing.mapped_count) is first
    for used in (1, 171, 5003, COUNT, COUNT + 1000):
        memory = growing.upto(used)
        assert min(used, COUNT) <= growing.mapped_count <= COUNT
        assert len(memory) >= growing.mapped_count * ELEMENT_BYTES
        rows = np.frombuffer(memory, np.uint8, growing.mapped_count * ELEMENT_BYTES).reshape(-1, ELEMENT_BYTES)
        rows[min(used, COUNT) - 1] = 7
    assert np.flatnonzero(rows[:, 0]).tolist() == [0, 170, 5002, COUNT - 1]


def test_words_are_kept_and_few_pages_are_mapped(arrays: Arrays) -> None:
    words = SparseWords(cast("Programs", arrays), "array", "H", COUNT)
    for index in (0, 5, COUNT - 1):
        words[index] = index + 1
    assert [words[index] for index in (0, 1, 5, COUNT - 1)] == [1, 0, 6, COUNT]
    assert arrays.mapped_bytes == 2 * mmap.PAGESIZE
    assert os.pread(arrays.fd, 2, 2 * (COUNT - 1)) == COUNT.to_bytes(2, "little")
    for outside in (-1, COUNT):
        with pytest.raises(IndexError):
            words[outside] = 1


@pytest.mark.usefixtures("bpf")
def test_a_trace_of_an_idle_process_keeps_little_memory(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as target:
        command = [sys.executable, "-m", "threadinfo", str(target.pid), "--trace", "600", "-o", str(tmp_path / "out")]
        with subprocess.Popen(command, cwd=ROOT) as tool:
            try:
                wait_until_it_traces(tool)
                status = Path(f"/proc/{tool.pid}/status").read_text().splitlines()
            finally:
                tool.terminate()
                tool.wait()
                target.kill()
    (resident,) = (int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    assert resident <= MOST_RESIDENT_KB
