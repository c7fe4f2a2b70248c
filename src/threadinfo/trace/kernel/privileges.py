"""What a tracer gives up when everything is attached: what reading the target, and ending, does not take.

Capabilities are each thread's own; the filter of system calls is laid over all threads at once. Only a process that is
ours alone does this (`is_own_process`): whoever uses these modules as a library keeps its rights.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

from threadinfo.trace.stacks import confinement as bpf

is_own_process = False
"""Whether this process is the command's; `cli` sets it."""

# include/uapi/linux/capability.h
_KEPT = {
    "CAP_CHOWN": 0,  # -o under sudo: its file belongs to the caller
    "CAP_DAC_OVERRIDE": 1,  # -o: the report takes its name in a directory of the caller's
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,  # the same in a directory like /tmp
    "CAP_KILL": 5,  # run: signals are passed on; the unwinder's child is another user's
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,  # another network namespace (setns(2)), the statistics of programs
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,  # the CPU time of the unwinder's child
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,  # /proc/PID/map_files
}
KEPT_CAPABILITIES = sum(1 << bit for bit in _KEPT.values())
_COUNT = 64
_LOW = 0xFFFFFFFF
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_VERSION_3 = 0x20080522
_SET_MODE_FILTER, _TSYNC = 1, 1
_AF_UNIX, _AF_NETLINK = 1, 16
_X32 = 0x40000000


class _Numbers(NamedTuple):
    """A machine's numbers: of what is refused, of socket and seccomp, and its own for audit(7)."""

    refused: tuple[int, ...]
    socket: int
    seccomp: int
    audit: int


# execve execveat ptrace process_vm_writev init_module finit_module delete_module kexec_load kexec_file_load mount
# umount2 pivot_root chroot swapon swapoff reboot sethostname settimeofday clock_settime adjtimex quotactl acct add_key
# request_key keyctl, then (the same everywhere) io_uring_setup, which would do what is refused, move_mount, fsopen.
_EVERYWHERE = (425, 429, 430)
_NUMBERS = {
    "x86_64": _Numbers(
        refused=(
            *(59, 322, 101, 311, 175, 313, 176, 246, 320, 165, 166, 155, 161, 167, 168, 169, 170, 164, 227, 159),
            *(179, 163, 248, 249, 250, *_EVERYWHERE),
        ),
        socket=41,
        seccomp=317,
        audit=0xC000003E,
    ),
    "aarch64": _Numbers(
        refused=(
            *(221, 281, 117, 271, 105, 273, 106, 104, 294, 40, 39, 41, 51, 224, 225, 142, 161, 170, 112, 171),
            *(60, 89, 217, 218, 219, *_EVERYWHERE),
        ),
        socket=198,
        seccomp=277,
        audit=0xC00000B7,
    ),
}


def _filter(numbers: _Numbers, *, may_use_network: bool) -> bytes:
    """Refuses what no tracer needs; sockets but Unix's (user names come by them) and netlink's (sock_diag)."""
    allow, refuse = bpf.instruction(bpf.RETURN, bpf.ALLOW), bpf.instruction(bpf.RETURN, bpf.REFUSE)
    program = [
        bpf.instruction(bpf.LOAD, bpf.MACHINE_AT),
        bpf.instruction(bpf.JUMP_IF_EQUAL, numbers.audit, 1, 0),
        refuse,
        bpf.instruction(bpf.LOAD, bpf.NUMBER_AT),
        bpf.instruction(bpf.JUMP_IF_ANY_BIT, _X32, 0, 1),
        refuse,
    ]
    for number in numbers.refused:
        program += [bpf.instruction(bpf.JUMP_IF_EQUAL, number, 0, 1), refuse]
    if not may_use_network:
        program += [
            bpf.instruction(bpf.JUMP_IF_EQUAL, numbers.socket, 0, 4),
            bpf.instruction(bpf.LOAD, bpf.ARGUMENT_1_AT),
            bpf.instruction(bpf.JUMP_IF_EQUAL, _AF_UNIX, 2, 0),
            bpf.instruction(bpf.JUMP_IF_EQUAL, _AF_NETLINK, 1, 0),
            refuse,
        ]
    return b"".join([*program, allow])


def give_up(*, may_use_network: bool = False) -> frozenset[str]:
    """This thread's capabilities but those above, more through exec, and for all threads most dangerous calls.

    Says what holds, of "capabilities", "bounding set", "no_new_privs", "seccomp". `may_use_network`: debug files are
    to be fetched.
    """
    if not is_own_process:
        return frozenset()
    held = _give_up_capabilities()
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = _NUMBERS.get(platform.machine())
    if numbers is not None:
        program = ctypes.create_string_buffer(_filter(numbers, may_use_network=may_use_network))
        description = struct.pack("=H6xQ", (len(program) - 1) // 8, ctypes.addressof(program))  # struct sock_fprog
        if libc.syscall(numbers.seccomp, _SET_MODE_FILTER, _TSYNC, description) == 0:
            held.add("seccomp")
    return frozenset(held)


def _give_up_capabilities() -> set[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    held = set()
    dropped = [libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0) for bit in range(_COUNT) if not KEPT_CAPABILITIES >> bit & 1]
    if dropped[0] == 0:  # those after the kernel's last one are errors
        held.add("bounding set")
    header, data = struct.pack("=Ii", _VERSION_3, 0), ctypes.create_string_buffer(24)
    if libc.capget(header, data) == 0:
        low, _, _, high, _, _ = struct.unpack("=6I", data.raw[:24])
        kept = (high << 32 | low) & KEPT_CAPABILITIES
        halves = kept & _LOW, kept >> 32
        words = (halves[0], halves[0], 0, halves[1], halves[1], 0)  # effective, permitted, inheritable
        if libc.capset(header, struct.pack("=6I", *words)) == 0:
            held.add("capabilities")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        held.add("no_new_privs")
    return held


def given_up_by_others(read_maps: Callable[[int], bytes | None]) -> Callable[[int], bytes | None]:
    """The same function, that another thread which calls it first gives its capabilities up for.

    The thread that unwinds begins while ours still attaches, and reads memory maps before anything else.
    """
    ours = threading.get_ident()
    done: set[int] = {ours}

    def read(pid: int) -> bytes | None:
        if is_own_process and (thread := threading.get_ident()) not in done:
            done.add(thread)
            _give_up_capabilities()
        return read_maps(pid)

    return read
