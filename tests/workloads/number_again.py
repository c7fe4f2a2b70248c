"""Ends, and leaves its PID to another process: `number_again.py`.

Says "ready PID" of a child; at a line the child opens seven descriptors and ends, and one that is made with its PID
(clone3(2), set_tid) opens thirteen. Then "done", and waits for another line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

FIRST_COUNT, SECOND_COUNT = 7, 13
_SYS_CLONE3 = 435


def open_some(count: int) -> None:
    for _ in range(count):
        os.open("/dev/null", os.O_RDONLY)
    os._exit(0)


def fork_with(pid: int) -> int:
    """As fork(2), with a PID of our choice."""
    chosen = ctypes.c_int(pid)
    arguments = ctypes.create_string_buffer(
        struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(chosen), 1, 0)
    )
    return int(ctypes.PyDLL(None, use_errno=True).syscall(_SYS_CLONE3, arguments, len(arguments) - 1))


begins = os.pipe()
first = os.fork()
if not first:
    os.read(begins[0], 1)
    open_some(FIRST_COUNT)
print("ready", first, flush=True)
sys.stdin.readline()
os.write(begins[1], b"\n")
os.waitpid(first, 0)
second = fork_with(first)
if not second:
    open_some(SECOND_COUNT)
if second != first:
    sys.exit(f"clone3: {second}, {os.strerror(ctypes.get_errno())}")
os.waitpid(second, 0)
print("done", flush=True)
sys.stdin.readline()
