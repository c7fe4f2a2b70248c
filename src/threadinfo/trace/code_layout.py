"""Where a process has code: the text of /proc/PID/maps to modules, and which code is a C library's. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

# proc_pid_maps(5): start-end permissions offset device inode path
_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) ..(.). ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)$", re.MULTILINE)
_DELETED = " (deleted)"
VDSO = "[vdso]"

_LIBRARY_FILE = re.compile(
    r"(libc|libpthread)(\.so(\.[\d.]+)?|-[\d.]+\.so)|libc\.musl-.*|ld-(linux|musl)[^/]*|ld-[\d.]+\.so|ld(64)?\.so\.\d+"
)
# A static program has glibc's or musl's code in its own file: told by the names that those give it.
_LIBRARY_PREFIX = re.compile(
    r"(__)?(libc_|GI_|internal_sys|pthread_|IO_|dl_|nptl_|restore_rt|syscall_cancel)|_IO_|_dl_"
)
_WRAPPERS = frozenset(
    (
        "accept accept4 bind brk clone clone3 close close_range connect creat dup dup2 dup3 epoll_create "
        "epoll_create1 eventfd execve fanotify_init fclose fcntl fdopendir fopen fork freopen getaddrinfo inotify_init "
        "inotify_init1 ioctl listen malloc calloc realloc memfd_create memfd_secret mkostemp mkstemp mmap mremap "
        "munmap open open64 openat openat2 opendir pidfd_open pidfd_getfd pipe pipe2 poll popen posix_openpt pread "
        "preadv pselect pwrite pwritev read readv recv recvfrom recvmsg sbrk select send sendmsg sendto shm_open "
        "sigaction signalfd socket socketpair start start_thread start_main syscall syscall_cp syscall_cp_asm "
        "timerfd_create tmpfile unshare userfaultfd vfork write writev pause nanosleep clock_nanosleep start_call_main"
    ).split()
)


class Module(NamedTuple):
    """A file that is mapped with code."""

    start: int
    end: int
    path: str
    """As in maps, " (deleted)" included; bytes that are not UTF-8 become \\xNN."""
    mapping: str
    """START-END of its first mapping, as /proc/PID/map_files has it: without the zeros with which maps begins."""
    identity: bytes
    """Device and inode."""


class CodeLayout(NamedTuple):
    """Where a process has code."""

    modules: tuple[Module, ...]
    starts: tuple[int, ...]
    """Of executable mappings of any kind, ascending."""
    ends: tuple[int, ...]
    has_library: bool
    """Whether one of the modules is a C library; a static program has none."""

    def is_code(self, address: int) -> bool:
        """Whether an executable mapping holds this address."""
        at = bisect_right(self.starts, address) - 1
        return at >= 0 and address < self.ends[at]


def parse_layout(maps: bytes) -> CodeLayout:
    """Contents of /proc/PID/maps to modules; lines that are none are left out.

    A module is what is mapped of one file without another file between; it begins anew where the file's offset falls
    back to 0. Only modules with code count, and those whose first mapping is the file's beginning: the addresses in the
    file follow from that.
    """
    modules: list[Module] = []
    starts: list[int] = []
    ends: list[int] = []
    group: Module | None = None
    has_code, last_offset = False, 0
    for match in _LINE.finditer(maps):
        start, end, offset, inode = int(match[1], 16), int(match[2], 16), int(match[4], 16), match[6]
        is_code, path = match[3] == b"x", match[7]
        if is_code:
            starts.append(start)
            ends.append(end)
        if (inode == b"0" and path != b"[vdso]") or path == b"/dev/zero (deleted)":
            continue  # memory, private or shared: between two mappings of a file it does not part them
        identity = match[5] + b" " + inode
        if group is not None and group.identity == identity and not (offset == 0 and last_offset):
            group = group._replace(end=end)
            has_code |= is_code
        else:
            if group is not None and has_code:
                modules.append(group)
            text = path.decode("utf-8", "backslashreplace")
            group = Module(start, end, text, f"{start:x}-{end:x}", identity)
            if offset:
                group = None
            has_code = is_code
        last_offset = offset
    if group is not None and has_code:
        modules.append(group)
    has_library = any(module.path != VDSO and is_library_file(module.path) for module in modules)
    return CodeLayout(tuple(modules), tuple(starts), tuple(ends), has_library)


def is_library_file(path: str) -> bool:
    """Whether a file is a C library or its loader, by its name: glibc's and musl's; the vdso counts as one."""
    name = path.removesuffix(_DELETED).rpartition("/")[2]
    return path == VDSO or _LIBRARY_FILE.fullmatch(name) is not None


def is_library_function(name: str) -> bool:
    """Whether a function of a static program is a C library's, by its name."""
    plain = name.lstrip("_").removeprefix("libc_").removesuffix("_nocancel").removesuffix("64")
    return plain in _WRAPPERS or _LIBRARY_PREFIX.match(name) is not None
