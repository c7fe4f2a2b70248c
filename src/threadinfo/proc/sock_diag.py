"""What only sock_diag(7) tells: peers of Unix sockets, backlogs, dual-stack listeners, idle bound ones, netlink types.

Written here rather than taken from a netlink library: a plain report asks for this whenever the target holds a Unix
socket, and the libraries take longer to import than the whole report takes (docs/how-it-works.md, "Dependencies").
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator

import msgspec

from threadinfo.proc.reader import decode

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_SO_NETNS_COOKIE = 71
_RECEIVE_BYTES = 1 << 18

_UNIX_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_UNIX_ANSWER = struct.Struct("=BBBBIII")  # struct unix_diag_msg
_UDIAG_SHOW_NAME, _UDIAG_SHOW_PEER, _UDIAG_SHOW_ICONS, _UDIAG_SHOW_RQLEN = 0x01, 0x04, 0x08, 0x10
_UNIX_DIAG_NAME, _UNIX_DIAG_PEER, _UNIX_DIAG_ICONS, _UNIX_DIAG_RQLEN, _UNIX_DIAG_SHUTDOWN = 0, 2, 3, 4, 6

_NETLINK_REQUEST = struct.Struct("=BBHIIII")  # struct netlink_diag_req
_NETLINK_ANSWER = struct.Struct("=BBBBIIIIII")  # struct netlink_diag_msg
_NDIAG_PROTO_ALL, _NDIAG_SHOW_GROUPS, _NETLINK_DIAG_GROUPS = 0xFF, 0x02, 1

_INET_REQUEST = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2
_INET_ANSWER = struct.Struct("=BBBB2s2x16s28xIIIII")  # struct inet_diag_msg
_INET_DIAG_SKV6ONLY = 11
_LISTEN, _BOUND_INACTIVE = 10, 13
_UNIX_LISTEN = 10


class UnixPeer(msgspec.Struct, frozen=True, kw_only=True):
    """What sock_diag says of a Unix socket."""

    type: int
    """SOCK_STREAM and so on."""
    state: int
    """TCP_ESTABLISHED (1), TCP_CLOSE (7) or TCP_LISTEN (10)."""
    name: str | None
    """Its path; an abstract name begins with "@", a NUL in it is shown as "@" too, as in /proc/net/unix."""
    peer_inode: int | None
    """None where it is not connected; 0 where its other end is closed, or was not accepted yet."""
    shutdown: int
    """1: it receives no more, 2: it sends no more, 3: both; by a call on this end or on the other."""
    backlog_count: int | None
    """Connections that wait to be accepted, of a listener."""
    backlog_limit_count: int | None


class NetlinkSocket(msgspec.Struct, frozen=True):
    """What sock_diag says of a netlink socket with a port id."""

    type: int
    protocol: int
    groups: int
    """All of them, as a bit mask: the table /proc/net/netlink has the first 32."""


class Listener(msgspec.Struct, frozen=True):
    """What sock_diag says of a TCP listener."""

    backlog_count: int
    backlog_limit_count: int
    ipv6_only: bool | None
    """None for IPv4."""


class Answers(msgspec.Struct, frozen=True):
    """One visit's harvest, by inode."""

    namespace_cookie: int | None
    """SO_NETNS_COOKIE of the namespace that was asked."""
    unix: dict[int, UnixPeer]
    unix_listeners: frozenset[str]
    """The names of Unix listeners."""
    unix_waiting: dict[int, str]
    """Clients that wait to be accepted, with the name of their listener."""
    netlink: dict[int, NetlinkSocket]
    listeners: dict[int, Listener]
    bound_inactive: dict[int, tuple[str, int]] | None
    """Addresses of TCP sockets that are bound and do nothing else; None where the kernel (before 6.8) lists none."""
    interfaces: dict[int, str]
    """Names of network interfaces by index."""


def ask(wanted: Collection[int], *, with_unix: bool, with_tcp: bool, with_netlink: bool) -> Answers:
    """Asks the namespace that the calling thread is in; raises OSError where the kernel refuses.

    Every Unix socket is in the answer, because any may be the other end of one that is `wanted`.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.bind((0, 0))
        listeners: dict[int, Listener] = {}
        bound_inactive: dict[int, tuple[str, int]] = {}
        lists_inactive = False
        if with_tcp:
            for family in (socket.AF_INET, socket.AF_INET6):
                try:
                    for state, inode, listener, address in _tcp(diag, family):
                        if state == _LISTEN:
                            listeners[inode] = listener
                        else:  # the kernel gives their state as CLOSE; one before 6.8 gives none
                            bound_inactive[inode] = address
                except OSError:  # this kernel has no inet_diag, or no IPv6
                    continue
            lists_inactive = bool(bound_inactive) or _kernel_lists_inactive(diag)
        unix = dict(_unix(diag)) if with_unix else {}
        may_wait = any(inode in unix and unix[inode].peer_inode == 0 for inode in wanted)
        return Answers(
            namespace_cookie=_namespace_cookie(diag),
            unix=unix,
            unix_listeners=frozenset(one.name for one in unix.values() if one.state == _UNIX_LISTEN and one.name),
            unix_waiting=dict(_unix_waiting(diag)) if may_wait else {},
            netlink=dict(_netlink(diag)) if with_netlink else {},
            listeners=listeners,
            bound_inactive=bound_inactive if lists_inactive else None,
            interfaces=dict(socket.if_nameindex()),
        )


def _namespace_cookie(sock: socket.socket) -> int | None:
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    except OSError:  # before Linux 5.14
        return None


def _kernel_lists_inactive(diag: socket.socket) -> bool:
    """Tries it: binds a socket of our own to a free port of the loopback interface and looks for it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            inode = os.fstat(probe.fileno()).st_ino
            return inode in [found for _, found, _, _ in _tcp(diag, socket.AF_INET)]
    except OSError:
        return False


