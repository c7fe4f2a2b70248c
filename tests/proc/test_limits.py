"""/proc/PID/limits."""

from __future__ import annotations

import os
import resource

import pytest

from tests import miniature
from threadinfo.proc.limits import parse_limits, read_limits
from threadinfo.proc.reader import MalformedLineError, ProcDirectory


def test_parse_limits_numbers() -> None:
    limit = parse_limits(miniature.LIMITS).open_files
    assert (limit.soft, limit.hard) == (524288, 524288)


def test_parse_limits_unlimited_is_none() -> None:
    assert parse_limits("Max open files  7  unlimited  files\n").open_files.hard is None


@pytest.mark.parametrize("text", ["", "Max cpu time 1 2 s\n", "Max open files few many files\n", "Max open files"])
def test_parse_limits_malformed_is_refused(text: str) -> None:
    with pytest.raises(MalformedLineError):
        parse_limits(text)


def test_read_limits_of_this_process_agrees_with_getrlimit() -> None:
    with ProcDirectory("/proc") as proc, proc.directory(str(os.getpid())) as own:
        limit = read_limits(own).open_files
        assert (limit.soft, limit.hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
