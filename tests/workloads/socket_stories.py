"""socket_stories.py: sockets with several numbers each, packet and netlink sockets, and accepts that find nobody.

Says "ready", goes on after a line, does all, and says as JSON what has become of each; then waits for the end of its
standard input. A listener and a Unix pair are older than that line. Counts are primes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import sys

ETH_P_ALL, ETH_P_ARP = 3, 0x0806
NETLINK_ROUTE = 0
EMPTY_ACCEPTS, EMPTY_ACCEPTS_OF_OTHER = 13, 5
DUPLICATES = 7
libc = ctypes.CDLL(None, use_errno=True)


def in_words(address: tuple[object, ...]) -> str:
    """``[::1]:80``."""
    return f"[{address[0]}]:{address[1]}" if len(address) > 2 else f"{address[0]}:{address[1]}"


def main() -> None:
    older = socket.create_server(("127.0.0.1", 0))
    left, right = socket.socketpair()
    print("ready", flush=True)
    sys.stdin.readline()
    said: dict[str, object] = {"older": older.fileno(), "older_at": older.getsockname()[1]}

    # dup: a listener that is bound by one number and listens by another; the first is closed
    made = socket.socket()
    kept = [libc.dup(made.fileno()) for _ in range(DUPLICATES)]
    made.bind(("127.0.0.1", 0))
    said["dup"] = {"first": made.fileno(), "numbers": kept, "inode": os.fstat(kept[0]).st_ino}
    made.close()
    listener = socket.socket(fileno=kept[0])
    listener.listen(11)
    for fd in kept[1:]:
        os.close(fd)

    # dup2 onto an open number, fcntl
    moved = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    target = os.open("/dev/null", os.O_RDONLY)
    os.dup2(moved.fileno(), target)
    high = fcntl.fcntl(moved.fileno(), fcntl.F_DUPFD_CLOEXEC, 100)
    said["dup2"] = {"first": moved.fileno(), "numbers": [target, high], "inode": os.fstat(high).st_ino}
    moved.close()
    socket.socket(fileno=os.dup(target)).connect(("127.0.0.1", 9))  # closed at once: the story goes on without it
    os.close(target)

    # SCM_RIGHTS to ourselves; the number that was sent is closed while the message is on its way
    sent = socket.socket(socket.AF_INET6)
    inode, first = os.fstat(sent.fileno()).st_ino, sent.fileno()
    socket.send_fds(left, [b"x"], [first])
    sent.close()
    other = socket.socket(socket.AF_UNIX)  # has the number now
    _, (received,), _, _ = socket.recv_fds(right, 1, 1)
    socket.socket(fileno=os.dup(received)).bind(("::1", 0))
    said["sent"] = {"first": first, "numbers": [received], "inode": inode, "number_is": other.fileno()}

    # a story that ends with its last number
    gone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    again = gone.dup()
    said["gone"] = {"first": gone.fileno(), "numbers": [again.fileno()], "inode": os.fstat(gone.fileno()).st_ino}
    gone.close()
    again.bind(f"\0threadinfo-story-{os.getpid()}")
    again.close()

    # an older listener, by a duplicate; accepted sockets
    another = older.dup()
    client = socket.create_connection(older.getsockname())
    accepted, _ = another.accept()
    said["accepted"] = {"fd": accepted.fileno(), "on": another.fileno(), "inode": os.fstat(accepted.fileno()).st_ino}
    said["client"] = client.getsockname()[1]
    for socket_, count in ((listener, EMPTY_ACCEPTS), (older, EMPTY_ACCEPTS_OF_OTHER)):
        socket_.setblocking(False)
        for _ in range(count):
            with contextlib.suppress(BlockingIOError):
                socket_.accept()
    said["empty"] = EMPTY_ACCEPTS + EMPTY_ACCEPTS_OF_OTHER
    failed = libc.accept4(left.fileno(), None, None, 0)  # no listener: this one is a failure
    said["failed"] = -1 if failed >= 0 else ctypes.get_errno()

    # listeners of any interface, whose connections are gone before anybody looks; their callers ask for no address
    ends: dict[str, list[list[str]]] = {"any": [], "any6": []}
    for name, family, own, addresses in (
        ("any", socket.AF_INET, "0.0.0.0", ["127.0.0.1", "127.3.0.7"]),
        ("any6", socket.AF_INET6, "::", ["::1", "::ffff:127.0.0.5"]),
    ):
        of_any = socket.create_server((own, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
        for address in addresses:
            visitor = socket.socket(family)
            visitor.connect((address, of_any.getsockname()[1]))
            gone_at_once = libc.accept4(of_any.fileno(), None, None, 0)
            ends[name].append([in_words(visitor.getpeername()), in_words(visitor.getsockname())])
            os.close(gone_at_once)
            visitor.close()
    said["ends"] = ends

    # dup3 onto an open number
    named = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    onto = os.open("/dev/null", os.O_RDONLY)
    if libc.dup3(named.fileno(), onto, os.O_CLOEXEC) != onto:
        raise OSError(ctypes.get_errno(), "dup3")
    said["dup3"] = {"first": named.fileno(), "numbers": [onto], "inode": os.fstat(onto).st_ino}
    named.close()
    socket.socket(fileno=os.dup(onto)).bind(("::1", 0))
    os.close(onto)

    # protocols
    everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    arp = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    arp.bind(("lo", ETH_P_ARP))
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
    routing = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    routing.bind((0, 1))
    routing.connect((0, 0))
    said["protocols"] = {
        "everything": everything.fileno(),
        "arp": arp.fileno(),
        "raw": raw.fileno(),
        "routing": routing.fileno(),
        "index": socket.if_nametoindex("lo"),
    }
    print(json.dumps(said), flush=True)
    sys.stdin.read()


main()
