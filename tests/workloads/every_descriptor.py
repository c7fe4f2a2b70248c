"""every_descriptor.py DIRECTORY [later|nobody]: every kind of descriptor that this kernel and this user allow.

Prints one line of JSON: `descriptors`, each with its number, the case (for people), its kind, and `expect`: facts that
a reporter could print, of sockets as the socket itself tells them. `description` is a regular expression for
threadinfo's words, `type` and `details` are its own words for kind and facts. `unavailable` has the cases that this
kernel or this user is refused, with the error. Then waits until its standard input is closed. "later" begins with a
line that says "ready", goes on after one from standard input, and ends after another; "nobody" gives up root when all
are made: some kinds can be made by root alone.

Everything on disk is made in DIRECTORY and removed at the end, even after a kill -9. All ports are on loopback and
chosen by the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import pty
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
DIRECTORY = os.path.abspath(sys.argv[1])
HELD: list[object] = []
NOBODY = 65534
PR_SET_DUMPABLE = 4


class Expected(NamedTuple):
    """A descriptor of ours and what a report should say of it."""

    fd: int
    description: str
    type: str
    details: dict[str, Any] = {}  # noqa: RUF012 - never changed
    facts: dict[str, Any] = {}  # noqa: RUF012 - what else is so, for `expect` alone


CASES: dict[str, Callable[[], Expected | list[Expected]]] = {}


def case(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a case under a name for people."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        CASES[name] = make
        return make

    return register


def simple(case_name: str, make: Callable[[], int], description: str, kind: str, **details: Any) -> None:
    """Registers a case that is one call."""
    CASES[case_name] = lambda: Expected(make(), description, kind, details)


def syscall(x86_64: int, aarch64: int, *arguments: object) -> int:
    """A system call that Python has no function for; OSError where it fails."""
    number = x86_64 if platform.machine() == "x86_64" else aarch64
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def child_that(act: Callable[[], object]) -> int:
    """Forks a child that does this and nothing else; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        act()
    finally:
        os._exit(0)


def sent_by_child(make: Callable[[], int]) -> int:
    """A descriptor that a short-lived child makes, and sends (SCM_RIGHTS): for calls that would change this process."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        try:
            socket.send_fds(theirs, [b"\0"], [make()])
        except OSError as problem:
            theirs.send(bytes([problem.errno or errno.EIO]))

    child = child_that(send)
    with ours, theirs:
        refusal, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)
    if not fds:
        raise OSError(refusal[0], os.strerror(refusal[0]))
    return fds[0]


def path(name: str) -> str:
    """A name below the test's own directory."""
    return os.path.join(DIRECTORY, name)


def create(name: str | bytes, flags: int = os.O_RDWR, content: bytes = b"") -> int:
    """Makes a file and opens it with these flags."""
    full = os.path.join(os.fsencode(DIRECTORY), os.fsencode(name))
    with open(full, "wb") as file:
        file.write(content)
    return os.open(full, flags)


def keep_through_exec(fd: int) -> int:
    """Takes away the flag that Python gives every descriptor."""
    os.set_inheritable(fd, True)
    return fd


def deleted(name: str, content: bytes) -> int:
    """An open file without a name."""
    fd = create(name, content=content)
    os.unlink(path(name))
    return fd


# --- the cleaner -----------------------------------------------------------------------------------------------------
MQUEUE = f"threadinfo-{os.getpid()}"


def start_cleaner() -> tuple[int, int]:
    """A child that removes what we made once we are gone, killed or not; its process id, and the pipe it watches."""
    here_before = set(os.listdir(os.fsencode(DIRECTORY)))
    watched, held = os.pipe()

    def clean() -> None:
        os.close(held)
        os.closerange(0, watched)
        os.read(watched, 1)
        libc.mq_unlink(f"/{MQUEUE}".encode())
        with os.scandir(os.fsencode(DIRECTORY)) as entries:
            for entry in entries:
                if entry.name not in here_before:
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)

    child = child_that(clean)
    os.close(watched)
    return child, held


CLEANER, CLEANER_PIPE = start_cleaner()

# --- files -----------------------------------------------------------------------------------------------------------
simple("file", lambda: create("plain"), "file: .*/plain", "file", access="read-write")
simple("file, read only", lambda: create("read", os.O_RDONLY), "file: .*/read", "file", access="read")
simple("file, write only", lambda: create("write", os.O_WRONLY), "file: .*/write", "file", access="write")
simple("file, append", lambda: create("log", os.O_WRONLY | os.O_APPEND), "file: .*/log", "file", append=True)
simple("file, O_PATH", lambda: create("opath", os.O_PATH), "file: .*/opath", "file", access="path only")
simple("directory", lambda: os.open(DIRECTORY, os.O_RDONLY), "directory: /.*", "directory")
simple("directory, O_PATH", lambda: os.open("/", os.O_PATH), "directory: /", "directory", access="path only")
simple("O_TMPFILE", lambda: os.open(DIRECTORY, os.O_TMPFILE | os.O_RDWR), "unnamed temporary file in /.*", "file")
simple("deleted file", lambda: deleted("gone", b"x" * 5003), r"deleted file: .*/gone \(8192 bytes held\)", "file",
       size_bytes=5003, deleted=True)  # fmt: skip
simple("file, kept through exec", lambda: keep_through_exec(create("kept")), "file: .*/kept", "file",
       close_on_exec=False)  # fmt: skip
