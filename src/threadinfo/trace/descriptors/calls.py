"""The calls that make, close or mark descriptors: their numbers on each machine, and what each does.

Numbers: x86-64 from arch/x86/entry/syscalls/syscall_64.tbl, aarch64 from include/uapi/asm-generic/unistd.h, 32-bit ones
from syscall_32.tbl and arch/arm/tools/syscall.tbl. Registers: struct pt_regs of arch/*/include/asm/ptrace.h. Actions
mirror those of bpf/descriptors.bpf.c.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from typing import NamedTuple

from threadinfo.descriptor_kinds import KIND_OF_CALL, KindName
from threadinfo.model import EventKind


class Action(IntEnum):
    """What the program in the kernel does with a call."""

    NOTHING = 0
    COMPAT_ONLY = auto()
    NUMBER = auto()
    NUMBER_PATH_0 = auto()
    NUMBER_PATH_1 = auto()
    CLOSE = auto()
    CLOSE_RANGE = auto()
    DUP = auto()
    DUP_ONTO = auto()
    FCNTL = auto()
    IOCTL = auto()
    PAIR_0 = auto()
    PAIR_3 = auto()
    SOCKET = auto()
    ACCEPT = auto()
    SIGNALFD = auto()
    BPF_CALL = auto()
    CLONE = auto()
    CLONE3 = auto()
    SECCOMP = auto()
    LANDLOCK = auto()
    RECVMSG = auto()
    RECVMMSG = auto()
    GETSOCKOPT = auto()
    UNSHARE = auto()
    ADDRESS = auto()
    NUMBER_OF_SOCKET = auto()


WITH_STACK, WITH_WHOLE_STACK = 0x100, 0x200
"""Beside an action: the stack of the call is wanted, or all of it, down to the thread's start."""
_CALL_SHIFT, _TYPE_SHIFT = 16, 24
_NO_STACK = {Action.NOTHING, Action.COMPAT_ONLY, Action.CLOSE, Action.CLOSE_RANGE, Action.IOCTL, Action.UNSHARE}
ON_SOCKET = frozenset({Action.ADDRESS, Action.NUMBER_OF_SOCKET})
"""What is done with a socket that there is."""
_WHOLE_STACK = {Action.SOCKET, Action.PAIR_3, Action.ACCEPT, *ON_SOCKET}


class Call(NamedTuple):
    """A call: a system call, an io_uring operation, or an event of a process."""

    name: str
    action: Action
    event: EventKind
    x86_64: int | None = None
    aarch64: int | None = None

    @property
    def type(self) -> KindName | None:
        """Of the descriptor that it makes; None where that depends on what was opened."""
        return KIND_OF_CALL.get(self.name)


