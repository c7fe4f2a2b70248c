"""Some dozens of random programs of threads, new ones each time, several within one trace.

`THREADINFO_FUZZ_SEED=N` plays those that a failure named. `python tests/fuzz/scheduling.py --seconds N` plays as many
as fit.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.scheduling import SEEDS_A_TRACE, build, play
from tests.trace.conftest import bpf  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("bpf")

SEED = int(os.environ.get("THREADINFO_FUZZ_SEED") or random.SystemRandom().randrange(1 << 30))
TRACES = 3


def test_random_threads_are_told_as_the_kernel_counts_them(tmp_path: Path) -> None:
    program = build(tmp_path)
    batches = [
        range(first, first + SEEDS_A_TRACE) for first in range(SEED, SEED + TRACES * SEEDS_A_TRACE, SEEDS_A_TRACE)
    ]
    found = [difference for batch in batches for difference in play(program, batch)]
    assert not found, "\n".join([f"THREADINFO_FUZZ_SEED={SEED}", *map(str, found)])