simple("name with a space", lambda: create("a b"), "file: .*/a b", "file")
simple("name with a newline", lambda: create("a\nb"), "file: .*/a\nb", "file")
simple("name with an escape sequence", lambda: create("a\x1b[31mb"), "file: .*/a\x1b\\[31mb", "file")
simple("name that is not UTF-8", lambda: create(b"a\xffb"), r"file: .*/a\\xffb", "file")
simple("name that ends in (deleted)", lambda: create("a (deleted)"), r"file: .*/a \(deleted\)", "file")
simple("name like a socket", lambda: create("socket:[1]"), r"file: .*/socket:\[1\]", "file")
simple("name of 200 letters", lambda: create("x" * 200), "file: .*/x{200}", "file")
simple("/proc file", lambda: os.open("/proc/self/maps", os.O_RDONLY), "file: /proc/.*/maps", "file")
simple("/sys file", lambda: os.open("/sys/kernel/notes", os.O_RDONLY), "file: /sys/.*", "file")
simple("cgroup directory", lambda: os.open("/sys/fs/cgroup", os.O_RDONLY), "directory: /sys/fs/cgroup", "directory")


@case("file with two descriptors")
def _dup_file() -> list[Expected]:
    fd = create("twice")
    return [Expected(each, "file: .*/twice", "file") for each in (fd, os.dup(fd))]


@case("directory that was removed")
def _removed_directory() -> Expected:
    os.mkdir(path("removed directory"))
    fd = os.open(path("removed directory"), os.O_RDONLY)
    os.rmdir(path("removed directory"))
    return Expected(fd, r"directory: .*/removed directory( \(deleted\))?", "directory", {}, {"deleted": True})


@case("name of a socket, O_PATH")
def _socket_name() -> Expected:
    made(UNIX, STREAM, 0, path("named socket"))
    return Expected(os.open(path("named socket"), os.O_PATH), "socket file: .*/named socket", "file")


@case("symbolic link, O_PATH")
def _symlink() -> Expected:
    os.symlink("nowhere", path("link"))
    return Expected(os.open(path("link"), os.O_PATH | os.O_NOFOLLOW), "symbolic link: .*/link", "symlink")


@case("removed name of a file that has another")
def _removed_name() -> Expected:
    fd = create("first")
    os.link(path("first"), path("second"))
    os.unlink(path("first"))
    return Expected(fd, r"file: .*/first \(removed, another name of it exists\)", "file")


# --- devices and terminals -------------------------------------------------------------------------------------------
simple("/dev/null", lambda: os.open("/dev/null", os.O_RDWR), r"null device \(bit bucket\)", "device")
simple("/dev/zero", lambda: os.open("/dev/zero", os.O_RDONLY), r"zero device \(null bytes source\)", "device")
simple("/dev/urandom", lambda: os.open("/dev/urandom", os.O_RDONLY), "random number source", "device")
simple("/dev/full", lambda: os.open("/dev/full", os.O_WRONLY), "/dev/full", "device")
simple("/dev/tty", lambda: os.open("/dev/tty", os.O_RDWR), "/dev/tty", "device")
simple("/dev/net/tun", lambda: os.open("/dev/net/tun", os.O_RDWR), "/dev/net/tun", "device", interface=None)


