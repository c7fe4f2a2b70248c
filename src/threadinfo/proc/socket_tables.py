"""The kernel's socket tables, /proc/PID/net/*: those of the target's own network namespace.

Every parser takes a table's text and the inodes that are wanted, and gives the entries of those. A table can be long
(every connection of the machine), a process's share of it short, so lines are dropped by their inode before all else.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from threadinfo import netlink_names, protocol_names
from threadinfo.model import Details
from threadinfo.proc.reader import MalformedLineError


class SocketEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one line of a table says of a socket."""

    table: str
    """The file's name, for example "tcp6"."""
    family: str
    type: str | None
    protocol: str
    state: str | None = None
    local: str | None = None
    remote: str | None = None
    port: int | None = None
    bound: bool | None = None
    details: Details = {}


TCP_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECEIVED",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSED",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "NEW_SYN_RECEIVED",
    13: "BOUND_INACTIVE",
}
"""include/net/tcp_states.h."""
_ESTABLISHED = 1  # of sockets without a connection: they have a peer

SOCKET_TYPES = {
    1: "SOCK_STREAM",
    2: "SOCK_DGRAM",
    3: "SOCK_RAW",
    4: "SOCK_RDM",
    5: "SOCK_SEQPACKET",
    10: "SOCK_PACKET",
}
"""include/linux/net.h, enum sock_type."""

_WORD_BYTES = 4


def parse_address(text: str) -> tuple[str, int]:
    """``"0100007F:1388"`` to ``("127.0.0.1", 5000)``: 32-bit words in the machine's byte order, port in hexadecimal."""
    words, _, port = text.partition(":")
    raw = b"".join(
        int(words[i : i + 8], 16).to_bytes(_WORD_BYTES, sys.byteorder) for i in range(0, len(words), 2 * _WORD_BYTES)
    )
    return socket.inet_ntop(socket.AF_INET if len(raw) == _WORD_BYTES else socket.AF_INET6, raw), int(port, 16)


