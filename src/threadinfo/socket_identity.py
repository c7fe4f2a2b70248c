"""Which events are of one socket, whatever numbers it has had. Pure; for whoever follows sockets through a trace.

A duplicate (dup(2), fcntl(2), a message with SCM_RIGHTS) is another number of the same socket, and what is done by any
of them is done with it. The kernel's inode tells which socket a number is; where it is not known, the numbers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from threadinfo.model import DescriptorEvent

MADE = frozenset({"socket", "accept"})
"""Events that make a socket."""
NUMBERED = frozenset({"duplicate", "receive"})
"""Events that give a socket another number."""

UNDER_WAY = frozenset({"EINPROGRESS", "EALREADY", "EISCONN"})
"""What connect(2) says of a connection that is being made, or is made by now: no failures."""

T = TypeVar("T")


CLOCK_NS = 8
"""The ledger rounds moments to less than this."""


class Sockets(Generic[T]):
    """What is kept of each socket of one process, found by its events, in the order of time."""

    def __init__(self, make: Callable[[], T], most: int | None = None) -> None:
        """`most`: how many are known by their inodes, the latest; None: all."""
        self._make, self._most = make, most
        self._by_number: dict[int, T] = {}
        self._since_ns: dict[int, int] = {}  # of a number that was given during the trace
        self._displaced: dict[int, T] = {}  # whose number another has, and whose close has not been told
        self._inode_of: dict[int, int] = {}  # of a number, the last that was told
        self._by_inode: dict[int, T] = {}  # also of those without a number: one may be on its way in a message

    def of_event(self, event: DescriptorEvent) -> T:
        """What is kept of the socket that an event is of; it is made where none is known."""
        if event.error and event.fd is None:
            return self._make()
        if self._is_of_displaced(event):
            return self._displaced.pop(event.fd or 0)
        kept = self._make() if event.event in MADE else self._find(event)
        if event.event == "duplicate" and event.source_fd is not None:
            self._by_number[event.source_fd] = kept  # a source that is older than the trace has had no event yet
        if event.inode is not None:
            self._by_inode[event.inode] = kept
            if event.fd is not None:
                self._inode_of[event.fd] = event.inode
            if self._most is not None and len(self._by_inode) > self._most:
                del self._by_inode[next(iter(self._by_inode))]
        if event.fd is not None:
            self._take_number(event, event.fd, kept)
        return kept

    def of_number(self, fd: int) -> T | None:
        """What is kept of the socket that has a number now."""
        return self._by_number.get(fd)

    def _take_number(self, event: DescriptorEvent, fd: int, kept: T) -> None:
        if event.event == "close" and not event.error:
            self._by_number.pop(fd, None)
            self._since_ns.pop(fd, None)
            self._inode_of.pop(fd, None)
            return
        if event.event in MADE | NUMBERED:
            if (before := self._by_number.get(fd, kept)) is not kept:
                self._displaced[fd] = before
            self._since_ns[fd] = event.at_ns
        self._by_number[fd] = kept

    def _is_of_displaced(self, event: DescriptorEvent) -> bool:
        """Whether what is closed is older than what has its number now.

        Of two calls on two CPUs, one frees the number and the other is given it: their moments may say the contrary.
        """
        if event.event != "close" or event.error or event.fd not in self._displaced:
            return False
        born_ns = 0 if event.lifetime_ns is None else event.at_ns - event.lifetime_ns
        return event.fd not in self._by_number or born_ns < self._since_ns.get(event.fd, 0) - CLOCK_NS

    def _find(self, event: DescriptorEvent) -> T:
        if event.inode is not None:
            if (kept := self._by_inode.get(event.inode)) is not None:
                return kept
            if event.event in NUMBERED:  # of one that is older than the trace
                return self._make()
            if self._inode_of.get(event.fd or 0, event.inode) != event.inode:  # not told: one's close, another's birth
                return self._make()
        number = event.source_fd if event.event == "duplicate" else None if event.event == "receive" else event.fd
        kept = None if number is None else self.of_number(number)
        return self._make() if kept is None else kept
