"""The one place that opens /proc.

A process is held by an open descriptor of its /proc directory: once the process ends, everything below it answers
"gone", even when the kernel gives its number to another process. So all that is read through one `ProcDirectory` is of
one process.

Three things can go wrong with an entry, and they are three errors: it is gone, it is denied, it is malformed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.ENXIO})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_CHUNK_BYTES = 1 << 16

T = TypeVar("T")


class ProcError(Exception):
    """An entry of /proc could not be read; `path` is the entry's."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.cause = cause


class ProcGoneError(ProcError):
    """The entry is not there: the process, thread or descriptor ended, or this kernel does not have the file."""


class ProcDeniedError(ProcError):
    """The kernel did not let this user read the entry."""


class ProcMalformedError(ProcError):
    """The entry's text is not what proc(5) says."""


class MalformedLineError(ValueError):
    """Raised by parsers, which know the text but not the file: `ProcDirectory.parse` adds the path."""

    def __init__(self, line_number: int, line: str) -> None:
        super().__init__(f"line {line_number}: {line[:80]!r}")


def decode(raw: bytes) -> str:
    r"""Text from the target: UTF-8, other bytes kept as a visible ``\xNN``, nothing dropped."""
    return raw.decode("utf-8", "backslashreplace")


def decode_file_name(name: str) -> str:
    """The same for a name that Python's os module decoded with the file system's encoding."""
    return name if name.isascii() else decode(os.fsencode(name))


def _error(path: str, problem: OSError) -> ProcError:
    cause = os.strerror(problem.errno) if problem.errno else str(problem)
    if problem.errno in _GONE:
        return ProcGoneError(path, cause)
    if problem.errno in _DENIED:
        return ProcDeniedError(path, cause)
    return ProcMalformedError(path, cause)


class ProcDirectory:
    """An open directory of /proc, the root included. Use as a context manager, or call `close`."""

    def __init__(self, path: str, parent: ProcDirectory | None = None) -> None:
        self.path: str = path if parent is None else f"{parent.path}/{path}"
        base: int | None = None if parent is None else parent._fd
        try:
            self._fd: int = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
        except OSError as problem:
            raise _error(self.path, problem) from None

    def __enter__(self) -> ProcDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the directory back; later reads raise OSError."""
        os.close(self._fd)

    def directory(self, name: str) -> ProcDirectory:
        """Opens a directory below this one."""
        return ProcDirectory(name, self)

    def read(self, name: str) -> bytes:
        """The whole file."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
            try:
                data = chunk = os.read(fd, _CHUNK_BYTES)
                while chunk:  # tables come in pieces that end at a line, so a short read is not the end
                    chunk = os.read(fd, _CHUNK_BYTES)
                    data += chunk
                return data
            finally:
                os.close(fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def read_text(self, name: str) -> str:
        """The whole file as text (see `decode`)."""
        return decode(self.read(name))

    def parse(self, name: str, parse_text: Callable[[str], T]) -> T:
        """Reads a file and parses it; what the parser refuses becomes an error that names path and line."""
        text = self.read_text(name)
        try:
            return parse_text(text)
        except MalformedLineError as problem:
            raise ProcMalformedError(f"{self.path}/{name}", f"not as proc(5) describes it: {problem}") from None

    def numbers(self, name: str = ".") -> list[int]:
        """The entries of a directory that are numbers (processes, threads, descriptors), ascending."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                return sorted(int(entry) for entry in os.listdir(fd) if entry.isdecimal())
            finally:
                os.close(fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def link(self, name: str) -> str:
        """Where a symbolic link points to, as text."""
        try:
            return decode_file_name(os.readlink(name, dir_fd=self._fd))
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def stat(self, name: str) -> os.stat_result:
        """stat(2) of what a link of /proc leads to: the open file itself, without opening it."""
        try:
            return os.stat(name, dir_fd=self._fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def link_mode(self, name: str) -> int:
        """The permission bits of a link in fd/: 0o400 is open for reading, 0o200 for writing (proc_pid_fd(5))."""
        try:
            return os.lstat(name, dir_fd=self._fd).st_mode
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def attribute(self, name: str, attribute: str) -> bytes | None:
        """An extended attribute of what a link leads to; None where it has none.

        Linux has no call for this that takes a directory's descriptor, hence the path through our own fd/.
        """
        try:
            return os.getxattr(f"/proc/self/fd/{self._fd}/{name}", attribute)
        except OSError:
            return None

    def links(self, name: str, only: Iterable[int] | None = None) -> Iterator[tuple[int, str | ProcError]]:
        """Every numbered link of a directory with where it points to, or with what went wrong; ascending.

        `only`: these numbers, and the directory is not listed.
        """
        with self.directory(name) as directory:
            fd, path = directory._fd, directory.path
            for number in directory.numbers() if only is None else sorted(only):
                try:
                    target = os.readlink(str(number), dir_fd=fd)
                    yield number, target if target.isascii() else decode_file_name(target)
                except OSError as problem:
                    yield number, _error(f"{path}/{number}", problem)

    def file_descriptor(self, name: str) -> int:
        """Opens a file of /proc whose descriptor is wanted itself (a namespace, a memory); the caller closes it."""
        try:
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def directory_descriptor(self, name: str) -> int:
        """Opens a directory whose descriptor is wanted itself (a mount point below root/); the caller closes it."""
        try:
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def mapped_file(self, mapping: str) -> int | None:
        """The file that is mapped at START-END (/proc/PID/map_files), even if it was deleted; the caller closes it.

        None where it cannot be opened, or is no regular file: opening a device can do something. CAP_CHECKPOINT_RESTORE
        or CAP_SYS_ADMIN.
        """
        try:
            handle = os.open(f"map_files/{mapping}", os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        finally:
            os.close(handle)


class ProcessMemory:
    """The memory of a process (/proc/PID/mem), read where the caller may; use as a context manager."""

    def __init__(self, process: ProcDirectory) -> None:
        self._fd = process.file_descriptor("mem")

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes at `address`; None where they cannot be read as a whole."""
        try:
            data = os.pread(self._fd, size, address)
        except (OSError, OverflowError, struct.error):
            return None
        return data if len(data) == size else None
