"""How a socket stands: decided here, once, from what all sources found; describe.py and explain.py put it into words.

Pure functions. Two sources cannot contradict each other in one description, because only the decision reaches it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from threadinfo.model import Standing

CameBy = Literal["accept", "connect", "socketpair"]
"""The call that connected this end of a Unix socket."""
Shut = Literal["receiving", "sending", "both"]
"""What has ended, by shutdown(2) on this end or on the other; the words of the model's events."""

_TCP: dict[str, Standing] = {
    "ESTABLISHED": "connected",
    "SYN_SENT": "connecting",
    "SYN_RECEIVED": "connecting",
    "NEW_SYN_RECEIVED": "connecting",
    "FIN_WAIT1": "half_closed",
    "FIN_WAIT2": "half_closed",
    "CLOSE_WAIT": "half_closed",
    "LAST_ACK": "closing",
    "CLOSING": "closing",
    "TIME_WAIT": "closing",
    "LISTEN": "listening",
    "BOUND": "bound",
}


def stream_standing(
    state: str | None, *, bound: bool | None, had_connection: bool | None = None, error_pending: bool = False
) -> Standing | None:
    """Of a TCP, MPTCP or SCTP socket. The last two part those that are CLOSED; only a borrowed one tells them."""
    if state in _TCP:
        return _TCP[state]
    if state == "CLOSED" and had_connection:
        return "reset" if error_pending else "closed"
    if state == "CLOSED" and error_pending:
        return "refused"
    if bound is None:
        return None
    if state == "CLOSED":
        return "not_connected" if bound else "unbound"
    return "bound" if bound else "unbound"


def other_standing(*, bound: bool | None, remote: str | None, listens: bool = False) -> Standing | None:
    """Of any other family: what has no connection of its own is connected where it has a peer."""
    if listens:
        return "listening"
    if remote is not None:
        return "connected"
    return None if bound is None else "bound" if bound else "unbound"


class UnixFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the sources say of a Unix socket; None where none of them does."""

    type: str | None
    name: str | None
    """"" for none."""
    listens: bool | None
    is_connected: bool | None
    """Whether it has a peer: of a datagram socket one that it connected to, not one that is connected to it."""
    waits: bool = False
    """Whether it is in a listener's backlog."""
    peer_is_closed: bool | None = None
    peer_name: str | None = None
    """"" for none."""
    shut: Shut | None = None
    is_listeners_name: bool | None = None
    """Whether a listener has the same name."""
    is_peer_listeners_name: bool | None = None


class UnixStanding(NamedTuple):
    """What follows from the facts."""

    standing: Standing | None
    came_by: CameBy | None


def unix_standing(facts: UnixFacts) -> UnixStanding:
    """How a Unix socket stands, and which call connected it."""
    if facts.listens:
        return UnixStanding("listening", None)
    if facts.is_connected is None:
        return UnixStanding(None, None)
    if not facts.is_connected:
        standing: Standing | None = None if facts.name is None else "bound" if facts.name else "unbound"
        return UnixStanding(standing, None)
    came_by = _came_by(facts)
    if facts.waits:
        return UnixStanding("waiting", came_by)
    if facts.peer_is_closed or facts.shut == "both":
        return UnixStanding("closed", came_by)
    return UnixStanding("half_closed" if facts.shut else "connected", came_by)


def _came_by(facts: UnixFacts) -> CameBy | None:
    """A listener has a name, and what is accepted takes it over: so the end with a name is the one that was accepted.

    A client may have bound itself before: then both have one, and the one of a listener tells.
    """
    if facts.waits:
        return "connect"
    if facts.type == "SOCK_DGRAM":
        return None if facts.peer_name is None else "connect" if facts.peer_name else "socketpair"
    match facts.name, facts.peer_name:
        case None, _:
            return None
        case "", "":
            return "socketpair"
        case "", str():
            return "connect"
        case str(), "":
            return "accept"
    if facts.is_listeners_name and not facts.is_peer_listeners_name:
        return "accept"
    if facts.is_peer_listeners_name and not facts.is_listeners_name:
        return "connect"
    return None
