"""slow_close.py: sockets whose close takes its time (SO_LINGER); another thread is given their numbers meanwhile.

Says "ready", goes on after a line, says how many sockets it made and how many numbers are files now, and waits for the
end of its standard input.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading

TIMES = 7
LINGERS_SECONDS = 30


def hold_up(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A connection with more on its way than the other end has room for, so that its close waits."""
    client = socket.create_connection(listener.getsockname())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGERS_SECONDS))
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(1 << 16))
    except BlockingIOError:
        client.setblocking(True)
    return client, listener.accept()[0]


def main() -> None:
    """Closes one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", flush=True)
    sys.stdin.readline()
    files = []
    for _ in range(TIMES):
        client, server = hold_up(listener)
        fd = client.fileno()
        closing = threading.Thread(target=client.close)
        closing.start()
        while (file := os.open("/dev/null", os.O_RDONLY)) != fd:  # until the number is free: the close has begun
            os.close(file)
        files.append(file)
        while server.recv(1 << 16) if closing.is_alive() else False:
            pass
        closing.join()
        server.close()
    print(2 * TIMES, len(files), flush=True)
    sys.stdin.read()


main()
