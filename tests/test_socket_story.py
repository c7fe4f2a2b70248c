"""What a trace settles of a socket's explanation: by how the socket stands, not by the sentence's words."""

from __future__ import annotations

import pytest

from threadinfo.model import DescriptorEvent, Origin, Socket
from threadinfo.socket_story import is_empty_accept, settle, tell_event


def event(kind: str, **facts: object) -> DescriptorEvent:
    made = {"at_ns": 1, "time": "t", "pid": 7, "tid": 7, "thread_name": "main", "event": kind} | facts
    return DescriptorEvent(**made)  # type: ignore[arg-type]


def origin(*events: DescriptorEvent, syscall: str = "socket") -> Origin:
    return Origin(opened_at="t", syscall=syscall, tid=7, thread_name="main", events=events)


def tcp(standing: str, *, ambiguous: bool) -> Socket:
    words = "any sentence, in any language"
    facts = {"family": "AF_INET", "protocol": "TCP", "standing": standing}
    return Socket(explanation=words, ambiguous=ambiguous, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sock", "seen", "words"),
    [
        (tcp("unbound", ambiguous=True), origin(), "TCP, never bound, connected or listened on"),
        (
            tcp("closed", ambiguous=True),
            origin(syscall="accept4"),
            "TCP, accepted, and nothing else was done with it; its connection broke off",
        ),
        (
            tcp("closed", ambiguous=True),
            origin(event("shutdown", shut="both"), syscall="accept"),
            "TCP, accepted, shut down for receiving and sending (thread main 7); "
            "its connection was ended by both sides",
        ),
        (tcp("reset", ambiguous=False), origin(), "any sentence, in any language"),
        (
            tcp("connected", ambiguous=False),
            origin(event("connect", remote="127.0.0.1:7")),
            "any sentence, in any language; connected to 127.0.0.1:7 (thread main 7)",
        ),
        (tcp("unbound", ambiguous=True), origin(syscall="recvmsg"), "any sentence, in any language"),
    ],
)
def test_settle_of_a_birth_that_was_seen_leaves_one_story(sock: Socket, seen: Origin, words: str) -> None:
    settled = settle(sock, seen)
    assert settled.explanation == words
    assert settled.ambiguous == (seen.syscall == "recvmsg")


def test_settle_without_a_birth_changes_nothing() -> None:
    sock = tcp("unbound", ambiguous=True)
    assert settle(sock, None) is sock


def test_tell_event_of_an_autobound_name_says_who_chose_it() -> None:
    assert tell_event(event("bind")) == "bound to a name that the kernel chose (thread main 7)"
    assert tell_event(event("bind", error="EINVAL")).startswith("bind to nothing failed with EINVAL")


def test_settle_of_another_number_goes_by_how_the_socket_was_made() -> None:
    made, second = event("socket", syscall="socket", fd=3), event("duplicate", syscall="dup", fd=5)
    settled = settle(tcp("unbound", ambiguous=True), origin(made, second, syscall="dup"))
    words = "TCP, never bound, connected or listened on, duplicated as FD 5 by dup (thread main 7)"
    assert (settled.explanation, settled.ambiguous) == (words, False)
    older = tcp("unbound", ambiguous=True)
    assert settle(older, origin(second, syscall="dup")) is older


def test_nobody_to_accept_is_empty_and_any_other_error_is_not() -> None:
    assert is_empty_accept(event("accept", error="EAGAIN"))
    assert not is_empty_accept(event("accept", error="EMFILE"))
    assert not is_empty_accept(event("connect", error="EAGAIN"))
