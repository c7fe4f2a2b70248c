"""What -v adds after a descriptor's description: its details and who serves it, in words."""

from __future__ import annotations

from collections.abc import Callable

from threadinfo.model import Descriptor, Details, DetailValue

_SECOND_NS = 1_000_000_000


def format_details(descriptor: Descriptor) -> str:
    """The details of one descriptor, separated by "; "; may be empty. Not yet escaped."""
    words = []
    if descriptor.socket is not None and descriptor.socket.explanation:
        words.append(descriptor.socket.explanation)
    if descriptor.origin is not None and descriptor.origin.maker:
        words.append(f"made by {descriptor.origin.maker}")
    if descriptor.socket is not None and (inference := descriptor.socket.inference):
        evidence = ", ".join(inference.evidence)
        adverb = "possibly" if inference.confidence == "possible" else inference.confidence
        words.append(f"inferred: {adverb} {inference.words}, because {evidence}")
    for key, value in descriptor.details.items():
        if value is None or value is False or value == []:
            continue
        formatter = _FORMATTERS.get(key, _format_plain)
        if formatted := formatter(key, value, descriptor.details):
            words.append(formatted)
    if descriptor.served_by:
        servers = dict.fromkeys(f"{server.thread_name} {server.tid} ({server.how})" for server in descriptor.served_by)
        shown = list(servers)[:3]
        words.append("served by " + ", ".join(shown) + (f" and {len(servers) - 3} more" if len(servers) > 3 else ""))
    return "; ".join(words)


def _format_plain(key: str, value: DetailValue, _details: Details) -> str:
    label = key.replace("_", " ")
    if value is True:
        return label
    if isinstance(value, list):
        return f"{label}: {', '.join(map(str, value))}"
    for suffix, unit in ((" bytes", "bytes"), (" count", "")):
        if label.endswith(suffix):
            return f"{label.removesuffix(suffix)} {value} {unit}".rstrip()
    return f"{label} {value}"


def _nothing(_key: str, _value: DetailValue, _details: Details) -> str:
    return ""


def _fds(words: str) -> Callable[[str, DetailValue, Details], str]:
    def format_fds(_key: str, value: DetailValue, _details: Details) -> str:
        return f"{words} FD {', '.join(map(str, value))}" if isinstance(value, list) else ""

    return format_fds


def _watched(_key: str, value: DetailValue, _details: Details) -> str:
    if not isinstance(value, list):
        return ""
    entries = [f"{entry['fd']} {entry['events']}" for entry in value if isinstance(entry, dict)]
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return f"watches FD {', '.join(entries[:8])}{more}"


def _watches(_key: str, value: DetailValue, _details: Details) -> str:
    if not isinstance(value, list):
        return ""
    entries = [
        f"{entry['path'] or 'inode {} of device {}'.format(entry['inode'], entry['device'])} ({entry['events']})"
        for entry in value
        if isinstance(entry, dict)
    ]
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return f"watches {', '.join(entries[:8])}{more}"


def _watch_count(key: str, value: DetailValue, details: Details) -> str:
    return "" if details.get("watches") else _format_plain(key, value, details)


_LOCK_CALLS = {"POSIX": "fcntl", "OFD": "fcntl, of the open file", "FLOCK": "flock", "LEASE": "lease"}


def _locks(_key: str, value: DetailValue, _details: Details) -> str:
    words = []
    for lock in value if isinstance(value, list) else ():
        if isinstance(lock, dict):
            first, last = lock["first_byte"], lock["last_byte"]
            part = f", bytes {first} to {'the end' if last is None else last}" if (first, last) != (0, None) else ""
            access = {"read": "reading", "write": "writing"}.get(str(lock["access"]), lock["access"])
            words.append(f"locked for {access} ({_LOCK_CALLS.get(str(lock['kind']), lock['kind'])}){part}")
    more = f" and {len(words) - 8} more" if len(words) > 8 else ""
    return f"{'; '.join(words[:8])}{more}"


def _duration(key: str, value: DetailValue, _details: Details) -> str:
    label = key.removesuffix("_ns").replace("_", " ")
    if not isinstance(value, int) or not value:
        return f"{label}: none" if key == "next_expiry_ns" else ""
    return f"{label} {'in ' if key == 'next_expiry_ns' else ''}{value / _SECOND_NS:.3f} s"


def _unless_zero(key: str, value: DetailValue, details: Details) -> str:
    return _format_plain(key, value, details) if value else ""


def _backlog(_key: str, value: DetailValue, details: Details) -> str:
    limit = details.get("backlog_limit_count")
    return f"backlog {value}" + (f" of {limit}" if limit is not None else "")


def _pid(_key: str, value: DetailValue, details: Details) -> str:
    return f"of process {value}"


def _access(_key: str, value: DetailValue, _details: Details) -> str:
    return str(value)


_FORMATTERS: dict[str, Callable[[str, DetailValue, Details], str]] = {
    "access": _access,
    "backlog_count": _backlog,
    "backlog_limit_count": _nothing,
    "deleted": _nothing,
    "error_pending": _nothing,
    "expiration_count": _unless_zero,
    "group_names": _nothing,
    "had_connection": _nothing,
    "held_bytes": _nothing,
    "interval_ns": _duration,
    "locks": _locks,
    "next_expiry_ns": _duration,
    "other_end_fds": _fds("other end"),
    "other_network_namespace": _nothing,
    "came_by": _nothing,
    "peer_closed": _nothing,
    "peer_fds": _nothing,
    "peer_inode": _nothing,
    "peer_name": _nothing,
    "pid": _pid,
    "receive_queue_bytes": _unless_zero,
    "shut": _nothing,
    "same_socket_fds": _fds("same socket as"),
    "send_queue_bytes": _unless_zero,
    "watched": _watched,
    "watch_count": _watch_count,
    "watched_count": _nothing,
    "watches": _watches,
}
