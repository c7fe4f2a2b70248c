"""Who probably made a socket, without a trace: what libraries are known to open, and who of them is mapped.

`KNOWN` is all that is known of libraries; every row was read in the library's source or seen with strace(1) when the
library ran (docs/how-it-works.md, "Who made a socket"). The names of mapped files are the process's to choose, and
any code may open the same kind of socket: hence an `Inference`, with its evidence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from threadinfo.model import Descriptor, Inference, Socket
from threadinfo.proc.reader import ProcDirectory


class KnownSocket(NamedTuple):
    """A row: a kind of socket that a library makes."""

    library: str
    words: str
    mapped: str
    """Regular expression for the name of the library's file; its group "version", where it has one, is compared."""
    family: str
    close_on_exec: bool
    type: str | None = None
    protocol: str | None = None
    groups: frozenset[int] | None = None
    """Netlink groups as a bit mask, one of these; an empty set: bound, without groups."""
    remote: str | None = None
    """Regular expression for what it is connected to; "" for a socket that has neither name nor peer."""
    has_library_port: bool = False
    """Whether its netlink port id is the process's number in the lower 22 bits and a counter above."""
    since_version: int = 0
    """Of the file's name (soname)."""
    confidence: Literal["likely", "possible"] = "likely"
    source: str = ""


_GLIBC = r"libc\.so\.6|libc-2\.\d+\.so"  # before 2.34 the file had the version's name

KNOWN = (
    KnownSocket(
        library="libwebsockets",
        words="libwebsockets' routing socket, one per context (lws_create_context)",
        mapped=r"libwebsockets\.so\.(?P<version>\d+)",
        since_version=18,  # 4.2; 17 is 4.1.6, which was run and opens none
        family="AF_NETLINK",
        protocol="NETLINK_ROUTE",
        groups=frozenset({0x551, 0x051}),  # with and without IPv6
        close_on_exec=False,
        source="warmcat/libwebsockets: lib/roles/netlink/ops-netlink.c, rops_pt_init_destroy_netlink",
    ),
    KnownSocket(
        library="libavahi-core",
        words="Avahi's watch on network interfaces (avahi_server_new)",
        mapped=r"libavahi-core\.so\.\d+",
        family="AF_NETLINK",
        protocol="NETLINK_ROUTE",
        groups=frozenset({0x111}),
        close_on_exec=False,
        source="lathiat/avahi: avahi-core/iface-linux.c, avahi_interface_monitor_init_osdep",
    ),
    KnownSocket(
        library="libudev",
        words="a watch on devices (udev_monitor_new_from_netlink, sd_device_monitor_new)",
        mapped=r"lib(udev|systemd|systemd-shared-[\w.-]+)\.so(\.\d+)?",
        family="AF_NETLINK",
        protocol="NETLINK_KOBJECT_UEVENT",
        groups=frozenset({1, 2}),
        close_on_exec=True,
        source="systemd/systemd: src/libsystemd/sd-device/device-monitor.c, device_monitor_new_full",
    ),
    KnownSocket(
        library="libnl",
        words="a libnl socket (nl_connect)",
        mapped=r"libnl-3\.so\.\d+",
        family="AF_NETLINK",
        close_on_exec=True,
        has_library_port=True,
        source="thom311/libnl: lib/socket.c, generate_local_port",
    ),
    KnownSocket(
        library="libpcap",
        words="a packet capture (pcap_open_live, pcap_activate)",
        mapped=r"libpcap\.so\.\d+",
        family="AF_PACKET",
        close_on_exec=False,
        source="the-tcpdump-group/libpcap: pcap-linux.c; libpcap 1.10.3 run under strace",
    ),
    KnownSocket(
        library="libaudit",
        words="the sender to the audit system (audit_open), bound when it sends first",
        mapped=r"libaudit\.so\.\d+",
        family="AF_NETLINK",
        protocol="NETLINK_AUDIT",
        close_on_exec=True,
        source="linux-audit/audit-userspace: lib/netlink.c, audit_open; libaudit 3.0.9 run under strace",
    ),
    KnownSocket(
        library="glibc",
        words="a question to nscd (getaddrinfo, getpwnam and others), normally closed at once",
        mapped=_GLIBC,
        family="AF_UNIX",
        type="SOCK_STREAM",
        remote=r"(/var)?/run/nscd/socket",
        close_on_exec=True,
        source="bminor/glibc: nscd/nscd_helper.c; glibc 2.36 run under strace",
    ),
    KnownSocket(
        library="glibc",
        words="the system log (syslog)",
        mapped=_GLIBC,
        family="AF_UNIX",
        type="SOCK_DGRAM",
        remote=r"/dev/log|/run/systemd/journal/dev-log",
        close_on_exec=True,
        source="bminor/glibc: misc/syslog.c, openlog_internal; glibc 2.36 run under strace",
    ),
    KnownSocket(
        library="libdbus",
        words="a connection to D-Bus (dbus_bus_get)",
        mapped=r"libdbus-1\.so\.\d+",
        family="AF_UNIX",
        type="SOCK_STREAM",
        remote=r"(/var)?/run/dbus/system_bus_socket|/run/user/\d+/bus",
        close_on_exec=True,
        source="freedesktop dbus: dbus/dbus-sysdeps-unix.c, _dbus_connect_unix_socket; libdbus 1.14 run under strace",
    ),
    KnownSocket(
        library="glibc",
        words="a question about interfaces or addresses (getifaddrs, getaddrinfo), normally closed at once",
        mapped=_GLIBC,
        family="AF_NETLINK",
        protocol="NETLINK_ROUTE",
        groups=frozenset(),
        close_on_exec=True,
        confidence="possible",
        source="bminor/glibc: sysdeps/unix/sysv/linux/check_pf.c, ifaddrs.c; glibc 2.36 run under strace",
    ),
    KnownSocket(
        library="libsystemd",
        words="the sender to the journal (sd_journal_send), which names its receiver each time",
        mapped=r"libsystemd\.so\.\d+",
        family="AF_UNIX",
        type="SOCK_DGRAM",
        remote="",
        close_on_exec=True,
        confidence="possible",
        source="systemd/systemd: src/journal/journal-send.c, journal_fd",
    ),
    KnownSocket(
        library="glibc",
        words="a question about an interface (if_nametoindex), normally closed at once",
        mapped=_GLIBC,
        family="AF_UNIX",
        type="SOCK_DGRAM",
        remote="",
        close_on_exec=True,
        confidence="possible",
        source="bminor/glibc: sysdeps/unix/sysv/linux/opensock.c; glibc 2.36 run under strace",
    ),
)
"""The first row that fits has the word: the more particular ones come first."""

