"""The types of descriptors as small numbers: the kernel side counts by them."""

from __future__ import annotations

from threadinfo.trace.calls import OTHER_CALLS, SYSTEM_CALLS

_OF_INODES = ("socket", "file", "directory", "device", "fifo", "pipe", "symlink", "pidfd")
TYPE_CODES = 48
TYPE_NAMES: tuple[str | None, ...] = (
    None,
    *_OF_INODES,
    *sorted({call.type for call in (*SYSTEM_CALLS, *OTHER_CALLS.values()) if call.type} - set(_OF_INODES)),
    *("anon_inode", "bpf_map"),
)
"""By code; 0: not known."""
_CODES = {name: code for code, name in enumerate(TYPE_NAMES)}

DEFINES = {f"TYPE_{name.upper()}": _CODES[name] for name in _OF_INODES}
"""For the program in the kernel."""

_LINKS = {"socket:": "socket", "pipe:": "pipe", "anon_inode:": "anon_inode", "/memfd:": "memfd"}
_ANONYMOUS = {
    "[eventfd]": "eventfd",
    "[eventpoll]": "epoll",
    "[timerfd]": "timerfd",
    "[signalfd]": "signalfd",
    "inotify": "inotify",
    "[fanotify]": "fanotify",
    "[pidfd]": "pidfd",
    "[userfaultfd]": "userfaultfd",
    "[io_uring]": "io_uring",
    "[perf_event]": "perf_event",
}


def type_code(name: str | None) -> int:
    """The code of a type; 0 for None and for one that no call makes."""
    return _CODES.get(name, 0)


def type_of_link(link: str) -> str | None:
    """The type of what /proc/PID/fd/FD points to, as far as the link tells."""
    for prefix, name in _LINKS.items():
        if link.startswith(prefix):
            return _ANONYMOUS.get(link.removeprefix("anon_inode:"), name)
    return "device" if link.startswith("/dev/") else "file" if link.startswith("/") else None
