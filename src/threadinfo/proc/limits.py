"""Resource limits: proc_pid_limits(5)."""

from __future__ import annotations

from threadinfo.model import Limits, OpenFilesLimit
from threadinfo.proc.reader import MalformedLineError, ProcDirectory

_OPEN_FILES = "Max open files"


def parse_limits(text: str) -> Limits:
    """Parses /proc/PID/limits; "unlimited" is None; raises MalformedLineError."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_OPEN_FILES):
            try:
                soft, hard = line[len(_OPEN_FILES) :].split()[:2]
                return Limits(OpenFilesLimit(_parse_limit(soft), _parse_limit(hard)))
            except ValueError:
                raise MalformedLineError(number, line) from None
    raise MalformedLineError(1, f"no {_OPEN_FILES!r} line")


def _parse_limit(word: str) -> int | None:
    return None if word == "unlimited" else int(word)


def read_limits(process: ProcDirectory) -> Limits:
    """/proc/PID/limits."""
    return process.parse("limits", parse_limits)
