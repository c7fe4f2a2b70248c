"""Numbers of the system calls in which a thread waits for, or works on, a descriptor.

x86-64: arch/x86/entry/syscalls/syscall_64.tbl. aarch64: include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import platform

_X86_64 = {
    0: "read",
    1: "write",
    7: "poll",
    16: "ioctl",
    17: "pread64",
    18: "pwrite64",
    19: "readv",
    20: "writev",
    23: "select",
    40: "sendfile",
    42: "connect",
    43: "accept",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    73: "flock",
    74: "fsync",
    75: "fdatasync",
    217: "getdents64",
    232: "epoll_wait",
    242: "mq_timedsend",
    243: "mq_timedreceive",
    270: "pselect6",
    271: "ppoll",
    275: "splice",
    278: "vmsplice",
    281: "epoll_pwait",
    285: "fallocate",
    288: "accept4",
    299: "recvmmsg",
    307: "sendmmsg",
    326: "copy_file_range",
    426: "io_uring_enter",
    441: "epoll_pwait2",
}
_AARCH64 = {
    22: "epoll_pwait",
    29: "ioctl",
    32: "flock",
    47: "fallocate",
    61: "getdents64",
    63: "read",
    64: "write",
    65: "readv",
    66: "writev",
    67: "pread64",
    68: "pwrite64",
    71: "sendfile",
    72: "pselect6",
    73: "ppoll",
    75: "vmsplice",
    76: "splice",
    82: "fsync",
    83: "fdatasync",
    182: "mq_timedsend",
    183: "mq_timedreceive",
    202: "accept",
    203: "connect",
    206: "sendto",
    207: "recvfrom",
    211: "sendmsg",
    212: "recvmsg",
    242: "accept4",
    243: "recvmmsg",
    269: "sendmmsg",
    285: "copy_file_range",
    426: "io_uring_enter",
    441: "epoll_pwait2",
}

SYSCALL_NAMES: dict[int, str] = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})
"""This machine's; empty on a machine whose numbers are not known here."""
