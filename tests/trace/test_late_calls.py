"""Calls that return, and tasks that end, in another order than the kernel did what they ask: programs that do so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.conftest import ROOT, WORKLOADS
from tests.trace.conftest import wait_until_it_traces
from tests.trace.test_descriptors import TOOL, build, trace
from threadinfo.model import DescriptorEvent
from threadinfo.render.text.sockets import tell_stories

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


def test_a_process_that_has_the_number_of_an_ended_one_is_none_of_ours(tmp_path: Path) -> None:
    workload = subprocess.Popen(
        [sys.executable, WORKLOADS / "number_again.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert workload.stdin is not None
    assert workload.stdout is not None
    try:
        child = int(workload.stdout.readline().split()[1])
        targets = [str(workload.pid), str(child)]
        with open(tmp_path / "out", "w") as output:
            tool = subprocess.Popen([sys.executable, *TOOL, *targets, *ARGUMENTS[1:]], cwd=ROOT, stdout=output)
        wait_until_it_traces(tool)
        workload.stdin.write("\n")
        workload.stdin.flush()
        assert workload.stdout.readline() == "done\n"
        tool.send_signal(signal.SIGINT)
        assert tool.wait(timeout=120) == 0
    finally:
        workload.kill()
        workload.communicate()
    processes = json.loads((tmp_path / "out").read_text())["processes"]
    (ended,) = [process for process in processes if process["pid"] == child]
    assert ended["trace"]["descriptors"]["opened_count"] == 7


def test_a_socket_whose_close_comes_late_is_closed_in_its_story(tmp_path: Path) -> None:
    command = [sys.executable, str(WORKLOADS / "slow_close.py")]
    arguments = ["PID", "--trace", "600", "--only", "descriptors,sockets", "--format", "json"]
    traced = trace(command, arguments, output=tmp_path / "out")
    socket_count, file_count = map(int, traced.said.split())
    report = traced.report()
    assert report["trace"]["confidence"]["ledger_matches_proc"] is True
    assert [one["type"] for one in report["descriptors"]].count("device") >= file_count
    closes = [one for one in report["trace"]["sockets"]["events"] if one["event"] == "close"]
    assert len(closes) == socket_count
    assert all(one["lifetime_ns"] for one in closes)
    stories = [*tell_stories(msgspec.convert(report["trace"]["sockets"]["events"], list[DescriptorEvent]))]
    assert sorted(story[0].event for story in stories) == sorted(["socket", "accept"] * (socket_count // 2))
    assert {story[-1].event for story in stories} == {"close"}
