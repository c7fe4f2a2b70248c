"""Sockets from outside: tables (any text), sock_diag, borrowed duplicates; each case of docs/how-it-works.md made."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MakeProc
from threadinfo import netlink_names
from threadinfo.model import Details
from threadinfo.proc import describe, socket_tables
from threadinfo.proc.explain import explain_socket
from threadinfo.proc.reader import MalformedLineError, ProcDirectory
from threadinfo.proc.sockets import FoundSocket, read_sockets

CLONE_NEWNET = 0x40000000
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def inet_line(address: str, port: int, *, state: int = 10, inode: int = 7, peer: str = "0.0.0.0", to: int = 0) -> str:
    """A line as the kernel writes it, from addresses as people write them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def words(text: str) -> str:
        raw = socket.inet_pton(family, text if family == socket.AF_INET or ":" in text else "::")
        return "".join(f"{int.from_bytes(raw[i : i + 4], sys.byteorder):08X}" for i in range(0, len(raw), 4))

    return (
        f"   0: {words(address)}:{port:04X} {words(peer)}:{to:04X} {state:02X} 00000000:00000003 00:00000000 "
        f"00000000     0        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )


@given(address=st.ip_addresses(), port=st.integers(1, 65535), inode=st.integers(1, 2**32))
def test_parse_inet_any_address_is_read_back(address: object, port: int, inode: int) -> None:
    text = str(address)
    table = "tcp6" if ":" in text else "tcp"
    entries = socket_tables.parse_inet(HEADER + inet_line(text, port, inode=inode), table=table, wanted={inode})
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    local = entries[inode].local or ""
    assert socket.inet_pton(family, local.rpartition(":")[0].strip("[]")) == socket.inet_pton(family, text)
    assert (entries[inode].port, entries[inode].state) == (port, "LISTEN")


def test_parse_inet_leaves_out_what_is_not_wanted() -> None:
    text = HEADER + inet_line("127.0.0.1", 5000, inode=3) + inet_line("127.0.0.1", 5001, inode=5)
    assert socket_tables.parse_inet(text, table="tcp", wanted={5}).keys() == {5}


@given(text=st.text(), table=st.sampled_from(sorted(socket_tables.TABLES)))
def test_parse_table_any_text_is_parsed_or_refused(text: str, table: str) -> None:
    try:
        entries = socket_tables.TABLES[table](f"header\n{text}", wanted={0, 1, 7})
    except MalformedLineError:
        return
    assert entries.keys() <= {0, 1, 7}


def test_parse_unix_a_path_that_pretends_to_be_an_entry_does_not_replace_one() -> None:
    line = "0000000000000000: 00000002 00000000 00010000 0001 01 {} {}\n"
    text = "header\n" + line.format(7, "/real") + line.format(8, "/evil\n" + line.format(7, "/fake").strip())
    entries = socket_tables.parse_unix(text, {7, 8})
    assert entries[7].local == "/real"
    assert entries[8].local == "/evil"


def test_parse_unix_a_path_with_a_newline_is_whole() -> None:
    text = "header\n0000000000000000: 00000002 00000000 00000000 0002 01    77 /a\n b\n"
    assert socket_tables.parse_unix(text, {77})[77].local == "/a\n b"


@given(st.integers(0, 2**32 - 1))
def test_group_names_has_one_name_a_bit(mask: int) -> None:
    assert len(netlink_names.group_names(0, mask)) == mask.bit_count()


Case = tuple[Callable[[], list[socket.socket]], str]


def _tcp_pair() -> tuple[socket.socket, socket.socket, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    return listener, client, listener.accept()[0]


def _never_bound() -> list[socket.socket]:
    return [socket.socket()]


def _bound() -> list[socket.socket]:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return [bound]


def _bind_failed() -> list[socket.socket]:
    failed, taken = socket.socket(), _bound()[0]
    with pytest.raises(OSError, match="in use"):
        failed.bind(taken.getsockname())
    return [failed, taken]


def _listener() -> list[socket.socket]:
    return [socket.create_server(("127.0.0.1", 0))]


def _dual_stack() -> list[socket.socket]:
    return [socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)]


def _v6_only() -> list[socket.socket]:
    return [socket.create_server(("::", 0), family=socket.AF_INET6)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listener_shut_down() -> list[socket.socket]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", _free_port()))
    listener.listen()
    listener.shutdown(socket.SHUT_RDWR)
    return [listener]


def _any_listener_shut_down() -> list[socket.socket]:
    (listener,) = _listener()  # without a port of its own choice the kernel gives the port up (SOCK_BINDPORT_LOCK)
    listener.shutdown(socket.SHUT_RDWR)
    return [listener]


def _connected() -> list[socket.socket]:
    listener, client, accepted = _tcp_pair()
    return [client, accepted, listener]


def _close_wait() -> list[socket.socket]:
    listener, client, accepted = _tcp_pair()
    client.close()
    accepted.recv(1)
    return [accepted, listener]


def _closed_both_ways() -> list[socket.socket]:
    listener, client, accepted = _tcp_pair()
    accepted.shutdown(socket.SHUT_RDWR)
    client.recv(1)
    client.shutdown(socket.SHUT_RDWR)
    return [accepted, client, listener]


def _refused() -> list[socket.socket]:
    refused, taken = socket.socket(), _bound()[0]
    with pytest.raises(ConnectionRefusedError):
        refused.connect(taken.getsockname())
    return [refused, taken]


def _udp() -> list[socket.socket]:
    return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]


def _udp_connected() -> list[socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect(("127.0.0.1", 9))
    return [udp]


def _netlink(groups: int | None) -> Callable[[], list[socket.socket]]:
    def make() -> list[socket.socket]:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        if groups is not None:
            netlink.bind((0, groups))
        return [netlink]

    return make


def _unix_pair() -> list[socket.socket]:
    return list(socket.socketpair())


def _abstract() -> list[socket.socket]:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"\0threadinfo-{os.getpid()}")
    unix.listen()
    return [unix]


CASES: dict[str, Case] = {
    "never bound": (_never_bound, r"socket \(TCP, not bound\)"),
    "bind failed": (_bind_failed, r"socket \(TCP, not bound\)"),
    "bound": (_bound, r"socket \(TCP port \d+, bound but not listening\)"),
    "listener": (_listener, r"socket \(TCP port \d+\)"),
    "dual stack": (_dual_stack, r"socket \(TCP6 port \d+, IPv4 too\)"),
    "IPv6 only": (_v6_only, r"socket \(TCP6 port \d+\)"),
    "listener shut down": (_listener_shut_down, r"socket \(TCP port \d+, bound but not listening\)"),
    "any listener shut down": (_any_listener_shut_down, r"socket \(TCP port \d+, closed, without a connection\)"),
    "connected": (_connected, r"socket \(TCP port \d+, ESTABLISHED with 127\.0\.0\.1:\d+\)"),
    "close wait": (_close_wait, r"socket \(TCP port \d+, CLOSE_WAIT with 127\.0\.0\.1:\d+\)"),
    "closed both ways": (_closed_both_ways, r"socket \(TCP port \d+, closed\)"),
    "refused": (_refused, r"socket \(TCP port \d+, closed, without a connection\)"),
    "UDP": (_udp, r"socket \(UDP, not bound\)"),
    "UDP connected": (_udp_connected, r"socket \(UDP port \d+, ESTABLISHED with 127\.0\.0\.1:9\)"),
    "netlink created": (_netlink(None), r"socket \(netlink ROUTE, not bound\)"),
    "libwebsockets' netlink": (
        _netlink(0x551),
        r"socket \(netlink ROUTE: LINK IPV4_IFADDR IPV4_ROUTE IPV6_IFADDR IPV6_ROUTE\)",
    ),
    "unix pair": (_unix_pair, r"Unix domain socket \(u_str\), connected to FD \d+"),
    "abstract": (_abstract, r"Unix domain socket: @threadinfo-\d+, listening"),
}


@pytest.fixture
def own_proc() -> Iterator[ProcDirectory]:
    with ProcDirectory("/proc") as proc, proc.directory(str(os.getpid())) as own:
        yield own


def find(own: ProcDirectory, sockets: list[socket.socket], *, may_borrow: bool = True) -> tuple[FoundSocket, str]:
    """What is found of the first of these sockets of ours, and its description."""
    inodes = {os.fstat(sock.fileno()).st_ino: [sock.fileno()] for sock in sockets}
    found, gaps = read_sockets(own, os.getpid(), inodes, {}, may_borrow=may_borrow)
    assert gaps == []
    inode = next(iter(inodes))
    return found[inode], describe.describe_socket(*found[inode], inode)


@pytest.mark.parametrize("case", CASES)
def test_read_sockets_case_is_named_for_what_it_is(case: str, own_proc: ProcDirectory) -> None:
    import re

    make, expected = CASES[case]
    sockets = make()
    try:
        (sock, _), words = find(own_proc, sockets)
    finally:
        for made in sockets:
            made.close()
    assert re.fullmatch(expected, words), words
    assert sock.evidence


def test_read_sockets_without_borrowing_says_the_protocol_alone(own_proc: ProcDirectory) -> None:
    (unbound,) = _never_bound()
    with unbound:
        (sock, _), words = find(own_proc, [unbound], may_borrow=False)
    assert words == "socket (TCP)"
    assert (sock.bound, sock.evidence) == (None, ("system.sockprotoname",))


def test_read_sockets_backlog_counts_connections_that_wait(own_proc: ProcDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=13) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        (_, details), _ = find(own_proc, [listener])
        for client in clients:
            client.close()
    assert (details["backlog_count"], details["backlog_limit_count"]) == (5, 13)


def test_read_sockets_denied_tables_are_a_gap(make_proc: MakeProc) -> None:
    with ProcDirectory(str(make_proc({"7/net/tcp": HEADER + "not a table\n"}))) as proc, proc.directory("7") as target:
        found, gaps = read_sockets(target, 7, {9: [3]}, {}, may_borrow=False)
    assert "net/tcp" in gaps[0].cause
    assert "line 2" in gaps[0].cause
    assert found[9].socket.evidence == ()


def test_read_sockets_of_a_role_by_port(own_proc: ProcDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        inode = os.fstat(listener.fileno()).st_ino
        found, _ = read_sockets(own_proc, os.getpid(), {inode: [listener.fileno()]}, {port: "chat"}, may_borrow=True)
    assert describe.describe_socket(*found[inode], inode) == f"socket (TCP port {port} - chat)"


def test_read_sockets_a_path_like_a_socket_is_told_as_a_name(
    own_proc: ProcDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("socket:[7]")
        listener.listen()
        client.connect("socket:[7]")
        accepted, _ = listener.accept()
        with accepted:
            (sock, details), words = find(own_proc, [client, accepted])
            explained = explain_socket(sock, details).words
    assert words == f"Unix domain socket (u_str), connected to FD {accepted_fd(details)}"
    assert explained is not None
    assert explained.startswith("Unix stream, unnamed: connected to socket:[7]; its other end is in this process too")


def accepted_fd(details: Details) -> object:
    """The only descriptor of the other end."""
    fds = details["peer_fds"]
    assert isinstance(fds, list)
    (fd,) = fds
    return fd


def test_read_sockets_of_another_namespace_are_looked_up_there(own_proc: ProcDirectory) -> None:
    if os.geteuid():
        pytest.skip("not root: no namespace can be entered")
    netlink: list[socket.socket] = []

    def make() -> None:  # in a thread of its own, whose namespace ends with it
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        netlink.append(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE))
        netlink[0].bind((0, 0x10))

    thread = Thread(target=make)
    thread.start()
    thread.join()
    with netlink[0]:
        (sock, details), words = find(own_proc, netlink)
    assert words == "socket (netlink ROUTE: IPV4_IFADDR, in another network namespace)"
    assert (sock.type, sock.bound, details["other_network_namespace"]) == ("SOCK_DGRAM", True, True)
    told_by = ("system.sockprotoname", "borrowed duplicate", "its network namespace's /proc/net/netlink", "sock_diag")
    assert sock.evidence == told_by


def test_read_sockets_a_backlog_too_long_for_one_answer_hides_no_socket(own_proc: ProcDirectory) -> None:
    count = 1009
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as last:
        listener.bind(f"\0threadinfo-backlog-{os.getpid()}")
        listener.listen(count + 1)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
        for client in [*clients, last]:
            client.setblocking(False)
            client.connect(listener.getsockname())
        (sock, _), _ = find(own_proc, [last])
        (_, details), _ = find(own_proc, [listener])
        for client in clients:
            client.close()
    assert (sock.standing, sock.remote) == ("waiting", f"@threadinfo-backlog-{os.getpid()}")
    assert details["backlog_count"] == count + 1
