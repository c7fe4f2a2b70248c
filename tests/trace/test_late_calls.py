"""Calls that return, and tasks that end, in another order than the kernel did what they ask: programs that do so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trace.test_descriptors import build, trace

pytestmark = pytest.mark.usefixtures("bpf")
ARGUMENTS = ["PID", "--trace", "600", "--only", "descriptors", "--format", "json"]


def test_replacements_are_told_though_closes_of_their_numbers_come_late(tmp_path: Path) -> None:
    """One that was made and closed is not taken back, although the number is in use again; one that was none is. And
    what close_range closed was closed, although the number is in use again."""
    program = build("replaced_again", tmp_path, "-pthread")
    traced = trace([str(program)], ARGUMENTS, output=tmp_path / "out")
    closed_count, replaced_count = map(int, traced.said.split())
    report = traced.report()["trace"]
    assert report["confidence"]["ledger_matches_proc"] is True, report["confidence"]
    assert report["descriptors"]["closed_by"] == {"close": closed_count, "replaced": replaced_count}
    assert report["descriptors"]["unseen_birth_count"] == 0
    lived = report["descriptors"]["opened_count"] - report["descriptors"]["still_open_count"]
    assert report["descriptors"]["lifetime_ns"]["count"] == lived


def test_what_two_processes_share_is_closed_when_they_end_at_the_same_moment(tmp_path: Path) -> None:
    program = build("leaving_together", tmp_path)
    traced = trace([str(program)], ARGUMENTS, output=tmp_path / "out", goes_on=False)
    found = traced.report()["trace"]["descriptors"]
    assert found["closed_by"] == {"exit": int(traced.said)}
    assert found["opened_count"] == 23 + 2 + 2 + 1
    assert found["still_open_count"] == 0
