"""Which thread serves a descriptor: threads that really wait, and any text."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import WORKLOADS, Run, Start
from threadinfo.proc.serving import ThreadCall, parse_syscall

WAITERS = WORKLOADS / "waiters.py"


@given(st.text())
def test_parse_syscall_any_text_is_parsed_or_unknown(text: str) -> None:
    parsed = parse_syscall(text)
    assert parsed is None or isinstance(parsed, ThreadCall)


def test_parse_syscall_running_is_unknown() -> None:
    assert parse_syscall("running\n") is None


def test_parse_syscall_blocked_elsewhere_has_no_name() -> None:
    assert parse_syscall("-1 0x7ffd 0x7f00\n") == ThreadCall("", (), 0x7FFD)


@pytest.fixture
def served(start: Start, threadinfo: Run) -> tuple[dict[str, int], dict[int, set[tuple[str, str]]], dict[str, object]]:
    """What the workload says of itself, what the report says of each descriptor, and the report's process."""
    process = start(sys.executable, WAITERS)
    truth = json.loads(process.first_line)  # type: ignore[attr-defined]
    result = threadinfo(process.pid, "--format", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)["processes"][0]
    found = {
        descriptor["fd"]: {(server["thread_name"], server["how"]) for server in descriptor["served_by"]}
        for descriptor in report["descriptors"]
    }
    return truth, found, report


def test_served_by_every_way_of_waiting(
    served: tuple[dict[str, int], dict[int, set[tuple[str, str]]], dict[str, object]],
) -> None:
    truth, found, _ = served
    assert ("reader", "read") in found[truth["read"]]
    assert ("acceptor", "accept4") in found[truth["accept"]] or ("acceptor", "accept") in found[truth["accept"]]
    assert ("receiver", "recvfrom") in found[truth["receive"]]
    assert ("poller", "poll") in found[truth["poll_first"]]
    assert ("poller", "poll") in found[truth["poll_second"]]
    assert any(name == "selector" and "select" in how for name, how in found[truth["select"]])
    epoll = truth["epoll"]
    assert any(name == "epoller" for name, _ in found[epoll])
    assert any(name == "epoller" and how.endswith(f"on FD {epoll}") for name, how in found[truth["watched"]])


def test_served_by_nobody_is_empty(
    served: tuple[dict[str, int], dict[int, set[tuple[str, str]]], dict[str, object]],
) -> None:
    truth, found, _ = served
    assert found[truth["unserved"]] == set()


def test_thread_stack_is_the_mapping_of_the_stack_pointer(
    served: tuple[dict[str, int], dict[int, set[tuple[str, str]]], dict[str, object]],
) -> None:
    truth, _, report = served
    stacks = {thread["name"]: thread["thread_stack_bytes"] for thread in report["threads"]}  # type: ignore[attr-defined]
    assert stacks["reader"] == truth["stack_bytes"]