@case("TUN device with an interface")
def _tun_interface() -> Expected:
    """In a network namespace of its own: the interface would be everybody's."""

    def make() -> int:
        if libc.unshare(0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"everytun7", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        return fd

    return Expected(sent_by_child(make), "/dev/net/tun", "device", {"interface": "everytun7"})


def lock(kind: str, access: str, first: int, last: int | None) -> dict[str, int | str | None]:
    """A lock as a report should tell it."""
    return {"kind": kind, "access": access, "first_byte": first, "last_byte": last}


@case("file, flock")
def _flock() -> Expected:
    fd = create("flocked")
    fcntl.flock(fd, fcntl.LOCK_SH)
    return Expected(fd, "file: .*/flocked", "file", {"locks": [lock("FLOCK", "read", 0, None)]})


@case("file, locked in parts")
def _locked() -> Expected:
    fd = create("locked")
    fcntl.lockf(fd, fcntl.LOCK_EX, 7, 100)
    fcntl.lockf(fd, fcntl.LOCK_SH, 11, 200)
    locks = [lock("POSIX", "write", 100, 106), lock("POSIX", "read", 200, 210)]
    return Expected(fd, "file: .*/locked", "file", {"locks": locks})


@case("file, locked for the open file")
def _ofd_locked() -> Expected:
    fd = create("ofd-locked")
    fcntl.fcntl(fd, 37, struct.pack("@hhqqi4x", fcntl.F_WRLCK, 0, 13, 0, 0))  # F_OFD_SETLK
    return Expected(fd, "file: .*/ofd-locked", "file", {"locks": [lock("OFD", "write", 13, None)]})


@case("file, lease")
def _lease() -> Expected:
    fd = create("leased", os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return Expected(fd, "file: .*/leased", "file", {"locks": [lock("LEASE", "read", 0, None)]})


@case("pseudo-terminal")
def _pty() -> list[Expected]:
    master, slave = pty.openpty()
    index = int(os.ttyname(slave).rpartition("/")[2])
    return [
        Expected(master, "/dev/(pts/)?ptmx", "device", {"terminal_index": index}),
        Expected(slave, "terminal", "terminal"),
        Expected(os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY), "terminal", "terminal"),
    ]


@case("KVM")
def _kvm() -> list[Expected]:
    device = os.open("/dev/kvm", os.O_RDWR)
    machine = fcntl.ioctl(device, 0xAE01, 0)  # KVM_CREATE_VM
    return [Expected(device, "/dev/kvm", "device"), Expected(machine, "KVM virtual machine", "kvm")]


@case("block device")
def _block() -> Expected:
    for name in ("/dev/loop0", "/dev/vda", "/dev/sda"):
        if os.path.exists(name):
            return Expected(os.open(name, os.O_RDONLY), name, "device")
    raise FileNotFoundError(errno.ENOENT, "no block device")


# --- pipes -----------------------------------------------------------------------------------------------------------
@case("pipe")
def _pipe() -> list[Expected]:
    read, write = os.pipe()
    words = rf"pipe:\[{os.fstat(read).st_ino}\]"
    return [
        Expected(read, words, "pipe", {"access": "read", "other_end_fds": [write]}),
        Expected(write, words, "pipe", {"access": "write", "other_end_fds": [read]}),
    ]


@case("pipe in packet mode")
def _packet_pipe() -> list[Expected]:
    read, write = os.pipe2(os.O_DIRECT)
    return [Expected(read, "pipe:.*", "pipe"), Expected(write, "pipe:.*", "pipe", {"direct": True})]


@case("FIFO")
def _fifo() -> Expected:
    os.mkfifo(path("fifo"))
    return Expected(os.open(path("fifo"), os.O_RDWR), "FIFO: .*/fifo", "fifo")


# --- anonymous inodes ------------------------------------------------------------------------------------------------
simple("eventfd", lambda: os.eventfd(17), "event notification channel", "eventfd", count=17)
simple("eventfd, semaphore", lambda: os.eventfd(3, os.EFD_SEMAPHORE), "event notification channel", "eventfd", count=3)


@case("epoll")
def _epoll() -> list[Expected]:
    read, write = os.pipe()
    outer, inner = select.epoll(), select.epoll()
    inner.register(read, select.EPOLLIN)
    outer.register(inner.fileno(), select.EPOLLIN)
    HELD.extend([outer, inner])
    words = r"epoll instance \(I/O event notification\)"
    return [
        Expected(inner.fileno(), words, "epoll", {"watched_count": 1}, {"watched": [read]}),
        Expected(outer.fileno(), words, "epoll", {"watched_count": 1}, {"watched": [inner.fileno()]}),
        Expected(read, "pipe:.*", "pipe"),
        Expected(write, "pipe:.*", "pipe"),
    ]


@case("epoll, watching nothing")
def _idle_epoll() -> Expected:
    epoll = select.epoll()
    HELD.append(epoll)
    return Expected(epoll.fileno(), r"epoll instance \(I/O event notification\)", "epoll", {"watched_count": 0})


def timerfd(clock: int, seconds: int) -> int:
    """A timerfd on a clock, armed for so many seconds, or not."""
    fd = int(libc.timerfd_create(clock, 0))
    libc.timerfd_settime(fd, 0, struct.pack("@4q", 7 if seconds else 0, 0, seconds, 0), None)
    return fd


simple("timerfd, armed", lambda: timerfd(1, 1000), "timer notification", "timerfd", clock="CLOCK_MONOTONIC",
       interval_ns=7_000_000_000)  # fmt: skip
simple("timerfd, disarmed", lambda: timerfd(0, 0), "timer notification", "timerfd", clock="CLOCK_REALTIME",
       next_expiry_ns=0)  # fmt: skip
simple("timerfd, boot time", lambda: timerfd(7, 1000), "timer notification", "timerfd", clock="CLOCK_BOOTTIME")


@case("signalfd")
def _signalfd() -> Expected:
    mask = ctypes.create_string_buffer(128)
    libc.sigemptyset(mask)
    libc.sigaddset(mask, signal.SIGUSR1)
    return Expected(libc.signalfd(-1, mask, 0), "signal notification", "signalfd", {"signals": ["SIGUSR1"]})


simple("inotify, without watches", lambda: int(libc.inotify_init1(0)), "file system watcher", "inotify", watch_count=0)


def watch(number: int, name: str, events: str, known_path: str | None) -> dict[str, int | str | None]:
    """An inotify watch as a report should tell it."""
    status = os.stat(name)
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    return {"wd": number, "events": events, "inode": status.st_ino, "device": device, "path": known_path}


def watching(watches: list[tuple[str, int, str]]) -> Expected:
    """An inotify instance that watches paths: each with its events as a mask and in words."""
    fd = int(libc.inotify_init1(0))
    told = []
    for name, mask, events in watches:
        number = int(libc.inotify_add_watch(fd, os.fsencode(name), mask))
        told.append(watch(number, name, events, name))
    told.reverse()  # as the kernel lists them
    return Expected(fd, "file system watcher", "inotify", {"watch_count": len(watches), "watches": told})


@case("inotify, of a directory that is open")
def _inotify() -> Expected:
    HELD.append(os.open(DIRECTORY, os.O_RDONLY))
    return watching([(DIRECTORY, 0x100, "CREATE")])


@case("inotify, of what nothing but the watch holds")
def _inotify_alone() -> Expected:
    os.mkdir(path("watched directory"))
    os.mkdir(path("watched directory/below"))
    os.close(create("watched file"))
    return watching(
        [(path("watched directory/below"), 0x300, "CREATE|DELETE"), (path("watched file"), 0xA, "MODIFY|CLOSE_WRITE")]
    )


@case("inotify, of a removed file")
def _inotify_removed() -> Expected:
    HELD.append(create("to be removed"))  # which keeps the file, and so its watch
    fd = int(libc.inotify_init1(0))
    number = int(libc.inotify_add_watch(fd, os.fsencode(path("to be removed")), 0x2))
    told = watch(number, path("to be removed"), "MODIFY", None)
    os.unlink(path("to be removed"))
    return Expected(fd, "file system watcher", "inotify", {"watch_count": 1, "watches": [told]})


simple("fanotify", lambda: syscall(300, 262, 0, 0), r"file access watcher \(fanotify\)", "fanotify", mark_count=0)


@case("fanotify, of files by their handles")
def _fanotify_mark() -> Expected:
    fd = syscall(300, 262, 0x200, 0)  # FAN_REPORT_FID: for any user since Linux 5.13
    fan_mark_add, fan_create, at_fdcwd = 1, ctypes.c_uint64(0x100), -100
    libc.fanotify_mark(fd, fan_mark_add, fan_create, at_fdcwd, os.fsencode(DIRECTORY))
    return Expected(fd, r"file access watcher \(fanotify\)", "fanotify", {"mark_count": 1})


simple("memfd", lambda: os.memfd_create("cache"), "anonymous memory: cache", "memfd", name="cache")
simple("memfd, hostile name", lambda: os.memfd_create("a (deleted)\n"), r"anonymous memory: a \(deleted\)\n", "memfd")
simple("memfd, name of 249 letters", lambda: os.memfd_create("y" * 249), "anonymous memory: y{249}", "memfd")


@case("memfd, sealed")
def _sealed_memfd() -> Expected:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.truncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    seals = ["F_SEAL_SHRINK", "F_SEAL_GROW"]
    return Expected(fd, "anonymous memory: sealed", "memfd", {"name": "sealed", "size_bytes": 4096}, {"seals": seals})


simple("memfd, received", lambda: sent_by_child(lambda: os.memfd_create("sent")), "anonymous memory: sent", "memfd")
simple("memfd, of huge pages", lambda: os.memfd_create("huge", os.MFD_HUGETLB), "anonymous memory: huge", "memfd")


@case("memfd, opened again")
def _memfd_opened_again() -> Expected:
    fd = os.memfd_create("again")
    return Expected(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), "anonymous memory: again", "memfd")


