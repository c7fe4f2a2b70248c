"""Calls that returned in another order than the kernel did them: miniature sequences, as two CPUs write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from threadinfo.model import DescriptorEvent
from threadinfo.trace.descriptors.calls import calls_of
from threadinfo.trace.descriptors.events import ChunkMaker, EventMaker, Moments
from threadinfo.trace.descriptors.ledger import KernelLedger
from threadinfo.trace.descriptors.recorder import (
    CLOSED,
    EARLY,
    EVENT,
    LATE,
    OPENED,
    OWED,
    Batch,
    before_late_closes,
)
from threadinfo.trace.descriptors.type_codes import type_code

CALLS = calls_of("x86_64")
NUMBERS = {call.name: number for number, call in CALLS.items()}
PID, FIRST, SECOND, THIRD = 4001, 4001, 4003, 4007
FD = 11
EVENTFD, EPOLL, DEVICE = (type_code(name) for name in ("eventfd", "epoll", "device"))


class OneTable:
    """As much of a ledger as lines need: one process, in slot 0."""

    def pids(self, processes: NDArray[np.uint32]) -> NDArray[np.int64]:
        return np.full(len(processes), PID, np.int64)


def record(at_ns: int, tid: int, call: str, flags: int, **more: int) -> dict[str, int]:
    return {"at_ns": at_ns, "tid": tid, "tgid": PID, "call": NUMBERS[call], "flags": flags, "fd": FD, "fd2": -1} | more


def opened(at_ns: int, tid: int, call: str, kind: int, flags: int = 0, **more: int) -> dict[str, int]:
    return record(at_ns, tid, call, OPENED | flags, type=kind, result=FD, **more)


def closed(at_ns: int, tid: int, flags: int = CLOSED, **more: int) -> dict[str, int]:
    return record(at_ns, tid, "close", flags, **more)


def events_of(records: Sequence[dict[str, int]]) -> NDArray[np.void]:
    events = np.zeros(len(records), EVENT)
    for row, fields in enumerate(records):
        for name, value in fields.items():
            events[row][name] = value
    return events


class Lines:
    """What a live stream says of batches."""

    def __init__(self) -> None:
        self._chunks = ChunkMaker(CALLS, cast("KernelLedger", OneTable()))
        self._events = EventMaker(CALLS, Moments(0))

    def of(self, *records: dict[str, int]) -> list[DescriptorEvent]:
        events = events_of(records)
        batch = Batch(events, np.arange(len(events), dtype=np.int64), (np.zeros((len(events), 0), np.uint64),))
        return [*self._events.events(self._chunks.make(batch), {})]


@pytest.fixture
def lines() -> Lines:
    return Lines()


def short(events: Sequence[DescriptorEvent]) -> list[tuple[Any, ...]]:
    return [(one.at_ns, one.tid, one.syscall, one.type, one.lifetime_ns) for one in events]


OPENING = opened(1009, FIRST, "eventfd2", EVENTFD)
AGAIN = opened(1531, SECOND, "epoll_create1", EPOLL, CLOSED | OWED, lifetime_ns=1531 - 1009, ended_type=EVENTFD)


def test_a_late_close_goes_before_what_opened_its_number_again(lines: Lines) -> None:
    told = short(lines.of(OPENING, AGAIN, closed(1601, FIRST, LATE)))
    assert told == [
        (1009, FIRST, "eventfd2", "eventfd", None),
        (1531, FIRST, "close", "eventfd", 522),
        (1531, SECOND, "epoll_create1", "epoll", None),
    ]


def test_a_late_close_that_looked_at_the_clock_first_stays_where_it_is(lines: Lines) -> None:
    """And what its thread does next stays behind it: a line that was moved stood behind those."""
    told = short(
        lines.of(
            OPENING,
            closed(1511, FIRST, LATE),
            record(1523, FIRST, "bind", 1 << 13, fd=29),
            AGAIN,
            closed(1601, SECOND, CLOSED, lifetime_ns=70, ended_type=EPOLL),
        )
    )
    assert told == [
        (1009, FIRST, "eventfd2", "eventfd", None),
        (1511, FIRST, "close", "eventfd", 1511 - 1009),
        (1523, FIRST, "bind", None, None),
        (1531, SECOND, "epoll_create1", "epoll", None),
        (1601, SECOND, "close", "epoll", 70),
    ]


def test_a_lifetime_is_never_below_nothing(lines: Lines) -> None:
    again = AGAIN | {"lifetime_ns": 7}
    assert short(lines.of(closed(1511, FIRST, LATE), again))[0] == (1511, FIRST, "close", "eventfd", 1)


def test_what_was_open_before_the_trace_has_no_lifetime_where_its_close_is_late(lines: Lines) -> None:
    again = AGAIN | {"lifetime_ns": 0, "ended_type": DEVICE}
    assert short(lines.of(closed(1511, FIRST, LATE), again))[0] == (1511, FIRST, "close", "device", None)


def test_two_late_closes_of_a_number_are_paid_by_one_opening_each(lines: Lines) -> None:
    third = opened(1753, THIRD, "eventfd2", EVENTFD, CLOSED | OWED, lifetime_ns=1753 - 1531, ended_type=EPOLL)
    told = lines.of(OPENING, closed(1511, FIRST, LATE), AGAIN, closed(1747, SECOND, LATE), third)
    assert [one.lifetime_ns for one in told if one.event == "close"] == [502, 216]
    assert [one.type for one in told if one.event == "close"] == ["eventfd", "epoll"]
    later = lines.of(closed(2003, THIRD, CLOSED, lifetime_ns=250, ended_type=EVENTFD))
    assert short(later) == [(2003, THIRD, "close", "eventfd", 250)]


def test_what_an_earlier_batch_owes_is_paid_first(lines: Lines) -> None:
    lines.of(OPENING, AGAIN)
    third = opened(1753, THIRD, "eventfd2", EVENTFD, CLOSED | OWED, lifetime_ns=1753 - 1531, ended_type=EPOLL)
    told = lines.of(closed(1741, FIRST, LATE), closed(1747, SECOND, LATE), third)
    assert [(one.type, one.lifetime_ns) for one in told if one.event == "close"] == [("eventfd", 522), ("epoll", 216)]


def test_what_a_thread_owes_itself_is_paid_where_it_closes(lines: Lines) -> None:
    """A close that met the open of its number within nanoseconds has closed that: then its thread's own close pays.
    Neither a replacement long before nor an opening behind it has to do with that."""
    told = lines.of(
        opened(1003, THIRD, "dup2", DEVICE, CLOSED, lifetime_ns=401, ended_type=EVENTFD, fd2=29),
        closed(1019, THIRD, CLOSED, lifetime_ns=16, ended_type=DEVICE),
        OPENING | {"at_ns": 1021},
        AGAIN,
        closed(1533, FIRST, CLOSED, lifetime_ns=2, ended_type=EPOLL),
        closed(1601, SECOND, LATE),
        opened(1753, THIRD, "eventfd2", EVENTFD, CLOSED | OWED, lifetime_ns=200, ended_type=EPOLL),
    )
    assert [(one.at_ns, one.how, one.lifetime_ns) for one in told if one.event == "close"] == [
        (1003, "replaced", 401),
        (1019, "close", 16),
        (1533, "close", 2),
        (1601, "close", 522),
    ]


def test_a_replacement_that_was_none_is_told_as_the_close_that_came_late(lines: Lines) -> None:
    onto = opened(1531, SECOND, "dup2", DEVICE, CLOSED, lifetime_ns=1531 - 1009, ended_type=EVENTFD, fd2=29)
    told = lines.of(OPENING, onto, closed(1601, FIRST, LATE))
    assert short(told) == [
        (1009, FIRST, "eventfd2", "eventfd", None),
        (1531, FIRST, "close", "eventfd", 522),
        (1531, SECOND, "dup2", "device", None),
    ]
    assert told[1].how == "close"


def test_a_late_close_goes_behind_what_its_thread_did_before(lines: Lines) -> None:
    """Whatever it was that owed it: it cannot have begun before that."""
    told = lines.of(
        opened(1003, THIRD, "dup2", DEVICE, CLOSED, lifetime_ns=401, ended_type=EVENTFD, fd2=29),
        opened(1511, FIRST, "epoll_create1", EPOLL, fd=31),
        closed(1601, FIRST, LATE),
    )
    assert [(one.at_ns, one.tid, one.how) for one in told if one.event == "close"] == [
        (1003, THIRD, "replaced"),
        (1601, FIRST, "close"),
    ]


def test_an_opening_whose_close_was_told_already_goes_before_it(lines: Lines) -> None:
    told = short(lines.of(closed(1511, FIRST, 0), opened(1531, SECOND, "eventfd2", EVENTFD, EARLY)))
    assert told == [
        (1511, SECOND, "eventfd2", "eventfd", None),
        (1511, FIRST, "close", "eventfd", 1),
    ]


def test_an_opening_that_looked_at_the_clock_before_its_close_gives_that_its_lifetime(lines: Lines) -> None:
    told = short(lines.of(opened(1511, SECOND, "eventfd2", EVENTFD, EARLY), closed(1531, FIRST, 0)))
    assert told == [
        (1511, SECOND, "eventfd2", "eventfd", None),
        (1531, FIRST, "close", "eventfd", 20),
    ]


def records_of(records: Sequence[dict[str, int]]) -> NDArray[np.uint64]:
    """As a ring buffer gives them: with a header."""
    words = events_of(records).view(np.uint64).reshape(len(records), -1)
    return np.concatenate([np.zeros((len(records), 1), np.uint64), words], axis=1)


@pytest.mark.parametrize(
    ("close_ns", "again_ns", "cutoff", "cut_at"),
    [
        (1_000_511, 1_000_531, 1_000_520, 1_000_510),  # between the two: neither is taken yet
        (1_000_511, 1_000_531, 1_000_531, 1_000_531),  # behind both
        (1_000_511, 1_000_531, 1_000_500, 1_000_500),  # before both
        (1_000_511, 3_000_531, 2_500_000, 2_500_000),  # what is so much later does not belong to it
    ],
)
def test_records_are_not_cut_between_a_late_close_and_what_owes_it(
    close_ns: int, again_ns: int, cutoff: int, cut_at: int
) -> None:
    small = records_of([closed(close_ns, FIRST, LATE), AGAIN | {"at_ns": again_ns}])
    assert before_late_closes(small, cutoff) == cut_at


def test_records_are_cut_anywhere_where_no_close_is_late() -> None:
    small = records_of([OPENING, AGAIN])
    assert before_late_closes(small, 1520) == 1520
