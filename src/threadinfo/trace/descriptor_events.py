"""Batches of records to the events of the live stream, one by one and only when they are asked for.

A chunk holds arrays until its lines are written: it is small, can be pickled, and can be counted without being read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timezone
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from threadinfo.model import DescriptorEvent
from threadinfo.trace.addresses import format_address, socket_kind
from threadinfo.trace.calls import BITMAP, EXEC, EXIT, FORK, ON_SOCKET, TABLE, Action, Call
from threadinfo.trace.changes import Op
from threadinfo.trace.control_messages import received_descriptors
from threadinfo.trace.descriptor_records import SHARES, Batch, is_mark
from threadinfo.trace.site_groups import format_frames, site_frames
from threadinfo.trace.tables import BatchResult, Known, TypeTable, event_text
from threadinfo.trace.totals import error_name
from threadinfo.trace.unwinder import Stack

_MOST_DUPLICATIONS = 8
_DEATH, _BIRTH, _FAILURE, _MARK, _PROCESS, _ON_SOCKET = range(6)
_SHUT: tuple[Literal["receiving", "sending", "both"], ...] = ("receiving", "sending", "both")

_WHOLE_STACKS = {"socket", "accept", "bind", "listen", "connect", "shutdown"}

How = Literal["close", "replaced", "exec", "exit"]


class Moments:
    """CLOCK_MONOTONIC to UTC, ISO 8601, to the microsecond; one offset for all, one conversion a second."""

    def __init__(self, offset_ns: int) -> None:
        self.offset_ns = offset_ns
        self._second = -1
        self._prefix = ""

    def format(self, at_ns: int) -> str:
        """``2026-01-31T14:32:01.123456Z``."""
        second, rest = divmod(at_ns + self.offset_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{rest // 1000:06d}Z"


class EventChunk(NamedTuple):
    """The events of one table in one batch."""

    pid: int
    batch: Batch
    at_ns: NDArray[np.int64]
    kind: NDArray[np.uint8]
    event: NDArray[np.int32]
    fd: NDArray[np.int32]
    call: NDArray[np.uint16]
    tid: NDArray[np.uint32]
    lifetime_ns: NDArray[np.int64]
    born_by: NDArray[np.int32]
    type: NDArray[np.uint8]
    """The code (`TypeTable`) of what is born, dies or is used; 0: not known, or nothing."""
    earlier: Mapping[int, Known]
    copied: Mapping[int, int]

    def nbytes(self) -> int:
        """About how much memory it takes."""
        arrays = (*self[2:11], self.batch.events, self.batch.places, *self.batch.sources)
        return int(sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)))

    def only_failures(self) -> EventChunk:
        """Without everything that succeeded."""
        failed = self.batch.events["result"][self.event] < 0
        return self.take((self.kind == _FAILURE) | (failed & (self.kind == _ON_SOCKET)))

    def only_type(self, code: int) -> EventChunk:
        """What was done with descriptors of one type alone."""
        return self.take(self.type == code)

    def without_socket_use(self) -> EventChunk:
        """Without what was done with a socket between its birth and its death."""
        return self.take(self.kind != _ON_SOCKET)

    def take(self, which: NDArray[np.bool_] | slice) -> EventChunk:
        """Some of the events."""
        return self._replace(**{name: getattr(self, name)[which] for name in _COLUMNS})


_COLUMNS = ("at_ns", "kind", "event", "fd", "call", "tid", "lifetime_ns", "born_by", "type")


def make_chunk(batch: Batch, result: BatchResult, calls: Mapping[int, Call], types: TypeTable) -> EventChunk:
    """The events of a table in the order of time."""
    applied = result.applied
    changes, op = applied.changes, applied.changes.op
    lifetimes = applied.lifetime_ns()
    closes = (op == Op.CLOSE) | (op == Op.KEEP) | (applied.is_death & (op != Op.BIRTH))
    rows = [
        (np.full(int(closes.sum()), _DEATH), changes.take(closes), lifetimes[closes], applied.born_by[closes]),
        (
            np.full(int(applied.is_birth.sum()), _BIRTH),
            changes.take(applied.is_birth),
            np.full(int(applied.is_birth.sum()), -1),
            np.full(int(applied.is_birth.sum()), -1),
        ),
    ]
    columns = [
        np.concatenate([row[1].at_ns for row in rows]),
        np.concatenate([row[0] for row in rows]),
        np.concatenate([row[1].event for row in rows]),
        np.concatenate([row[1].fd for row in rows]),
        np.concatenate([row[1].call for row in rows]),
        np.concatenate([row[1].tid for row in rows]),
        np.concatenate([row[2] for row in rows]),
        np.concatenate([row[3] for row in rows]),
        np.concatenate([result.death_types[closes], result.birth_types[applied.is_birth]]),
    ]
    others = _other_events(batch, result.which, calls, types)
    columns = [np.concatenate(pair) for pair in zip(columns, others, strict=True)]
    order = np.argsort(columns[0], kind="stable")  # a number that is replaced dies before it is born
    at_ns, kind, event, fd, call, tid, lifetime, born_by, type_codes = (column[order] for column in columns)
    return EventChunk(
        result.pid,
        batch,
        at_ns,
        kind.astype(np.uint8),
        event.astype(np.int32),
        fd.astype(np.int32),
        call.astype(np.uint16),
        tid.astype(np.uint32),
        lifetime,
        born_by.astype(np.int32),
        type_codes.astype(np.uint8),
        result.earlier,
        result.copied,
    )


def _other_events(
    batch: Batch, which: NDArray[np.intp], calls: Mapping[int, Call], types: TypeTable
) -> list[NDArray[np.generic]]:
    """Failures, close-on-exec, what was done with sockets, and what happened to processes."""
    events = batch.take(which)
    call = events["call"]
    kind = np.full(len(events), 255, np.uint8)
    kind[is_mark(events)] = _MARK
    kind[events["result"] < 0] = _FAILURE
    kind[(call >= FORK) & (call < TABLE)] = _PROCESS
    kind[_numbers_of(calls, ON_SOCKET)[call]] = _ON_SOCKET
    chosen = kind != 255
    events = events[chosen]
    unknown = np.full(len(events), -1)
    has_fd = _numbers_of(calls, {Action.CLOSE, *ON_SOCKET})
    fd = np.where(kind[chosen] == _MARK, events["fd2"], np.where(has_fd[events["call"]], events["fd"], -1))
    code = types.of_calls(events["call"])
    code[kind[chosen] == _ON_SOCKET] = types.code("socket")
    return [events["at_ns"], kind[chosen], which[chosen], fd, events["call"], events["tid"], unknown, unknown, code]


def _numbers_of(calls: Mapping[int, Call], actions: Collection[Action]) -> NDArray[np.bool_]:
    """Which calls have one of the actions."""
    chosen = np.zeros(max(calls) + 8, bool)
    chosen[[number for number, call in calls.items() if call.action in actions]] = True
    return chosen


class EventMaker:
    """Turns chunks into events."""

    def __init__(
        self,
        calls: Mapping[int, Call],
        types: TypeTable,
        moments: Moments,
        find_stack: Callable[[int], Stack | None] | None = None,
    ) -> None:
        """`find_stack` gives the stack behind a number; without it the events have none."""
        self._calls, self._types, self._moments, self._find_stack = calls, types, moments, find_stack

    def events(self, chunk: EventChunk, names: Mapping[int, str]) -> Iterator[DescriptorEvent]:
        """In the order of time; `names` are those of the threads."""
        for event, number in self.numbered_events(chunk, names):
            if number and self._find_stack and (stack := self._find_stack(number)):
                yield msgspec.structs.replace(event, stack=self.frames(event, stack))
            else:
                yield event

    def frames(self, event: DescriptorEvent, stack: Stack) -> tuple[str, ...]:
        """What is shown of an event's stack: of a socket's all of it, otherwise the program's own frames."""
        is_whole = event.event in _WHOLE_STACKS or event.type == "socket"
        return format_frames(stack.frames) if is_whole else site_frames(stack)

    def numbered_events(self, chunk: EventChunk, names: Mapping[int, str]) -> Iterator[tuple[DescriptorEvent, int]]:
        """The events without their stacks, and the numbers of these; 0 where none was taken."""
        columns = zip(*(getattr(chunk, name).tolist() for name in _COLUMNS), strict=True)
        stacks = chunk.batch.events["stack"]
        for at_ns, kind, event, fd, call, tid, lifetime, born_by, _ in columns:
            if kind == _DEATH:
                yield self._death(chunk, names, at_ns, event, fd, call, tid, lifetime, born_by), 0
            elif kind == _BIRTH:
                yield self._birth(chunk, names, at_ns, event, fd, call, tid), int(stacks[event])
            elif kind == _ON_SOCKET:
                yield self._on_socket(chunk, names, at_ns, event, fd, call, tid), int(stacks[event])
            else:
                number = int(stacks[event]) if kind == _FAILURE else 0
                yield self._other(chunk, names, at_ns, kind, event, fd, call, tid), number

    def _death(
        self,
        chunk: EventChunk,
        names: Mapping[int, str],
        at_ns: int,
        event: int,
        fd: int,
        call: int,
        tid: int,
        lifetime: int,
        born_by: int,
    ) -> DescriptorEvent:
        how: How = "close"
        if call == BITMAP:
            how = "exec"
        elif call == EXIT:
            how = "exit"
        elif self._calls[call].event != "close":
            how = "replaced"
        kind, path = None, None
        if born_by >= 0:
            kind, path = self._describe(chunk, born_by)
        elif known := chunk.earlier.get(fd):
            kind, path = known.type, known.text
        return DescriptorEvent(
            at_ns=at_ns,
            time=self._moments.format(at_ns),
            pid=chunk.pid,
            tid=tid,
            thread_name=names.get(tid, ""),
            event="close",
            syscall="execve" if call == BITMAP else self._calls[call].name,
            fd=fd,
            how=how,
            type=kind,
            path=path,
            lifetime_ns=lifetime if lifetime >= 0 else None,
        )

    def _birth(
        self, chunk: EventChunk, names: Mapping[int, str], at_ns: int, event: int, fd: int, call: int, tid: int
    ) -> DescriptorEvent:
        known = self._calls[call]
        record = chunk.batch.events[event]
        kind, text = self._describe(chunk, event)
        source = None
        family = socket_type = protocol = None
        if known.event in {"duplicate", "accept", "receive"}:
            source = int(record["fd2"])
        if known.event == "receive" and int(record["length"]):
            is_pidfd = {one.fd: one.is_pidfd for one in received_descriptors(chunk.batch.data(event))}
            kind = "pidfd" if is_pidfd.get(fd) else None
        if known.action in {Action.SOCKET, Action.PAIR_3}:
            (family, socket_type, protocol), text = socket_kind(int(record["argument"])), None
        is_accept = known.event == "accept"
        return DescriptorEvent(
            at_ns=at_ns,
            time=self._moments.format(at_ns),
            pid=chunk.pid,
            tid=tid,
            thread_name=names.get(tid, ""),
            event=known.event,
            syscall=known.name,
            fd=fd,
            result=int(record["result"]),
            type=kind,
            path=None if is_accept else text,
            remote=text if is_accept else None,
            family=family,
            socket_type=socket_type,
            protocol=protocol,
            source_fd=source if source is not None and source >= 0 else None,
        )

    def _other(
        self,
        chunk: EventChunk,
        names: Mapping[int, str],
        at_ns: int,
        kind: int,
        event: int,
        fd: int,
        call: int,
        tid: int,
    ) -> DescriptorEvent:
        known = self._calls[call]
        record = chunk.batch.events[event]
        result = int(record["result"])
        family = socket_type = protocol = None
        if known.action in {Action.SOCKET, Action.PAIR_3}:
            family, socket_type, protocol = socket_kind(int(record["argument"]))
        return DescriptorEvent(
            at_ns=at_ns,
            time=self._moments.format(at_ns),
            pid=chunk.pid,
            tid=tid,
            thread_name=names.get(tid, ""),
            event="close_on_exec" if kind == _MARK else known.event,
            syscall=known.name if kind != _PROCESS or call == EXEC else None,
            fd=fd if fd >= 0 else None,
            result=result if kind != _PROCESS else None,
            error=error_name(-result) if kind == _FAILURE else None,
            path=event_text(self._calls, chunk.batch, event) if family is None else None,
            family=family,
            socket_type=socket_type,
            protocol=protocol,
            close_on_exec=bool(int(record["argument"]) & 1) if kind == _MARK else None,
            child_pid=int(record["fd2"]) if call == FORK else None,
            child_tid=int(record["fd"]) if call == FORK else None,
            shares_descriptors=bool(int(record["flags"]) & SHARES) if call == FORK else None,
        )

    def _on_socket(
        self, chunk: EventChunk, names: Mapping[int, str], at_ns: int, event: int, fd: int, call: int, tid: int
    ) -> DescriptorEvent:
        known = self._calls[call]
        record = chunk.batch.events[event]
        result, kind, value = int(record["result"]), int(record["argument"]), int(record["fd2"])
        address = format_address(chunk.batch.data(event), kind >> 32) if known.action == Action.ADDRESS else None
        family, socket_type, protocol = socket_kind(kind) if kind else (None, None, None)
        return DescriptorEvent(
            at_ns=at_ns,
            time=self._moments.format(at_ns),
            pid=chunk.pid,
            tid=tid,
            thread_name=names.get(tid, ""),
            event=known.event,
            syscall=known.name,
            fd=fd,
            result=result,
            error=error_name(-result) if result < 0 else None,
            type="socket" if kind else None,
            family=family,
            socket_type=socket_type,
            protocol=protocol,
            local=address if known.event == "bind" else None,
            remote=address if known.event == "connect" else None,
            backlog=value if known.event == "listen" else None,
            shut=_SHUT[value] if known.event == "shutdown" and 0 <= value < len(_SHUT) else None,
        )

    def _describe(self, chunk: EventChunk, event: int) -> tuple[str | None, str | None]:
        """The type of what an event bore, and its path or address; a duplicate is what it duplicates."""
        for _ in range(_MOST_DUPLICATIONS):
            if event not in chunk.copied:
                break
            event = chunk.copied[event]
        record = chunk.batch.events[event]
        call = self._calls[int(record["call"])]
        if call.event == "duplicate":
            known = chunk.earlier.get(int(record["fd2"]))
            return (known.type, known.text) if known else (None, None)
        return self._types.of_event(record), event_text(self._calls, chunk.batch, event)
