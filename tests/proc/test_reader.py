"""The reader: gone, denied and malformed are three cases; text is kept; a process is one process."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MakeProc
from threadinfo.proc.reader import (
    ProcDeniedError,
    ProcDirectory,
    ProcError,
    ProcessMemory,
    ProcGoneError,
    ProcMalformedError,
    decode,
)
from threadinfo.proc.socket_tables import parse_address


@given(st.binary())
def test_decode_is_valid_unicode_and_keeps_every_byte(raw: bytes) -> None:
    encoded = decode(raw).encode()  # raises for a lone surrogate
    assert len(encoded) >= len(raw)
    assert encoded == raw or b"\\x" in encoded


def test_decode_bytes_that_are_not_utf8_stay_visible() -> None:
    assert decode(b"a\xff\xc3(b\xc3\xa9") == "a\\xff\\xc3(bé"


def test_numbers_are_numeric_and_ascending(make_proc: MakeProc) -> None:
    with ProcDirectory(str(make_proc({"10": None, "9": None, "self": None, "²": None}))) as proc:
        assert proc.numbers() == [9, 10]


def test_read_what_is_not_there_is_gone(make_proc: MakeProc) -> None:
    with ProcDirectory(str(make_proc({"7/stat": "x"}))) as proc:
        with pytest.raises(ProcGoneError, match="/7/comm: No such file"):
            proc.read("7/comm")
        with pytest.raises(ProcGoneError):
            proc.directory("8")


def test_read_what_is_denied_is_denied() -> None:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root is denied nothing; without its user id its capabilities are not effective
    try:
        with ProcDirectory("/proc") as proc, pytest.raises(ProcDeniedError):
            proc.read("1/environ")
    finally:
        os.seteuid(user)


def test_read_a_file_longer_than_one_chunk_is_whole(make_proc: MakeProc) -> None:
    text = "0123456789\n" * 100_000
    with ProcDirectory(str(make_proc({"7/maps": text}))) as proc:
        assert proc.read_text("7/maps") == text


def test_links_gives_targets_with_newlines_whole(make_proc: MakeProc) -> None:
    with ProcDirectory(str(make_proc({"7/fd/3": "->/a\nb", "7/fd/20": "->socket:[1]"}))) as proc:
        assert list(proc.links("7/fd")) == [(3, "/a\nb"), (20, "socket:[1]")]


def test_directory_of_an_ended_process_stays_gone() -> None:
    child = subprocess.Popen(["sleep", "100"])
    with ProcDirectory("/proc") as proc, proc.directory(str(child.pid)) as held:
        assert held.read("comm")
        child.kill()
        child.wait()
        with pytest.raises(ProcGoneError):
            held.read("comm")


def test_memory_reads_what_is_mapped_and_refuses_the_rest() -> None:
    import ctypes

    buffer = ctypes.create_string_buffer(b"seventeen letters", 17)
    with (
        ProcDirectory("/proc") as proc,
        proc.directory(str(os.getpid())) as own,
        ProcessMemory(own) as memory,
    ):
        assert memory.read(ctypes.addressof(buffer), 17) == b"seventeen letters"
        assert memory.read(0, 8) is None
        assert memory.read(2**64 - 1, 8) is None


def test_links_problem_is_given_and_the_rest_goes_on(make_proc: MakeProc) -> None:
    with ProcDirectory(str(make_proc({"7/fd/3": "not a link", "7/fd/4": "->/x"}))) as proc:
        (first, problem), (second, target) = proc.links("7/fd")
        assert (first, second, target) == (3, 4, "/x")
        assert isinstance(problem, ProcError)


@pytest.mark.parametrize("number", ["9" * 5000, "f" * 5000])
def test_a_number_that_no_kernel_writes_is_malformed(make_proc: MakeProc, number: str) -> None:
    """Python makes an integer of as many hexadecimal digits as there are, and then cannot print it."""
    with ProcDirectory(str(make_proc({"7/maps": f"0-{number} r-xp", "7/cmdline": number}))) as proc:
        with pytest.raises(ProcMalformedError, match=r"7/maps: holds a number"):
            proc.read("7/maps")
        assert proc.read("7/cmdline") == number.encode()


def test_an_address_that_no_kernel_writes_is_malformed(make_proc: MakeProc) -> None:
    root = str(make_proc({"7/net/tcp": "0: -100000000:0000"}))
    with ProcDirectory(root) as proc, pytest.raises(ProcMalformedError, match=r"7/net/tcp: not as proc\(5\)"):
        proc.parse("7/net/tcp", lambda text: parse_address(text.split()[1]))
