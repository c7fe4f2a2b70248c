"""pingpong.py ROUNDS: a child process sends over loopback, and this one answers each time, blocked meanwhile.

Says "ready", goes on after a line, and says as JSON who sent and how often; then waits for the end of its input.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path


def main(rounds: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    go, begin = os.pipe()
    sender = os.fork()
    if not sender:
        Path("/proc/self/comm").write_text("pinger")
        os.read(go, 1)
        with socket.create_connection(listener.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(rounds):
                client.sendall(b"x")
                client.recv(1)
        sys.stdin.read()
        os._exit(0)
    print("ready", flush=True)
    sys.stdin.readline()
    os.write(begin, b"x")
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(rounds):
        accepted.recv(1)
        accepted.sendall(b"y")
    print(json.dumps({"me": os.getpid(), "sender": sender, "rounds": rounds}), flush=True)
    sys.stdin.read()
    os.waitpid(sender, 0)


main(int(sys.argv[1]))
