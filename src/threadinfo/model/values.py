"""What several parts of a report are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

DetailItem: TypeAlias = str | int | Mapping[str, int | str | None]
DetailValue: TypeAlias = str | int | float | bool | Sequence[DetailItem] | None
"""What a detail of a descriptor can be: plain JSON values, and flat lists of them."""

Details: TypeAlias = dict[str, DetailValue]


class Gap(msgspec.Struct, frozen=True):
    """Something that the report lacks."""

    section: str
    """The part of the report that is incomplete, for example "descriptors"."""
    cause: str
    """What stood in the way, in words."""
    remedy: str | None
    """What the user can do about it; None where nothing can be done."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of waits, in nanoseconds; percentiles are at most 7 % off (the buckets of the histogram)."""

    count: int
    mean: float | None
    """None, like those below, where nothing was counted."""
    p50: int | None
    p90: int | None
    p99: int | None
    max: int | None
    octaves: dict[int, int] | None = None
    """How many waits lie in each octave that has any: the key is its upper end, a power of two, and half of that its
    lower one. None where only the summary is kept."""
