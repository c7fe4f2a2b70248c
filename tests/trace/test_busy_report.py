"""A traced report of a busy process is short, tells the worst first, and says what it leaves out and how to see it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKLOADS, run_threadinfo
from tests.trace.test_descriptors import Traced, trace

pytestmark = pytest.mark.usefixtures("bpf")
COMMAND = [sys.executable, str(WORKLOADS / "busy.py")]
MOST_LINES = 150
HEADINGS = [
    "What Stands Out in",
    "Where the Time Went in",
    "Where CPU Time Went in",
    "Scheduling (",
    "Leak Suspects",
    "Descriptor Churn (",
    "Call Sites",
    "Memory Footprint",
    "Thread Information",
    "Memory Distribution",
    "File Descriptor Information",
    "Resource Limits",
    "Sockets (traced)",
    "Trace Confidence",
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    output = tmp_path_factory.mktemp("busy") / "report.json"
    traced = trace(COMMAND, ["PID", "--trace", "60", "--format", "json"], output=output)
    assert traced.status == 0, traced.errors
    return traced


def text_of(traced: Traced, directory: Path, *arguments: str) -> str:
    """The same report as text: what is measured does not move between the tests."""
    (directory / "report.json").write_text(traced.output)
    shown = run_threadinfo("show", str(directory / "report.json"), *arguments)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def finding(traced: Traced, kind: str) -> dict[str, Any]:
    (found,) = [one for one in traced.report()["findings"] if one["kind"] == kind]
    return dict(found)


def test_a_leak_is_told_by_path_kind_and_thread(traced: Traced) -> None:
    said = json.loads(traced.said)
    (suspect,) = traced.report()["trace"]["descriptors"]["leak_suspects"]
    assert (suspect["path"], suspect["kind"]) == (said["path"], "file")
    assert set(suspect["fds"]) <= set(said["fds"])
    assert suspect["threads"] == [
        {"tid": said["reloader"], "name": "config-reload", "surviving_count": suspect["surviving_count"]}
    ]
    words = finding(traced, "descriptor_leak")["words"]
    head = f"{said['path']}, opened by thread config-reload {said['reloader']}: {suspect['surviving_count']} of "
    assert words.startswith(head)
    assert words.endswith(f"Opened at {suspect['stack'][0]}")
    churn = {one["tid"]: one for one in traced.report()["trace"]["descriptors"]["by_thread"]}[said["reloader"]]
    assert (churn["opened_count"], churn["closed_count"]) == (said["opened"], said["opened"] - said["kept"])


def test_refused_connects_are_failures_and_named(traced: Traced) -> None:
    said = json.loads(traced.said)
    churn = traced.report()["trace"]["descriptors"]
    assert churn["failures"] == [{"syscall": "connect", "error": "ECONNREFUSED", "count": said["refused"]}]
    assert churn["failed_count"] == said["refused"]
    words = f"{said['refused']} connects to 127.0.0.1:{said['port']} failed with ECONNREFUSED, by thread connector "
    assert finding(traced, "connects_failed")["words"] == f"{words}{said['connector']}"


def test_sockets_that_are_bound_to_nothing_name_who_made_them(traced: Traced) -> None:
    said = json.loads(traced.said)
    found = finding(traced, "socket_bound_to_nothing")
    assert found["fds"] == sorted(said["unused_fds"])
    assert found["tids"] == [said["maker"]]
    assert f"; all made by thread maker {said['maker']} through _socket" in found["words"]
    assert "trace" not in found["advice"]


def test_the_text_is_short_in_order_and_says_what_it_leaves_out(traced: Traced, tmp_path: Path) -> None:
    said = json.loads(traced.said)
    text = text_of(traced, tmp_path)
    lines = text.splitlines()
    print(text, len(lines))
    assert len(lines) <= MOST_LINES
    of_listing = ("0  ", "1  ", "2  ")  # which has paths as long as they are: of this machine's temporary files
    assert max(len(line) for line in lines if not line.startswith(of_listing)) <= 80
    assert [line[4:] for line in lines if line.startswith("=== ")] == [
        next(line[4:] for line in lines if line.startswith(f"=== {heading}")) for heading in HEADINGS
    ]
    assert f"{said['unused'] - 1} more like it: FD " in text
    assert f"{said['kept'] - 1} more like it: FD " in text
    assert "other threads ran and waited less (-v shows them)" in text
    stories = text[text.index("=== Sockets") : text.index("=== Trace Confidence")]
    assert stories.index(f"by thread maker {said['maker']}") < stories.index(f"by thread connector {said['connector']}")
    assert f"{said['unused'] - 1} more like this" in stories
    assert f"{said['refused'] - 1} more like this" in stories
    assert "-v shows more" in stories


def test_with_v_the_text_has_all_of_it(traced: Traced, tmp_path: Path) -> None:
    text = text_of(traced, tmp_path, "-v")
    assert "-v shows" not in text
    listing = text[text.index("=== File Descriptor") : text.index("=== Resource Limits")]
    assert len(re.findall(r"^\d+ +\w+ ", listing, re.MULTILINE)) == len(traced.report()["descriptors"])
    scheduling = text[text.index("=== Scheduling") : text.index("Who held")]
    ended = traced.report()["trace"]["ended_threads"]
    assert {str(one["tid"]) for one in ended} <= {line.split()[0] for line in scheduling.splitlines() if line}
    assert text.count("Threshold: ") == len(traced.report()["findings"])


def test_nobody_never_leads_a_table(traced: Traced, tmp_path: Path) -> None:
    for arguments in ((), ("-v",)):
        text = text_of(traced, tmp_path, *arguments)
        told = re.findall(r"of waiting: (\w+)", text)
        assert told
        assert "nobody" not in told
