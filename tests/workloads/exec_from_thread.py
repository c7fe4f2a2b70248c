"""A process whose second thread calls exec, when a line comes in: "first" and "killed" end by it. Prints "ready"."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)
_begin = threading.Event()


def name_this_thread(name: str) -> None:
    """Names the calling thread (prctl(2))."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def call_exec() -> None:
    """Becomes a process called "sleep"."""
    name_this_thread("caller")
    _begin.wait()
    os.execv("/bin/sleep", ["sleep", "1000"])


def be_killed() -> None:
    """Runs now and then, so that it holds others up."""
    name_this_thread("killed")
    while True:
        time.sleep(0.001)


for target in (call_exec, be_killed):
    threading.Thread(target=target).start()
name_this_thread("first")
print("ready", flush=True)
sys.stdin.readline()
_begin.set()
while True:
    time.sleep(0.001)
