"""The section of the text report on sockets: each that was made during the trace, transient ones too, and its story."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from threadinfo.model import DescriptorEvent, SocketTrace
from threadinfo.render.escape import format_text
from threadinfo.render.text_duration import format_duration
from threadinfo.socket_story import tell_event

_STORIES, _FRAMES, _ALL_FRAMES = 20, 4, 64
_COLUMNS = 80
_Story = list[DescriptorEvent]


def render_sockets(trace: SocketTrace, *, verbose: bool) -> list[str]:
    """The lines of the section, readable at 80 columns; `verbose`: with every frame of every stack."""
    stories = list(tell_stories(trace.events))
    if not stories:
        return []
    made = sum(story[0].event in {"socket", "accept", "receive"} and not story[0].error for story in stories)
    lines = ["", "=== Sockets (traced) ===", f"{made} made, {len(trace.events)} events"]
    for story in stories[:_STORIES]:
        lines += _tell(story, verbose=verbose)
    if len(stories) > _STORIES:
        lines.append(f"{len(stories) - _STORIES} other sockets; the JSON report has {len(trace.events)} events")
    if trace.omitted_count:
        lines.append(f"{trace.omitted_count} events after those are counted only")
    return lines


def tell_stories(events: Iterable[DescriptorEvent]) -> Iterable[_Story]:
    """The events of each socket, from birth to death; two ends of a pair are two sockets."""
    alive: dict[int, _Story] = {}
    stories: list[_Story] = []
    for event in events:
        story = None if event.fd is None else alive.get(event.fd)
        is_birth = event.event in {"socket", "accept", "receive", "duplicate"}
        if story is None or is_birth:
            story = []
            stories.append(story)
        story.append(event)
        if event.fd is not None:
            alive[event.fd] = story
            if event.event == "close" and not event.error:
                del alive[event.fd]
    return stories


def _tell(story: _Story, *, verbose: bool) -> list[str]:
    first = story[0]
    kind = f"{first.family} {first.socket_type} {first.protocol}" if first.family else first.type or ""
    name = f"FD {first.fd}" if first.fd is not None else first.event
    peer = f" from {first.remote}" if first.event == "accept" and first.remote else ""
    lines = _wrap(f"{name} {kind}{peer}".rstrip(), "", "  ")
    for event in story:
        lines += _wrap(f"{event.time[11:26]} {format_socket_event(event)}", "  ", "    ")
        if event.maker:
            lines += _wrap(f"made by {event.maker}", "    ", "      ")
        if event.stack and (verbose or event is first):
            shown = event.stack if verbose else event.stack[:_FRAMES]
            lines += [f"      {format_text(frame)}" for frame in shown]
            if len(shown) < len(event.stack):
                lines.append(f"      and {len(event.stack) - len(shown)} more frames (-v shows them)")
    return lines


def format_socket_event(event: DescriptorEvent) -> str:
    """What happened, and which thread did it; not yet escaped."""
    thread = f"thread {event.thread_name or '(ended)'} {event.tid}"
    if event.event == "close":
        life = f" after {format_duration(event.lifetime_ns)}" if event.lifetime_ns is not None else ""
        return f"closed{life} ({event.syscall}, {thread})"
    if event.event in {"socket", "accept", "receive", "duplicate"}:
        failed = f" failed with {event.error}" if event.error else ""
        return f"{event.syscall}{failed} ({thread})"
    return tell_event(event)


def _wrap(text: str, indent: str, further: str) -> list[str]:
    return textwrap.wrap(format_text(text), _COLUMNS, initial_indent=indent, subsequent_indent=further)
