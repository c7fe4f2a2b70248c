"""Asking a socket itself: a borrowed duplicate of the descriptor, asked what changes nothing, and closed at once.

Only for sockets of which the kernel's tables leave something open. What is asked is read-only; SO_ERROR, which would
take a pending error away from the target, is left alone. A child borrows, and hands on nothing but sockets: the number
may be another file's by now, and closing a file of FUSE waits for its server.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType

import msgspec

from threadinfo.proc.deputy import Answer, Deputy, DeputySilentError
from threadinfo.proc.namespaces import duplicate_descriptor

_SO_NETNS_COOKIE = 71
_SIOCGSKNS = 0x894C
_TCP_INFO_BYTES = 240
_TCP_CLOSE = 7
_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS = 270, 9
_NUMBER = struct.Struct("=i")
_AT_ONCE = 16  # each is an open file of ours meanwhile
_GROUPS_BYTES = 64  # the kernel says how many it would need, even where fewer were offered: offer enough


class Borrowed(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket says of itself; None where it would not."""

    family: int
    type: int
    protocol: int
    local: object = None
    """As Python's socket module gives it: a tuple, or bytes or text for a Unix path, empty for one without a name."""
    remote: object = None
    """None where it is not connected."""
    listens: bool = False
    tcp_state: int | None = None
    had_connection: bool | None = None
    """Of TCP: whether there ever was a connection; its round trip is measured when one begins."""
    error_pending: bool = False
    """Of TCP: whether an error waits to be read (poll(2) tells without taking it away)."""
    receives_no_more: bool = False
    has_ended: bool = False
    """Whether both directions have ended (poll(2): POLLHUP), here or by the other end."""
    netlink_groups: int | None = None
    namespace_cookie: int | None = None


class Lender:
    """A process that descriptors are borrowed from; use as a context manager."""

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._deputy = Deputy(self._serve, (self._pidfd,))

    def __enter__(self) -> Lender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deputy.close()
        os.close(self._pidfd)

    def _serve(self, request: bytes) -> Answer:
        """In the child: of each number 0 and a duplicate, or an error. One that is no socket ends with the child."""
        numbers, duplicates = [], []
        for (fd,) in _NUMBER.iter_unpack(request):
            try:
                duplicate = duplicate_descriptor(self._pidfd, fd)
                borrowed = _as_socket(duplicate)
                try:
                    borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)  # ENOTSOCK, whatever else it is
                finally:
                    borrowed.detach()
            except OSError as problem:
                numbers.append(problem.errno or errno.EIO)
            else:
                numbers.append(0)
                duplicates.append(duplicate)
        return b"".join(map(_NUMBER.pack, numbers)), duplicates

    def _borrow(self, fds: Sequence[int]) -> list[int | OSError]:
        try:
            answer, duplicates = self._deputy.ask(b"".join(map(_NUMBER.pack, fds)))
        except DeputySilentError:
            return [OSError(errno.ETIMEDOUT, "it does not answer")] * len(fds)
        numbers = [number for (number,) in _NUMBER.iter_unpack(answer)]
        if len(numbers) != len(fds) or numbers.count(0) != len(duplicates):  # we may not open so many
            for duplicate in duplicates:
                os.close(duplicate)
            return [OSError(errno.EMFILE, os.strerror(errno.EMFILE))] * len(fds)
        lent = iter(duplicates)
        return [OSError(number, os.strerror(number)) if number else next(lent) for number in numbers]

    def network_namespace(self, fd: int) -> int:
        """The network namespace that a socket was made in, as a descriptor that the caller closes (SIOCGSKNS).

        Raises OSError where the caller has no CAP_NET_ADMIN there.
        """
        (duplicate,) = self._borrow([fd])
        if isinstance(duplicate, OSError):
            raise duplicate
        try:
            return fcntl.ioctl(duplicate, _SIOCGSKNS)
        finally:
            os.close(duplicate)

    def ask_all(self, fds: Sequence[int]) -> Iterator[Borrowed | OSError]:
        """Borrows sockets and asks them, in their order; OSError for one that is gone, no socket, or refused."""
        for start in range(0, len(fds), _AT_ONCE):
            lent = self._borrow(fds[start : start + _AT_ONCE])
            try:
                while lent:
                    one = lent.pop(0)
                    yield one if isinstance(one, OSError) else _ask(one)
            finally:
                for left in lent:
                    if not isinstance(left, OSError):
                        os.close(left)


def _ask(duplicate: int) -> Borrowed | OSError:
    """Asks a socket, and closes it; what refuses it."""
    with _as_socket(duplicate) as borrowed:
        try:
            family = borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
            kind = borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            protocol = borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
            local = _name(borrowed.getsockname)
            events = _events(borrowed)
            state, had_connection = None, None
            if kind == socket.SOCK_STREAM and family in {socket.AF_INET, socket.AF_INET6}:
                state, had_connection = _tcp_info(borrowed)
            return Borrowed(
                family=family,
                type=kind,
                protocol=protocol,
                local=local,
                remote=_name(borrowed.getpeername),
                listens=bool(_option(borrowed, socket.SOL_SOCKET, socket.SO_ACCEPTCONN)),
                tcp_state=state,
                had_connection=had_connection,
                error_pending=state == _TCP_CLOSE and bool(events & select.POLLERR),
                receives_no_more=bool(events & select.POLLRDHUP),
                has_ended=bool(events & select.POLLHUP),
                netlink_groups=(
                    _option(borrowed, _SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, _GROUPS_BYTES)
                    if family == socket.AF_NETLINK
                    else None
                ),
                namespace_cookie=_option(borrowed, socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8),
            )
        except OSError as problem:
            return problem


def _as_socket(fd: int) -> socket.socket:
    """With family, type and protocol given, Python makes no system call of its own on the descriptor."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)


def _name(ask: object) -> object:
    try:
        return ask()  # type: ignore[operator]
    except (OSError, ValueError):
        return None


def _option(borrowed: socket.socket, level: int, option: int, size: int = 4) -> int | None:
    try:
        return int.from_bytes(borrowed.getsockopt(level, option, size), "little")
    except OSError:
        return None


def _events(borrowed: socket.socket) -> int:
    """What poll(2) says, which takes nothing away."""
    poll = select.poll()
    poll.register(borrowed, select.POLLRDHUP)
    return next((events for _, events in poll.poll(0)), 0)


def _tcp_info(borrowed: socket.socket) -> tuple[int | None, bool | None]:
    """State, and whether there ever was a connection (include/uapi/linux/tcp.h, struct tcp_info).

    Segments do not tell: a refused connection has sent one and received one.
    """
    try:
        info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None, None
    if len(info) < 136:  # a kernel before 4.1 does not count bytes
        return (info[0] if info else None), None
    round_trip_us = struct.unpack_from("=I", info, 68)[0]
    return info[0], bool(round_trip_us or any(struct.unpack_from("=QQ", info, 120)))  # bytes acked, bytes received
