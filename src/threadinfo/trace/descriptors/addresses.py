"""Socket addresses as the kernel has them (struct sockaddr_*), and what the arguments of socket(2) mean, in words."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from threadinfo import netlink_names
from threadinfo.protocol_names import ethernet_protocol_name, ip_protocol_name

_FAMILIES = {int(family): family.name for family in socket.AddressFamily}
_TYPE_MASK = 0xF  # SOCK_TYPE_MASK: SOCK_NONBLOCK and SOCK_CLOEXEC are above it
_TYPES = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET", 10: "SOCK_PACKET"}
_MPTCP = 262  # IPPROTO_MPTCP is no protocol of IP's
_DEFAULTS = {1: 6, 2: 17}  # of AF_INET and AF_INET6, by type


class SocketKind(NamedTuple):
    """What the arguments of socket(2) ask for."""

    family: str
    type: str
    protocol: str | None
    """None of a packet socket without one: it receives nothing, or takes it with its address (packet(7))."""

    def words(self) -> str:
        """``AF_INET SOCK_STREAM TCP``."""
        return " ".join(word for word in self if word)


def socket_kind(argument: int) -> SocketKind:
    """Family, type and protocol as our records have them: 16, 16 and 32 bits."""
    family, kind, protocol = argument & 0xFFFF, argument >> 16 & _TYPE_MASK, argument >> 32
    return SocketKind(
        _FAMILIES.get(family, f"AF_{family}"), _TYPES.get(kind, f"type {kind}"), _protocol(family, kind, protocol)
    )


def _protocol(family: int, kind: int, protocol: int) -> str | None:
    if family in {socket.AF_INET, socket.AF_INET6}:
        number = protocol or _DEFAULTS.get(kind, 0)
        return "MPTCP" if number == _MPTCP else ip_protocol_name(number)
    if family == socket.AF_NETLINK:
        return netlink_names.protocol_name(protocol)
    if family == socket.AF_PACKET:  # 16 bits in the network's order, whatever is above them
        return ethernet_protocol_name(socket.ntohs(protocol & 0xFFFF))
    return "UNIX" if family == socket.AF_UNIX else str(protocol)


_CONNECTION = struct.Struct("=H2sHHI16s16s")  # struct addresses of bpf/descriptors/events.h


def format_connection(data: bytes) -> tuple[str, str]:
    """The remote and the local address of a connection, as our records have them."""
    family, remote_port, local_port, _, interface, remote, local = _CONNECTION.unpack(data)
    ends = (remote, int.from_bytes(remote_port, "big")), (local, local_port)
    if family == socket.AF_INET:
        (there, here) = (_format_inet(address[:4], port) for address, port in ends)
    else:  # an address of one link names its interface: RFC 4007
        (there, here) = (
            _format_inet6(address, port, interface if address[0] == 0xFE and address[1] & 0xC0 == 0x80 else 0)
            for address, port in ends
        )
    return there, here


def _format_inet(address: bytes, port: int) -> str:
    return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"


def _format_inet6(address: bytes, port: int, scope: int) -> str:
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}{f'%{scope}' if scope else ''}]:{port}"


def format_address(data: bytes, protocol: int = 0, *, is_own: bool = False) -> str | None:
    """An address in words: ``127.0.0.1:5000``, ``[::1]:80``, ``/run/x``, ``@abstract``; None where there is none.

    `protocol`: the socket's, on which the names of netlink groups depend. `is_own`: the address is to be the socket's.
    """
    if len(data) < 2:
        return None
    family = int.from_bytes(data[:2], "little")
    try:
        return _format(family, data, protocol, is_own=is_own)
    except (struct.error, ValueError):
        return f"malformed {_FAMILIES.get(family, family)} address"


def _format(family: int, data: bytes, protocol: int, *, is_own: bool) -> str | None:
    if family == socket.AF_UNIX:
        return _format_unix(data[2:])
    if family == socket.AF_INET:
        (port,) = struct.unpack_from("!H", data, 2)
        return _format_inet(data[4:8], port)
    if family == socket.AF_INET6:
        (port,) = struct.unpack_from("!H", data, 2)
        return _format_inet6(data[8:24], port, struct.unpack_from("=I", data, 24)[0] if len(data) >= 28 else 0)
    if family == socket.AF_NETLINK:
        port, groups = struct.unpack_from("=II", data, 4)
        names = ", ".join(netlink_names.group_names(protocol, groups))
        # netlink(7): 0 is the kernel as a peer, and as an own address a choice that is left to the kernel
        name = f"port id {port}" if port else "a port id of the kernel's choice" if is_own else "the kernel"
        return name + (f", groups {groups:#x} ({names})" if groups else "")
    if family == socket.AF_VSOCK:
        port, context = struct.unpack_from("=II", data, 4)
        return f"{context}:{port}"
    if family == socket.AF_PACKET:
        protocol, index = struct.unpack_from("!H", data, 2)[0], struct.unpack_from("=i", data, 4)[0]
        where = f"interface {index}" if index else "every interface"
        of_packets = ethernet_protocol_name(protocol)  # packet(7): 0 leaves the socket's own
        return where + (f", protocol {of_packets}" if of_packets else "")
    return None


def _format_unix(path: bytes) -> str | None:
    if not path:
        return None
    name = b"@" + path[1:] if path[0] == 0 else path.split(b"\0", 1)[0]
    return name.decode("utf-8", "backslashreplace").replace("\0", "@")
