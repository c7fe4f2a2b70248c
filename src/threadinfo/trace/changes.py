"""What records of calls do to a table of descriptors: births and deaths of numbers, as arrays."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.calls import BITMAP, EXEC, EXIT, Action, Call
from threadinfo.trace.control_messages import received_descriptors
from threadinfo.trace.descriptor_records import LAST, UNREADABLE, Batch

_CLOSE_RANGE_CLOEXEC = 4
_MOST_NUMBERS = 1 << 20


class Op(IntEnum):
    """What happens to a number; the odd ones leave it open."""

    CLOSE = 0
    """It was open, or something was not seen."""
    BIRTH = 1
    """It was free, or something was not seen."""
    CLOSE_IF_OPEN = 2
    """By a call that does not say which numbers were open."""
    BIRTH_OR_REPLACE = 3
    """dup2: an open descriptor of that number is closed by it."""
    KEEP = 5
    """It stays open: nothing happens."""
    FOUND_OPEN = 7
    """The kernel's bitmap says that it is open."""


class Changes(NamedTuple):
    """Columns of equal length, in the order of time."""

    at_ns: NDArray[np.int64]
    fd: NDArray[np.int32]
    tid: NDArray[np.uint32]
    op: NDArray[np.uint8]
    call: NDArray[np.uint16]
    event: NDArray[np.int32]
    """The index of the event in its batch."""
    source: NDArray[np.int32]
    """The number that a duplicate was made of; -1 otherwise."""

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Changes:
        """Some of them, or all in another order."""
        at_ns, fd, tid, op, call, event, source = self
        return Changes(at_ns[which], fd[which], tid[which], op[which], call[which], event[which], source[which])


def _join(parts: Sequence[Changes]) -> Changes:
    return Changes(
        np.concatenate([part.at_ns for part in parts]),
        np.concatenate([part.fd for part in parts]),
        np.concatenate([part.tid for part in parts]),
        np.concatenate([part.op for part in parts]),
        np.concatenate([part.call for part in parts]),
        np.concatenate([part.event for part in parts]),
        np.concatenate([part.source for part in parts]),
    )


class ChangeTable:
    """Knows what each call of a machine does."""

    def __init__(self, calls: Mapping[int, Call]) -> None:
        size = max(calls) + 8
        self._is_birth = np.zeros(size, bool)
        self._is_duplicate = np.zeros(size, bool)
        self._is_onto = np.zeros(size, bool)
        self._is_pair = np.zeros(size, bool)
        self._is_close = np.zeros(size, bool)
        self._is_rare = np.zeros(size, bool)
        for number, call in calls.items():
            receives = call.action in {Action.RECVMSG, Action.RECVMMSG}
            self._is_duplicate[number] = call.event == "duplicate"
            self._is_onto[number] = call.action == Action.DUP_ONTO
            self._is_pair[number] = call.action in {Action.PAIR_0, Action.PAIR_3}
            self._is_close[number] = call.event == "close" and call.action != Action.CLOSE_RANGE
            self._is_rare[number] = receives or call.action == Action.CLOSE_RANGE or number in {EXEC, EXIT}
            self._is_birth[number] = (
                call.event in {"open", "duplicate", "socket", "accept", "pipe", "receive"} and not receives
            )
        self._is_rare[BITMAP] = True

    def of(self, batch: Batch, events: NDArray[np.void], which: NDArray[np.intp], highest: int) -> Changes:
        """The changes by the events of one table, at the indices `which`; `highest` is the highest number open."""
        call, result, fd = events["call"], events["result"], events["fd"]
        succeeded = (result >= 0) & (fd >= 0)
        is_birth = self._is_birth[call] & succeeded
        is_onto = self._is_onto[call]
        if is_onto.any():
            is_birth &= ~(is_onto & (events["fd2"] == fd))  # dup2(7, 7) does nothing
        is_close = self._is_close[call] & (result != -errno.EBADF)  # any other error frees the number too
        op = np.where(is_birth, np.where(is_onto, Op.BIRTH_OR_REPLACE, Op.BIRTH), Op.CLOSE).astype(np.uint8)
        changes = is_birth | is_close
        source = np.where(self._is_duplicate[call], events["fd2"], -1).astype(np.int32)
        simple = Changes(
            events["at_ns"][changes],
            fd[changes],
            events["tid"][changes],
            op[changes],
            call[changes],
            which[changes].astype(np.int32),
            source[changes],
        )
        more = [
            *self._second_numbers(events, which),
            *self._rare(batch, which[self._is_rare[call]], max(highest, int(fd.max(initial=0)))),
        ]
        if not more:
            return simple
        merged = _join([simple, *more])
        return merged.take(np.argsort(merged.at_ns, kind="stable"))

    def _second_numbers(self, events: NDArray[np.void], which: NDArray[np.intp]) -> list[Changes]:
        """Pipes and pairs of sockets make two."""
        pairs = self._is_pair[events["call"]] & (events["result"] == 0) & (events["fd2"] >= 0)
        if not pairs.any():
            return []
        chosen = events[pairs]
        return [_changes(chosen, chosen["fd2"], np.full(len(chosen), Op.BIRTH), which[pairs])]

    def _rare(self, batch: Batch, which: NDArray[np.intp], highest: int) -> list[Changes]:
        """Calls that change any number of numbers, one by one."""
        found = []
        for index in which:
            event = batch.events[index]
            numbers, ops = _numbers_and_ops(batch, int(index), event, highest)
            if len(numbers):
                found.append(_changes(np.repeat(event, len(numbers)), numbers, ops, np.full(len(numbers), index)))
        return found


