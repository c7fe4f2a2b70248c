"""The riddle that the project began with, by the real libraries: who made each socket, the short-lived ones too."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.conftest import OWN_NETWORK, WORKLOADS
from tests.trace.test_descriptors import Traced, trace

pytestmark = pytest.mark.usefixtures("bpf")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    directory = tmp_path_factory.mktemp("hydrogen")
    program = directory / "hydrogen"
    libraries = ["-lmicrohttpd", "-lwebsockets", "-lpthread"]
    subprocess.run(["cc", "-g", "-O1", "-o", program, WORKLOADS / "hydrogen_order.c", *libraries], check=True)
    arguments = ["PID", "--trace", "60", "--format", "json"]
    return trace([*OWN_NETWORK, str(program)], arguments, output=directory / "report.json")


def births(server: Traced) -> list[Any]:
    return [event for event in server.report()["trace"]["sockets"]["events"] if event["event"] == "socket"]


def test_every_socket_has_its_whole_stack_down_to_the_threads_start(server: Traced) -> None:
    events = [event for event in server.report()["trace"]["sockets"]["events"] if event["event"] != "close"]
    roots = {event["stack"][-1].split("+")[0].strip("_") for event in events}
    assert roots <= {"start", "clone3", "clone"}, roots
    makers = {event["maker"] for event in births(server)}
    assert {maker.partition(", called from ")[2] for maker in makers} == {
        "start_web_server",
        "start_websocket_server",
        "main",
    }
    for event in births(server):
        print(event["fd"], event["family"], event["socket_type"], event["thread_name"], event["maker"])
    assert sum(event["family"] == "AF_NETLINK" for event in births(server)) >= 1  # getifaddrs, gone at once


def test_listeners_are_told_with_their_makers_and_their_ports(server: Traced) -> None:
    sockets = {one["socket"]["port"]: one for one in server.report()["descriptors"] if one["socket"]}
    web, websocket, mdns = (sockets[port] for port in (5000, 5002, 5353))
    assert [web["socket"]["role"], websocket["socket"]["role"]] == ["web server", "websocket server"]
    assert web["origin"]["library"].startswith("libmicrohttpd.so")
    assert "MHD_start_daemon, called from start_web_server, thread hydrogen" in web["origin"]["maker"]
    assert websocket["origin"]["library"].startswith("libwebsockets.so")
    assert "lws_create_context, called from start_websocket_server, thread websocket" in websocket["origin"]["maker"]
    assert mdns["origin"]["maker"].startswith("start_mdns_server, called from main, thread hydrogen")
    assert [event["local"] for event in mdns["origin"]["events"]] == ["0.0.0.0:5353"]
    assert [event["event"] for event in web["origin"]["events"]] == ["bind", "listen"]


def test_confidence_in_it(server: Traced) -> None:
    trace_of = server.report()["trace"]
    assert trace_of["confidence"]["lost_count"] == 0
    assert trace_of["confidence"]["ledger_matches_proc"]
    assert trace_of["descriptors"]["stacks"]["unattributed_count"] == 0
