"""What a Unix socket is: /proc/net/unix, sock_diag(7) and the socket itself, put together. Pure functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from threadinfo.model import Details, Socket
from threadinfo.proc import socket_tables
from threadinfo.proc.socket_tables import SocketEntry
from threadinfo.proc.standing import Shut, UnixFacts, unix_standing

if TYPE_CHECKING:
    from threadinfo.proc.borrow import Borrowed
    from threadinfo.proc.sock_diag import Answers, UnixPeer

_TCP_ESTABLISHED, _TCP_LISTEN = 1, 10  # include/net/tcp_states.h; Unix sockets use them too
_SHUT: dict[int, Shut] = {1: "receiving", 2: "sending", 3: "both"}


def needs_asking(inode: int, answers: Answers | None) -> bool:
    """Whether the socket itself knows more: sock_diag did not answer, or does not know the other end's name.

    It does not where the other end is closed, is not accepted yet, or is in another network namespace.
    """
    peer = answers.unix.get(inode) if answers is not None else None
    if answers is None or peer is None:
        return True
    return peer.peer_inode is not None and peer.peer_inode not in answers.unix and inode not in answers.unix_waiting


def tell_unix(
    inode: int,
    *,
    entry: SocketEntry | None,
    answers: Answers | None,
    borrowed: Borrowed | None,
    protocol_name: str | None,
    inodes: Mapping[int, Sequence[int]],
) -> tuple[Socket, Details]:
    """A Unix socket and its details, from whichever sources spoke; `inodes` are those that the process holds."""
    peer = answers.unix.get(inode) if answers is not None else None
    facts = _facts(inode, entry, answers, borrowed, protocol_name)
    standing, came_by = unix_standing(facts)
    details: Details = {}
    remote = facts.peer_name or None
    if remote:
        details["peer_name"] = remote
    if peer is not None and peer.peer_inode:
        details["peer_inode"] = peer.peer_inode
        details["peer_fds"] = list(inodes.get(peer.peer_inode, ()))
        remote = remote or f"socket:[{peer.peer_inode}]"
    if peer is not None and peer.backlog_count is not None:
        details["backlog_count"] = peer.backlog_count
        details["backlog_limit_count"] = peer.backlog_limit_count
    for key, value in (("came_by", came_by), ("shut", facts.shut), ("peer_closed", facts.peer_is_closed)):
        if value:
            details[key] = value
    state = {"listening": "LISTEN", "unbound": "UNCONNECTED", "bound": "UNCONNECTED", None: None}.get(
        standing, "CONNECTED"
    )
    return (
        Socket(
            family="AF_UNIX",
            type=facts.type,
            protocol="UNIX",
            state=state,
            local=facts.name or None,
            remote=remote,
            bound=None if facts.name is None else bool(facts.name),
            standing=standing,
        ),
        details,
    )


def _facts(
    inode: int,
    entry: SocketEntry | None,
    answers: Answers | None,
    borrowed: Borrowed | None,
    protocol_name: str | None,
) -> UnixFacts:
    """Of each fact what the best source says: sock_diag, the socket itself, the table.

    A line of the table may be a path that pretends to be one, hence it comes last. That a datagram socket is connected
    it says of the receiver too, which has a name.
    """
    peer = answers.unix.get(inode) if answers is not None else None
    if answers is not None and peer is not None:
        return _facts_of_sock_diag(inode, peer, answers, borrowed)
    if borrowed is not None:
        is_connected = borrowed.remote is not None
        return UnixFacts(
            type=socket_tables.SOCKET_TYPES.get(borrowed.type, str(borrowed.type)),
            name=_borrowed_name(borrowed.local),
            listens=borrowed.listens,
            is_connected=is_connected,
            peer_name=_borrowed_name(borrowed.remote),
            shut="both" if borrowed.has_ended else "receiving" if borrowed.receives_no_more else None,
        )
    if entry is not None:
        is_connected = entry.state == "CONNECTED"
        return UnixFacts(
            type=entry.type,
            name=entry.local or "",
            listens=entry.state == "LISTEN",
            is_connected=None if entry.type == "SOCK_DGRAM" and is_connected and entry.local else is_connected,
        )
    kind = "SOCK_STREAM" if protocol_name == "UNIX-STREAM" else None
    return UnixFacts(type=kind, name=None, listens=None, is_connected=None)


def _facts_of_sock_diag(inode: int, peer: UnixPeer, answers: Answers, borrowed: Borrowed | None) -> UnixFacts:
    kind = socket_tables.SOCKET_TYPES.get(peer.type, str(peer.type))
    is_datagram = kind == "SOCK_DGRAM"
    # An end that closes shuts its peer, unless they send datagrams; one that nobody has accepted has no inode either.
    waits = inode in answers.unix_waiting or (peer.peer_inode == 0 and peer.shutdown != 3 and not is_datagram)
    other = answers.unix.get(peer.peer_inode) if peer.peer_inode else None
    peer_name = answers.unix_waiting.get(inode) if other is None else other.name or ""
    if peer_name is None and borrowed is not None:
        peer_name = _borrowed_name(borrowed.remote)
    return UnixFacts(
        type=kind,
        name=peer.name or "",
        listens=peer.state == _TCP_LISTEN,
        is_connected=peer.peer_inode is not None and (is_datagram or peer.state == _TCP_ESTABLISHED),
        waits=waits,
        peer_is_closed=peer.peer_inode == 0 and not waits,
        peer_name=peer_name,
        shut=_SHUT.get(peer.shutdown),
        is_listeners_name=peer.name in answers.unix_listeners,
        is_peer_listeners_name=peer_name in answers.unix_listeners,
    )


def _borrowed_name(name: object) -> str | None:
    """Python gives a path as text, an abstract name as bytes; both as /proc and sock_diag would have them."""
    if not isinstance(name, str | bytes):
        return None
    from threadinfo.proc.sock_diag import unix_name  # noqa: PLC0415 - loaded already where a socket was borrowed

    return unix_name(os.fsencode(name)) if name else ""
