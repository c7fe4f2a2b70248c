"""What happened to sockets during a trace, from opening to end: the first events, and what is still open."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from threadinfo.model import DescriptorEvent
from threadinfo.trace.call_sites import CallSites
from threadinfo.trace.descriptor_events import EventChunk, EventMaker
from threadinfo.trace.site_groups import entry_point

MOST_EVENTS = 10_000
_MOST_OF_ONE = 16
_NO_NAMES: Mapping[int, str] = {}
_USES = {"bind", "listen", "connect", "shutdown"}


class _Logged(NamedTuple):
    event: DescriptorEvent
    stack: int


class SocketLog:
    """Of one process. Threads are named by whoever shows it."""

    def __init__(self, maker: EventMaker) -> None:
        self._maker = maker
        self._events: list[_Logged] = []
        self._latest: dict[int, deque[_Logged]] = {}  # by number, of those that are used after the log is full
        self.omitted_count = 0
        """Events after the log was full."""

    def add(self, chunk: EventChunk) -> None:
        """Events of sockets of this process."""
        room = MOST_EVENTS - len(self._events)
        self._events += [_Logged(*one) for one in self._maker.events_with_ids(chunk.take(slice(room)), _NO_NAMES)]
        rest = chunk.take(slice(room, None))
        self.omitted_count += len(rest.at_ns)
        for event, stack in self._maker.events_with_ids(rest, _NO_NAMES):
            if event.fd is None:
                continue
            if event.event in _USES:
                self._latest.setdefault(event.fd, deque(maxlen=_MOST_OF_ONE)).append(_Logged(event, stack))
            else:  # another socket has the number from now on, or none
                self._latest.pop(event.fd, None)

    def events(self, sites: CallSites | None) -> Iterator[DescriptorEvent]:
        """The first `MOST_EVENTS`, with their stacks where they are known."""
        for logged in self._events:
            yield self._with_stack(logged, sites)

    def of_open(self, opened_ns: Mapping[int, int], sites: CallSites | None) -> dict[int, list[DescriptorEvent]]:
        """What was done with each number that is open at the end, since it was opened; `opened_ns` by number."""
        found: dict[int, list[DescriptorEvent]] = {}
        later = [logged for of_one in self._latest.values() for logged in of_one]
        for logged in (*self._events, *later):
            fd = logged.event.fd
            is_use = logged.event.event in _USES
            if fd is not None and fd in opened_ns and is_use and logged.event.at_ns >= opened_ns[fd]:
                found.setdefault(fd, []).append(self._with_stack(logged, sites))
        return found

    def _with_stack(self, logged: _Logged, sites: CallSites | None) -> DescriptorEvent:
        stack = sites.stack(logged.stack) if sites and logged.stack else None
        if stack is None:
            return logged.event
        event = msgspec.structs.replace(logged.event, stack=self._maker.frames(logged.event, stack))
        is_birth = event.event in {"socket", "accept", "receive"}
        return msgspec.structs.replace(event, maker=entry_point(stack).words()) if is_birth else event
