"""A fault of ours costs the section that was being made, and nothing else.

What we foresee has errors of its own (errors.py, proc/reader.py). Everything else that fails is a mistake of this
program, often brought out by what a target made: the stage in which it happens is left out, with a gap that says so,
and the others go on. `contained` stands where stages meet, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

from threadinfo.errors import ThreadinfoError
from threadinfo.model import Gap

DEBUG = "THREADINFO_DEBUG"
"""The variable of the environment that adds the traceback, on standard error."""
REMEDY = f"please report it, with what {DEBUG}=1 adds on standard error"
_PACKAGE = os.path.dirname(__file__) + os.sep
_MOST_FAULTS = 20

T = TypeVar("T")


class Fault(NamedTuple):
    """Something of ours that failed."""

    section: str
    error: BaseException

    def words(self) -> str:
        """``KeyError: 2003 (trace/descriptors/tracer.py, line 203)``: the place is the innermost of ours."""
        import traceback  # noqa: PLC0415 - where nothing fails nobody needs it

        what = "".join(traceback.format_exception_only(type(self.error), self.error)).strip().partition("\n")[0]
        ours = [
            f" ({frame.filename.removeprefix(_PACKAGE)}, line {frame.lineno})"
            for frame in traceback.extract_tb(self.error.__traceback__)
            if frame.filename.startswith(_PACKAGE) and frame.filename != __file__
        ]
        return what + "".join(ours[-1:])

    def gap(self) -> Gap:
        """For the report."""
        return Gap(self.section, f"a fault of threadinfo itself: {self.words()}", REMEDY)


faults: list[Fault] = []
"""Of this run, each once: the command's exit status and its last line tell of them."""


def note_fault(section: str, error: BaseException, gaps: list[Gap] | None = None) -> None:
    """Remembers a fault, and adds its gap to those of the report."""
    fault = Fault(section, error)
    gap = fault.gap()
    if gaps is not None and gap not in gaps:
        gaps.append(gap)
    if len(faults) < _MOST_FAULTS and gap not in [known.gap() for known in faults]:  # a tick's comes with every tick
        faults.append(fault)


@contextlib.contextmanager
def contained(section: str, gaps: list[Gap] | None = None, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Leaves out what fails within, for a fault of ours: that becomes one of `gaps`, and one of `faults`.

    What is foreseen goes on its way: our own errors, those of `but`, and whatever is no Exception, Ctrl-C for one.
    """
    foreseen: tuple[type[Exception], ...] = (ThreadinfoError, *but)
    try:
        yield
    except foreseen:
        raise
    except Exception as error:  # what a mistake raises is not known before it is found
        note_fault(section, error, gaps)


@contextlib.contextmanager
def detached(tracer: AbstractContextManager[T], gaps: list[Gap] | None = None) -> Iterator[T]:
    """Leaves a tracer at the end as its own `with` would; a fault of that costs nothing of what it saw.

    What it left attached the kernel detaches when this process ends.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_detach, tracer, gaps)
        yield tracer.__enter__()


def _detach(tracer: AbstractContextManager[object], gaps: list[Gap] | None) -> None:
    with contained("detaching", gaps):
        tracer.__exit__(None, None, None)
