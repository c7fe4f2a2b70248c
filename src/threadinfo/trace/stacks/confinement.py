"""What a process gives up before it reads files that a hostile target made: everything that it can do without.

Only ctypes and the standard library: the child that imports this must start fast. Each step that the kernel refuses
(an ordinary user may not chroot) leaves the others standing; `confine` says which hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct

NOBODY = 65534
_ADDRESS_SPACE_BYTES = 1 << 30  # files of programs are mapped
_OPEN_FILES = 256
"""Files of programs are closed once they are mapped; those of debug symbols stay open."""

# linux/prctl.h, linux/sched.h, linux/capability.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
_CLONE_FS, _SYS_CLONE = 0x00000200, 56
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_COUNT = 64

# linux/seccomp.h, linux/bpf_common.h, linux/audit.h
_SECCOMP_MODE_FILTER = 2
_EPERM = 1
ALLOW, REFUSE, _SECCOMP_KILL = 0x7FFF0000, 0x00050000 | _EPERM, 0x80000000
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENT_1_AT, _ARGUMENT_2_AT, _ARGUMENT_3_AT = 0, 4, 16, 24, 32  # struct seccomp_data
_AUDIT_X86_64 = 0xC000003E
_PROT_EXEC = 4

# arch/x86/entry/syscalls/syscall_64.tbl. What stays allowed opens nothing, makes nothing and tells nobody: reading and
# mapping what is open already, memory, time, answers on the socket, and the end.
_ALLOWED = {
    "read": 0,
    "close": 3,
    "fstat": 5,
    "lseek": 8,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pread64": 17,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "sendto": 44,
    "recvmsg": 47,
    "exit": 60,
    "gettimeofday": 96,
    "sigaltstack": 131,
    "futex": 202,
    "clock_gettime": 228,
    "exit_group": 231,
    "getrandom": 318,
}
_MMAP, _MPROTECT = 9, 10  # without PROT_EXEC
_FCNTL, _F_GETFD, _F_GETFL = 72, 1, 3  # only these: F_SETOWN would send signals
_NEWFSTATAT, _AT_EMPTY_PATH = 262, 0x1000  # glibc's fstat

_LIMITS = (
    (resource.RLIMIT_AS, _ADDRESS_SPACE_BYTES),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NOFILE, _OPEN_FILES),
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
)
"""CPU time is bounded from outside, where it is renewed."""


def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter."""
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _filter() -> bytes:
    """The program that judges each system call: struct sock_filter after sock_filter (seccomp(2))."""
    allow, refuse = instruction(RETURN, ALLOW), instruction(RETURN, REFUSE)
    program = [
        instruction(LOAD, MACHINE_AT),
        instruction(JUMP_IF_EQUAL, _AUDIT_X86_64, 1, 0),
        instruction(RETURN, _SECCOMP_KILL),
        instruction(LOAD, NUMBER_AT),
    ]
    for number in _ALLOWED.values():
        program += [instruction(JUMP_IF_EQUAL, number, 0, 1), allow]
    for number in (_MMAP, _MPROTECT):
        program += [
            instruction(JUMP_IF_EQUAL, number, 0, 4),
            instruction(LOAD, _ARGUMENT_3_AT),
            instruction(JUMP_IF_ANY_BIT, _PROT_EXEC, 1, 0),
            allow,
            refuse,
        ]
    program += [
        instruction(JUMP_IF_EQUAL, _FCNTL, 0, 5),
        instruction(LOAD, _ARGUMENT_2_AT),
        instruction(JUMP_IF_EQUAL, _F_GETFD, 1, 0),
        instruction(JUMP_IF_EQUAL, _F_GETFL, 0, 1),
        allow,
        refuse,
        instruction(JUMP_IF_EQUAL, _NEWFSTATAT, 0, 3),
        instruction(LOAD, _ARGUMENT_3_AT + 8),
        instruction(JUMP_IF_ANY_BIT, _AT_EMPTY_PATH, 0, 1),
        allow,
        refuse,
    ]
    return b"".join(program)


def confine() -> frozenset[str]:
    """Gives up files, network, users, capabilities and most system calls, for good. Returns what the kernel granted.

    Everything that is needed later must have been loaded before. Of "chroot", "user", "network", "capabilities",
    "no_new_privs", "seccomp", those that hold; all for root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    held = set()
    for limit, most in _LIMITS:
        _limit(limit, most)
    is_root = os.geteuid() == 0
    spaces = _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWNS
    # An ordinary user has these in a user namespace of their own only, where the system allows one.
    if libc.unshare(spaces if is_root else spaces | _CLONE_NEWUSER) == 0:
        held.add("network")
    if _leave_files(libc):
        held.add("chroot")
    _limit(resource.RLIMIT_NPROC, 0)
    for capability in range(_CAPABILITY_COUNT):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    with contextlib.suppress(OSError):
        if is_root:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            held.add("user")
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)) == 0:
        held.add("capabilities")
    # After the change of user, which resets both.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        held.add("no_new_privs")
    program = ctypes.create_string_buffer(_filter())
    description = struct.pack("=H6xQ", (len(program) - 1) // 8, ctypes.addressof(program))  # struct sock_fprog
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, description, 0, 0) == 0:
        held.add("seccomp")
    return frozenset(held)


def _limit(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(limit, (bound, bound))


def _leave_files(libc: ctypes.CDLL) -> bool:
    """Makes a directory the root in which nothing is and nothing can ever be made: that of a process that has ended.

    It needs no file system that can be written to. A process that shares our root directory (CLONE_FS) makes a part of
    its own entry in /proc the root of both, and ends; Chromium's sandbox does the same.
    """
    pid = libc.syscall(_SYS_CLONE, _CLONE_FS | signal.SIGCHLD, None, None, None, None)
    if pid == 0:
        try:
            os.chroot("/proc/self/fdinfo")
            os.chdir("/")
            os._exit(0)
        finally:
            os._exit(1)
    return pid > 0 and os.waitpid(pid, 0)[1] == 0
