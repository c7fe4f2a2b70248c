"""Where a process has code: the text of /proc/PID/maps to modules, and which code is a C library's. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

# proc_pid_maps(5): start-end permissions offset device inode path
_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) ..(.). ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)$", re.MULTILINE)
_DELETED = " (deleted)"
VDSO = "[vdso]"
_WIDEST_GAP_BYTES = 16 << 20  # between segments of one file; linkers leave at most 2 MiB

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
    mapping: str | None
    """START-END of the file's beginning, as /proc/PID/map_files has it (maps adds zeros); None: not mapped."""
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
    """Contents of /proc/PID/maps to modules; lines that are none are left out. Only modules with code count.

    A module is what is mapped of one file without another file or a wide gap between; it begins anew where the file's
    offset falls back to 0. Addresses in the file follow from where its beginning is mapped: what begins elsewhere (V8
    maps a part of its program a second time) has a path and nothing else.
    """
    modules: list[Module] = []
    starts: list[int] = []
    ends: list[int] = []
    module: Module | None = None
    has_code, last_offset = False, 0
    for match in _LINE.finditer(maps):
        start, end, offset, inode = int(match[1], 16), int(match[2], 16), int(match[4], 16), match[6]
        is_code, path = match[3] == b"x", match[7]
        if is_code:
            starts.append(start)
            ends.append(end)
        if (inode == b"0" and path != VDSO.encode()) or path == b"/dev/zero (deleted)":
            continue  # memory, private or shared: between two mappings of a file it does not part them
        identity = match[5] + b" " + inode
        if (
            module is not None
            and module.identity == identity
            and start - module.end <= _WIDEST_GAP_BYTES
            and not (offset == 0 and last_offset)
        ):
            module = module._replace(end=end)
            has_code |= is_code
        else:
            if module is not None and has_code:
                modules.append(module)
            mapping = f"{start:x}-{end:x}" if offset == 0 else None
            module = Module(start, end, path.decode("utf-8", "backslashreplace"), mapping, identity)
            has_code = is_code
        last_offset = offset
    if module is not None and has_code:
        modules.append(module)
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
