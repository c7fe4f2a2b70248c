"""Tracing tests run where BPF works; in CI they fail where it does not. Nothing may stay attached after any of them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_BPF_PROG_GET_NEXT_ID = 11


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


def assert_detached(before: set[int]) -> None:
    """Nothing more is loaded than before; the kernel frees a program a moment after its last descriptor was closed."""
    deadline = time.monotonic() + 5
    while extra := loaded_programs() - before:
        assert time.monotonic() < deadline, f"still loaded: {extra}"


def why_not() -> str | None:
    """What keeps tracing from working here; None where it works."""
    from threadinfo.trace.doctor import examine

    missing = [check for check in examine() if check.state == "missing" and check.is_required]
    return f"{missing[0].name}: {missing[0].found}" if missing else None


@pytest.fixture
def bpf() -> Iterator[None]:
    """Needs BPF, and asserts that nothing stays attached."""
    if (reason := why_not()) is not None:
        if os.environ.get("CI"):
            pytest.fail(f"BPF must work in CI: {reason}")
        pytest.skip(reason)
    with (Path(tempfile.gettempdir()) / "threadinfo-bpf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel's list is the machine's: tests of another checkout would be in it
        before = loaded_programs()
        yield
        assert_detached(before)
