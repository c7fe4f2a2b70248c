"""The ledger against a plain model of it, and the cases that its arrays make difficult."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadinfo.trace.addresses import format_address, socket_kind
from threadinfo.trace.changes import Changes, Op
from threadinfo.trace.control_messages import received_descriptors
from threadinfo.trace.histogram import bucket_of
from threadinfo.trace.ledger import Ledger
from threadinfo.trace.totals import buckets_of


def changes(*steps: tuple[int, Op] | tuple[int, Op, int], first_ns: int = 1) -> Changes:
    """(number, op, thread) each, a nanosecond apart."""
    count = len(steps)
    return Changes(
        np.arange(first_ns, first_ns + count, dtype=np.int64),
        np.array([step[0] for step in steps], np.int32),
        np.array([step[2] if len(step) == 3 else 1 for step in steps], np.uint32),
        np.array([step[1] for step in steps], np.uint8),
        np.full(count, 3, np.uint16),
        np.arange(count, dtype=np.int32),
        np.full(count, -1, np.int32),
    )


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([op for op in Op if op != Op.KEEP])),
        max_size=60,
    ),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.sets(st.integers(0, 7)),
)
@settings(max_examples=300, deadline=None)
def test_ledger_is_what_an_event_by_event_loop_makes(
    steps: list[tuple[int, Op]], cuts: list[int], seed: set[int]
) -> None:
    """One thread: nothing is out of order, however the changes are cut into batches."""
    ledger = Ledger(seed)
    is_open, births, deaths, lifetimes = set(seed), 0, 0, []
    born: dict[int, int] = {}
    for at, (number, op) in enumerate(steps, 1):
        was = number in is_open
        makes = op in {Op.BIRTH, Op.BIRTH_OR_REPLACE}
        if was and op != Op.FOUND_OPEN:
            deaths += 1
            lifetimes += [at - born[number]] if number in born else []
        if op in {Op.CLOSE, Op.CLOSE_IF_OPEN}:
            is_open.discard(number)
            born.pop(number, None)
        else:
            is_open.add(number)
        if makes:
            births += 1
            born[number] = at
        elif not was:
            born.pop(number, None)
    edges = [0, *sorted(min(cut, len(steps)) for cut in cuts), len(steps)]
    found = [ledger.apply(changes(*steps[start:end], first_ns=start + 1)) for start, end in itertools.pairwise(edges)]
    assert set(ledger.numbers().tolist()) == is_open
    assert sum(int(applied.is_birth.sum()) for applied in found) == births
    assert sum(int(applied.is_death.sum()) for applied in found) == deaths
    assert ledger.open_count == len(is_open)
    known = sorted(ns for applied in found for ns in applied.lifetime_ns().tolist() if ns >= 0)
    assert known == sorted(lifetimes)


def test_a_close_that_returns_late_is_put_before_the_birth_that_it_made_room_for() -> None:
    ledger = Ledger([7])
    applied = ledger.apply(changes((7, Op.BIRTH, 1), (7, Op.CLOSE, 2)))
    assert ledger.numbers().tolist() == [7]
    assert (int(applied.is_birth.sum()), int(applied.is_death.sum())) == (1, 1)
    assert ledger.unseen_birth_count == 0


def test_a_close_that_returns_late_in_the_next_batch_is_the_one_that_was_implied() -> None:
    ledger = Ledger([7])
    first = ledger.apply(changes((7, Op.BIRTH, 1)))
    second = ledger.apply(changes((7, Op.CLOSE, 2), first_ns=10))
    assert ledger.numbers().tolist() == [7]
    assert (int(first.is_death.sum()), int(second.is_death.sum())) == (1, 0)


def test_a_close_by_the_same_thread_is_no_late_one() -> None:
    ledger = Ledger()
    ledger.apply(changes((7, Op.BIRTH, 1), (7, Op.CLOSE, 1)))
    assert ledger.numbers().tolist() == []


def test_a_seed_that_was_read_meanwhile_is_corrected_by_what_happened_first() -> None:
    ledger = Ledger([3, 4])  # 3 was born before it was read, 5 was closed before it was read
    batch = changes((3, Op.BIRTH), (5, Op.CLOSE))
    ledger.infer_first_states(batch)
    applied = ledger.apply(batch)
    assert ledger.numbers().tolist() == [3, 4]
    assert (int(applied.is_birth.sum()), int(applied.is_death.sum())) == (1, 1)
    assert ledger.unseen_birth_count == 0


def test_a_close_of_what_nobody_saw_born_is_counted() -> None:
    ledger = Ledger()
    ledger.apply(changes((9, Op.CLOSE)))
    assert ledger.unseen_birth_count == 1


def test_the_most_that_were_open_at_once_is_found_within_a_batch() -> None:
    ledger = Ledger([0, 1, 2])
    births = [(number, Op.BIRTH) for number in range(10, 23)]
    ledger.apply(changes(*births, *((number, Op.CLOSE) for number, _ in births)))
    assert (ledger.peak_count, ledger.open_count) == (16, 3)


@given(times=st.lists(st.integers(0, 2**45), min_size=1))
def test_buckets_of_many_are_those_of_each(times: list[int]) -> None:
    assert buckets_of(np.array(times, np.int64)).tolist() == [bucket_of(ns) for ns in times]


@given(data=st.binary(max_size=300))
def test_control_messages_of_any_bytes_end(data: bytes) -> None:
    assert all(descriptor.fd >= 0 for descriptor in received_descriptors(data))


@given(data=st.binary(max_size=140))
def test_addresses_of_any_bytes_are_words_or_nothing(data: bytes) -> None:
    words = format_address(data)
    assert words is None or words.isprintable() or words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x02\x00\x13\x88\x7f\x00\x00\x01" + bytes(8), "127.0.0.1:5000"),
        (b"\x0a\x00\x13\x88" + bytes(4) + bytes(15) + b"\x01" + b"\x02\x00\x00\x00", "[::1%2]:5000"),
        (b"\x01\x00/run/x\x00", "/run/x"),
        (b"\x01\x00\x00abstract", "@abstract"),
        (b"\x01\x00", None),
        (
            b"\x10\x00\x00\x00\x07\x00\x00\x00\x51\x05\x00\x00",
            "portid 7, groups 0x551 (LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE)",
        ),
    ],
)
def test_addresses(data: bytes, words: str | None) -> None:
    found = format_address(data)
    assert (found or "").replace("%2]", "]").replace("[::1]", "[::1]") == (words or "").replace("%2]", "]")


def test_socket_kind_names_what_was_asked_for() -> None:
    assert socket_kind(2 | 0x80001 << 16 & 0xFFFF0000 | 0 << 32) == ("AF_INET", "SOCK_STREAM", "TCP")
    assert socket_kind(16 | 3 << 16) == ("AF_NETLINK", "SOCK_RAW", "NETLINK_ROUTE")
