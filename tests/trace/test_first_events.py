"""Whatever a target does first, the trace stands: every first event, however the tool is started.

The first event of a process makes its table known, and each kind of it came another way: most used to end the trace.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT
from tests.fuzz.play import wait_until_attached
from tests.terminal import Terminal
from tests.trace.test_descriptors import build

pytestmark = pytest.mark.usefixtures("bpf")
TOOL = [sys.executable, "-m", "threadinfo"]
ONLY = ["--only", "descriptors,sockets", "--format", "json"]
FAILURES: dict[str, tuple[str, str] | None] = {
    "accept_eagain": ("accept4", "EAGAIN"),
    "close_ebadf": ("close", "EBADF"),
    "fcntl_ebadf": ("fcntl", "EBADF"),
    "close_range_einval": ("close_range", "EINVAL"),
    "open_enoent": ("openat", "ENOENT"),
    "connect_refused": ("connect", "ECONNREFUSED"),
    "bind_einval": ("bind", "EINVAL"),
    "listen_refused": ("listen", "EOPNOTSUPP"),
    **dict.fromkeys(("bind", "listen", "ioctl_enotty", "getsockopt", "getfd")),
    **dict.fromkeys(("close_range", "recvmsg_eagain", "fork", "exec", "nothing")),
}
"""What is done first, and the failure that it is."""
USES = {
    "connect_refused": ("connect", "ECONNREFUSED"),
    "bind_einval": ("bind", "EINVAL"),
    "bind": ("bind", None),
    "listen_refused": ("listen", "EOPNOTSUPP"),
    "listen": ("listen", None),
}
"""Of a socket: what is done, and its error."""
ENDS = {"exit": 7, "kill": 128 + signal.SIGKILL}
"""Those that end the process, and the status that `run` then has."""


class Surroundings(NamedTuple):
    """What the workload is given."""

    program: Path
    listener: socket.socket
    datagrams: socket.socket
    pipe: int
    port: int


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("first_event", tmp_path_factory.mktemp("first"), "-static")


@pytest.fixture
def given(program: Path) -> Iterator[Surroundings]:
    with contextlib.ExitStack() as stack:
        nobody, listener = (stack.enter_context(socket.socket()) for _ in range(2))
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        nobody.bind(("127.0.0.1", 0))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for each in (listener, datagrams):
            each.setblocking(False)
        pipe = os.pipe()
        for fd in pipe:
            stack.callback(os.close, fd)
        yield Surroundings(program, listener, datagrams, pipe[0], nobody.getsockname()[1])


@contextlib.contextmanager
def command_of(
    given: Surroundings, *what: str, before: list[str] | None = None, program: Path | None = None
) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The workload's command, and the descriptors that it must have: a TCP socket is its own."""
    name, *more = what
    with socket.socket() as own:
        numbers = (given.listener.fileno(), own.fileno(), given.pipe, given.datagrams.fileno())
        command = [str(program or given.program), name, str(given.port), *map(str, numbers), *more]
        yield [*(before or []), *command], numbers


