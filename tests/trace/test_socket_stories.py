"""One socket has one story, whatever numbers it has had; nobody to accept is no failure; protocols by their names."""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

import pytest

from tests.conftest import WORKLOADS
from tests.trace.test_descriptors import Traced, trace
from threadinfo.model import DescriptorEvent
from threadinfo.render.text.sockets import story_kind, story_numbers, tell_stories

pytestmark = pytest.mark.usefixtures("bpf")
COMMAND = [sys.executable, str(WORKLOADS / "socket_stories.py")]
DUPLICATES = 7


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    output = tmp_path_factory.mktemp("stories") / "report.json"
    traced = trace(COMMAND, ["PID", "--trace", "60", "--format", "json"], output=output)
    assert traced.status == 0, traced.errors
    return traced


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    output = tmp_path_factory.mktemp("streamed") / "events"
    return trace(COMMAND, ["trace", "PID", "--only", "descriptors,sockets", "--format", "json"], output=output)


def stories(traced: Traced) -> list[list[DescriptorEvent]]:
    events = traced.report()["trace"]["sockets"]["events"]
    return [list(story) for story in tell_stories(DescriptorEvent(**event) for event in events)]


def story_of(traced: Traced, inode: int) -> list[DescriptorEvent]:
    (story,) = [story for story in stories(traced) if any(event.inode == inode for event in story)]
    return story


def descriptor(traced: Traced, fd: int) -> dict[str, Any]:
    (found,) = [one for one in traced.report()["descriptors"] if one["fd"] == fd]
    return dict(found)


@pytest.mark.parametrize(
    ("name", "happened"),
    [
        ("dup", ["socket", *["duplicate"] * DUPLICATES, "bind", "close", "listen", *["close"] * (DUPLICATES - 1)]),
        ("dup2", ["socket", "duplicate", "duplicate", "close", "duplicate", "connect", "close", "close"]),
        ("dup3", ["socket", "duplicate", "close", "duplicate", "bind", "close", "close"]),
        ("sent", ["socket", "close", "receive", "duplicate", "bind", "close"]),
        ("gone", ["socket", "duplicate", "close", "bind", "close"]),
    ],
)
def test_one_socket_has_one_story(traced: Traced, name: str, happened: list[str]) -> None:
    facts = json.loads(traced.said)[name]
    story = story_of(traced, facts["inode"])
    assert [event.event for event in story] == happened
    assert story[0].fd == facts["first"]
    assert set(facts["numbers"]) <= {int(number) for number in story_numbers(story).split(", ")}


def test_a_number_that_another_socket_has_by_now_is_of_that_one(traced: Traced) -> None:
    facts = json.loads(traced.said)["sent"]
    assert facts["number_is"] == facts["first"]
    assert descriptor(traced, facts["first"])["socket"]["family"] == "AF_UNIX"
    assert descriptor(traced, facts["first"])["origin"]["events"] == []


def test_a_duplicate_tells_how_its_socket_was_made_and_used(traced: Traced) -> None:
    facts = json.loads(traced.said)
    listener = descriptor(traced, facts["dup"]["numbers"][0])
    assert listener["origin"]["syscall"] == "dup"
    told = [event["event"] for event in listener["origin"]["events"]]
    assert told == ["socket", *["duplicate"] * DUPLICATES, "bind", "listen"]
    assert listener["origin"]["events"][-1]["backlog"] == 11
    assert listener["origin"]["events"][0]["stack"]
    sent = descriptor(traced, facts["sent"]["numbers"][0])["origin"]["events"]
    assert [event["event"] for event in sent] == ["socket", "receive", "duplicate", "bind"]
    assert descriptor(traced, facts["dup2"]["numbers"][-1])["origin"]["events"][-1]["remote"] == "127.0.0.1:9"


def test_an_accepted_socket_names_its_listener_family_and_both_addresses(traced: Traced) -> None:
    facts = json.loads(traced.said)
    story = story_of(traced, facts["accepted"]["inode"])
    kind = f"AF_INET SOCK_STREAM TCP on FD {facts['accepted']['on']} from 127.0.0.1:{facts['client']}"
    assert story_kind(story) == f"{kind} to 127.0.0.1:{facts['older_at']}"


@pytest.mark.parametrize("name", ["any", "any6"])
def test_what_a_listener_of_any_interface_accepted_has_both_addresses_though_it_is_gone(
    name: str, traced: Traced, streamed: Traced
) -> None:
    for one in traced, streamed:
        ends = json.loads(one.said)["ends"][name]
        events = one.report()["trace"]["sockets"]["events"] if one is traced else one.events()
        told = [[event.get("local"), event.get("remote")] for event in events if event.get("event") == "accept"]
        assert [both for both in told if both in ends] == ends, told


