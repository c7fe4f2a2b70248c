"""The process of the command, from its beginning to its end; errors become messages and exit codes here alone."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import NoReturn

import click

from threadinfo.cli import doctor, report, run, show, top, trace, tracing
from threadinfo.cli.group import cli
from threadinfo.cli.say import print_error, say, say_faults
from threadinfo.containment import contained
from threadinfo.errors import (
    ENDING_SIGNALS,
    ExitCode,
    NotAvailableError,
    OutputError,
    ThreadinfoError,
    came_from,
    explain,
)
from threadinfo.proc.reader import ProcError

COMMANDS = (report, trace, run, top, doctor, show)
"""Each adds its command when it is imported."""
_AGAIN_SECONDS = 0.02  # until a signal that was lost is sent again


def main() -> NoReturn:
    """Runs the command, and ends the process."""
    try:
        _main()
    except SystemExit as end:
        if top.leaves_thread:  # it may be in the compiler, and exit(3) takes that away under it: a crash
            os._exit(end.code if isinstance(end.code, int) else ExitCode.OK)
        raise


def _main() -> NoReturn:
    """The only place that turns errors into messages and exit codes."""
    tracing.owns_process = True
    _fill_standard_descriptors()
    for number in ENDING_SIGNALS:  # what is attached or half-written is put away on these too
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.unraisablehook = _send_again
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    try:
        status: int | str | None = ExitCode.OK
        try:
            with contained("the command", but=(ProcError, OSError, click.ClickException, click.Abort)):
                cli.main(standalone_mode=False)
        except SystemExit as end:
            status = end.code
        is_whole = not say_faults()
        sys.exit(status if is_whole or status not in {ExitCode.OK, ExitCode.INTERRUPTED} else ExitCode.UNAVAILABLE)
    except ThreadinfoError as problem:
        print_error(problem)
        sys.exit(problem.exit_code)
    except ProcError as problem:  # where no part of the report could be left out for it
        print_error(NotAvailableError(f"cannot read {problem}"))
        sys.exit(ExitCode.UNAVAILABLE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    except (OSError, MemoryError, ImportError) as problem:
        explained: ThreadinfoError = explain(problem)
        if isinstance(problem, OSError) and problem.filename is None and came_from(problem) == "cli.main":
            explained = OutputError(f"cannot write to standard output: {problem.strerror}")  # --help to a full disk
        print_error(explained)
        sys.exit(ExitCode.UNAVAILABLE)
    except click.ClickException as problem:
        words = io.StringIO()
        problem.show(words)
        say(*words.getvalue().removesuffix("\n").split("\n"))
        sys.exit(problem.exit_code)
    finally:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left that a late Ctrl-C could interrupt in order
        say_faults()
        _flush_or_drop()


def _fill_standard_descriptors() -> None:
    """Where 0, 1 or 2 is closed, the next file that is opened would take its number, and be written to as that."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _send_again(ignored: sys.UnraisableHookArgs) -> None:
    """A signal that comes while Python calls back (the import of a module ends with one) would end nothing."""
    problem = ignored.exc_value
    number: int | None = None
    if isinstance(problem, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(problem, SystemExit) and isinstance(problem.code, int) and problem.code > 128:
        number = problem.code - 128
    if number is None:
        sys.__unraisablehook__(ignored)
    else:
        import threading  # noqa: PLC0415

        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()


def _flush_or_drop() -> None:
    """Python flushes once more at its end, and would print a traceback where the reader of a pipe has left."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
