"""passed_socket.py: makes a socket and hands it to a child (SCM_RIGHTS), which binds it and listens.

Says "ready", goes on after a line, says as JSON who had it under which number, and waits for its standard input's end.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        take(theirs)
    theirs.close()
    made = socket.socket()
    said = {"giver": os.getpid(), "taker": child, "sent": made.fileno(), "inode": os.fstat(made.fileno()).st_ino}
    socket.send_fds(ours, [b"x"], [made.fileno()])
    made.close()
    print(json.dumps({**said, **json.loads(ours.recv(1000))}), flush=True)
    sys.stdin.read()
    ours.close()
    os.waitpid(child, 0)


def take(theirs: socket.socket) -> None:
    """The child's part; ends with its parent."""
    _, (received,), _, _ = socket.recv_fds(theirs, 1, 1)
    passed = socket.socket(fileno=received)
    passed.bind(("127.0.0.1", 0))
    passed.listen(7)
    theirs.send(json.dumps({"received": received, "local": "{}:{}".format(*passed.getsockname())}).encode())
    theirs.recv(1)
    os._exit(0)


main()
