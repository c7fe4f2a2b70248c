"""The README's commands work as they are written, on the demonstration that `make demo` keeps running."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OWN_NETWORK, ROOT, Start
from tests.trace.conftest import bpf  # noqa: F401 - a fixture

README = (ROOT / "README.md").read_text()
SUDO = 'sudo "$(command -v threadinfo)"'
DESCRIBED = re.compile(r" {2,}.*$")  # what a command does, after two blanks


def commands(block_start: str) -> list[str]:
    """Those of the README's blocks that begin so."""
    blocks = re.findall(r"^```\n(.*?)^```$", README, re.M | re.S)
    lines = [line for block in blocks if block.startswith(block_start) for line in block.splitlines()]
    return [DESCRIBED.sub("", line).replace(SUDO, "threadinfo") for line in lines]


PLAIN, TRACED = commands("threadinfo 1 "), commands("threadinfo trace ")
SHOWN = [line[2:].replace(SUDO, "threadinfo") for line in README.splitlines() if line.startswith("$ ")]
ENDLESS = ("threadinfo trace ", "threadinfo top", "threadinfo hydrogen-demo --wait")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the examples are root's")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the command on its path, as an activated environment has it."""
    directory = tmp_path_factory.mktemp("readme")
    program = directory / "bin" / "threadinfo"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m threadinfo "$@"\n')
    program.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def demo() -> Iterator[subprocess.Popen[str]]:
    """What `make demo` starts, in a network of its own."""
    process = subprocess.Popen(
        [*OWN_NETWORK, sys.executable, str(ROOT / "demo" / "hydrogen_demo.py"), "--busy"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    yield process
    process.terminate()
    process.communicate(timeout=10)


def run(command: str, place: Path) -> tuple[int, str, str]:
    """Runs it in a shell; what would go on for ever is interrupted once it has said something."""
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    is_endless = command.startswith(ENDLESS) and "--duration" not in command
    out, err = place / "out", place / "err"
    with out.open("w") as output, err.open("w") as errors:
        process = subprocess.Popen(
            f"exec {command}",
            shell=True,
            stdout=output,
            stderr=errors,
            cwd=place,
            env=environment,
            start_new_session=True,
        )
        events = place / "events.json" if "events.json" in command else out
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if is_endless and ((events.exists() and events.stat().st_size) or "waiting for" in err.read_text()):
                os.killpg(process.pid, signal.SIGINT)
                is_endless = False
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{command} never ended, or said nothing: {out.read_text()[-500:]}{err.read_text()[-500:]}")
    return process.returncode, events.read_text() if events.exists() else "", err.read_text()


@pytest.mark.parametrize("command", PLAIN)
@pytest.mark.usefixtures("demo")
def test_every_plain_command(command: str, place: Path) -> None:
    status, output, errors = run(command, place)
    assert (status, errors) == (0, "")
    assert "-o r." in command or "=== Memory Footprint for" in output


@pytest.mark.parametrize("command", [*TRACED, *SHOWN[1:]])
@pytest.mark.usefixtures("demo", "bpf")
def test_every_traced_command(command: str, place: Path) -> None:
    status, output, errors = run(command, place)
    assert status in {0, 130}, errors
    assert "Traceback" not in errors
    assert "No such option" not in errors
    if "--failures" in command:
        assert "ECONNREFUSED" in output
    elif "--path" in command:
        assert "/etc/passwd" in output
    elif "--wait" not in command and command != "threadinfo doctor":
        assert re.search(r"config-reload|client|=== Trace Confidence|Ledger", output + errors), output[-500:]


@pytest.mark.usefixtures("bpf")
def test_demonstration_has_something_to_tell(demo: subprocess.Popen[str], place: Path) -> None:
    status, output, errors = run("threadinfo hydrogen-demo --trace 5s", place)
    assert status == 0, errors
    found = output.split("=== Where the Time Went")[0]
    assert re.search(r"/etc/passwd, opened\s+by\s+thread\s+config-reload", found)
    assert re.search(r"held by worker-0 \d+", output)


def test_examples_are_found() -> None:
    assert len(PLAIN) == 9
    assert len(TRACED) == 12
    assert SHOWN[0] == "threadinfo hydrogen-demo"


def test_demo_stays_up_until_it_is_told_to_end(start: Start) -> None:
    process = start(*OWN_NETWORK, sys.executable, ROOT / "demo" / "hydrogen_demo.py", "--busy")
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == 0
