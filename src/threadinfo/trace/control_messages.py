"""Descriptors in control messages: SCM_RIGHTS and SCM_PIDFD, as recvmsg(2) leaves them (cmsg(3), unix(7))."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEADER = struct.Struct("=QII")  # struct cmsghdr on a 64-bit machine: length with the header, level, type
_SOL_SOCKET, _SCM_RIGHTS, _SCM_PIDFD = 1, 1, 4
_ALIGNMENT = 8


class Received(NamedTuple):
    """A descriptor that came in a message."""

    fd: int
    is_pidfd: bool
    """From SCM_PIDFD, where the kernel made it; otherwise it is whatever the sender sent."""


def received_descriptors(data: bytes) -> list[Received]:
    """The numbers inside, in their order; what is cut off or malformed ends the list."""
    found: list[Received] = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, level, kind = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            break
        if level == _SOL_SOCKET and kind in {_SCM_RIGHTS, _SCM_PIDFD}:
            count = (length - _HEADER.size) // 4
            numbers = struct.unpack_from(f"={count}i", data, at + _HEADER.size)
            found += [Received(number, kind == _SCM_PIDFD) for number in numbers if number >= 0]
        at += -(-length // _ALIGNMENT) * _ALIGNMENT
    return found
