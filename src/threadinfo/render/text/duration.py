"""Times for people."""

from __future__ import annotations

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"))


def format_duration(ns: float | None) -> str:
    """Three digits and a unit: ``4.10us``, ``120ms``; "-" for unknown."""
    if ns is None:
        return "-"
    for size, unit in _UNITS:
        if ns >= size:
            value = ns / size
            return f"{value:.2f}{unit}" if value < 10 else f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"
    return f"{ns:.0f}ns"


def format_traced(ns: int) -> str:
    """How long it was traced, as headings have it: ``12.0 s``, and where that would be nothing ``31.2 ms``."""
    return f"{ns / 1e9:.1f} s" if ns >= 1e9 else f"{ns / 1e6:.1f} ms"
