"""every_call.py DIRECTORY: makes descriptors by every call that this kernel has, each a prime number of times.

Says "ready", waits for a line, works, and prints one line of JSON: births and deaths by call, as it counted them
itself, failures by call and error, close-on-exec set and taken away, and what this kernel lacks. Then waits for
another line and ends. Needs root. Numbers of calls are this file's own: asm/unistd.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable

IS_X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
DIRECTORY = os.path.abspath(sys.argv[1])
opened: Counter[str] = Counter()
closed: Counter[str] = Counter()
failed: Counter[str] = Counter()
marked: Counter[str] = Counter()
lacking: dict[str, str] = {}
AT_FDCWD = -100


def raw(x86_64: int | None, aarch64: int | None, *arguments: object) -> int:
    """A system call; OSError where it fails."""
    number = x86_64 if IS_X86 else aarch64
    if number is None:
        raise OSError(errno.ENOSYS, "not on this machine")
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def close(fd: int) -> None:
    """close(2), counted."""
    raw(3, 57, fd)
    closed["close"] += 1


def born(name: str, count: int, make: Callable[[], int | list[int]], *, keep: int = 0) -> list[int]:
    """Makes `count` by one call each, counts what is born, closes all but `keep`; gives those."""
    kept: list[int] = []
    for _ in range(count):
        try:
            made = make()
        except OSError as problem:
            lacking[name] = os.strerror(problem.errno or 0)
            if (problem.errno or 0) != errno.ENOSYS or IS_X86:
                failed[f"{name} {errno.errorcode[problem.errno or 0]}"] += 1
            return kept
        fds = made if isinstance(made, list) else [made]
        opened[name] += len(fds)
        for fd in fds:
            if len(kept) < keep:
                kept.append(fd)
            else:
                close(fd)
    return kept


def pair(x86_64: int | None, aarch64: int | None, *before: object) -> list[int]:
    """A call that writes two numbers."""
    numbers = (ctypes.c_int * 2)()
    after: tuple[object, ...] = (0,) if not before else ()
    raw(x86_64, aarch64, *before, numbers, *after)
    return list(numbers)


def fails(name: str, error: int, count: int, act: Callable[[], object]) -> None:
    """A call that must fail."""
    for _ in range(count):
        try:
            act()
        except OSError as problem:
            if problem.errno != error:
                raise
            failed[f"{name} {errno.errorcode[error]}"] += 1
        else:
            raise AssertionError(f"{name} did not fail")


def files() -> None:
    """Everything that opens by a path."""
    name = f"{DIRECTORY}/a file".encode()
    with_slash = DIRECTORY.encode()
    how = struct.pack("=QQQ", os.O_RDONLY, 0, 0)
    long_name = DIRECTORY.encode() + b"/" + b"./" * 700 + b"a file"
    born("creat", 3, lambda: raw(85, None, name, 0o600))
    born("open", 7, lambda: raw(2, None, name, os.O_RDONLY), keep=1)
    born("openat", 11, lambda: raw(257, 56, AT_FDCWD, name, os.O_RDWR | os.O_CREAT, 0o600), keep=2)
    born("openat", 5, lambda: raw(257, 56, AT_FDCWD, long_name, os.O_RDONLY))
    born("openat2", 5, lambda: raw(437, 437, AT_FDCWD, name, how, len(how)))
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 120, 0), 128)
    raw(303, 264, AT_FDCWD, name, handle, ctypes.byref(ctypes.c_int()), 0)
    mount = born("openat", 1, lambda: raw(257, 56, AT_FDCWD, with_slash, os.O_RDONLY), keep=1)[0]
    born("open_by_handle_at", 3, lambda: raw(304, 265, mount, handle, os.O_RDONLY))
    close(mount)
    born("open_tree", 3, lambda: raw(428, 428, AT_FDCWD, b"/", 0))
    born("mq_open", 3, lambda: raw(240, 180, f"every_call_{os.getpid()}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None))
    raw(241, 181, f"every_call_{os.getpid()}".encode())
    born("memfd_create", 7, lambda: raw(319, 279, b"mine", 0), keep=1)
    born("memfd_secret", 3, lambda: raw(447, 447, 0))
    contexts = born("fsopen", 3, lambda: raw(430, 430, b"tmpfs", 0), keep=2)
    if contexts:
        for context in contexts:
            raw(431, 431, context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
        remaining = iter(contexts)
        born("fsmount", 2, lambda: raw(432, 432, next(remaining), 0, 0))
        for context in contexts:
            close(context)
    born("fspick", 2, lambda: raw(433, 433, AT_FDCWD, b"/", 0))
    fails("openat", errno.ENOENT, 13, lambda: raw(257, 56, AT_FDCWD, b"/nowhere/at/all", os.O_RDONLY))


def anonymous() -> None:
    """Everything without a name."""
    mask = ctypes.create_string_buffer(8)
    born("eventfd", 3, lambda: raw(284, None, 0))
    born("eventfd2", 5, lambda: raw(290, 19, 0, 0), keep=1)
    born("epoll_create", 3, lambda: raw(213, None, 1))
    born("epoll_create1", 5, lambda: raw(291, 20, 0))
    born("timerfd_create", 5, lambda: raw(283, 85, 1, 0))
    born("signalfd", 3, lambda: raw(282, None, -1, mask, 8))
    kept = born("signalfd4", 5, lambda: raw(289, 74, -1, mask, 8, 0), keep=1)[0]
    for _ in range(7):
        raw(289, 74, kept, mask, 8, 0)  # changes the one that there is
    close(kept)
    born("inotify_init", 3, lambda: raw(253, None))
    born("inotify_init1", 5, lambda: raw(294, 26, 0))
    born("fanotify_init", 2, lambda: raw(300, 262, 0, 0))
    born("userfaultfd", 2, lambda: raw(323, 282, 0))
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 128, 0), 128)  # PERF_TYPE_SOFTWARE, CPU_CLOCK
    born("perf_event_open", 2, lambda: raw(298, 241, attributes, 0, -1, -1, 0))
    born("landlock_create_ruleset", 2, lambda: raw(444, 444, struct.pack("=Q", 1), 8, 0))
    with contextlib.suppress(OSError):
        raw(444, 444, None, 0, 1)  # asks for the version
    create = ctypes.create_string_buffer(struct.pack("=IIIII", 2, 4, 8, 1, 0), 128)  # BPF_MAP_TYPE_ARRAY
    maps = born("bpf", 3, lambda: raw(321, 280, 0, create, 128), keep=1)
    if maps:
        key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(8)
        pointers = struct.pack("=IIQQQ", maps[0], 0, ctypes.addressof(key), ctypes.addressof(value), 0)
        raw(321, 280, 1, ctypes.create_string_buffer(pointers, 128), 128)  # BPF_MAP_LOOKUP_ELEM makes none
        close(maps[0])
    pidfds = born("pidfd_open", 5, lambda: raw(434, 434, os.getpid(), 0), keep=1)
    born("pidfd_getfd", 3, lambda: raw(438, 438, pidfds[0], 0, 0))
    close(pidfds[0])
    for x86_64, aarch64, name in ((56, 220, "clone"), (435, 435, "clone3")):
        born(name, 3, lambda x=x86_64, a=aarch64: clone_with_pidfd(x, a))  # type: ignore[misc]
    born("seccomp", 1, seccomp_listener)


def clone_with_pidfd(x86_64: int, aarch64: int) -> int:
    """A child that ends at once; its pidfd."""
    pidfd = ctypes.c_int(-1)
    if x86_64 == 56:
        child = raw(x86_64, aarch64, 0x1000 | 17, 0, ctypes.byref(pidfd), 0, 0)  # CLONE_PIDFD, SIGCHLD
    else:
        arguments = struct.pack("=11Q", 0x1000, ctypes.addressof(pidfd), 0, 0, 17, 0, 0, 0, 0, 0, 0)
        child = raw(x86_64, aarch64, arguments, len(arguments))
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return pidfd.value


def seccomp_listener() -> int:
    """SECCOMP_FILTER_FLAG_NEW_LISTENER, with a filter that allows everything, in a thread of its own."""
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    program = struct.pack("=HxxxxxxQ", 1, ctypes.addressof(instruction))
    found: list[int | OSError] = []

    def install() -> None:
        try:
            found.append(raw(317, 277, 1, 8, program))
        except OSError as problem:
            found.append(problem)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def copies() -> None:
    """Duplicates, and what replaces."""
    source = born("eventfd2", 1, lambda: raw(290, 19, 0, 0), keep=1)[0]
    born("dup", 13, lambda: raw(32, 23, source))
    born("fcntl", 5, lambda: raw(72, 25, source, 0, 100))
    born("fcntl", 7, lambda: raw(72, 25, source, 1030, 100))
    if IS_X86:
        born("dup2", 5, lambda: raw(33, None, source, 200))
        opened["dup2"] += 8
        for _ in range(8):
            raw(33, None, source, 201)
        closed["dup2"] += 7  # all but the first find it open
        for _ in range(3):
            raw(33, None, 201, 201)  # does nothing
        close(201)
    born("dup3", 3, lambda: raw(292, 24, source, 202, os.O_CLOEXEC))
    for _ in range(5):
        raw(72, 25, source, 2, 1)  # F_SETFD
        marked["set"] += 1
    for _ in range(2):
        raw(72, 25, source, 2, 0)
        marked["cleared"] += 1
    for _ in range(2):
        raw(16, 29, source, 0x5451)  # FIOCLEX
        marked["set"] += 1
    raw(16, 29, source, 0x5450)  # FIONCLEX
    marked["cleared"] += 1
    close(source)
    fails("close", errno.EBADF, 5, lambda: raw(3, 57, 777))


def pairs() -> None:
    """Two at a time, and close_range."""
    born("pipe", 3, lambda: pair(22, None))
    born("pipe2", 5, lambda: pair(293, 59), keep=2)
    born("socketpair", 3, lambda: pair(53, 199, socket.AF_UNIX, socket.SOCK_STREAM, 0))
    for _ in range(7):
        first = raw(72, 25, 0, 0, 300)
        second = raw(72, 25, 0, 0, 305)
        opened["fcntl"] += 2
        assert (first, second) == (300, 305)
        raw(436, 436, 299, 400, 0)
        closed["close_range"] += 2
    raw(436, 436, 299, 400, 4)  # CLOSE_RANGE_CLOEXEC closes nothing now


def sockets() -> None:
    """Sockets, connections, and what comes in messages."""
    born("socket", 7, lambda: raw(41, 198, socket.AF_INET, socket.SOCK_STREAM, 0))
    listener = born("socket", 1, lambda: raw(41, 198, socket.AF_INET, socket.SOCK_STREAM, 0), keep=1)[0]
    listening = socket.socket(fileno=listener)
    listening.bind(("127.0.0.1", 0))
    listening.listen(20)
    address = listening.getsockname()

    def accept(x86_64: int, aarch64: int, *more: int) -> int:
        client = born("socket", 1, lambda: raw(41, 198, socket.AF_INET, socket.SOCK_STREAM, 0), keep=1)[0]
        packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", address[1], socket.inet_aton(address[0]))
        raw(42, 203, client, packed, len(packed))
        peer, length = ctypes.create_string_buffer(128), ctypes.c_int(128)
        accepted = raw(x86_64, aarch64, listener, peer, ctypes.byref(length), *more)
        close(client)
        return accepted

    born("accept", 3, lambda: accept(43, 202))
    born("accept4", 5, lambda: accept(288, 242, 0))
    listening.setblocking(False)
    fails("accept4", errno.EAGAIN, 3, lambda: raw(288, 242, listener, None, None, 0))
    close(listening.detach())
    messages()


def messages() -> None:
    """SCM_RIGHTS, SCM_PIDFD and SO_PEERPIDFD."""
    numbers = born("socketpair", 1, lambda: pair(53, 199, socket.AF_UNIX, socket.SOCK_DGRAM, 0), keep=2)
    left, right = (socket.socket(fileno=number) for number in numbers)
    control, data, address = (ctypes.create_string_buffer(size) for size in (512, 64, 0))
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 64))
    pattern = struct.pack("=QIxxxxQQQQi4x", 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), 512, 0)
    del address

    def received(control_bytes: bytes) -> list[int]:
        found: list[int] = []
        at = 0
        while at + 16 <= len(control_bytes):
            length, level, kind = struct.unpack_from("=QII", control_bytes, at)
            if length < 16:
                break
            if (level, kind) in {(socket.SOL_SOCKET, 1), (socket.SOL_SOCKET, 4)}:
                found += struct.unpack_from(f"={(length - 16) // 4}i", control_bytes, at + 16)
            at += -(-length // 8) * 8
        return found

    def receive() -> list[int]:
        header = ctypes.create_string_buffer(pattern, len(pattern))
        raw(47, 212, right.fileno(), header, 0)
        (length,) = struct.unpack_from("=Q", header, 40)
        return received(control.raw[:length])

    for count in (3, 5, 2):
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, 1, struct.pack(f"={count}i", *[0] * count))])
        born("recvmsg", 1, receive)
    try:
        right.setsockopt(socket.SOL_SOCKET, 76, 1)  # SO_PASSPIDFD
        left.send(b"x")
        born("recvmsg", 1, receive)
        right.setsockopt(socket.SOL_SOCKET, 76, 0)
    except OSError as problem:
        lacking["SCM_PIDFD"] = str(problem)
    for _ in range(3):
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, 1, struct.pack("=2i", 0, 1))])
    controls = [ctypes.create_string_buffer(64) for _ in range(3)]
    header = struct.Struct("=QIxxxxQQQQiI4x4x")
    array = ctypes.create_string_buffer(
        b"".join(
            struct.pack("=QIxxxxQQQQi4xIxxxx", 0, 0, ctypes.addressof(vector), 1, ctypes.addressof(one), 64, 0, 0)
            for one in controls
        )
    )
    del header

    def receive_many() -> list[int]:
        count = raw(299, 243, right.fileno(), array, 3, 0, None)
        found: list[int] = []
        for index in range(count):
            (length,) = struct.unpack_from("=Q", array, index * 64 + 40)
            found += received(controls[index].raw[:length])
        return found

    born("recvmmsg", 1, receive_many)
    stream = [socket.socket(fileno=number) for number in born("socketpair", 1, lambda: pair(53, 199, 1, 1, 0), keep=2)]

    def peer_pidfd() -> int:
        number, size = ctypes.c_int(-1), ctypes.c_int(4)
        raw(55, 209, stream[0].fileno(), 1, 77, ctypes.byref(number), ctypes.byref(size))
        return number.value

    born("getsockopt", 3, peer_pidfd)
    for one in (*stream, left, right):
        close(one.detach())


class Ring:
    """An io_uring of one entry at a time, by hand: io_uring(7)."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self.fd = raw(425, 425, 8, parameters)
        offsets = struct.unpack_from("=10I", parameters, 40)
        self.tail, self.array = offsets[1], offsets[6]
        (self.cq_head,) = struct.unpack_from("=I", parameters, 80)
        (self.cqes,) = struct.unpack_from("=I", parameters, 100)
        self.ring = mmap.mmap(self.fd, 4096, offset=0)
        self.entries = mmap.mmap(self.fd, 4096, offset=0x10000000)

    def submit(self, opcode: int, fd: int, offset: int, address: int, length: int, flags: int = 0) -> int:
        """One request to its end; its result."""
        tail = struct.unpack_from("=I", self.ring, self.tail)[0]
        entry = struct.pack("=BBHiQQII", opcode, 0, 0, fd, offset, address, length, flags)
        self.entries[0:64] = entry.ljust(64, b"\0")
        struct.pack_into("=I", self.ring, self.array + 4 * (tail & 7), 0)
        struct.pack_into("=I", self.ring, self.tail, tail + 1)
        raw(426, 426, self.fd, 1, 1, 1, None, 0)
        head = struct.unpack_from("=I", self.ring, self.cq_head)[0]
        _, result, _ = struct.unpack_from("=QiI", self.ring, self.cqes + 16 * (head & 15))
        struct.pack_into("=I", self.ring, self.cq_head, head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)