_A = Action
SYSTEM_CALLS = (
    Call("open", _A.NUMBER_PATH_0, "open", 2),
    Call("openat", _A.NUMBER_PATH_1, "open", 257, 56),
    Call("openat2", _A.NUMBER_PATH_1, "open", 437, 437),
    Call("creat", _A.NUMBER_PATH_0, "open", 85),
    Call("open_by_handle_at", _A.NUMBER, "open", 304, 265),
    Call("open_tree", _A.NUMBER_PATH_1, "open", 428, 428),
    Call("open_tree_attr", _A.NUMBER_PATH_1, "open", 467, 467),
    Call("mq_open", _A.NUMBER_PATH_0, "open", 240, 180),
    Call("memfd_create", _A.NUMBER_PATH_0, "open", 319, 279),
    Call("memfd_secret", _A.NUMBER, "open", 447, 447),
    Call("fsopen", _A.NUMBER_PATH_0, "open", 430, 430),
    Call("fsmount", _A.NUMBER, "open", 432, 432),
    Call("fspick", _A.NUMBER_PATH_1, "open", 433, 433),
    Call("eventfd", _A.NUMBER, "open", 284),
    Call("eventfd2", _A.NUMBER, "open", 290, 19),
    Call("epoll_create", _A.NUMBER, "open", 213),
    Call("epoll_create1", _A.NUMBER, "open", 291, 20),
    Call("timerfd_create", _A.NUMBER, "open", 283, 85),
    Call("signalfd", _A.SIGNALFD, "open", 282),
    Call("signalfd4", _A.SIGNALFD, "open", 289, 74),
    Call("inotify_init", _A.NUMBER, "open", 253),
    Call("inotify_init1", _A.NUMBER, "open", 294, 26),
    Call("fanotify_init", _A.NUMBER, "open", 300, 262),
    Call("userfaultfd", _A.NUMBER, "open", 323, 282),
    Call("perf_event_open", _A.NUMBER, "open", 298, 241),
    Call("io_uring_setup", _A.NUMBER, "open", 425, 425),
    Call("pidfd_open", _A.NUMBER, "open", 434, 434),
    Call("landlock_create_ruleset", _A.LANDLOCK, "open", 444, 444),
    Call("seccomp", _A.SECCOMP, "open", 317, 277),
    Call("bpf", _A.BPF_CALL, "open", 321, 280),
    Call("clone", _A.CLONE, "open", 56, 220),
    Call("clone3", _A.CLONE3, "open", 435, 435),
    Call("dup", _A.DUP, "duplicate", 32, 23),
    Call("dup2", _A.DUP_ONTO, "duplicate", 33),
    Call("dup3", _A.DUP_ONTO, "duplicate", 292, 24),
    Call("fcntl", _A.FCNTL, "duplicate", 72, 25),
    Call("pipe", _A.PAIR_0, "pipe", 22),
    Call("pipe2", _A.PAIR_0, "pipe", 293, 59),
    Call("socket", _A.SOCKET, "socket", 41, 198),
    Call("socketpair", _A.PAIR_3, "socket", 53, 199),
    Call("accept", _A.ACCEPT, "accept", 43, 202),
    Call("accept4", _A.ACCEPT, "accept", 288, 242),
    Call("recvmsg", _A.RECVMSG, "receive", 47, 212),
    Call("recvmmsg", _A.RECVMMSG, "receive", 299, 243),
    Call("getsockopt", _A.GETSOCKOPT, "receive", 55, 209),
    Call("pidfd_getfd", _A.NUMBER, "receive", 438, 438),
    Call("bind", _A.ADDRESS, "bind", 49, 200),
    Call("connect", _A.ADDRESS, "connect", 42, 203),
    Call("listen", _A.NUMBER_OF_SOCKET, "listen", 50, 201),
    Call("shutdown", _A.NUMBER_OF_SOCKET, "shutdown", 48, 210),
    Call("close", _A.CLOSE, "close", 3, 57),
    Call("close_range", _A.CLOSE_RANGE, "close", 436, 436),
    Call("ioctl", _A.IOCTL, "close_on_exec", 16, 29),
    Call("unshare", _A.UNSHARE, "open", 272, 97),
)

# What is not a system call has a number of its own, as in bpf/descriptors/events.h.
URING, FORK, EXEC, EXIT, PATH = 1024, 2000, 2001, 2002, 2003
URING_ACCEPT, URING_CLOSE = URING + 13, URING + 19
OTHER_CALLS = {
    URING_ACCEPT: Call("io_uring accept", _A.NOTHING, "accept"),
    URING + 18: Call("io_uring openat", _A.NOTHING, "open"),
    URING_CLOSE: Call("io_uring close", _A.NOTHING, "close"),
    URING + 28: Call("io_uring openat2", _A.NOTHING, "open"),
    URING + 45: Call("io_uring socket", _A.NOTHING, "socket"),
    URING + 54: Call("io_uring fixed_fd_install", _A.NOTHING, "open"),
    FORK: Call("fork", _A.NOTHING, "fork"),
    EXEC: Call("execve", _A.NOTHING, "exec"),
    EXIT: Call("exit", _A.NOTHING, "exit"),
}

