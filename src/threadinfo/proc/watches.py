"""What an inotify instance watches, as paths: the kernel keeps inodes and forgets by which name they were found.

Two ways to a path, neither of which guesses: what the target itself has open, stands in or has as its root, compared by
device and inode; and, as root, the file handle that fdinfo tells (open_by_handle_at(2)). A path counts if it leads to
the inode. For handles a mount point of the target's is opened, one whose file system cannot keep us waiting; what the
target puts in its place meanwhile is not asked for anything.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress

from threadinfo.model import Descriptor
from threadinfo.proc.fdinfo import Watch, parse_fdinfo, parse_watches
from threadinfo.proc.file_status import FileStatus, read_status
from threadinfo.proc.reader import ProcDirectory, ProcError, decode_file_name

_LOCAL = frozenset(
    "bcachefs btrfs cgroup cgroup2 devtmpfs erofs ext2 ext3 ext4 f2fs overlay proc ramfs squashfs sysfs tmpfs "
    "xfs".split()
)
"""File systems that answer without a server or a process that could be slow."""
_HANDLE_BYTES = 128  # MAX_HANDLE_SZ

_libc = ctypes.CDLL(None, use_errno=True)


class WatchedPaths:
    """The paths of a process's watches; asks of its mounts and of each inode once."""

    def __init__(self, process: ProcDirectory, descriptors: Sequence[Descriptor]) -> None:
        self._process = process
        self._descriptors = descriptors
        self._mounts: dict[tuple[int, int], str] | None = None
        self._found: dict[tuple[tuple[int, int], int], str | None] = {}

    def name(self, descriptor: Descriptor) -> list[dict[str, int | str | None]]:
        """The watches of an inotify descriptor with their paths; None where none is found."""
        told = [dict(watch) for watch in _items(descriptor.details.get("watches"))]
        try:
            watches = parse_watches(parse_fdinfo(self._process.read_text(f"fdinfo/{descriptor.fd}")))
        except (ProcError, KeyError, ValueError):  # closed, or another file by now
            return told
        by_number = {watch.number: watch for watch in watches}
        for one in told:
            watch = by_number.get(int(str(one["wd"])))
            if watch is not None and watch.inode == one["inode"]:
                one["path"] = self._path(watch)
        return told

    def _path(self, watch: Watch) -> str | None:
        key = (watch.device, watch.inode)
        if key not in self._found:
            self._found[key] = self._held_by_target(watch) or self._by_handle(watch)
        return self._found[key]

    def _held_by_target(self, watch: Watch) -> str | None:
        links = [f"fd/{one.fd}" for one in self._descriptors if one.inode == watch.inode and one.target[:1] == "/"]
        for link in ("cwd", "root", "exe", *links):
            with suppress(ProcError):
                if _is_watched(self._process.stat(link), watch):
                    return self._confirmed(self._process.link(link), watch)
        return None

    def _by_handle(self, watch: Watch) -> str | None:
        if self._mounts is None:
            self._mounts = _read_local_mounts(self._process)
        mount = self._mounts.get(watch.device)
        if mount is None or watch.handle_type is None or not 0 < len(watch.handle) <= _HANDLE_BYTES:
            return None
        with suppress(ProcError, OSError):
            mount_fd = self._process.directory_below_root(mount)
            try:
                if not _is_on(mount_fd, watch.device):
                    return None
                fd = _open_by_handle(mount_fd, watch)
            finally:
                os.close(mount_fd)
            try:
                return self._confirmed(decode_file_name(os.readlink(f"/proc/self/fd/{fd}")), watch)
            finally:
                os.close(fd)
        return None

    def _confirmed(self, path: str, watch: Watch) -> str | None:
        """The path, if it leads the target to the inode: a removed file has none, and one may lie outside its root."""
        with suppress(ProcError):
            if _is_watched(self._process.stat_patiently(f"root{path}"), watch):
                return path
        return None


def _items(value: object) -> list[dict[str, int | str | None]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_watched(status: FileStatus, watch: Watch) -> bool:
    return status.inode == watch.inode and (status.device_major, status.device_minor) == watch.device


def _is_on(fd: int, device: tuple[int, int]) -> bool:
    """Whether an open directory is on a device; its file system is not asked."""
    status = read_status(f"/proc/self/fd/{fd}", fd)
    return (status.device_major, status.device_minor) == device


def _open_by_handle(mount_fd: int, watch: Watch) -> int:
    """An O_PATH descriptor; OSError without CAP_DAC_READ_SEARCH, and where the file system refuses."""
    handle = struct.pack("=Ii", len(watch.handle), watch.handle_type) + watch.handle
    fd = int(_libc.open_by_handle_at(mount_fd, handle, os.O_PATH | os.O_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _read_local_mounts(process: ProcDirectory) -> dict[tuple[int, int], str]:
    """A mount point for each device whose file system, and all that lie on the way to it, are local."""
    mounts = []
    try:
        for line in process.read_text("mountinfo").splitlines():
            fields = line.split(" ")
            major, minor = fields[2].split(":")
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            mounts.append(((int(major), int(minor)), point, fields[fields.index("-") + 1]))
    except (ProcError, ValueError, IndexError):
        return {}
    slow = [point for _, point, kind in mounts if kind not in _LOCAL]
    return {
        device: point
        for device, point, kind in reversed(mounts)
        if kind in _LOCAL and not any(point == one or point.startswith(one.rstrip("/") + "/") for one in slow)
    }
