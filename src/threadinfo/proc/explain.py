"""Which kind of socket it is and why, in a sentence: for -v and JSON, where the description alone leaves a question.

Pure functions. They say what is known from outside and, where two stories look the same from there, both. What ended a
connection, what a call returned and in which order is known to a trace alone.
"""

from __future__ import annotations

from threadinfo.model import Details, Socket

_BORROWED = "borrowed duplicate"  # in the evidence of a socket that was asked itself
_ONLY_A_TRACE = "which of them, only a trace tells"
_NOT_ASKED = "the socket itself would tell, but was not asked: root may, unless --no-borrow"

_TCP_STATES = {
    "SYN_SENT": "connecting: the other side has not answered yet",
    "SYN_RECEIVED": "being connected: the handshake is not over",
    "FIN_WAIT1": "this process has closed its side, the other has not confirmed it",
    "FIN_WAIT2": "this process has closed its side, the other has not closed its own",
    "CLOSE_WAIT": "the other side has closed, this process has not",
    "LAST_ACK": "both sides have closed, the last confirmation is missing",
    "CLOSING": "both sides have closed, the last confirmation is missing",
    "BOUND": f"bound, neither listening nor connected: it never was, or its listener was shut down ({_ONLY_A_TRACE})",
}

_NOT_SENT = "sent from, which would have bound it"


def explain_socket(sock: Socket, details: Details) -> str | None:
    """For example ``TCP, never bound or connected, or its bind failed (which of them, only a trace tells)``."""
    words = _explain(sock, details)
    if details.get("other_network_namespace"):
        elsewhere = "made in another network namespace than the process is in now, or received from there"
        words = f"{words}; {elsewhere}" if words else elsewhere
    return words


def _explain(sock: Socket, details: Details) -> str | None:
    match sock.family:
        case "AF_INET" | "AF_INET6" if sock.protocol is not None:
            return _explain_inet(sock, details)
        case "AF_UNIX":
            return _explain_unix(sock, details)
        case "AF_NETLINK":
            return _explain_netlink(sock, details)
        case "AF_PACKET":
            return _explain_packet(sock, details)
        case "AF_VSOCK":
            if sock.bound is None:
                return f"virtual machine socket, bound or not: {_NOT_ASKED}"
            return "virtual machine socket, " + (f"port {sock.port}" if sock.bound else "never bound, or not connected")
        case "AF_XDP":
            return "XDP socket: takes packets straight from a network interface's queue; no table lists its binding"
        case "AF_ALG":
            return "the kernel's cryptography: it sends nothing to anybody"
        case _:
            return None


def _explain_inet(sock: Socket, details: Details) -> str | None:
    label = f"{sock.protocol}{'6' if sock.family == 'AF_INET6' else ''}"
    if sock.type == "SOCK_RAW":
        where = f"at {sock.local}" if sock.bound else "at any address"
        version = "IPv6" if sock.family == "AF_INET6" else "IPv4"
        return f"raw {version}: sees every {details.get('ip_protocol') or 'such'} packet that arrives {where}"
    if sock.protocol in {"ICMP", "ICMPV6"}:
        label = f"ping ({label})"
        return f"{label}, bound to id {sock.port}" if sock.port else f"{label}, {_explain_unused(sock)}"
    if sock.type == "SOCK_STREAM" or sock.protocol == "SCTP":
        story = _explain_stream(sock, details)
        return f"{label}, {story}" if story else None
    if sock.remote:
        return f"{label}, bound, and connected to {sock.remote}: receives from there alone"
    return None if sock.port else f"{label}, {_explain_unused(sock)}"


def _explain_unused(sock: Socket) -> str:
    """Of a socket that is bound at the latest when something is sent from it."""
    if _BORROWED in sock.evidence:
        return f"neither bound nor {_NOT_SENT}"
    return f"in no table: neither bound nor used, or of another network namespace; {_NOT_ASKED}"


def _explain_stream(sock: Socket, details: Details) -> str | None:
    if sock.state == "CLOSED" or (sock.state is None and sock.bound is not None):
        return _explain_closed(sock, details)
    if sock.state is None:
        return f"in no table: never bound, bound and idle, closed, or of another network namespace; {_NOT_ASKED}"
    return _TCP_STATES.get(sock.state)


def _explain_closed(sock: Socket, details: Details) -> str:
    unread = details.get("error_pending")
    if details.get("had_connection"):
        if unread:
            return "reset or timed out: its connection broke off, and the process has not read the error yet"
        return f"closed: its connection was ended by both sides, or broke off and the error was read ({_ONLY_A_TRACE})"
    if unread:
        return "refused or timed out: its connection never came about, and the process has not read the error yet"
    if sock.port:
        return f"closed, without a connection: it was refused or its listener was shut down ({_ONLY_A_TRACE})"
    return f"never bound or connected, or its bind failed ({_ONLY_A_TRACE})"


def _explain_unix(sock: Socket, details: Details) -> str | None:
    kind = {"SOCK_STREAM": "stream", "SOCK_DGRAM": "datagram", "SOCK_SEQPACKET": "packet"}.get(sock.type or "", "other")
    if sock.local:
        kind += ", abstract name" if sock.local.startswith("@") else ", path"
    else:
        kind += ", unnamed"
    peers = details.get("peer_fds")
    if sock.state == "LISTEN":
        return None
    if peers and not sock.local:
        story = "its other end is in this process too, as socketpair(2) makes them"
    elif sock.remote and sock.remote.startswith("socket:["):
        story = "its other end is unnamed, and in another process"
    elif sock.remote:
        story = f"connected to {sock.remote}"
    elif sock.state == "CONNECTED":
        story = "its other end is closed, or is not known"
    elif sock.type == "SOCK_DGRAM":
        story = "not connected: " + ("receives from anybody" if sock.local else "names its receiver each time, if any")
    else:
        story = "never connected, and never listened"
    return f"Unix {kind}: {story}"


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
    if not sock.bound:
        return "packet socket without a protocol: it receives nothing"
    frames = f"{details.get('ethernet_protocol')} frame".removeprefix("ALL ")
    return f"packet socket: sees every {frames} on {sock.local or 'every interface'}"
