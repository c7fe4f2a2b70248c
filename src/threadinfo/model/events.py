"""One occurrence in the life of a descriptor, and of a socket."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

EventKind: TypeAlias = Literal[
    "open",
    "close",
    "duplicate",
    "socket",
    "accept",
    "pipe",
    "receive",
    "bind",
    "listen",
    "connect",
    "shutdown",
    "close_on_exec",
    "fork",
    "exec",
    "exit",
]
"""What happened to a descriptor or its process; "open" is every birth that has no word of its own."""


class DescriptorEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something happened to a descriptor: an event of the live stream. What does not apply is left out."""

    at_ns: int
    """CLOCK_MONOTONIC, when the call returned."""
    time: str
    """The same moment, UTC, ISO 8601."""
    pid: int
    tid: int
    thread_name: str
    event: EventKind
    syscall: str | None = None
    fd: int | None = None
    """The descriptor that was born, closed or marked; absent where a call failed."""
    result: int | None = None
    error: str | None = None
    """For example "EMFILE"; absent where the call succeeded."""
    type: str | None = None
    inode: int | None = None
    """Of a socket: the same whatever numbers it has, and in every process; absent of its ends and where not known."""
    path: str | None = None
    """What was opened, or what the kernel calls it."""
    family: str | None = None
    socket_type: str | None = None
    protocol: str | None = None
    local: str | None = None
    """What a socket was bound to, or accepted at; of an accepted Unix socket in a report only."""
    remote: str | None = None
    backlog: int | None = None
    """Of listen(2)."""
    shut: Literal["receiving", "sending", "both"] | None = None
    """Of shutdown(2)."""
    stack: tuple[str, ...] = ()
    """The frames that made the call, innermost first; those of a socket's calls down to the thread's start."""
    maker: str | None = None
    """Of the birth of a socket, in a report: who made it, in words."""
    source_fd: int | None = None
    """What was duplicated, listened on or received from."""
    how: Literal["close", "replaced", "exec", "exit"] | None = None
    """Of a close."""
    lifetime_ns: int | None = None
    """Of a close, where the birth was seen."""
    close_on_exec: bool | None = None
    """What it was set to."""
    child_pid: int | None = None
    child_tid: int | None = None
    shares_descriptors: bool | None = None
    """Whether the child uses the same table."""


class SocketCalls(msgspec.Struct, frozen=True):
    """How often a call made, numbered or used sockets, or failed to."""

    syscall: str
    error: str | None
    """For example "ECONNREFUSED", and "EINPROGRESS" of a connection under way; null: it worked."""
    count: int
    """Of calls that make sockets, the sockets: socketpair makes two."""


class SocketTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the sockets of a process."""

    events: tuple[DescriptorEvent, ...]
    """In the order of time: whole stories, ten thousand events at the most. The first of each kind, failures and what
    is open have a quarter of the room each, before the others."""
    omitted_count: int
    """Calls that are counted in `calls` and are not among the events."""
    made_count: int | None = None
    """Sockets that were made, accepted or received; null in reports of earlier versions."""
    calls: tuple[SocketCalls, ...] = ()
    """Every call, whether or not an event tells of it; accepts that found nobody are in `empty_by_syscall`."""
