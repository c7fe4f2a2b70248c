"""What happened to sockets during a trace, from opening to end: the first events, and what is still open."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from threadinfo.model import DescriptorEvent
from threadinfo.socket_identity import CLOCK_NS, MADE, NUMBERED, Sockets
from threadinfo.trace.descriptors.events import EventChunk, EventMaker
from threadinfo.trace.descriptors.ledger import OpenDescriptor
from threadinfo.trace.stacks.call_sites import CallSites
from threadinfo.trace.stacks.site_groups import entry_point

MOST_EVENTS = 10_000
_MOST_OF_ONE = 16
_NO_NAMES: Mapping[int, str] = {}
_USES = {"bind", "listen", "connect", "shutdown"}


class _Logged(NamedTuple):
    event: DescriptorEvent
    stack: int


class _Socket:
    """One socket, as long as it may be used."""

    def __init__(self) -> None:
        self.birth: _Logged | None = None
        self.first: list[_Logged] = []
        self.latest: deque[_Logged] = deque(maxlen=_MOST_OF_ONE)
        """What was done after the log was full."""


class SocketLog:
    """Of one process. Threads are named by whoever shows it."""

    def __init__(self, maker: EventMaker) -> None:
        self._maker = maker
        self._events: list[_Logged] = []
        self._sockets = Sockets(_Socket)
        self._numbered: dict[int, tuple[_Socket, int]] = {}
        """The last socket of a number, and since when; also once it is closed: it was open shortly before the end."""
        self.omitted_count = 0
        """Events after the log was full."""

    def add(self, chunk: EventChunk) -> None:
        """Events of sockets of this process."""
        for one in self._maker.events_with_ids(chunk, _NO_NAMES):
            logged = _Logged(*one)
            is_full = len(self._events) >= MOST_EVENTS
            if is_full:
                self.omitted_count += 1
            else:
                self._events.append(logged)
            self._note(logged, is_full=is_full)

    def _note(self, logged: _Logged, *, is_full: bool) -> None:
        event = logged.event
        if event.fd is None:
            return
        sock = self._sockets.of_event(event)
        if event.event in MADE:
            sock.birth = logged
        if event.event in MADE | NUMBERED:
            self._numbered[event.fd] = sock, event.at_ns
        if event.event in _USES | NUMBERED:
            (sock.latest if is_full else sock.first).append(logged)

    def events(self, sites: CallSites | None) -> Iterator[DescriptorEvent]:
        """The first `MOST_EVENTS`, with their stacks where they are known."""
        for logged in self._events:
            yield self._with_stack(logged, sites)

    def of_open(
        self, opened: Mapping[int, OpenDescriptor], sites: CallSites | None
    ) -> dict[int, tuple[DescriptorEvent, ...]]:
        """Of the numbers that are open at the end and were opened during the trace: what was done with their sockets.

        By whatever number, and how they came to others; where a number is not a socket's first, how it was made.
        """
        found = {}
        for fd, known in opened.items():
            if fd not in self._numbered:
                continue
            sock, since_ns = self._numbered[fd]
            # The record of its last opening may be lost: what the number was before is another socket's.
            if since_ns >= known.at_ns - CLOCK_NS:
                is_first = sock.birth is None or sock.birth.event.at_ns == since_ns
                made = [] if is_first or sock.birth is None else [sock.birth]
                found[fd] = tuple(self._with_stack(logged, sites) for logged in (*made, *sock.first, *sock.latest))
        return found

    def _with_stack(self, logged: _Logged, sites: CallSites | None) -> DescriptorEvent:
        stack = sites.stack(logged.stack) if sites and logged.stack else None
        if stack is None:
            return logged.event
        event = msgspec.structs.replace(logged.event, stack=self._maker.frames(logged.event, stack))
        is_birth = event.event in {"socket", "accept", "receive"}
        return msgspec.structs.replace(event, maker=entry_point(stack).words()) if is_birth else event