@contextlib.contextmanager
def started(given: Surroundings, *names: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Each thing in a process of its own, which waits."""
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in names:
            with command_of(given, name, "wait") as (command, numbers):
                processes[name] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=numbers
                )
        for process in processes.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    """Lets it do its thing, and waits until it is done or has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    while process.stdout.readline() not in {"done\n", ""}:
        pass


def attached(options: list[str], processes: dict[str, subprocess.Popen[str]], output: Path) -> tuple[int, str]:
    """The tool while they do it, one stopped and one killed meanwhile; its status and what it said."""
    with output.open("w") as file:
        tool = subprocess.Popen([*TOOL, *options, *ONLY], cwd=ROOT, stdout=file, stderr=subprocess.PIPE)
        try:
            wait_until_attached(tool)
            for name, process in processes.items():
                if name == "killed":
                    process.kill()
                elif name != "stopped":
                    go(process)
                if name in {*ENDS, "killed"}:
                    process.wait(60)
            tool.send_signal(signal.SIGINT)
            _, errors = tool.communicate(timeout=120)
        finally:
            tool.kill()
            tool.wait()
    return tool.returncode, errors.decode()


def check_report(process: dict[str, Any], name: str) -> None:
    """Its failure is counted, and what came after it."""
    found = process["trace"]["descriptors"]
    assert not [gap for gap in process["gaps"] if gap["section"] in {"descriptors", "sockets"}], name
    failures = {(one["syscall"], one["error"]): one["count"] for one in found["failures"]}
    empty = {(call, "EAGAIN"): count for call, count in found["empty_by_syscall"].items()}
    assert bool(empty) == (name == "accept_eagain"), name
    failures |= empty
    failure = FAILURES[name]
    assert failures == ({failure: 1} if failure else {}), name
    assert found["failed_count"] == (failure is not None and not empty), name
    assert found["by_syscall"] == {"openat": 1}, name
    uses = [(event["event"], event.get("error")) for event in process["trace"]["sockets"]["events"]]
    assert [use for use in uses if use[0] in {"bind", "listen", "connect"}] == ([USES[name]] if name in USES else []), (
        name
    )
    assert process["trace"]["confidence"]["lost_count"] == 0, name
    assert process["trace"]["confidence"]["ledger_differences"] == [], name


def check_ended(process: dict[str, Any], name: str) -> None:
    """What ends first of all closes everything: 0 to 6, and nothing was born."""
    found = process["trace"]["descriptors"]
    assert (found["opened_count"], found["failed_count"]) == (0, 0), name
    assert found["closed_by"] == {"exit": 7}, name
    assert process["trace"]["confidence"]["ledger_matches_proc"] is None, name


@pytest.mark.parametrize("follow", [False, True], ids=["alone", "followed"])
def test_whatever_comes_first_is_in_the_report(given: Surroundings, tmp_path: Path, *, follow: bool) -> None:
    with started(given, *FAILURES, *ENDS, "killed", "stopped") as processes:
        processes["stopped"].send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, processes["stopped"].pid, os.WSTOPPED | os.WNOWAIT)
        pids = [str(process.pid) for process in processes.values()]
        options = [*pids, "--trace", "600", *(["--follow"] if follow else [])]
        status, errors = attached(options, processes, tmp_path / "out")
        assert "Traceback" not in errors
        assert (status, errors) == (0, "")
        reports = {process["pid"]: process for process in json.loads((tmp_path / "out").read_text())["processes"]}
        assert len(reports) == len(processes) + follow  # one of them forks
        for name in FAILURES:
            check_report(reports[processes[name].pid], name)
            assert reports[processes[name].pid]["trace"]["confidence"]["ledger_matches_proc"] is True, name
        for name in (*ENDS, "killed"):
            check_ended(reports[processes[name].pid], name)
        still = reports[processes["stopped"].pid]["trace"]
        assert (still["descriptors"]["opened_count"], still["descriptors"]["closed_count"]) == (0, 0)
        assert still["confidence"]["ledger_matches_proc"] is True


@pytest.mark.parametrize("follow", [False, True], ids=["alone", "followed"])
def test_whatever_comes_first_is_in_the_stream(given: Surroundings, tmp_path: Path, *, follow: bool) -> None:
    with started(given, *FAILURES, *ENDS, "killed", "stopped") as processes:
        processes["stopped"].send_signal(signal.SIGSTOP)
        pids = [str(process.pid) for process in processes.values()]
        options = ["trace", *pids, *(["--follow"] if follow else [])]
        status, errors = attached(options, processes, tmp_path / "out")
        assert "Traceback" not in errors
        assert status == 130, errors
        *events, last = map(json.loads, (tmp_path / "out").read_text().splitlines())
        assert last["confidence"]["ledger_matches_proc"] is True
        for name, failure in FAILURES.items():
            mine = [event for event in events if event["pid"] == processes[name].pid]
            failed = [(event["syscall"], event["error"]) for event in mine if "error" in event]
            expected = failure or (USES[name] if name in USES and USES[name][1] else None)
            assert failed == ([expected] if expected else []), name
            assert [event["syscall"] for event in mine if event["event"] == "open" and "error" not in event] == [
                "openat"
            ]
            assert Counter(event["event"] for event in mine)["fork"] == (name == "fork"), name
            assert Counter(event["event"] for event in mine)["exec"] == (name == "exec"), name
        for name in (*ENDS, "killed"):
            mine = [event for event in events if event["pid"] == processes[name].pid]
            closed = sorted(event["fd"] for event in mine if event.get("how") == "exit")
            assert (closed[:3], len(set(closed)), len(closed)) == ([0, 1, 2], 7, 7), name  # and four of ours
            assert [event["tid"] for event in mine if event["event"] == "exit"] == [processes[name].pid], name


