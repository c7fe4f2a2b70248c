"""The one place that opens /proc.

A process is held by an open descriptor of its /proc directory: once the process ends, everything below it answers
"gone", even when the kernel gives its number to another process. So all that is read through one `ProcDirectory` is of
one process.

Three things can go wrong with an entry, and they are three errors: it is gone, it is denied, it is malformed. What an
entry leads to may belong to a file system whose server does not answer: that is the fourth.

Another root than the kernel's own (`--proc` with a copy, or a forgery) is read with more care: no link but that of a
file of a process is followed, and only regular files are read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from threadinfo.proc.file_status import FileStatus, is_procfs, may_need_server, open_directory, read_status

if TYPE_CHECKING:
    from threadinfo.proc.deputy import Deputy

_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.ENXIO})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_CHUNK_BYTES = 1 << 16
_LARGEST_RECORD_BYTES = 16 << 20  # a command line of 6 MiB can be made
_LARGEST_TABLE_BYTES = 1 << 30
_TABLES = ("net/", "maps", "smaps", "mountinfo")  # a line for each socket, mapping or mount
_LONG_NUMBER = re.compile(rb"[0-9a-fA-F]{1000}")
_STATUS = struct.Struct("=B7Q")
_ATTRIBUTES_AT_ONCE = 500
_PLACE = struct.Struct("=QQ")

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


class ProcSilentError(ProcError):
    """What the entry leads to is on a file system that does not answer."""


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


def _attribute(path: str, attribute: str) -> bytes:
    """Up to its first zero; b"" where there is none."""
    try:
        return os.getxattr(path, attribute).partition(b"\0")[0]
    except OSError:
        return b""


class ProcDirectory:
    """An open directory of /proc, the root included. Use as a context manager, or call `close`."""

    def __init__(self, path: str, parent: ProcDirectory | None = None) -> None:
        self.path: str = path if parent is None else f"{parent.path}/{path}"
        base: int | None = None if parent is None else parent._fd
        follow = 0 if parent is None else os.O_NOFOLLOW
        try:
            self._fd: int = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=base)
        except OSError as problem:
            raise _error(self.path, problem) from None
        self._is_kernels: bool = parent._is_kernels if parent is not None else path == "/proc" or is_procfs(self._fd)
        self._deputy: Deputy | None = None

    def __enter__(self) -> ProcDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the directory back; later reads raise OSError."""
        if self._deputy is not None:
            self._deputy.close()
        os.close(self._fd)

    def directory(self, name: str) -> ProcDirectory:
        """Opens a directory below this one."""
        return ProcDirectory(name, self)

    def read(self, name: str) -> bytes:
        """The whole file."""
        data = self._read(name)
        if not self._is_kernels and not name.endswith("cmdline") and _LONG_NUMBER.search(data):
            raise ProcMalformedError(f"{self.path}/{name}", "holds a number of a thousand digits")
        return data

    def _read(self, name: str) -> bytes:
        most = _LARGEST_TABLE_BYTES if name.startswith(_TABLES) else _LARGEST_RECORD_BYTES
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=self._fd)
            try:
                if not self._is_kernels:
                    self._check_regular(name, fd, most)
                data = os.read(fd, _CHUNK_BYTES)
                if len(data) == 0 or not (chunk := os.read(fd, _CHUNK_BYTES)):
                    return data
                chunks = [data]
                size = len(data)
                while chunk:  # tables come in pieces that end at a line, so a short read is not the end
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > most:
                        raise ProcMalformedError(f"{self.path}/{name}", f"longer than {most >> 20} MiB, or endless")
                    chunk = os.read(fd, _CHUNK_BYTES)
                return b"".join(chunks)
            finally:
                os.close(fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def _check_regular(self, name: str, fd: int, most_bytes: int | None = None) -> None:
        """All files of /proc/PID are; a FIFO or device in a copy of it could hold us up."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ProcMalformedError(f"{self.path}/{name}", "not a regular file, as all of /proc are")
        if most_bytes is not None and status.st_size > most_bytes:
            raise ProcMalformedError(f"{self.path}/{name}", f"longer than {most_bytes >> 20} MiB")

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
        except OverflowError as problem:  # a negative address, a port beyond all bounds: of a forgery
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

    def stat(self, name: str) -> FileStatus:
        """What a link in fd/ leads to: the open file itself, without opening it, and without asking its server."""
        if not self._is_kernels:
            return self.stat_patiently(name)
        try:
            return read_status(name, self._fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def stat_patiently(self, name: str) -> FileStatus:
        """The same along a path, where each step may ask a server; ProcSilentError where one does not answer."""
        try:
            answer, _ = self._ask(b"s", name)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None
        problem_number, *fields = _STATUS.unpack(answer)
        if problem_number:
            raise _error(f"{self.path}/{name}", OSError(problem_number, os.strerror(problem_number)))
        return FileStatus._make(fields)

    def _ask(self, kind: bytes, name: str) -> tuple[bytes, Sequence[int]]:
        """What `_serve` returns, called in a child; raises ProcSilentError, or OSError where there can be none."""
        from threadinfo.proc.deputy import Deputy, DeputySilentError  # noqa: PLC0415 - few reports need it

        if self._deputy is None:
            self._deputy = Deputy(self._serve, (self._fd,))
        try:
            return self._deputy.ask(kind + os.fsencode(name))
        except DeputySilentError:
            raise ProcSilentError(f"{self.path}/{name}", "its file system does not answer") from None

    def _serve(self, request: bytes) -> tuple[bytes, Sequence[int]]:
        """What the deputy does: the status of a path, an extended attribute, or a file or directory opened."""
        kind, name = request[:1], os.fsdecode(request[1:])
        try:
            if kind == b"s":
                return _STATUS.pack(0, *read_status(name, self._fd)), ()
            if kind == b"a":
                attribute, *names = name.split("\0")
                return b"\0".join(_attribute(f"/proc/self/fd/{self._fd}/{one}", attribute) for one in names), ()
            if kind == b"d":
                root = os.open("root", os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd)
                try:
                    return _STATUS.pack(*[0] * 8), [open_directory(name, root)]
                finally:
                    os.close(root)
            return b"", [os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)]
        except OSError as problem:
            return _STATUS.pack(problem.errno or errno.EIO, *[0] * 7) if kind in {b"s", b"d"} else b"", ()

    def link_mode(self, name: str) -> int:
        """The permission bits of a link in fd/: 0o400 is open for reading, 0o200 for writing (proc_pid_fd(5))."""
        try:
            return os.lstat(name, dir_fd=self._fd).st_mode
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None

    def attributes(self, names: Sequence[str], attribute: str) -> dict[str, bytes]:
        """An extended attribute of what each link leads to, up to its first zero; without those that have none.

        Linux has no call for this that takes a directory's descriptor, hence the path through our own fd/. By a child:
        what was a socket when its link was read may be another file by now. Many at once: an answer costs more than
        what is asked.
        """
        if not self._is_kernels:  # a file of that name may be anything
            return {}
        found: dict[str, bytes] = {}
        for start in range(0, len(names), _ATTRIBUTES_AT_ONCE):
            some = names[start : start + _ATTRIBUTES_AT_ONCE]
            try:
                values = self._ask(b"a", "\0".join([attribute, *some]))[0].split(b"\0")
            except (OSError, ProcSilentError):
                break
            found.update((name, value) for name, value in zip(some, values, strict=True) if value)
        return found

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
        follow = 0 if self._is_kernels else os.O_NOFOLLOW
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | follow, dir_fd=self._fd)
        except OSError as problem:
            raise _error(f"{self.path}/{name}", problem) from None
        try:
            if not self._is_kernels:
                self._check_regular(name, fd)
        except ProcError:
            os.close(fd)
            raise
        return fd

    def root_descriptor(self) -> int:
        """The process's own root directory, as a place to look from (O_PATH); the caller closes it. Raises OSError."""
        return os.open("root", os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd)

    def directory_below_root(self, path: str) -> int:
        """Opens a directory of the process's whose descriptor is wanted itself (a mount point); the caller closes it.

        No link on the way is followed. By a child: by now the way may lead through a file system that does not answer.
        """
        try:
            answer, opened = self._ask(b"d", path)
        except OSError as problem:
            raise _error(f"{self.path}/root{path}", problem) from None
        if not opened:
            number = _STATUS.unpack(answer)[0]
            raise _error(f"{self.path}/root{path}", OSError(number, os.strerror(number)))
        return opened[0]

    def mapped_file(self, mapping: str) -> int | None:
        """The file that is mapped at START-END (/proc/PID/map_files), even if it was deleted; the caller closes it.

        None where it cannot be opened, or is no regular file (opening a device can do something), or where its file
        system does not answer. CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
        """
        name = f"map_files/{mapping}"
        try:
            handle = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return None
        try:
            status = read_status(f"/proc/self/fd/{handle}", self._fd)
            if not stat.S_ISREG(status.mode):
                return None
            if may_need_server(status):
                _, opened = self._ask(b"o", name)
                return opened[0] if opened else None
            return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ProcSilentError):
            return None
        finally:
            os.close(handle)


class ProcessMemory:
    """The memory of a process (/proc/PID/mem), read where the caller may; use as a context manager.

    What is read may be a file's page that has to be fetched from a server, or one that the process itself should
    provide (userfaultfd(2)): it is read by a child that may be given up.
    """

    def __init__(self, process: ProcDirectory) -> None:
        from threadinfo.proc.deputy import Deputy, DeputySilentError  # noqa: PLC0415 - the plain text has no use for it

        self._fd = process.file_descriptor("mem")
        self._deputy = Deputy(self._serve, (self._fd,))
        self._unread = (OSError, DeputySilentError, struct.error)

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deputy.close()
        os.close(self._fd)

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes at `address`; None where they cannot be read as a whole, or not in time."""
        try:
            data, _ = self._deputy.ask(_PLACE.pack(address, size))
        except self._unread:
            return None
        return data if len(data) == size else None

    def _serve(self, request: bytes) -> tuple[bytes, Sequence[int]]:
        address, size = _PLACE.unpack(request)
        try:
            return os.pread(self._fd, size, address), ()
        except (OSError, OverflowError):
            return b"", ()
