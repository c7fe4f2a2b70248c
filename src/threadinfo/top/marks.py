"""Figures as a few characters: bars, trends, sizes, ages."""

from __future__ import annotations

from collections.abc import Sequence

_SPARKS = " ▁▂▃▄▅▆▇█"
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def sparkline(values: Sequence[float], width: int, least: float = 0.0, highest: float | None = None) -> str:
    """The last `width` values, a character each, from `least` to the highest (at least `highest`); zero is a blank."""
    shown = values[-width:] if width > 0 else ()
    top = max([*shown, highest or 0.0])
    span = top - least
    steps = len(_SPARKS) - 1
    marks = [
        _SPARKS[0] if value <= 0 or span <= 0 else _SPARKS[max(1, min(steps, round(steps * (value - least) / span)))]
        for value in shown
    ]
    return "".join(marks).rjust(width)


def trend(values: Sequence[float], width: int) -> str:
    """A sparkline of a quantity that moves little: the lowest of its values is the lowest mark."""
    shown = values[-width:]
    if not shown or max(shown) <= 0:
        return " " * width
    lowest, highest = min(shown), max(shown)
    if highest - lowest < highest / 1000:
        return ("▁" * len(shown)).rjust(width)
    return sparkline(shown, width, least=lowest - (highest - lowest) / 7)


def bar(share: float, width: int) -> str:
    """``[||||||      ]``, `width` characters with the brackets; share is 0 to 1."""
    inner = max(0, width - 2)
    filled = min(inner, max(1 if share > 0 else 0, round(share * inner)))
    return f"[{'|' * filled}{' ' * (inner - filled)}]"


def format_bytes(count: float | None) -> str:
    """``13.5 MiB``; "-" for unknown."""
    if count is None:
        return "-"
    for size, unit in _SIZES:
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def format_age(seconds: float) -> str:
    """Two units at most: ``5s``, ``3m12s``, ``2h05m``, ``4d03h``."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def format_rate(per_second: float | None) -> str:
    """Three digits: ``0``, ``0.5``, ``12.3``, ``1234``; "-" for unknown."""
    if per_second is None:
        return "-"
    return f"{per_second:.0f}" if per_second >= 100 or per_second == 0 else f"{per_second:.1f}"
