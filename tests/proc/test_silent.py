"""File systems whose server does not answer: real ones, by FUSE. The report comes all the same, and ends when told."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT, WORKLOADS, Start, run_threadinfo
from threadinfo.proc.reader import ProcDirectory, ProcessMemory, ProcGoneError, ProcMalformedError, ProcSilentError

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and FUSE to mount"
)


class Silent(NamedTuple):
    """A process whose files do not answer."""

    process: subprocess.Popen[str]
    directory: Path
    covered: Path
    mapping: str
    held: int
    deleted: int


def end(server: subprocess.Popen[str]) -> None:
    """Unmounts; what waited for the server gets an error."""
    assert server.stdin is not None
    server.stdin.write("end\n")
    server.stdin.flush()
    server.wait(20)


@pytest.fixture
def silent(start: Start, tmp_path: Path) -> Iterator[Silent]:
    """Two silent mounts: one with the files that the process holds, one over the name of a file that it deleted."""
    directory, covered = tmp_path / "silent", tmp_path / "covered"
    directory.mkdir()
    covered.mkdir()
    servers = [start(sys.executable, "-m", "tests.silent_fuse", directory)]
    target = start(sys.executable, WORKLOADS / "silent_files.py", directory, covered)
    mapping, held, deleted = str(target.first_line).split()  # type: ignore[attr-defined]
    servers.append(start(sys.executable, "-m", "tests.silent_fuse", covered))
    for server in servers:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("silent\n")
        server.stdin.flush()
        assert server.stdout.readline() == "silent\n"
    yield Silent(target, directory, covered, mapping, int(held), int(deleted))
    for server in servers:
        end(server)


def test_stat_of_the_open_file_does_wait_here(silent: Silent) -> None:
    """Otherwise the tests below would show nothing: os.stat, in a process that may wait."""
    program = f"import os; os.stat('/proc/{silent.process.pid}/fd/{silent.held}')"
    waiting = subprocess.Popen([sys.executable, "-c", program])
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    waiting.send_signal(signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)  # not even that: the server has the request
    with ProcDirectory(f"/proc/{silent.process.pid}") as process:
        assert process.stat(f"fd/{silent.held}").size_bytes == 8000


@pytest.mark.parametrize("options", [[], ["-v"], ["--no-borrow", "--format", "html"]])
def test_report_of_a_process_with_silent_files_comes(silent: Silent, options: list[str]) -> None:
    result = run_threadinfo(silent.process.pid, *options, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"file: {silent.directory}/file" in result.stdout
    assert f"file: {silent.covered}/name (deleted)" in result.stdout
    assert "1 known by name alone" in result.stdout


def test_json_report_of_a_process_with_silent_files_is_complete(silent: Silent) -> None:
    result = run_threadinfo(silent.process.pid, "--format", "json", timeout=60)
    process = json.loads(result.stdout)["processes"][0]
    found = {one["fd"]: one for one in process["descriptors"]}
    assert (found[silent.held]["type"], found[silent.held]["details"]["size_bytes"]) == ("file", 8000)
    assert found[silent.deleted]["target"] == f"{silent.covered}/name (deleted)"
    gaps = [gap for gap in process["gaps"] if gap["section"] == "descriptors"]
    assert len(gaps) == 1
    assert gaps[0]["cause"].endswith(f"root{silent.covered}/name (deleted): its file system does not answer")


def test_reader_gives_up_what_does_not_answer(silent: Silent) -> None:
    with ProcDirectory(f"/proc/{silent.process.pid}") as process:
        assert process.mapped_file(silent.mapping) is None
        with pytest.raises(ProcSilentError):
            process.stat_patiently(f"root{silent.covered}/name")
        with ProcessMemory(process) as memory:
            start = int(silent.mapping.partition("-")[0], 16)
            assert memory.read(start, 8) is None


def test_file_that_took_the_number_of_a_socket_is_not_waited_for(silent: Silent) -> None:
    """Closing a duplicate of it would be, in the process that has it."""
    program = (
        "import sys\n"
        "from threadinfo.proc.borrow import Lender\n"
        "with Lender(int(sys.argv[1])) as lender:\n"
        "    held = int(sys.argv[2])\n"
        "    print(*{problem.strerror for problem in lender.ask_all([held] * 17)})\n"
        "    try: lender.network_namespace(held)\n"
        "    except OSError as problem: print(problem.strerror)\n"
    )
    command = [sys.executable, "-c", program, str(silent.process.pid), str(silent.held)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert (result.stdout, result.stderr) == (f"{os.strerror(errno.ENOTSOCK)}\n" * 2, "")


def test_mount_point_behind_a_silent_file_system_is_not_waited_for(silent: Silent, tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "outer")
    with ProcDirectory(f"/proc/{silent.process.pid}") as process:
        for path in (inner, Path("/")):
            fd = process.directory_below_root(str(path))
            assert os.path.sameopenfile(fd, os.open(path, os.O_PATH))
            os.close(fd)
        for path, problem in {
            tmp_path / "link" / "inner": ProcMalformedError,  # ELOOP: not even where the link leads to a good place
            inner / ".." / ".." / ".." / "nowhere": ProcGoneError,
            silent.directory / "below": ProcSilentError,
        }.items():
            with pytest.raises(problem):
                process.directory_below_root(str(path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_report_while_a_file_is_silent(silent: Silent, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "threadinfo", str(silent.process.pid)]
    tool = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{tool.pid}/task/{tool.pid}/children")
    while not children.read_text():  # it asks
        assert tool.poll() is None
    tool.send_signal(number)
    output, errors = tool.communicate(timeout=20)
    assert tool.returncode == (130 if number == signal.SIGINT else 128 + number), errors
    assert (output, "Traceback" in errors) == ("", False)


def test_a_mapped_file_of_a_server_that_answers_is_opened(start: Start, tmp_path: Path) -> None:
    directory, covered = tmp_path / "answering", tmp_path / "covered"
    directory.mkdir()
    covered.mkdir()
    server = start(sys.executable, "-m", "tests.silent_fuse", directory)
    target = start(sys.executable, WORKLOADS / "silent_files.py", directory, covered)
    mapping = str(target.first_line).split()[0]  # type: ignore[attr-defined]
    with ProcDirectory(f"/proc/{target.pid}") as process:
        for _ in range(3):
            fd = process.mapped_file(mapping)
            assert fd is not None
            assert os.pread(fd, 8, 8) == b"content\n"
            os.close(fd)
        with ProcessMemory(process) as memory:
            address = int(mapping.partition("-")[0], 16)
            assert memory.read(address, 8000) == b"content\n" * 1000
            assert memory.read(address + 3, 5) == b"tent\n"
            assert memory.read(ctypes.c_size_t(-1).value - 7, 8) is None
    end(server)
