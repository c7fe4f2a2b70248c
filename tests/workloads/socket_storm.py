"""socket_storm.py GOOD: so many connections that work, then a few that are refused and some of rarer kinds.

Says "ready", goes on after a line, does all, and says as JSON what it did; then waits for the end of its input. An
accept loop turns in vain after each connection. Counts are primes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

REFUSED, KEPT, LATE_LISTENERS = 3, 5, 2


def main(good: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    empty = 0
    for _ in range(good):
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(BlockingIOError):
            listener.accept()
        empty += 1
    closed = socket.create_server(("127.0.0.1", 0))
    nobody = closed.getsockname()
    closed.close()
    for _ in range(REFUSED):
        with socket.socket() as client:
            client.connect_ex(nobody)
    kept = [socket.create_connection(listener.getsockname()) for _ in range(KEPT)]
    late = [socket.socket(socket.AF_UNIX) for _ in range(LATE_LISTENERS)]
    for number, one in enumerate(late):
        one.bind(f"\0threadinfo-storm-{os.getpid()}-{number}")
        one.listen(7)
    said = {
        "socket": good + 1 + 1 + REFUSED + KEPT + LATE_LISTENERS,
        "connect": good + KEPT,
        "refused": REFUSED,
        "accept": good,
        "empty": empty,
        "shutdown": good,
        "bind": 2 + LATE_LISTENERS,
        "nobody": f"127.0.0.1:{nobody[1]}",
        "kept": [one.fileno() for one in kept],
        "late": [one.fileno() for one in late],
        "listener": listener.fileno(),
    }
    print(json.dumps(said), flush=True)
    sys.stdin.read()


main(int(sys.argv[1]))
