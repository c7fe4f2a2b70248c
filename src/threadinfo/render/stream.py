"""The live stream, an event a line: for people, or as JSON for programs."""

from __future__ import annotations

import msgspec

from threadinfo.model import Confidence, DelayEvent
from threadinfo.render.escape import format_text
from threadinfo.render.json import encode_ascii
from threadinfo.render.text_trace import format_duration


def render_event_text(event: DelayEvent) -> str:
    """``14:32:01.123456 websocket 1234 waited 3.20ms for CPU 1, held by hog 999``."""
    moment = event.time[11:26]
    held = f", held by {format_text(event.held_by)}" if event.held_by else ""
    name = format_text(event.thread_name)
    return f"{moment} {name} {event.tid} waited {format_duration(event.wait_ns)} for CPU {event.cpu}{held}\n"


def render_event_json(event: DelayEvent) -> str:
    """One JSON object on one line."""
    return encode_ascii(event) + "\n"


def render_end_text(confidence: Confidence) -> str:
    """The last line."""
    return (
        f"{confidence.seen_count} events seen, {confidence.lost_count} lost, "
        f"{confidence.map_full_count} without room in a map\n"
    )


def render_end_json(confidence: Confidence) -> str:
    """The last line: the confidence block."""
    return msgspec.json.encode({"confidence": confidence}).decode() + "\n"
