"""Our plain report against the script's, on real stopped processes; docs/differences.md has the differences."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, WORKLOADS, Start, stop
from tests.parity import DIFFERENCES, FIRST_THREAD, compare, compare_with_script

SCRIPT = ROOT.parent / "shared" / "seed" / "threadinfo.sh"
TOOLS = ("bc", "ps", "pgrep", "ss", "awk")

needs_script = pytest.mark.skipif(not SCRIPT.is_file(), reason="the script is not beside this checkout")


def check(name: str) -> None:
    """Compares and prints the figures."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"the script needs {', '.join(missing)}")
    comparison = compare_with_script(SCRIPT, name)
    print(f"{name}: {comparison}")
    assert comparison.unexplained == []
    assert comparison.equal > 10


@needs_script
def test_parity_single_threaded_program(start: Start, tmp_path: Path) -> None:
    name = f"single-{os.getpid() % 100000}"
    (tmp_path / name).symlink_to("/bin/cat")
    process = start("/bin/sh", "-c", f'echo ready; exec "{tmp_path / name}"')
    while Path(f"/proc/{process.pid}/comm").read_text() != f"{name}\n":  # the shell becomes the program
        assert process.poll() is None
    stop(process)
    check(name)


@needs_script
def test_parity_demonstration_server(start: Start) -> None:
    stop(start(sys.executable, ROOT / "demo" / "hydrogen_demo.py"))
    check("hydrogen-demo")


@needs_script
@pytest.mark.parametrize(("threads", "descriptors"), [(7, 61), (100, 1000)])
def test_parity_many_threads_and_descriptors(start: Start, threads: int, descriptors: int) -> None:
    name = f"many-{threads}-{os.getpid() % 1000}"
    stop(start(sys.executable, WORKLOADS / "many.py", name, threads, descriptors))
    check(name)


def test_parity_an_unintended_difference_is_found() -> None:
    """The comparison itself can fail: a wrong number, a lost row and a changed word are each unexplained."""
    text = (
        "=== Memory Footprint for x (PID: 7) ===\nTotal Virtual Memory: 10 kB\n"
        "FD     Type       Description\n--------------------------------\n"
        "3      file       file: /a\n4      socket     socket (TCP port 5)\n\n=== Resource Limits ===\n"
    )
    for ours in (
        text.replace("10 kB", "11 kB"),
        text.replace("4      socket     socket (TCP port 5)\n", ""),
        text.replace("file: /a", "file: /b").replace("file       ", "fifo       "),
        text.replace("port 5)", "port 6)"),
    ):
        assert len(compare(text, ours, text).unexplained) == 1
    assert compare(text, text, text).unexplained == []


def test_differences_are_all_in_the_docs() -> None:
    page = (ROOT / "docs" / "differences.md").read_text()
    for difference in (*DIFFERENCES, FIRST_THREAD):
        assert f"| {difference.name} |" in page, difference.name
        assert difference.reason in page, difference.reason
