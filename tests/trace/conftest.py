"""Tracing tests run where BPF works; in CI they fail where it does not. Nothing may stay attached after any of them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import is_of_these_tests

_BPF_PROG_GET_NEXT_ID = 11
_PROGRAM_ID = re.compile(r"^prog_id:\s*(\d+)$", re.MULTILINE)
_POLL = {"7", "271", "73"}  # poll and ppoll on x86-64, ppoll on aarch64
_FREED_SECONDS, _LOOK_SECONDS = 5.0, 0.01


def loaded_programs() -> set[int]:
    """The ids of all BPF programs in the kernel, from its own list (bpf(2))."""
    libc, identifier = ctypes.CDLL(None), 0
    found: set[int] = set()
    number = {"x86_64": 321}.get(platform.machine(), 280)
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("=II", identifier, 0), 128)
        if libc.syscall(number, _BPF_PROG_GET_NEXT_ID, attributes, len(attributes)):
            return found
        identifier = struct.unpack_from("=I", attributes, 4)[0]
        found.add(identifier)


def programs_of(pid: int | str) -> set[int]:
    """The ids of the BPF programs that a process holds, itself or by their links."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if "bpf" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                found |= {int(number) for number in _PROGRAM_ID.findall(Path(f"/proc/{pid}/fdinfo/{fd}").read_text())}
    return found


def programs_of_others() -> set[int]:
    """Those that processes hold which these tests did not start: other tracers, other checkouts' tests."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            programs = programs_of(pid)
            if programs and not is_of_these_tests(pid):
                found |= programs
    return found


def assert_gone(programs: set[int]) -> None:
    """None of these is loaded any more; the kernel frees one a moment after its last descriptor was closed."""
    deadline = time.monotonic() + _FREED_SECONDS
    while left := programs & loaded_programs():
        assert time.monotonic() < deadline, f"still loaded: {left}"
        time.sleep(_LOOK_SECONDS)


def assert_nothing_left(before: set[int]) -> None:
    """Nothing more is loaded than before, but what others hold."""
    left = loaded_programs() - before
    deadline = time.monotonic() + _FREED_SECONDS
    while left := (left & loaded_programs()) - programs_of_others():
        assert time.monotonic() < deadline, f"still loaded: {left}"
        time.sleep(_LOOK_SECONDS)


def wait_until_it_traces(tool: subprocess.Popen[Any], pid: int | None = None) -> None:
    """Until everything is attached and read, and it waits for its targets and Ctrl-C: in poll(2), of two or more.

    `pid`: the tool's, where it is a child of what was started.
    """
    while True:
        assert tool.poll() is None, tool.stderr.read() if tool.stderr else ""
        number, *arguments = Path(f"/proc/{pid or tool.pid}/syscall").read_text().split()
        if number in _POLL and int(arguments[1], 16) >= 2:
            return
        time.sleep(_LOOK_SECONDS)


def why_not() -> str | None:
    """What keeps tracing from working here; None where it works."""
    from threadinfo.trace.kernel.doctor import examine

    missing = [check for check in examine() if check.state == "missing" and check.is_required]
    return f"{missing[0].name}: {missing[0].found}" if missing else None


@pytest.fixture
def bpf() -> Iterator[None]:
    """Needs BPF, and asserts that nothing stays attached."""
    if (reason := why_not()) is not None:
        if os.environ.get("CI"):
            pytest.fail(f"BPF must work in CI: {reason}")
        pytest.skip(reason)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # of each checkout's workers one traces, with this number
    with (Path(tempfile.gettempdir()) / f"threadinfo-bpf-{worker}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests of many checkouts at once would be a storm for each other
        before = loaded_programs()
        yield
        assert_nothing_left(before)