def _dump(diag: socket.socket, request: bytes) -> Iterator[bytes]:
    """The payloads of the answers to one dump request."""
    diag.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
    while True:
        data = diag.recv(_RECEIVE_BYTES)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind == _NLMSG_DONE or length < _HEADER.size:
                return
            if kind == _NLMSG_ERROR:
                code = -int(struct.unpack_from("=i", data, at + _HEADER.size)[0])
                raise OSError(code, "sock_diag")
            yield data[at + _HEADER.size : at + length]
            at += (length + 3) & ~3


def _attributes(payload: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, payload[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _unix(diag: socket.socket) -> Iterator[tuple[int, UnixPeer]]:
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_PEER | _UDIAG_SHOW_RQLEN
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, 0xFFFFFFFF, 0xFFFFFFFF)
    for payload in _dump(diag, request):
        _, kind, state, _, inode, _, _ = _UNIX_ANSWER.unpack_from(payload)
        attributes = dict(_attributes(payload, _UNIX_ANSWER.size))
        name, peer, queue = (attributes.get(kind) for kind in (_UNIX_DIAG_NAME, _UNIX_DIAG_PEER, _UNIX_DIAG_RQLEN))
        waiting, limit = struct.unpack("=II", queue) if queue and state == _UNIX_LISTEN else (None, None)
        yield (
            inode,
            UnixPeer(
                type=kind,
                state=state,
                name=unix_name(name) if name else None,
                peer_inode=struct.unpack("=I", peer)[0] if peer else None,
                shutdown=attributes.get(_UNIX_DIAG_SHUTDOWN, b"\0")[0],
                backlog_count=waiting,
                backlog_limit_count=limit,
            ),
        )


def _unix_waiting(diag: socket.socket) -> Iterator[tuple[int, str]]:
    """The inodes of clients in a backlog, with the listener's name.

    Asked apart from all else: a backlog too long for the kernel's buffer ends the dump without a word.
    """
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_ICONS
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _UNIX_LISTEN, 0, show, 0xFFFFFFFF, 0xFFFFFFFF)
    for payload in _dump(diag, request):
        attributes = dict(_attributes(payload, _UNIX_ANSWER.size))
        clients = attributes.get(_UNIX_DIAG_ICONS, b"")
        for (inode,) in struct.iter_unpack("=I", clients):
            yield inode, unix_name(attributes.get(_UNIX_DIAG_NAME, b""))


def _netlink(diag: socket.socket) -> Iterator[tuple[int, NetlinkSocket]]:
    request = _NETLINK_REQUEST.pack(socket.AF_NETLINK, _NDIAG_PROTO_ALL, 0, 0, _NDIAG_SHOW_GROUPS, 0, 0)
    try:
        for payload in _dump(diag, request):
            _, kind, protocol, _, _, _, _, inode, _, _ = _NETLINK_ANSWER.unpack_from(payload)
            groups = dict(_attributes(payload, _NETLINK_ANSWER.size)).get(_NETLINK_DIAG_GROUPS, b"")
            yield inode, NetlinkSocket(kind, protocol, int.from_bytes(groups, sys.byteorder))
    except OSError:  # this kernel has no netlink_diag
        return


def unix_name(raw: bytes) -> str:
    """A Unix socket's name as text; an abstract one begins with "@"."""
    return decode(raw.replace(b"\0", b"@") if raw[:1] == b"\0" else raw.rstrip(b"\0"))


def _tcp(diag: socket.socket, family: int) -> Iterator[tuple[int, int, Listener, tuple[str, int]]]:
    """State, inode, queue and local address of listeners, and of what is bound and does nothing else."""
    request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN | 1 << _BOUND_INACTIVE)
    for payload in _dump(diag, request):
        _, state, _, _, port, address, _, waiting, limit, _, inode = _INET_ANSWER.unpack_from(payload)
        only = dict(_attributes(payload, _INET_ANSWER.size)).get(_INET_DIAG_SKV6ONLY)
        host = socket.inet_ntop(family, address[: 4 if family == socket.AF_INET else 16])
        yield (
            state,
            inode,
            Listener(waiting, limit, bool(only[0]) if only else None),
            (host, int.from_bytes(port, "big")),
        )
