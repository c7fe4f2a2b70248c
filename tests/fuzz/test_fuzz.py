"""Random sequences, new ones each time, in every way to start the tool: what is told is what the programs counted.

`THREADINFO_FUZZ_SEED=N` plays those that a failure named. `make fuzz SECONDS=600` plays as many as fit.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.campaign import Difference, Tally, find_shortest, generate_all, play_batch
from tests.fuzz.play import MODES, build
from tests.fuzz.shrink import kind_of
from tests.trace.conftest import bpf  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("bpf")

SEED = int(os.environ.get("THREADINFO_FUZZ_SEED") or random.SystemRandom().randrange(1 << 30))
AT_ONCE = 5
MOST_TRACES = 12  # to find a shortest sequence: once, and then the failures name the command that does it
CASES = [
    *[
        (mode, profile)
        for mode in ("report", "stream")
        for profile in ("simple", "signals", "threads", "slow", "shared")
    ],
    *[("run", "simple"), ("run", "threads"), ("wait", "simple"), ("wait-stream", "simple")],
    *[("report-follow", "follow"), ("stream-follow", "follow"), ("report-follow", "shared")],
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module")
def shrunk() -> list[Difference]:
    """What a shortest sequence was looked for."""
    return []


@pytest.mark.parametrize(("mode", "profile"), CASES, ids=[f"{mode}-{profile}" for mode, profile in CASES])
def test_everything_that_is_told_is_what_the_programs_counted(
    mode: str, profile: str, program: Path, shrunk: list[Difference]
) -> None:
    sequences = generate_all(profile, range(SEED, SEED + AT_ONCE))
    found = play_batch(MODES[mode], sequences, program, Tally())
    if not found:
        return
    worst = min(found, key=lambda one: sum(len(sequence.steps) for sequence in one.sequences))
    kinds = sorted({kind_of(line) for difference in found for line in difference.lines})
    shortest = find_shortest(worst, program, MOST_TRACES) if not shrunk else None
    shrunk.append(worst)
    pytest.fail(
        f"THREADINFO_FUZZ_SEED={SEED}: {len(found)} of {AT_ONCE} differ ({'; '.join(kinds)})\n{worst.words(shortest)}"
    )