# 32-bit calls that make or close descriptors: seen, counted, and not decoded.
_COMPAT = {
    "x86_64": "5 6 8 41 42 55 63 102 221 254 277 291 295 310 321 322 323 327 328 329 330 331 332 336 337 338 342 354 "
    "356 357 359 360 364 372 374",
    "aarch64": "5 6 8 41 42 55 63 221 250 274 281 285 288 297 316 322 337 349 350 351 355 356 357 358 359 360 364 365 "
    "366 367 371 383 385 386 388",
}

MACHINES: dict[str, dict[str, int]] = {
    # struct pt_regs: r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss;
    # thread_info.status, TS_COMPAT
    "x86_64": {
        "REGISTERS_FROM": 56,
        "REGISTERS_BYTES": 104,
        "REGISTER_CALL": 120,
        "REGISTER_0": 112,
        "REGISTER_1": 104,
        "REGISTER_2": 96,
        "REGISTER_3": 56,
        "REGISTER_IP": 128,
        "REGISTER_SP": 152,
        "PT_REGS_BYTES": 168,
        "COMPAT_MASK": 2,
    },
    # struct pt_regs: regs[31] sp pc pstate orig_x0 syscallno; thread_info.flags, TIF_32BIT
    "aarch64": {
        "REGISTERS_FROM": 8,
        "REGISTERS_BYTES": 280,
        "REGISTER_CALL": 280,
        "REGISTER_0": 272,
        "REGISTER_1": 8,
        "REGISTER_2": 16,
        "REGISTER_3": 24,
        "COMPAT_MASK": 1 << 22,
    },
}
COMPAT_FIELD = {"x86_64": "status", "aarch64": "flags"}
"""The field of struct thread_info that says whether a call is a 32-bit one."""


CODE_EXEC, CODE_EXIT = 1, 2
_URING_CODES = {URING + 13: 3, URING + 18: 4, URING + 19: 5, URING + 28: 6, URING + 45: 7, URING + 54: 8}
_FIRST_CODE = 9
CALL_CODES = 128
"""Counts are kept by the code of a call: small, and the same on every machine. 0 is none."""
CODES: dict[str, int] = {
    "execve": CODE_EXEC,
    "exit": CODE_EXIT,
    **{OTHER_CALLS[number].name: code for number, code in _URING_CODES.items()},
    **{call.name: code for code, call in enumerate(SYSTEM_CALLS, _FIRST_CODE)},
}
"""By the name of a call."""
CALL_NAMES: dict[int, str] = {code: name for name, code in CODES.items()}
REPLACING_CODES = frozenset({CODES["dup2"], CODES["dup3"]})
"""Of calls that close what the number was."""


def calls_of(machine: str) -> dict[int, Call]:
    """Every call that a machine has, by its number in our records; "x86_64" or "aarch64"."""
    numbered = ((call.x86_64 if machine == "x86_64" else call.aarch64, call) for call in SYSTEM_CALLS)
    return {number: call for number, call in numbered if number is not None} | OTHER_CALLS


def actions_of(machine: str, type_code: Callable[[str | None], int], *, with_stacks: bool = False) -> dict[int, int]:
    """What the program does with each number of a system call: action, whether its stack is wanted, code, type."""
    actions: dict[int, int] = dict.fromkeys(map(int, _COMPAT[machine].split()), int(Action.COMPAT_ONLY))
    for number, call in calls_of(machine).items():
        if number >= URING:
            continue
        actions[number] = call.action | CODES[call.name] << _CALL_SHIFT | type_code(call.type) << _TYPE_SHIFT
        if with_stacks and call.action not in _NO_STACK:
            actions[number] |= WITH_WHOLE_STACK if call.action in _WHOLE_STACK else WITH_STACK
    return actions
