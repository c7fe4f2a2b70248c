"""When growth is a leak: curves whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadinfo.trace.stacks.leaks import Growth, judge_growth

SECOND = 1_000_000_000
INTERVAL = SECOND // 4


def judge(level: Callable[[float], float], seconds: int = 15) -> Growth | None:
    """`level`: how many are open so many seconds after the first birth."""
    moments = range(INTERVAL, seconds * SECOND + 1, INTERVAL)
    return judge_growth(list(moments), [int(level(moment / SECOND)) for moment in moments], 1)


@pytest.mark.parametrize("per_second", [0.4, 1.0, 7.0, 1000.0])
def test_steady_growth_is_a_leak_with_its_rate(per_second: float) -> None:
    growth = judge(lambda seconds: per_second * seconds, 60)
    assert growth is not None
    assert growth.per_second == pytest.approx(per_second, rel=0.05)
    assert growth.confidence == "high"


@pytest.mark.parametrize(
    "level",
    [
        lambda seconds: min(97.0, 200 * seconds),  # a pool, full after half a second
        lambda seconds: min(97.0, 10 * seconds),  # full after ten of fifteen
        lambda seconds: 40 + 30 * ((seconds * 2) % 2 < 1),  # breathes
        lambda seconds: max(0.0, 100 - 10 * seconds),  # drains
        lambda seconds: 2.0 if seconds > 1 else 0.0,  # too few to tell
        lambda seconds: 50.0,  # opened at once
        lambda seconds: 0.0,
    ],
    ids=["pool", "slow pool", "breathing", "draining", "two", "at once", "none"],
)
def test_what_is_no_leak(level: Callable[[float], float]) -> None:
    assert judge(level) is None


def test_leak_in_bursts_is_one_with_less_confidence() -> None:
    growth = judge(lambda seconds: 10 * (seconds // 4), 20)
    assert growth is not None
    assert growth.confidence != "high"
    assert growth.per_second == pytest.approx(2.5, rel=0.2)


def test_growth_that_begins_late_is_judged_from_its_beginning() -> None:
    moments = list(range(0, 40 * SECOND, INTERVAL))
    counts = [max(0, (moment - 30 * SECOND) * 8 // SECOND) for moment in moments]
    growth = judge_growth(moments, counts, 30 * SECOND)
    assert growth is not None
    assert growth.per_second == pytest.approx(8, rel=0.05)


def test_a_pool_that_has_just_begun_is_no_leak() -> None:
    moments = list(range(0, 40 * SECOND, INTERVAL))
    counts = [max(0, (moment - 35 * SECOND) * 8 // SECOND) for moment in moments]
    assert judge_growth(moments, counts, 35 * SECOND) is None


@given(st.lists(st.integers(0, 1000), max_size=80), st.integers(0, 20))
def test_any_curve_is_judged_without_error(counts: Sequence[int], first: int) -> None:
    growth = judge_growth([(index + 1) * INTERVAL for index in range(len(counts))], counts, first * INTERVAL + 1)
    if growth is not None:
        assert growth.per_second > 0
        assert counts[-1] >= 0.9 * max(counts[first:])
        assert 0 < growth.steadiness <= 1
