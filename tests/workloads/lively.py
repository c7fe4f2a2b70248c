"""lively.py NAME THREADS DESCRIPTORS: a process that does a little of everything, all the time.

Its threads "worker-N" wake ten times a second; "churner" opens /etc/hostname and closes it fifty times a second and
keeps every fiftieth for two seconds; one socket listens, others are bound to nothing. Prints "ready" and the port once
all are there. A line on its standard input does something that a test waits for, and is answered by "done": "open
PATH", "close" (the last one that was opened so), "name NAME" (of the thread "churner"), "listen", "spin" (a thread that
is on the CPU as much as it can); "end" ends it, as the end of its standard input does.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import threading

_KINDS = 5
_libc = ctypes.CDLL(None)


def set_name(name: bytes) -> None:
    """Names the calling thread."""
    _libc.prctl(15, name, 0, 0, 0)  # PR_SET_NAME


def open_kind(kind: int) -> object:
    """One descriptor of one of five kinds."""
    match kind:
        case 0:
            return open("/etc/passwd", "rb")
        case 1:
            return socket.socket()
        case 2:
            return os.fdopen(os.eventfd(0), "rb")
        case 3:
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind(("127.0.0.1", 0))
            return bound
        case _:
            return select.epoll()


def work(name: bytes, ended: threading.Event) -> None:
    """Wakes, and sleeps again."""
    set_name(name)
    while not ended.wait(0.1):
        sum(range(1000))


def churn(names: list[bytes], ended: threading.Event) -> None:
    """Opens and closes."""
    set_name(b"churner")
    kept: list[int] = []
    count = 0
    while not ended.wait(0.02):
        if names:
            set_name(names.pop())
        fd = os.open("/etc/hostname", os.O_RDONLY)
        count += 1
        if count % 50:
            os.close(fd)
            continue
        kept.append(fd)
        if len(kept) > 2:
            os.close(kept.pop(0))


def spin(ended: threading.Event) -> None:
    """Computes."""
    set_name(b"spinner")
    while not ended.is_set():
        sum(range(1000))


def main() -> None:
    """Does what the arguments say, until the end of standard input."""
    name, threads, descriptors = os.fsencode(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    set_name(name)
    ended = threading.Event()
    names: list[bytes] = []
    for number in range(threads - 2):
        threading.Thread(target=work, args=(b"worker-%d" % number, ended), daemon=True).start()
    threading.Thread(target=churn, args=(names, ended), daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    held = [open_kind(number % _KINDS) for number in range(descriptors - 8)]
    opened: list[object] = []
    print(f"ready {listener.getsockname()[1]}", flush=True)
    for line in sys.stdin:
        command, _, argument = line.rstrip("\n").partition(" ")
        if command == "open":
            opened.append(open(argument, "rb"))  # noqa: SIM115 - until "close"
        elif command == "close":
            opened.pop()
        elif command == "listen":
            opened.append(socket.create_server(("127.0.0.1", 0)))
        elif command == "spin":
            threading.Thread(target=spin, args=(ended,), daemon=True).start()
        elif command == "name":
            names.append(argument.encode("utf-8", "surrogateescape"))
        else:
            break
        print("done", flush=True)
    ended.set()
    held.clear()


main()
