"""Some dozens of new seeds of the scheduling fuzzer; THREADINFO_FUZZ_SECONDS=N runs as many as fit."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.scheduling import SEEDS_A_TRACE, build, play, run

TRACES = 4


def test_random_threads_are_told_as_the_kernel_counts_them(
    bpf: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if seconds := os.environ.get("THREADINFO_FUZZ_SECONDS"):
        count, found = run(float(seconds))
        assert count
    else:
        program = build(tmp_path)
        seeds = [[random.getrandbits(32) for _ in range(SEEDS_A_TRACE)] for _ in range(TRACES)]
        with capsys.disabled():
            print(f"\nseeds of the scheduling fuzzer: {' '.join(str(seed) for batch in seeds for seed in batch)}")
        found = [difference for batch in seeds for difference in play(program, batch)]
    assert not found, "\n".join(map(str, found))
