"""Which threads a trace tells of: not those that ended before it, and those that came and went by their own names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, WORKLOADS, Run, Start
from threadinfo.trace.scheduling import SchedulingTracer

MANY = WORKLOADS / "many.py"


def states(pid: int) -> dict[int, str]:
    """Every thread of a process, with a letter for its state that is out of date on purpose."""
    return {int(entry.name): "R" for entry in Path(f"/proc/{pid}/task").iterdir()}


def test_thread_that_ended_before_the_window_is_not_told_of(bpf: None, start: Start) -> None:
    process = start(sys.executable, MANY, "phantom", 3, 3)
    ended = os.fork()  # its number is free again once it has been waited for
    if not ended:
        os._exit(0)
    os.waitpid(ended, 0)
    before, now = states(process.pid) | {ended: "R"}, dict.fromkeys(states(process.pid), "S")
    listings = iter([before, before])
    with SchedulingTracer(lambda: {process.pid: next(listings, now)}) as tracer:
        tracer.start()
        time.sleep(0.1)
        tracer.stop()
        activities = tracer.activities({})
    assert {activity.tid for activity in activities} == set(states(process.pid))
    for activity in activities:  # what it was doing long before the window says nothing of it
        assert activity.scheduling.on_cpu_ns == 0
        assert activity.scheduling.sleeping_ns == tracer.stopped_ns - tracer.started_ns


def test_threads_of_a_churning_process_are_of_the_window(bpf: None, start: Start, tmp_path: Path) -> None:
    source = tmp_path / "churn.py"
    source.write_text(
        "import threading, time\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    threads = [threading.Thread(target=time.sleep, args=(0.002,)) for _ in range(4)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
    )
    process = start(sys.executable, source)
    with SchedulingTracer(lambda: {process.pid: states(process.pid)}) as tracer:
        time.sleep(0.1)  # some are born after the programs were attached, and have ended when the window opens
        tracer.start()
        time.sleep(0.2)
        tracer.stop()
        time.sleep(0.1)  # and some are born when it is closed
        activities = tracer.activities({})
    assert len(activities) > 20
    for activity in activities:
        switches = activity.scheduling.voluntary_switch_count + activity.scheduling.involuntary_switch_count
        assert switches or activity.scheduling.blocked_ns < 0.1 * (tracer.stopped_ns - tracer.started_ns), activity


def test_zombie_is_not_traced(bpf: None, start: Start, threadinfo: Run) -> None:
    zombie = os.fork()
    if not zombie:
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    try:
        for arguments in ([zombie, "--trace", "0.2"], ["trace", zombie, "--duration", "0.2"]):
            alone = threadinfo(*arguments)
            assert (alone.returncode, alone.stdout) == (4, "")
            assert alone.stderr.startswith("every process ended before it could be traced\n")
        process = start(sys.executable, MANY, "alive", 1, 3)
        both = threadinfo(zombie, process.pid, "--trace", "0.2", "--format", "json")
    finally:
        os.waitpid(zombie, 0)
    reports = {report["pid"]: report for report in json.loads(both.stdout)["processes"]}
    assert reports[zombie]["trace"] is None
    assert "it had ended before the trace began" in [gap["cause"] for gap in reports[zombie]["gaps"]]
    assert reports[process.pid]["trace"]["ended_by"] == "duration"


def test_first_thread_that_ended_is_left_out_of_scheduling(bpf: None, start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, WORKLOADS / "leaderless.py")
    report = json.loads(threadinfo(process.pid, "--trace", "0.2", "--format", "json").stdout)["processes"][0]
    scheduling = {thread["state"]: thread["scheduling"] for thread in report["threads"]}
    assert scheduling["Z"] is None
    assert scheduling["S"]["blocked_ns"] > 0
    assert "scheduling" not in [gap["section"] for gap in report["gaps"]]


@pytest.mark.parametrize(("where", "message"), [(">&-", "is closed"), (">/dev/full", "No space left on device")])
def test_stream_that_cannot_be_written_is_exit_3(bpf: None, start: Start, where: str, message: str) -> None:
    process = start(sys.executable, MANY, "unwritten", 1, 3)
    command = ["sh", "-c", f'"$@" {where}', "sh", sys.executable, "-m", "threadinfo"]
    arguments = ["trace", str(process.pid), "--duration", "0.2", "--only", "scheduling"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 3
    assert message in result.stderr
    assert "Traceback" not in result.stderr
