"""Mapped arrays of which a part is in use: what is mapped counts as ours, whether it was ever touched or not.

The kernel maps all pages of such an array at once, so a part is mapped when it is first needed.
"""

from __future__ import annotations

import mmap
from typing import Literal

from threadinfo.trace.kernel.loader import Programs

_GROWTH = 2


class GrowingMemory:
    """The first elements of an array, of which the kernel side takes one after the other into use."""

    def __init__(self, programs: Programs, name: str, element_bytes: int, count: int) -> None:
        self._programs, self._name = programs, name
        self._element_bytes, self._count = element_bytes, count
        self._mapped_count = 0
        self._memory: mmap.mmap | None = None

    def upto(self, used_count: int) -> mmap.mmap:
        """Memory of so many elements or more, from the first on: the same object until it is too small."""
        wanted = max(1, min(used_count, self._count))
        if self._memory is None or wanted > self._mapped_count:
            pages = -(-max(wanted, self._mapped_count * _GROWTH) * self._element_bytes // mmap.PAGESIZE)
            self._mapped_count = min(self._count, pages * mmap.PAGESIZE // self._element_bytes)
            self._memory = self._programs.memory(self._name, self._element_bytes, self._mapped_count)
        return self._memory

    @property
    def mapped_count(self) -> int:
        """How many elements the memory has."""
        return self._mapped_count


class SparseWords:
    """An array of small numbers by process or thread id, of which few are looked at: a page is mapped when one is."""

    def __init__(self, programs: Programs, name: str, code: Literal["H", "Q"], count: int) -> None:
        self._programs, self._name, self._code = programs, name, code
        self._count = count
        self._in_page = mmap.PAGESIZE // memoryview(bytes(8)).cast("B").cast(code).itemsize
        self._pages: dict[int, memoryview] = {}

    def __getitem__(self, index: int) -> int:
        page, place = self._place(index)
        return int(page[place])

    def __setitem__(self, index: int, value: int) -> None:
        page, place = self._place(index)
        page[place] = value

    def _place(self, index: int) -> tuple[memoryview, int]:
        if not 0 <= index < self._count:
            raise IndexError(f"{self._name} has no element {index}")
        number, place = divmod(index, self._in_page)
        page = self._pages.get(number)
        if page is None:
            memory = self._programs.memory(self._name, 1, mmap.PAGESIZE, first=number * mmap.PAGESIZE)
            page = self._pages[number] = memoryview(memory).cast("B").cast(self._code)
        return page, place
