"""What happened to sockets during a trace, from opening to end: as many stories as have room, the rare ones first."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from threadinfo.model import DescriptorEvent
from threadinfo.socket_identity import CLOCK_NS, MADE, NUMBERED, Sockets
from threadinfo.socket_story import is_failure
from threadinfo.trace.descriptors.events import EventChunk, EventMaker
from threadinfo.trace.descriptors.ledger import OpenDescriptor
from threadinfo.trace.stacks.call_sites import CallSites
from threadinfo.trace.stacks.site_groups import entry_point

MOST_EVENTS = 10_000
_MOST_OF_ONE = 64  # first events of one socket, and as many of its last
_MOST_OF_KIND = 3  # stories of one kind, that are told before any that went as they did
_SHARE_OF_RANK = 4  # a quarter of the room for each: rare kinds, failures, what is open; what is left over is for all
_SOCKETS_KNOWN = 1 << 16  # by their inodes, those that are closed included
_USES = frozenset({"bind", "listen", "connect", "shutdown"})
_NO_NAMES: Mapping[int, str] = {}
_RARE, _FAILED, _OPEN, _OTHER = range(4)


class _Logged(NamedTuple):
    event: DescriptorEvent
    stack: int


class _Socket:
    """One socket, as long as it may be used, and its story."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.has_failed = False
        self.birth: _Logged | None = None
        self.first: list[_Logged] = []
        self.latest: deque[_Logged] = deque(maxlen=_MOST_OF_ONE)
        """What came after the first."""

    def add(self, logged: _Logged) -> None:
        """Tells of an event."""
        event = logged.event
        self.has_failed |= is_failure(event)
        if event.event in MADE:
            self.birth = logged
        (self.latest if len(self.first) >= _MOST_OF_ONE else self.first).append(logged)

    @property
    def size(self) -> int:
        """How many events are kept."""
        return len(self.first) + len(self.latest)

    def story(self) -> list[_Logged]:
        """In the order of time."""
        return [*self.first, *self.latest]

    def kind(self) -> tuple[object, ...]:
        """What it has in common with those that went the same way."""
        known = next((one.event for one in self.first if one.event.family), self.first[0].event)
        ways = dict.fromkeys((one.event.event, one.event.syscall, one.event.error) for one in self.first)
        return known.family, known.socket_type, known.protocol, *ways


