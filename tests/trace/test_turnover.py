"""Threads that come and go by the ten thousand: all are counted, and those that live at the end are all there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trace.test_descriptors import build, trace
from threadinfo.trace.kernel.machine import taken_ns

pytestmark = pytest.mark.usefixtures("bpf")

COUNT = 14_009  # three times as many as there are slots


def test_threads_that_ended_are_counted_and_those_that_live_are_there(tmp_path: Path) -> None:
    program = build("thread_churn", tmp_path, "-pthread")
    arguments = ["PID", "--trace", "600", "--only", "waits", "--format", "json"]
    taken_before_ns = sum(taken_ns())
    done = trace([str(program), str(COUNT)], arguments, output=tmp_path / "report.json")
    taken = sum(taken_ns()) - taken_before_ns  # by the host, which a thread's own clock leaves out
    assert done.status == 0, done.errors
    tid, on_cpu_ns = map(int, done.said.split())
    report = done.report()
    confidence = report["trace"]["confidence"]
    without_room = confidence["map_full_count"]  # where others hold our CPU for long, births outrun us: then it is said
    assert confidence["lost_count"] == 0
    late = next(thread for thread in report["threads"] if thread["tid"] == tid)
    assert late["name"] == "late"
    assert late["scheduling"]["on_cpu_ns"] <= 1.05 * on_cpu_ns + taken
    assert without_room or late["scheduling"]["on_cpu_ns"] >= 0.95 * on_cpu_ns
    apart, folded = report["trace"]["ended_threads"], report["trace"]["ended_threads_by_name"]
    assert len({thread["tid"] for thread in report["threads"]}) == 2
    told = len(apart) + sum(one["count"] for one in folded)
    assert COUNT - without_room <= told <= COUNT
    assert {one["name"] for one in folded} <= {"brief", "thread_churn"}  # some end before they have their name
    assert all(one["voluntary_switch_count"] >= one["count"] for one in folded)
    first = next(thread for thread in report["threads"] if thread["tid"] == report["pid"])  # numbers begin anew
    whole = first["scheduling"]["on_cpu_ns"] + first["scheduling"]["run_queue_ns"] + first["scheduling"]["blocked_ns"]
    assert whole == pytest.approx(report["trace"]["duration_ns"], rel=0.01)
    woken = {waker["name"]: waker for waker in first["scheduling"]["woken_by"]}
    assert woken["brief"]["count"] > 0


def test_text_says_how_many_threads_ended_by_name(tmp_path: Path) -> None:
    program = build("thread_churn", tmp_path, "-pthread")
    done = trace([str(program), str(COUNT)], ["PID", "--trace", "600", "--only", "waits"], output=tmp_path / "report")
    assert done.status == 0, done.errors
    assert json.loads(f"[{done.said.replace(' ', ',')}]")
    lines = [line for line in done.output.splitlines() if "more of this name ended" in line]
    assert lines
    assert lines[0].lstrip().startswith("brief: ")
    assert max(map(len, lines)) <= 80
