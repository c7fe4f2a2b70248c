"""many.py NAME THREADS DESCRIPTORS: a process of that name, with that many threads, and descriptors of six kinds.

Prints "ready" once all are there, and ends when its standard input is closed.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import threading


def open_kind(kind: int) -> list[object]:
    """One descriptor (a socket pair: two) of one of six kinds."""
    match kind:
        case 0:
            return [open("/etc/passwd", "rb")]
        case 1:
            return [socket.socket()]
        case 2:
            return [os.fdopen(os.eventfd(0), "rb")]
        case 3:
            return list(socket.socketpair())
        case 4:
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind(("127.0.0.1", 0))
            return [bound]
        case _:
            return [select.epoll()]


def main() -> None:
    name, threads, descriptors = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
    ended = threading.Event()
    for _ in range(threads - 1):
        threading.Thread(target=ended.wait).start()
    held: list[object] = []
    kind = 0
    while len(held) < descriptors:
        held += open_kind(kind % 6)
        kind += 1
    print("ready", flush=True)
    sys.stdin.read()
    ended.set()


main()
