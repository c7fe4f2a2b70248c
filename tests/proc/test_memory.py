"""smaps and smaps_rollup."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import miniature
from tests.conftest import MakeProc
from threadinfo.proc.memory import Distribution, parse_smaps, read_distribution
from threadinfo.proc.reader import MalformedLineError, ProcDirectory, ProcMalformedError


def test_parse_smaps_rollup() -> None:
    assert parse_smaps(miniature.ROLLUP) == Distribution(14864 * 1024, 11490 * 1024, 512 * 1024)


@given(st.lists(st.tuples(*[st.integers(0, 2**40)] * 3), min_size=1))
def test_parse_smaps_adds_up_mappings(sizes: list[tuple[int, int, int]]) -> None:
    text = "".join(
        f"7f00-7f01 r--p 00000000 00:00 0  /a: b\nRss: {rss} kB\nPss: {pss} kB\nSwap: {swap} kB\nVmFlags: rd\n"
        for rss, pss, swap in sizes
    )
    sums = parse_smaps(text)
    expected = tuple(1024 * sum(column) for column in zip(*sizes, strict=True))
    assert (sums.rss_bytes, sums.pss_bytes, sums.swap_bytes) == expected


def test_read_distribution_without_rollup_takes_smaps(make_proc: MakeProc) -> None:
    files = miniature.process(7, smaps_rollup=None) | {"7/smaps": miniature.ROLLUP + miniature.ROLLUP}
    with ProcDirectory(str(make_proc(files))) as proc, proc.directory("7") as target:
        assert read_distribution(target).rss_bytes == 2 * 14864 * 1024


def test_read_distribution_of_this_process_is_what_the_kernel_says() -> None:
    with ProcDirectory("/proc") as proc, proc.directory(str(os.getpid())) as own:
        read = read_distribution(own)
        assert 0 < read.pss_bytes <= read.rss_bytes


@pytest.mark.parametrize("text", ["Rss: many kB\n", "Rss: 1 MB\nPss: 1 kB\nSwap: 0 kB\n", "Rss: 1 kB\n"])
def test_parse_smaps_malformed_is_refused(text: str) -> None:
    with pytest.raises(MalformedLineError):
        parse_smaps(text)


def test_read_distribution_malformed_names_path_and_line(make_proc: MakeProc) -> None:
    root = make_proc(miniature.process(7, smaps_rollup="x\nRss: ? kB\n"))
    with (
        ProcDirectory(str(root)) as proc,
        proc.directory("7") as target,
        pytest.raises(ProcMalformedError, match=r"/7/smaps_rollup: .*line 2"),
    ):
        read_distribution(target)
