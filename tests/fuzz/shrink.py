"""The shortest sequence that still differs: delta debugging, many candidates under one trace."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as Several
from pathlib import Path

from tests.fuzz.play import FuzzerError, Mode, play
from tests.fuzz.sequences import GO, Sequence, Step

Differs = Callable[[Several[Sequence]], list[bool]]
"""Which of some candidates still differ."""
_TRIES = 4  # of each candidate: threads do not meet in every run
_MOST_AT_ONCE = 24


def kind_of(difference: str) -> str:
    """What is wrong, without the numbers of this run."""
    return re.sub(r"\d+", "N", re.sub(r"^process \d+: ", "", difference).split(":")[0])


def shrink(sequence: Sequence, differs: Differs) -> Sequence:
    """A sequence that differs as well and of which no step can be left out."""
    steps = [*sequence.steps]
    parts = 2
    while True:
        removable = [index for index, step in enumerate(steps) if step != GO]
        parts = min(parts, len(removable))
        if not parts:
            return sequence.with_steps(steps)
        size = -(-len(removable) // parts)
        cuts = [{*removable[start : start + size]} for start in range(0, len(removable), size)]
        candidates = [[step for index, step in enumerate(steps) if index not in cut] for cut in cuts]
        shorter = _first(sequence, candidates, differs)
        if shorter is not None:
            steps = shorter
            parts = max(parts - 1, 2)
        elif size == 1:
            return sequence.with_steps(steps)
        else:
            parts = 2 * parts


def _first(sequence: Sequence, candidates: list[list[Step]], differs: Differs) -> list[Step] | None:
    """The first of the candidates that differs."""
    for start in range(0, len(candidates), _MOST_AT_ONCE):
        some = candidates[start : start + _MOST_AT_ONCE]
        for steps, still in zip(some, differs([sequence.with_steps(steps) for steps in some]), strict=True):
            if still:
                return steps
    return None


def still_differs(mode: Mode, program: Path, kinds: set[str], most_traces: int) -> Differs:
    """Whether one of these kinds of differences comes again; False once there were so many traces."""
    left = [most_traces]

    def differs(candidates: Several[Sequence]) -> list[bool]:
        found = [False] * len(candidates)
        batches: list[list[int]] = [[*range(len(candidates))] * _TRIES]
        if mode.begins != "attach":  # these play one at a time
            batches = [[index] for index in range(len(candidates))]
        for batch in batches:
            left[0] -= 1
            if left[0] < 0:
                break
            try:
                played = play(mode, [candidates[index] for index in batch], program)
            except FuzzerError:
                continue
            for place, line in played.differences:
                if kind_of(line) in kinds and (place >= 0 or len(batch) == 1):
                    found[batch[max(place, 0)]] = True
            if any(found):
                break
        return found

    return differs
