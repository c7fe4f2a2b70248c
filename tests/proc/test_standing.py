"""How a socket stands, from facts alone: any facts give one answer, and those that a kernel can give the right one."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadinfo.model import Details, Socket, Standing
from threadinfo.proc import socket_tables
from threadinfo.proc.describe import describe_socket
from threadinfo.proc.explain import explain_socket
from threadinfo.proc.standing import UnixFacts, other_standing, stream_standing, unix_standing

STANDINGS = set(get_args(Standing))
CONNECTED = UnixFacts(type="SOCK_STREAM", name="", listens=False, is_connected=True)


@pytest.mark.parametrize("state", [None, *socket_tables.TCP_STATES.values(), "BOUND", "14"])
def test_stream_standing_any_state_is_one_of_the_words(state: str | None) -> None:
    for bound, had, error in itertools.product((None, False, True), (None, False, True), (False, True)):
        standing = stream_standing(state, bound=bound, had_connection=had, error_pending=error)
        assert standing in STANDINGS | {None}
        assert (standing == "listening") == (state == "LISTEN")


@pytest.mark.parametrize(
    ("had_connection", "error_pending", "bound", "standing"),
    [
        (True, False, True, "closed"),
        (True, True, True, "reset"),
        (False, True, True, "refused"),
        (False, False, True, "not_connected"),
        (False, False, False, "unbound"),
    ],
)
def test_stream_standing_closed_sockets_are_told_apart(
    had_connection: bool, error_pending: bool, bound: bool, standing: str
) -> None:
    told = stream_standing("CLOSED", bound=bound, had_connection=had_connection, error_pending=error_pending)
    assert told == standing


def test_other_standing_with_a_peer_is_connected_even_if_nothing_tells_the_address() -> None:
    assert other_standing(bound=None, remote="127.0.0.1") == "connected"
    assert other_standing(bound=None, remote=None) is None


@pytest.mark.parametrize(
    ("name", "peer_name", "came_by"),
    [
        ("", "", "socketpair"),
        ("", "/served", "connect"),
        ("/served", "", "accept"),
        ("/served", None, None),
        ("", None, None),
        (None, "/served", None),
        ("/one", "/other", None),
    ],
)
def test_unix_standing_the_names_of_both_ends_tell_the_call(
    name: str | None, peer_name: str | None, came_by: str | None
) -> None:
    facts = UnixFacts(type="SOCK_STREAM", name=name, listens=False, is_connected=True, peer_name=peer_name)
    assert unix_standing(facts) == ("connected", came_by)


def test_unix_standing_of_two_ends_with_names_the_listeners_was_accepted() -> None:
    facts = {"type": "SOCK_STREAM", "name": "/one", "listens": False, "is_connected": True, "peer_name": "/other"}
    accepted = UnixFacts(**facts, is_listeners_name=True, is_peer_listeners_name=False)  # type: ignore[arg-type]
    client = UnixFacts(**facts, is_listeners_name=False, is_peer_listeners_name=True)  # type: ignore[arg-type]
    both = UnixFacts(**facts, is_listeners_name=True, is_peer_listeners_name=True)  # type: ignore[arg-type]
    assert [unix_standing(one).came_by for one in (accepted, client, both)] == ["accept", "connect", None]


texts = st.none() | st.text()
facts_of_unix = st.builds(
    UnixFacts,
    type=st.none() | st.sampled_from(["SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET", "7"]),
    name=texts,
    listens=st.none() | st.booleans(),
    is_connected=st.none() | st.booleans(),
    waits=st.booleans(),
    peer_is_closed=st.none() | st.booleans(),
    peer_name=texts,
    shut=st.sampled_from([None, "receiving", "sending", "both"]),
    is_listeners_name=st.none() | st.booleans(),
    is_peer_listeners_name=st.none() | st.booleans(),
)


@given(facts_of_unix, st.lists(st.integers(0, 2**20)), st.none() | st.integers(1, 2**32))
def test_unix_any_facts_description_and_sentence_agree(facts: UnixFacts, fds: list[int], peer: int | None) -> None:
    standing, came_by = unix_standing(facts)
    details: Details = {"came_by": came_by, "shut": facts.shut, "peer_closed": facts.peer_is_closed}
    details |= {"peer_fds": list(fds), "peer_inode": peer, "peer_name": facts.peer_name or None}
    sock = Socket(family="AF_UNIX", type=facts.type, standing=standing, bound=None if facts.name is None else False)
    described, explained = describe_socket(sock, details, 7), explain_socket(sock, details).words or ""
    is_connected = standing in {"connected", "half_closed", "closed", "waiting"}
    assert (", connected" in described or "other end closed" in described) == is_connected
    assert not (fds and "another process" in explained)
    assert ("not connected" in described) == (standing == "unbound")
    assert not ("socketpair" in explained and facts.peer_name)
