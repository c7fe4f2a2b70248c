"""Tells a leak from a pool: whether what stays open at a call site still becomes more when the trace ends.

A pool that grows and then stays has the shape of a leak at first. What tells them apart is the end: a pool's growth
stops, so that the time since it last grew is long compared with the time between its earlier steps, while a leak's
steps go on to the end at about the same pace. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

_FEWEST_SURVIVORS = 3
_FEWEST_STEPS = 3
_LONGEST_PAUSE = 5.0
"""Times the mean time between two steps: a steady leak pauses so long once in 150 steps, a full pool forever."""
_LEAST_KEPT = 0.9
"""Of the most that were ever open, that are open at the end: below, it breathes rather than grows."""
_LEAST_SHARE = 0.2
"""Of the trace, since the first birth: what has just begun is a pool that fills as well as a leak."""
_LEAST_STEADINESS = 0.7
_HIGH_STEADINESS, _HIGH_STEPS, _HIGH_SECONDS = 0.95, 10, 5.0
_MEDIUM_STEADINESS, _MEDIUM_STEPS = 0.85, 6

Confidence = Literal["high", "medium", "low"]


class Growth(NamedTuple):
    """What stays open becomes more, and has not stopped."""

    per_second: float
    steadiness: float
    """R² of a straight line through the counts."""
    confidence: Confidence


def judge_growth(moments_ns: Sequence[int], counts: Sequence[int], first_ns: int) -> Growth | None:
    """None where the counts do not go on growing.

    `counts` are open at the moments, the last of which is the end of the trace; `first_ns`: the first birth.
    """
    end_ns = moments_ns[-1] if moments_ns else first_ns
    survivors = counts[-1] if counts else 0
    if survivors < _FEWEST_SURVIVORS or end_ns <= first_ns:
        return None
    if end_ns - first_ns < _LEAST_SHARE * (end_ns - moments_ns[0]):
        return None
    # From just before the first birth: what comes before it is no part of the growth.
    times = np.array([first_ns, *(moment for moment in moments_ns if moment > first_ns)], float) / 1e9
    levels = np.array(
        [0, *(count for moment, count in zip(moments_ns, counts, strict=True) if moment > first_ns)], float
    )
    steps = np.flatnonzero(np.diff(levels) > 0) + 1
    if len(steps) < _FEWEST_STEPS or survivors < _LEAST_KEPT * levels.max():
        return None
    watched = times[-1] - times[0]
    # Several descriptors may survive between two moments: the time between steps is that between survivors then.
    apart = max((times[steps[-1]] - times[0]) / len(steps), watched / len(times))
    if times[-1] - times[steps[-1]] > _LONGEST_PAUSE * apart:
        return None
    slope, intercept = np.polyfit(times, levels, 1)
    spread = float(((levels - levels.mean()) ** 2).sum())
    steadiness = 1 - float(((levels - slope * times - intercept) ** 2).sum()) / spread
    if slope <= 0 or steadiness < _LEAST_STEADINESS:
        return None
    return Growth(float(slope), steadiness, _confidence(steadiness, len(steps), watched))


def _confidence(steadiness: float, steps: int, seconds: float) -> Confidence:
    if steadiness >= _HIGH_STEADINESS and steps >= _HIGH_STEPS and seconds >= _HIGH_SECONDS:
        return "high"
    return "medium" if steadiness >= _MEDIUM_STEADINESS and steps >= _MEDIUM_STEPS else "low"
