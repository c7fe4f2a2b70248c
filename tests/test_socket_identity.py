"""Which events are of one socket, where two threads' calls on one number were seen in the other order."""

from __future__ import annotations

import pytest

from tests.reports import event
from threadinfo.render.text.sockets import tell_stories


@pytest.mark.parametrize(
    ("lifetime_ns", "whose"),
    [
        (900, 0),  # closed at 1900: it began at 1000, as the first did
        (None, 0),  # it began before the trace
        (100, 1),  # it began at 1800, as the second did
    ],
)
def test_a_close_is_of_the_socket_that_is_as_old_as_it_says(lifetime_ns: int | None, whose: int) -> None:
    first = event("socket", fd=5, inode=71, at_ns=1000)
    second = event("socket", fd=5, inode=73, at_ns=1800)
    closed = event("close", fd=5, at_ns=1900, lifetime_ns=lifetime_ns)
    used = event("connect", fd=5, at_ns=1950, inode=73)
    stories = list(tell_stories([first, second, closed, used]))
    assert len(stories) == 2
    assert [closed in story for story in stories] == [whose == 0, whose == 1]
    assert used in stories[1]


def test_the_close_of_both_is_told_of_both_in_either_order() -> None:
    made = [event("socket", fd=5, inode=inode, at_ns=at) for inode, at in ((71, 1000), (73, 1800))]
    closes = [event("close", fd=5, at_ns=at, lifetime_ns=lived) for at, lived in ((1900, 900), (2500, 700))]
    for told in (closes, closes[::-1]):
        stories = list(tell_stories([*made, *told]))
        assert [story[-1].lifetime_ns for story in stories] == [900, 700]
