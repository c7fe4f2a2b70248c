"""Which threads a trace tells of: not those that ended before it, and those that came and went by their own names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, WORKLOADS, Run, Start
from tests.trace.conftest import wait_until_it_traces
from threadinfo.model import KernelAccount
from threadinfo.proc.reader import ProcDirectory
from threadinfo.proc.threads import read_kernel_account
from threadinfo.trace.scheduling.recorder import SchedulingRecorder

MANY = WORKLOADS / "many.py"


def states(pid: int) -> dict[int, str]:
    """Every thread of a process, with a letter for its state that is out of date on purpose."""
    return {int(entry.name): "R" for entry in Path(f"/proc/{pid}/task").iterdir()}


def account(pid: int, tid: int) -> KernelAccount | None:
    """The kernel's account of a thread."""
    with ProcDirectory(f"/proc/{pid}") as process:
        return read_kernel_account(process, tid)


def test_thread_that_ended_before_the_window_is_not_told_of(bpf: None, start: Start) -> None:
    process = start(sys.executable, MANY, "phantom", 3, 3)
    ended = os.fork()  # its number is free again once it has been waited for
    if not ended:
        os._exit(0)
    os.waitpid(ended, 0)
    before, now = states(process.pid) | {ended: "R"}, states(process.pid)
    listings = iter([before, before])
    with SchedulingRecorder(lambda: {process.pid: next(listings, now)}, account) as tracer:
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
    with SchedulingRecorder(lambda: {process.pid: states(process.pid)}, account) as tracer:
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


def test_thread_that_calls_exec_has_the_number_and_the_others_have_ended(bpf: None, start: Start) -> None:
    process = start(sys.executable, WORKLOADS / "exec_from_thread.py")
    assert process.stdin is not None
    tool = start_tool(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    time.sleep(0.1)
    tool.send_signal(signal.SIGINT)
    output, errors = tool.communicate(timeout=60)
    assert tool.returncode == 0, errors
    report = json.loads(output)["processes"][0]
    (thread,) = report["threads"]
    assert (thread["tid"], thread["name"]) == (process.pid, "sleep")
    ended = {one["name"]: one for one in report["trace"]["ended_threads"]}
    assert set(ended) == {"first", "killed"}
    assert ended["first"]["tid"] == process.pid
    # None of them is said to be held up, or woken, by what only has its number now.
    for scheduling in (thread["scheduling"], *(one["scheduling"] for one in ended.values())):
        for other in scheduling["delayed_by"] + scheduling["woken_by"]:
            assert other["tid"] != process.pid or other["name"] == "first"


def test_thread_has_one_name_in_the_whole_report(bpf: None, start: Start, threadinfo: Run, tmp_path: Path) -> None:
    source = tmp_path / "renamed.py"
    source.write_text(
        "import ctypes, os, threading, time\n"
        "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        "name = lambda text: ctypes.CDLL(None).prctl(15, text, 0, 0, 0)\n"
        "def work(text):\n"
        "    end = time.monotonic() + 0.05\n"
        "    while time.monotonic() < end: pass\n"
        "    name(text)\n"  # until now it had the name of the thread that made it
        "    while time.monotonic() < end + 0.05: pass\n"
        "name(b'maker')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    threads = [threading.Thread(target=work, args=(b'made %d' % n,)) for n in range(3)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
    )
    process = start(sys.executable, source)
    report = json.loads(threadinfo(process.pid, "--trace", "0.5", "--format", "json").stdout)["processes"][0]
    ended = {one["tid"]: one["name"] for one in report["trace"]["ended_threads"]}
    assert {"made 0", "made 1", "made 2"} <= set(ended.values())
    everyone = [one["scheduling"] for one in [*report["threads"], *report["trace"]["ended_threads"]]]
    named = [other for scheduling in everyone if scheduling for other in scheduling["delayed_by"]]
    assert len([other for other in named if other["tid"] in ended]) >= 3
    for other in named:
        assert other["name"] == ended.get(other["tid"], other["name"])


def test_stream_names_a_thread_that_has_ended(bpf: None, start: Start, tmp_path: Path) -> None:
    source = tmp_path / "short.py"
    source.write_text(
        "import ctypes, os, threading, time\n"
        "def work():\n"
        "    ctypes.CDLL(None).prctl(15, b'short', 0, 0, 0)\n"
        "    time.sleep(0.001)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
    )
    process = start(sys.executable, source)
    command = [sys.executable, "-m", "threadinfo", "trace", str(process.pid), "--only", "scheduling"]
    arguments = ["--threshold", "1us", "--duration", "0.5", "--format", "json"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    names = [json.loads(line).get("thread_name") for line in result.stdout.splitlines()[:-1]]
    assert "short" in names
    assert all(names)


def start_tool(pid: int) -> subprocess.Popen[str]:
    """A trace of a process to JSON on standard output, when it counts."""
    command = [sys.executable, "-m", "threadinfo", str(pid), "--trace", "600", "--format", "json"]
    tool = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until_it_traces(tool)
    return tool


def test_what_is_taken_after_the_end_leaves_the_window_as_it_was(bpf: None, start: Start) -> None:
    """Children that ended a moment before the end are taken after it: all are told of the same window."""
    process = start(sys.executable, MANY, "late-taken", 3, 3)
    with SchedulingRecorder(lambda: {process.pid: states(process.pid)}, account) as tracer:
        tracer.start()
        time.sleep(0.1)
        tracer.stop()
        stopped_ns = tracer.stopped_ns
        time.sleep(0.05)
        tracer.take([process.pid], {})
        assert tracer.stopped_ns == stopped_ns
        activities = tracer.activities({})
    for activity in activities:
        done = activity.scheduling
        assert done.on_cpu_ns + done.run_queue_ns + done.blocked_ns == stopped_ns - tracer.started_ns
