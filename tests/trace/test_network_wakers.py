"""What a thread sends over loopback wakes the receiver by the network, which runs in the context of the sender."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import WORKLOADS
from tests.trace.test_descriptors import trace

pytestmark = pytest.mark.usefixtures("bpf")
ROUNDS = 997


def test_the_sender_over_loopback_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(WORKLOADS / "pingpong.py"), str(ROUNDS)]
    traced = trace(command, ["PID", "--trace", "600", "--format", "json"], output=tmp_path / "report.json")
    assert traced.status == 0, traced.errors
    said = json.loads(traced.said)
    (thread,) = [one for one in traced.report()["threads"] if one["tid"] == said["me"]]
    by = {one["name"]: one for one in thread["scheduling"]["woken_by"]}
    network = by["the network, by pinger"]
    assert (network["pid"], network["tid"]) == (said["sender"], said["sender"])
    waits = [
        one for one in thread["waits"] if one["syscall"] in {"recvfrom", "read"} and one["object"]["fd"] is not None
    ]
    assert network["count"] >= 0.5 * max(one["count"] for one in waits)
    assert max(waits, key=lambda one: one["count"])["released_by"][0]["name"] == "the network, by pinger"
    assert by.get("interrupt", {"count": 0})["count"] < 0.5 * network["count"]
