"""`--follow`: each process that a traced one makes has its own ledger, against what the workload says it did."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import ROOT, WORKLOADS, Run, Start
from tests.trace.test_descriptors import Traced, build, trace
from tests.trace.test_run import TOOL, run

pytestmark = pytest.mark.usefixtures("bpf")
FAMILY = WORKLOADS / "family.py"
QUICK = 41
SHARED = 13
KEPT = 7


def opened(report: dict[str, Any]) -> dict[str, int]:
    """Of the paths that the workload uses."""
    paths = report["trace"]["descriptors"]["by_path"]
    return {one["path"]: one["opened_count"] for one in paths if one["path"].startswith("/dev/")}


def expected(said: dict[str, Any]) -> dict[int, tuple[str, int, int]]:
    return {int(pid): tuple(what) for pid, what in said["did"].items()}


def check_family(said: dict[str, Any], reports: dict[int, dict[str, Any]], me: int) -> None:
    """Every process, with all that it did and nothing of what others did."""
    truth = expected(said)
    assert reports.keys() == truth.keys() | {said["sharer"]}
    for pid, (path, count, parent) in truth.items():
        shared = SHARED if pid == me else 0
        assert opened(reports[pid]) == {path: count + shared}, pid
        assert reports[pid]["parent_pid"] == (parent or None)
        churn = reports[pid]["trace"]["descriptors"]
        assert churn["unseen_birth_count"] == 0
        if pid != me:
            assert churn["opened_count"] == churn["by_syscall"]["openat"] == count
            assert churn["closed_by"]["close"] >= count - KEPT
    sharer = reports[said["sharer"]]
    assert (opened(sharer), sharer["parent_pid"]) == ({}, me)
    assert [gap["cause"] for gap in sharer["gaps"] if gap["section"] == "descriptors"] == [
        f"it used the table of process {me}: what it did with it is told there"
    ]


def by_pid(traced: str) -> dict[int, dict[str, Any]]:
    report = json.loads(traced)
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    pids = [process["pid"] for process in report["processes"]]
    assert pids == sorted(pids)
    return {process["pid"]: process for process in report["processes"]}


def test_each_process_of_a_command_is_told_of_by_itself(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    result = run("--follow", "--format", "json", "-o", output, "--", sys.executable, FAMILY, str(QUICK), input="\n\n")
    said = json.loads(result.stdout.splitlines()[1])
    reports = by_pid(output.read_text())
    me = next(pid for pid, (_, _, parent) in expected(said).items() if not parent)
    # What the interpreter's start opened is not the workload's.
    reports[me]["trace"]["descriptors"]["by_path"] = [
        one for one in reports[me]["trace"]["descriptors"]["by_path"] if one["path"] == "/dev/zero"
    ]
    check_family(said, reports, me)
    assert all(process["trace"]["ended_by"] == "target" for process in reports.values())
    assert all(process["trace"]["confidence"]["lost_count"] == 0 for process in reports.values())
    stays = reports[said["stays"]]
    assert stays["trace"]["descriptors"]["closed_by"]["exit"] >= KEPT
    quickest = min(reports.values(), key=lambda process: process["trace"]["duration_ns"])
    assert 0 < quickest["trace"]["duration_ns"] < reports[me]["trace"]["duration_ns"] / 2


def follow(options: list[str], tmp_path: Path) -> Traced:
    return trace([sys.executable, str(FAMILY), str(QUICK)], [*options, "--follow"], output=tmp_path / "out")


def test_living_child_is_read_and_compared_with_proc(tmp_path: Path) -> None:
    traced = follow(["PID", "--trace", "600", "--format", "json"], tmp_path)
    assert traced.status == 0, traced.errors
    said, reports = json.loads(traced.said), by_pid(traced.output)
    me = next(pid for pid, (_, _, parent) in expected(said).items() if not parent)
    check_family(said, reports, me)
    stays = reports[said["stays"]]
    assert stays["trace"]["confidence"]["ledger_matches_proc"] is True
    assert reports[me]["trace"]["confidence"]["ledger_matches_proc"] is True
    assert stays["trace"]["ended_by"] == "interrupt"
    assert "process" not in {gap["section"] for gap in stays["gaps"]}
    kept = [one["origin"]["tid"] for one in stays["descriptors"] if one["origin"]]
    assert kept == [said["stays"]] * KEPT
    assert all(thread["scheduling"] for thread in stays["threads"])
    others = [process for pid, process in reports.items() if pid not in {me, said["stays"]}]
    assert all(process["trace"]["ended_by"] == "target" for process in others)
    assert all(process["trace"]["ended_threads"] or process["threads"] for process in others)


def test_stream_has_what_each_process_does(tmp_path: Path) -> None:
    traced = follow(["trace", "PID", "--only", "descriptors", "--format", "json"], tmp_path)
    assert traced.status == 130, traced.errors
    said = json.loads(traced.said)
    *events, last = traced.events()
    births = Counter((event["pid"], event["path"]) for event in events if event["event"] == "open")
    truth = Counter({(pid, path): count for pid, (path, count, _) in expected(said).items()})
    me = next(pid for pid, (_, _, parent) in expected(said).items() if not parent)
    truth[me, "/dev/zero"] += SHARED
    assert {key: count for key, count in births.items() if key[1].startswith("/dev/")} == truth
    assert last["confidence"]["lost_count"] == 0


def test_without_it_only_the_process_itself_is_told_of(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    result = run("--format", "json", "-o", output, "--", sys.executable, FAMILY, "3", input="\n\n")
    said = json.loads(result.stdout.splitlines()[1])
    (report,) = by_pid(output.read_text()).values()
    assert opened(report)["/dev/zero"] == 101 + SHARED
    assert "/dev/full" not in opened(report)
    assert report["parent_pid"] is None
    assert said["sharer"] != report["pid"]


DAEMON = """
import os, sys
if os.fork(): os._exit(4)
os.setsid()
if os.fork(): os._exit(0)
for _ in range(127): os.close(os.open("/dev/zero", 0))
print(os.getpid(), flush=True)
os.read(0, 1)
"""


def daemonise(tmp_path: Path) -> tuple[subprocess.Popen[str], int]:
    """The tool, and the daemon that its command has left behind."""
    command = [*TOOL, "--follow", "--format", "json", "-o", str(tmp_path / "r.json")]
    tool = subprocess.Popen(
        [*command, "--", sys.executable, "-c", DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert tool.stdout is not None
    return tool, int(tool.stdout.readline())


def test_daemon_is_followed_to_its_end_and_the_status_is_the_commands(tmp_path: Path) -> None:
    tool, daemon = daemonise(tmp_path)
    with tool:
        assert tool.poll() is None
        tool.communicate("\n", timeout=60)
    assert tool.returncode == 4
    reports = by_pid((tmp_path / "r.json").read_text())
    assert len(reports) == 3
    assert opened(reports[daemon])["/dev/zero"] == 127
    between = reports[reports[daemon]["parent_pid"]]
    assert between["parent_pid"] == min(reports)


def test_signal_after_the_commands_end_ends_the_waiting_and_spares_the_daemon(tmp_path: Path) -> None:
    tool, daemon = daemonise(tmp_path)
    pidfd = os.pidfd_open(daemon)
    with tool:
        status = Path(f"/proc/{tool.pid}/task/{tool.pid}/children")
        while any(Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" for pid in status.read_text().split()[:1]):
            assert tool.poll() is None
        tool.send_signal(signal.SIGTERM)
        assert tool.wait(timeout=60) == 4
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert not poll.poll(0), "it was ended"
        reports = by_pid((tmp_path / "r.json").read_text())
        assert opened(reports[daemon])["/dev/zero"] == 127
        assert reports[daemon]["trace"]["ended_by"] == "interrupt"
        assert reports[daemon]["trace"]["confidence"]["ledger_matches_proc"] is True
        tool.communicate("\n")
    os.close(pidfd)


def test_children_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    most = 5
    files = 256 + 2 * most

    def fewer_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    output = tmp_path / "r.json"
    script = 'for i in 1 2 3 4 5 6 7 8 9 10 11; do sleep 600 & pids="$pids $!"; done; kill $pids; wait'
    run("--follow", "--format", "json", "-o", output, "--", "sh", "-c", script, preexec_fn=fewer_files)
    reports = by_pid(output.read_text())
    assert len(reports) == 1 + most
    gaps = [gap["cause"] for gap in reports[min(reports)]["gaps"] if gap["section"] == "children"]
    assert gaps == ["6 more were made and not followed: they were too many"]


def test_scheduling_alone_is_followed_too(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    options = ["--follow", "--only", "scheduling", "--format", "json", "-o", str(output)]
    run(*options, "--", "sh", "-c", "sleep 0.1; sleep 0.1; true")
    reports = by_pid(output.read_text())
    assert sorted(process["name"] for process in reports.values()) == ["sh", "sleep", "sleep"]
    for process in reports.values():
        threads = [thread["scheduling"] for thread in process["threads"] or []]
        threads += [thread["scheduling"] for thread in process["trace"]["ended_threads"]]
        assert [thread["on_cpu_ns"] > 0 for thread in threads if thread] == [True]


def test_without_a_trace_it_is_wrong_usage(threadinfo: Run) -> None:
    result = threadinfo(os.getpid(), "--follow")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--trace" in result.stderr


def test_what_was_left_open_stays_told_when_a_child_that_shared_it_is_forgotten(tmp_path: Path) -> None:
    """An ended child is given up while the trace goes on; the table that it shared is its parent's."""
    program = build("sharer_first", tmp_path)
    output = tmp_path / "report.json"
    run("--follow", "--only", "descriptors", "--format", "json", "-o", output, "--", program)
    (parent,) = [one for one in by_pid(output.read_text()).values() if one["parent_pid"] is None]
    churn = parent["trace"]["descriptors"]
    assert opened(parent) == {"/dev/null": KEPT}
    assert churn["still_open_count"] == 0
    assert churn["lifetime_ns"]["count"] == churn["opened_count"]


