"""sleepers.py CPU ROUNDS THREADS: what the scheduler does to threads, counted by the threads themselves.

A hog holds the CPU; the "victim" needs it too; the "sleeper" sleeps and wakes (by a timer); the "waker" wakes the
"woken" through a pipe; THREADS threads are born and end. Each does ROUNDS rounds once it gets a line on standard input.
They go before others, so that it is the hog that holds the CPU on a busy machine too.
Prints "ready", and at the end one line of JSON: the thread ids by name. Before and after its rounds a thread is parked.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
import time

libc = ctypes.CDLL(None)


def set_name(name: str) -> None:
    libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME


def go_before_others() -> None:
    """With the priority of 88 ordinary processes, among processes and, where sessions share a CPU, among those."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        os.setsid()
        with open("/proc/self/autogroup", "w") as autogroup:  # sched(7)
            autogroup.write("-20")


def main() -> None:
    go_before_others()
    cpu, rounds, thread_count = map(int, sys.argv[1:4])
    os.sched_setaffinity(0, {cpu})
    set_name("sleepers")
    hog = os.fork()
    if not hog:
        set_name("hog")
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
        while True:
            pass
    go, parked = threading.Event(), threading.Event()
    ping = os.pipe()
    tids: dict[str, int] = {}

    def counted(name: str, work: object) -> threading.Thread:
        named = threading.Event()

        def run() -> None:
            set_name(name)
            named.set()
            go.wait()
            work()  # type: ignore[operator]
            tids[name] = threading.get_native_id()
            parked.wait()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        named.wait()
        return thread

    def compute() -> None:
        ends = time.thread_time_ns() + rounds * 1_000_000
        while time.thread_time_ns() < ends:
            pass

    def sleep() -> None:
        for _ in range(rounds):
            time.sleep(0.001)

    def wake() -> None:
        for _ in range(rounds):
            time.sleep(0.001)
            os.write(ping[1], b"x")

    def be_woken() -> None:
        for _ in range(rounds):
            os.read(ping[0], 1)

    for name, work in (("victim", compute), ("sleeper", sleep), ("waker", wake), ("woken", be_woken)):
        counted(name, work)
    print(f"ready {hog}", flush=True)
    sys.stdin.readline()
    go.set()
    for _ in range(thread_count):
        short = threading.Thread(target=set_name, args=("short-lived",))
        short.start()
        short.join()
    while len(tids) < 4:
        time.sleep(0.01)
    print(json.dumps(tids), flush=True)
    sys.stdin.readline()
    os.kill(hog, 9)


main()
