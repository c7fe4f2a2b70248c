"""Starts a command that is to be traced from its first instruction, and passes on what is meant for it.

The command is a child that stops itself before exec, with everything as we found it: arguments, environment, working
directory, descriptors, terminal, process group, limits, and what Python changed of signals put back. When the tracers
are attached it goes on. No descriptor of ours reaches it, nor is one closed by its exec.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import pwd
import shutil
import signal
import struct
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType

from threadinfo.errors import BadInputError, CommandError

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as in a shell
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (*_FROM_THE_TERMINAL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_CHANGED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_SHELL = "/bin/sh"


class Command:
    """A child that waits for `release`. A context manager: what was never released is killed."""

    def __init__(self, arguments: Sequence[str], user: str | None = None) -> None:
        """Raises CommandError where it cannot be started at all, BadInputError for a user that there is not."""
        self.arguments = tuple(arguments)
        account = _find_account(user)
        if account is None:
            _check(arguments[0])
        self._is_released = False
        self._problem = mmap.mmap(-1, mmap.PAGESIZE)  # shared: tells why exec failed, and is gone once it has not
        self.pid = os.fork()
        if not self.pid:
            _become(self.arguments, account, self._problem)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._is_released = True
            raise self._error() or CommandError(f"{arguments[0]} ended before it began", None, 125)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_released:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def release(self) -> None:
        """Lets it begin."""
        self._is_released = True
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> int:
        """The exit status as a shell has it: 128 and the number for a signal. Raises CommandError if exec failed."""
        _, status = os.waitpid(self.pid, 0)
        if (problem := self._error()) is not None:
            raise problem
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _error(self) -> CommandError | None:
        (number,) = struct.unpack_from("=i", self._problem)
        return _explain(self.arguments[0], number) if number else None

    @contextlib.contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        """Signals that are sent to us reach the command; those of the terminal reach it without us."""
        before = {number: signal.getsignal(number) for number in _PASSED_ON}
        try:
            for number, handler in before.items():
                if handler != signal.SIG_IGN:
                    signal.signal(number, self._pass_on)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if number in _FROM_THE_TERMINAL and _is_in_foreground():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _find_account(user: str | None) -> pwd.struct_passwd | None:
    if user is None:
        return None
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise BadInputError(f"there is no user {user!r}", "getent passwd lists them") from None
    if os.geteuid() != 0 and account.pw_uid != os.geteuid():
        raise CommandError(f"only root may start a command as {user}", "sudo", 125)
    return account


def _check(name: str) -> None:
    """Says at once what needs no tracing to be known."""
    if os.path.dirname(name):
        if not os.path.exists(name):
            raise _explain(name, errno.ENOENT)
        if os.path.isdir(name) or not os.access(name, os.X_OK):
            raise _explain(name, errno.EACCES)
    elif shutil.which(name) is None:
        raise _explain(name, errno.ENOENT)


def _explain(name: str, number: int) -> CommandError:
    if number == errno.ENOENT:
        remedy = None if os.path.exists(name) else "is it spelt right, and in a directory of PATH?"
        if remedy is None:
            remedy = "it is there: the interpreter or loader that it names is not"
        return CommandError(f"cannot run {name}: {os.strerror(number)}", remedy, _NOT_FOUND)
    return CommandError(f"cannot run {name}: {os.strerror(number)}", None, _NOT_EXECUTABLE)


def _is_in_foreground() -> bool:
    """Whether the terminal's signals reach our process group, and with it the command."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _become(arguments: tuple[str, ...], account: pwd.struct_passwd | None, problem: mmap.mmap) -> None:
    """In the child: stops, and executes the command when it is continued. Does not return."""
    try:
        for number in _PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        for number in _CHANGED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        environment = dict(os.environ)
        if account is not None:
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            environment |= {
                "HOME": account.pw_dir,
                "SHELL": account.pw_shell,
                "USER": account.pw_name,
                "LOGNAME": account.pw_name,
            }
        _close_what_exec_would()
        os.kill(os.getpid(), signal.SIGSTOP)
        _execute(arguments, environment)
    except OSError as failure:
        problem[:4] = struct.pack("=i", failure.errno or errno.EIO)
    finally:
        os._exit(125)


def _close_what_exec_would() -> None:
    """Or their ends would be counted as the command's."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and not os.get_inheritable(int(name)):
                os.close(int(name))


def _execute(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    """As execvp(3) does, with the shell for a script that names no interpreter."""
    try:
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606 - what the user asked for
    except OSError as failure:
        if failure.errno != errno.ENOEXEC:
            raise
        path = shutil.which(arguments[0]) or arguments[0]
        os.execve(_SHELL, [_SHELL, path, *arguments[1:]], environment)  # noqa: S606 - as above