@case("file of tmpfs that is called as a memfd")
def _like_a_memfd() -> Expected:
    full = f"/dev/shm/memfd:{os.getpid()}"
    fd = os.open(full, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.unlink(full)
    return Expected(fd, rf"deleted file: {full} \(0 bytes held\)", "file")


simple("memfd_secret", lambda: syscall(447, 447, 0), "secret memory", "memfd_secret")
simple("userfaultfd", lambda: syscall(323, 282, 1), r"page fault handler \(userfaultfd\)", "userfaultfd")
simple("pidfd", lambda: os.pidfd_open(os.getpid()), r"process handle \(pidfd\)", "pidfd", pid=os.getpid(), alive=True)


simple("pidfd of a child", lambda: os.pidfd_open(CLEANER), r"process handle \(pidfd\)", "pidfd",
       pid=CLEANER, alive=True)  # fmt: skip
simple("pidfd of a thread", lambda: os.pidfd_open(os.getpid(), os.O_EXCL), r"process handle \(pidfd\)", "pidfd",
       pid=os.getpid(), alive=True)  # fmt: skip


@case("pidfd of an ended process")
def _dead_pidfd() -> Expected:
    child = child_that(lambda: None)
    fd = os.pidfd_open(child)
    os.waitpid(child, 0)
    return Expected(fd, r"process handle \(pidfd\)", "pidfd", {"alive": False})


@case("pidfd of a zombie")
def _zombie_pidfd() -> Expected:
    child = child_that(lambda: None)
    fd = os.pidfd_open(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    return Expected(fd, r"process handle \(pidfd\)", "pidfd", {"pid": child}, {"alive": False})


@case("io_uring")
def _io_uring() -> Expected:
    parameters = ctypes.create_string_buffer(120)
    return Expected(syscall(425, 425, 8, parameters), "io_uring instance", "io_uring")


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2)."""
    buffer = ctypes.create_string_buffer(attributes, 128)
    return syscall(321, 280, command, buffer, 128)


def bpf_program(kind: int = 1) -> int:
    """A program called "answer" that returns 0: a socket filter, or another BPF_PROG_TYPE."""
    instructions = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95))
    license_text = ctypes.create_string_buffer(b"GPL")
    HELD.extend([instructions, license_text])
    head = struct.pack("<IIQQ", kind, 2, ctypes.addressof(instructions), ctypes.addressof(license_text))
    return bpf(5, head + bytes(24) + b"answer".ljust(16, b"\0"))


@case("BPF map")
def _bpf_map() -> Expected:
    fd = bpf(0, struct.pack("<IIIIIII16s", 2, 4, 8, 5, 0, 0, 0, b"counts"))
    return Expected(fd, "BPF map", "bpf_map", {"map_type": "array", "max_entries": 5, "name": "counts"})


simple("BPF ring buffer", lambda: bpf(0, struct.pack("<IIII", 27, 0, 0, 65536)), "BPF map", "bpf_map",
       map_type="ringbuf", max_entries=65536)  # fmt: skip
simple("BPF program", bpf_program, "BPF program", "bpf_program", program_type="socket_filter", name="answer")


@case("BPF link, to a tracepoint that is seldom passed")
def _bpf_link() -> list[Expected]:
    program, tracepoint = bpf_program(17), ctypes.create_string_buffer(b"cgroup_rename")  # BPF_PROG_TYPE_RAW_TRACEPOINT
    HELD.append(tracepoint)
    link = bpf(17, struct.pack("<QI", ctypes.addressof(tracepoint), program))
    return [
        Expected(program, "BPF program", "bpf_program", {"program_type": "raw_tracepoint"}),
        Expected(link, "BPF link", "bpf_link", {}, {"link_type": "raw_tracepoint", "tracepoint": "cgroup_rename"}),
    ]


@case("BPF type information")
def _btf() -> Expected:
    types, strings = struct.pack("<IIII", 1, 1 << 24, 4, 32), b"\0int\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    data = ctypes.create_string_buffer(header + types + strings, 24 + len(types) + len(strings))
    fd = bpf(18, struct.pack("<QQII", ctypes.addressof(data), 0, len(data), 0))
    return Expected(fd, "BPF type information", "bpf_btf")


@case("performance event")
def _perf() -> Expected:
    attributes = ctypes.create_string_buffer(struct.pack("<IIQ", 1, 112, 0), 112)
    attributes[40] = b"\x61"  # disabled, exclude_kernel, exclude_hv
    return Expected(syscall(298, 241, attributes, 0, -1, -1, 0), "performance event", "perf_event")


@case("message queue")
def _mqueue() -> Expected:
    limits = struct.pack("@8q", 0, 1, 8, 0, 0, 0, 0, 0)  # one message of 8 bytes: a user may hold 800 KiB of queues
    fd = syscall(240, 180, MQUEUE.encode(), os.O_CREAT | os.O_RDWR, 0o600, limits)
    return Expected(fd, f"message queue: /{MQUEUE}", "mqueue", {"name": f"/{MQUEUE}"})


@case("message queue, removed")
def _removed_mqueue() -> Expected:
    name = f"{MQUEUE}-removed"
    limits = struct.pack("@8q", 0, 1, 8, 0, 0, 0, 0, 0)
    fd = syscall(240, 180, name.encode(), os.O_CREAT | os.O_RDWR, 0o600, limits)
    libc.mq_unlink(f"/{name}".encode())
    return Expected(fd, rf"message queue: /{name} \(removed\)", "mqueue", {"name": f"/{name}", "deleted": True})


@case("Landlock ruleset")
def _landlock() -> Expected:
    return Expected(syscall(444, 444, struct.pack("<Q", 1), 8, 0), "Landlock ruleset", "landlock_ruleset")


@case("file system context")
def _fsopen() -> Expected:
    return Expected(syscall(430, 430, b"tmpfs", 0), "file system context", "fs_context")


@case("detached mount")
def _open_tree() -> Expected:
    return Expected(syscall(428, 428, -100, b"/", 1), "directory: /", "directory")


@case("mount that is attached nowhere")
def _fsmount() -> Expected:
    context = syscall(430, 430, b"tmpfs", 0)
    syscall(431, 431, context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
    mount = syscall(432, 432, context, 0, 0)
    os.close(context)
    return Expected(mount, "directory: /", "directory")


def seccomp_listener() -> int:
    """A listener of a filter that lets everything pass, and stays with the calling process for good."""
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    instructions = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))  # return SECCOMP_RET_ALLOW
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 1, ctypes.addressof(instructions)))
    return syscall(317, 277, 1, 8, program)


simple("seccomp listener", lambda: sent_by_child(seccomp_listener), "seccomp listener", "seccomp_notify")

for _name, _words in [
    ("cgroup", "cgroup"), ("ipc", "IPC"), ("mnt", "mount"), ("net", "network"), ("pid", "PID"), ("time", "time"),
    ("user", "user"), ("uts", "UTS"),
]:  # fmt: skip
    simple(f"{_name} namespace", lambda name=_name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY),  # type: ignore[misc]
           rf"{_words} namespace {_name}:\[\d+\]", "namespace")  # fmt: skip

# --- sockets ---------------------------------------------------------------------------------------------------------
STREAM, DATAGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
UDPLITE, MPTCP = 136, 262


def hold(sock: socket.socket) -> int:
    """Keeps a socket open until the end."""
    HELD.append(sock)
    return sock.fileno()


def made(family: int, kind: int, protocol: int = 0, address: object = None, *, listen: bool = False) -> int:
    """A socket, bound and listening where asked."""
    sock = socket.socket(family, kind, protocol)
    if family == INET6 and kind == STREAM:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if address is not None:
        sock.bind(address)  # type: ignore[arg-type]
    if listen:
        sock.listen(23)
    return hold(sock)


def sock_case(name: str, description: str, family: int, kind: int, protocol: int = 0, address: object = None,
              *, listen: bool = False) -> None:  # fmt: skip
    """Registers a socket that is made, bound and listening as asked."""
    facts: dict[str, Any] = {"bound": address is not None}
    if address is not None and kind == STREAM and family in {INET, INET6} and not listen:
        facts["state"] = "BOUND"  # for TCP_INFO it is closed
    CASES[name] = lambda: Expected(
        made(family, kind, protocol, address, listen=listen), description, "socket", {}, facts
    )


V4, V6 = ("127.0.0.1", 0), ("::1", 0)
sock_case("TCP, never bound", r"socket \(TCP, not bound\)", INET, STREAM)
sock_case("TCP6, never bound", r"socket \(TCP6, not bound\)", INET6, STREAM)
sock_case("TCP, bound", r"socket \(TCP port \d+, bound but not listening\)", INET, STREAM, 0, V4)
sock_case("TCP6, bound", r"socket \(TCP6 port \d+, bound but not listening\)", INET6, STREAM, 0, V6)
sock_case("TCP, listening", r"socket \(TCP port \d+\)", INET, STREAM, 0, V4, listen=True)
sock_case("TCP, listening everywhere", r"socket \(TCP port \d+\)", INET, STREAM, 0, ("", 0), listen=True)
sock_case("TCP6, listening", r"socket \(TCP6 port \d+\)", INET6, STREAM, 0, V6, listen=True)
sock_case("TCP6, listening, IPv6 only", r"socket \(TCP6 port \d+\)", INET6, STREAM, 0, ("::", 0), listen=True)
sock_case("UDP, unbound", r"socket \(UDP, not bound\)", INET, DATAGRAM)
sock_case("UDP6, unbound", r"socket \(UDP6, not bound\)", INET6, DATAGRAM)
sock_case("UDP, bound", r"socket \(UDP port \d+\)", INET, DATAGRAM, 0, V4)
sock_case("UDP6, bound", r"socket \(UDP6 port \d+\)", INET6, DATAGRAM, 0, V6)
sock_case("UDP-Lite, unbound", r"socket \(UDPLITE, not bound\)", INET, DATAGRAM, UDPLITE)
sock_case("UDP-Lite 6, unbound", r"socket \(UDPLITE6, not bound\)", INET6, DATAGRAM, UDPLITE)
sock_case("UDP-Lite 6, bound", r"socket \(UDPLITE6 port \d+\)", INET6, DATAGRAM, UDPLITE, V6)
sock_case("UDP-Lite, bound", r"socket \(UDPLITE port \d+\)", INET, DATAGRAM, UDPLITE, V4)
sock_case("MPTCP, unbound", r"socket \(MPTCP, not bound\)", INET, STREAM, MPTCP)
sock_case("MPTCP, listening", r"socket \(MPTCP port \d+\)", INET, STREAM, MPTCP, V4, listen=True)
sock_case("SCTP", r"socket \(SCTP, not bound\)", INET, STREAM, 132)
sock_case("raw ICMP", r"socket \(RAW protocol ICMP\)", INET, RAW, 1)
sock_case("raw ICMPv6", r"socket \(RAW6 protocol ICMPV6\)", INET6, RAW, 58)
sock_case("ping, unbound", r"socket \(ICMP, not bound\)", INET, DATAGRAM, 1)
sock_case("ping, bound", r"socket \(ICMP id \d+\)", INET, DATAGRAM, 1, ("127.0.0.1", 77))
sock_case("packet", r"socket \(packet\)", socket.AF_PACKET, RAW)
sock_case("packet on lo", r"socket \(packet ALL on lo\)", socket.AF_PACKET, RAW, 0, ("lo", 3))
sock_case("netlink ROUTE, created", r"socket \(netlink ROUTE, not bound\)", socket.AF_NETLINK, RAW)
sock_case("netlink ROUTE, libwebsockets' groups",
          r"socket \(netlink ROUTE: LINK IPV4_IFADDR IPV4_ROUTE IPV6_IFADDR IPV6_ROUTE\)",
          socket.AF_NETLINK, RAW, 0, (0, 0x551))  # fmt: skip
sock_case("netlink KOBJECT_UEVENT", r"socket \(netlink KOBJECT_UEVENT: KERNEL\)", socket.AF_NETLINK, RAW, 15, (0, 1))
sock_case("netlink GENERIC", r"socket \(netlink GENERIC\)", socket.AF_NETLINK, RAW, 16, (0, 0))
sock_case("netlink SOCK_DIAG", r"socket \(netlink SOCK_DIAG\)", socket.AF_NETLINK, RAW, 4, (0, 0))
sock_case("netlink CRYPTO, created", r"socket \(netlink CRYPTO, not bound\)", socket.AF_NETLINK, RAW, 21)
sock_case("unix stream, unnamed", r"Unix domain socket \(u_str\), not connected", UNIX, STREAM)
sock_case("unix datagram, unnamed", r"Unix domain socket \(u_dgr\), not connected", UNIX, DATAGRAM)
sock_case("unix datagram, named", "Unix domain socket: .*/dgram", UNIX, DATAGRAM, 0, path("dgram"))
sock_case("unix stream, listening", "Unix domain socket: .*/listen, listening", UNIX, STREAM, 0,
          path("listen"), listen=True)  # fmt: skip
sock_case("unix, bound", "Unix domain socket: .*/bound", UNIX, STREAM, 0, path("bound"))
sock_case("unix, newline in its path", "Unix domain socket: .*/new\nline, listening", UNIX, STREAM, 0,
          path("new\nline"), listen=True)  # fmt: skip
sock_case("unix, abstract", r"Unix domain socket: @threadinfo\.\d+, listening", UNIX, STREAM, 0,
          f"\0threadinfo.{os.getpid()}", listen=True)  # fmt: skip
sock_case("vsock, unbound", r"socket \(vsock, not bound\)", socket.AF_VSOCK, STREAM)
sock_case("vsock, listening", r"socket \(vsock port \d+, LISTEN\)", socket.AF_VSOCK, STREAM, 0,
          (1, 0xFFFFFFFF), listen=True)  # fmt: skip
sock_case("vsock, bound", r"socket \(vsock port \d+.*\)", socket.AF_VSOCK, STREAM, 0, (0xFFFFFFFF, 0xFFFFFFFF))
sock_case("XDP", r"socket \(XDP\)", 44, RAW)
sock_case("ALG", r"socket \(ALG\)", socket.AF_ALG, socket.SOCK_SEQPACKET)
sock_case("ALG, bound", r"socket \(ALG\)", socket.AF_ALG, socket.SOCK_SEQPACKET, 0, ("hash", "sha256"))
sock_case("KEY", r"socket \(KEY\)", 15, RAW, 2)
sock_case("CAN", r"socket \(CAN\)", 29, RAW, 1)
sock_case("BLUETOOTH", r"socket \(BLUETOOTH\)", 31, RAW, 1)
sock_case("unix seqpacket, listening", "Unix domain socket: .*/seqpacket, listening", UNIX, socket.SOCK_SEQPACKET, 0,
          path("seqpacket"), listen=True)  # fmt: skip
sock_case("unix, name chosen by the kernel", "Unix domain socket: @[0-9a-f]{5}", UNIX, DATAGRAM, 0, "")
sock_case("unix, control characters in its path", "Unix domain socket: .*/red\x1b\\[31m", UNIX, STREAM, 0,
          path("red\x1b[31m"))  # fmt: skip


def unix_pair(kind: int, netid: str) -> list[Expected]:
    """Both ends of a pair, each of which names the other."""
    first, second = socket.socketpair(UNIX, kind)
    return [
        Expected(hold(end), rf"Unix domain socket \({netid}\), connected to FD {other.fileno()}", "socket")
        for end, other in ((first, second), (second, first))
    ]


CASES["unix stream pair"] = lambda: unix_pair(STREAM, "u_str")
CASES["unix datagram pair"] = lambda: unix_pair(DATAGRAM, "u_dgr")
CASES["unix seqpacket pair"] = lambda: unix_pair(socket.SOCK_SEQPACKET, "u_seq")


@case("unix stream, connected to a path")
def _unix_connected() -> list[Expected]:
    listener, client = socket.socket(UNIX), socket.socket(UNIX)
    listener.bind(path("served"))
    listener.listen()
    client.connect(path("served"))
    accepted, _ = listener.accept()
    hold(listener)
    return [
        Expected(hold(client), rf"Unix domain socket \(u_str\), connected to FD {accepted.fileno()}", "socket"),
        Expected(hold(accepted), rf"Unix domain socket: .*/served, connected to FD {client.fileno()}", "socket"),
    ]


@case("unix stream, path removed")
def _unix_removed() -> Expected:
    fd = made(UNIX, STREAM, 0, path("removed"), listen=True)
    os.unlink(path("removed"))
    return Expected(fd, "Unix domain socket: .*/removed, listening", "socket")


@case("unix stream, not yet accepted")
def _unix_waiting() -> Expected:
    made(UNIX, STREAM, 0, path("slow"), listen=True)
    client = socket.socket(UNIX)
    client.connect(path("slow"))
    return Expected(hold(client), r"Unix domain socket \(u_str\), connected to .*/slow, not accepted yet", "socket")


@case("unix datagram, connected to a path")
def _unix_datagram_connected() -> Expected:
    server = made(UNIX, DATAGRAM, 0, path("inbox"))
    client = socket.socket(UNIX, DATAGRAM)
    client.connect(path("inbox"))
    return Expected(hold(client), rf"Unix domain socket \(u_dgr\), connected to FD {server}", "socket")


TCP_STATES = [  # from 1 on, as in /proc/net/tcp
    "ESTABLISHED", "SYN_SENT", "SYN_RECEIVED", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSED", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING",
]  # fmt: skip


def tcp_state(sock: socket.socket) -> str:
    """The state of a TCP or MPTCP socket (TCP_INFO)."""
    return TCP_STATES[sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] - 1]


def tcp_pair(address: tuple[str, int] = V4, protocol: int = 0) -> tuple[socket.socket, socket.socket]:
    """A client and what was accepted."""
    family = INET6 if ":" in address[0] else INET
    listener, client = socket.socket(family, STREAM, protocol), socket.socket(family, STREAM, protocol)
    listener.bind(address)
    listener.listen()
    client.connect(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    HELD.extend([client, accepted])
    return client, accepted


@case("TCP, connected")
def _connected() -> list[Expected]:
    client, accepted = tcp_pair()
    words = r"socket \(TCP port \d+, ESTABLISHED with 127\.0\.0\.1:{}\)"
    return [
        Expected(client.fileno(), words.format(accepted.getsockname()[1]), "socket"),
        Expected(accepted.fileno(), words.format(client.getsockname()[1]), "socket"),
    ]


@case("TCP6, connected")
def _connected6() -> list[Expected]:
    client, accepted = tcp_pair(V6)
    words = r"socket \(TCP6 port \d+, ESTABLISHED with \[::1\]:{}\)"
    return [
        Expected(client.fileno(), words.format(accepted.getsockname()[1]), "socket"),
        Expected(accepted.fileno(), words.format(client.getsockname()[1]), "socket"),
    ]


@case("MPTCP, connected")
def _mptcp_connected() -> list[Expected]:
    words = r"socket \(MPTCP port \d+, ESTABLISHED with 127\.0\.0\.1:\d+\)"
    return [Expected(end.fileno(), words, "socket") for end in tcp_pair(V4, MPTCP)]


@case("TCP, closed by one side")
def _half_closed() -> list[Expected]:
    client, accepted = tcp_pair()
    client.shutdown(socket.SHUT_WR)
    accepted.recv(1)
    while tcp_state(client) == "FIN_WAIT1":  # until the other side's acknowledgement comes
        time.sleep(0.001)
    return [
        Expected(client.fileno(), r"socket \(TCP port \d+, FIN_WAIT2 with .*\)", "socket"),
        Expected(accepted.fileno(), r"socket \(TCP port \d+, CLOSE_WAIT with .*\)", "socket"),
    ]


@case("TCP, CLOSE_WAIT")
def _close_wait() -> Expected:
    client, accepted = tcp_pair()
    client.close()
    accepted.recv(1)
    return Expected(accepted.fileno(), r"socket \(TCP port \d+, CLOSE_WAIT with .*\)", "socket")


@case("TCP, closed by both sides")
def _closed() -> list[Expected]:
    client, accepted = tcp_pair()
    client.shutdown(socket.SHUT_RDWR)
    accepted.recv(1)
    accepted.shutdown(socket.SHUT_RDWR)
    return [Expected(accepted.fileno(), r"socket \(TCP port \d+, closed\)", "socket")]


@case("TCP, reset")
def _reset() -> Expected:
    client, accepted = tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    select.select([accepted], [], [])
    return Expected(accepted.fileno(), r"socket \(TCP port \d+, closed\)", "socket")


@case("TCP, refused")
def _refused() -> Expected:
    taken, refused = socket.socket(), socket.socket()
    taken.bind(V4)
    refused.connect_ex(taken.getsockname())
    hold(taken)
    return Expected(hold(refused), r"socket \(TCP port \d+, closed, without a connection\)", "socket")


@case("TCP, bind failed")
def _bind_failed() -> Expected:
    taken, failed = socket.socket(), socket.socket()
    taken.bind(V4)
    hold(taken)
    try:
        failed.bind(taken.getsockname())
    except OSError:
        return Expected(hold(failed), r"socket \(TCP, not bound\)", "socket")
    raise AssertionError("bind to a taken address worked")


@case("TCP, listener shut down")
def _shut_down() -> Expected:
    listener = socket.create_server(V4)  # of no particular port: shutting it down gives the port up
    listener.shutdown(socket.SHUT_RDWR)
    return Expected(hold(listener), r"socket \(TCP port \d+, closed, without a connection\)", "socket")


@case("TCP6, dual stack")
def _dual_stack() -> Expected:
    listener = socket.create_server(("::", 0), family=INET6, dualstack_ipv6=True)
    return Expected(hold(listener), r"socket \(TCP6 port \d+, IPv4 too\)", "socket")


@case("UDP6, connected")
def _udp6_connected() -> Expected:
    sock = socket.socket(INET6, DATAGRAM)
    sock.connect(("::1", 9))
    return Expected(hold(sock), r"socket \(UDP6 port \d+, ESTABLISHED with \[::1\]:9\)", "socket")


@case("UDP, connected")
def _udp_connected() -> Expected:
    sock = socket.socket(INET, DATAGRAM)
    sock.connect(("127.0.0.1", 9))
    return Expected(hold(sock), r"socket \(UDP port \d+, ESTABLISHED with 127\.0\.0\.1:9\)", "socket")


@case("socket with two descriptors")
def _dup() -> list[Expected]:
    sock = socket.create_server(V4)
    copy = os.dup(hold(sock))
    fds = sorted([sock.fileno(), copy])
    return [Expected(fd, r"socket \(TCP port \d+\)", "socket", {"same_socket_fds": fds}) for fd in fds]


def foreign_listener() -> int:
    """A listener in a new network namespace, which the calling process moves to."""
    if libc.unshare(0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
    return made(INET, STREAM, 0, ("", 0), listen=True)


@case("listener of another network namespace")
def _other_namespace() -> Expected:
    return Expected(sent_by_child(foreign_listener), r"socket \(TCP port \d+, in another network namespace\)", "socket",
                    {"other_network_namespace": True})  # fmt: skip


# --- what a socket tells of itself -----------------------------------------------------------------------------------
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPV6", 132: "SCTP", UDPLITE: "UDPLITE", MPTCP: "MPTCP"}


def format_address(address: object) -> str | None:
    """An address of an IP or Unix socket in words; None where there is none."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}") if port else None
    if isinstance(address, bytes):
        address = address.decode(errors="backslashreplace")
    return str(address).replace("\0", "@", 1) if address else None


