"""A small server to look at: `make report` starts it, reports it, and stops it; `make demo` leaves it running.

It has what the Hydrogen server had when this project began: named threads, a web server, a websocket server on IPv4 and
IPv6, mDNS, an event channel, a random number source, a log, and a socket that no program here admits to: netlink ROUTE
with groups 0x551, as libwebsockets makes one. To play with it:

    python3 demo/hydrogen_demo.py &      # prints "ready PID" once every thread waits
    threadinfo -v hydrogen-demo          # who serves what, and what is served by nobody
    curl http://127.0.0.1:5000/          # the web thread answers, and wakes the log writer through an eventfd
    kill %1                              # it also ends with its standard input, where that is a pipe

With --busy it has what a trace is for: config-reload leaks one in seven of the files that it opens (and lets them go
before the limit is near), worker-1 and worker-2 wait for a lock that worker-0 holds too long, journal waits for the
disk (where the temporary directory is on one), client asks the web server, and is refused by a port where nobody
listens. Together they take a few percent of a CPU.

A port that is taken is replaced by a free one. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

PR_SET_NAME = 15
LWS_GROUPS = 0x551  # link, IPv4 and IPv6 addresses and routes: what libwebsockets' system state listens for
CLOCK_MONOTONIC = 1
FUTEX = {"202", "98"}  # the system call's number on x86-64 and aarch64: how a thread waits for Python's own lock

libc = ctypes.CDLL(None, use_errno=True)


def set_name(name: str) -> None:
    """Names the calling thread, and with the first one the process."""
    libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def start(name: str, serve_once: Callable[[], object]) -> int:
    """Starts a daemon thread of that name that serves for ever; its id, once it has its name."""
    named = threading.Event()

    def run() -> None:
        set_name(name)
        named.set()
        while True:
            with contextlib.suppress(OSError):  # a client that went away
                serve_once()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    named.wait()
    return thread.native_id or 0


def wait_until_all_wait(tids: list[int], at_most_seconds: float = 2) -> None:
    """Returns when each thread is in the system call that it waits in, as far as /proc tells."""
    end = time.monotonic() + at_most_seconds
    while time.monotonic() < end:
        try:
            calls = [Path(f"/proc/self/task/{tid}/syscall").read_text().split()[0] for tid in tids]
        except OSError:  # a kernel that does not tell
            return
        if not FUTEX.union({"running"}).intersection(calls):
            return
        time.sleep(0.001)


def listen(family: socket.AddressFamily, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket bound to loopback: to this port, or to a free one where it is taken; a stream listens."""
    sock = socket.socket(family, kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    try:
        sock.bind((loopback, port))
    except OSError:
        sock.bind((loopback, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def answer(listener: socket.socket, status: str, wakeup: int) -> None:
    """Waits for a client, answers whatever it asks with one line, and wakes the log writer."""
    with listener.accept()[0] as connection:
        connection.settimeout(1)
        connection.recv(65536)
        connection.sendall(f"HTTP/1.0 {status}\r\nConnection: close\r\n\r\nhydrogen-demo\n".encode())
    os.eventfd_write(wakeup, 1)


def serve_ready(epoll: select.epoll, sockets: dict[int, socket.socket], wakeup: int) -> None:
    """Waits for any of the websocket thread's sockets; no websocket is ever opened."""
    for fd, _ in epoll.poll():
        sock = sockets[fd]
        if sock.family != socket.AF_NETLINK and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            answer(sock, "426 Upgrade Required", wakeup)
        elif not sock.recv(65536):
            epoll.unregister(fd)


def write_log(log: IO[str], wakeup: int) -> None:
    """Waits for requests, and counts them in the log."""
    print(f"{time.time():.3f} requests answered: {os.eventfd_read(wakeup)}", file=log, flush=True)


def timer() -> int:
    """A timerfd that fires once an hour (timerfd_create(2); Python has it from 3.13)."""
    fd = int(libc.timerfd_create(CLOCK_MONOTONIC, 0))
    libc.timerfd_settime(fd, 0, struct.pack("@4q", 3600, 0, 3600, 0), None)
    return fd


LEAKED_AT_MOST = 2000


def leak_one_in_seven(leaked: list[int], count: list[int]) -> None:
    """Opens a file as a program does that reads its settings again and again, and sometimes forgets to close it."""
    fd = os.open("/etc/passwd", os.O_RDONLY)
    os.read(fd, 100)
    count[0] += 1
    if count[0] % 7:
        os.close(fd)
    else:
        leaked.append(fd)
    if len(leaked) >= min(LEAKED_AT_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
        while leaked:  # so that it can stay up
            os.close(leaked.pop())
    time.sleep(0.02)


class Mutex(ctypes.Structure):
    """pthread_mutex_t, which begins as zeroes; Python's own locks are semaphores."""

    _fields_ = (("words", ctypes.c_long * 8),)


def hold(mutex: Mutex) -> None:
    """Does slowly, with the lock held, what others wait for."""
    libc.pthread_mutex_lock(ctypes.byref(mutex))
    time.sleep(0.03)
    libc.pthread_mutex_unlock(ctypes.byref(mutex))
    time.sleep(0.01)


def need(mutex: Mutex) -> None:
    """Needs the lock for a moment."""
    libc.pthread_mutex_lock(ctypes.byref(mutex))
    libc.pthread_mutex_unlock(ctypes.byref(mutex))
    time.sleep(0.005)


def write_journal(journal: IO[bytes]) -> None:
    """Waits until what was written is on the disk."""
    journal.seek(0)
    journal.write(os.urandom(1 << 16))
    journal.flush()
    os.fsync(journal.fileno())
    time.sleep(0.05)


def ask(web: tuple[str, int], nobody: tuple[str, int]) -> None:
    """A client of the web server, and of one that is not there."""
    with socket.create_connection(web, timeout=1) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        connection.recv(65536)
    time.sleep(0.25)
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(nobody):  # blocking: refused at once
        pass
    time.sleep(0.25)


def free_port() -> int:
    """One where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def be_busy(web: tuple[str, int], journal: IO[bytes]) -> None:
    """Starts the threads that a trace has something to tell of."""
    leaked: list[int] = []
    count, mutex, nobody = [0], Mutex(), ("127.0.0.1", free_port())
    start("config-reload", lambda: leak_one_in_seven(leaked, count))
    start("worker-0", lambda: hold(mutex))
    for number in (1, 2):
        start(f"worker-{number}", lambda: need(mutex))
    start("journal", lambda: write_journal(journal))
    start("client", lambda: ask(web, nobody))


def wait_for_the_end(seconds: float | None) -> None:
    """Waits for a signal, for the other end of standard input to close, or for this time."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    poll = select.poll()
    poll.register(0, 0)  # a hang-up alone: /dev/null and a terminal do not wake us, and nothing is read
    end = time.monotonic() + (seconds if seconds is not None else float("inf"))
    while (left := end - time.monotonic()) > 0 and not poll.poll(1000 * min(left, 1)):
        pass  # a signal that comes a moment before poll(2) does not end that; its handler runs a second later


def main() -> None:
    """Makes everything, says ready, and serves until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=None, help="end after this time, whatever happens")
    parser.add_argument("--name", default="hydrogen-demo", help="of the process, 15 bytes at most")
    parser.add_argument("--busy", action="store_true", help="do what a trace is for, too: see above")
    options = parser.parse_args()
    set_name(options.name)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # so that main alone gets them

    with contextlib.ExitStack() as opened:
        log = opened.enter_context(tempfile.NamedTemporaryFile("w", prefix="hydrogen-", suffix=".log"))
        unwatched, wakeup = os.eventfd(0), os.eventfd(0)
        web = listen(socket.AF_INET, 5000)
        random_source = os.open("/dev/urandom", os.O_RDONLY)
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        netlink.bind((0, LWS_GROUPS))
        websocket = listen(socket.AF_INET, 5002)
        watched = [websocket, netlink]
        with contextlib.suppress(OSError):  # a machine without IPv6
            watched.append(listen(socket.AF_INET6, 5002))
        mdns = listen(socket.AF_INET, 5353, socket.SOCK_DGRAM)
        unused = socket.socket()
        browser = socket.create_connection(websocket.getsockname())
        session, _ = websocket.accept()
        pair = socket.socketpair()
        pipe = os.pipe()
        epoll = select.epoll()
        sockets = {sock.fileno(): sock for sock in (*watched, session)}
        for fd in sockets:
            epoll.register(fd, select.EPOLLIN)

        tids = [
            start("web", lambda: answer(web, "200 OK", wakeup)),
            start("websocket", lambda: serve_ready(epoll, sockets, wakeup)),
            start("mdns", lambda: mdns.recvfrom(1500)),
            start("log-writer", lambda: write_log(log.file, wakeup)),
        ]
        timer_fd = timer()
        tids.append(start("timer", lambda: os.read(timer_fd, 8)))
        wait_until_all_wait(tids)
        if options.busy:
            be_busy(web.getsockname(), opened.enter_context(tempfile.TemporaryFile(prefix="hydrogen-journal-")))
        print(f"ready {os.getpid()}", flush=True)
        wait_for_the_end(options.seconds)
        del unwatched, random_source, unused, browser, pair, pipe


if __name__ == "__main__":
    main()
