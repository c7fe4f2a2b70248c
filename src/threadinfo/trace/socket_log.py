"""What happened to sockets during a trace, from birth to death: the first events, and what is still open."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from threadinfo.model import DescriptorEvent
from threadinfo.trace.call_sites import CallSites
from threadinfo.trace.calls import ON_SOCKET, Call
from threadinfo.trace.descriptor_events import EventMaker, make_chunk
from threadinfo.trace.descriptor_records import Batch
from threadinfo.trace.site_groups import entry_point
from threadinfo.trace.tables import BatchResult, TypeTable

MOST_EVENTS = 10_000
_MOST_OF_ONE = 16
_NO_NAMES: Mapping[int, str] = {}


class _Logged(NamedTuple):
    event: DescriptorEvent
    stack: int


class SocketLog:
    """Of one process. Threads are named by whoever shows it."""

    def __init__(self, calls: Mapping[int, Call], types: TypeTable, maker: EventMaker) -> None:
        self._calls, self._types, self._maker = calls, types, maker
        self._socket = types.code("socket")
        self._uses = np.zeros(max(calls) + 8, bool)
        self._uses[[number for number, call in calls.items() if call.action in ON_SOCKET]] = True
        self._events: list[_Logged] = []
        self._latest: dict[int, deque[_Logged]] = {}  # by number, of those that are used after the log is full
        self.omitted_count = 0
        """Events after the log was full."""

    def add(self, batch: Batch, result: BatchResult) -> None:
        """What a batch did to one table."""
        applied = result.applied
        is_used = self._uses[batch.take(result.which)["call"]].any()
        if not is_used and not ((result.birth_types == self._socket) | (result.death_types == self._socket)).any():
            return
        chunk = make_chunk(batch, result, self._calls, self._types).only_type(self._socket)
        room = MOST_EVENTS - len(self._events)
        self._events += [_Logged(*one) for one in self._maker.numbered_events(chunk.take(slice(room)), _NO_NAMES)]
        rest = chunk.take(slice(room, None))
        if not len(rest.at_ns):
            return
        self.omitted_count += len(rest.at_ns)
        numbers = applied.changes.fd[applied.is_last_birth]
        alive = np.zeros(max(int(rest.fd.max(initial=0)), int(numbers.max(initial=0))) + 1, np.int64)
        alive[numbers] = applied.changes.at_ns[applied.is_last_birth]
        lasting = rest.take((rest.fd >= 0) & (rest.at_ns >= alive[rest.fd]) & self._uses[rest.call])
        for event, stack in self._maker.numbered_events(lasting, _NO_NAMES):
            if event.fd is not None:
                self._latest.setdefault(event.fd, deque(maxlen=_MOST_OF_ONE)).append(_Logged(event, stack))

    def events(self, sites: CallSites | None) -> Iterator[DescriptorEvent]:
        """The first `MOST_EVENTS`, with their stacks where they are known."""
        for logged in self._events:
            yield self._with_stack(logged, sites)

    def of_open(self, born_ns: Mapping[int, int], sites: CallSites | None) -> dict[int, list[DescriptorEvent]]:
        """What was done with each number that is open at the end, since it was born; `born_ns` by number."""
        found: dict[int, list[DescriptorEvent]] = {}
        later = [logged for of_one in self._latest.values() for logged in of_one]
        for logged in (*self._events, *later):
            fd = logged.event.fd
            is_use = logged.event.event in {"bind", "listen", "connect", "shutdown"}
            if fd is not None and fd in born_ns and is_use and logged.event.at_ns >= born_ns[fd]:
                found.setdefault(fd, []).append(self._with_stack(logged, sites))
        return found

    def _with_stack(self, logged: _Logged, sites: CallSites | None) -> DescriptorEvent:
        stack = sites.stack(logged.stack) if sites and logged.stack else None
        if stack is None:
            return logged.event
        event = msgspec.structs.replace(logged.event, stack=self._maker.frames(logged.event, stack))
        is_birth = event.event in {"socket", "accept", "receive"}
        return msgspec.structs.replace(event, maker=entry_point(stack).words()) if is_birth else event
