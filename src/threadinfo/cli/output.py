"""Where the result goes: standard output, or a file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from types import TracebackType

from threadinfo.errors import OutputError
from threadinfo.render.escape import Binary, Printable

_OWN_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/(?:self|thread-self))/fd/(\d{1,9})", re.ASCII)
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_MOST_LINKS = 40  # path_resolution(7)
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_HAS_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class OutputFile:
    """The file that `-o` names, readable by its owner alone; what was there stays untouched until `commit`.

    The text goes to a new file without a name in the same directory, which then takes the name: a full disk, a signal
    or a crash leave the old file as it was, and nothing else behind. A link that has the name is replaced, not
    followed. Devices and FIFOs are written to directly, and so are our own descriptors (/dev/stdout, /dev/fd/3). Under
    sudo the file belongs to the user who called sudo.

    The path is walked once, and everything is done in the directory where that ended. Root may write where others may
    too, and what those put there meanwhile must not lead it elsewhere: links, FIFOs and devices are taken from nobody
    but root, this user and the one who called sudo, unless they stand where nobody else could have put them. That is
    what fs.protected_symlinks and fs.protected_fifos forbid, in every directory instead of sticky ones.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = self._fd = -1
        self._name = os.path.basename(path)
        self._is_new = False
        try:
            if (own := _own_descriptor(path)) is not None:
                self._fd = os.dup(own)
            else:
                self._directory = _open_directory(path)
                self._fd = self._open()
        except OSError as problem:
            self._close()
            raise self._error(problem) from None
        except OutputError:
            self._close()
            raise

    def _open(self) -> int:
        if self._name in {"", ".", ".."}:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            handle = os.open(self._name, _LOOK, dir_fd=self._directory)
        except FileNotFoundError:
            return self._open_new()
        try:
            status, directory = os.fstat(handle), os.fstat(self._directory)
            mode = status.st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode) and not _is_trusted(status, directory):
                raise _refusal(self.path, self._name, status)
            if stat.S_ISLNK(mode) and self.path.startswith("/dev/"):  # those are the system's, and must stay
                raise OutputError(f"cannot write {self.path}: it is a link", "name what it leads to")
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                return self._open_special(handle, mode)
            # What rename(2) will ask in a directory like /tmp, before any work instead of after it.
            if directory.st_mode & stat.S_ISVTX and os.geteuid() not in {0, status.st_uid, directory.st_uid}:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            return self._open_new()
        finally:
            os.close(handle)

    def _open_special(self, handle: int, mode: int) -> int:
        """Opens the file that was looked at, whatever has its name by now."""
        try:
            fd = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as problem:
            if problem.errno == errno.ENXIO and stat.S_ISFIFO(mode):
                words = f"cannot write {self.path}: nobody reads from this FIFO"
                raise OutputError(words, "start its reader first") from None
            raise
        os.set_blocking(fd, True)
        return fd

    def _open_new(self) -> int:
        """A file without a name; -1 where the file system has no such files, and a named one can be made."""
        self._is_new = True
        try:
            return _owned(os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=self._directory))
        except OSError as problem:
            if problem.errno not in _HAS_NO_UNNAMED_FILES:
                raise
        with _no_signals(), self._temporary() as (_, fd):
            os.close(fd)
        return -1

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[str, int]]:
        """A new file beside the one that is meant; gone afterwards, unless it was renamed. Closed by the caller."""
        name = _new_name()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            yield name, _owned(os.open(name, flags, 0o600, dir_fd=self._directory))
        finally:
            self._remove(name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def _error(self, problem: OSError) -> OutputError:
        remedy = "name a file in a directory that exists and that you may write to"
        if problem.errno == errno.ENOSPC:
            remedy = "free some space, or write elsewhere"
        return OutputError(f"cannot write {self.path}: {problem.strerror}", remedy)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for fd in (self._fd, self._directory):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fd = self._directory = -1

    def commit(self, result: Printable | Binary) -> None:
        """Writes everything, then gives the file its name; raises OutputError and leaves the old file otherwise."""
        data = result if isinstance(result, bytes) else result.encode("utf-8", "backslashreplace")
        try:
            if not self._is_new:
                _write_all(self._fd, data)
            elif self._fd >= 0:
                _write_all(self._fd, data)
                os.fsync(self._fd)
                with _no_signals():
                    self._give_name()
            else:
                with _no_signals(), self._temporary() as (name, fd):
                    try:
                        _write_all(fd, data)
                        os.fsync(fd)
                    finally:
                        os.close(fd)
                    self._rename(name)
        except OSError as problem:
            raise self._error(problem) from None

    def _give_name(self) -> None:
        """linkat(2) takes no name that is taken: then by another one, for the moment until rename(2)."""
        unnamed = f"/proc/self/fd/{self._fd}"
        try:
            os.link(unnamed, self._name, dst_dir_fd=self._directory)
        except FileExistsError:
            name = _new_name()
            try:
                os.link(unnamed, name, dst_dir_fd=self._directory)
                self._rename(name)
            finally:
                self._remove(name)

    def _rename(self, name: str) -> None:
        os.rename(name, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)


def _new_name() -> str:
    return f".threadinfo.{os.urandom(8).hex()}"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _owned(fd: int) -> int:
    """Under sudo, given to the user who called it; the same descriptor."""
    if os.geteuid() == 0 and (owner := _sudo_id("SUDO_UID")) is not None:
        group = _sudo_id("SUDO_GID")
        # Without CAP_CHOWN, or with a number that no user has, the file stays root's.
        with contextlib.suppress(OSError, OverflowError):
            os.fchown(fd, owner, -1 if group is None else group)
    return fd


def _own_descriptor(path: str) -> int | None:
    """The number, where a path means one of our own descriptors: /dev/stdout, /dev/fd/1, /proc/self/fd/1.

    By its text alone, since what is asked of the file system somebody else may answer.
    """
    match = _OWN_DESCRIPTOR.fullmatch(path)
    if match is None:
        return None
    return _STANDARD[match[1]] if match[1] else int(match[2])


def _open_directory(path: str) -> int:
    """The directory that a file is in, links on the way followed where they can be trusted; raises OutputError."""
    parts = [part for part in reversed(os.path.dirname(path).split("/")) if part]
    links = 0
    with contextlib.ExitStack() as opened:

        def reach(name: str, directory: int | None, flags: int = os.O_PATH | os.O_CLOEXEC) -> int:
            fd = os.open(name, flags, dir_fd=directory)
            opened.callback(os.close, fd)
            return fd

        here = reach("/" if path.startswith("/") else ".", None)
        while parts:
            part = parts.pop()
            found = reach(part, here, _LOOK)
            status = os.fstat(found)
            if not stat.S_ISLNK(status.st_mode):
                here = found
                continue
            if not _is_trusted(status, os.fstat(here)):
                raise _refusal(path, part, status)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if status.st_dev == os.lstat("/proc/self").st_dev:  # it leads where the kernel says, not its text
                here = reach(part, here)
                continue
            target = os.readlink("", dir_fd=found)
            parts += [one for one in reversed(target.split("/")) if one]
            if target.startswith("/"):
                here = reach("/", None)
        return os.dup(here)


def _is_trusted(status: os.stat_result, directory: os.stat_result) -> bool:
    """Whether it belongs to one of us, or stands in a directory where nobody else could have put it."""
    us = {0, os.geteuid(), _sudo_id("SUDO_UID")}
    return status.st_uid in us or (directory.st_uid in us and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _refusal(path: str, name: str, status: os.stat_result) -> OutputError:
    mode = status.st_mode
    kind = "link" if stat.S_ISLNK(mode) else "FIFO" if stat.S_ISFIFO(mode) else "special file"
    return OutputError(
        f"cannot write {path}: {name} is a {kind} of user {status.st_uid}, where others may put what they like",
        "write to a directory that only you may write to",
    )


def _sudo_id(name: str) -> int | None:
    """Of the user who called sudo, or of their group; None where that is not known."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= 10 else None


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """What is sent meanwhile arrives afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_standard_output(result: Printable | Binary) -> None:
    """Writes the result; a character that the terminal's encoding lacks is escaped, a reader that left is no error."""
    if sys.stdout is None:
        raise OutputError("standard output is closed", "write to a file with -o, or leave it open")
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        if isinstance(result, bytes):
            sys.stdout.buffer.write(result)
        else:
            sys.stdout.write(result)
        sys.stdout.flush()
    except BrokenPipeError:  # as `threadinfo 1 | head` does; Python would complain again at its own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:
        raise OutputError(f"cannot write to standard output: {problem.strerror}") from None
