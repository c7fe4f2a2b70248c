"""Starts a command that is to be traced from its first instruction, and passes on what is meant for it.

The command is a child that waits for a signal before exec, with everything as we found it: arguments, environment,
working directory, descriptors, terminal, process group, limits; what Python changed of signals and of the locale is put
back. When the tracers are attached it goes on. No descriptor of ours reaches it, nor is one closed by its exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import pwd
import shutil
import signal
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, NoReturn

from threadinfo.collect.own_terminal import OwnTerminal, find_terminal
from threadinfo.errors import ENDING_SIGNALS, BadInputError, CommandError

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as in a shell
_PASSED_ON = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    *(signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT),
)
_ENDING = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP}
_SENT_BY_PROCESS = 0  # SI_USER
_SENT_BY_KERNEL = 0x80  # include/uapi/asm-generic/siginfo.h, SI_KERNEL: the terminal, to the whole foreground group
_RELEASE = signal.SIGRTMIN  # not SIGCONT: a shell sends that to a job that it puts into the foreground again
_LOOK_FOR_PARENT_SECONDS = 1.0
_OWN_TERMINAL_REMEDY = "mount -t devpts devpts /dev/pts; or without a terminal: setsid -w threadinfo run ... </dev/null"
_CHANGED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_SHELL = "/bin/sh"
_SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT_FOR_OTHERS = frozenset({"TERM", "COLORTERM", "LANG", "LANGUAGE"})  # and LC_*: sudoers(5), env_check
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_PAGE, _WISH = struct.Struct("=ii"), struct.Struct("=i")
"""What the child shares with us: the errno of an exec that failed, and how far it came; then what we want of it, for
where it is another user's and we may not signal it (CAP_KILL)."""
_SETS_UP, _WAITS, _BEGINS = range(3)
_IS_TO_WAIT, _IS_TO_BEGIN, _IS_TO_END = range(3)


class Account(NamedTuple):
    """Whose rights a command gets, and how."""

    user: str | None = None
    """None: ours."""
    preserves_environment: bool = False
    """Another user's command gets our environment, but for HOME, SHELL, USER and LOGNAME."""
    no_new_privileges: bool = False
    """Nothing that it executes gives it more rights (PR_SET_NO_NEW_PRIVS)."""


