"""Batches of records to the events of the live stream, one by one and only when they are asked for.

The kernel side says what each call did; what remains is what a descriptor is called, which the record of its opening
told. A chunk holds arrays until its lines are written: it is small, can be pickled, and can be counted without being
read.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timezone
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from threadinfo.model import DescriptorEvent
from threadinfo.socket_identity import UNDER_WAY
from threadinfo.trace.descriptors.addresses import format_address, format_connection, socket_kind
from threadinfo.trace.descriptors.calls import EXEC, EXIT, FORK, Action, Call
from threadinfo.trace.descriptors.ledger import KernelLedger, OpenDescriptor
from threadinfo.trace.descriptors.recorder import (
    ADDRESSES,
    CLOSE_ON_EXEC,
    CLOSED,
    EARLY,
    FAILED,
    FOLLOWED,
    LATE,
    OPENED,
    OWED,
    SHARES,
    SOCKET_USE,
    TABLE_GONE,
    Batch,
    error_name,
)
from threadinfo.trace.descriptors.type_codes import TYPE_NAMES, type_code
from threadinfo.trace.stacks.site_groups import format_frames, site_frames
from threadinfo.trace.stacks.unwinder import Stack

_CLOSING, _OPENING, _FAILURE, _CLOEXEC_CHANGE, _PROCESS, _SOCKET_USE, _EMPTY = range(7)
_SHUT: tuple[Literal["receiving", "sending", "both"], ...] = ("receiving", "sending", "both")
_WHOLE_STACKS = {"socket", "accept", "bind", "listen", "connect", "shutdown"}
_UNDER_WAY = [-getattr(errno, name) for name in sorted(UNDER_WAY)]
_MOST_DUPLICATIONS = 8
_SOCKET = type_code("socket")

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
    """Events in the order of time, as columns."""

    batch: Batch
    at_ns: NDArray[np.int64]
    kind: NDArray[np.uint8]
    event: NDArray[np.int32]
    """Index in the batch."""
    fd: NDArray[np.int32]
    call: NDArray[np.uint16]
    tid: NDArray[np.uint32]
    pid: NDArray[np.uint32]
    how: NDArray[np.uint8]
    """Of what is closed: a place in `_HOW`."""
    lifetime_ns: NDArray[np.int64]
    opened_by: NDArray[np.int32]
    """Of what is closed or duplicated: the event of the batch that opened it; -1: an earlier one."""
    type: NDArray[np.uint8]
    """The code of what is opened, closed or used; 0: not known, or nothing."""
    earlier: Mapping[tuple[int, int], str | None]
    """What was known before of numbers that are closed or duplicated here, by slot of the table and number."""
    sources: Mapping[int, int]
    """The event of a duplicate to the event of this batch that opened what it duplicates."""
    late: Mapping[int, str | None]
    """What was closed by a close that returned after the number was opened again, by its event."""

    def nbytes(self) -> int:
        """About how much memory it takes."""
        columns = (getattr(self, name) for name in _COLUMNS)
        arrays = (*columns, self.batch.events, self.batch.places, *self.batch.sources)
        return sum(int(array.nbytes) for array in arrays)

    def only_failures(self) -> EventChunk:
        """Without everything that succeeded."""
        results = self.batch.events["result"][self.event]
        failed = (results < 0) & ~np.isin(results, _UNDER_WAY)
        return self.take((self.kind == _FAILURE) | (failed & (self.kind == _SOCKET_USE)))

    def only_sockets(self) -> EventChunk:
        """What was done with sockets alone."""
        return self.take((self.type == _SOCKET) & (self.kind != _EMPTY))

    def without_socket_use(self) -> EventChunk:
        """Without what was done with a socket between its opening and its end."""
        return self.take(self.kind != _SOCKET_USE)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> EventChunk:
        """Some of the events."""
        return self._replace(**{name: getattr(self, name)[which] for name in _COLUMNS})


_HOW: tuple[How, ...] = ("close", "replaced", "exec", "exit")
_PAID = len(_HOW)  # a late close, and what opened its number again: both are here, in this order
_COLUMNS = ("at_ns", "kind", "event", "fd", "call", "tid", "pid", "how", "lifetime_ns", "opened_by", "type")


class _Row(NamedTuple):
    at_ns: int
    kind: int
    event: int
    fd: int
    call: int
    tid: int
    pid: int
    how: int
    lifetime_ns: int
    opened_by: int
    type: int


class ChunkMaker:
    """Turns batches into chunks; remembers what open descriptors are called."""

    def __init__(self, calls: Mapping[int, Call], ledger: KernelLedger) -> None:
        self._calls, self._ledger = calls, ledger
        self._texts: dict[int, dict[int, str | None]] = {}
        self._owed: dict[tuple[int, int], list[tuple[str | None, int, int]]] = {}
        # Text, type and lifetime of what is closed by calls that have not returned.
        self._is_duplicate, self._is_accept = (np.zeros(max(calls) + 8, bool) for _ in range(2))
        for of, event in ((self._is_duplicate, "duplicate"), (self._is_accept, "accept")):
            of[[number for number, call in calls.items() if call.event == event]] = True

    def seed(self, table: int, links: Mapping[int, str]) -> None:
        """What is open at the beginning, as in /proc/PID/fd."""
        self._texts[table] = dict(links)

    def make(self, batch: Batch) -> EventChunk:
        """The events of a batch."""
        events = batch.events
        flags, call = events["flags"], events["call"]
        is_process = (call >= FORK) & (call <= EXIT)
        opens, closes = (flags & OPENED) != 0, (flags & CLOSED) != 0
        lifetimes = np.where(closes & (events["lifetime_ns"] > 0), events["lifetime_ns"], -1)
        told = OPENED | CLOSED | LATE | FAILED | CLOSE_ON_EXEC | SOCKET_USE
        unseen = (flags & told == 0) & ~is_process  # closes what nobody was seen to open
        late, owed = (flags & LATE) != 0, (flags & OWED) != 0  # what is owed is told when it is seen
        failed = (flags & FAILED) != 0
        empty = failed & (events["result"] == -errno.EAGAIN) & self._is_accept[call]
        how = np.where(call == EXEC, 2, np.where(opens, 1, 0))
        used = events["type"].copy()
        used[(flags & SOCKET_USE) != 0] = _SOCKET
        parts = [
            self._part(events, (closes & ~owed) | unseen | late, _CLOSING, how, lifetimes, events["ended_type"]),
            self._part(events, opens, _OPENING, how, lifetimes, events["type"]),
            self._part(events, failed & ~empty, _FAILURE, how, lifetimes, used),
            self._part(events, empty, _EMPTY, how, lifetimes, used),
            self._part(events, (flags & CLOSE_ON_EXEC) != 0, _CLOEXEC_CHANGE, how, lifetimes, used),
            self._part(events, is_process & ~closes, _PROCESS, how, lifetimes, used),
            self._part(events, (flags & SOCKET_USE) != 0, _SOCKET_USE, how, lifetimes, used),
            *self._ends(events),
        ]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        # Of one event: what it closes is closed before anything is opened.
        order = np.lexsort((columns[1], columns[2], columns[0]))
        rows = dict(zip(_COLUMNS, (column[order] for column in columns), strict=True))
        chunk = EventChunk(batch, **rows, earlier={}, sources={}, late={})
        return self._remember(self._put_in_order(chunk))

    def _part(
        self,
        events: NDArray[np.void],
        which: NDArray[np.bool_],
        kind: int,
        how: NDArray[np.int64],
        lifetimes: NDArray[np.int64],
        types: NDArray[np.uint8],
    ) -> list[NDArray[np.generic]]:
        index = np.flatnonzero(which)
        chosen = events[index]
        pids = self._ledger.pids(chosen["process"])
        count = len(index)
        fd = np.full(count, -1, np.int32) if kind == _PROCESS else chosen["fd"]
        return [
            chosen["at_ns"],
            np.full(count, kind, np.uint8),
            index.astype(np.int32),
            fd,
            chosen["call"],
            chosen["tid"],
            np.where(pids > 0, pids, chosen["tgid"]).astype(np.uint32),
            how[index].astype(np.uint8),
            lifetimes[index] if kind == _CLOSING else np.full(count, -1, np.int64),
            np.full(count, -1, np.int32),
            types[index],
        ]

    def _ends(self, events: NDArray[np.void]) -> Iterator[list[NDArray[np.generic]]]:
        """What the end of the last process that used a table has closed."""
        for index in np.flatnonzero((events["call"] == EXIT) & (events["flags"] & TABLE_GONE != 0)).tolist():
            event = events[index]
            state = self._ledger.state(int(event["table"]))
            count = len(state.fd)
            lived = np.where(state.opened_ns > 0, int(event["at_ns"]) - state.opened_ns, -1)
            pid = self._ledger.pids(event["process"][None])[0] or event["tgid"]
            yield [
                np.full(count, event["at_ns"]),
                np.full(count, _CLOSING, np.uint8),
                np.full(count, index, np.int32),
                state.fd.astype(np.int32),
                np.full(count, EXIT, np.uint16),
                np.full(count, event["tid"], np.uint32),
                np.full(count, pid, np.uint32),
                np.full(count, _HOW.index("exit"), np.uint8),
                lived,
                np.full(count, -1, np.int32),
                state.type,
            ]

    def _put_in_order(self, chunk: EventChunk) -> EventChunk:
        """Calls that returned in another order than the kernel did them, as far as both are in this batch.

        A close that is late goes before what opened the number again; an opening that is late, before its close. Where
        that is the order already, because the clock was looked at before the number, they are only paired.
        """
        events = chunk.batch.events
        flags = events["flags"][chunk.event]
        late = np.flatnonzero((chunk.kind == _CLOSING) & (flags & LATE != 0))
        early = np.flatnonzero((chunk.kind == _OPENING) & (flags & EARLY != 0))
        if not late.size and not early.size:
            return chunk
        tables = events["table"][chunk.event]
        place = np.arange(len(flags), dtype=float)
        columns = {name: getattr(chunk, name).copy() for name in ("at_ns", "type", "lifetime_ns", "how")}
        is_owed = (chunk.kind == _OPENING) & (flags & OWED != 0)
        is_unseen = (chunk.kind == _CLOSING) & (flags & (CLOSED | LATE) == 0) & (chunk.call != EXIT)
        is_replaced = (chunk.kind == _CLOSING) & (flags & OPENED != 0)
        stays = np.ones(len(flags), bool)
        for row, other in self._pairs(chunk, tables, late, is_owed, is_late=True):
            if other < 0:  # what was replaced was not: this had closed it, and the kernel side has taken that back
                same = (chunk.fd[:row] == chunk.fd[row]) & (tables[:row] == tables[row])
                found = np.flatnonzero(same & is_replaced[:row])
                if found.size and not (chunk.tid[found[-1] : row] == chunk.tid[row]).any():
                    replaced = found[-1]
                    is_replaced[replaced] = stays[replaced] = False
                    for name in ("at_ns", "type", "lifetime_ns"):
                        columns[name][row] = columns[name][replaced]
                    columns["how"][row], place[row] = _PAID, place[replaced]
                continue
            if other < row:
                place[row] = place[other] - 0.5
                columns["at_ns"][row] = chunk.at_ns[other]
            opening = events[chunk.event[other]]
            lived = int(opening["lifetime_ns"]) - max(0, int(chunk.at_ns[other] - chunk.at_ns[row]))
            columns["type"][row] = opening["ended_type"]
            columns["lifetime_ns"][row] = max(1, lived) if opening["lifetime_ns"] else -1
            columns["how"][[row, other]] = _PAID
        for row, other in self._pairs(chunk, tables, early, is_unseen, is_late=False):
            if other < 0:
                continue
            if other < row:
                place[row] = place[other] - 0.5
                columns["at_ns"][row] = chunk.at_ns[other]
            columns["type"][other] = chunk.type[row]
            columns["lifetime_ns"][other] = max(1, int(chunk.at_ns[other] - chunk.at_ns[row]))
        order = np.argsort(place, kind="stable")
        chunk = chunk._replace(**columns)
        return chunk.take(order[stays[order]])

    def _pairs(
        self,
        chunk: EventChunk,
        tables: NDArray[np.uint32],
        rows: NDArray[np.intp],
        free: NDArray[np.bool_],
        *,
        is_late: bool,
    ) -> Iterator[tuple[int, int]]:
        """Of each of the rows the one of those that are `free` that it belongs to; -1 where that is in no batch yet.

        Those that an earlier batch owes are left out.
        """
        owed = {key: len(known) for key, known in self._owed.items()} if is_late else {}
        for row in rows.tolist():
            key = int(tables[row]), int(chunk.fd[row])
            # A thread does one thing after the other: what it has done before this stays before it.
            own = np.flatnonzero(chunk.tid[:row] == chunk.tid[row])
            first = own[-1] + 1 if own.size else 0
            same = np.flatnonzero(free & (chunk.fd == key[1]) & (tables == key[0]))
            before, behind = same[(same >= first) & (same < row)], same[same > row]
            if not before.size and same.size and same[0] < first and is_late:
                free[same[0]] = False  # it owes this, but does not go behind it: as if it came with an earlier batch
                continue
            if before.size:
                other = int(before[0] if is_late else before[-1])
            elif owed.get(key):
                owed[key] -= 1
                continue
            else:
                other = int(behind[0]) if behind.size else -1
            if other >= 0:
                free[other] = False
            yield row, other

    def _remember(self, chunk: EventChunk) -> EventChunk:
        """Joins what is closed or duplicated with what was opened: in this batch, or before."""
        tables = chunk.batch.events["table"][chunk.event].astype(np.int64)
        opening, closing = chunk.kind == _OPENING, chunk.kind == _CLOSING
        duplicates = np.flatnonzero(opening & self._is_duplicate[chunk.call])
        closed = np.flatnonzero(closing)
        asked = np.concatenate([closed, duplicates])
        source_fds = chunk.batch.events["fd2"][chunk.event[duplicates]]
        keys = np.concatenate(
            [
                tables[opening] << 32 | chunk.fd[opening],
                tables[asked] << 32 | np.concatenate([chunk.fd[closed], source_fds]).astype(np.int64),
            ]
        )
        known, dense = np.unique(keys, return_inverse=True)
        births = np.flatnonzero(opening)
        size = len(chunk.at_ns) + 1
        places = dense[: len(births)] * size + births
        order = np.argsort(places)
        wanted = dense[len(births) :] * size + asked
        found = np.searchsorted(places[order], wanted) - 1
        is_here = (
            (found >= 0) & (places[order][np.maximum(found, 0)] // size == wanted // size)
            if births.size
            else (np.zeros(len(asked), bool))
        )
        opened_by = chunk.opened_by.copy()
        if births.size:
            opened_by[asked[is_here]] = chunk.event[births[order[found[is_here]]]]
        sources = {int(chunk.event[row]): int(opened_by[row]) for row in duplicates.tolist() if opened_by[row] >= 0}
        earlier = {}
        for key in {*known[dense[len(births) :][~is_here]].tolist()} if asked.size else ():
            earlier[key >> 32, key & 0xFFFFFFFF] = self._texts.get(key >> 32, {}).get(key & 0xFFFFFFFF)
        chunk = chunk._replace(opened_by=opened_by, earlier=earlier, sources=sources)
        late, is_behind = self._settle_late(chunk, tables)
        self._update(chunk, tables, np.flatnonzero((opening | closing) & ~is_behind))
        return chunk._replace(late=late)

    def _settle_late(
        self, chunk: EventChunk, tables: NDArray[np.int64]
    ) -> tuple[dict[int, str | None], NDArray[np.bool_]]:
        """What is closed by the late closes that an earlier batch's opening owes, by event; and their rows."""
        flags = chunk.batch.events["flags"][chunk.event]
        is_behind = np.zeros(len(flags), bool)
        late: dict[int, str | None] = {}
        for row in np.flatnonzero(flags & (LATE | OWED) != 0).tolist():
            key = int(tables[row]), int(chunk.fd[row])
            if chunk.how[row] == _PAID:
                continue
            if chunk.kind[row] == _CLOSING:
                if owed := self._owed.get(key):
                    late[int(chunk.event[row])], chunk.type[row], chunk.lifetime_ns[row] = owed.pop(0)
                    is_behind[row] = True
            else:
                earlier = np.flatnonzero(
                    (chunk.kind[:row] == _OPENING) & (chunk.fd[:row] == key[1]) & (tables[:row] == key[0])
                )
                text = (
                    text_of(self._calls, chunk, int(chunk.event[earlier[-1]]))
                    if earlier.size
                    else self._texts.get(key[0], {}).get(key[1])
                )
                opening = chunk.batch.events[chunk.event[row]]
                ended = text, int(opening["ended_type"]), int(opening["lifetime_ns"]) or -1
                self._owed.setdefault(key, []).append(ended)
        chunk.how[chunk.how == _PAID] = 0
        return late, is_behind

    def _update(self, chunk: EventChunk, tables: NDArray[np.int64], rows: NDArray[np.intp]) -> None:
        """As many steps as numbers that changed, not as there were events."""
        keys = tables[rows] << 32 | chunk.fd[rows].astype(np.int64)
        _, last = np.unique(keys[::-1], return_index=True)
        for row in rows[len(rows) - 1 - last].tolist():
            texts = self._texts.setdefault(int(tables[row]), {})
            if chunk.kind[row] == _OPENING:
                texts[int(chunk.fd[row])] = text_of(self._calls, chunk, int(chunk.event[row]))
            else:
                texts.pop(int(chunk.fd[row]), None)
        events = chunk.batch.events
        for index in np.flatnonzero((events["call"] == FORK) & (events["flags"] & FOLLOWED != 0)).tolist():
            table = self._ledger.table_of(int(events["argument"][index]))
            if table is not None and not int(events["flags"][index]) & SHARES:
                self._texts[table] = dict(self._texts.get(int(events["table"][index]), {}))
        for index in np.flatnonzero(events["flags"] & TABLE_GONE != 0).tolist():
            if events["call"][index] == EXIT:
                self._texts.pop(int(events["table"][index]), None)


