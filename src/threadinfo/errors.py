"""One tree of errors. Each knows its exit code and its remedy; `cli` prints them, and nothing else does."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command's exit status means (docs/threadinfo.1, EXIT STATUS)."""

    OK = 0
    NOT_FOUND = 1
    USAGE = 2
    UNAVAILABLE = 3
    TARGET_ENDED = 4
    INTERRUPTED = 130


ENDING_SIGNALS = (
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTERM),
    *(signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF, signal.SIGPOLL, signal.SIGPWR),
)
"""Those that end a program unless it catches them, and tell of no fault in it (signal(7)); SIGINT is the user's."""


class ThreadinfoError(Exception):
    """Something that stops a command: what was wrong (the message), and the remedy, where one is known."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ProcessNotFoundError(ThreadinfoError):
    """No process has this PID or this name."""

    exit_code = ExitCode.NOT_FOUND


class TargetEndedError(ThreadinfoError):
    """The process ended before anything of it could be read."""

    exit_code = ExitCode.TARGET_ENDED


class NotAvailableError(ThreadinfoError):
    """This host, or this user's privileges, do not allow what was asked for."""


class BadInputError(ThreadinfoError):
    """A file or value that the user named cannot be used."""

    exit_code = ExitCode.USAGE


class CommandError(ThreadinfoError):
    """A command could not be started under our eyes."""

    def __init__(self, message: str, remedy: str | None, status: int) -> None:
        super().__init__(message, remedy)
        self.status = status
        """The exit status that says so: 127 not found, 126 not executable, 125 a failure of ours."""


class OutputError(ThreadinfoError):
    """The result could not be written where the user wanted it."""


TOO_MANY_FILES = "this process may not open so many files as that takes"
MORE_FILES = "ulimit -n 1024"
