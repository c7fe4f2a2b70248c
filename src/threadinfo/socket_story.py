"""What a trace knows of a socket, in words: who made it, what was done with it, and why it is bound to nothing.

Pure functions over the model. What /proc alone leaves open ("never bound, or its bind failed") is settled here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from threadinfo.model import DescriptorEvent, Origin, Socket
from threadinfo.socket_identity import MADE, NUMBERED, UNDER_WAY

_JUST_STARTED_SECONDS = 60.0
_NSCD = {"/var/run/nscd/socket", "/run/nscd/socket"}
"""What the C library connects to before every look-up of a name, whether or not anybody is there."""
_NEVER_USED = "never bound, connected or listened on"


def tell_maker(maker: str, thread: str, seconds_after_start: float | None) -> str:
    """``lws_create_context, called from start_server, thread main 7, 0.31 s after the process started``."""
    words = f"{maker}, thread {thread}"
    if seconds_after_start is not None and 0 <= seconds_after_start < _JUST_STARTED_SECONDS:
        words += f", {seconds_after_start:.2f} s after the process started"
    return words


def settle(sock: Socket, origin: Origin | None) -> Socket:
    """A socket whose birth and all of whose use was seen is explained by them; any other stays as it is."""
    if sock.explanation is None or origin is None:
        return sock
    call = next((event.syscall for event in origin.events if event.event in MADE), origin.syscall)
    if call not in {"socket", "accept", "accept4"}:
        return sock
    uses = [event for event in origin.events if event.event not in MADE]
    story = tell_use(uses, is_accepted=call != "socket")
    if not sock.ambiguous:
        words = f"{sock.explanation}; {story}" if uses else sock.explanation
        return msgspec.structs.replace(sock, explanation=words)
    if sock.standing == "closed":  # by both sides, or it broke off: the first takes a shutdown of ours
        is_ours = any(event.event == "shutdown" and event.shut != "receiving" for event in origin.events)
        story += "; its connection was ended by both sides" if is_ours else "; its connection broke off"
    label = sock.protocol or sock.family or "socket"
    words = f"{label}{'6' if sock.family == 'AF_INET6' else ''}, {story}"
    return msgspec.structs.replace(sock, explanation=words, ambiguous=False)


def is_under_way(event: DescriptorEvent) -> bool:
    """Whether connect(2) said no more than that a connection is being made, or is made by now: no failure."""
    return event.event == "connect" and event.error in UNDER_WAY


def is_failure(event: DescriptorEvent) -> bool:
    """Whether a call failed that was to work: not an accept that found nobody, nor the C library's look for nscd."""
    is_expected = is_under_way(event) or is_empty_accept(event) or event.remote in _NSCD
    return event.error is not None and not is_expected


def is_empty_accept(event: DescriptorEvent) -> bool:
    """Whether accept(2) found nobody waiting: no failure, but the end of a turn of its caller's loop."""
    return event.event == "accept" and event.error == "EAGAIN"


def tell_use(events: Sequence[DescriptorEvent], *, is_accepted: bool = False) -> str:
    """``bound to 0.0.0.0:80, listening with a backlog of 128, shut down for receiving and sending by web 12``."""
    told = [tell_event(event) for event in events]
    if all(event.event in NUMBERED for event in events):  # another number is no use
        told.insert(0, "accepted, and nothing else was done with it" if is_accepted else _NEVER_USED)
    elif is_accepted:
        told.insert(0, "accepted")
    return ", ".join(told)


def tell_event(event: DescriptorEvent, *, with_thread: bool = True) -> str:
    """One use of a socket, and which thread it was."""
    who = f" (thread {event.thread_name or '?'} {event.tid})" if with_thread else ""
    failed = f"failed with {event.error}" if event.error else ""
    match event.event:
        case "bind":
            chosen = "a name that the kernel chose"  # unix(7): bound to a family and no path
            text = f"bind to {event.local or 'nothing'} {failed}" if failed else f"bound to {event.local or chosen}"
        case "connect" if event.error in UNDER_WAY:
            what = "connected already" if event.error == "EISCONN" else "connecting"
            text = f"{what} to {event.remote or 'nobody'}"
        case "connect":
            where = event.remote or "nobody"
            text = f"connect to {where} {failed}" if failed else f"connected to {where}"
        case "listen":
            text = f"listen {failed}" if failed else f"listening with a backlog of {event.backlog}"
        case "shutdown":
            way = {"both": "receiving and sending"}.get(event.shut or "", event.shut or "?")
            text = f"shutdown {failed}" if failed else f"shut down for {way}"
        case "duplicate":
            text = f"duplicated as FD {event.fd} by {event.syscall}"
        case "receive":
            text = f"received as FD {event.fd} by {event.syscall}"
        case _:
            text = event.event
    return text + who
