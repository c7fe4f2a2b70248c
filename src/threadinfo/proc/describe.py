"""What a descriptor is, in words: the script's own words where it had the right ones. Pure functions."""

from __future__ import annotations

from threadinfo.model import Details, Socket, Standing

NAMESPACES = {
    "cgroup": "cgroup namespace",
    "ipc": "IPC namespace",
    "mnt": "mount namespace",
    "net": "network namespace",
    "pid": "PID namespace",
    "time": "time namespace",
    "user": "user namespace",
    "uts": "UTS namespace",
}

DEVICES = {
    "/dev/urandom": "random number source",
    "/dev/null": "null device (bit bucket)",
    "/dev/zero": "zero device (null bytes source)",
}

_NETIDS = {"SOCK_STREAM": "u_str", "SOCK_DGRAM": "u_dgr", "SOCK_SEQPACKET": "u_seq"}
"""The names that ss(8) has for Unix sockets, and the script after it."""

_CONNECTED = {"ESTABLISHED", "SYN_SENT", "SYN_RECEIVED", "CLOSE_WAIT", "FIN_WAIT1", "FIN_WAIT2", "LAST_ACK", "CLOSING"}


def describe_socket(sock: Socket, details: Details, inode: int) -> str:
    """A socket in words, for example ``socket (TCP port 5000 - web server)``."""
    elsewhere = ", in another network namespace" if details.get("other_network_namespace") else ""
    if sock.family == "AF_UNIX":
        return _describe_unix(sock, details) + elsewhere
    return f"socket ({_describe_other(sock, details, inode)}{elsewhere})"


def _describe_unix(sock: Socket, details: Details) -> str:
    netid = _NETIDS.get(sock.type or "", "unnamed" if sock.bound is False else "")
    words = "Unix domain socket" + (f": {sock.local}" if sock.local else f" ({netid})" if netid else "")
    shut = details.get("shut")
    match sock.standing:
        case "listening":
            return f"{words}, {'shut down' if shut else 'listening'}"
        case "unbound":
            return f"{words}, not connected"
        case "waiting":
            return f"{words}, connected{f' to {sock.remote}' if sock.remote else ''}, not accepted yet"
        case "connected" | "half_closed" | "closed":
            return words + _describe_unix_connection(sock, details)
    return words


def _describe_unix_connection(sock: Socket, details: Details) -> str:
    peers = details.get("peer_fds")
    fds = ", ".join(map(str, peers)) if isinstance(peers, list) else ""
    to = f" to FD {fds}" if fds else f" to {sock.remote}" if sock.remote else ""
    if details.get("peer_closed"):
        return f", connected{to}, other end closed" if to else ", other end closed"
    if sock.standing == "closed":
        return f", connected{to}, {'shut down' if details.get('peer_inode') else 'shut down or closed'}"
    shut = {"receiving": ", receives no more", "sending": ", sends no more"}.get(str(details.get("shut")), "")
    return f", connected{to}{shut}"


def _describe_other(sock: Socket, details: Details, inode: int) -> str:
    family, protocol = sock.family, sock.protocol
    if family in {"AF_INET", "AF_INET6"} and protocol is not None:
        return _describe_inet(sock, inet_label(sock), details)
    if family == "AF_NETLINK":
        words = f"netlink {(protocol or '').removeprefix('NETLINK_')}" if protocol != "NETLINK" else "netlink"
        groups = details.get("group_names")
        if isinstance(groups, list):
            words += f": {' '.join(map(str, groups))}"
        return f"{words}, not bound" if sock.bound is False else words
    if family == "AF_PACKET":
        where = f" on {sock.local}" if sock.local else ""
        ethernet = details.get("ethernet_protocol")
        return f"packet{f' {ethernet}' if ethernet else ''}{where}"
    if family == "AF_VSOCK":
        state = f", {sock.state}" if sock.state else ""
        if sock.bound is None:
            return "vsock"
        return f"vsock port {sock.port}{state}" if sock.port else "vsock, not bound"
    if family is not None:
        return f"{family.removeprefix('AF_')}{f' {sock.state}' if sock.state else ''}"
    return protocol or f"inode: {inode}"


_ENDED: dict[Standing | None, str] = {
    "closed": "closed",
    "reset": "closed",
    "not_connected": "closed, without a connection",
    "refused": "closed, without a connection",
}


def inet_label(sock: Socket) -> str:
    """``TCP``, ``TCP6``; ICMPV6 says its version itself."""
    return f"{sock.protocol}{'6' if sock.family == 'AF_INET6' and sock.protocol != 'ICMPV6' else ''}"


def _describe_inet(sock: Socket, label: str, details: Details) -> str:
    if sock.type == "SOCK_RAW" and sock.protocol == "RAW":
        where = (f" at {sock.local}" if sock.bound else "") + (f", connected to {sock.remote}" if sock.remote else "")
        protocol = details.get("ip_protocol")
        return f"{label}{f' protocol {protocol}' if protocol else ''}{where}"
    if sock.port and (story := _ENDED.get(sock.standing)):
        return f"{label} port {sock.port}, {story}"
    if not sock.port:
        unknown = sock.bound is None and sock.state is None
        return label if unknown else f"{label}, not bound"
    words = f"{label} port {sock.port}" if sock.protocol not in {"ICMP", "ICMPV6"} else f"{label} id {sock.port}"
    if sock.role:
        words += f" - {sock.role}"
    if sock.state == "BOUND":
        words += ", bound but not listening"
    elif sock.state == "LISTEN":
        if details.get("ipv6_only") is False and (sock.local or "").startswith("[::]:"):
            words += ", IPv4 too"
    elif sock.state in _CONNECTED and sock.remote:
        words += f", {sock.state} with {sock.remote}"
    elif sock.state in _CONNECTED:
        words += f", {sock.state}"
    return words