def _numbers_and_ops(
    batch: Batch, index: int, event: np.void, highest: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    call = int(event["call"])
    if call == BITMAP and int(event["argument"]):
        return _bitmap(batch, index, event, highest)
    if call in {EXIT, EXEC, BITMAP} or int(event["result"]) < 0:
        return np.empty(0, np.int32), np.empty(0, np.uint8)  # the tables' owner decides
    if int(event["length"]):
        received = [descriptor.fd for descriptor in received_descriptors(batch.data(index))]
        return np.array(received, np.int32), np.full(len(received), Op.BIRTH, np.uint8)
    if int(event["argument"]) & _CLOSE_RANGE_CLOEXEC or int(event["fd"]) < 0:
        return np.empty(0, np.int32), np.empty(0, np.uint8)
    numbers = np.arange(int(event["fd"]), min(int(event["fd2"]), highest, _MOST_NUMBERS) + 1, dtype=np.int32)
    return numbers, np.full(len(numbers), Op.CLOSE_IF_OPEN, np.uint8)


def open_numbers(batch: Batch, index: int) -> NDArray[np.bool_]:
    """A bitmap of the kernel's, from the number that is the event's fd on."""
    return np.unpackbits(np.frombuffer(batch.data(index), np.uint8), bitorder="little").astype(bool)


def _bitmap(batch: Batch, index: int, event: np.void, highest: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """What the kernel says is open, and what it says is not; the last bitmap speaks for all higher numbers too."""
    if int(event["flags"]) & UNREADABLE:
        return np.empty(0, np.int32), np.empty(0, np.uint8)
    is_open = open_numbers(batch, index)
    first = int(event["fd"])
    if int(event["flags"]) & LAST and highest >= first + len(is_open):
        is_open = np.concatenate([is_open, np.zeros(highest + 1 - first - len(is_open), bool)])
    numbers = np.arange(first, first + len(is_open), dtype=np.int32)
    relevant = is_open | (numbers <= highest)
    ops = np.where(is_open, Op.FOUND_OPEN, Op.CLOSE_IF_OPEN).astype(np.uint8)
    return numbers[relevant], ops[relevant]


def _changes(
    events: NDArray[np.void], fd: NDArray[np.int32], op: NDArray[np.generic], which: NDArray[np.intp]
) -> Changes:
    return Changes(
        events["at_ns"],
        fd.astype(np.int32),
        events["tid"],
        op.astype(np.uint8),
        events["call"],
        which.astype(np.int32),
        np.full(len(events), -1, np.int32),
    )
