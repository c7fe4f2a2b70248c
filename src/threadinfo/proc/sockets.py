"""What each socket of a process is, found from outside (docs/how-it-works.md, "Sockets").

The sources are asked in this order, and `Socket.evidence` lists those that spoke:
  1. the tables of the target's network namespace, /proc/PID/net/*;
  2. sock_diag(7), for what the tables leave out of a socket that they do know;
  3. the socket's protocol name, the extended attribute system.sockprotoname;
  4. only for a socket of which these leave something open, and where permitted: a borrowed duplicate (pidfd_getfd(2));
  5. for one of another network namespace, which the duplicate leads to: that namespace's tables and sock_diag.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from threadinfo import netlink_names, protocol_names
from threadinfo.model import Details, Gap, Socket
from threadinfo.own_rights import more_rights
from threadinfo.proc import socket_tables
from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError, ProcGoneError
from threadinfo.proc.socket_tables import SocketEntry
from threadinfo.proc.standing import other_standing, stream_standing
from threadinfo.proc.unix_sockets import needs_asking, tell_unix

if TYPE_CHECKING:  # these two cost the import of ctypes, and most reports do without
    from threadinfo.proc.borrow import Borrowed, Lender
    from threadinfo.proc.sock_diag import Answers

Ports = Mapping[int, str]
"""Roles of ports, for example ``{5000: "web server"}``."""


class FoundSocket(NamedTuple):
    """A socket with what is known of it beyond the model's common fields."""

    socket: Socket
    details: Details