class Command:
    """A child that waits for `release`. A context manager: what was never released is killed.

    Within it signals are kept for `pass_signals_on`. Enter it before any thread begins (importing NumPy starts some):
    one that does not keep them would take them.
    """

    def __init__(self, arguments: Sequence[str], account: Account = Account()) -> None:  # noqa: B008 - it is frozen
        """Raises CommandError where it cannot be started at all, BadInputError for a user that there is not."""
        self.arguments = tuple(arguments)
        user = _find_user(account.user)
        if user is None:
            _check(arguments[0])
        self._status: int | None = None
        self._is_released = self._is_stopped = self._has_just_stopped = self._is_asked_to_stop = False
        self.is_asked_to_end = False
        """Whether a signal came when the command had ended, and its children had not."""
        self._page = mmap.mmap(-1, mmap.PAGESIZE)  # shared: tells why exec failed, and is gone once it has not
        prctl = ctypes.CDLL(None).prctl if account.no_new_privileges else None  # found now, not after the fork
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [_RELEASE])
        ready, ready_end = os.pipe2(os.O_CLOEXEC)

        def become(parent: int) -> NoReturn:
            os.close(ready)
            _become(self.arguments, user, account, self._page, parent, mask, prctl)

        self._terminal: OwnTerminal | None = None
        if user is not None and (terminal := find_terminal()) is not None:
            try:
                self._terminal = OwnTerminal(terminal, user.pw_uid, become)
            except OSError as problem:
                raise CommandError(f"cannot give the command {problem.strerror}", _OWN_TERMINAL_REMEDY, 125) from None
            self.pid = self._terminal.pid
        else:
            parent = os.getpid()
            self.pid = os.fork()
            if not self.pid:
                become(parent)
        self._pidfd = os.pidfd_open(self.pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(ready_end)
        os.read(ready, 1)  # until it has closed all of ours, or has ended
        os.close(ready)
        if _PAGE.unpack_from(self._page)[1] == _SETS_UP:
            try:
                self.wait()  # raises, with the reason
            finally:
                self._let_go()

    def __enter__(self) -> Command:
        numbers = {number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self._kept = numbers - self._mask
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_released and self._status is None:
            self._wish(_IS_TO_END)
            self._send(signal.SIGKILL)
            self._wait()
        self._let_go()
        while self._kept and signal.sigtimedwait(self._kept, 0):
            pass  # the command has ended: they come too late for it, and are not meant for us
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _let_go(self) -> None:
        os.close(self._pidfd)
        if self._terminal is not None:
            self._terminal.close()

    def release(self) -> None:
        """Lets it begin."""
        self._is_released = True
        if self._terminal is not None:
            self._terminal.begin()
        self._wish(_IS_TO_BEGIN)
        self._send(_RELEASE)

    def _wish(self, what: int) -> None:
        _WISH.pack_into(self._page, _PAGE.size, what)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _wait(self) -> int:
        """Its wait status."""
        if self._terminal is None:
            return os.waitpid(self.pid, 0)[1]
        return self._terminal.status(waits=True) or 0

    def wait(self) -> int:
        """The exit status as a shell has it: 128 and the number for a signal.

        Raises CommandError where exec failed, or where a signal came before it.
        """
        if self._status is None:
            code = os.waitstatus_to_exitcode(self._wait())
            self._status = code if code >= 0 else 128 - code
        problem, progress = _PAGE.unpack_from(self._page)
        if problem:
            raise _explain(self.arguments[0], problem)
        if progress != _BEGINS:
            raise CommandError(f"{self.arguments[0]} was ended before it began", None, self._status)
        return self._status

    def pass_signals_on(self) -> None:
        """What was sent to us alone reaches the command, and where it stops we do, so that the shell takes over."""
        while self._kept and (sent := signal.sigtimedwait(self._kept, 0)) is not None:
            self._note_state()
            if sent.si_pid == os.getpid() and sent.si_code == _SENT_BY_PROCESS:
                continue  # to our whole group, below
            self._is_asked_to_stop |= sent.si_signo == signal.SIGTSTP
            if sent.si_signo in _ENDING and self._has_ended():  # what goes on are its children, and we
                self.is_asked_to_end = True
                continue
            is_terminals = sent.si_code == _SENT_BY_KERNEL
            if self._terminal is not None and (is_terminals or sent.si_signo in {signal.SIGCONT, signal.SIGWINCH}):
                self._terminal.pass_on(sent.si_signo)
                continue
            is_told = is_terminals or sent.si_pid == self.pid
            if not is_told and (sent.si_signo != signal.SIGCONT or self._is_stopped):
                self._send(sent.si_signo)
        self._note_state()
        if self._has_just_stopped:
            self._has_just_stopped = False
            if self._is_asked_to_stop or _is_in_foreground():
                self._is_asked_to_stop = False
                if self._terminal is not None:  # ours stopped nobody of our job
                    os.killpg(0, signal.SIGTSTP)
                os.kill(os.getpid(), signal.SIGSTOP)

    def _has_ended(self) -> bool:
        if self._terminal is not None:
            return self._terminal.status() is not None
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _note_state(self) -> None:
        """Learns whether the command is stopped."""
        if self._terminal is not None:
            self._terminal.status()
            self._has_just_stopped, self._terminal.has_stopped = self._terminal.has_stopped, False
            return
        with contextlib.suppress(ChildProcessError):  # it has ended
            while (change := os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)) is not None:
                self._has_just_stopped = self._is_stopped = change.si_code == os.CLD_STOPPED


def _find_user(user: str | None) -> pwd.struct_passwd | None:
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
        is_there = name and any(os.path.isfile(os.path.join(directory, name)) for directory in os.get_exec_path())
        raise _explain(name, errno.EACCES if is_there else errno.ENOENT)


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


def _become(
    arguments: tuple[str, ...],
    user: pwd.struct_passwd | None,
    account: Account,
    page: mmap.mmap,
    parent: int,
    mask: set[int | signal.Signals],
    prctl: Callable[..., int] | None,
) -> NoReturn:
    """In the child: waits, and executes the command when it is released."""
    try:
        for number in {*_PASSED_ON, *ENDING_SIGNALS}:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        for number in _CHANGED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        environment = _own_environment()
        if user is not None:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            environment = _environment_of(user, environment, is_kept=account.preserves_environment)
        if prctl is not None and prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(errno.EINVAL, "PR_SET_NO_NEW_PRIVS")
        _PAGE.pack_into(page, 0, 0, _WAITS)
        _close(even_inheritable=user is not None)
        while signal.sigtimedwait([_RELEASE], _LOOK_FOR_PARENT_SECONDS) is None:
            (wish,) = _WISH.unpack_from(page, _PAGE.size)
            if wish == _IS_TO_BEGIN:
                break
            if wish == _IS_TO_END or os.getppid() != parent:  # it was killed: nobody would ever let this one begin
                os._exit(125)
        _PAGE.pack_into(page, 0, 0, _BEGINS)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _execute(arguments, environment)
    except OSError as failure:
        _PAGE.pack_into(page, 0, failure.errno or errno.EIO, _BEGINS)
    finally:
        os._exit(125)


def _own_environment() -> dict[str, str]:
    """As we were given it: Python sets LC_CTYPE where the locale is C (PEP 538), which programs would take for ours."""
    environment = dict(os.environ)
    if "LC_CTYPE" in environment:
        with open("/proc/self/environ", "rb") as file:  # the memory that exec filled, which nothing changes
            given = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
        if (value := given.get(b"LC_CTYPE")) is None:
            del environment["LC_CTYPE"]
        else:
            environment["LC_CTYPE"] = os.fsdecode(value)
    return environment


def _environment_of(user: pwd.struct_passwd, ours: dict[str, str], *, is_kept: bool) -> dict[str, str]:
    """Of another user's command; `is_kept`: with all that is in ours."""
    if not is_kept:
        ours = {"PATH": _SAFE_PATH} | {
            key: value
            for key, value in ours.items()
            if (key in _KEPT_FOR_OTHERS or key.startswith("LC_")) and not set(value) & set("/%")
        }
    return ours | {
        "HOME": user.pw_dir,
        "SHELL": user.pw_shell or _SHELL,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
    }


def _close(*, even_inheritable: bool) -> None:
    """What exec would close, or its end would be counted as the command's; of another user's everything else, too."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and (even_inheritable or not os.get_inheritable(int(name))):
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