class SocketLog:
    """Of one process. Threads are named by whoever shows it."""

    def __init__(self, pid: int, maker: EventMaker, most_events: int = MOST_EVENTS) -> None:
        self._pid, self._maker, self._most_events = pid, maker, most_events
        self._stories: dict[int, _Socket] = {}
        """Those that are told, by identity, in the order of their first events."""
        self._event_count = 0
        self._next_choice = 2 * most_events
        self._sockets = Sockets(_Socket, _SOCKETS_KNOWN)
        self._numbered: dict[int, tuple[_Socket, int]] = {}
        """The last socket of a number, and since when; also once it is closed: it was open shortly before the end."""
        self._used: dict[int, tuple[_Socket, int]] = {}
        """The last socket that was used by a number, and when: no record may have told of its opening."""
        self.seen: Counter[tuple[str, str | None]] = Counter()
        """Events but for closes, by call and error."""

    def add(self, chunk: EventChunk) -> None:
        """Events of sockets of this process."""
        for one in self._maker.events_with_ids(chunk, _NO_NAMES):
            self._note(_Logged(*one))
        if self._event_count > self._next_choice:
            self._leave_out()

    def _note(self, logged: _Logged) -> None:
        event = logged.event
        if event.event != "close":
            self.seen[event.syscall or "", event.error] += 1
        sock = self._sockets.of_event(event)
        if event.fd is not None and event.event in MADE | NUMBERED:
            if (before := self._numbered.get(event.fd)) is not None:
                before[0].numbers.discard(event.fd)
            self._numbered[event.fd] = sock, event.at_ns
        elif event.fd is not None and event.event in _USES:
            self._used[event.fd] = sock, event.at_ns
        if event.fd is not None and not event.error:
            (sock.numbers.discard if event.event == "close" else sock.numbers.add)(event.fd)
        self._event_count -= sock.size
        sock.add(logged)
        self._event_count += sock.size
        self._stories[id(sock)] = sock

    def _leave_out(self) -> None:
        """Makes room: of those that are closed only what would be told now is kept; what is open may yet be told."""
        told = {id(sock) for sock in self._choose(lambda sock: bool(sock.numbers))}
        for key, sock in list(self._stories.items()):
            if key not in told and not sock.numbers:
                del self._stories[key]
                sock.first, sock.birth = [], None
                sock.latest.clear()
        self._event_count = sum(sock.size for sock in self._stories.values())
        self._next_choice = self._event_count + self._most_events

    def _choose(self, is_open: Callable[[_Socket], bool], taken: int = 0) -> list[_Socket]:
        """The stories that are told: the first of each kind, failures, what is open, the rest, as many as have room.

        `taken`: how many events have room already.
        """
        ranked: tuple[list[_Socket], ...] = ([], [], [], [])
        of_kind: Counter[tuple[object, ...]] = Counter()
        for sock in self._stories.values():
            kind = sock.kind()
            of_kind[kind] += 1
            rank = _RARE if of_kind[kind] <= _MOST_OF_KIND else _FAILED if sock.has_failed else _OTHER
            ranked[_OPEN if rank == _OTHER and is_open(sock) else rank].append(sock)
        chosen: list[_Socket] = []
        room = self._most_events - taken
        left_over: list[_Socket] = []
        for rank, socks in enumerate((*ranked, left_over)):
            share = room if rank >= _OTHER else min(room, self._most_events // _SHARE_OF_RANK)
            for sock in socks:
                if sock.size <= share:
                    chosen.append(sock)
                    share, room = share - sock.size, room - sock.size
                elif rank < _OTHER:
                    left_over.append(sock)
        return chosen

    def events(self, opened: Mapping[int, OpenDescriptor], sites: CallSites | None) -> list[DescriptorEvent]:
        """Those of the stories that have room, with their stacks where they are known, in the order of time.

        `opened`: what is open at the end; where no record told of its opening, that is told by this alone.
        """
        is_of = self._of_open(opened)
        open_ones = {id(sock) for sock in is_of.values()}
        unseen = [
            _Logged(self._maker.birth(self._pid, fd, known), known.stack)
            for fd, known in opened.items()
            if known.type == "socket" and self._opened(self._numbered, fd, known) is None
        ][: self._most_events // _SHARE_OF_RANK]
        chosen = self._choose(lambda sock: id(sock) in open_ones, len(unseen))
        told = [*unseen, *(logged for sock in chosen for logged in sock.story())]
        told.sort(key=lambda logged: logged.event.at_ns)
        return [self._with_stack(logged, sites) for logged in told]

    def _of_open(self, opened: Mapping[int, OpenDescriptor]) -> dict[int, _Socket]:
        """The sockets of the numbers that are open at the end, as far as records told of them."""
        found = {
            fd: self._opened(self._numbered, fd, known) or self._opened(self._used, fd, known)
            for fd, known in opened.items()
        }
        return {fd: sock for fd, sock in found.items() if sock is not None}

    def _opened(self, of_number: Mapping[int, tuple[_Socket, int]], fd: int, known: OpenDescriptor) -> _Socket | None:
        """What a number is, where that was seen after its last opening; what it was before is another socket's."""
        sock, at_ns = of_number.get(fd, (None, 0))
        return sock if at_ns >= known.at_ns - CLOCK_NS else None

    def of_open(
        self, opened: Mapping[int, OpenDescriptor], sites: CallSites | None
    ) -> dict[int, tuple[DescriptorEvent, ...]]:
        """Of the numbers that are open at the end and were opened during the trace: what was done with their sockets.

        By whatever number, and how they came to others; where a number is not a socket's first, how it was made.
        """
        found = {}
        for fd, sock in self._of_open(opened).items():
            is_first = sock.birth is None or sock.birth.event.at_ns == self._numbered.get(fd, (sock, 0))[1]
            story = [one for one in sock.story() if one.event.event in _USES | NUMBERED]
            made = [] if is_first or sock.birth is None else [sock.birth]
            found[fd] = tuple(self._with_stack(logged, sites) for logged in (*made, *story))
        return found

    def _with_stack(self, logged: _Logged, sites: CallSites | None) -> DescriptorEvent:
        stack = sites.stack(logged.stack) if sites and logged.stack else None
        if stack is None:
            return logged.event
        event = msgspec.structs.replace(logged.event, stack=self._maker.frames(logged.event, stack))
        is_birth = event.event in {"socket", "accept", "receive"}
        return msgspec.structs.replace(event, maker=entry_point(stack).words()) if is_birth else event
