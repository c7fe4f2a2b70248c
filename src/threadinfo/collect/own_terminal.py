"""A terminal of its own for a command that another user runs: with ours it could type into our shell (TIOCSTI).

As sudo's use_pty: a process between the two terminals leads the command's session, hands what is typed on ours to the
command's pseudo-terminal and what that shows to ours, and waits for the command. Ours is raw meanwhile, so that ^C and
^Z are the other terminal's to understand, and is put back when the command stops or ends, or when we do, however.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import socket
import stat
import struct
import termios
import tty
from collections.abc import Callable
from typing import Any, NoReturn

from threadinfo.proc.reader import ProcDirectory, ProcError

_MESSAGE = struct.Struct("=ci")
"""Kind, and a number."""
_RELEASED, _RESIZED, _CONTINUE, _SIGNAL = b"r", b"w", b"c", b"k"
"""To the process between: the command begins; its window is as ours; it goes on; its foreground gets a signal."""
_STARTED, _STOPPED, _ENDED = b"P", b"S", b"X"
"""From it: the command's PID; it is stopped; its wait status (waitpid(2))."""
_LOOK_SECONDS = 0.1  # whether we are still, or again, in the foreground
_CHUNK = 1 << 16
_STATE, _GROUP, _FOREGROUND_GROUP = 3 - 3, 5 - 3, 8 - 3  # proc_pid_stat(5), counted after the name
_NO_TERMINAL = b"-1"  # a terminal that nobody controls: no job is in the background of it
_IGNORED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE),
)


def find_terminal() -> int | None:
    """A descriptor of the terminal that we have, for the caller to close; None where a command would get none."""
    with contextlib.suppress(OSError):
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    for fd in range(3):
        with contextlib.suppress(OSError):
            if os.isatty(fd):
                return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    return None


