"""The section on traced sockets: what went the same way is told once."""

from __future__ import annotations

from collections.abc import Iterator

from tests.reports import event
from threadinfo.model import DescriptorEvent, SocketTrace
from threadinfo.render.text.fold import SHORT
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
    assert lines[2] == f"{EQUAL + 2} made, {2 * EQUAL + 4} events"
    assert [line for line in lines if "more like this" in line] == [f"  {EQUAL} more like this, until 11:59:59.123456"]
    assert sum(line.startswith("FD ") for line in lines) == 2
    assert sum("serve+0x7" in line for line in lines) == sum("other+0x7" in line for line in lines) == 1