FROM_START = ["accept_eagain", "close_ebadf", "connect_refused", "open_enoent", "fork", "exec", *ENDS]


def in_parallel(play: Callable[[str], None], names: Sequence[str]) -> None:
    """Each by a tool of its own, which compiles for a second."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for future in [pool.submit(play, name) for name in names]:
            future.result()


def check_one(text: str, name: str) -> None:
    """The report of a process that was seen from its start to its end."""
    (process,) = json.loads(text)["processes"]
    if name in ENDS:
        check_ended(process, name)
    else:
        check_report(process, name)
        assert process["trace"]["descriptors"]["closed_by"] == {"exit": 8}, name


def check_each(text: str, said: str) -> None:
    """The report of one that made a child for each thing."""
    reports = {process["pid"]: process for process in json.loads(text)["processes"]}
    children = dict(line.split() for line in said.splitlines()[:-1])
    assert reports.keys() > {*map(int, children)}
    assert {*children.values()} == FAILURES.keys()
    for pid, name in children.items():
        found = reports[int(pid)]["trace"]["descriptors"]
        failures = {(one["syscall"], one["error"]): one["count"] for one in found["failures"]}
        failures |= {(call, "EAGAIN"): count for call, count in found["empty_by_syscall"].items()}
        assert failures == ({failure: 1} if (failure := FAILURES[name]) else {}), name
        assert found["by_syscall"] == {"openat": 1}, name


def test_whatever_comes_first_in_a_command_that_is_run(given: Surroundings, tmp_path: Path) -> None:
    def play(name: str) -> None:
        output = tmp_path / name
        options = ["--follow"] if name == "each" else []
        tool = [*TOOL, "run", *ONLY, *options, "-o", str(output), "--"]
        with command_of(given, name, before=tool) as (command, numbers):
            result = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, pass_fds=numbers
            )
        assert "Traceback" not in result.stderr, name
        assert result.returncode == ENDS.get(name, 0), (name, result.stderr)
        if name == "each":
            check_each(output.read_text(), result.stdout)
        else:
            check_one(output.read_text(), name)

    in_parallel(play, [*FROM_START, "each"])


def test_whatever_comes_first_in_a_process_that_was_waited_for(given: Surroundings, tmp_path: Path) -> None:
    def play(name: str) -> None:
        program = tmp_path / f"{len(name)}{name}"[:15]
        shutil.copy(given.program, program)
        options = ["--follow"] if name == "each" else []
        with subprocess.Popen(
            [*TOOL, program.name, "--wait", *ONLY, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as tool:
            assert tool.stderr is not None
            assert tool.stderr.readline().startswith("waiting for ")
            with command_of(given, name, program=program) as (command, numbers):
                result = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=numbers)
            text, errors = tool.communicate(timeout=120)
        assert (tool.returncode, errors) == (0, ""), name
        if name == "each":
            check_each(text, result.stdout)
        else:
            check_one(text, name)

    in_parallel(play, [*FROM_START, "each"])


@pytest.mark.skipif(shutil.which("tmux") is None and not os.environ.get("CI"), reason="needs tmux")
def test_whatever_comes_first_in_the_live_view(given: Surroundings, tmp_path: Path) -> None:
    names = ["accept_eagain", "close_ebadf", "connect_refused", "killed"]
    with started(given, *names) as processes, contextlib.ExitStack() as stack:
        windows: dict[str, Terminal] = {}
        for name, process in processes.items():
            (tmp_path / name).mkdir()
            windows[name] = stack.enter_context(Terminal(tmp_path / name, 120, 40))
            windows[name].run("top", process.pid, "--interval", "0.3")
        for name, process in processes.items():
            windows[name].wait_for("first_event  PID", "  traced  ")
            if name == "killed":
                process.kill()
                process.wait(60)
                windows[name].wait_for_match(r"ended|status=")
            else:
                go(process)
                windows[name].wait_for("null device")
        for window in windows.values():
            window.press("q")
            assert "Traceback" not in window.wait_for("status=")