def text_of(calls: Mapping[int, Call], chunk: EventChunk, index: int) -> str | None:
    """What is known of the descriptor that an event of a chunk opened: a path, or an address."""
    for _ in range(_MOST_DUPLICATIONS):
        if index not in chunk.sources:
            break
        index = chunk.sources[index]
    event = chunk.batch.events[index]
    call = calls.get(int(event["call"]))
    if call is not None and call.event == "duplicate":
        return chunk.earlier.get((int(event["table"]), int(event["fd2"])))
    return event_text(calls, chunk.batch, index)


def event_text(calls: Mapping[int, Call], batch: Batch, index: int) -> str | None:
    """What an event says of its descriptor: a path, or an address; None where it says nothing."""
    event = batch.events[index]
    call = calls.get(int(event["call"]))
    if call is None:
        return None
    if call.action in {Action.SOCKET, Action.PAIR_3}:
        return socket_kind(int(event["argument"])).words()
    if call.event == "accept":
        return _ends_of(batch, index)[0]
    if int(event["length"]) and call.event in {"open", "exec"}:
        return batch.data(index).rstrip(b"\0").decode("utf-8", "backslashreplace")
    return None


def _ends_of(batch: Batch, index: int) -> tuple[str | None, str | None]:
    """The remote and the local address of what an event accepted: the socket's own, or that which its caller got."""
    data = batch.data(index)
    if int(batch.events["flags"][index]) & ADDRESSES:
        return format_connection(data)
    return format_address(data), None


