"""`threadinfo run --user`: another user's command has a terminal and an environment of its own."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.trace.test_run import ENVIRONMENT, TOOL, drain, read_until, run, shell_with_jobs

pytestmark = [pytest.mark.usefixtures("bpf"), pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
AS_NOBODY = [*TOOL, "--only", "descriptors", "-o", "/dev/null", "--user", "nobody"]
# Types into every terminal that it can get hold of.
ATTACK = """
import fcntl, glob, os, termios
def type_into(fd):
    for character in b"echo TYPED\\n":
        fcntl.ioctl(fd, termios.TIOCSTI, bytes([character]))
for fd in range(256):
    try:
        type_into(fd)
    except OSError:
        pass
for name in ["/dev/tty", "/dev/console", *glob.glob("/dev/pts/*"), *glob.glob("/proc/*/fd/[0-9]*")]:
    try:
        fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, termios.TIOCSCTTY, 1)
        type_into(fd)
    except OSError:
        pass
    try:
        type_into(fd)
    except (OSError, NameError):
        pass
print("attacked")
"""
TELL = """
import fcntl, json, os, struct, termios
def number(fd):
    return struct.unpack("I", fcntl.ioctl(fd, 0x80045432, bytes(4)))[0] if os.isatty(fd) else None  # TIOCGDEV
try:
    controlling = number(os.open("/dev/tty", os.O_RDWR))
except OSError:
    controlling = None
print(json.dumps({
    "terminal": int(open("/proc/self/stat").read().rpartition(")")[2].split()[4]),
    "standard": [number(fd) for fd in range(3)],
    "controlling": controlling,
    "owner": os.fstat(1).st_uid,
    "size": list(os.get_terminal_size(1)) if os.isatty(1) else None,
    "descriptors": sorted(fd for fd in range(3, 256) if os.path.exists(f"/proc/self/fd/{fd}")),
    "environment": dict(os.environ),
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")],
}), flush=True)
"""
PYTHON = "/usr/bin/python3"  # one that nobody may run
GOES_ON = "echo re''ady; while :; do sleep 0.05; done"


class Screen:
    """A terminal on which a command of root's runs."""

    def __init__(self, *command: str, pass_fds: Sequence[int] = ()) -> None:
        self.fd, self.slave = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.name = os.ttyname(self.slave)
        self.process = subprocess.Popen(
            ["setsid", "-c", "-w", *command],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            env=ENVIRONMENT,
            pass_fds=pass_fds,
        )

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read_until(self, text: str) -> str:
        return read_until(self.fd, text)

    def end(self) -> tuple[str, int]:
        """The rest of what is shown, and the exit status."""
        said = ""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(pidfd := os.pidfd_open(self.process.pid), select.POLLIN)
        while ready := dict(poll.poll(60_000)):
            if self.fd not in ready:
                break
            said += os.read(self.fd, 65536).decode()
        os.close(pidfd)
        return said, self.process.wait(60)

    def waiting_count(self) -> int:
        """Bytes that root's shell would read next."""
        count = array.array("i", [0])
        fcntl.ioctl(self.slave, termios.FIONREAD, count)
        return count[0]

    def tool_pid(self) -> int:
        """setsid becomes it, or waits for it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        name = Path(f"/proc/{self.process.pid}/comm").read_text()
        return int(children[0]) if name == "setsid\n" else self.process.pid

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self.slave)


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def open_screen(*command: str, **options: Any) -> Screen:
        opened.append(Screen(*command, **options))
        return opened[-1]

    yield open_screen
    for one in opened:
        one.close()


def told(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    return found


def wait_for_state(pid: int, states: str) -> None:
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
        pass


def assert_gone(pids: list[int]) -> None:
    """Within what the kernel needs for it."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            poll, descriptor = select.poll(), os.pidfd_open(pid)
            poll.register(descriptor, select.POLLIN)
            assert poll.poll(30_000), f"{pid} lives on: {Path(f'/proc/{pid}/cmdline').read_text()}"
            os.close(descriptor)


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def shell_of(tool: int) -> int:
    """The command, where that is a shell: the one that leads its process group."""
    (found,) = [
        pid for pid in descendants(tool) if os.getpgid(pid) == pid and Path(f"/proc/{pid}/comm").read_text() == "sh\n"
    ]
    return found


def test_command_cannot_type_into_roots_terminal(screen: Callable[..., Screen]) -> None:
    window = screen(*AS_NOBODY, "--", PYTHON, "-c", ATTACK)
    said, status = window.end()
    assert (status, window.waiting_count(), window.is_as_before()) == (0, 0, True), said
    assert "attacked" in said


