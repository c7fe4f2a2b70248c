"""Makes processes that open and close files, and says what each of them did.

After a line on standard input: children one after another (the kernel gives the memory of one's table of descriptors to
the next), a child with a child of its own, one that stays, and one that uses our table. Prints JSON: PID to path, count
and the PID that made it. After another line the one that stays ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable

_SYS_CLONE = 56 if os.uname().machine == "x86_64" else 220
_CLONE_FILES = 0x400
SHARED = 13
KEPT = 7


def storm(path: str, count: int) -> None:
    """Opens and closes."""
    for _ in range(count):
        os.close(os.open(path, os.O_RDONLY))


def make(work: Callable[[], None], flags: int = 0) -> int:
    """A process that does something and ends."""
    child: int = ctypes.CDLL(None).syscall(_SYS_CLONE, signal.SIGCHLD | flags, 0, 0, 0, 0)
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


def main() -> None:
    """As the module says."""
    quick = int(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    me = os.getpid()
    did: dict[int, list[object]] = {me: ["/dev/zero", 101, 0]}
    storm("/dev/zero", 101)
    for index in range(quick):
        child = make(lambda index=index: storm("/dev/null", 103 + 2 * index))  # type: ignore[misc]
        os.waitpid(child, 0)
        did[child] = ["/dev/null", 103 + 2 * index, me]

    reader, writer = os.pipe()

    def have_child() -> None:
        storm("/dev/full", 107)
        grandchild = make(lambda: storm("/dev/random", 109))
        os.waitpid(grandchild, 0)
        os.write(writer, str(grandchild).encode())

    child = make(have_child)
    os.waitpid(child, 0)
    did[child] = ["/dev/full", 107, me]
    did[int(os.read(reader, 99))] = ["/dev/random", 109, child]

    def stay() -> None:
        os.close(writer_of_end)
        storm("/dev/urandom", 113)
        for _ in range(KEPT):
            os.open("/dev/urandom", os.O_RDONLY)
        os.write(writer, b"x")
        os.read(end, 1)

    end, writer_of_end = os.pipe()
    child = make(stay)
    os.read(reader, 1)
    did[child] = ["/dev/urandom", 113 + KEPT, me]

    sharer = make(lambda: storm("/dev/zero", SHARED), _CLONE_FILES)
    os.waitpid(sharer, 0)
    print(json.dumps({"did": did, "sharer": sharer, "stays": child}), flush=True)
    sys.stdin.readline()
    os.close(writer_of_end)
    os.waitpid(child, 0)


main()
