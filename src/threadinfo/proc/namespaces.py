"""Doing something inside another network namespace (setns(2), pidfd_getfd(2)): the target's, or that of its socket.

/proc/PID/net shows the target's tables from outside, sock_diag(7) has to be asked from inside: by a short-lived thread,
because setns moves a single thread and nothing has to be put back when the thread ends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from threadinfo.proc.reader import ProcDirectory, ProcError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SYS_PIDFD_GETFD = 438  # the same number on every architecture (include/uapi/asm-generic/unistd.h)

_libc = ctypes.CDLL(None, use_errno=True)


def in_own_network_namespace(process: ProcDirectory) -> bool | None:
    """Whether the target shares our network namespace; None where that cannot be read."""
    try:
        return process.link("ns/net") == os.readlink("/proc/self/ns/net")
    except (ProcError, OSError):
        return None


def call_in_network_namespace(process: ProcDirectory, action: Callable[[], T]) -> T:
    """The result of `action`, called in the target's network namespace; OSError where entering it is refused."""
    if in_own_network_namespace(process):
        return action()
    try:
        namespace_fd = process.file_descriptor("ns/net")
    except ProcError as problem:
        raise PermissionError(str(problem)) from None
    try:
        return call_in_namespace(namespace_fd, action)
    finally:
        os.close(namespace_fd)


def call_in_namespace(namespace_fd: int, action: Callable[[], T]) -> T:
    """The result of `action`, called in this network namespace; what it raises is raised here.

    OSError where entering is refused: it takes CAP_SYS_ADMIN.
    """
    result: list[T] = []
    failure: list[Exception] = []

    def enter_and_call() -> None:
        try:
            if _libc.setns(namespace_fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            result.append(action())
        except Exception as problem:  # of whatever kind: it is raised where the caller is
            failure.append(problem)

    thread = Thread(target=enter_and_call, daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def duplicate_descriptor(pidfd: int, fd: int) -> int:
    """A duplicate of another process's descriptor (pidfd_getfd(2)), close-on-exec; OSError where it is refused."""
    duplicate = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    if duplicate < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return duplicate