def format_endpoint(address: str, port: int) -> str:
    """``127.0.0.1:5000``, ``[::1]:5000``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _lines(text: str, inode_column: int, wanted: Collection[int]) -> Iterator[tuple[int, str, list[str], int]]:
    """Line number, line, its fields and its inode, for the lines of wanted inodes."""
    for number, line in enumerate(text.split("\n")[1:], 2):
        if not line:
            continue
        fields = line.split(None, inode_column + 1)
        try:
            inode = int(fields[inode_column])
        except (IndexError, ValueError):
            raise MalformedLineError(number, line) from None
        if inode in wanted:
            yield number, line, fields, inode


class _InetTable(NamedTuple):
    family: str
    type: str
    protocol: str


_INET_TABLES = {
    "tcp": _InetTable("AF_INET", "SOCK_STREAM", "TCP"),
    "tcp6": _InetTable("AF_INET6", "SOCK_STREAM", "TCP"),
    "udp": _InetTable("AF_INET", "SOCK_DGRAM", "UDP"),
    "udp6": _InetTable("AF_INET6", "SOCK_DGRAM", "UDP"),
    "udplite": _InetTable("AF_INET", "SOCK_DGRAM", "UDPLITE"),
    "udplite6": _InetTable("AF_INET6", "SOCK_DGRAM", "UDPLITE"),
    "raw": _InetTable("AF_INET", "SOCK_RAW", "RAW"),
    "raw6": _InetTable("AF_INET6", "SOCK_RAW", "RAW"),
    "icmp": _InetTable("AF_INET", "SOCK_DGRAM", "ICMP"),
    "icmp6": _InetTable("AF_INET6", "SOCK_DGRAM", "ICMPV6"),
}


def parse_inet(text: str, *, table: str, wanted: Collection[int]) -> dict[int, SocketEntry]:
    """/proc/PID/net/{tcp,udp,udplite,raw,icmp}{,6} (proc_pid_net(5)); raises MalformedLineError."""
    family, kind, protocol = _INET_TABLES[table]
    entries = {}
    for number, line, fields, inode in _lines(text, 9, wanted):
        try:
            address, port = parse_address(fields[1])
            peer_address, peer_port = parse_address(fields[2])
            code = int(fields[3], 16)
            sent, received = (int(queue, 16) for queue in fields[4].split(":"))
        except ValueError:
            raise MalformedLineError(number, line) from None
        details: Details = {"send_queue_bytes": sent, "receive_queue_bytes": received}
        has_peer = bool(peer_port) or code == _ESTABLISHED
        state = TCP_STATES.get(code) if kind == "SOCK_STREAM" or code == _ESTABLISHED else "UNCONNECTED"
        if state == "LISTEN":
            details = {"backlog_count": received}
        local, remote, bound = format_endpoint(address, port), format_endpoint(peer_address, peer_port), True
        if kind == "SOCK_RAW":  # the "port" of these is the number of the protocol above IP
            bound = address not in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound to
            details["ip_protocol"] = protocol_names.ip_protocol_name(port)
            local, remote = address, peer_address
        elif protocol in {"ICMP", "ICMPV6"}:  # an echo's id is this end's alone
            remote = peer_address
        entries[inode] = SocketEntry(
            table=table,
            family=family,
            type=kind,
            protocol=protocol,
            state=state,
            local=local,
            remote=remote if has_peer else None,
            port=None if kind == "SOCK_RAW" else port,
            bound=bound,
            details=details,
        )
    return entries


_UNIX_STATES = {1: "UNCONNECTED", 2: "CONNECTING", 3: "CONNECTED", 4: "DISCONNECTING"}
_UNIX_LISTENS = 0x00010000  # include/linux/net.h, __SO_ACCEPTCON


def parse_unix(text: str, wanted: Collection[int]) -> dict[int, SocketEntry]:
    """/proc/PID/net/unix (unix(7)).

    A path may hold newlines: what does not look like an entry belongs to the path before it. So a path can pretend to
    be an entry; the first line of an inode counts, and what sock_diag(7) says of the name is preferred to it.
    """
    entries: dict[int, SocketEntry] = {}
    last: int | None = None
    for line in text.split("\n")[1:]:
        fields = line.split(" ", 6)  # hexadecimal columns are one space apart; the inode column is padded
        inode_and_path = fields[6].lstrip(" ").split(" ", 1) if len(fields) == 7 else []
        if not (inode_and_path and inode_and_path[0].isdecimal() and len(fields[0]) >= 9 and fields[0][-1] == ":"):
            if last is not None and line:
                entry = entries[last]
                entries[last] = msgspec.structs.replace(entry, local=f"{entry.local}\n{line}")
            continue
        inode = int(inode_and_path[0])
        last = None
        if inode not in wanted or inode in entries:
            continue
        path = inode_and_path[1] if len(inode_and_path) == 2 else None
        try:
            flags, code, state = int(fields[3], 16), int(fields[4], 16), int(fields[5], 16)
        except ValueError:
            continue
        entries[inode] = SocketEntry(
            table="unix",
            family="AF_UNIX",
            type=SOCKET_TYPES.get(code, str(code)),
            protocol="UNIX",
            state="LISTEN" if flags & _UNIX_LISTENS else _UNIX_STATES.get(state),
            local=path,
            bound=path is not None,
        )
        if path is not None:
            last = inode
    return entries


def parse_netlink(text: str, wanted: Collection[int]) -> dict[int, SocketEntry]:
    """/proc/PID/net/netlink; its "Pid" column is a port id, which need not be a PID (netlink(7))."""
    entries = {}
    for number, line, fields, inode in _lines(text, 9, wanted):
        try:
            protocol, port_id, groups = int(fields[1]), int(fields[2]), int(fields[3], 16)
        except ValueError:
            raise MalformedLineError(number, line) from None
        name = netlink_names.protocol_name(protocol)
        details: Details = {"port_id": port_id}
        if groups:
            details["groups"] = f"{groups:#x}"
            details["group_names"] = netlink_names.group_names(protocol, groups)
        entries[inode] = SocketEntry(
            table="netlink",
            family="AF_NETLINK",
            type=None,  # SOCK_RAW or SOCK_DGRAM, which sock_diag tells
            protocol=name,
            local=f"port id {port_id}",
            bound=True,
            details=details,
        )
    return entries


def parse_packet(text: str, wanted: Collection[int]) -> dict[int, SocketEntry]:
    """/proc/PID/net/packet (packet(7)): Type is the socket's, Proto an Ethernet protocol, Iface an index."""
    entries = {}
    for number, line, fields, inode in _lines(text, 8, wanted):
        try:
            kind, protocol, interface = int(fields[2]), int(fields[3], 16), int(fields[4])
        except ValueError:
            raise MalformedLineError(number, line) from None
        entries[inode] = SocketEntry(
            table="packet",
            family="AF_PACKET",
            type=SOCKET_TYPES.get(kind, str(kind)),
            protocol="PACKET",
            local=f"interface {interface}" if interface else None,
            bound=bool(protocol),  # without a protocol it receives nothing until bind() gives it one
            details={
                "ethernet_protocol": protocol_names.ethernet_protocol_name(protocol),
                "interface_index": interface,
            },
        )
    return entries


TABLES: dict[str, Callable[..., dict[int, SocketEntry]]] = {
    **{name: partial(parse_inet, table=name) for name in _INET_TABLES},
    "unix": parse_unix,
    "netlink": parse_netlink,
    "packet": parse_packet,
}
"""Parsers by the name of the file below /proc/PID/net, in the order asked; called with the text and `wanted`."""