def test_a_socket_that_is_passed_to_another_traced_process_is_known_to_both(tmp_path: Any) -> None:
    command = [sys.executable, str(WORKLOADS / "passed_socket.py")]
    traced = trace(command, ["PID", "--follow", "--trace", "60", "--format", "json"], output=tmp_path / "report.json")
    assert traced.status == 0, traced.errors
    facts = json.loads(traced.said)
    of_pid = {one["pid"]: one for one in json.loads(traced.output)["processes"]}
    for pid, fd, happened in (
        (facts["giver"], facts["sent"], ["socket"]),
        (facts["taker"], facts["received"], ["receive", "bind", "listen"]),
    ):
        events = of_pid[pid]["trace"]["sockets"]["events"]
        mine = [(event["fd"], event["event"]) for event in events if event.get("inode") == facts["inode"]]
        assert mine == [(fd, word) for word in happened]
    (kept,) = [one for one in of_pid[facts["taker"]]["descriptors"] if one["fd"] == facts["received"]]
    assert kept["origin"]["syscall"] == "recvmsg"
    assert [one["event"] for one in kept["origin"]["events"]] == ["receive", "bind", "listen"]
    assert (kept["socket"]["state"], kept["socket"]["local"]) == ("LISTEN", facts["local"])
    assert kept["inode"] == facts["inode"]


def test_a_duplicate_of_an_older_socket_is_told_with_it(traced: Traced) -> None:
    facts = json.loads(traced.said)
    wanted = (facts["accepted"]["on"], facts["older"])
    (story,) = [one for one in stories(traced) if (one[0].fd, one[0].source_fd) == wanted]
    assert story_numbers(story) == f"{facts['older']}, {facts['accepted']['on']}"
    assert story_kind(story) == "AF_INET SOCK_STREAM TCP"


def test_nobody_to_accept_is_counted_apart_and_in_no_story(traced: Traced) -> None:
    facts = json.loads(traced.said)
    found = traced.report()["trace"]["descriptors"]
    assert found["empty_by_syscall"] == {"accept4": facts["empty"]}
    assert [(one["syscall"], one["error"], one["count"]) for one in found["failures"]] == [
        ("accept4", errno.errorcode[facts["failed"]], 1)
    ]
    assert found["failed_count"] == 1
    assert "EAGAIN" not in {event.error for story in stories(traced) for event in story}
    assert traced.report()["trace"]["confidence"]["ledger_matches_proc"] is True


def test_the_stream_tells_it_as_empty(streamed: Traced, tmp_path: Any) -> None:
    *events, _ = streamed.events()
    empty = [event for event in events if event.get("error") == "EAGAIN"]
    assert len(empty) == json.loads(streamed.said)["empty"]
    text = trace(COMMAND, ["trace", "PID", "--only", "descriptors,sockets"], output=tmp_path / "text")
    lines = [line.split(" ", 3)[3] for line in text.output.splitlines() if " accept empty" in line]
    assert lines == ["accept empty (accept4)"] * json.loads(text.said)["empty"]
    assert "EAGAIN" not in text.output
    failures = trace(COMMAND, ["trace", "PID", "--failures", "--format", "json"], output=tmp_path / "failures")
    *told, _ = failures.events()
    assert {event["error"] for event in told} == {errno.errorcode[json.loads(failures.said)["failed"]]}


def test_protocols_are_told_by_name(traced: Traced) -> None:
    numbers = json.loads(traced.said)["protocols"]
    events = [DescriptorEvent(**event) for event in traced.report()["trace"]["sockets"]["events"]]

    def told(name: str, kind: str) -> DescriptorEvent:
        (event,) = [event for event in events if event.fd == numbers[name] and event.event == kind][-1:]
        return event

    assert told("everything", "socket").protocol == "ALL"
    assert told("arp", "socket").protocol is None
    assert told("arp", "bind").local == f"interface {numbers['index']}, protocol ARP"
    assert told("raw", "socket").protocol == "IPIP"
    assert told("routing", "bind").local == "a port id of the kernel's choice, groups 0x1 (LINK)"
    assert told("routing", "connect").remote == "the kernel"


def test_the_text_report_tells_one_story(tmp_path: Any) -> None:
    traced = trace(COMMAND, ["PID", "--trace", "60", "-v"], output=tmp_path / "text")
    facts = json.loads(traced.said)["gone"]
    head = f"FD {facts['first']}, {facts['numbers'][0]} AF_UNIX SOCK_DGRAM UNIX"
    lines = traced.output[traced.output.index(head) :].splitlines()
    assert f"FD {facts['first']} closed after" in "\n".join(lines[1:40])
    assert "Nobody to accept: accept4 18" in traced.output
