"""`--wait`: the next process of a name is traced from its exec, however short its life is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from tests.trace.test_descriptors import build

pytestmark = pytest.mark.usefixtures("bpf")


@contextmanager
def waiting(*arguments: str, output: Path) -> Iterator[subprocess.Popen[str]]:
    """The tool, when it waits."""
    command = [sys.executable, "-m", "threadinfo", *arguments]
    with (
        open(output, "w") as file,
        subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.PIPE, text=True) as tool,
    ):
        assert tool.stderr is not None
        assert tool.stderr.readline().startswith("waiting for ")
        yield tool
        tool.communicate(timeout=60)


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("brief", tmp_path_factory.mktemp("brief")).rename(tmp_path_factory.mktemp("as") / "brief-as-can-be")


def test_every_socket_of_a_process_that_lives_five_milliseconds_is_told_of(brief: Path, tmp_path: Path) -> None:
    with waiting("brief-as-can-be", "--wait", "--format", "json", output=tmp_path / "r") as tool:
        subprocess.run(["true"], check=True)  # another name
        with subprocess.Popen([brief]) as process:
            pass
    assert tool.returncode == 0
    (report,) = json.loads((tmp_path / "r").read_text())["processes"]
    assert (report["pid"], report["name"]) == (process.pid, "brief-as-can-be")
    events = Counter(event["event"] for event in report["trace"]["sockets"]["events"])
    assert events == {"socket": 7, "bind": 7, "close": 7}
    churn = report["trace"]["descriptors"]
    assert churn["by_syscall"]["socket"] == 7
    assert churn["by_syscall"]["openat"] >= 1  # the loader's
    assert (churn["closed_by"]["close"] - churn["by_syscall"]["openat"], churn["unseen_birth_count"]) == (3, 0)
    assert report["trace"]["ended_threads"][0]["tid"] == process.pid


def test_only_the_next_one_is_traced_and_live(brief: Path, tmp_path: Path) -> None:
    arguments = ["trace", "brief-as-can-be", "--wait", "--only", "sockets", "--format", "json"]
    with waiting(*arguments, output=tmp_path / "r"):
        with subprocess.Popen([brief]) as first:
            pass
        subprocess.run([brief], check=True)
    events = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert events.pop()["confidence"]["lost_count"] == 0
    assert {event["pid"] for event in events} == {first.pid}
    assert Counter(event["event"] for event in events) == {"socket": 7, "bind": 7, "close": 7}
    assert {event["local"] for event in events if event["event"] == "bind"} == {"127.0.0.1:0"}


def test_ctrl_c_while_it_waits_prints_nothing(tmp_path: Path) -> None:
    with waiting("never-comes", "--wait", output=tmp_path / "r") as tool:
        tool.send_signal(signal.SIGINT)
    assert (tool.returncode, (tmp_path / "r").read_text()) == (130, "")


def test_what_cannot_be_waited_for_is_wrong_usage(threadinfo: Run) -> None:
    for targets in (["1"], ["one", "two"], ["a-name-longer-than-the-kernels"]):
        result = threadinfo(*targets, "--wait")
        assert result.returncode == 2
        assert "--wait" in result.stderr
