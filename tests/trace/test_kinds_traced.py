"""Every kind of descriptor has one name: in the report, when it is opened, when it is closed, in totals, for --kind."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKLOADS
from tests.trace.test_descriptors import Traced, trace
from threadinfo.descriptor_kinds import KIND_NAMES

pytestmark = pytest.mark.usefixtures("bpf")
BIRTHS = {"open", "duplicate", "socket", "accept", "pipe", "receive"}

MADE_BY_IOCTL = {"pseudo-terminal", "KVM"}
"""Calls that are not decoded."""


def traced(directory: Path, arguments: list[str], *, goes_on: bool) -> Traced:
    command = [sys.executable, str(WORKLOADS / "every_descriptor.py"), str(directory), "later"]
    return trace(command, arguments, output=directory.parent / f"{directory.name}.out", goes_on=goes_on)


def test_every_kind_is_called_the_same_at_its_birth_its_end_and_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    found = traced(tmp_path / "files", ["trace", "PID", "--only", "descriptors", "--format", "json"], goes_on=False)
    *events, last = found.events()
    assert last["confidence"]["lost_count"] == 0
    born: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] in BIRTHS and "error" not in event:
            born[event["fd"]] = event
        elif event["event"] == "close" and "error" not in event:
            ended[event["fd"]] = event
    wrong: list[tuple[object, ...]] = []
    unborn, checked = set(), 0
    for one in json.loads(found.said)["descriptors"]:
        birth, end = born.get(one["fd"]), ended.get(one["fd"])
        if birth is None:
            unborn.add(one["case"])
            continue
        checked += 1
        assert end is not None, one
        if (birth.get("type"), end.get("type")) != (one["type"], one["type"]):
            wrong.append((one["case"], one["type"], birth.get("type"), end.get("type"), birth["syscall"]))
    print(f"{checked - len(wrong)} of {checked} have one name")
    print("\n".join(map(str, wrong)))
    assert wrong == []
    assert unborn <= MADE_BY_IOCTL
    assert checked > 150


def test_totals_are_by_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    found = traced(tmp_path / "files", ["PID", "--trace", "60", "--format", "json"], goes_on=True)
    report = found.report()
    by_type = report["trace"]["descriptors"]["by_type"]
    assert set(by_type) <= set(KIND_NAMES), by_type
    kept = Counter(one["type"] for one in report["descriptors"] if one["origin"])
    assert {name: count for name, count in kept.items() if by_type.get(name, 0) < count} == {}


@pytest.mark.parametrize("kind", ["bpf_map", "namespace", "memfd_secret", "terminal"])
def test_a_kind_that_the_trace_had_no_name_for_is_found_by_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    found = traced(tmp_path / "files", ["trace", "PID", "--kind", kind, "--format", "json"], goes_on=False)
    *events, _ = found.events()
    wanted = [one for one in json.loads(found.said)["descriptors"] if one["type"] == kind]
    if not wanted:
        pytest.skip(f"this kernel refuses {kind}")
    assert {event["type"] for event in events} == {kind}
    by_ioctl = int(kind == "terminal")  # one of the two
    assert len([event for event in events if event["event"] in BIRTHS]) >= len(wanted) - by_ioctl > 0
