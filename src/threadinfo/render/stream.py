"""The live stream, an event a line: for people, or as JSON for programs."""

from __future__ import annotations

import msgspec

from threadinfo.model import Confidence, DelayEvent, DescriptorEvent
from threadinfo.render.escape import Printable, format_text, printable
from threadinfo.render.json import encode_ascii
from threadinfo.render.text.duration import format_duration
from threadinfo.render.text.trace import confidence_lines
from threadinfo.socket_story import is_empty_accept, is_under_way

_VERBS = {
    "open": "open",
    "duplicate": "dup",
    "socket": "socket",
    "accept": "accept",
    "pipe": "pipe",
    "receive": "receive",
    "bind": "bind",
    "listen": "listen",
    "connect": "connect",
    "shutdown": "shutdown",
    "close": "close",
    "close_on_exec": "mark",
    "fork": "fork",
    "exec": "exec",
    "exit": "exit",
}
_HOW = {"replaced": "replaced by", "exec": "closed by", "exit": "closed by"}


def render_event_text(event: DescriptorEvent | DelayEvent) -> Printable:
    """``14:32:01.123456 websocket 1234 open 12 file /etc/passwd (openat)``."""
    if isinstance(event, DelayEvent):
        return printable([_delay(event)])
    where = f"{event.time[11:26]} {event.thread_name or '?'} {event.tid}"
    stack = [f"    {frame}" for frame in event.stack]
    return printable([f"{where} {_VERBS[event.event]} {describe_event(event)}".rstrip(), *stack])


def _delay(event: DelayEvent) -> str:
    """``14:32:01.123456 websocket 1234 waited 3.20ms for CPU 1, held by hog 999``."""
    held = f", held by {event.held_by}" if event.held_by else ""
    where = f"{event.time[11:26]} {event.thread_name or '?'} {event.tid}"
    return f"{where} waited {format_duration(event.wait_ns)} for CPU {event.cpu}{held}"


def event_verb(event: DescriptorEvent) -> str:
    """The word for what happened: "open", "dup", "close" ..."""
    return _VERBS[event.event]


def describe_event(event: DescriptorEvent) -> str:
    """What it happened to, and how: ``12 file /etc/passwd (openat)``; escaped."""
    if event.event == "fork":
        kind = "thread" if event.child_pid == event.pid else "process"
        shares = ", which shares the descriptors" if event.shares_descriptors and kind == "process" else ""
        return f"{kind} {event.child_tid}{shares}"
    if event.event == "exit":
        return ""
    if event.event == "exec":
        return format_text(event.path or "")
    words = [str(event.fd) if event.fd is not None else "", event.type or "", _subject(event)]
    text = " ".join(word for word in words if word)
    if is_empty_accept(event):
        return f"empty ({event.syscall})"
    if is_under_way(event):
        return f"{text} {'made already' if event.error == 'EISCONN' else 'under way'} ({event.syscall})"
    if event.error:
        return f"{text} failed: {event.error} ({event.syscall})".lstrip()
    if event.event == "close":
        how = f", {_HOW[event.how]} {event.syscall}" if event.how in _HOW else ""
        return text + how + (f", after {format_duration(event.lifetime_ns)}" if event.lifetime_ns is not None else "")
    if event.event == "close_on_exec":
        return f"{text} {'closed' if event.close_on_exec else 'kept'} on exec ({event.syscall})"
    return f"{text} ({event.syscall})"


def _subject(event: DescriptorEvent) -> str:
    words = []
    if event.event == "duplicate" and event.source_fd is not None:
        words.append(f"of {event.source_fd}")
    if event.event in {"accept", "receive"} and event.source_fd is not None:
        words.append(f"on {event.source_fd}")
    if event.family:
        words += [event.family, event.socket_type or "", event.protocol or ""]
    if event.local:
        words.append(f"at {event.local}")
    if event.remote:
        words.append(f"{'to' if event.event == 'connect' else 'from'} {event.remote}")
    if event.backlog is not None:
        words.append(f"backlog {event.backlog}")
    if event.shut:
        words.append({"both": "receiving and sending"}.get(event.shut, event.shut))
    if event.path:
        words.append(event.path)
    return format_text(" ".join(word for word in words if word))


def render_event_json(event: DescriptorEvent | DelayEvent) -> Printable:
    """One JSON object on one line."""
    return encode_ascii(event)


def render_end_text(confidence: Confidence) -> Printable:
    """The last lines."""
    return printable(confidence_lines(confidence))


class _End(msgspec.Struct, frozen=True):
    confidence: Confidence


def render_end_json(confidence: Confidence) -> Printable:
    """The last line: the confidence block."""
    return encode_ascii(_End(confidence))