def facts_of_socket(fd: int) -> dict[str, Any]:
    """What a socket answers when it is asked."""
    with socket.socket(INET, STREAM, 0, fileno=os.dup(fd)) as sock:  # of no family in truth: it is asked for it
        options = (socket.SO_DOMAIN, socket.SO_TYPE, socket.SO_PROTOCOL)
        family, kind, protocol = (sock.getsockopt(socket.SOL_SOCKET, option) for option in options)
    family_names = {44: "AF_XDP"} | {each.value: each.name for each in socket.AddressFamily}
    facts: dict[str, Any] = {"family": family_names[family], "type": socket.SocketKind(kind).name}
    if family not in {INET, INET6, UNIX} or kind == RAW:
        return facts
    with socket.socket(family, kind, protocol, fileno=os.dup(fd)) as sock:
        facts["local"] = format_address(sock.getsockname())
        try:
            remote = format_address(sock.getpeername())
        except OSError as problem:
            if problem.errno != errno.ENOTCONN:
                raise
            facts["remote"] = None
        else:
            facts |= {"remote": remote} if remote else {}  # a peer without a name has no address to tell
        if family == UNIX:
            return facts
        facts["protocol"] = PROTOCOLS[protocol]
        if kind == STREAM:
            facts["state"] = tcp_state(sock)
            if facts["state"] != "CLOSED":
                facts["bound"] = True
    return facts


def main() -> None:
    """Makes every case, tells, and waits."""
    is_later = sys.argv[2:] == ["later"]
    if is_later:
        print("ready", flush=True)
        sys.stdin.readline()
    found: list[dict[str, Any]] = []
    unavailable = []
    for name, make in CASES.items():
        try:
            expected = make()
        except OSError as problem:
            code = errno.errorcode.get(problem.errno or 0, "error")
            unavailable.append({"case": name, "error": f"{code} {problem.strerror}"})
            continue
        for entry in expected if isinstance(expected, list) else [expected]:
            facts = facts_of_socket(entry.fd) if entry.type == "socket" else {}
            expect = {**facts, **entry.details, **entry.facts}
            told = {"description": entry.description, "type": entry.type, "details": entry.details}
            found.append({"fd": entry.fd, "case": name, "kind": entry.type, "expect": expect, **told})
    if sys.argv[2:] == ["nobody"]:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as ordinary processes are
    print(json.dumps({"ready": True, "descriptors": found, "unavailable": unavailable}), flush=True)
    if is_later:
        sys.stdin.readline()
    else:
        sys.stdin.read()
    os.close(CLEANER_PIPE)
    os.waitpid(CLEANER, 0)


main()