def rings() -> None:
    """io_uring's own openat, socket, accept and close."""
    try:
        ring = Ring()
    except OSError as problem:
        lacking["io_uring"] = str(problem)
        return
    opened["io_uring_setup"] += 1
    name = ctypes.create_string_buffer(f"{DIRECTORY}/a file".encode())
    made = born("io_uring openat", 5, lambda: ring.submit(18, AT_FDCWD, 0, ctypes.addressof(name), 0), keep=5)
    how = ctypes.create_string_buffer(struct.pack("=QQQ", os.O_RDONLY, 0, 0))

    def openat2() -> int:
        return ring.submit(28, AT_FDCWD, ctypes.addressof(how), ctypes.addressof(name), 24)

    made += born("io_uring openat2", 3, openat2, keep=3)
    made += born("io_uring socket", 3, lambda: ring.submit(45, socket.AF_INET, socket.SOCK_STREAM, 0, 0), keep=3)
    listener = born("socket", 1, lambda: raw(41, 198, socket.AF_UNIX, socket.SOCK_STREAM, 0), keep=1)[0]
    listening = socket.socket(fileno=listener)
    path = f"{DIRECTORY}/ring"
    listening.bind(path)
    listening.listen(9)

    def accept() -> int:
        client = born("socket", 1, lambda: raw(41, 198, socket.AF_UNIX, socket.SOCK_STREAM, 0), keep=1)[0]
        packed = struct.pack("=H", socket.AF_UNIX) + path.encode() + b"\0"
        raw(42, 203, client, packed, len(packed))
        accepted = ring.submit(13, listener, 0, 0, 0)
        close(client)
        return accepted

    made += born("io_uring accept", 3, accept, keep=3)
    for fd in made:
        ring.submit(19, fd, 0, 0, 0)
        closed["io_uring close"] += 1
    close(listening.detach())
    os.unlink(path)
    ring.ring.close()  # the mappings' duplicates of the ring are mmap's own: dup() at their birth, close() here
    ring.entries.close()
    opened["fcntl"] += 2
    closed["close"] += 2
    close(ring.fd)


def limits() -> None:
    """EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    fails("openat", errno.EMFILE, 17, lambda: raw(257, 56, AT_FDCWD, b"/", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> None:
    """Everything, between two lines."""
    print("ready", flush=True)
    sys.stdin.readline()
    for work in (files, anonymous, copies, pairs, sockets, rings, limits):
        work()
    truth = {"opened": opened, "closed": closed, "failed": failed, "marked": marked, "lacking": lacking}
    print(json.dumps(truth), flush=True)
    sys.stdin.readline()


main()
