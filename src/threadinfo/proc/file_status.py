"""statx(2): what a file is, without asking the server of its file system, which may not answer; openat2(2).

stat(2) of a file on FUSE or NFS goes to the server, and waits for it past every signal. With AT_STATX_DONT_SYNC the
kernel says what it knows: what the file is does not change, its size and its number of links may be a little old.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import NamedTuple

_STATX = struct.Struct("=16xI8xH2xQQQ80xII")  # nlink, mode, ino, size, blocks, dev_major, dev_minor; statx(2)
_Buffer = ctypes.c_char * 256
_BASIC_STATS = 0x7FF
_DONT_SYNC = 0x4000  # AT_STATX_DONT_SYNC
_REFUSED = frozenset({errno.ENOSYS, errno.EPERM})  # before Linux 4.11, or by a container's old filter
_PROC_SUPER_MAGIC = 0x9FA0  # statfs(2)
# FUSE, NFS, SMB2, CIFS, 9p, Ceph, AFS, Coda; as statfs(2) and include/uapi/linux/magic.h have them.
_SERVED_MAGICS = frozenset({0x65735546, 0x6969, 0xFE534D42, 0xFF534D42, 0x01021997, 0x00C36400, 0x5346414F, 0x73757245})
_SYS_OPENAT2 = 437  # the same number on every architecture
_OPEN_HOW = struct.Struct("=3Q")
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_LIBC = ctypes.CDLL(None, use_errno=True)


class FileStatus(NamedTuple):
    """What this project needs of stat(2)."""

    link_count: int
    mode: int
    inode: int
    size_bytes: int
    block_count: int
    """Of 512 bytes each."""
    device_major: int
    device_minor: int


_statx = getattr(_LIBC, "statx", None)  # None: the C library is older than the call
if _statx is not None:
    _statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


def read_status(name: str, directory: int) -> FileStatus:
    """Of what `name` leads to; raises OSError. Only a link of /proc itself, to an open file, asks no server."""
    if _statx is not None:
        buffer = _Buffer()
        if not _statx(directory, name.encode("utf-8", "surrogateescape"), _DONT_SYNC, _BASIC_STATS, buffer):
            return FileStatus._make(_STATX.unpack_from(buffer))
        problem = ctypes.get_errno()
        if problem not in _REFUSED:
            raise OSError(problem, os.strerror(problem))
    plain = os.stat(name, dir_fd=directory)
    return FileStatus(
        plain.st_nlink,
        plain.st_mode,
        plain.st_ino,
        plain.st_size,
        plain.st_blocks,
        os.major(plain.st_dev),
        os.minor(plain.st_dev),
    )


def may_need_server(status: FileStatus) -> bool:
    """Whether opening or reading it may wait for a server, or for another process: all but files on a block device."""
    return not stat.S_ISREG(status.mode) or status.device_major == 0


def is_on_a_server(fd: int) -> bool:
    """Whether reading an open file may wait for a server on the network, or for a process (FUSE)."""
    buffer = _Buffer()
    if _LIBC.fstatfs(fd, buffer):
        return True
    return ctypes.c_long.from_buffer(buffer).value in _SERVED_MAGICS


def is_procfs(directory: int) -> bool:
    """Whether an open directory is the kernel's /proc, and no copy or forgery of it."""
    buffer = _Buffer()  # of more than enough
    if _LIBC.fstatfs(directory, buffer):
        return False
    return ctypes.c_long.from_buffer(buffer).value == _PROC_SUPER_MAGIC


def open_directory(path: str, root: int) -> int:
    """Opens a directory below another without following any link; raises OSError, ENOSYS before Linux 5.6."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    how = _OPEN_HOW.pack(flags, 0, _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)
    name = path.lstrip("/").encode("utf-8", "surrogateescape") or b"."
    fd = int(_LIBC.syscall(_SYS_OPENAT2, root, name, how, len(how)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
