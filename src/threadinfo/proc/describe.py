"""What a descriptor is, in words: the script's own words where it had the right ones. Pure functions."""

from __future__ import annotations

from threadinfo.model import Details, Socket

ANON_INODES = {
    "[eventfd]": ("eventfd", "event notification channel"),
    "[eventpoll]": ("epoll", "epoll instance (I/O event notification)"),
    "[timerfd]": ("timerfd", "timer notification"),
    "[signalfd]": ("signalfd", "signal notification"),
    "inotify": ("inotify", "file system watcher"),
    "[fanotify]": ("fanotify", "file access watcher (fanotify)"),
    "[pidfd]": ("pidfd", "process handle (pidfd)"),
    "[userfaultfd]": ("userfaultfd", "page fault handler (userfaultfd)"),
    "[io_uring]": ("io_uring", "io_uring instance"),
    "[perf_event]": ("perf_event", "performance event"),
    "bpf-map": ("bpf_map", "BPF map"),
    "bpf-prog": ("bpf_program", "BPF program"),
    "bpf_link": ("bpf_link", "BPF link"),
    "bpf_iter": ("bpf_iter", "BPF iterator"),
    "btf": ("bpf_btf", "BPF type information"),
    "[landlock-ruleset]": ("landlock_ruleset", "Landlock ruleset"),
    "seccomp notify": ("seccomp_notify", "seccomp listener"),
    "[fscontext]": ("fs_context", "file system context"),
    "[mqueue]": ("mqueue", "message queue"),
    "kvm-vm": ("kvm", "KVM virtual machine"),
    "sync_file": ("sync_file", "sync file"),
    "iommufd": ("iommufd", "I/O memory context"),
}
"""What follows "anon_inode:" in a link of /proc/PID/fd, to (type, words). Unlisted ones keep the kernel's name."""

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
    if sock.family == "AF_UNIX":
        return _describe_unix(sock, details)
    words = _describe_other(sock, details, inode)
    if details.get("other_network_namespace"):
        words += ", in another network namespace"
    return f"socket ({words})"


def _describe_unix(sock: Socket, details: Details) -> str:
    if sock.local:
        words = f"Unix domain socket: {sock.local}"
    else:
        words = f"Unix domain socket ({_NETIDS.get(sock.type or '', 'unnamed')})"
    peers = details.get("peer_fds")
    if sock.state == "LISTEN":
        words += ", listening"
    elif isinstance(peers, list) and peers:
        words += f", connected to FD {', '.join(map(str, peers))}"
    elif sock.remote:
        words += f", connected to {sock.remote}"
    elif sock.state == "CONNECTED":
        words += ", connected"
    elif sock.state == "UNCONNECTED" and not sock.local:
        words += ", not connected"
    return words


def _describe_other(sock: Socket, details: Details, inode: int) -> str:
    family, protocol = sock.family, sock.protocol
    if family in {"AF_INET", "AF_INET6"} and protocol is not None:
        return _describe_inet(sock, protocol + ("6" if family == "AF_INET6" else ""), details)
    if family == "AF_NETLINK":
        words = f"netlink {(protocol or '').removeprefix('NETLINK_')}" if protocol != "NETLINK" else "netlink"
        groups = details.get("group_names")
        if isinstance(groups, list):
            words += f": {' '.join(map(str, groups))}"
        return words if sock.bound else f"{words}, not bound"
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


def _describe_inet(sock: Socket, label: str, details: Details) -> str:
    if sock.type == "SOCK_RAW" and sock.protocol == "RAW":
        where = f" at {sock.local}" if sock.bound else ""
        protocol = details.get("ip_protocol")
        return f"{label}{f' protocol {protocol}' if protocol else ''}{where}"
    if sock.state == "CLOSED" and sock.port:
        story = "closed" if details.get("had_connection") else "closed, without a connection"
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
