"""A small server to look at: `make report` starts it, reports it, and stops it.

It has what the Hydrogen server had when this project began: named threads, a web server, a websocket server on IPv4 and
IPv6, mDNS, an event channel, a random number source, a log, and a socket that no program here admits to: netlink ROUTE
with groups 0x551, as libwebsockets makes one. To play with it:

    python3 demo/hydrogen_demo.py &      # prints "ready PID" once every thread waits
    threadinfo -v hydrogen-demo
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable

PR_SET_NAME = 15
LWS_GROUPS = 0x551  # link, IPv4 and IPv6 addresses and routes: what libwebsockets' system state listens for
CLOCK_MONOTONIC = 1

libc = ctypes.CDLL(None, use_errno=True)


def set_name(name: str) -> None:
    """Names the calling thread, and with the first one the process."""
    libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def start(name: str, serve: Callable[[], object]) -> None:
    """Starts a daemon thread of that name and waits until it has it."""
    named = threading.Event()

    def run() -> None:
        set_name(name)
        named.set()
        serve()

    threading.Thread(target=run, daemon=True).start()
    named.wait()


def listen(family: socket.AddressFamily, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket bound to loopback: to this port, or to a free one where it is taken; a stream listens."""
    sock = socket.socket(family, kind)
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


def answer_forever(listener: socket.socket) -> None:
    """Answers every connection with one line."""
    while True:
        with listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhydrogen-demo\n")


def poll_forever(epoll: select.epoll) -> None:
    """Waits for websocket clients that never come."""
    while True:
        epoll.poll()


def timer() -> int:
    """A timerfd that fires once an hour (timerfd_create(2); Python has it from 3.13)."""
    fd = int(libc.timerfd_create(CLOCK_MONOTONIC, 0))
    libc.timerfd_settime(fd, 0, struct.pack("@4q", 3600, 0, 3600, 0), None)
    return fd


def main() -> None:
    """Makes everything, says ready, and serves until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=None, help="end after this time, whatever happens")
    seconds = parser.parse_args().seconds
    set_name("hydrogen-demo")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

    with tempfile.NamedTemporaryFile(prefix="hydrogen-", suffix=".log") as log:
        web_wakeup, log_wakeup = os.eventfd(0), os.eventfd(0)
        web = listen(socket.AF_INET, 5000)
        random_source = os.open("/dev/urandom", os.O_RDONLY)
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        netlink.bind((0, LWS_GROUPS))
        websocket, websocket6 = listen(socket.AF_INET, 5002), listen(socket.AF_INET6, 5002)
        mdns = listen(socket.AF_INET, 5353, socket.SOCK_DGRAM)
        unused = socket.socket()
        browser = socket.create_connection(websocket.getsockname())
        session, _ = websocket.accept()
        pair = socket.socketpair()
        pipe = os.pipe()
        epoll = select.epoll()
        for sock in (websocket, websocket6, netlink, session):
            epoll.register(sock, select.EPOLLIN)

        start("web", lambda: answer_forever(web))
        start("websocket", lambda: poll_forever(epoll))
        start("mdns", lambda: mdns.recvfrom(1500))
        start("log-writer", lambda: os.read(log_wakeup, 8))
        timer_fd = timer()
        start("timer", lambda: os.read(timer_fd, 8))
        print(f"ready {os.getpid()}", flush=True)
        signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, seconds if seconds is not None else 1e9)
        del web_wakeup, random_source, unused, browser, pair, pipe, log


if __name__ == "__main__":
    main()