# What system.sockprotoname answers (struct proto, .name) to family, type, protocol.
_PROTOCOL_NAMES: dict[str, tuple[str, str | None, str]] = {
    "TCP": ("AF_INET", "SOCK_STREAM", "TCP"),
    "TCPv6": ("AF_INET6", "SOCK_STREAM", "TCP"),
    "MPTCP": ("AF_INET", "SOCK_STREAM", "MPTCP"),
    "MPTCPv6": ("AF_INET6", "SOCK_STREAM", "MPTCP"),
    "UDP": ("AF_INET", "SOCK_DGRAM", "UDP"),
    "UDPv6": ("AF_INET6", "SOCK_DGRAM", "UDP"),
    "UDP-Lite": ("AF_INET", "SOCK_DGRAM", "UDPLITE"),
    "UDPLITEv6": ("AF_INET6", "SOCK_DGRAM", "UDPLITE"),
    "RAW": ("AF_INET", "SOCK_RAW", "RAW"),
    "RAWv6": ("AF_INET6", "SOCK_RAW", "RAW"),
    "PING": ("AF_INET", "SOCK_DGRAM", "ICMP"),
    "PINGv6": ("AF_INET6", "SOCK_DGRAM", "ICMPV6"),
    "SCTP": ("AF_INET", None, "SCTP"),
    "SCTPv6": ("AF_INET6", None, "SCTP"),
    "PACKET": ("AF_PACKET", None, "PACKET"),
    "NETLINK": ("AF_NETLINK", None, "NETLINK"),
    "UNIX": ("AF_UNIX", None, "UNIX"),
    "UNIX-STREAM": ("AF_UNIX", "SOCK_STREAM", "UNIX"),
    "AF_VSOCK": ("AF_VSOCK", None, "VSOCK"),
    "XDP": ("AF_XDP", "SOCK_RAW", "XDP"),
    "ALG": ("AF_ALG", "SOCK_SEQPACKET", "ALG"),
}
_PROTOCOL_NUMBERS = {0: "IP", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPV6", 132: "SCTP", 136: "UDPLITE", 262: "MPTCP"}
_FAMILIES = {44: "AF_XDP"} | {
    int(value): name for name, value in vars(socket).items() if name.startswith("AF_") and name != "AF_ROUTE"
}

_VMADDR_CID_ANY = _VMADDR_PORT_ANY = 0xFFFFFFFF  # vsock(7)
_SOCK_DIAG = "sock_diag"
_PROTOCOL_NAME = "system.sockprotoname"
_BORROWED = "borrowed duplicate"
_OWN_TABLES = "/proc/PID/net"
_ITS_TABLES = "its network namespace's /proc/net"
_FAMILY_TABLES = {
    "AF_UNIX": ("unix",),
    "AF_NETLINK": ("netlink",),
    "AF_PACKET": ("packet",),
    "AF_INET": ("tcp", "udp", "udplite", "raw", "icmp"),
    "AF_INET6": ("tcp6", "udp6", "udplite6", "raw6", "icmp6"),
}
_ALWAYS_LISTED = {"AF_UNIX", "AF_PACKET"}
"""Families whose sockets are in their namespace's table as long as they live; raw sockets are, too."""


class _View(NamedTuple):
    """What one network namespace says of the target's sockets."""

    entries: dict[int, SocketEntry]
    answers: Answers | None
    tables: str
    """Where the tables were, for the evidence."""


class _Left(NamedTuple):
    """A socket of which the target's own namespace leaves something open."""

    inode: int
    fd: int
    name: str | None
    """Of its protocol."""


def read_sockets(
    process: ProcDirectory, pid: int, inodes: Mapping[int, Sequence[int]], ports: Ports, *, may_borrow: bool
) -> tuple[dict[int, FoundSocket], list[Gap]]:
    """Finds every socket of `inodes` (inode to the descriptors that hold it); sockets of which nothing is known too."""
    if not inodes:
        return {}, []
    view, gaps = _read_own_view(process, inodes.keys())
    found = {}
    left = []
    names = _protocol_names(process, view, inodes)
    for inode, fds in inodes.items():
        entry = view.entries.get(inode)
        name = names.get(fds[0])
        if entry is not None and entry.table == "unix" and name and not name.startswith("UNIX"):
            del view.entries[inode]  # a path that pretends to be a line of the table: anybody can bind one
            entry = None
        found[inode] = _tell(inode, name, view, None, inodes)
        if entry is None or (entry.table == "unix" and needs_asking(inode, view.answers)):
            left.append(_Left(inode, fds[0], name))
    if not gaps:  # every table was read: a socket that is always in one is in another namespace's
        for inode in inodes.keys() - view.entries.keys():
            found[inode] = _with_namespace(found[inode])
    if left and may_borrow:
        found.update(_ask_themselves(pid, left, view, inodes, gaps))
    return {inode: _with_role(sock, inodes[inode], ports) for inode, sock in found.items()}, gaps


def _with_namespace(found: FoundSocket) -> FoundSocket:
    sock, details = found
    if sock.family in _ALWAYS_LISTED or sock.protocol == "RAW":
        details = details | {"other_network_namespace": True}
    return FoundSocket(sock, details)


def _with_role(found: FoundSocket, fds: Sequence[int], ports: Ports) -> FoundSocket:
    sock, details = found
    if sock.port is not None and sock.port in ports:
        sock = msgspec.structs.replace(sock, role=ports[sock.port])
    if len(fds) > 1:
        details = details | {"same_socket_fds": list(fds)}
    return FoundSocket(sock, details)


def _read_own_view(process: ProcDirectory, inodes: Collection[int]) -> tuple[_View, list[Gap]]:
    """What the target's own network namespace says. Its tables are read from outside, sock_diag is asked inside."""
    entries, gaps = _read_tables(process, inodes, socket_tables.TABLES)
    with_unknown = len(entries) < len(inodes)
    answers = None
    if with_unknown or any(map(_is_told_more_of, entries.values())):  # else nothing: entering costs an import
        from threadinfo.proc.namespaces import call_in_network_namespace  # noqa: PLC0415

        try:
            answers = call_in_network_namespace(
                process, lambda: _ask_sock_diag(entries, inodes, with_unknown=with_unknown)
            )
        except OSError as problem:
            lost = "peers of Unix sockets, backlogs, idle bound sockets"
            gaps.append(Gap("sockets", f"{lost}: sock_diag: {problem}", more_rights("CAP_SYS_ADMIN")))
    return _View(entries, answers, _OWN_TABLES), gaps


def _is_told_more_of(entry: SocketEntry) -> bool:
    return entry.table in {"unix", "netlink", "packet"} or (entry.state == "LISTEN" and entry.protocol == "TCP")


def _ask_sock_diag(entries: Mapping[int, SocketEntry], inodes: Collection[int], *, with_unknown: bool) -> Answers:
    """Asks the namespace that the calling thread is in, for what these entries leave out."""
    from threadinfo.proc.sock_diag import ask  # noqa: PLC0415

    tables = {entry.table for entry in entries.values()}
    is_listening = any(entry.state == "LISTEN" and entry.protocol == "TCP" for entry in entries.values())
    return ask(
        inodes, with_unix="unix" in tables, with_tcp=with_unknown or is_listening, with_netlink="netlink" in tables
    )


def _read_tables(
    process: ProcDirectory, inodes: Collection[int], tables: Collection[str]
) -> tuple[dict[int, SocketEntry], list[Gap]]:
    wanted = set(inodes)
    entries: dict[int, SocketEntry] = {}
    gaps = []
    for table in tables:
        if not wanted:
            break
        try:
            found = process.parse(f"net/{table}", partial(socket_tables.TABLES[table], wanted=wanted))
        except ProcGoneError:  # this kernel lacks the protocol
            continue
        except ProcDeniedError as problem:
            gaps.append(Gap("sockets", str(problem), more_rights()))
            break
        except ProcError as problem:
            gaps.append(Gap("sockets", str(problem), None))
            continue
        entries.update(found)
        wanted -= found.keys()
    return entries, gaps


def _protocol_names(process: ProcDirectory, view: _View, inodes: Mapping[int, Sequence[int]]) -> dict[int, str]:
    """By descriptor, of those of which the tables leave it open."""
    links = {}
    for inode, fds in inodes.items():
        entry = view.entries.get(inode)
        if entry is None or entry.protocol in {"TCP", "UNIX"}:
            links[f"fd/{fds[0]}"] = fds[0]
    raw = process.attributes([*links], _PROTOCOL_NAME)
    return {links[link]: name.decode("ascii", "backslashreplace") for link, name in raw.items()}


def _ask_themselves(
    pid: int, left: Sequence[_Left], view: _View, inodes: Mapping[int, Sequence[int]], gaps: list[Gap]
) -> dict[int, FoundSocket]:
    """Borrows each of these sockets and asks it; those of another network namespace are then looked up there."""
    from threadinfo.proc.borrow import Lender  # noqa: PLC0415

    lost = "state and address of sockets that no table knows"
    try:
        lender = Lender(pid)
    except OSError as problem:
        gaps.append(Gap("sockets", f"{lost}: pidfd_open: {problem.strerror}", more_rights()))
        return {}
    found = {}
    abroad: dict[int, list[tuple[_Left, Borrowed]]] = {}
    refusal: str | None = None
    with lender:
        for one, borrowed in zip(left, lender.ask_all([one.fd for one in left]), strict=True):
            if isinstance(borrowed, OSError):
                if borrowed.errno not in {errno.EBADF, errno.ENOTSOCK}:  # closed while it was read
                    refusal = borrowed.strerror
                continue
            found[one.inode] = _tell(one.inode, one.name, view, borrowed, inodes)
            if _is_elsewhere(borrowed, view.answers) and borrowed.namespace_cookie is not None:
                abroad.setdefault(borrowed.namespace_cookie, []).append((one, borrowed))
        for sockets in abroad.values():
            found.update(_tell_abroad(lender, sockets, inodes, gaps))
    if refusal:
        gaps.append(Gap("sockets", f"{lost}: pidfd_getfd: {refusal}", more_rights()))
    return found


def _is_elsewhere(borrowed: Borrowed, answers: Answers | None) -> bool:
    """Whether a socket is of another network namespace than the one that answered; False where that is not known."""
    known = answers.namespace_cookie if answers is not None else None
    return None not in {known, borrowed.namespace_cookie} and known != borrowed.namespace_cookie


def _tell_abroad(
    lender: Lender, sockets: Sequence[tuple[_Left, Borrowed]], inodes: Mapping[int, Sequence[int]], gaps: list[Gap]
) -> dict[int, FoundSocket]:
    """The sockets of one other namespace, by its own tables and sock_diag, to which any of them leads."""
    from threadinfo.proc.namespaces import call_in_namespace  # noqa: PLC0415

    wanted = {one.inode for one, _ in sockets}
    families = {_FAMILIES.get(borrowed.family, "") for _, borrowed in sockets}
    tables = [table for family in sorted(families) for table in _FAMILY_TABLES.get(family, ())]

    def read_view() -> tuple[_View, list[Gap]]:
        with ProcDirectory("/proc/thread-self") as thread:  # the calling thread is in that namespace
            entries, problems = _read_tables(thread, wanted, tables)
        return _View(entries, _ask_sock_diag(entries, wanted, with_unknown=True), _ITS_TABLES), problems

    try:
        namespace_fd = lender.network_namespace(sockets[0][0].fd)
        try:
            view, problems = call_in_namespace(namespace_fd, read_view)
        finally:
            os.close(namespace_fd)
    except (OSError, ProcError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        cause = f"what the tables know of sockets of another network namespace: entering it: {why}"
        if not any(gap.cause == cause for gap in gaps):
            gaps.append(Gap("sockets", cause, more_rights("CAP_SYS_ADMIN")))
        return {one.inode: _tell_untold(one, borrowed, inodes) for one, borrowed in sockets}
    gaps += problems
    found = {}
    for one, borrowed in sockets:
        sock, details = _tell(one.inode, one.name, view, borrowed, inodes)
        found[one.inode] = FoundSocket(sock, details | {"other_network_namespace": True})
    return found


def _tell_untold(one: _Left, borrowed: Borrowed, inodes: Mapping[int, Sequence[int]]) -> FoundSocket:
    """A socket of another namespace that cannot be entered: what it says of itself."""
    sock, details = _tell(one.inode, one.name, _View({}, None, ""), borrowed, inodes)
    return FoundSocket(sock, details | {"other_network_namespace": True})


def _tell(
    inode: int, name: str | None, view: _View, borrowed: Borrowed | None, inodes: Mapping[int, Sequence[int]]
) -> FoundSocket:
    """One socket, from what a namespace says of it and, where it was asked, what it says itself."""
    entry, answers = view.entries.get(inode), view.answers
    is_unix = (name or "").startswith("UNIX") or (borrowed is not None and borrowed.family == socket.AF_UNIX)
    if is_unix or (entry is not None and entry.table == "unix"):
        sock, details = tell_unix(
            inode, entry=entry, answers=answers, borrowed=borrowed, protocol_name=name, inodes=inodes
        )
    elif entry is not None:
        sock, details = _from_tables(entry, inode, name, answers)
    elif borrowed is not None:
        sock, details = _from_borrowed(borrowed, inode, name, answers)
    else:
        sock, details = _from_protocol_name(name, inode, answers)
    evidence = _evidence(inode, name, view, borrowed)
    return FoundSocket(msgspec.structs.replace(sock, evidence=evidence), details)


def _evidence(inode: int, name: str | None, view: _View, borrowed: Borrowed | None) -> tuple[str, ...]:
    """Which sources spoke of a socket, in the order asked: another namespace's tables after the socket itself."""
    entry, answers = view.entries.get(inode), view.answers
    tables = [f"{view.tables}/{entry.table}"] if entry is not None else []
    if answers is not None:
        index = entry.details.get("interface_index") if entry is not None else None
        known = (answers.unix, answers.listeners, answers.netlink, answers.bound_inactive or {})
        if any(inode in sockets for sockets in known) or index in answers.interfaces:
            tables.append(_SOCK_DIAG)
    itself = [_PROTOCOL_NAME] * bool(name) + [_BORROWED] * (borrowed is not None)
    return (*tables, *itself) if view.tables == _OWN_TABLES else (*itself, *tables)


def _from_tables(entry: SocketEntry, inode: int, protocol_name: str | None, answers: Answers | None) -> FoundSocket:
    details = dict(entry.details)
    local, protocol, kind = entry.local, entry.protocol, entry.type
    if protocol_name and entry.protocol == "TCP":  # or MPTCP, which is in the same tables
        protocol = _PROTOCOL_NAMES.get(protocol_name, (None, None, protocol))[2]
    if answers is not None and entry.protocol == "TCP" and (listener := answers.listeners.get(inode)):
        details["backlog_limit_count"] = listener.backlog_limit_count
        if listener.ipv6_only is not None:
            details["ipv6_only"] = listener.ipv6_only
    if answers is not None and entry.table == "netlink" and (netlink := answers.netlink.get(inode)):
        kind = socket_tables.SOCKET_TYPES.get(netlink.type, str(netlink.type))
        details |= _netlink_groups(netlink.protocol, netlink.groups)
    if answers is not None and entry.table == "packet":
        index = entry.details["interface_index"]
        if isinstance(index, int) and index in answers.interfaces:
            local = answers.interfaces[index]
    is_stream = kind == "SOCK_STREAM"
    return FoundSocket(
        Socket(
            family=entry.family,
            type=kind,
            protocol=protocol,
            state=entry.state,
            local=local,
            remote=entry.remote,
            port=entry.port,
            bound=entry.bound,
            standing=stream_standing(entry.state, bound=entry.bound)
            if is_stream
            else other_standing(bound=entry.bound, remote=entry.remote),
        ),
        details,
    )


def _netlink_groups(protocol: int, groups: int) -> Details:
    if not groups:
        return {}
    return {"groups": f"{groups:#x}", "group_names": netlink_names.group_names(protocol, groups)}


def _from_protocol_name(name: str | None, inode: int, answers: Answers | None) -> FoundSocket:
    """A socket that no table knows and that was not asked: whether it is bound is known of idle TCP sockets alone."""
    if name is None:
        return FoundSocket(Socket(), {})
    family, kind, protocol = _PROTOCOL_NAMES.get(name, (None, None, name))
    sock = Socket(family=family, type=kind, protocol=protocol)
    if answers is not None and answers.bound_inactive and (address := answers.bound_inactive.get(inode)):
        local, port = socket_tables.format_endpoint(*address), address[1]
        sock = msgspec.structs.replace(sock, state="BOUND", local=local, port=port, bound=True, standing="bound")
    return FoundSocket(sock, {})


def _from_borrowed(borrowed: Borrowed, inode: int, name: str | None, answers: Answers | None) -> FoundSocket:
    """A socket that no table knows, by what it says itself."""
    family = _FAMILIES.get(borrowed.family, f"AF_{borrowed.family}")
    sock = Socket(
        family=family,
        type=socket_tables.SOCKET_TYPES.get(borrowed.type, str(borrowed.type)),
        protocol=_PROTOCOL_NAMES.get(name, (None, None, name))[2] if name else None,
    )
    match family:
        case "AF_INET" | "AF_INET6" if sock.type == "SOCK_RAW":
            return _raw_from_borrowed(sock, borrowed)
        case "AF_INET" | "AF_INET6":
            return _inet_from_borrowed(sock, borrowed, inode, answers)
        case "AF_NETLINK":
            return _netlink_from_borrowed(sock, borrowed)
        case "AF_PACKET":
            return _packet_from_borrowed(sock, borrowed)
        case "AF_VSOCK":
            return _vsock_from_borrowed(sock, borrowed)
    state = "LISTEN" if borrowed.listens else None
    protocol = sock.protocol or str(borrowed.protocol)
    return FoundSocket(msgspec.structs.replace(sock, protocol=protocol, state=state), {})


def _raw_from_borrowed(sock: Socket, borrowed: Borrowed) -> FoundSocket:
    """What getsockname(2) gives as its port is the number of the protocol above IP (raw(7)).

    getpeername(2) refuses to tell a peer without a port, as these mostly have: with an address of its own a socket may
    be connected all the same.
    """
    local, remote = _host(borrowed.local), _host(borrowed.remote)
    bound = local not in {None, "0.0.0.0", "::"}  # noqa: S104 - compared, not bound to
    sock = msgspec.structs.replace(
        sock,
        protocol="RAW",
        local=local,
        remote=remote,
        bound=bound,
        standing=None if bound and remote is None else other_standing(bound=bound, remote=remote),
    )
    return FoundSocket(sock, {"ip_protocol": protocol_names.ip_protocol_name(borrowed.protocol)})


def _inet_from_borrowed(sock: Socket, borrowed: Borrowed, inode: int, answers: Answers | None) -> FoundSocket:
    details: Details = {}
    local, port = _endpoint(borrowed.local)
    remote, _ = _endpoint(borrowed.remote)
    protocol = sock.protocol or _PROTOCOL_NUMBERS.get(borrowed.protocol, str(borrowed.protocol))
    if protocol in {"ICMP", "ICMPV6"}:
        remote = _host(borrowed.remote)
    state, bound = None, bool(port)
    if borrowed.tcp_state is not None:
        state = socket_tables.TCP_STATES.get(borrowed.tcp_state, str(borrowed.tcp_state))
    elif sock.type == "SOCK_DGRAM" and bound:
        state = "UNCONNECTED" if remote is None else "ESTABLISHED"
    if state == "CLOSED":
        details["had_connection"] = borrowed.had_connection
        details["error_pending"] = borrowed.error_pending
        if borrowed.had_connection:
            bound = False  # the address below is the one that the connection had
        elif bound and answers is not None and answers.bound_inactive is not None:
            bound = inode in answers.bound_inactive or _is_elsewhere(borrowed, answers)
        state = "BOUND" if bound else state
    if sock.type == "SOCK_STREAM" or protocol == "SCTP":
        standing = stream_standing(
            state,
            bound=bound or (state == "CLOSED" and bool(port)),
            had_connection=borrowed.had_connection,
            error_pending=borrowed.error_pending,
        )
    else:
        standing = other_standing(bound=bound, remote=remote)
    sock = msgspec.structs.replace(
        sock,
        protocol=protocol,
        state=state,
        local=local if port else None,
        remote=remote,
        port=port or None,
        bound=bound,
        standing=standing,
    )
    return FoundSocket(sock, details)


def _netlink_from_borrowed(sock: Socket, borrowed: Borrowed) -> FoundSocket:
    protocol = netlink_names.protocol_name(borrowed.protocol)
    port_id = borrowed.local[0] if isinstance(borrowed.local, tuple) else 0
    bound = bool(port_id)
    details: Details = {"port_id": port_id} if bound else {}  # the table of another network namespace has it
    details |= _netlink_groups(borrowed.protocol, borrowed.netlink_groups or 0)
    sock = msgspec.structs.replace(
        sock,
        protocol=protocol,
        local=f"port id {port_id}" if bound else None,
        bound=bound,
        standing=other_standing(bound=bound, remote=None),
    )
    return FoundSocket(sock, details)


def _packet_from_borrowed(sock: Socket, borrowed: Borrowed) -> FoundSocket:
    """An address of a packet socket is, to Python, its interface's name and its protocol."""
    interface, protocol = borrowed.local[:2] if isinstance(borrowed.local, tuple) else (None, 0)
    ethernet = protocol_names.ethernet_protocol_name(protocol)
    bound = ethernet is not None
    standing = other_standing(bound=bound, remote=None)
    sock = msgspec.structs.replace(sock, protocol="PACKET", local=interface or None, bound=bound, standing=standing)
    return FoundSocket(sock, {"ethernet_protocol": ethernet})


def _vsock_from_borrowed(sock: Socket, borrowed: Borrowed) -> FoundSocket:
    local, port = _endpoint(borrowed.local)
    remote, _ = _endpoint(borrowed.remote)
    bound = port not in {None, _VMADDR_PORT_ANY}
    sock = msgspec.structs.replace(
        sock,
        protocol=sock.protocol or "VSOCK",
        state="LISTEN" if borrowed.listens else None,
        local=local if bound else None,
        remote=remote,
        port=port if bound else None,
        bound=bound,
        standing=other_standing(bound=bound, remote=remote, listens=borrowed.listens),
    )
    return FoundSocket(sock, {})


def _host(name: object) -> str | None:
    """Python's form of an IP address to the address alone."""
    match name:
        case (str(address), int(), *_):
            return address
        case _:
            return None


def _endpoint(name: object) -> tuple[str | None, int | None]:
    """Python's form of a socket address to (text, port)."""
    match name:
        case (str(address), int(port), *_):
            return socket_tables.format_endpoint(address, port), port
        case (int(cid), int(port)):
            return f"{'any' if cid == _VMADDR_CID_ANY else cid}:{port}", port
        case _:
            return None, None
