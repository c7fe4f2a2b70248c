"""What /proc/PID/fdinfo/FD adds to a descriptor (proc_pid_fdinfo(5)): details by kind, in plain values.

The kernel formats these; nothing in them is the target's own text.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NamedTuple

from threadinfo.model import Details
from threadinfo.proc.reader import MalformedLineError

Lines = list[tuple[str, str]]

_ACCESS = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read-write"}
_CLOCKS = {
    0: "CLOCK_REALTIME",
    1: "CLOCK_MONOTONIC",
    7: "CLOCK_BOOTTIME",
    8: "CLOCK_REALTIME_ALARM",
    9: "CLOCK_BOOTTIME_ALARM",
}
_EPOLL_EVENTS = {
    0x1: "IN",
    0x2: "PRI",
    0x4: "OUT",
    0x8: "ERR",
    0x10: "HUP",
    0x40: "RDNORM",
    0x2000: "RDHUP",
    1 << 28: "EXCLUSIVE",
    1 << 29: "WAKEUP",
    1 << 30: "ONESHOT",
    1 << 31: "ET",
}
_INOTIFY_EVENTS = {
    0x1: "ACCESS",
    0x2: "MODIFY",
    0x4: "ATTRIB",
    0x8: "CLOSE_WRITE",
    0x10: "CLOSE_NOWRITE",
    0x20: "OPEN",
    0x40: "MOVED_FROM",
    0x80: "MOVED_TO",
    0x100: "CREATE",
    0x200: "DELETE",
    0x400: "DELETE_SELF",
    0x800: "MOVE_SELF",
}
_BPF_MAP_TYPES = (
    "unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash "
    "lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage "
    "reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage "
    "task_storage bloom_filter user_ringbuf cgrp_storage arena"
).split()
_BPF_PROGRAM_TYPES = (
    "unspec socket_filter kprobe sched_cls sched_act tracepoint xdp perf_event cgroup_skb cgroup_sock lwt_in lwt_out "
    "lwt_xmit sock_ops sk_skb cgroup_device sk_msg raw_tracepoint cgroup_sock_addr lwt_seg6local lirc_mode2 "
    "sk_reuseport flow_dissector cgroup_sysctl raw_tracepoint_writable cgroup_sockopt tracing struct_ops ext lsm "
    "sk_lookup syscall netfilter"
).split()


def parse_fdinfo(text: str) -> Lines:
    """The lines as (key, value), in order; lines without a colon (inotify's, fanotify's) have the first word as key."""
    lines = []
    for line in text.split("\n"):
        if not line:
            continue
        first, _, rest = line.partition(" ")
        key, colon, value = line.partition(":")
        lines.append((first, rest.strip()) if first in {"inotify", "fanotify"} or not colon else (key, value.strip()))
    return lines


def parse_details(kind: str, text: str) -> Details:
    """All details of a descriptor of this kind; raises MalformedLineError where the text is not as expected."""
    lines = parse_fdinfo(text)
    return common_details(lines) | _locks(lines) | kind_details(kind, lines)


def common_details(lines: Lines) -> Details:
    """Access mode and the flags that open(2), fcntl(2) and O_CLOEXEC left; raises MalformedLineError."""
    values = dict(lines[:4])
    try:
        flags = int(values["flags"], 8)
        position = int(values["pos"])
    except (KeyError, ValueError):
        raise MalformedLineError(1, " ".join(f"{key}: {value}" for key, value in lines[:4])) from None
    details: Details = {
        "access": "path only" if flags & os.O_PATH else _ACCESS.get(flags & os.O_ACCMODE, "ioctl only"),
        "close_on_exec": bool(flags & os.O_CLOEXEC),
    }
    for name, bit in (("append", os.O_APPEND), ("nonblocking", os.O_NONBLOCK), ("direct", os.O_DIRECT)):
        if flags & bit:
            details[name] = True
    if position:
        details["position_bytes"] = position
    return details


_LOCK_KINDS = {"OFDLCK": "OFD"}


def _locks(lines: Lines) -> Details:
    """The locks that the process or the open file holds (fs/locks.c); raises MalformedLineError."""
    locks: list[dict[str, int | str | None]] = []
    for number, (key, value) in enumerate(lines, 1):
        if key != "lock":
            continue
        try:  # "1: POSIX  ADVISORY  WRITE 4242 00:1b:345 0 EOF"
            _, kind, _, access, _, _, start, end = value.split()
            last = None if end == "EOF" else int(end)
            locks.append(
                {
                    "kind": _LOCK_KINDS.get(kind, kind),
                    "access": access.lower(),
                    "first_byte": int(start),
                    "last_byte": last,
                }
            )
        except ValueError:
            raise MalformedLineError(number, f"{key}: {value}") from None
    return {"locks": locks} if locks else {}


class Watch(NamedTuple):
    """A watch of an inotify instance, as the kernel has it: an inode, not a path."""

    number: int
    inode: int
    device: tuple[int, int]
    """Major and minor number of the file system."""
    events: str
    handle_type: int | None
    handle: bytes
    """For open_by_handle_at(2); empty where the file system has none."""


def parse_watches(lines: Lines) -> list[Watch]:
    """Of "inotify" lines; raises KeyError or ValueError where one is not as proc_pid_fdinfo(5) describes it."""
    watches = []
    for key, value in lines:
        if key != "inotify":
            continue
        # "wd:1 ino:2a sdev:800001 mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:2a00..."
        words = dict(word.partition(":")[::2] for word in value.split())
        device, mask = int(words["sdev"], 16), int(words["mask"], 16)
        watches.append(
            Watch(
                number=int(words["wd"], 16),
                inode=int(words["ino"], 16),
                device=(device >> 20, device & 0xFFFFF),  # include/linux/kdev_t.h, as the kernel has it
                events="|".join(name for bit, name in _INOTIFY_EVENTS.items() if mask & bit),
                handle_type=int(words["fhandle-type"], 16) if "fhandle-type" in words else None,
                handle=bytes.fromhex(words.get("f_handle", "")),
            )
        )
    return watches


def kind_details(kind: str, lines: Lines) -> Details:
    """The details that only this kind of descriptor has; raises MalformedLineError where a value is not as expected."""
    parse = _KINDS.get(kind)
    if parse is None:
        return {}
    try:
        return parse(lines)
    except (KeyError, ValueError, IndexError) as problem:
        raise MalformedLineError(1, f"{kind}: {problem!r}") from None


def _eventfd(lines: Lines) -> Details:
    values = dict(lines)
    details: Details = {"count": int(values["eventfd-count"], 16)}
    if int(values.get("eventfd-semaphore", "0")):
        details["semaphore"] = True
    return details


def _epoll(lines: Lines) -> Details:
    watched: list[dict[str, int | str | None]] = []
    for key, value in lines:
        if key == "tfd":
            words = value.split()
            mask = int(words[words.index("events:") + 1], 16)
            events = "|".join(name for bit, name in _EPOLL_EVENTS.items() if mask & bit)
            inode = int(words[-2].removeprefix("ino:"), 16) if words[-2].startswith("ino:") else None
            watched.append({"fd": int(words[0]), "events": events, "inode": inode})
    return {"watched_count": len(watched), "watched": watched}


def _timerfd(lines: Lines) -> Details:
    values = dict(lines)
    return {
        "clock": _CLOCKS.get(int(values["clockid"]), values["clockid"]),
        "expiration_count": int(values["ticks"]),
        "next_expiry_ns": _timespec_ns(values["it_value"]),
        "interval_ns": _timespec_ns(values["it_interval"]),
    }


def _timespec_ns(pair: str) -> int:
    """``"(1, 500)"``: seconds and nanoseconds."""
    seconds, nanoseconds = pair.strip("()").split(",")
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _signalfd(lines: Lines) -> Details:
    mask = int(dict(lines)["sigmask"], 16)
    return {"signals": [_signal_name(number) for number in range(1, 65) if mask >> (number - 1) & 1]}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number >= signal.SIGRTMIN else f"signal {number}"


def _inotify(lines: Lines) -> Details:
    watches: list[dict[str, int | str | None]] = [
        {
            "wd": watch.number,
            "events": watch.events,
            "inode": watch.inode,
            "device": f"{watch.device[0]}:{watch.device[1]}",
            "path": None,
        }
        for watch in parse_watches(lines)
    ]
    return {"watch_count": len(watches), "watches": watches}


def _fanotify(lines: Lines) -> Details:
    return {"mark_count": sum(key == "fanotify" and not value.startswith("flags:") for key, value in lines)}


def _pidfd(lines: Lines) -> Details:
    values = dict(lines)
    pid = int(values["Pid"])
    details: Details = {"pid": pid if pid > 0 else None, "alive": pid > 0}
    if pid == 0:  # pidfd_open(2): a process that this PID namespace cannot see
        details["alive"] = None
    return details


def _io_uring(lines: Lines) -> Details:
    values = dict(lines)
    details: Details = {}
    for name, key in (("submission_entries", "SqEntries"), ("completion_entries", "CqEntries")):
        if key in values:
            details[name] = int(values[key], 0)
        elif (mask := key.replace("Entries", "Mask")) in values:  # and newer ones the masks alone
            details[name] = int(values[mask], 0) + 1
    if "UserFiles" in values:
        details["registered_file_count"] = int(values["UserFiles"])
    return details


def _bpf_map(lines: Lines) -> Details:
    values = dict(lines)
    return {
        "id": int(values["map_id"]),
        "map_type": _name(_BPF_MAP_TYPES, int(values["map_type"])),
        "key_bytes": int(values["key_size"]),
        "value_bytes": int(values["value_size"]),
        "max_entries": int(values["max_entries"]),
    }


def _bpf_program(lines: Lines) -> Details:
    values = dict(lines)
    return {
        "id": int(values["prog_id"]),
        "program_type": _name(_BPF_PROGRAM_TYPES, int(values["prog_type"])),
        "tag": values["prog_tag"],
    }


def _bpf_link(lines: Lines) -> Details:
    values = dict(lines)
    details: Details = {"id": int(values["link_id"]), "link_type": values["link_type"]}
    if "prog_id" in values:
        details["program_id"] = int(values["prog_id"])
    if "tp_name" in values:
        details["tracepoint"] = values["tp_name"]
    return details


def _name(names: list[str], index: int) -> str:
    return names[index] if index < len(names) else str(index)


def _terminal(lines: Lines) -> Details:
    values = dict(lines)
    details: Details = {"terminal_index": int(values["tty-index"])} if "tty-index" in values else {}
    if "iff" in values:  # of /dev/net/tun, empty until it has an interface
        details["interface"] = values["iff"] or None
    return details


_KINDS: dict[str, Callable[[Lines], Details]] = {
    "eventfd": _eventfd,
    "epoll": _epoll,
    "timerfd": _timerfd,
    "signalfd": _signalfd,
    "inotify": _inotify,
    "fanotify": _fanotify,
    "pidfd": _pidfd,
    "io_uring": _io_uring,
    "bpf_map": _bpf_map,
    "bpf_program": _bpf_program,
    "bpf_link": _bpf_link,
    "device": _terminal,
    "terminal": _terminal,
}
