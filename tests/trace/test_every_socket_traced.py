"""One socket per case, traced from before its birth: who made it and what became of it, with no question left open."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.conftest import WORKLOADS
from tests.test_every_socket import build
from tests.trace.test_descriptors import Traced, trace

pytestmark = pytest.mark.usefixtures("bpf")

THREAD = r" \(thread every-socket \d+\)"
BOUND = rf"bound to 127\.0\.0\.1:0{THREAD}"
SHUT = rf"shut down for receiving and sending{THREAD}"
LISTENING = rf"listening with a backlog of \d+{THREAD}"

SETTLED = {
    "tcp": "TCP, never bound, connected or listened on",
    "tcp6": "TCP6, never bound, connected or listened on",
    "tcp_bind_failed": rf"TCP, bind to 127\.0\.0\.1:\d+ failed with EADDRINUSE{THREAD}",
    "tcp_bound": f"TCP, {BOUND}",
    "tcp_closed_both": rf"TCP, accepted, {SHUT}; its connection was ended by both sides",
    "tcp_reset_read": "TCP, accepted, and nothing else was done with it; its connection broke off",
    "tcp_refused": rf"TCP, connect to 127\.0\.0\.1:\d+ failed with ECONNREFUSED{THREAD}",
    "tcp_listener_shut_down": rf"TCP, bound to 127\.0\.0\.1:\d+{THREAD}, {LISTENING}, {SHUT}",
    "tcp_any_listener_shut_down": rf"TCP, {BOUND}, {LISTENING}, {SHUT}",
    "mptcp": "MPTCP, never bound, connected or listened on",
    "netns_tcp": "TCP, never bound, connected or listened on.*",
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    directory = tmp_path_factory.mktemp("every_socket")
    library = build(directory, "libevery.so")
    command = [sys.executable, str(WORKLOADS / "every_socket.py"), str(library), "later"]
    arguments = ["PID", "--trace", "60", "--format", "json"]
    return trace(command, arguments, output=directory / "report.json")


def opened(traced: Traced) -> dict[str, Any]:
    """The descriptors by case."""
    of_number = {descriptor["fd"]: descriptor for descriptor in traced.report()["descriptors"]}
    return {case: of_number[fd] for case, fd in json.loads(traced.said)["opened"].items()}


def test_what_proc_leaves_open_is_settled(traced: Traced) -> None:
    told = {case: descriptor["socket"]["explanation"] for case, descriptor in opened(traced).items()}
    for case, words in told.items():
        print(f"{case:28}{words}")
    wrong = {case: told[case] for case, words in SETTLED.items() if not re.fullmatch(words, told[case] or "")}
    assert wrong == {}
    assert not [case for case, words in told.items() if "only a trace tells" in (words or "")]


def test_every_socket_was_made_by_the_library(traced: Traced) -> None:
    by_library = {case: (one["origin"] or {}).get("library") for case, one in opened(traced).items()}
    assert set(by_library.values()) == {"libevery.so"}, by_library
    makers = {one["origin"]["maker"] for one in opened(traced).values()}
    assert all(re.match(r"libevery\.so\+0x[0-9a-f]+, called from libffi\.", maker) for maker in makers), makers
    assert not [case for case, one in opened(traced).items() if one["socket"]["inference"]]


def test_every_stack_goes_down_to_the_programs_start(traced: Traced) -> None:
    stacks = {case: one["origin"]["stack"] for case, one in opened(traced).items()}
    assert {stack[-1].split("+")[0] for stack in stacks.values()} == {"_start"}
    events = traced.report()["trace"]["sockets"]["events"]
    born = [event for event in events if event["event"] != "close"]
    print(f"{sum(event['stack'][-1].startswith('_start+') for event in born)} of {len(born)} stacks are whole")
    assert all(event["stack"][-1].startswith("_start+") for event in born)


def test_groups_of_the_routing_socket_are_named(traced: Traced) -> None:
    (routing,) = [one for case, one in opened(traced).items() if case == "netlink_routing"]
    bind = routing["origin"]["events"][0]
    groups = "groups 0x551 (LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE)"
    assert bind["local"] == f"a port id of the kernel's choice, {groups}"
