"""CONTRIBUTING's walk-through: what a new tracer touches, and that it is then everywhere where a trace is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Start
from tests.trace.conftest import bpf  # noqa: F401

HERE = Path(__file__).parent
FILES = ("signals.bpf.c", "signals.py", "test_signals.py")
SOURCES = {".py", ".c", ".h", ".j2"}
THREADINFO = """
import sys
from threadinfo import tracers
tracers.TRACERS += (tracers.Registered(("signals",), "tests.walkthrough.signals", "SignalTracer"),)
from threadinfo.cli.main import main
main()
"""

# Each thread sends itself so many of a signal when it is told to, and says when that is done.
PROGRAM = """
import os, signal, sys, threading
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, lambda *_: None)
print(threading.get_native_id(), flush=True)
sys.stdin.readline()
for _ in range(101):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
pid = os.fork()
for _ in range(53 if pid else 211):
    os.kill(os.getpid(), signal.SIGUSR2)
if pid:
    os.waitpid(pid, 0)
    print("done", flush=True)
    sys.stdin.readline()
"""


def threadinfo(*arguments: object) -> list[str]:
    return [sys.executable, "-c", THREADINFO, *map(str, arguments)]


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize("only", ["signals", "signals,descriptors,scheduling"])
def test_signals_are_counted_by_thread_of_each_process(start: Start, tmp_path: Path, only: str) -> None:
    output = tmp_path / "report.json"
    run = threadinfo("run", "--follow", "--only", only, "--format", "json", "-o", output, "--", sys.executable, "-c")
    process = start(*run, PROGRAM)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(timeout=60) == 0
    parent, child = json.loads(output.read_text())["processes"]
    (table,) = parent["trace"]["tables"]
    tid = process.first_line.strip()  # type: ignore[attr-defined]
    assert table["title"] == "Signals Delivered"
    assert [row for row in table["rows"] if "USR" in row[1]] == [[tid, "SIGUSR1", 101], [tid, "SIGUSR2", 53]]
    (of_child,) = child["trace"]["tables"]
    assert [row[1:] for row in of_child["rows"] if "USR" in row[1]] == [["SIGUSR2", 211]]
    assert parent["trace"]["confidence"]["seen_count"] >= 101 + 53 + 211
    shown = subprocess.run(threadinfo("show", output), capture_output=True, text=True, check=True, cwd=ROOT)
    assert re.search(rf"=== Signals Delivered ===\nTID +Signal +Count\n-+\n(.*\n)*{tid} +SIGUSR1 +101\n", shown.stdout)
    page = subprocess.run(threadinfo("show", output, "--format", "html"), capture_output=True, text=True, check=True)
    assert "Signals Delivered" in page.stdout
    assert page.stdout.count('<td class="words">SIGUSR1</td>') == 1


@pytest.mark.usefixtures("bpf")
def test_only_and_doctor_know_it() -> None:
    wrong = subprocess.run(
        threadinfo(os.getpid(), "--trace", "1", "--only", "signal"), capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "signals" in wrong.stderr
    doctor = subprocess.run(threadinfo("doctor"), capture_output=True, text=True, check=False, cwd=ROOT)
    assert "3 for signals" in doctor.stdout


def test_it_is_three_files_and_a_line_of_the_list() -> None:
    """The walk-through names them, and nothing else in the repository knows of it."""
    walkthrough = (ROOT / "CONTRIBUTING.md").read_text().partition("## Adding a tracer")[2].partition("\n## ")[0]
    assert all(f"tests/walkthrough/{name}" in walkthrough for name in FILES)
    assert "TRACERS" in walkthrough
    files = [path for top in ("src", "bpf", "tests") for path in (ROOT / top).rglob("*.*") if path.suffix in SOURCES]
    knowing = [path.name for path in files if re.search(r"SignalTracer|signals\.bpf\.c", path.read_text())]
    assert sorted({*knowing, "signals.bpf.c"}) == sorted(FILES)
