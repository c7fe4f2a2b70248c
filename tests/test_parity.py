"""Our plain report against the script's, on real stopped processes; docs/differences.md has the differences."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests import miniature
from tests.conftest import DATA, ROOT, WORKLOADS, MakeProc, Run, Start, stop
from tests.parity import DIFFERENCES, FIRST_THREAD, compare, compare_with_script

SCRIPT = DATA / "threadinfo.sh"
TOOLS = ("bc", "ps", "pgrep", "ss", "awk")


def check(name: str) -> None:
    """Compares and prints the figures."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"the script needs {', '.join(missing)}")
    comparison = compare_with_script(SCRIPT, name)
    print(f"{name}: {comparison}")
    assert comparison.unexplained == []
    assert comparison.equal > 10


def test_parity_single_threaded_program(start: Start, tmp_path: Path) -> None:
    name = f"single-{os.getpid() % 100000}"
    (tmp_path / name).symlink_to("/bin/cat")
    process = start("/bin/sh", "-c", f'echo ready; exec "{tmp_path / name}"')
    while Path(f"/proc/{process.pid}/comm").read_text() != f"{name}\n":  # the shell becomes the program
        assert process.poll() is None
    stop(process)
    check(name)


def test_parity_demonstration_server(start: Start) -> None:
    name = f"demo-{os.getpid() % 100000}"  # the README's own may run, and the script finds one process or none
    stop(start(sys.executable, ROOT / "demo" / "hydrogen_demo.py", "--name", name))
    check(name)


@pytest.mark.parametrize(("threads", "descriptors"), [(7, 61), (23, 151)])
def test_parity_many_threads_and_descriptors(start: Start, threads: int, descriptors: int) -> None:
    name = f"many-{threads}-{os.getpid() % 1000}"
    stop(start(sys.executable, WORKLOADS / "many.py", name, threads, descriptors))
    check(name)


def test_parity_of_a_made_up_process_is_the_expected_text(make_proc: MakeProc, threadinfo: Run) -> None:
    """Every section in the script's words, where neither the script nor its tools can run."""
    files = miniature.process() | {
        f"1265598/task/1265601/{name}": content
        for name, content in (("stat", miniature.stat(1265601, "websocket", "D", user=4321)), ("status", ""))
    }
    links = ["pipe:[11]", "/dev/zero", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "/dev/urandom"]
    files |= {f"1265598/fd/{fd}": f"->{target}" for fd, target in enumerate(links, 1)}
    result = threadinfo("1265598", "--proc", make_proc(files))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (DATA / "miniature.txt").read_text()


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
