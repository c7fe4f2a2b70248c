"""Which thread serves a descriptor: the system call that each thread is in, proc_pid_syscall(5).

A thread that waits in read, accept, recvmsg and their like names its descriptor as an argument; one in poll or select
has its set in memory (/proc/PID/mem); one in epoll_wait serves what its epoll instance watches. A thread that runs
names none. Reading needs what ptrace(2) needs.
"""

from __future__ import annotations

import contextlib
import platform
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from threadinfo.model import BlockedCall, Descriptor, Served, Thread
from threadinfo.proc.reader import ProcDirectory, ProcError, ProcessMemory, ProcGoneError
from threadinfo.syscall_numbers import SYSCALL_NAMES

_POLLFD = struct.Struct("=ihh")  # poll(2), struct pollfd
_POLL_LIMIT = 1 << 16
_DESCRIPTOR_FIRST = frozenset(
    "read write readv writev pread64 pwrite64 accept accept4 connect recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg "
    "epoll_wait epoll_pwait epoll_pwait2 ioctl flock fsync fdatasync sendfile splice vmsplice io_uring_enter "
    "mq_timedreceive mq_timedsend fallocate getdents64 copy_file_range".split()
)
_EPOLL = frozenset({"epoll_wait", "epoll_pwait", "epoll_pwait2"})
_POLL = frozenset({"poll", "ppoll"})
_SELECT = frozenset({"select", "pselect6"})


class ThreadCall(msgspec.Struct, frozen=True):
    """The system call that a thread is in."""

    name: str
    """"" where the thread waits for something else than a system call, or the number is not known here."""
    arguments: tuple[int, ...]
    stack_pointer: int


def parse_syscall(text: str) -> ThreadCall | None:
    """Parses task/TID/syscall; None for a thread that runs, or whose state this kernel does not show."""
    words = text.split()
    try:
        if len(words) == 9:
            numbers = [int(word, 16) for word in words[1:]]
            return ThreadCall(SYSCALL_NAMES.get(int(words[0]), ""), tuple(numbers[:6]), numbers[6])
        if len(words) == 3:  # "-1 SP PC": blocked, but not in a system call
            return ThreadCall("", (), int(words[1], 16))
    except ValueError:
        return None
    return None


def read_blocked_call(process: ProcDirectory, tid: int) -> BlockedCall | None:
    """What a thread sleeps in; None where it runs or has ended, and where it may not be read."""
    try:
        words = process.read_text(f"task/{tid}/syscall").split()
        numbers = [int(words[0]), *(int(word, 16) for word in words[1:])]
    except (ProcError, ValueError, IndexError):
        return None
    arguments = tuple(numbers[1:7]) if len(numbers) == 9 else ()
    polled = None
    if SYSCALL_NAMES.get(numbers[0]) in _POLL and arguments and arguments[1] == 1:
        with contextlib.suppress(ProcError), ProcessMemory(process) as memory:
            data = memory.read(arguments[0], _POLLFD.size)
            polled = _POLLFD.unpack(data)[0] if data else None
    return BlockedCall(numbers[0], arguments, polled if polled is not None and polled >= 0 else None)


def is_native(process: ProcDirectory) -> bool:
    """Whether the process is a 64-bit one of this machine's: a 32-bit one has other system call numbers.

    From the auxiliary vector (getauxval(3)), whose entries are pairs of the process's own words.
    """
    vector = process.read("auxv")
    return platform.machine() in {"x86_64", "aarch64"} and len(vector) >= 16 and vector[4:8] == b"\0\0\0\0"


def read_calls(process: ProcDirectory, tids: Sequence[int]) -> dict[int, ThreadCall]:
    """task/TID/syscall of each thread; raises ProcDeniedError where this user may not read them."""
    calls = {}
    for tid in tids:
        try:
            call = parse_syscall(process.read_text(f"task/{tid}/syscall"))
        except ProcGoneError:  # the thread ended: its listing has counted it
            continue
        if call is not None:
            calls[tid] = call
    return calls


def attach_servers(
    process: ProcDirectory,
    descriptors: Sequence[Descriptor],
    threads: Sequence[Thread],
    calls: Mapping[int, ThreadCall],
) -> tuple[Descriptor, ...]:
    """The descriptors with `served_by` filled in; raises ProcDeniedError where the memory may not be read."""
    by_fd = {descriptor.fd: descriptor for descriptor in descriptors}
    serving: defaultdict[int, list[Served]] = defaultdict(list)
    with ProcessMemory(process) as memory:
        for thread in threads:
            call = calls.get(thread.tid)
            if call is None or not call.name:
                continue
            for fd, how in _served(call, by_fd, memory):
                if fd in by_fd:
                    serving[fd].append(Served(thread.tid, thread.name, how))
    return tuple(
        msgspec.structs.replace(descriptor, served_by=tuple(serving[descriptor.fd]))
        if descriptor.fd in serving
        else descriptor
        for descriptor in descriptors
    )


def _served(call: ThreadCall, by_fd: Mapping[int, Descriptor], memory: ProcessMemory) -> Iterator[tuple[int, str]]:
    if call.name in _DESCRIPTOR_FIRST:
        fd = call.arguments[0] & 0xFFFFFFFF
        yield fd, call.name
        epoll = by_fd.get(fd)
        watched = epoll.details.get("watched") if epoll is not None and call.name in _EPOLL else None
        for entry in watched if isinstance(watched, list) else ():
            if isinstance(entry, dict) and _is_same_file(entry, by_fd):
                yield int(str(entry["fd"])), f"{call.name} on FD {fd}"
    elif call.name in _POLL:
        address, count = call.arguments[0], min(call.arguments[1], _POLL_LIMIT)
        data = memory.read(address, count * _POLLFD.size)
        yield from ((fd, call.name) for fd, _, _ in _POLLFD.iter_unpack(data or b"") if fd >= 0)
    elif call.name in _SELECT:
        yield from ((fd, call.name) for fd in _select_fds(call, memory))


def _is_same_file(entry: Mapping[str, int | str | None], by_fd: Mapping[int, Descriptor]) -> bool:
    """An epoll entry keeps the number under which a file was registered, though another file may have it by now."""
    descriptor = by_fd.get(int(str(entry["fd"])))
    return descriptor is not None and (None in {descriptor.inode, entry["inode"]} or descriptor.inode == entry["inode"])


def _select_fds(call: ThreadCall, memory: ProcessMemory) -> list[int]:
    """The members of the sets that select(2) waits for."""
    count = min(call.arguments[0] & 0xFFFFFFFF, _POLL_LIMIT)
    members: set[int] = set()
    for address in call.arguments[1:4]:
        data = memory.read(address, (count + 63) // 64 * 8) if address and count else None
        bits = int.from_bytes(data or b"", "little")  # both machines that are supported are little-endian
        members.update(fd for fd in range(count) if bits >> fd & 1)
    return sorted(members)
