"""Which kind of socket it is and why, in a sentence: for -v and JSON, where the description alone leaves a question.

Pure functions, of how the socket stands (standing.py decided). They say what is known from outside and, where two
stories look the same from there, both. What ended a connection, what a call returned and in which order is known to a
trace alone.
"""

from __future__ import annotations

from typing import NamedTuple

from threadinfo.model import Details, Socket, Standing
from threadinfo.proc.describe import inet_label

_BORROWED = "borrowed duplicate"  # in the evidence of a socket that was asked itself
_ONLY_A_TRACE = "which of them, only a trace tells"
_NOT_ASKED = "the socket itself would tell, but was not asked: root may, unless --no-borrow"
_NOT_SENT = "sent from, which would have bound it"


class Explanation(NamedTuple):
    """A sentence, where there is anything to say, and whether it names several stories of which one is true."""

    words: str | None
    is_ambiguous: bool = False


_TCP_STATES = {
    "SYN_SENT": "connecting: the other side has not answered yet",
    "SYN_RECEIVED": "being connected: the handshake is not over",
    "FIN_WAIT1": "this process has closed its side, the other has not confirmed it",
    "FIN_WAIT2": "this process has closed its side, the other has not closed its own",
    "CLOSE_WAIT": "the other side has closed, this process has not",
    "LAST_ACK": "both sides have closed, the last confirmation is missing",
    "CLOSING": "both sides have closed, the last confirmation is missing",
}
_AMBIGUOUS_STREAMS: dict[Standing | None, str] = {
    "unbound": "never bound or connected, or its bind failed",
    "bound": "bound, neither listening nor connected: it never was, or its listener was shut down",
    "closed": "closed: its connection was ended by both sides, or broke off and the error was read",
    "not_connected": "closed, without a connection: it was refused or its listener was shut down",
}
_STREAMS: dict[Standing | None, str] = {
    "reset": "reset or timed out: its connection broke off, and the process has not read the error yet",
    "refused": "refused or timed out: its connection never came about, and the process has not read the error yet",
}


def explain_socket(sock: Socket, details: Details) -> Explanation:
    """For example ``TCP, never bound or connected, or its bind failed (which of them, only a trace tells)``."""
    words, is_ambiguous = _explain(sock, details)
    if details.get("other_network_namespace"):
        elsewhere = "made in another network namespace than the process is in now, or received from there"
        words = f"{words}; {elsewhere}" if words else elsewhere
    return Explanation(words, is_ambiguous)


def _explain(sock: Socket, details: Details) -> Explanation:
    match sock.family:
        case "AF_INET" | "AF_INET6" if sock.protocol is not None:
            return _explain_inet(sock, details)
        case "AF_UNIX":
            return Explanation(_explain_unix(sock, details))
        case "AF_NETLINK":
            return Explanation(_explain_netlink(sock, details))
        case "AF_PACKET":
            return Explanation(_explain_packet(sock, details))
        case "AF_VSOCK":
            if sock.bound is None:
                return Explanation(f"virtual machine socket, bound or not: {_NOT_ASKED}")
            story = f"port {sock.port}" if sock.bound else "never bound, or not connected"
            return Explanation(f"virtual machine socket, {story}")
        case "AF_XDP":
            return Explanation(
                "XDP socket: takes packets straight from a network interface's queue; no table lists its binding"
            )
        case "AF_ALG":
            return Explanation("the kernel's cryptography: it sends nothing to anybody")
        case _:
            return Explanation(None)


def _explain_inet(sock: Socket, details: Details) -> Explanation:
    label = inet_label(sock)
    if sock.type == "SOCK_RAW":
        return Explanation(_explain_raw(sock, details))
    if sock.protocol in {"ICMP", "ICMPV6"}:
        label = f"ping ({label})"
        if not sock.port:
            return Explanation(f"{label}, {_explain_unused(sock)}")
        peer = f", and connected to {sock.remote}" if sock.remote else ""
        return Explanation(f"{label}, bound to id {sock.port}{peer}")
    if sock.type == "SOCK_STREAM" or sock.protocol == "SCTP":
        return _explain_stream(sock, label)
    if sock.remote:
        return Explanation(f"{label}, bound, and connected to {sock.remote}: receives from there alone")
    return Explanation(None if sock.port else f"{label}, {_explain_unused(sock)}")


def _explain_raw(sock: Socket, details: Details) -> str:
    version = "IPv6" if sock.family == "AF_INET6" else "IPv4"
    protocol = details.get("ip_protocol")
    if protocol is None:
        return f"raw {version}, of a protocol and addresses that are not known; {_NOT_ASKED}"
    if protocol == "RAW":  # raw(7): IPPROTO_RAW
        return f"raw {version}, to send alone: what it sends is whole packets, and it receives nothing"
    name = f"packet of protocol {protocol}" if str(protocol).isdecimal() else f"{protocol} packet"
    at = sock.local if sock.bound else "any address"
    if sock.remote:
        return f"raw {version}: sees every {name} from {sock.remote}, which it is connected to, that arrives at {at}"
    words = f"raw {version}: sees every {name} that arrives at {at}"
    if sock.standing is None:
        words += ", or of them those from a peer that it is connected to, which its namespace's table alone tells"
    return words


