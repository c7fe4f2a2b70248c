"""fdinfo: the kernel's own text of descriptors that we make, and any text."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadinfo.proc import fdinfo
from threadinfo.proc.reader import MalformedLineError

KINDS = sorted(fdinfo._KINDS)


def details_of(fd: int, kind: str) -> dict[str, object]:
    """The details of one of our own descriptors, which is then closed."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    os.close(fd)
    return dict(fdinfo.parse_details(kind, text))


@given(kind=st.sampled_from(KINDS), text=st.text())
def test_parse_details_any_text_is_parsed_or_refused(kind: str, text: str) -> None:
    with pytest.raises(MalformedLineError):
        fdinfo.parse_details(kind, text)
    try:
        fdinfo.parse_details(kind, "pos:\t0\nflags:\t02\n" + text)
    except MalformedLineError:
        return


def test_parse_details_access_and_flags() -> None:
    details = details_of(os.open("/dev/null", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC), "device")
    assert details == {"access": "write", "close_on_exec": True, "append": True, "nonblocking": True}


def test_parse_details_path_only() -> None:
    assert details_of(os.open("/", os.O_PATH), "directory")["access"] == "path only"


def test_parse_details_eventfd_count_is_decimal() -> None:
    assert details_of(os.eventfd(255), "eventfd")["count"] == 255


def test_parse_details_epoll_names_what_it_watches() -> None:
    read, write = os.pipe()
    epoll = select.epoll()
    epoll.register(read, select.EPOLLIN | select.EPOLLET)
    details = details_of(os.dup(epoll.fileno()), "epoll")
    inode = os.fstat(read).st_ino
    epoll.close()
    os.close(read)
    os.close(write)
    assert details["watched"] == [{"fd": read, "events": "IN|ERR|HUP|ET", "inode": inode}]


def test_parse_details_signalfd_names_its_signals() -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    mask = ctypes.create_string_buffer(128)
    libc.sigemptyset(mask)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN + 2):
        libc.sigaddset(mask, number)
    assert details_of(libc.signalfd(-1, mask, 0), "signalfd")["signals"] == ["SIGUSR1", "SIGTERM", "SIGRTMIN+2"]


def test_parse_details_pidfd_of_this_process() -> None:
    details = details_of(os.pidfd_open(os.getpid()), "pidfd")
    assert (details["pid"], details["alive"]) == (os.getpid(), True)


def test_parse_details_pidfd_of_an_ended_process() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    fd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    details = details_of(fd, "pidfd")
    assert (details["pid"], details["alive"]) == (None, False)
