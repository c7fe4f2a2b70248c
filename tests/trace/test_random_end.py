"""Tool and target ended at random moments: nothing stays attached, no child or file is left, the terminal is as before.

THREADINFO_RANDOM_ENDS=200 makes so many of the tool and as many of the target, of each command; `--junitxml` keeps when
each end came, and how many BPF programs there were by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trace.conftest import why_not
from tests.trace.test_run_as_user import assert_gone, descendants

COUNT = int(os.environ.get("THREADINFO_RANDOM_ENDS", "2"))
_LONGEST_SECONDS = 3.0  # longer than it takes to attach
_BPF_PROG_GET_FD_BY_ID = 13
SIGNALS = ("SIGTERM", "SIGKILL", "SIGINT")
BUSY = (
    "import os, socket, time\n"
    "while True:\n s = socket.socket(); os.close(os.open('/dev/null', 0)); s.close(); time.sleep(0.001)"
)
# Coverage would begin in the command of `run`, too, and a SIGINT that comes meanwhile can be lost to it.
UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
COMMANDS = {
    "report": ["report", "PID", "--trace", "600"],
    "stream": ["trace", "PID", "--stacks"],
    "run": ["run", "-o", "REPORT", "--", sys.executable, "-c", BUSY],
    "run --user": ["run", "-o", "REPORT", "--user", "nobody", "--", "/usr/bin/python3", "-c", BUSY],
    "top": ["top", "PID", "--interval", "0.2"],
}


def program_ids(pids: list[int]) -> set[int]:
    """The BPF programs that processes hold, attached or not."""
    found = set()
    for pid in pids:
        try:
            entries = [entry.read_text() for entry in Path(f"/proc/{pid}/fdinfo").iterdir()]
        except OSError:  # it has ended, or the descriptor was closed
            continue
        for entry in entries:
            found |= {int(line.split()[1]) for line in entry.splitlines() if line.startswith("prog_id:")}
    return found


def is_loaded(program: int) -> bool:
    libc, number = ctypes.CDLL(None), {"x86_64": 321}.get(platform.machine(), 280)
    attributes = ctypes.create_string_buffer(struct.pack("=I", program), 128)
    fd = libc.syscall(number, _BPF_PROG_GET_FD_BY_ID, attributes, len(attributes))
    if fd >= 0:
        os.close(fd)
    return bool(fd >= 0)


class Drained:
    """A terminal whose output somebody reads, so that nobody waits for that."""

    def __init__(self) -> None:
        self.fd, self.slave = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.said = b""
        self._end, self._end_writer = os.pipe()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while self._end not in (ready := dict(poll.poll())):
            if self.fd in ready:
                self.said = (self.said + os.read(self.fd, 65536))[-4000:]

    def close(self) -> None:
        os.write(self._end_writer, b"x")
        self._thread.join()
        for fd in (self.fd, self.slave, self._end, self._end_writer):
            os.close(fd)


@pytest.fixture
def terminal() -> Iterator[Drained]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    opened = Drained()
    yield opened
    opened.close()


@pytest.mark.parametrize("ends", ["tool", "target"])
@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("seed", range(COUNT))
def test_nothing_is_left_when_tool_or_target_ends_at_a_random_moment(
    seed: int,
    what: str,
    ends: str,
    tmp_path: Path,
    terminal: Drained,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    chance = random.Random(f"{seed} {what} {ends}")
    way = SIGNALS[(seed + list(COMMANDS).index(what)) % len(SIGNALS)] if ends == "tool" else "target"
    target = subprocess.Popen(
        [sys.executable, "-c", "input()" if what.startswith("run") else BUSY], stdin=subprocess.PIPE
    )
    words = {"PID": str(target.pid), "REPORT": str(tmp_path / "report")}
    if way == "SIGKILL":  # which leaves no time to remove what was begun
        words["REPORT"] = "/dev/null"
    tool = subprocess.Popen(
        ["setsid", "-c", "-w", sys.executable, "-m", "threadinfo", *(words.get(word, word) for word in COMMANDS[what])],
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        cwd=ROOT,
        env=UNMEASURED | {"TERM": "xterm", "TMPDIR": str(tmp_path)},
    )
    ours: set[int] = set()
    programs: set[int] = set()
    try:
        moment = chance.uniform(0, _LONGEST_SECONDS)
        until = time.monotonic() + moment
        while time.monotonic() < until and tool.poll() is None:
            note(tool.pid, ours, programs)
        record_testsuite_property("end", f"{what} {way} {moment:.3f} {len(programs)}")
        if way != "target":
            tool.send_signal(getattr(signal, way))
        deadline = time.monotonic() + 60
        while tool.poll() is None:
            note(tool.pid, ours, programs)
            if way == "target":
                end_target(what, target, ours)
            if (what, way) == ("top", "target"):  # the last state stays until somebody has seen it
                os.write(terminal.fd, b"q")
            assert time.monotonic() < deadline, f"{what} after {way}: {terminal.said!r}"
        assert tool.returncode != -signal.SIGSEGV
        assert_gone(sorted(ours))
        deadline = time.monotonic() + 10
        while left := {program for program in programs if is_loaded(program)}:
            assert time.monotonic() < deadline, f"still loaded: {left}"
        assert {path.name for path in tmp_path.iterdir()} <= {"report"}
        if (what, way) != ("top", "SIGKILL"):  # nobody is there to put it back
            assert termios.tcgetattr(terminal.slave) == terminal.before
        assert b"threadinfo/" not in terminal.said, terminal.said  # a traceback of ours; the command's is its own
    finally:
        for process in (tool, target):
            process.kill()
            process.wait()


def note(tool: int, ours: set[int], programs: set[int]) -> None:
    """What it has started and loaded by now; asked so often that little escapes, and leaves the tool its CPU."""
    time.sleep(0.005)
    try:
        ours.update(descendants(tool))
    except OSError:  # some of it ended
        return
    programs |= program_ids([tool, *ours])


def end_target(what: str, target: subprocess.Popen[bytes], ours: set[int]) -> None:
    """Of `run` that is the command, as soon as there is one."""
    if not what.startswith("run"):
        target.kill()
    for pid in ours:
        if is_command(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_command(pid: int) -> bool:
    try:
        return BUSY.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2:3]
    except OSError:
        return False