def test_without_a_terminal_of_its_own_the_attack_would_succeed(screen: Callable[..., Screen]) -> None:
    """Or the test above would tell nothing. As root, because a kernel may refuse it to others (legacy_tiocsti)."""
    window = screen(PYTHON, "-c", ATTACK)
    window.end()
    assert window.waiting_count() > 0


def test_command_has_another_terminal_of_the_same_size_and_no_descriptor_more(screen: Callable[..., Screen]) -> None:
    with open("/etc/hostname") as leaked:
        os.set_inheritable(leaked.fileno(), True)
        window = screen(*AS_NOBODY, "--", PYTHON, "-c", TELL, pass_fds=[leaked.fileno()])
        said, status = window.end()
    found = told(said)
    assert status == 0
    assert found["standard"] == [found["controlling"]] * 3 == [found["terminal"]] * 3
    assert os.major(found["terminal"]) == 136
    assert found["terminal"] != os.stat(window.name).st_rdev
    assert (found["owner"], found["size"]) == (65534, [111, 33])
    assert found["descriptors"] == [3]  # the one that it opened itself
    assert window.is_as_before()


def test_standard_streams_that_are_no_terminal_stay_what_they_are(
    screen: Callable[..., Screen], tmp_path: Path
) -> None:
    tool = shlex.join([*AS_NOBODY, "--", PYTHON, "-c", "import os; print([os.isatty(n) for n in range(3)], input())"])
    window = screen("sh", "-c", f"echo words | {tool} > {tmp_path}/out")
    assert window.end()[1] == 0
    assert (tmp_path / "out").read_text() == "[False, False, True] words\n"


def test_keys_of_a_pipeline_are_the_other_programs(screen: Callable[..., Screen], tmp_path: Path) -> None:
    tool = shlex.join([*AS_NOBODY, "--", "sh", "-c", "echo one; sleep 1000"])
    pager = "read line; echo $line-; read keys </dev/tty; echo $keys $keys"
    window = screen("sh", "-c", f"{tool} | sh -c {shlex.quote(pager)}")
    window.read_until("one-")
    window.press(b"two\n")
    assert "two two" in window.read_until("two two")
    assert window.is_as_before()
    window.press(b"\x03")
    window.end()
    assert window.is_as_before()


def test_keys_and_ctrl_c_reach_the_command_once(screen: Callable[..., Screen]) -> None:
    script = (
        "trap 'echo in''terrupted; exit 9' INT; echo re''ady; read line; echo got $line; while :; do sleep 0.05; done"
    )
    window = screen(*AS_NOBODY, "--", "sh", "-c", script)
    window.read_until("ready")
    window.press(b"words\r")
    assert "got words\r\n" in window.read_until("got words\r\n")
    window.press(b"\x03")
    said, status = window.end()
    assert (status, said.count("interrupted")) == (9, 1)
    assert window.is_as_before()


def test_new_size_reaches_the_command(screen: Callable[..., Screen]) -> None:
    window = screen(*AS_NOBODY, "--", "sh", "-c", f"trap 'stty size; exit 3' WINCH; {GOES_ON}")
    window.read_until("ready")
    fcntl.ioctl(window.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 51, 97, 0, 0))
    said, status = window.end()
    assert (status, "51 97" in said) == (3, True)


def test_ctrl_z_stops_both_and_gives_the_terminal_back(screen: Callable[..., Screen]) -> None:
    window = screen(*AS_NOBODY, "--", "sh", "-c", "echo re''ady; read line; echo got $line; exit 3")
    window.read_until("ready")
    tool = window.tool_pid()
    command = shell_of(tool)
    window.press(b"\x1a")
    wait_for_state(command, "T")
    wait_for_state(tool, "T")
    assert window.is_as_before()
    os.kill(tool, signal.SIGCONT)
    wait_for_state(command, "SR")
    window.press(b"words\r")
    said, status = window.end()
    assert (status, "got words" in said) == (3, True)
    assert window.is_as_before()