class EventMaker:
    """Turns chunks into events."""

    def __init__(
        self, calls: Mapping[int, Call], moments: Moments, find_stack: Callable[[int], Stack | None] | None = None
    ) -> None:
        """`find_stack` gives the stack behind a stack id; without it the events have none."""
        self._calls, self._moments, self._find_stack = calls, moments, find_stack
        self._has_fd = self._numbers_of({Action.CLOSE})
        self._words = {call.name: call.event for call in calls.values()}

    def _numbers_of(self, actions: Collection[Action]) -> frozenset[int]:
        return frozenset(number for number, call in self._calls.items() if call.action in actions)

    def birth(self, pid: int, fd: int, known: OpenDescriptor) -> DescriptorEvent:
        """How an open descriptor began, by the ledger alone; its thread is not named."""
        return DescriptorEvent(
            at_ns=known.at_ns,
            time=self._moments.format(known.at_ns),
            pid=pid,
            tid=known.tid,
            thread_name="",
            event=self._words[known.call],
            syscall=known.call,
            fd=fd,
            result=fd,
            type=known.type,
        )

    def events(self, chunk: EventChunk, names: Mapping[int, str]) -> Iterator[DescriptorEvent]:
        """In the order of time; `names` are those of the threads."""
        for event, stack_id in self.events_with_ids(chunk, names):
            if stack_id and self._find_stack and (stack := self._find_stack(stack_id)):
                yield msgspec.structs.replace(event, stack=self.frames(event, stack))
            else:
                yield event

    def frames(self, event: DescriptorEvent, stack: Stack) -> tuple[str, ...]:
        """What is shown of an event's stack: of a socket's all of it, otherwise the program's own frames."""
        is_whole = event.event in _WHOLE_STACKS or event.type == "socket"
        return format_frames(stack.frames) if is_whole else site_frames(stack)

    def events_with_ids(self, chunk: EventChunk, names: Mapping[int, str]) -> Iterator[tuple[DescriptorEvent, int]]:
        """The events without their stacks, and the ids of these; 0 where there is none."""
        stacks = chunk.batch.events["stack"]
        columns = (getattr(chunk, name).tolist() for name in _COLUMNS)
        for row in map(_Row._make, zip(*columns, strict=True)):
            if row.kind == _CLOSING:
                yield self._closing(chunk, row, names), 0
            elif row.kind == _OPENING:
                yield self._opening(chunk, row, names), int(stacks[row.event])
            elif row.kind == _SOCKET_USE:
                yield self._socket_use(chunk, row, names), int(stacks[row.event])
            else:
                yield self._other(chunk, row, names), int(stacks[row.event]) if row.kind == _FAILURE else 0

    def _event(self, row: _Row, names: Mapping[int, str], **more: object) -> DescriptorEvent:
        return DescriptorEvent(
            at_ns=row.at_ns,
            time=self._moments.format(row.at_ns),
            pid=row.pid,
            tid=row.tid,
            thread_name=names.get(row.tid, ""),
            **more,  # type: ignore[arg-type]
        )

    def _closing(self, chunk: EventChunk, row: _Row, names: Mapping[int, str]) -> DescriptorEvent:
        if row.event in chunk.late:
            path = chunk.late[row.event]
        elif row.opened_by >= 0:
            path = text_of(self._calls, chunk, row.opened_by)
        else:
            path = chunk.earlier.get((int(chunk.batch.events["table"][row.event]), row.fd))
        return self._event(
            row,
            names,
            event="close",
            syscall=self._calls[row.call].name,
            fd=row.fd,
            how=_HOW[row.how],
            type=TYPE_NAMES[row.type],
            path=path,
            lifetime_ns=row.lifetime_ns if row.lifetime_ns >= 0 else None,
        )

    def _opening(self, chunk: EventChunk, row: _Row, names: Mapping[int, str]) -> DescriptorEvent:
        known = self._calls[row.call]
        record = chunk.batch.events[row.event]
        text = text_of(self._calls, chunk, row.event)
        source = int(record["fd2"]) if known.event in {"duplicate", "accept", "receive"} else -1
        family = socket_type = protocol = None
        if known.action in {Action.SOCKET, Action.PAIR_3} or (row.type == _SOCKET and record["argument"]):
            family, socket_type, protocol = socket_kind(int(record["argument"]))
        if known.action in {Action.SOCKET, Action.PAIR_3}:
            text = None
        is_accept = known.event == "accept"
        local = _ends_of(chunk.batch, row.event)[1] if is_accept else None
        return self._event(
            row,
            names,
            event=known.event,
            syscall=known.name,
            fd=row.fd,
            result=int(record["result"]),
            type=TYPE_NAMES[row.type],
            inode=int(record["inode"]) or None,
            path=None if is_accept else text,
            remote=text if is_accept else None,
            local=local,
            family=family,
            socket_type=socket_type,
            protocol=protocol,
            source_fd=source if source >= 0 else None,
        )

    def _other(self, chunk: EventChunk, row: _Row, names: Mapping[int, str]) -> DescriptorEvent:
        known = self._calls[row.call]
        record = chunk.batch.events[row.event]
        result = int(record["result"])
        is_process, is_change = row.kind == _PROCESS, row.kind == _CLOEXEC_CHANGE
        family = socket_type = protocol = None
        if known.action in {Action.SOCKET, Action.PAIR_3}:
            family, socket_type, protocol = socket_kind(int(record["argument"]))
        has_fd = row.kind == _CLOEXEC_CHANGE or row.call in self._has_fd
        return self._event(
            row,
            names,
            event="close_on_exec" if is_change else known.event,
            syscall=known.name if not is_process or row.call == EXEC else None,
            fd=row.fd if has_fd and row.fd >= 0 else None,
            result=None if is_process else result,
            error=error_name(-result) if row.kind in {_FAILURE, _EMPTY} else None,
            path=event_text(self._calls, chunk.batch, row.event) if family is None else None,
            family=family,
            socket_type=socket_type,
            protocol=protocol,
            close_on_exec=bool(int(record["argument"]) & 1) if is_change else None,
            child_pid=int(record["fd2"]) if row.call == FORK else None,
            child_tid=int(record["fd"]) if row.call == FORK else None,
            shares_descriptors=bool(int(record["flags"]) & SHARES) if row.call == FORK else None,
        )

    def _socket_use(self, chunk: EventChunk, row: _Row, names: Mapping[int, str]) -> DescriptorEvent:
        known = self._calls[row.call]
        record = chunk.batch.events[row.event]
        result, kind, value = int(record["result"]), int(record["argument"]), int(record["fd2"])
        is_bind, address = known.event == "bind", None
        if known.action == Action.ADDRESS:
            address = format_address(chunk.batch.data(row.event), kind >> 32, is_own=is_bind)
        family, socket_type, protocol = socket_kind(kind) if kind else (None, None, None)
        return self._event(
            row,
            names,
            event=known.event,
            syscall=known.name,
            fd=row.fd,
            result=result,
            error=error_name(-result) if result < 0 else None,
            type="socket" if kind else None,
            inode=int(record["inode"]) or None,
            family=family,
            socket_type=socket_type,
            protocol=protocol,
            local=address if is_bind else None,
            remote=address if known.event == "connect" else None,
            backlog=value if known.event == "listen" else None,
            shut=_SHUT[value] if known.event == "shutdown" and 0 <= value < len(_SHUT) else None,
        )