class OwnTerminal:
    """A command with a terminal of its own. Raises OSError where there can be none."""

    def __init__(self, ours: int, owner: int, become: Callable[[int], NoReturn]) -> None:
        """`ours`: see `find_terminal`. The terminal becomes the user's whose id is `owner`.

        `become` is called in the command's process, with the PID of the process that waits for it.
        """
        self._ours, self._attributes = ours, termios.tcgetattr(ours)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        us = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._channel.close()
                _Between(ours, us, theirs, owner, become).relay()
            finally:
                os._exit(1)
        theirs.close()
        self._status: int | None = None
        self.has_stopped = False
        """Whether the command has stopped since somebody last took note of it."""
        kind, self.pid = self._receive() or (b"", errno.EIO)
        if kind != _STARTED:
            self.close()
            raise OSError(self.pid, f"a terminal of its own: {os.strerror(self.pid)}")

    def _receive(self, *, waits: bool = True) -> tuple[bytes, int] | None:
        """What it says; None where it says nothing, or has ended."""
        try:
            data = self._channel.recv(_MESSAGE.size, 0 if waits else socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return None
        if not data:
            self._status = self._status if self._status is not None else signal.SIGHUP  # what the command then got
            return None
        kind, number = _MESSAGE.unpack(data)
        if kind == _ENDED:
            self._status = number
        self.has_stopped |= kind == _STOPPED
        return kind, number

    def _send(self, kind: bytes, number: int = 0) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._channel.send(_MESSAGE.pack(kind, number))

    def begin(self) -> None:
        """The command begins: what is typed is its from now on."""
        self._send(_RELEASED)

    def pass_on(self, number: int) -> None:
        """A signal that our terminal sent: the other one's foreground gets it."""
        if number == signal.SIGWINCH:
            self._send(_RESIZED)
        elif number == signal.SIGCONT:
            self._send(_CONTINUE)
        else:
            self._send(_SIGNAL, number)

    def status(self, *, waits: bool = False) -> int | None:
        """The command's wait status; None where it has not ended."""
        while self._status is None and self._receive(waits=waits) is not None:
            pass
        return self._status

    def close(self) -> None:
        """Ends what is between; our terminal is as it was."""
        self._channel.close()
        os.waitpid(self._pid, 0)
        with contextlib.suppress(termios.error):  # it may have hung up
            if _is_raw_of(self._ours, self._attributes):  # whoever was to put it back was killed
                termios.tcsetattr(self._ours, termios.TCSADRAIN, self._attributes)
        os.close(self._ours)


def _raw(attributes: list[Any]) -> list[Any]:
    """What a terminal is set to that only passes bytes on."""
    mode = [*attributes[: tty.CC], list(attributes[tty.CC])]
    mode[tty.IFLAG] &= ~(
        termios.BRKINT
        | termios.ICRNL
        | termios.IGNCR
        | termios.INLCR
        | termios.INPCK
        | termios.ISTRIP
        | termios.IXON
        | termios.IGNBRK
        | termios.PARMRK
    )
    mode[tty.OFLAG] &= ~termios.OPOST
    mode[tty.LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
    mode[tty.CC][termios.VMIN], mode[tty.CC][termios.VTIME] = 1, 0
    return mode


def _is_raw_of(fd: int, attributes: list[Any]) -> bool:
    """Whether a terminal is as we set it, and nobody has changed it since."""
    wanted = _raw(attributes)
    return termios.tcgetattr(fd)[: tty.CC] == wanted[: tty.CC] and attributes[: tty.CC] != wanted[: tty.CC]


class _Between:
    """The process between the terminals."""

    def __init__(
        self, ours: int, us: int, channel: socket.socket, owner: int, become: Callable[[int], NoReturn]
    ) -> None:
        self._ours, self._channel = ours, channel
        self._attributes = termios.tcgetattr(ours)
        self._is_raw = self._has_begun = self._is_over = self._is_stopped = False
        # In a pipeline others read the keyboard, a pager for example.
        self._reads_keys = os.isatty(0) and not any(_is_pipe(fd) for fd in (1, 2))
        self._typed = b""
        try:
            self._start(us, owner, become)
        except OSError as problem:
            self._send(_ENDED, problem.errno or errno.EIO)
            os._exit(1)

    def _start(self, us: int, owner: int, become: Callable[[int], NoReturn]) -> None:
        os.setsid()
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        termios.tcsetattr(self._slave, termios.TCSANOW, self._attributes)
        self._resize()
        with contextlib.suppress(OSError):
            os.fchown(self._slave, owner, -1)
        between = os.getpid()
        begun, begun_end = os.pipe()
        self._command = os.fork()
        if not self._command:
            try:
                signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.setpgid(0, 0)  # else it would be stopped by nothing: nobody of its session waits for our group
                os.tcsetpgrp(self._slave, os.getpid())
                signal.signal(signal.SIGTTOU, signal.SIG_DFL)
                for fd in range(3):
                    if os.isatty(fd):
                        os.dup2(self._slave, fd)
                os.closerange(begun, begun_end + 1)
                become(between)
            finally:
                os._exit(125)
        os.close(begun_end)
        os.read(begun, 1)  # until it is in the foreground
        os.close(begun)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        os.set_blocking(self._master, False)
        kept = {self._ours, self._master, self._slave, self._woken, wake, self._channel.fileno()}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        self._us = ProcDirectory(f"/proc/{us}")
        self._send(_STARTED, self._command)

    def _send(self, kind: bytes, number: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(_MESSAGE.pack(kind, number))

    def relay(self) -> NoReturn:
        """Until we end. The command gets a hangup then, from the kernel, because its session's leader ends."""
        try:
            while True:
                self._look_after_ours()
                self._wait_and_move()
        except EOFError:
            pass
        finally:
            self._put_back()
            if not self._has_begun and not self._is_over:  # it is reaped then, and its number another's
                with contextlib.suppress(OSError):
                    os.kill(self._command, signal.SIGKILL)
            os._exit(0)

    def _look_after_ours(self) -> None:
        """Takes the keys where they are ours to take, and gives them back where they are not any more."""
        wants = self._has_begun and self._reads_keys and not (self._is_over or self._is_stopped)
        if wants and self._is_in_foreground():
            if not self._is_raw:
                try:
                    self._attributes = termios.tcgetattr(self._ours)
                    termios.tcsetattr(self._ours, termios.TCSADRAIN, _raw(self._attributes))
                    self._is_raw = True
                except termios.error:
                    self._hang_up()
        elif self._is_raw:
            self._put_back()

    def _is_in_foreground(self) -> bool:
        """Whether we are in the foreground of our terminal, and not stopped."""
        try:
            fields = self._us.read("stat").rpartition(b")")[2].split()
        except ProcError:
            return False
        return fields[_STATE] not in b"Tt" and fields[_FOREGROUND_GROUP] in {fields[_GROUP], _NO_TERMINAL}

    def _put_back(self) -> None:
        """Leaves alone what somebody else has set meanwhile."""
        with contextlib.suppress(OSError, termios.error):
            if self._is_raw and _is_raw_of(self._ours, self._attributes):
                termios.tcsetattr(self._ours, termios.TCSADRAIN, self._attributes)
        self._is_raw = False

    def _wait_and_move(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        poll.register(self._master, select.POLLIN | (select.POLLOUT if self._typed else 0))
        if self._is_raw and not self._typed:
            poll.register(self._ours, select.POLLIN)
        is_settled = self._is_over or self._is_stopped or not self._has_begun or not self._reads_keys
        ready = dict(poll.poll(None if is_settled else 1000 * _LOOK_SECONDS))
        if ready.get(self._master, 0) & select.POLLIN:
            self._show()
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, _CHUNK)
            self._note_state()
        if self._channel.fileno() in ready:
            self._obey()
        if self._ours in ready and self._is_in_foreground():
            with contextlib.suppress(OSError):
                self._typed = os.read(self._ours, _CHUNK)
            if not self._typed:
                self._hang_up()
        if self._typed:
            with contextlib.suppress(BlockingIOError):
                self._typed = self._typed[os.write(self._master, self._typed) :]

    def _show(self) -> bool:
        """What the command has written; says whether there was any."""
        try:
            data = memoryview(os.read(self._master, _CHUNK))
        except BlockingIOError:
            return False
        with contextlib.suppress(OSError):  # nobody is there to see it
            while data:
                data = data[os.write(self._ours, data) :]
        return True

    def _hang_up(self) -> None:
        """Our terminal has."""
        self._reads_keys = self._is_raw = False
        self._signal(signal.SIGHUP)

    def _note_state(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(self._command, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
                if not pid:
                    return
                if os.WIFSTOPPED(status):
                    self._is_stopped = True
                    self._put_back()
                    self._send(_STOPPED, os.WSTOPSIG(status))
                elif os.WIFCONTINUED(status):
                    self._is_stopped = False
                else:
                    while self._show():  # before the report
                        pass
                    self._is_over = True
                    self._put_back()
                    self._send(_ENDED, status)

    def _obey(self) -> None:
        data = self._channel.recv(_MESSAGE.size)
        if not data:
            raise EOFError
        kind, number = _MESSAGE.unpack(data)
        if kind == _RELEASED:
            self._has_begun = True
        elif kind == _RESIZED:
            self._resize()
        elif kind == _CONTINUE:
            self._resize()
            self._signal(signal.SIGCONT)
        elif kind == _SIGNAL:
            self._signal(number)

    def _signal(self, number: int) -> None:
        """To the foreground of the command's terminal, as that itself would."""
        if not self._is_over:
            with contextlib.suppress(OSError):
                os.killpg(os.tcgetpgrp(self._slave), number)

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(self._ours, termios.TIOCGWINSZ, bytes(8)))


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False
