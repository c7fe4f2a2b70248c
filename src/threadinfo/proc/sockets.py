"""What each socket of a process is, found from outside (docs/how-it-works.md, "Sockets").

The sources are asked in this order, and `Socket.evidence` lists those that spoke:
  1. the tables of the target's network namespace, /proc/PID/net/*;
  2. sock_diag(7), for what the tables leave out of a socket that they do know;
  3. the socket's protocol name, the extended attribute system.sockprotoname;
  4. only for a socket that no table knows, and where permitted: a borrowed duplicate (pidfd_getfd(2)).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from threadinfo import netlink_names
from threadinfo.model import Details, Gap, Socket
from threadinfo.proc import socket_tables
from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError, ProcGoneError
from threadinfo.proc.rights import more_rights
from threadinfo.proc.socket_tables import SocketEntry

if TYPE_CHECKING:  # these two cost the import of ctypes, and most reports do without
    from threadinfo.proc.borrow import Borrowed
    from threadinfo.proc.sock_diag import Answers, UnixPeer

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
    "NETLINK": ("AF_NETLINK", "SOCK_RAW", "NETLINK"),
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

_VMADDR_CID_ANY = 0xFFFFFFFF  # vsock(7)
_SOCK_DIAG = "sock_diag"
_TCP_ESTABLISHED, _TCP_LISTEN = 1, 10  # include/net/tcp_states.h; Unix sockets use them too
_PROTOCOL_NAME = "system.sockprotoname"
_BORROWED = "borrowed duplicate"


def read_sockets(
    process: ProcDirectory, pid: int, inodes: Mapping[int, Sequence[int]], ports: Ports, *, may_borrow: bool
) -> tuple[dict[int, FoundSocket], list[Gap]]:
    """Finds every socket of `inodes` (inode to the descriptors that hold it); sockets of which nothing is known too."""
    if not inodes:
        return {}, []
    entries, gaps = _read_tables(process, inodes.keys())
    answers = _ask_sock_diag(process, entries, with_unknown=len(entries) < len(inodes), gaps=gaps)
    found = {}
    unknown = []
    for inode, fds in inodes.items():
        needs_name = inode not in entries or entries[inode].protocol in {"TCP", "UNIX"}
        name = _protocol_name(process, fds[0]) if needs_name else None
        if inode in entries and entries[inode].table == "unix" and name and not name.startswith("UNIX"):
            del entries[inode]  # a path that pretends to be a line of the table: anybody can bind one
        if inode in entries:
            found[inode] = _from_tables(entries[inode], inode, name, answers, inodes)
        else:
            unknown.append((inode, fds[0], name))
    for inode, sock in _explain_unknown(pid, unknown, answers, gaps, may_borrow=may_borrow):
        found[inode] = sock
    return {inode: _with_role(sock, inodes[inode], ports) for inode, sock in found.items()}, gaps


def _with_role(found: FoundSocket, fds: Sequence[int], ports: Ports) -> FoundSocket:
    sock, details = found
    if sock.port is not None and sock.port in ports:
        sock = msgspec.structs.replace(sock, role=ports[sock.port])
    if len(fds) > 1:
        details = details | {"same_socket_fds": list(fds)}
    return FoundSocket(sock, details)


def _read_tables(process: ProcDirectory, inodes: Collection[int]) -> tuple[dict[int, SocketEntry], list[Gap]]:
    wanted = set(inodes)
    entries: dict[int, SocketEntry] = {}
    gaps = []
    for table, parse in socket_tables.TABLES.items():
        if not wanted:
            break
        try:
            found = process.parse(f"net/{table}", partial(parse, wanted=wanted))
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


def _protocol_name(process: ProcDirectory, fd: int) -> str | None:
    raw = process.attribute(f"fd/{fd}", _PROTOCOL_NAME)
    return raw.rstrip(b"\0").decode("ascii", "backslashreplace") if raw else None


def _ask_sock_diag(
    process: ProcDirectory, entries: Mapping[int, SocketEntry], *, with_unknown: bool, gaps: list[Gap]
) -> Answers | None:
    """Asks only where a socket is there that the tables do not explain in full: entering costs an import."""
    with_unix = any(entry.table == "unix" for entry in entries.values())
    with_tcp = with_unknown or any(entry.state == "LISTEN" and entry.protocol == "TCP" for entry in entries.values())
    if not (with_unix or with_tcp or any(entry.table == "packet" for entry in entries.values())):
        return None
    from threadinfo.proc.namespaces import call_in_network_namespace  # noqa: PLC0415
    from threadinfo.proc.sock_diag import ask  # noqa: PLC0415

    try:
        return call_in_network_namespace(process, lambda: ask(with_unix=with_unix, with_tcp=with_tcp))
    except OSError as problem:
        lost = "peers of Unix sockets, backlogs, idle bound sockets"
        gaps.append(Gap("sockets", f"{lost}: sock_diag: {problem}", more_rights("CAP_SYS_ADMIN")))
        return None


def _from_tables(
    entry: SocketEntry,
    inode: int,
    protocol_name: str | None,
    answers: Answers | None,
    inodes: Mapping[int, Sequence[int]],
) -> FoundSocket:
    evidence = [f"/proc/PID/net/{entry.table}"]
    details = dict(entry.details)
    local, remote, protocol, bound = entry.local, entry.remote, entry.protocol, entry.bound
    kind: str | None = entry.type
    state: str | None = entry.state
    if answers is not None and entry.table == "unix" and (peer := answers.unix.get(inode)):
        evidence.append(_SOCK_DIAG)
        local, bound = peer.name, peer.name is not None
        kind, state = _unix_facts(peer)
        if peer.peer_inode:
            details["peer_inode"] = peer.peer_inode
            details["peer_fds"] = list(inodes.get(peer.peer_inode, ()))
            other = answers.unix.get(peer.peer_inode)
            remote = other.name if other and other.name else f"socket:[{peer.peer_inode}]"
        if peer.backlog_count is not None:
            details["backlog_count"] = peer.backlog_count
            details["backlog_limit_count"] = peer.backlog_limit_count
    if answers is not None and entry.protocol == "TCP" and (listener := answers.listeners.get(inode)):
        evidence.append(_SOCK_DIAG)
        details["backlog_limit_count"] = listener.backlog_limit_count
        if listener.ipv6_only is not None:
            details["ipv6_only"] = listener.ipv6_only
    if answers is not None and entry.table == "packet":
        index = entry.details["interface_index"]
        if isinstance(index, int) and index in answers.interfaces:
            evidence.append(_SOCK_DIAG)
            local = answers.interfaces[index]
    if protocol_name:
        evidence.append(_PROTOCOL_NAME)
        protocol = _PROTOCOL_NAMES.get(protocol_name, (None, None, protocol))[2]
    return FoundSocket(
        Socket(
            family=entry.family,
            type=kind,
            protocol=protocol,
            state=state,
            local=local,
            remote=remote,
            port=entry.port,
            bound=bound,
            evidence=tuple(evidence),
        ),
        details,
    )


def _unix_facts(peer: UnixPeer) -> tuple[str, str]:
    """Type and state by sock_diag: a line of /proc/PID/net/unix may be a path that pretends to be one.

    For a socket that a process holds the table derives its state from the same field (net/unix/af_unix.c,
    unix_seq_show), so nothing is lost.
    """
    kind = socket_tables.SOCKET_TYPES.get(peer.type, str(peer.type))
    return kind, {_TCP_ESTABLISHED: "CONNECTED", _TCP_LISTEN: "LISTEN"}.get(peer.state, "UNCONNECTED")


def _explain_unknown(
    pid: int,
    unknown: Sequence[tuple[int, int, str | None]],
    answers: Answers | None,
    gaps: list[Gap],
    *,
    may_borrow: bool,
) -> list[tuple[int, FoundSocket]]:
    """The sockets that no table knows: (inode, one of its descriptors, protocol name) each."""
    if not unknown:
        return []
    results = []
    refusal: str | None = None
    lender = None
    if may_borrow:
        from threadinfo.proc.borrow import Lender  # noqa: PLC0415

        try:
            lender = Lender(pid)
        except OSError as problem:
            refusal = problem.strerror
    for inode, fd, name in unknown:
        sock = _from_protocol_name(name, inode, answers)
        if lender is not None:
            try:
                sock = _from_borrowed(lender.ask(fd), inode, sock.socket, answers)
            except OSError as problem:
                if problem.errno != errno.EBADF:  # closed while it was read
                    refusal = problem.strerror
        results.append((inode, sock))
    if lender is not None:
        lender.__exit__(None, None, None)
    if refusal:
        gaps.append(
            Gap("sockets", f"state and address of sockets that no table knows: pidfd_getfd: {refusal}", more_rights())
        )
    return results


def _from_protocol_name(name: str | None, inode: int, answers: Answers | None) -> FoundSocket:
    if name is None:
        return FoundSocket(Socket(), {})
    family, kind, protocol = _PROTOCOL_NAMES.get(name, (None, None, name))
    bound = False if protocol in {"UDP", "UDPLITE", "NETLINK"} else None  # bound ones of these are in a table
    sock = Socket(family=family, type=kind, protocol=protocol, bound=bound, evidence=(_PROTOCOL_NAME,))
    if answers is not None and answers.bound_inactive and (address := answers.bound_inactive.get(inode)):
        local, port = socket_tables.format_endpoint(*address), address[1]
        evidence = (*sock.evidence, _SOCK_DIAG)
        sock = msgspec.structs.replace(sock, state="BOUND", local=local, port=port, bound=True, evidence=evidence)
    return FoundSocket(sock, {})


def _from_borrowed(borrowed: Borrowed, inode: int, named: Socket, answers: Answers | None) -> FoundSocket:
    details: Details = {}
    family = _FAMILIES.get(borrowed.family, f"AF_{borrowed.family}")
    kind = socket_tables.SOCKET_TYPES.get(borrowed.type, str(borrowed.type))
    local, port = _endpoint(borrowed.local)
    remote, _ = _endpoint(borrowed.remote)
    state, bound, protocol = None, None, named.protocol
    elsewhere = (
        answers is not None
        and None not in {answers.namespace_cookie, borrowed.namespace_cookie}
        and answers.namespace_cookie != borrowed.namespace_cookie
    )
    if family in {"AF_INET", "AF_INET6"}:
        protocol = protocol or _PROTOCOL_NUMBERS.get(borrowed.protocol, str(borrowed.protocol))
        bound = bool(port)
        if borrowed.tcp_state is not None:
            state = socket_tables.TCP_STATES.get(borrowed.tcp_state, str(borrowed.tcp_state))
            if state == "CLOSED":
                if borrowed.had_connection:
                    bound = False  # the address below is the one that the connection had
                elif bound and answers is not None and answers.bound_inactive is not None:
                    bound = inode in answers.bound_inactive or elsewhere
                state = "BOUND" if bound else state
                details["had_connection"] = borrowed.had_connection
                details["error_pending"] = borrowed.error_pending
    elif family == "AF_NETLINK":
        protocol = netlink_names.protocol_name(borrowed.protocol)
        port_id = borrowed.local[0] if isinstance(borrowed.local, tuple) else 0
        bound = bool(port_id)
        local, remote, port = f"port id {port_id}" if bound else None, None, None
        if bound:  # the table of another network namespace has it
            details["port_id"] = port_id
        if borrowed.netlink_groups:
            details["groups"] = f"{borrowed.netlink_groups:#x}"
            details["group_names"] = netlink_names.group_names(borrowed.protocol, borrowed.netlink_groups)
    elif family == "AF_VSOCK":
        protocol = protocol or "VSOCK"
        bound = port not in {None, 0xFFFFFFFF}  # VMADDR_PORT_ANY
        local, port = (local if bound else None), (port if bound else None)
        state = "LISTEN" if borrowed.listens else None
    else:
        protocol = protocol or str(borrowed.protocol)
        state = "LISTEN" if borrowed.listens else None
    if elsewhere:
        details["other_network_namespace"] = True
    return FoundSocket(
        Socket(
            family=family,
            type=kind,
            protocol=protocol,
            state=state,
            local=local if port != 0 else None,
            remote=remote,
            port=port or None,
            bound=bound,
            evidence=(*named.evidence, _BORROWED),
        ),
        details,
    )


def _endpoint(name: object) -> tuple[str | None, int | None]:
    """Python's form of a socket address to (text, port)."""
    match name:
        case (str(address), int(port), *_):
            return socket_tables.format_endpoint(address, port), port
        case (int(cid), int(port)):
            return f"{'any' if cid == _VMADDR_CID_ANY else cid}:{port}", port
        case _:
            return None, None
