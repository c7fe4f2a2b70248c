"""Where a live stream goes: a reader that is slow, or gone, holds nobody up.

A regular file gets every line, however fast they come: what cannot be formatted at once waits in memory, and beyond a
limit in a temporary file. A terminal or pipe gets what its reader takes: the rest is left out, and counted. One thread
does nothing but write, because writing to a terminal can block for ever.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Generic, Protocol, TypeVar

from threadinfo.errors import OutputError
from threadinfo.render.escape import Printable

_MOST_MEMORY = 64 << 20
_MOST_LINES_BEHIND = 20_000
_PIECES_BEHIND = 16
_PIECE_LINES = 256
_LAST_WORDS_SECONDS = 2.0


class Lines(Protocol):
    """Something that will become lines."""

    def line_count(self) -> int:
        """How many, at most."""

    def nbytes(self) -> int:
        """About how much memory it takes."""


T = TypeVar("T", bound=Lines)


class LineOutput(Generic[T]):
    """Formats chunks and writes them to a descriptor. A context manager: it ends its thread."""

    def __init__(self, fd: int, format_chunk: Callable[[T], Iterator[Printable]]) -> None:
        self._fd, self._format = fd, format_chunk
        self.is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self.omitted_count = 0
        self._waiting: deque[T] = deque()
        self._lines_waiting = 0
        self._bytes_waiting = 0
        self._spool = _Spool[T]()
        self._lines: Iterator[Printable] = iter(())
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES_BEHIND)
        self._problem: OSError | None = None
        self._has_reader = True
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def __enter__(self) -> LineOutput[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put(None)
        self._writer.join(_LAST_WORDS_SECONDS)
        self._spool.close()
        if kind is None:
            self.has_reader()  # the last words may have been the first that did not fit

    def has_reader(self) -> bool:
        """False once the other end of a pipe has been closed; raises OutputError where the disk is full."""
        if self._problem is not None:
            raise OutputError(f"cannot write to standard output: {self._problem.strerror}")
        if self._has_reader and not self.is_file:
            poll = select.poll()
            poll.register(self._fd, 0)
            self._has_reader = not any(events & select.POLLERR for _, events in poll.poll(0))
        return self._has_reader

    def put(self, chunk: T) -> None:
        """Takes a chunk; its lines come out in turn, or are counted as left out."""
        count = chunk.line_count()
        if not self.is_file and self._lines_waiting + count > _MOST_LINES_BEHIND:
            self.omitted_count += count
        elif self.is_file and (self._spool.count or self._bytes_waiting > _MOST_MEMORY):
            try:
                self._spool.put(chunk)
            except OSError:  # the temporary directory is full
                self.omitted_count += count
        else:
            self._waiting.append(chunk)
            self._lines_waiting += count
            self._bytes_waiting += chunk.nbytes()

    def work(self, seconds: float) -> None:
        """Formats for so long, or until nothing is left that could be written now."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._pieces.full():
            piece = self._next_piece()
            if not piece:
                return
            self._put(piece)

    def drain(self) -> None:
        """Everything that is left: all of it for a file, as much as is taken soon for a terminal or pipe."""
        while self.has_reader() and (piece := self._next_piece()):
            if not self._put_patiently(piece):
                self.omitted_count += piece.count(b"\n") + self._lines_waiting
                return

    def write_last(self, text: Printable) -> None:
        """The end of the stream, after everything that has been put."""
        self._put_patiently(_encode(text))

    def _put_patiently(self, piece: bytes) -> bool:
        """As long as it takes for a file; a terminal or pipe that takes nothing for a while is given up."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while not self._put(piece):
            if not self.has_reader() or (not self.is_file and time.monotonic() > deadline):
                return False
        return True

    def _next_piece(self) -> bytes:
        pieces: list[str] = []
        for _ in range(_PIECE_LINES):
            line = next(self._lines, None)
            while line is None:
                chunk = self._next_chunk()
                if chunk is None:
                    return _encode("".join(pieces))
                self._lines = self._format(chunk)
                line = next(self._lines, None)
            pieces.append(line)
        return _encode("".join(pieces))

    def _next_chunk(self) -> T | None:
        if self._waiting:
            chunk = self._waiting.popleft()
            self._lines_waiting -= chunk.line_count()
            self._bytes_waiting -= chunk.nbytes()
            return chunk
        return self._spool.get()

    def _put(self, piece: bytes | None) -> bool:
        try:
            self._pieces.put(piece, timeout=0.1)
        except queue.Full:
            return False
        return True

    def _write(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                view = memoryview(piece)
                while view and self._has_reader and self._problem is None:
                    view = view[os.write(self._fd, view) :]
            except BrokenPipeError:
                self._has_reader = False
            except OSError as problem:
                self._problem = problem


class _Spool(Generic[T]):
    """Chunks in a temporary file without a name, first in first out."""

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] | None = None
        self._read_at = 0

    def put(self, chunk: T) -> None:
        """Appends a chunk."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._file.seek(0, os.SEEK_END)
        pickle.dump(chunk, self._file, protocol=5)
        self.count += 1

    def get(self) -> T | None:
        """The oldest chunk; None where none is left, and then the file is empty again."""
        if self._file is None or not self.count:
            return None
        self._file.seek(self._read_at)
        chunk: T = pickle.load(self._file)  # noqa: S301 - our own file, which has no name
        self._read_at = self._file.tell()
        self.count -= 1
        if not self.count:
            self._read_at = 0
            self._file.seek(0)
            self._file.truncate()
        return chunk

    def close(self) -> None:
        """Frees the file."""
        if self._file is not None:
            self._file.close()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
