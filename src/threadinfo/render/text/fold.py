"""What a text report without -v leaves out: equal rows are told once, long lists are cut, and either says so."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from threadinfo.render.escape import format_text

COLUMNS = 80
_RUNS = 6
NOBODY = "nobody or unknown"
"""The CPU was idle and woke up, or its slices were too many to be kept; told last, whatever its share."""


class Cuts(NamedTuple):
    """How many rows each list of a traced report has at the most; None: all of them."""

    threads: int | None = 3
    listed_threads: int | None = 3
    relations: int | None = 2
    partners: int = 1
    suspects: int | None = 3
    sites: int | None = 2
    paths: int | None = 4
    churning: int | None = 3
    stories: int | None = 3
    waiting: int | None = 5
    locks: int | None = 2
    edges: int | None = 2
    functions: int | None = 4
    frames: int = 1
    equal: int | None = 3
    """From how many on equal rows of the listing are folded."""
    advice: int | None = None
    """How many findings have their advice."""
    gaps: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out, as with -v."""
        return self.threads is None


SHORT = Cuts()
SHORTER = Cuts(
    threads=2,
    relations=1,
    suspects=2,
    sites=1,
    paths=0,
    churning=2,
    stories=2,
    waiting=3,
    locks=1,
    edges=1,
    functions=3,
)
"""Where the report of one process would otherwise be longer than is read."""
SHORTEST = SHORTER._replace(listed_threads=1, suspects=1, waiting=1, advice=2, gaps=3)
"""Where that is still too long."""
WHOLE = Cuts(
    threads=None,
    listed_threads=None,
    relations=None,
    partners=3,
    suspects=None,
    sites=None,
    paths=None,
    churning=None,
    stories=None,
    waiting=None,
    locks=None,
    edges=None,
    functions=None,
    frames=32,
    equal=None,
)


def left_out(count: int, words: str) -> list[str]:
    """``  7 other threads (-v shows them)``, or no line."""
    return [f"  {count} {words} (-v shows {'it' if count == 1 else 'them'})"] if count > 0 else []


def format_numbers(numbers: Iterable[int]) -> str:
    """``3, 7-12, 15``; what is beyond six runs is an ellipsis."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_RUNS]]
    return ", ".join(words) + (", ..." if len(runs) > _RUNS else "")


def wrap(text: str, indent: str, further: str, width: int = COLUMNS) -> list[str]:
    """A line that is not yet escaped, broken where it is too long."""
    return textwrap.wrap(
        format_text(text), max(COLUMNS, width), initial_indent=indent, subsequent_indent=further, break_on_hyphens=False
    )