def _explain_unused(sock: Socket) -> str:
    """Of a socket that is bound at the latest when something is sent from it."""
    if _BORROWED in sock.evidence:
        return f"neither bound nor {_NOT_SENT}"
    return f"in no table: neither bound nor used, or of another network namespace; {_NOT_ASKED}"


def _explain_stream(sock: Socket, label: str) -> Explanation:
    if sock.standing is None:
        story = "in no table: never bound, bound and idle, closed, or of another network namespace"
        return Explanation(f"{label}, {story}; {_NOT_ASKED}")
    if sock.standing in _AMBIGUOUS_STREAMS:
        return Explanation(f"{label}, {_AMBIGUOUS_STREAMS[sock.standing]} ({_ONLY_A_TRACE})", is_ambiguous=True)
    known = _STREAMS.get(sock.standing) or _TCP_STATES.get(sock.state or "")
    return Explanation(f"{label}, {known}" if known else None)


_UNIX_KINDS = {"SOCK_STREAM": "stream", "SOCK_DGRAM": "datagram", "SOCK_SEQPACKET": "packet"}
_UNIX_SHUT = {
    "receiving": "it can only send: it was shut down for receiving, or the other end for sending",
    "sending": "it can only receive: it was shut down for sending, or the other end for receiving",
}


def _explain_unix(sock: Socket, details: Details) -> str | None:
    kind = f"Unix {_UNIX_KINDS.get(sock.type or '', 'socket')}"
    if sock.local:
        kind += ", abstract name" if sock.local.startswith("@") else ", path"
    elif sock.bound is False:
        kind += ", unnamed"
    story = _unix_story(sock, details)
    return f"{kind}: {story}" if story else None


def _unix_story(sock: Socket, details: Details) -> str | None:
    is_datagram = sock.type == "SOCK_DGRAM"
    match sock.standing:
        case "listening":
            return "listens no more: it was shut down, and refuses connections" if details.get("shut") else None
        case "waiting":
            return f"connected to {sock.remote or 'a listener'}, where it waits to be accepted"
        case "connected" | "half_closed" | "closed":
            return "; ".join(_unix_connection(details))
        case "bound":
            return "not connected: receives from anybody" if is_datagram else "bound, neither listening nor connected"
        case "unbound":
            return (
                "not connected: names its receiver each time, if any"
                if is_datagram
                else "never connected, and never listened"
            )
    if sock.bound is None:
        return f"name and other end are not known; {_NOT_ASKED}"
    return "connected to something, or something to it: which of them, sock_diag or the socket itself would tell"


def _unix_connection(details: Details) -> list[str]:
    fds = details.get("peer_fds")
    named = f" {details['peer_name']}" if details.get("peer_name") else ""
    match details.get("came_by"):
        case "accept":
            words = [f"accepted, from a client {f'called{named}' if named else 'without a name'}"]
        case "connect":
            words = [f"connected to{named}"]
        case "socketpair":
            words = ["one of a pair, as socketpair(2) makes them"]
        case _ if named or any(details.get(key) for key in ("peer_closed", "peer_inode", "shut")):
            words = [f"connected{f' to{named}' if named else ''}"]
        case _:  # the table's word alone, which is the same when the other end is gone
            return [f"connected, to what and whether that is still open is not known; {_NOT_ASKED}"]
    if details.get("peer_closed"):
        return [*words, "its other end is closed"]
    if isinstance(fds, list) and fds:
        words.append(f"its other end is in this process too, FD {', '.join(map(str, fds))}")
    elif details.get("peer_inode"):
        words.append("its other end is in another process")
    shut = details.get("shut")
    if shut == "both":
        words.append(
            "it was shut down both ways, here or by the other end"
            if details.get("peer_inode")
            else "its other end is closed, or it was shut down both ways"
        )
    elif shut:
        words.append(_UNIX_SHUT[str(shut)])
    return words


def _explain_netlink(sock: Socket, details: Details) -> str:
    if sock.protocol == "NETLINK":  # its name alone is known
        return f"netlink, in no table: not used yet, or of another network namespace; {_NOT_ASKED}"
    label = f"netlink {(sock.protocol or '').removeprefix('NETLINK_')}"
    names = details.get("group_names")
    if isinstance(names, list) and names:
        return f"{label}: the kernel tells it of changes to {', '.join(map(str, names))}"
    if sock.bound:
        return f"{label}: asks and is answered, subscribed to nothing"
    return f"{label}, only created: neither bound nor {_NOT_SENT}"


def _explain_packet(sock: Socket, details: Details) -> str:
    if sock.bound is None:
        return f"packet socket, of a protocol and interface that are not known; {_NOT_ASKED}"
    if not sock.bound:
        return "packet socket without a protocol: it receives nothing"
    frames = f"{details.get('ethernet_protocol')} frame".removeprefix("ALL ")
    return f"packet socket: sees every {frames} on {sock.local or 'every interface'}"
