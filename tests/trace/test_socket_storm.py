"""More sockets than can be told of: counts are exact; failures, rare kinds and what is open have room of their own."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import pytest

from tests.conftest import WORKLOADS
from tests.trace.test_descriptors import Traced, trace
from threadinfo.model import DescriptorEvent
from threadinfo.render.text.sockets import tell_stories

pytestmark = pytest.mark.usefixtures("bpf")


@pytest.fixture(scope="module", params=[5003, 20_011], ids=["more than are told", "more than travel"])
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    output = tmp_path_factory.mktemp("storm") / "report.json"
    command = [sys.executable, str(WORKLOADS / "socket_storm.py"), str(request.param)]
    traced = trace(command, ["PID", "--trace", "600", "--format", "json"], output=output)
    assert traced.status == 0, traced.errors
    return traced


def sockets(traced: Traced) -> dict[str, Any]:
    return dict(traced.report()["trace"]["sockets"])


def test_counts_are_exact_whatever_the_stories_hold(traced: Traced) -> None:
    said, told = json.loads(traced.said), sockets(traced)
    counted = {(one["syscall"], one["error"]): one["count"] for one in told["calls"]}
    assert counted == {
        ("socket", None): said["socket"],
        ("connect", None): said["connect"],
        ("connect", "ECONNREFUSED"): said["refused"],
        ("accept4", None): said["accept"],
        ("shutdown", None): said["shutdown"],
        ("bind", None): said["bind"],
        ("listen", None): said["bind"],
    }
    assert told["made_count"] == said["socket"] + said["accept"]
    assert traced.report()["trace"]["descriptors"]["empty_by_syscall"] == {"accept4": said["empty"]}
    seen = sum(event["event"] != "close" for event in told["events"])
    assert told["omitted_count"] == sum(counted.values()) - seen > 0  # what a busy machine loses among them


def test_failures_and_what_is_open_are_told(traced: Traced) -> None:
    said, told = json.loads(traced.said), sockets(traced)
    events = [DescriptorEvent(**event) for event in told["events"]]
    refused = [event.remote for event in events if event.error == "ECONNREFUSED"]
    assert refused == [said["nobody"]] * said["refused"]
    assert len(events) <= 10_000
    numbers = Counter(story[-1].fd for story in tell_stories(events) if story[-1].event != "close")
    assert numbers.keys() >= {said["listener"], *said["kept"], *said["late"]}
    late = [event for event in events if event.event == "listen" and event.fd in said["late"]]
    assert [event.backlog for event in late] == [7] * len(said["late"])


def test_the_origin_of_an_open_socket_tells_what_was_done_with_it(traced: Traced) -> None:
    said = json.loads(traced.said)
    found = {one["fd"]: one for one in traced.report()["descriptors"]}
    for fd in said["late"]:
        told = [event["event"] for event in found[fd]["origin"]["events"]]
        assert told[-2:] == ["bind", "listen"]
    assert {found[fd]["socket"]["state"] for fd in said["kept"]} == {"ESTABLISHED"}
