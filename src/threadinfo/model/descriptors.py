"""A descriptor: what it is, who serves it, who made it."""

from __future__ import annotations

import msgspec

from threadinfo.model.events import DescriptorEvent
from threadinfo.model.sockets import Socket
from threadinfo.model.values import Details


class Served(msgspec.Struct, frozen=True):
    """A thread that waits for, or is busy with, a descriptor."""

    tid: int
    thread_name: str
    how: str
    """The system call that the thread is in, for example "accept4" or "epoll_wait on FD 5"."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The birth of a descriptor, as tracing saw it."""

    opened_at: str
    """UTC, ISO 8601, to the microsecond."""
    syscall: str
    tid: int
    thread_name: str
    stack: tuple[str, ...] = ()
    """Innermost first; empty where no stack was taken."""
    library: str | None = None
    """The file of the innermost frame that is not the C library's."""
    maker: str | None = None
    """Who made it, in words; null where no stack is known."""
    events: tuple[DescriptorEvent, ...] = ()
    """Of a socket, by whatever number: bind, listen, connect, shutdown, and how it came to other numbers; first how the
    socket was made, where that was by another number than this."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """One open file descriptor."""

    fd: int
    type: str
    """What it is: one of `descriptor_kinds.KINDS`."""
    target: str
    """What /proc/PID/fd/FD points to, as the kernel says it."""
    description: str
    """What it is, in words."""
    inode: int | None = None
    details: Details = {}
    served_by: tuple[Served, ...] = ()
    socket: Socket | None = None
    origin: Origin | None = None
    """How tracing saw it made; null where it is older than the trace, or without one."""