_LIBRARY_PORT_MASK = 0x3FFFFF


def attach_makers(process: ProcDirectory, descriptors: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
    """The descriptors with `socket.inference`; /proc/PID/maps is read only where a row fits, ProcError where it is not.

    `descriptors` have their details and who serves them.
    """
    pids: tuple[int, ...] = ()
    if any("port_id" in descriptor.details for descriptor in descriptors):
        pids = parse_own_pids(process.read_text("status"))
    fitting = {}
    for descriptor in descriptors:
        if descriptor.socket and (rows := [row for row in KNOWN if _evidence(row, descriptor, pids) is not None]):
            fitting[descriptor.fd] = rows
    if not fitting:
        return tuple(descriptors)
    mapped = process.parse("maps", parse_mapped_names)
    watched = _watched(descriptors)
    return tuple(
        _with_inference(descriptor, infer(fitting[descriptor.fd], descriptor, pids, mapped, watched))
        if descriptor.fd in fitting
        else descriptor
        for descriptor in descriptors
    )


def _watched(descriptors: Sequence[Descriptor]) -> dict[int, list[int]]:
    """Which epoll instances watch a descriptor, by its number."""
    inodes = {descriptor.fd: descriptor.inode for descriptor in descriptors}
    watchers: dict[int, list[int]] = {}
    for descriptor in descriptors:
        watched = descriptor.details.get("watched")
        for entry in watched if isinstance(watched, list) else ():
            fd = entry.get("fd") if isinstance(entry, dict) else None
            if isinstance(fd, int) and inodes.get(fd) == entry["inode"]:  # else another file had the number
                watchers.setdefault(fd, []).append(descriptor.fd)
    return watchers


def _with_inference(descriptor: Descriptor, inference: Inference | None) -> Descriptor:
    if inference is None or descriptor.socket is None:
        return descriptor
    return msgspec.structs.replace(descriptor, socket=msgspec.structs.replace(descriptor.socket, inference=inference))


def parse_mapped_names(text: str) -> frozenset[str]:
    """/proc/PID/maps to the names, without directories, of the files whose code is mapped."""
    names = set()
    for line in text.split("\n"):
        fields = line.split(None, 5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            names.add(fields[5].rpartition("/")[2].removesuffix(" (deleted)"))
    return frozenset(names)


def parse_own_pids(text: str) -> tuple[int, ...]:
    """/proc/PID/status to the process's number in each PID namespace that it is in (NSpid)."""
    for line in text.split("\n"):
        if line.startswith("NSpid:"):
            return tuple(int(word) for word in line.split()[1:] if word.isdecimal())
    return ()


def infer(
    rows: Iterable[KnownSocket],
    descriptor: Descriptor,
    pids: Collection[int],
    mapped: frozenset[str],
    watched: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> Inference | None:
    """The first of the rows that fits the socket and whose library is mapped; None where none is.

    `pids` are the process's numbers, `watched` the epoll instances that watch a descriptor.
    """
    for row in rows:
        evidence = _evidence(row, descriptor, pids)
        names = sorted(name for name in mapped if _is_of_library(row, name))
        if evidence is None or not names:
            continue
        users = [f"thread {server.thread_name} serves it" for server in descriptor.served_by]
        users = users or [f"epoll FD {fd} watches it" for fd in watched.get(descriptor.fd, ())]
        return Inference(
            words=row.words,
            library=row.library,
            confidence=row.confidence,
            evidence=(*evidence, f"{names[0]} is mapped", *dict.fromkeys(users)),
            source=row.source,
        )
    return None


def _is_of_library(row: KnownSocket, name: str) -> bool:
    match = re.match(rf"(?:{row.mapped})(?![\w-])", name)
    return match is not None and int(match.groupdict().get("version") or 0) >= row.since_version


def _evidence(row: KnownSocket, descriptor: Descriptor, pids: Collection[int]) -> list[str] | None:
    """What of the socket speaks for the row; None where something speaks against it."""
    sock, details = descriptor.socket, descriptor.details
    closes = details.get("close_on_exec")
    if sock is None or sock.family != row.family or closes is not row.close_on_exec:
        return None
    evidence = [(row.protocol or sock.family or "").replace("NETLINK_", "netlink ")]
    for check in (_groups_evidence, _name_evidence, _port_evidence):
        found = check(row, sock, details, pids)
        if found is None:
            return None
        evidence += found
    if (row.type or sock.type) != sock.type or (row.protocol or sock.protocol) != sock.protocol:
        return None
    return [*evidence, f"{'close' if closes else 'no close'}-on-exec"]


def _groups_evidence(
    row: KnownSocket, sock: Socket, details: Mapping[str, object], _pids: Collection[int]
) -> list[str] | None:
    if row.groups is None:
        return []
    groups = int(str(details.get("groups", "0")), 16)
    if not row.groups:
        return None if groups or not sock.bound else ["no groups"]
    return [f"groups {groups:#x}"] if groups in row.groups else None


def _name_evidence(
    row: KnownSocket, sock: Socket, _details: Mapping[str, object], _pids: Collection[int]
) -> list[str] | None:
    if row.remote is None:
        return []
    if not row.remote:
        return ["no name, not connected"] if sock.standing == "unbound" else None
    return [f"connected to {sock.remote}"] if re.fullmatch(row.remote, sock.remote or "") else None


def _port_evidence(
    row: KnownSocket, _sock: Socket, details: Mapping[str, object], pids: Collection[int]
) -> list[str] | None:
    if not row.has_library_port:
        return []
    port = details.get("port_id")
    if not isinstance(port, int) or port in pids:  # the number alone is what the kernel chooses
        return None
    own = [pid for pid in pids if port & _LIBRARY_PORT_MASK == pid & _LIBRARY_PORT_MASK]
    return [f"port id {port} is {own[0]} with a counter above it"] if own else None
