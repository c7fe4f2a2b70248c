"""Where the result goes: standard output, or a file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from types import TracebackType

from threadinfo.errors import OutputError


class OutputFile:
    """The file that `-o` names, readable by its owner alone; what was there stays untouched until `commit`.

    The text goes to a new file in the same directory, which then takes the name: a full disk, an interrupt or a crash
    leave the old file as it was, and a link that somebody put there is replaced, not followed. Devices and FIFOs are
    written to directly, and so are our own descriptors (/dev/stdout, /proc/self/fd/3), whatever they are. Under sudo
    the file belongs to the user who called sudo.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._temporary: str | None = None
        try:
            if (own := _own_descriptor(path)) is not None:
                self._fd = os.dup(own)
            else:
                self._fd = self._open_special() if self._is_special() else self._open_temporary()
        except OSError as problem:
            raise self._error(problem) from None

    def _is_special(self) -> bool:
        """A device or FIFO; a link only below /dev, where links are the system's own and must stay."""
        try:
            mode = os.lstat(self.path).st_mode
            if stat.S_ISLNK(mode) and self.path.startswith("/dev/"):
                return True
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, os.strerror(21))
        return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))

    def _open_special(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)

    def _open_temporary(self) -> int:
        directory, name = os.path.split(self.path)
        fd, self._temporary = tempfile.mkstemp(prefix=f".{name[:100]}.", dir=directory or ".")
        if os.geteuid() == 0 and (uid := os.environ.get("SUDO_UID", "")).isdecimal():
            gid = os.environ.get("SUDO_GID", "")
            # Without CAP_CHOWN, or with a number that no user has, the file stays root's.
            with contextlib.suppress(OSError, OverflowError, ValueError):
                os.fchown(fd, int(uid), int(gid) if gid.isdecimal() else -1)
        return fd

    def _error(self, problem: OSError) -> OutputError:
        remedy = "name a file in a directory that exists and that you may write to"
        if problem.errno == 28:
            remedy = "free some space, or write elsewhere"
        return OutputError(f"cannot write {self.path}: {problem.strerror}", remedy)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def commit(self, text: str) -> None:
        """Writes everything, then gives the file its name; raises OutputError and leaves the old file otherwise."""
        try:
            data = memoryview(text.encode("utf-8", "backslashreplace"))
            while data:
                data = data[os.write(self._fd, data) :]
            if self._temporary is not None:
                os.fsync(self._fd)
                os.replace(self._temporary, self.path)
                self._temporary = None
        except OSError as problem:
            raise self._error(problem) from None


def _own_descriptor(path: str) -> int | None:
    """The number, where a path means one of our own descriptors: /dev/stdout, /dev/fd/1, /proc/self/fd/1."""
    if path.startswith("/dev/") and os.path.islink(path):
        path = os.path.join("/dev", os.readlink(path))
    directory, name = os.path.split(path)
    if name.isdecimal() and len(name) < 10 and os.path.realpath(directory) == os.path.realpath("/proc/self/fd"):
        return int(name)
    return None


def write_standard_output(text: str) -> None:
    """Writes the result; a character that the terminal's encoding lacks is escaped, a reader that left is no error."""
    if sys.stdout is None:
        raise OutputError("standard output is closed", "write to a file with -o, or leave it open")
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # as `threadinfo 1 | head` does; Python would complain again at its own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:
        raise OutputError(f"cannot write to standard output: {problem.strerror}") from None
