"""One named thread for each way of waiting for a descriptor.

Prints one line of JSON, which descriptor is waited for in which way, once every thread waits (its wchan says so), and
ends when its standard input is closed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STACK_BYTES = 1 << 20
libc = ctypes.CDLL(None)


def start(name: str, wait: Callable[[], object]) -> int:
    """Starts a thread of that name; gives its id."""
    started = threading.Event()
    tid = 0

    def run() -> None:
        nonlocal tid
        libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
        tid = threading.get_native_id()
        started.set()
        wait()

    threading.Thread(target=run, daemon=True).start()
    started.wait()
    return tid


def sleeps(tid: int) -> bool:
    """Whether the thread is blocked in a system call."""
    text = Path(f"/proc/self/task/{tid}/syscall").read_text()
    return text != "running\n" and Path(f"/proc/self/task/{tid}/stat").read_text().rsplit(") ", 1)[1][0] == "S"


def main() -> None:
    threading.stack_size(STACK_BYTES)
    pipes = [os.pipe() for _ in range(6)]
    listener = socket.create_server(("127.0.0.1", 0))
    pair = socket.socketpair()
    epoll = select.epoll()
    epoll.register(pipes[4][0], select.EPOLLIN)
    poll = select.poll()
    for index in (1, 2):
        poll.register(pipes[index][0], select.POLLIN)
    tids = [
        start("reader", lambda: os.read(pipes[0][0], 1)),
        start("poller", poll.poll),
        start("selector", lambda: libc.select(pipes[3][0] + 1, bit_set(pipes[3][0]), None, None, None)),
        start("epoller", epoll.poll),
        start("acceptor", listener.accept),
        start("receiver", lambda: pair[0].recv(1)),
    ]
    while not all(sleeps(tid) for tid in tids):
        time.sleep(0.001)
    truth = {
        "read": pipes[0][0],
        "poll_first": pipes[1][0],
        "poll_second": pipes[2][0],
        "select": pipes[3][0],
        "epoll": epoll.fileno(),
        "watched": pipes[4][0],
        "accept": listener.fileno(),
        "receive": pair[0].fileno(),
        "unserved": pipes[5][0],
        "stack_bytes": STACK_BYTES,
    }
    print(json.dumps(truth), flush=True)
    sys.stdin.read()


def bit_set(fd: int) -> ctypes.Array[ctypes.c_char]:
    """An fd_set (select(2)) with one member."""
    return ctypes.create_string_buffer((1 << fd).to_bytes(128, "little"), 128)


main()
