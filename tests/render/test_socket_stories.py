"""The section on traced sockets: what went the same way is told once."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tests.reports import event
from threadinfo.model import DescriptorEvent, SocketTrace
from threadinfo.render.text.fold import SHORT, WHOLE
from threadinfo.render.text.sockets import render_sockets

EQUAL = 97


def connection(number: int, function: str = "serve") -> Iterator[DescriptorEvent]:
    """Accepted by a function, and closed."""
    common = {"fd": 9 + number % 3, "inode": 1000 + number, "at_ns": number}
    stack = (f"{function}+0x7 (server)", "main+0x9 (server)")
    yield event("accept", syscall="accept4", family="AF_INET", source_fd=3, stack=stack, **common)
    yield event("close", syscall="close", lifetime_ns=1000 + number, **common)


def test_equal_stories_are_folded_and_others_are_not() -> None:
    events = [one for number in range(EQUAL + 1) for one in connection(number)]
    events += connection(EQUAL + 1, "other")
    lines = render_sockets(SocketTrace(events=tuple(events), omitted_count=0), SHORT)
    assert lines[2] == f"{EQUAL + 2} made, {2 * EQUAL + 4} events told"
    assert [line for line in lines if "more like this" in line] == [f"  {EQUAL} more like this, until 11:59:59.123456"]
    assert sum(line.startswith("FD ") for line in lines) == 2
    assert sum("serve+0x7" in line for line in lines) == sum("other+0x7" in line for line in lines) == 1


def test_what_is_open_comes_first_then_what_failed_then_what_lived_longest() -> None:
    def story(fd: int, remote: str, error: str | None, lived_ns: int) -> list[DescriptorEvent]:
        common = {"fd": fd, "inode": fd}
        return [
            event("socket", syscall="socket", family="AF_UNIX", at_ns=1, **common),
            event("connect", syscall="connect", remote=remote, error=error, at_ns=2, **common),
            event("close", syscall="close", at_ns=lived_ns, lifetime_ns=lived_ns, **common),
        ]

    events = [
        *story(11, "/var/run/nscd/socket", "ENOENT", 10),
        *story(13, "/run/short", None, 1000),
        *story(17, "/run/long", None, 2000),
        *story(19, "/run/refused", "ECONNREFUSED", 10),
        *story(23, "/run/kept", None, 10)[:2],
        *(event("close", syscall="close", fd=fd, at_ns=1) for fd in (29, 31, 37)),  # older than the trace
    ]
    lines = render_sockets(SocketTrace(events=tuple(events), omitted_count=0), WHOLE)
    assert [line.split()[1] for line in lines if line.startswith("FD ")] == ["23", "19", "17", "11"]
    assert lines.count("  1 more like this, until 11:59:59.123456") == 1  # 13 went as 17 did
    assert "3 that are older than the trace were closed" in lines
    short = render_sockets(SocketTrace(events=tuple(events), omitted_count=0), SHORT)
    assert [line.split()[1] for line in short if line.startswith("FD ")] == ["23", "19", "17"]
    assert f"1 other socket; -v shows more, and the JSON report has {len(events)} events" in short


def test_a_stack_that_was_not_known_yet_does_not_tell_equal_stories_apart() -> None:
    events = [one for number in range(5) for one in connection(number)]
    events[4] = msgspec.structs.replace(events[4], stack=(), maker=None)
    lines = render_sockets(SocketTrace(events=tuple(events), omitted_count=0), SHORT)
    assert sum(line.startswith("FD ") for line in lines) == 1
    assert sum("4 more like this" in line for line in lines) == 1


def test_of_each_thread_one_comes_before_the_second_of_another() -> None:
    events = [one for number, function in enumerate("abcde") for one in connection(number, function)]
    failed = event("connect", syscall="connect", error="ECONNREFUSED", fd=31, inode=31, at_ns=50, thread_name="client")
    lines = render_sockets(SocketTrace(events=(*events, failed), omitted_count=0), SHORT)
    told = [line for line in lines if line.startswith("FD ")]
    assert len(told) == 3
    assert any("31" in line for line in told[:2])