def test_children_made_while_the_tracers_attach_are_told_of_or_a_gap_says_so(start: Start, threadinfo: Run) -> None:
    parent = start(sys.executable, WORKLOADS / "spreading.py")
    result = threadinfo(parent.pid, "--trace", "0.5", "--follow", "--format", "json")
    assert result.returncode == 0, result.stderr
    alive = set(map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()))
    reports = by_pid(result.stdout)
    family = json.loads(result.stdout)["family"]
    (unseen,) = [
        int(gap["cause"].split()[0]) for gap in reports[parent.pid]["gaps"] if "while the tracers att" in gap["cause"]
    ] or [0]
    before_the_end = {pid for pid in alive if pid <= max(reports)}
    assert family["older_count"] + family["made_count"] + unseen >= len(before_the_end)
    if not unseen and family["told_count"] == family["older_count"] + family["made_count"]:
        assert before_the_end <= reports.keys()
    has_scheduling = []
    for pid in reports.keys() - {parent.pid}:
        report = reports[pid]
        gaps = {gap["section"]: gap["cause"] for gap in report["gaps"]}
        missed = "while the tracers attached" in gaps.get("descriptors", "")
        assert bool(report["trace"]["descriptors"]) != missed, pid
        assert bool(report["threads"][0]["scheduling"]) != ("scheduling" in gaps), pid
        if missed:
            has_scheduling.append("scheduling" not in gaps)
    # Of those that the first tracer saw made it tells; a few were made while it did not listen yet.
    assert 2 * sum(has_scheduling) >= len(has_scheduling)
