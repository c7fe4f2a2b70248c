"""How findings are worded: shares, counts and times for people."""

from __future__ import annotations

from collections.abc import Sequence

SEVERITIES = ("high", "medium", "low")
MOST_NAMED = 2


def name_threads(threads: Sequence[tuple[int, str]]) -> str:
    """``thread reloader 12``, ``threads reloader 12, worker 13 and 5 others``."""
    named = [f"{name or '(ended)'} {tid}" for tid, name in threads]
    others = f" and {len(named) - MOST_NAMED} others" if len(named) > MOST_NAMED else ""
    return f"{plural(len(named), 'thread')} {', '.join(named[:MOST_NAMED])}{others}"


def percent(part: float, whole: float) -> float:
    """Two decimal places; 0 of nothing."""
    return round(100 * part / whole, 2) if whole else 0.0


def format_rate(per_minute: float) -> str:
    """``984``, ``2.5``: how many a minute."""
    return f"{per_minute:,.0f}" if per_minute >= 10 else f"{per_minute:.2g}"


def plural(count: int, word: str) -> str:
    """``directories``, of 1 ``directory``."""
    if count == 1:
        return word
    return f"{word[:-1]}ies" if word.endswith("ory") else f"{word}s"  # directory, memory


def others_too(count: int, one: str, many: str, rest: str) -> str:
    """``; 3 other threads waited longer than they ran``."""
    if not count:
        return ""
    return f"; {count} other {one if count == 1 else many} {rest}"


def format_time(ns: float) -> str:
    """``4.1 ms``."""
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.0f} ns"


def format_long_time(seconds: float) -> str:
    """``20 minutes``."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
