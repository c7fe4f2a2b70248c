"""One tree of errors. Each knows its exit code and its remedy; `cli` prints them, and nothing else does."""

from __future__ import annotations

import errno
import os
import resource
import signal
from enum import IntEnum
from types import TracebackType


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
_NO_MEMORY_WORDS = (os.strerror(errno.ENOMEM), "failed to map segment", "cannot allocate memory")


def more_memory() -> str:
    """What mends a lack of memory."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return "ulimit -v unlimited"
    return "free some, or raise the memory limit of the container or service that this runs in"


def out_of_memory() -> NotAvailableError:
    """There is not enough for what was asked."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    may = "" if limit == resource.RLIM_INFINITY else f": this process may have {limit >> 20} MiB (ulimit -v)"
    return NotAvailableError(f"there is not enough memory for that{may}", more_memory())


def is_lack_of_memory(text: str) -> bool:
    """Whether that is what an error of a library says, in whatever words."""
    return any(words in text for words in _NO_MEMORY_WORDS)


def explain(problem: OSError | MemoryError | ImportError) -> NotAvailableError:
    """An error that nobody expected where it came from: what was being done, the file, the cause, what mends it."""
    if isinstance(problem, MemoryError) or is_lack_of_memory(str(problem)):
        return out_of_memory()
    if isinstance(problem, ImportError):
        return NotAvailableError(
            f"cannot load {problem.name or 'a library'}: {problem}", "install threadinfo anew, for this interpreter"
        )
    if problem.errno in {errno.EMFILE, errno.ENFILE}:
        return NotAvailableError(TOO_MANY_FILES, MORE_FILES)
    cause = problem.strerror or str(problem)
    file = f"{os.fsdecode(problem.filename)}: " if isinstance(problem.filename, str | bytes) else ""
    place = _own_place(problem.__traceback__)
    return NotAvailableError(f"{file}{cause} ({place})" if place else f"{file}{cause}", "threadinfo doctor")


def _own_place(trace: TracebackType | None) -> str:
    """Where in our code an error came from, innermost: MODULE.FUNCTION."""
    place = ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("threadinfo."):
            place = f"in {module.removeprefix('threadinfo.')}.{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return place


def came_from(problem: OSError) -> str:
    """The module of ours where an error came from, innermost."""
    return _own_place(problem.__traceback__).removeprefix("in ").rpartition(".")[0]
