"""A small share of the damaged ELF files; `python -m tests.fuzz.elf_files --count 2000` makes as many as are wanted."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.elf_files import Campaign, damage, sections

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="/proc/PID/map_files is root's")
COUNT = 40


def test_damaged_files_that_a_process_has_mapped_cost_their_stacks_only(tmp_path: Path) -> None:
    with Campaign(tmp_path) as campaign:
        for seed in range(COUNT):
            campaign.play(seed)
    assert sum(campaign.ends.values()) == COUNT
    assert 0 < campaign.ends["complete"] < COUNT, "some damage does no harm to a stack, and some does"


def test_every_seed_damages_the_file() -> None:
    content = Path("/bin/true").read_bytes()
    assert {".eh_frame", ".dynsym", "section headers"} <= {part.name for part in sections(content)}
    assert sum(damage(random.Random(seed), content) != content for seed in range(100)) > 90
