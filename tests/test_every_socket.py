"""One socket per case, made by a library without symbols: what is said of each, to root and to its owner."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKLOADS, Run, Start

UNTOLD = r"\(which of them, only a trace tells\)"
ELSEWHERE = "made in another network namespace than the process is in now, or received from there"
PATH, ABSTRACT = r"/tmp/every-socket-\d+-\d+", r"@/tmp/every-socket-\d+-\d+"
HERE = r"its other end is in this process too, FD \d+"
PAIR = r"one of a pair, as socketpair\(2\) makes them"
CHOSEN = "@[0-9a-f]{5}"


def unix(name: str | None, state: str, story: str | None, kind: str = "u_str") -> str:
    """A Unix socket without a name, or with one, as it is described and explained."""
    kinds = {"u_str": "stream", "u_dgr": "datagram", "u_seq": "packet"}
    head = f"Unix domain socket: {name}" if name else rf"Unix domain socket \({kind}\)"
    what = "unnamed" if name is None else "abstract name" if name.startswith("@") else "path"
    return f"{head}{state}\\|" + (f"Unix {kinds[kind]}, {what}: {story}" if story else "None")


def elsewhere(told: str) -> str:
    """The same socket when it is of another network namespace."""
    head, _, story = told.partition("\\|")
    return f"{head[:-2]}, in another network namespace\\)\\|{f'{story}; ' * (story != 'None')}{ELSEWHERE}"


def unix_elsewhere(told: str) -> str:
    """The same of a Unix socket."""
    head, _, story = told.partition("\\|")
    return f"{head}, in another network namespace\\|{f'{story}; ' * (story != 'None')}{ELSEWHERE}"


# What the description, a vertical bar and the explanation must be. Where two stories look the same from outside, both
# must be told.
CASES = {
    "tcp": rf"socket \(TCP, not bound\)\|TCP, never bound or connected, or its bind failed {UNTOLD}",
    "tcp6": rf"socket \(TCP6, not bound\)\|TCP6, never bound or connected, or its bind failed {UNTOLD}",
    "tcp_bind_failed": rf"socket \(TCP, not bound\)\|TCP, never bound or connected, or its bind failed {UNTOLD}",
    "tcp_bound": rf"socket \(TCP port \d+, bound but not listening\)\|TCP, bound, neither .* nor .*{UNTOLD}",
    "tcp_listening": r"socket \(TCP port \d+\)\|None",
    "tcp_connected": r"socket \(TCP port \d+, ESTABLISHED with 127\.0\.0\.1:\d+\)\|None",
    "tcp_close_wait": r"socket \(TCP port \d+, CLOSE_WAIT with .*\|TCP, the other side has closed, this .* not",
    "tcp_closed_both": rf"socket \(TCP port \d+, closed\)\|TCP, closed: .* ended by both sides, or .* {UNTOLD}",
    "tcp_reset_unread": r"socket \(TCP port \d+, closed\)\|TCP, reset or timed out: .* not read the error yet",
    "tcp_reset_read": rf"socket \(TCP port \d+, closed\)\|TCP, closed: .* or broke off and the error was read {UNTOLD}",
    "tcp_refused": rf"socket \(TCP port \d+, closed, without a connection\)\|TCP, .* it was refused or .* {UNTOLD}",
    "tcp_refused_unread": r"socket \(TCP port \d+, closed, without a connection\)\|TCP, refused or timed out: .* yet",
    "tcp_listener_shut_down": rf"socket .* bound but not listening\)\|TCP, bound, .* listener was shut down {UNTOLD}",
    "tcp_any_listener_shut_down": rf"socket .* without a connection\)\|TCP, .* or its listener was shut down {UNTOLD}",
    "mptcp": rf"socket \(MPTCP, not bound\)\|MPTCP, never bound or connected, or its bind failed {UNTOLD}",
    "mptcp_listening": r"socket \(MPTCP port \d+\)\|None",
    "udp": r"socket \(UDP, not bound\)\|UDP, neither bound nor sent from, which would have bound it",
    "udp6": r"socket \(UDP6, not bound\)\|UDP6, neither bound nor sent from, which would have bound it",
    "udp_bound": r"socket \(UDP port \d+\)\|None",
    "udplite": r"socket \(UDPLITE, not bound\)\|UDPLITE, neither bound nor sent from, which would have bound it",
    "udplite_bound": r"socket \(UDPLITE port \d+\)\|None",
    "raw": r"socket \(RAW protocol ICMP\)\|raw IPv4: sees every ICMP packet that arrives at any address",
    "raw6": r"socket \(RAW6 protocol ICMPV6\)\|raw IPv6: sees every ICMPV6 packet that arrives at any address",
    "ping": r"socket \(ICMP, not bound\)\|ping \(ICMP\), neither bound nor sent from, which would have bound it",
    "raw_ipip": r"socket \(RAW protocol IPIP\)\|raw IPv4: sees every IPIP packet that arrives at any address",
    "raw_nameless": r"socket \(RAW protocol 211\)\|raw IPv4: sees every packet of protocol 211 that arrives at any .*",
    "raw_send_only": r"socket \(RAW protocol RAW\)\|raw IPv4, to send alone: .* whole packets, and it receives nothing",
    "raw_bound": r"socket \(RAW protocol ICMP at 127\.0\.0\.1\)\|raw IPv4: sees every ICMP .* arrives at 127\.0\.0\.1",
    "raw_connected": r"socket \(RAW protocol ICMP at 127\.0\.0\.1, connected to 127\.0\.0\.1\)\|"
    r"raw IPv4: sees every ICMP packet from 127\.0\.0\.1, which it is connected to, that arrives at 127\.0\.0\.1",
    "raw6_connected": r"socket \(RAW6 protocol ICMPV6 at ::1, connected to ::1\)\|"
    r"raw IPv6: sees every ICMPV6 packet from ::1, which it is connected to, that arrives at ::1",
    "ping6_connected": r"socket \(ICMPV6 id \d+, .* with ::1\)\|ping \(ICMPV6\), bound to .*, and connected to ::1",
    "ping_bound": r"socket \(ICMP id \d+\)\|ping \(ICMP\), bound to id \d+",
    "packet_idle": r"socket \(packet\)\|packet socket without a protocol: it receives nothing",
    "packet_all": r"socket \(packet ALL\)\|packet socket: sees every frame on every interface",
    "packet_interface": r"socket \(packet ALL on lo\)\|packet socket: sees every frame on lo",
    "packet_arp": r"socket \(packet ARP\)\|packet socket: sees every ARP frame on every interface",
    "netlink_datagram": r"socket \(netlink ROUTE\)\|netlink ROUTE: asks and is answered, subscribed to nothing",
    "netlink_netfilter": r"socket \(netlink NETFILTER: CONNTRACK_NEW CONNTRACK_DESTROY NFTABLES\)\|netlink NETFILTER.*",
    "netlink_group_36": r"socket \(netlink ROUTE: STATS\)\|netlink ROUTE: the kernel tells it of changes to STATS",
    "netlink_routing": r"socket \(netlink ROUTE: LINK IPV4_IFADDR IPV4_ROUTE IPV6_IFADDR IPV6_ROUTE\)\|"
    r"netlink ROUTE: the kernel tells it of changes to LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE",
    "netlink_port": r"socket \(netlink ROUTE\)\|netlink ROUTE: asks and is answered, subscribed to nothing",
    "netlink_created": r"socket \(netlink ROUTE, not bound\)\|netlink ROUTE, only created: neither bound nor .*",
    "netlink_uevent": r"socket \(netlink KOBJECT_UEVENT: KERNEL\)\|netlink KOBJECT_UEVENT: .* changes to KERNEL",
    "unix_unnamed": r"Unix domain socket \(u_str\), not connected\|Unix stream, unnamed: never connected, and never .*",
    "unix_datagram": r"Unix domain socket \(u_dgr\), not connected\|Unix datagram, unnamed: not connected: .*",
    "unix_pair": unix(None, r", connected to FD \d+", f"{PAIR}; {HERE}"),
    "unix_widow": unix(None, ", other end closed", f"{PAIR}; its other end is closed"),
    "unix_listening_path": unix(PATH, ", listening", None),
    "unix_bound": unix(ABSTRACT, "", "bound, neither listening nor connected"),
    "unix_listener_shut_down": unix(
        ABSTRACT, ", shut down", "listens no more: it was shut down, and refuses connections"
    ),
    "unix_client_path": unix(None, r", connected to FD \d+", f"connected to {PATH}; {HERE}"),
    "unix_client_abstract": unix(None, r", connected to FD \d+", f"connected to {ABSTRACT}; {HERE}"),
    "unix_client_chosen": unix(None, r", connected to FD \d+", f"connected to {CHOSEN}; {HERE}"),
    "unix_client_named": unix(ABSTRACT, r", connected to FD \d+", f"connected to {PATH}; {HERE}"),
    "unix_client_packet": unix(None, r", connected to FD \d+", f"connected to {PATH}; {HERE}", "u_seq"),
    "unix_accepted_path": unix(PATH, r", connected to FD \d+", f"accepted, from a client without a name; {HERE}"),
    "unix_accepted_abstract": unix(
        ABSTRACT, r", connected to FD \d+", f"accepted, from a client without a name; {HERE}"
    ),
    "unix_accepted_chosen": unix(CHOSEN, r", connected to FD \d+", f"accepted, from a client without a name; {HERE}"),
    "unix_accepted_named": unix(PATH, r", connected to FD \d+", f"accepted, from a client called {ABSTRACT}; {HERE}"),
    "unix_accepted_packet": unix(
        PATH, r", connected to FD \d+", f"accepted, from a client without a name; {HERE}", "u_seq"
    ),
    "unix_waiting_path": unix(
        None, f", connected to {PATH}, not accepted yet", f"connected to {PATH}, where it waits to be accepted"
    ),
    "unix_waiting_abstract": unix(
        None, f", connected to {ABSTRACT}, not accepted yet", f"connected to {ABSTRACT}, where it waits to be accepted"
    ),
    "unix_accepted_widow": unix(
        PATH, ", other end closed", "accepted, from a client without a name; its other end is closed"
    ),
    "unix_client_widow": unix(
        None, f", connected to {PATH}, other end closed", f"connected to {PATH}; its other end is closed"
    ),
    "unix_waiting_widow": unix(
        None, f", connected to {PATH}, other end closed", f"connected to {PATH}; its other end is closed"
    ),
    "unix_sends_no_more": unix(
        None,
        r", connected to FD \d+, sends no more",
        f"{PAIR}; {HERE}; it can only receive: it was shut down for sending, or the other end for receiving",
    ),
    "unix_receives_no_more": unix(
        None,
        r", connected to FD \d+, receives no more",
        f"{PAIR}; {HERE}; it can only send: it was shut down for receiving, or the other end for sending",
    ),
    "unix_shut_both": unix(
        None,
        r", connected to FD \d+, shut down",
        f"{PAIR}; {HERE}; it was shut down both ways, here or by the other end",
    ),
    "unix_datagram_pair": unix(None, r", connected to FD \d+", f"{PAIR}; {HERE}", "u_dgr"),
    "unix_packet_pair": unix(None, r", connected to FD \d+", f"{PAIR}; {HERE}", "u_seq"),
    "unix_datagram_sender": unix(None, r", connected to FD \d+", f"connected to {ABSTRACT}; {HERE}", "u_dgr"),
    "unix_datagram_receiver": unix(ABSTRACT, "", "not connected: receives from anybody", "u_dgr"),
    "unix_datagram_widow": unix(
        None,
        f", connected to {ABSTRACT}, other end closed",
        f"connected to {ABSTRACT}; its other end is closed",
        "u_dgr",
    ),
    "unix_pair_elsewhere": unix(None, r", connected to socket:\[\d+\]", f"{PAIR}; its other end is in another process"),
    "unix_client_elsewhere": unix(
        PATH,
        r", connected to socket:\[\d+\]",
        "accepted, from a client without a name; its other end is in another process",
    ),
    "unix_server_elsewhere": unix(
        None, f", connected to {PATH}", f"connected to {PATH}; its other end is in another process"
    ),
    "unix_client_across": unix(None, r", connected to FD \d+", f"connected to {PATH}; {HERE}"),
    "unix_abstract": r"Unix domain socket: @every-socket-\d+, listening\|None",
    "unix_path": r"Unix domain socket: /tmp/every-socket-\d+\|Unix datagram, path: not connected: receives from .*",
    "vsock": r"socket \(vsock, not bound\)\|virtual machine socket, never bound, or not connected",
    "xdp": r"socket \(XDP\)\|XDP socket: takes packets straight from a network interface's queue; .*",
    "netns_listener": rf"socket \(TCP port \d+, in another network namespace\)\|{ELSEWHERE}.*",
    "netns_netlink": rf"socket \(netlink ROUTE: LINK .* IPV6_ROUTE, in another network namespace\)\|.*; {ELSEWHERE}.*",
    "netns_tcp": rf"socket \(TCP, not bound, in another network namespace\)\|TCP, never bound .*; {ELSEWHERE}.*",
    "netns_ping": rf"socket \(ICMP, not bound, in another .*\)\|ping \(ICMP\), neither bound nor .*; {ELSEWHERE}.*",
}
CASES["unix_accepted_across"] = unix_elsewhere(CASES["unix_accepted_path"])
for _case in (
    "tcp_bound tcp_connected udp udp_bound raw raw_connected packet_all packet_interface netlink_datagram "
    "netlink_created ping6_connected"
).split():
    CASES[f"netns_{_case}"] = elsewhere(CASES[_case])
for _case in (
    "unnamed pair path listening_path accepted_path client_abstract waiting_path sends_no_more widow datagram_sender "
    "datagram_receiver"
).split():
    CASES[f"netns_unix_{_case}"] = unix_elsewhere(CASES[f"unix_{_case}"])

# Its owner may ask the socket itself, and may not enter its namespace: which end is the other one, and what only that
# namespace's tables tell, stays open. Nothing may be told that is wrong.
CASES_OF_OWNER = CASES | {
    "netns_raw_connected": r"socket \(RAW protocol ICMP at 127\.0\.0\.1, in another network namespace\)\|"
    r"raw IPv4: sees every ICMP packet that arrives at 127\.0\.0\.1, or of them those from a peer .*; " + ELSEWHERE,
    "netns_ping6_connected": r"socket \(ICMPV6 id \d+, in another network namespace\)\|ping .* id \d+; " + ELSEWHERE,
    "unix_accepted_across": unix_elsewhere(unix(PATH, ", connected", "accepted, from a client without a name")),
    "netns_unix_pair": unix_elsewhere(unix(None, ", connected", PAIR)),
    "netns_unix_accepted_path": unix_elsewhere(unix(PATH, ", connected", "accepted, from a client without a name")),
    "netns_unix_client_abstract": unix_elsewhere(unix(None, f", connected to {ABSTRACT}", f"connected to {ABSTRACT}")),
    "netns_unix_waiting_path": unix_elsewhere(unix(None, f", connected to {PATH}", f"connected to {PATH}")),
    "netns_unix_sends_no_more": unix_elsewhere(unix(None, ", connected", PAIR)),
    "netns_unix_widow": unix_elsewhere(
        unix(
            None, ", connected, shut down or closed", f"{PAIR}; its other end is closed, or it was shut down both ways"
        )
    ),
    "netns_unix_datagram_sender": unix_elsewhere(
        unix(None, f", connected to {ABSTRACT}", f"connected to {ABSTRACT}", "u_dgr")
    ),
}

# Without asking the socket itself: what the tables, sock_diag and the protocol's name leave open is said to be open.
UNASKED = r"; the socket itself would tell, but was not asked: root may, unless --no-borrow"
UNUSED = rf"in no table: neither bound nor used, or of another network namespace{UNASKED}"
CLOSED = rf"in no table: never bound, bound and idle, closed, or of another network namespace{UNASKED}"
CASES_WITHOUT_BORROWING = CASES | {
    **{
        name: rf"socket \((M?P?TCP6?)\)\|\1, {CLOSED}"
        for name in CASES
        if re.fullmatch(
            "(netns_)?tcp6?|tcp_bind_failed|mptcp|tcp_(closed|reset|refused|any).*|netns_(tcp|listen).*", name
        )
    },
    **dict.fromkeys(("udp", "netns_udp", "netns_udp_bound"), rf"socket \(UDP\)\|UDP, {UNUSED}"),
    "udp6": rf"socket \(UDP6\)\|UDP6, {UNUSED}",
    "udplite": rf"socket \(UDPLITE\)\|UDPLITE, {UNUSED}",
    "netns_ping6_connected": rf"socket \(ICMPV6\)\|ping \(ICMPV6\), {UNUSED}",
    **{name: rf"socket \(RAW, in .*\)\|raw IPv4, of .*{UNASKED}; {ELSEWHERE}" for name in CASES if "netns_raw" in name},
    **{name: rf"socket \(packet, in .*\)\|.*{UNASKED}; {ELSEWHERE}" for name in CASES if "netns_packet" in name},
    **{
        name: r"Unix domain socket( \(u_str\))?, in another network namespace\|"
        rf"Unix (stream|socket): name and other end are not known{UNASKED}; {ELSEWHERE}"
        for name in CASES
        if name.startswith("netns_unix") or name == "unix_accepted_across"
    },
    **{  # what it was connected to, its own end alone knows
        name: rf"Unix domain socket( \(u_(str|dgr)\)|: {PATH}), other end closed\|Unix .*: .*; its other end is closed"
        for name in CASES
        if re.fullmatch("unix.*widow", name)
    },
    "ping": rf"socket \(ICMP\)\|ping \(ICMP\), {UNUSED}",
    "netns_ping": rf"socket \(ICMP\)\|ping \(ICMP\), {UNUSED}",
    **dict.fromkeys(
        ("netlink_created", "netns_netlink", "netns_netlink_created", "netns_netlink_datagram"),
        rf"socket \(netlink\)\|netlink, in no table: not used yet, or of another network namespace{UNASKED}",
    ),
    "vsock": r"socket \(vsock\)\|virtual machine socket, bound or not: the socket itself would tell, .*",
}
CASES_OF = {"root": CASES, "owner": CASES_OF_OWNER}


def build(directory: Path, name: str) -> Path:
    """The library of sockets, without frame pointers and symbols, under a name of choice."""
    directory.chmod(0o755)
    library = directory / name
    options = ["-O2", "-fomit-frame-pointer", "-shared", "-s", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *options, "-o", library, WORKLOADS / "every_socket.c"], check=True)
    return library


def start_sockets(start: Start, library: Path, *, owner: str) -> tuple[int, dict[str, int], dict[str, str]]:
    """PID, descriptor by case, and the cases that this kernel refuses."""
    process = start(sys.executable, WORKLOADS / "every_socket.py", library, *(["nobody"] if owner == "nobody" else []))
    truth = json.loads(process.first_line)  # type: ignore[attr-defined]
    return process.pid, truth["opened"], truth["unavailable"]


def sockets(result: subprocess.CompletedProcess[str]) -> dict[int, Any]:
    """The descriptors of a JSON report, by number."""
    assert result.returncode == 0, result.stderr
    return {descriptor["fd"]: descriptor for descriptor in json.loads(result.stdout)["processes"][0]["descriptors"]}


def how_exactly(told: str) -> str:
    """For the table: whether one story is told, one of several, or that it was not asked."""
    if "was not asked" in told:
        return "left open"
    return "one of several" if "only a trace tells" in told else "exactly"


@pytest.mark.parametrize("borrowing", [True, False], ids=["asked", "unasked"])
@pytest.mark.parametrize("who", ["root", "owner"])
def test_every_socket_case_is_told_for_what_it_is(
    who: str, borrowing: bool, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    if os.geteuid():
        pytest.skip("not root: most of these sockets can be made by root alone")
    library = build(tmp_path, "libevery.so")
    pid, opened, unavailable = start_sockets(start, library, owner="nobody" if who == "owner" else "root")
    arguments = [] if borrowing else ["--no-borrow"]
    found = sockets(threadinfo(pid, "--format", "json", *arguments, privileged=who == "root"))
    wrong = []
    for case, fd in opened.items():
        told = f"{found[fd]['description']}|{found[fd]['socket']['explanation']}"
        expected = (CASES_OF[who] if borrowing else CASES_WITHOUT_BORROWING)[case]
        right = re.fullmatch(expected, told) is not None
        print(f"{case:28}{who:7}{'right' if right else 'WRONG':7}{how_exactly(told):16}{told}")
        if not right:
            wrong.append((case, told))
    print(f"{len(opened) - len(wrong)} of {len(opened)} right; refused by this kernel: {unavailable}")
    assert wrong == []
    assert opened.keys() | unavailable.keys() == CASES.keys()


def test_every_socket_of_a_process_whose_namespace_may_not_be_entered_is_told_truly(
    start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    if os.geteuid():
        pytest.skip("not root: most of these sockets can be made by root alone")
    inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    process = start(*inside, sys.executable, WORKLOADS / "every_socket.py", build(tmp_path, "libevery.so"), "nobody")
    opened = json.loads(process.first_line)["opened"]  # type: ignore[attr-defined]
    found = sockets(threadinfo(process.pid, "--format", "json", privileged=False))
    wrong = []
    for case in (case for case in opened if f"netns_{case}" in CASES_OF_OWNER and case.startswith("unix")):
        # What may be told of it is what may be told of one of another namespace, without the words for that.
        expected = CASES_OF_OWNER[f"netns_{case}"].replace(", in another network namespace", "")
        expected = expected.replace(f"; {ELSEWHERE}", "").replace(ELSEWHERE, "None")
        told = f"{found[opened[case]]['description']}|{found[opened[case]]['socket']['explanation']}"
        if not re.fullmatch(expected, told):
            wrong.append((case, told, expected))
    assert wrong == []
    unasked = sockets(threadinfo(process.pid, "--format", "json", "--no-borrow", privileged=False))
    for case, words in {
        "unix_client_path": "Unix stream, unnamed: connected, to what and whether that is still open is not known.*",
        "unix_widow": "Unix stream, unnamed: connected, to what and whether that is still open is not known.*",
        "unix_datagram_receiver": "Unix datagram, abstract name: connected to something, or something to it: .*",
        "unix_datagram_pair": "Unix datagram, unnamed: connected, to what .* not known.*",
    }.items():
        assert re.fullmatch(words, unasked[opened[case]]["socket"]["explanation"]), case


@pytest.mark.parametrize("who", ["root", "owner"])
def test_inference_names_the_library_with_its_evidence(who: str, start: Start, threadinfo: Run, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("not root: most of these sockets can be made by root alone")
    library = build(tmp_path, "libwebsockets.so.19")
    pid, opened, _ = start_sockets(start, library, owner="nobody" if who == "owner" else "root")
    found = sockets(threadinfo(pid, "--format", "json", privileged=who == "root"))
    inference = found[opened["netlink_routing"]]["socket"]["inference"]
    assert (inference["library"], inference["confidence"]) == ("libwebsockets", "likely")
    assert inference["evidence"] == [
        "netlink ROUTE",
        "groups 0x551",
        "no close-on-exec",
        "libwebsockets.so.19 is mapped",
        "thread router serves it",
    ]
    assert found[opened["netlink_port"]]["socket"]["inference"]["confidence"] == "possible"
    text = threadinfo(pid, "-v", privileged=who == "root").stdout
    assert "inferred: likely libwebsockets' routing socket, one per context (lws_create_context), because" in text
    assert "inferred" not in threadinfo(pid, privileged=who == "root").stdout


@pytest.mark.parametrize("name", ["libevery.so", "libwebsockets.so.17", "my-libwebsockets.so.19"])
def test_inference_without_the_library_or_of_an_older_one_is_none(
    name: str, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    if os.geteuid():
        pytest.skip("not root: most of these sockets can be made by root alone")
    pid, opened, _ = start_sockets(start, build(tmp_path, name), owner="root")
    found = sockets(threadinfo(pid, "--format", "json"))
    assert found[opened["netlink_routing"]]["socket"]["inference"] is None
