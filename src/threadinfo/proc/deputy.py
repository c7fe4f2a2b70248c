"""A child that does what may never come to an end: a call that waits for a file system's server cannot be interrupted.

Not even SIGKILL ends such a call once the server has taken the request. The child is given up then, and this process
goes on without the answer; it holds nothing of ours but the directory that it was asked about.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

_LENGTH = struct.Struct("=I")
_SECONDS = 1.0
_REAP_SECONDS = 0.1

Answer = tuple[bytes, Sequence[int]]
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD, unix(7)


class DeputySilentError(Exception):
    """The child did not answer in time, or does not any more."""


class Deputy:
    """Answers requests by calling `answer` in a child, which begins with the first one. A context manager.

    `answer` is given the request, and returns bytes and descriptors, 253 at most; what it raises ends the child. The
    child keeps the descriptors of `keep` alone. One request that is not answered within a second is the last: the time
    that a process can cost us is bounded, however many of its files are silent.
    """

    def __init__(self, answer: Callable[[bytes], Answer], keep: Iterable[int]) -> None:
        self._answer, self._keep = answer, tuple(keep)
        self._channel: socket.socket | None = None
        self._pid = 0
        self._is_silent = False

    def __enter__(self) -> Deputy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: bytes) -> Answer:
        """The answer; its descriptors are the caller's to close. Raises DeputySilentError, or OSError
        where there can be no child.
        """
        if self._is_silent:
            raise DeputySilentError
        channel = self._channel or self._start()
        try:
            channel.sendall(_LENGTH.pack(len(request)) + request)
            return _receive(channel, time.monotonic() + _SECONDS)
        except (OSError, TimeoutError, EOFError):
            self._is_silent = True
            raise DeputySilentError from None
        finally:
            if self._is_silent:
                self.close()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            self._pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not self._pid:
            _serve(theirs, self._answer, self._keep)
        theirs.close()
        self._channel = ours
        return ours

    def close(self) -> None:
        """Ends the child; one that cannot be ended is left to init."""
        if self._channel is None:
            return
        self._channel.close()
        self._channel = None
        os.kill(self._pid, signal.SIGKILL)
        until = time.monotonic() + _REAP_SECONDS
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < until:
                select.select([], [], [], 0.001)


def _serve(channel: socket.socket, answer: Callable[[bytes], Answer], keep: Iterable[int]) -> None:
    """The child: never returns, and prints nothing, whatever happens."""
    try:
        last = -1  # not even our standard output: its reader would wait for the end of it
        for fd in sorted({channel.fileno(), *keep}):  # nothing else of ours stays open for as long as it may hang
            os.closerange(last + 1, fd)
            last = max(last, fd)
        os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
        while True:
            request, _ = _receive(channel, None)
            data, descriptors = answer(request)
            socket.send_fds(channel, [_LENGTH.pack(len(data))], descriptors)
            channel.sendall(data)
            for descriptor in descriptors:
                os.close(descriptor)
    finally:
        os._exit(0)


def _receive(channel: socket.socket, deadline: float | None) -> Answer:
    """A length with perhaps descriptors, and so many bytes; raises TimeoutError, EOFError or OSError."""
    descriptors: list[int] = []
    data = bytearray()
    wanted = _LENGTH.size
    length: int | None = None
    while length is None or len(data) < length:
        channel.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
        room = _MOST_DESCRIPTORS if length is None else 0
        part, more, _, _ = socket.recv_fds(channel, wanted - len(data), room, socket.MSG_CMSG_CLOEXEC)
        descriptors += more
        if not part:
            raise EOFError
        data += part
        if length is None and len(data) == _LENGTH.size:
            (length,) = _LENGTH.unpack(data)
            wanted = length
            data.clear()
    return bytes(data), descriptors