def test_job_is_stopped_by_ctrl_z_goes_on_in_the_background_and_in_the_foreground() -> None:
    shell, terminal = shell_with_jobs()
    script = "echo be''gun; read line; echo got $line; exit 3"
    os.write(terminal, f"{shlex.join([*AS_NOBODY, '--', 'sh', '-c', script])}\n".encode())
    read_until(terminal, "begun\r\n")
    os.write(terminal, b"\x1a")
    assert "Stopped" in read_until(terminal, "next> ")
    os.write(terminal, b"bg\n")
    read_until(terminal, "next> ")
    os.write(terminal, b"echo the shell has the keys\n")
    assert "the shell has the keys\r\n" in read_until(terminal, "next> ")
    os.write(terminal, b"fg\n")
    read_until(terminal, "exit 3")  # the shell repeats the command
    os.write(terminal, b"words\n")
    assert "got words" in read_until(terminal, "next> ")
    os.write(terminal, b"echo status $?; exit\n")
    assert "status 3" in "".join(drain(terminal))
    os.waitpid(shell, 0)
    os.close(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_signal_to_us_reaches_the_command_and_the_terminal_is_put_back(
    screen: Callable[..., Screen], number: signal.Signals
) -> None:
    window = screen(*AS_NOBODY, "--", "sh", "-c", GOES_ON)
    window.read_until("ready")
    left = descendants(window.tool_pid())
    os.kill(window.tool_pid(), number)
    _, status = window.end()
    assert (status, window.is_as_before()) == (128 + number, True)
    assert_gone(left)


@pytest.mark.parametrize("which", ["tool", "between", "command"])
def test_terminal_is_put_back_whoever_is_killed(screen: Callable[..., Screen], which: str) -> None:
    window = screen(*AS_NOBODY, "--", "sh", "-c", GOES_ON)
    window.read_until("ready")
    tool = window.tool_pid()
    left = descendants(tool)
    command = shell_of(tool)
    between = parent(command)
    assert not window.is_as_before()
    os.kill({"tool": tool, "between": between, "command": command}[which], signal.SIGKILL)
    _, status = window.end()
    assert_gone(left)
    assert window.is_as_before()
    assert status == {"tool": -signal.SIGKILL, "between": 129, "command": 137}[which]


def test_terminal_that_hangs_up_is_a_hangup_for_the_command(screen: Callable[..., Screen], shared_path: Path) -> None:
    shared_path.chmod(0o777)
    window = screen(*AS_NOBODY, "--", "sh", "-c", f"trap 'echo told > {shared_path}/told; exit 5' HUP; {GOES_ON}")
    window.read_until("ready")
    left = [window.tool_pid(), *descendants(window.tool_pid())]
    os.close(window.slave)
    os.close(window.fd)
    window.fd, window.slave = os.pipe()  # for `close`
    assert_gone(left)
    assert (shared_path / "told").read_text() == "told\n"


SECRETS = {"TOKEN": "secret", "SSH_AUTH_SOCK": "/run/agent", "PATH": "/tmp/mine:/usr/bin:/bin", "LANG": "C.UTF-8"}
CLEAN = {
    "HOME": "/nonexistent",
    "USER": "nobody",
    "LOGNAME": "nobody",
    "SHELL": "/usr/sbin/nologin",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "vt100",
    "LANG": "C.UTF-8",
    "LC_TIME": "de_DE",
}


def test_environment_is_that_of_the_user() -> None:
    given = {**ENVIRONMENT, **SECRETS, "TERM": "vt100", "LC_TIME": "de_DE", "LC_PAPER": "../../etc"}
    options = ["--only", "descriptors", "-o", "/dev/null", "--user", "nobody"]
    found = told(run(*options, "--", PYTHON, "-c", TELL, env=given).stdout)["environment"]
    assert {key: value for key, value in found.items() if key in CLEAN} == CLEAN
    assert found.keys() - CLEAN.keys() <= {"LC_CTYPE"}  # which Python sets for itself
    kept = told(run(*options, "--preserve-env", "--", PYTHON, "-c", TELL, env=given).stdout)["environment"]
    assert {**given, **{key: CLEAN[key] for key in ("HOME", "USER", "LOGNAME", "SHELL")}} == kept


def test_environment_is_preserved_for_another_user_only() -> None:
    assert "--user" in run("--preserve-env", "--", "true", check=2).stderr


@pytest.mark.parametrize("user", [[], ["--user", "nobody"]])
def test_no_new_privileges_by_choice(user: list[str]) -> None:
    options = ["--only", "descriptors", "-o", "/dev/null", *user]
    for asked, expected in ([], ["0"]), (["--no-new-privs"], ["1"]):
        found = told(run(*options, *asked, "--", PYTHON, "-c", TELL, stdin=subprocess.DEVNULL).stdout)
        assert found["privileges"] == expected
