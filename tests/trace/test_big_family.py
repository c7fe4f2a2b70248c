"""`--follow` of many: all are counted, the busiest are told of, so are those that lived before, the text is short."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import ROOT, WORKLOADS
from tests.trace.test_descriptors import Traced, trace
from tests.trace.test_run import run
from tests.workloads import big_family as facts
from threadinfo.collect.family import MOST_TOLD
from threadinfo.render.json import parse_json
from threadinfo.render.text.report import render_text

pytestmark = pytest.mark.usefixtures("bpf")
MOST_LINES = 500


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    output = tmp_path_factory.mktemp("family") / "report.json"
    command = [sys.executable, str(WORKLOADS / "big_family.py")]
    traced = trace(command, ["PID", "--trace", "600", "--follow", "--format", "json"], output=output)
    assert traced.status == 0, traced.errors
    return traced


def family(traced: Traced) -> dict[str, Any]:
    report = json.loads(traced.output)
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    return dict(report["family"])


def test_all_of_them_are_counted(traced: Traced) -> None:
    told = family(traced)
    made = facts.QUICK + facts.PROGRAMS + facts.STAYING
    assert (told["older_count"], told["made_count"], told["left_out_count"]) == (facts.OLDER, made, 0)
    assert told["alive_count"] == facts.OLDER + facts.STAYING
    assert sum(one["count"] for one in told["commands"]) == facts.OLDER + made
    forks = [one for one in told["commands"] if one["is_fork"]]
    assert sum(one["count"] for one in forks) == facts.QUICK + facts.STAYING
    opened = facts.QUICK * facts.OPENED + facts.STAYING * facts.OPENED_BY_STAYING
    assert sum(one["opened_count"] for one in forks) == opened
    assert sum(one["on_cpu_ns"] for one in forks) > 0


def test_a_child_is_called_by_what_it_executed(traced: Traced) -> None:
    programs = [one for one in family(traced)["commands"] if one["is_fork"] is False]
    assert sum(one["count"] for one in programs) == facts.PROGRAMS
    assert {one["name"] for one in programs} == {"true"}
    assert {one["command"] for one in programs} <= {"", "/bin/true of # words"}
    assert {Path(one["executable"]).name for one in programs} == {"true"}


def test_the_busiest_and_those_that_live_have_a_report(traced: Traced) -> None:
    said, told = json.loads(traced.said), family(traced)
    processes = {one["pid"]: one for one in json.loads(traced.output)["processes"]}
    assert len(processes) == 1 + told["told_count"] == 1 + MOST_TOLD + facts.OLDER + facts.STAYING
    for pid in said["older"]:
        assert (processes[pid]["is_older"], processes[pid]["parent_pid"]) == (True, said["me"])
        assert processes[pid]["threads"][0]["waits"][0]["syscall"] == "read"
    for pid in said["staying"]:
        assert processes[pid]["trace"]["descriptors"]["opened_count"] == facts.OPENED_BY_STAYING
        assert processes[pid]["trace"]["confidence"]["ledger_matches_proc"] is True
    assert processes[said["me"]]["trace"]["confidence"]["map_full_count"] == 0


def test_the_text_has_the_family_first_and_is_short(traced: Traced) -> None:
    report = parse_json(traced.output.encode(), "traced")
    lines = render_text(report).splitlines()
    me = json.loads(traced.said)["me"]
    assert lines[0] == f"=== The Family of python (PID: {me}) ==="
    assert lines[1].endswith(f"{facts.OLDER + facts.STAYING} alive at its end")
    assert len(lines) <= MOST_LINES
    (heading,) = [line for line in lines if line.startswith(f"=== What Stands Out in python (PID: {me})")]
    assert f"(PID: {me}): python " in heading  # and as much of its arguments as fits
    assert len(render_text(report, verbose=True).splitlines()) > MOST_LINES


def test_the_limit_is_of_those_that_live_at_once(tmp_path: Path) -> None:
    files = 256 + 2 * 3

    def fewer_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    output = tmp_path / "r.json"
    script = "for i in 1 2 3 4 5; do sleep 1.1; done"
    run("--follow", "--format", "json", "-o", output, "--", "sh", "-c", script, preexec_fn=fewer_files)
    told = json.loads(output.read_text())["family"]
    assert (told["made_count"], told["left_out_count"], told["alive_count"]) == (5, 0, 0)
