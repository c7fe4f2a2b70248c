"""Names of code that programs made at run time, from perf maps. Hostile text: nothing is believed but names."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from threadinfo.trace.stacks.frames import Frame, Stack

_MOST_NAME = 300
_READ_SECONDS = 2.0
"""So often a map is read again where it lacks an address: it grows while the program works."""

ReadPerfMap = Callable[[int], bytes | None]
"""Gives the text of a process's map; None where it has none."""


class PerfMap(NamedTuple):
    """Functions by their places in memory."""

    starts: tuple[int, ...]
    """Ascending."""
    ends: tuple[int, ...]
    names: tuple[str, ...]

    def find(self, address: int) -> tuple[str, int] | None:
        """(name, offset in it) of the function that holds an address; None where none does."""
        at = bisect_right(self.starts, address) - 1
        if at < 0 or address >= self.ends[at]:
            return None
        return self.names[at], address - self.starts[at]


def parse_perf_map(text: bytes) -> PerfMap:
    """Lines of "START SIZE NAME", hexadecimal; others are left out. Of two with one start the later one counts."""
    found: dict[int, tuple[int, bytes]] = {}
    for line in text.split(b"\n"):
        words = line.split(None, 2)
        if len(words) != 3 or max(len(words[0]), len(words[1])) > len("0x") + 16:
            continue
        try:
            start, size = int(words[0], 16), int(words[1], 16)
        except ValueError:
            continue
        if start >= 0 and size > 0:
            found[start] = start + size, words[2]
    starts = sorted(found)
    names = [found[start][1][:_MOST_NAME].decode("utf-8", "backslashreplace").rstrip() for start in starts]
    return PerfMap(tuple(starts), tuple(found[start][0] for start in starts), tuple(names))


EMPTY = PerfMap((), (), ())


class RunTimeCode:
    """The maps of some processes, read when an address is asked for that is no file's."""

    def __init__(self, read_perf_map: ReadPerfMap) -> None:
        self._read = read_perf_map
        self._maps: dict[int, tuple[float, PerfMap]] = {}
        self.named_count = 0
        self.nameless_count = 0
        """Frames."""

    def name(self, pid: int, stack: Stack) -> Stack:
        """The stack with the names of those of its frames that are no file's, as far as they are known."""
        if all(frame.module for frame in stack.frames):
            return stack
        frames = tuple(frame if frame.module else self._named(pid, frame) for frame in stack.frames)
        return stack._replace(frames=frames)

    def _named(self, pid: int, frame: Frame) -> Frame:
        read_at, known = self._maps.get(pid, (0.0, EMPTY))
        found = known.find(frame.address)
        if found is None and time.monotonic() - read_at > _READ_SECONDS:
            known = parse_perf_map(self._read(pid) or b"")
            self._maps[pid] = time.monotonic(), known
            found = known.find(frame.address)
        if found is None:
            self.nameless_count += 1
            return frame
        self.named_count += 1
        return frame._replace(function=found[0], offset=found[1])
