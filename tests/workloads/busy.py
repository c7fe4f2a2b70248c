"""busy.py: a busy process with faults to find, whose counts are primes; for reports that are to be read quickly.

Says "ready", goes on after a line, works for a few seconds, says as JSON what it did, and waits for the end of its
standard input. The thread "config-reload" opens /etc/passwd and does not close all of them, "connector"
connects to a port where nobody listens, "maker" makes sockets that it does nothing with, "server" accepts connections
that live shortly, and the threads "worker-N" wait for one lock.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
import time

OPENED, KEPT, REFUSED, UNUSED, ACCEPTED, WORKERS = 239, 67, 23, 61, 97, 13
SECONDS = 4.0
SLICE_SECONDS = 0.01
libc = ctypes.CDLL(None)


def name_thread(name: str) -> int:
    """Names the calling thread; its number."""
    libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
    return threading.get_native_id()


def reload_configuration(said: dict[str, object], kept: list[int]) -> None:
    said["reloader"] = name_thread("config-reload")
    for count in range(OPENED):
        fd = os.open("/etc/passwd", os.O_RDONLY)
        if (count + 1) * KEPT // OPENED > count * KEPT // OPENED:
            kept.append(fd)
        else:
            os.close(fd)
        time.sleep(SECONDS / OPENED)


def connect(said: dict[str, object], port: int) -> None:
    said["connector"] = name_thread("connector")
    for _ in range(REFUSED):
        with socket.socket() as client:
            client.connect_ex(("127.0.0.1", port))
        time.sleep(SECONDS / REFUSED)


def make_sockets(said: dict[str, object], unused: list[socket.socket]) -> None:
    said["maker"] = name_thread("maker")
    for _ in range(UNUSED):
        unused.append(socket.socket())


def serve(listener: socket.socket) -> None:
    name_thread("server")
    for _ in range(ACCEPTED):
        listener.accept()[0].close()


def visit(address: tuple[str, int]) -> None:
    name_thread("visitor")
    for _ in range(ACCEPTED):
        socket.create_connection(address).close()


def work(number: int, lock: threading.Lock, until: float) -> None:
    name_thread(f"worker-{number}")
    while time.monotonic() < until:
        with lock:
            sum(range(20_000))
        time.sleep(SLICE_SECONDS)


def main() -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", flush=True)
    sys.stdin.readline()
    said: dict[str, object] = {"path": "/etc/passwd", "port": port}
    kept: list[int] = []
    unused: list[socket.socket] = []
    lock, until = threading.Lock(), time.monotonic() + SECONDS
    threads = [
        threading.Thread(target=reload_configuration, args=(said, kept)),
        threading.Thread(target=connect, args=(said, port)),
        threading.Thread(target=make_sockets, args=(said, unused)),
        threading.Thread(target=serve, args=(listener,)),
        threading.Thread(target=visit, args=(listener.getsockname(),)),
        *(threading.Thread(target=work, args=(number, lock, until)) for number in range(WORKERS)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {"opened": OPENED, "kept": len(kept), "refused": REFUSED, "unused": len(unused), "accepted": ACCEPTED}
    print(json.dumps({**said, **counts, "fds": kept, "unused_fds": [one.fileno() for one in unused]}), flush=True)
    sys.stdin.read()


main()
