"""What the tests share: real processes that say "ready", the command run as a user runs it, a miniature /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKLOADS = ROOT / "tests" / "workloads"
DATA = ROOT / "tests" / "data"
OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"')
"""Before a command: every port is free there. Needs root."""
PATIENCE_SECONDS = 300
"""Until a command is said to hang: the first trace compiles, 15 s of CPU time that a busy machine gives a tenth of."""

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
MakeProc = Callable[[Mapping[str, str | bytes | None]], Path]

# Every process that a test starts has this in its environment; so has what it leaves behind.
_MARK = "THREADINFO_TESTS"
os.environ[_MARK] = str(uuid.uuid4())

# A shell's background job, and nohup's, begins with these ignored, and so would everything that a test starts: a Ctrl-C
# or hang-up that it waits for would never come. A handler does not outlive exec as "ignored" does.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def is_of_these_tests(pid: int | str) -> bool:
    """Whether a process was started by these tests, by whatever generation."""
    return f"{_MARK}={os.environ[_MARK]}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def run_threadinfo(
    *arguments: str | int, timeout: float = PATIENCE_SECONDS, privileged: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    """Runs the command, as a user without privileges where asked; standard output and error are captured."""
    module = ["threadinfo"] if privileged else ["tests.unprivileged", "threadinfo"]
    command = [sys.executable, "-m", *module, *map(str, arguments)]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT, **options
    )


@pytest.fixture
def threadinfo() -> Run:
    """Runs the command with arguments and gives its CompletedProcess."""
    return run_threadinfo


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A directory that every user may read. Pytest's own lie in one that each of its sessions closes to others anew."""
    with tempfile.TemporaryDirectory(prefix="threadinfo-tests-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def stop(process: subprocess.Popen[str]) -> None:
    """Stops a process (SIGSTOP), and waits until it is stopped: nothing of it moves any more."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a workload and waits for its first line, which is in `process.first_line`; all end with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start_workload(*command: str | Path | int, **options: object) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            list(map(str, command)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{command} ended before it was ready: {process.wait()}"
        process.first_line = line  # type: ignore[attr-defined]
        return process

    yield start_workload
    for process in processes:
        process.send_signal(signal.SIGCONT)
        process.terminate()  # the demonstration server then removes its files
        try:
            process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture
def make_proc(tmp_path: Path) -> MakeProc:
    """Builds a miniature /proc: a file for text, a directory for None, a link for text that begins with "->"."""

    def make(files: Mapping[str, str | bytes | None]) -> Path:
        root = tmp_path / "proc"
        root.mkdir()
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            elif isinstance(content, str) and content.startswith("->"):
                path.symlink_to(content[2:])
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make
