"""What is said on standard error. With `output`, the only place that writes."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from threadinfo.containment import DEBUG, REMEDY, faults
from threadinfo.errors import ThreadinfoError
from threadinfo.model import Confidence
from threadinfo.render.escape import printable


def print_error(problem: ThreadinfoError) -> None:
    """What was wrong, and what to do."""
    say(problem.message, *([f"  {problem.remedy}"] if problem.remedy else []))


def say(*lines: str) -> None:
    """To standard error."""
    click.echo(printable(lines), err=True, nl=False)


def say_losses(confidence: Confidence) -> None:
    """What is missing of a trace, if anything."""
    if confidence.lost_count:
        words = "records were lost: lines are missing; counts and the ledger are whole"
        say(f"{confidence.lost_count} {words}")
    if confidence.omitted_line_count:
        say(f"{confidence.omitted_line_count} lines were left out: the reader was slow")


def say_waiting(name: str) -> Callable[[], None]:
    """What says that a process is waited for."""
    return lambda: say(f"waiting for {name} to start")


def say_what_is_logged() -> None:
    """To standard error, for who asked for words: what went another way than usual, and lost nothing."""
    import logging  # noqa: PLC0415 - takes time, and most reports need none

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(self.format(record))

    logger = logging.getLogger("threadinfo")
    logger.addHandler(Handler())
    logger.setLevel(logging.INFO)


def say_faults() -> bool:
    """Says once, in one line, what is missing for a fault of ours; whether there was any."""
    if not faults:
        return False
    told, faults[:] = faults[:], []
    if os.environ.get(DEBUG):
        import traceback  # noqa: PLC0415

        for fault in told:
            lines = "".join(traceback.format_exception(type(fault.error), fault.error, fault.error.__traceback__))
            say(*lines.splitlines())
    words = "; ".join(f"{fault.section}, {fault.words()}" for fault in told)
    say(f"missing for a fault of threadinfo itself: {words}; {REMEDY}")
    return True
