"""What a socket is, how it stands, and who probably made it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """Who probably made a socket: the kernel does not record it, so without a trace this is what can be seen."""

    words: str
    """For example "libwebsockets' routing socket, one per context (lws_create_context)"."""
    library: str
    confidence: Literal["likely", "possible"]
    """"possible" where much other code makes such a socket too."""
    evidence: tuple[str, ...]
    """What speaks for it, for example "libwebsockets.so.19 is mapped"; a file may be called anything."""
    source: str
    """Where the library's own source says so."""


Standing: TypeAlias = Literal[
    "unbound",
    "bound",
    "listening",
    "waiting",
    "connecting",
    "connected",
    "half_closed",
    "closing",
    "closed",
    "reset",
    "not_connected",
    "refused",
]
"""How a socket stands, decided once (proc/standing.py) from all that was found of it; the words follow it.

unbound: neither address nor peer. bound: an address alone. waiting: connected, in the listener's backlog. half_closed:
one direction has ended. closing: both have, the last confirmation is missing. closed: it had a connection, of which
nothing is left. reset: the same, and the error is unread. not_connected: no connection came about, or its listener was
shut down. refused: no connection came about, and the error is unread.
"""


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket is, found from outside the process."""

    family: str | None = None
    """For example "AF_INET"; None where nothing tells."""
    type: str | None = None
    """For example "SOCK_STREAM"."""
    protocol: str | None = None
    """For example "TCP", "UNIX", "NETLINK_ROUTE"."""
    state: str | None = None
    """For example "LISTEN"; None for sockets that have no state."""
    local: str | None = None
    remote: str | None = None
    port: int | None = None
    """The local port, of those families that have ports."""
    bound: bool | None = None
    """Whether it has a local address; None is unknown."""
    role: str | None = None
    """What the user calls this port, for example "web server"."""
    standing: Standing | None = None
    """None is not known, or a kind of socket that nothing tells this of."""
    evidence: tuple[str, ...] = ()
    """Which sources spoke, in the order asked, for example "/proc/PID/net/tcp"."""
    explanation: str | None = None
    """Which kind of socket it is and why, in a sentence; in a report with details only."""
    ambiguous: bool = False
    """Whether the explanation names several stories that look the same from outside: only a trace tells which."""
    inference: Inference | None = None
    """Who probably made it; null where nothing speaks for anybody, or a trace saw which library did."""
