"""The section of the text report on sockets: each that was made during the trace, transient ones too, and its story."""

from __future__ import annotations

from collections.abc import Iterable

from threadinfo.model import DescriptorEvent, SocketTrace
from threadinfo.render.escape import format_text
from threadinfo.render.text.duration import format_duration
from threadinfo.render.text.fold import Cuts, wrap
from threadinfo.socket_identity import UNDER_WAY, Sockets
from threadinfo.socket_story import is_failure, tell_event

_STORIES = 20
_Story = list[DescriptorEvent]
_Shape = tuple[tuple[object, ...], ...]


def render_sockets(trace: SocketTrace, cuts: Cuts) -> list[str]:
    """The lines of the section, readable at 80 columns: those that are open first, then failures, then the longest."""
    every = list(tell_stories(trace.events))
    if not every and not trace.calls:
        return []
    made = trace.made_count
    if made is None:
        made = sum(story[0].event in {"socket", "accept", "receive"} and not story[0].error for story in every)
    lines = ["", "=== Sockets (traced) ===", f"{made} made, {len(trace.events)} events told", *_calls(trace)]
    stories = [story for story in every if any(event.event != "close" for event in story)]
    folded = _fold(sorted(stories, key=_rank))
    shown = folded[: _STORIES if cuts.stories is None else cuts.stories]
    for equal in shown:
        lines += _tell(equal[0], cuts)
        if len(equal) > 1:
            last = max((story[-1] for story in equal), key=lambda event: event.at_ns)
            lines.append(f"  {len(equal) - 1} more like this, until {last.time[11:26]}")
    if closed := len(every) - len(stories):
        lines.append(f"{closed} that {'is' if closed == 1 else 'are'} older than the trace {_was(closed)} closed")
    others = len(stories) - sum(map(len, shown))
    if others:
        how = "-v shows more, and" if cuts.stories is not None else ""
        noun = "socket" if others == 1 else "sockets"
        lines.append(f"{others} other {noun}; {how} the JSON report has {len(trace.events)} events".replace("  ", " "))
    if trace.omitted_count:
        verb = "call is" if trace.omitted_count == 1 else "calls are"
        lines.append(f"{trace.omitted_count} {verb} in these counts only: of more stories there was no room for")
    return lines


def _calls(trace: SocketTrace) -> list[str]:
    """``Calls: connect 6000, socket 6003`` and ``Failed: connect ECONNREFUSED 3``: exact, whatever is told below."""
    lines: list[str] = []
    of_title: dict[str, list[str]] = {}
    for one in sorted(trace.calls, key=lambda one: -one.count):
        title = "Calls" if one.error is None else "Under way" if one.error in UNDER_WAY else "Failed"
        words = f"{one.syscall} {one.error} {one.count}" if one.error else f"{one.syscall} {one.count}"
        of_title.setdefault(title, []).append(words)
    for title in ("Calls", "Under way", "Failed"):
        lines += wrap(f"{title}: {', '.join(of_title.get(title, []))}", "", "  ") if title in of_title else []
    return lines


def _rank(story: _Story) -> tuple[bool, bool, int]:
    """What is told first: what is open, then what failed, then what lived longest."""
    has_failed = any(is_failure(event) for event in story)
    return not _is_open(story), not has_failed, story[0].at_ns - story[-1].at_ns


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _is_open(story: _Story) -> bool:
    """Whether a number of it is open when the trace ends."""
    numbers: set[int | None] = set()
    for event in story:
        if event.error:
            continue
        if event.event == "close":
            numbers.discard(event.fd)
        else:
            numbers.add(event.fd)
    return bool(numbers)


def _fold(stories: Iterable[_Story]) -> list[list[_Story]]:
    """Those that went the same way, from the same place, together; of each thread and failure one before the others.

    Where a stack is not known (it is copied when a way is new, and learnt a moment later) the rest decides.
    """
    folded: list[list[_Story]] = []
    alike: dict[_Shape, list[list[_Story]]] = {}
    for story in stories:
        of_shape = alike.setdefault(_shape(story), [])
        same = next((group for group in of_shape if _may_be_same(group[0], story)), None)
        if same is None:
            folded.append([story])
            of_shape.append(folded[-1])
        else:
            same.append(story)
    first_of: dict[_Shape, list[_Story]] = {}
    for group in folded:
        first_of.setdefault(_about(group[0]), group)
    leading = [*first_of.values()]
    return leading + [group for group in folded if all(group is not one for one in leading)]


def _may_be_same(some: _Story, others: _Story) -> bool:
    """Whether two have the same stacks, as far as both are known."""
    pairs = zip(some, others, strict=True)
    return all(not one.stack or not other.stack or one.stack == other.stack for one, other in pairs)


def _about(story: _Story) -> _Shape:
    """What a story is told for: whose socket it is, and what failed with it."""
    return (story[0].event, story[0].thread_name), *{(one.syscall, one.error): None for one in story if is_failure(one)}


def _shape(story: _Story) -> _Shape:
    """What two sockets have in common that went the same way: all but numbers, times, addresses and stacks."""
    known = next((event for event in story if event.family), story[0])
    kind = known.family, known.socket_type, known.protocol, known.type
    return kind, *((one.event, one.syscall, one.error, one.shut, one.backlog, one.thread_name) for one in story)


def tell_stories(events: Iterable[DescriptorEvent]) -> Iterable[_Story]:
    """The events of each socket, whatever numbers it has had, until the last of them; two ends of a pair are two."""
    stories: list[_Story] = []
    sockets: Sockets[_Story] = Sockets(list)
    for event in events:
        story = sockets.of_event(event)
        if not story:
            stories.append(story)
        story.append(event)
    return stories


def story_numbers(story: _Story) -> str:
    """``3, 7``: the numbers that a socket has had, in their order."""
    sources = [event.source_fd for event in story[:1] if event.event == "duplicate"]
    numbers = dict.fromkeys(fd for fd in (*sources, *(event.fd for event in story)) if fd is not None)
    return ", ".join(map(str, numbers))


def story_kind(story: _Story) -> str:
    """``AF_INET SOCK_STREAM TCP on FD 3 from 10.0.0.7:4711 to 10.0.0.1:80``: what it is, and how it was accepted."""
    first = story[0]
    known = next((event for event in story if event.family), first)
    words = [known.family, known.socket_type, known.protocol] if known.family else [known.type]
    if first.event == "accept":
        words += [f"on FD {first.source_fd}" if first.source_fd is not None else None]
        words += [f"from {first.remote}" if first.remote else None, f"to {first.local}" if first.local else None]
    return " ".join(word for word in words if word)


def _tell(story: _Story, cuts: Cuts) -> list[str]:
    first = story[0]
    numbers = story_numbers(story)
    threads = {event.tid for event in story}
    by_one = f", by {_thread(first)}" if len(threads) == 1 else ""
    lines = wrap(f"{f'FD {numbers}' if numbers else first.event} {story_kind(story)}".rstrip() + by_one, "", "  ")
    has_several = len({event.fd for event in story}) > 1
    for event in story:
        which = f"FD {event.fd} " if has_several and event.event == "close" else ""
        lines += wrap(f"{event.time[11:26]} {which}{format_socket_event(event, with_thread=not by_one)}", "  ", "    ")
        if event.maker:
            lines += wrap(f"made by {event.maker}", "    ", "      ")
        if event.stack and (cuts.is_whole or (event is first and not event.maker)):
            shown = event.stack[: len(event.stack) if cuts.is_whole else cuts.frames]
            lines += [f"      {format_text(frame)}" for frame in shown]
            if len(shown) < len(event.stack):
                lines.append(f"      and {len(event.stack) - len(shown)} more frames (-v shows them)")
    return lines


def format_socket_event(event: DescriptorEvent, *, with_thread: bool = True) -> str:
    """What happened, and which thread did it; not yet escaped."""
    if event.event == "close":
        life = f" after {format_duration(event.lifetime_ns)}" if event.lifetime_ns is not None else ""
        return f"closed{life} ({event.syscall}{f', {_thread(event)}' if with_thread else ''})"
    if event.event in {"socket", "accept"}:
        failed = f" failed with {event.error}" if event.error else ""
        return f"{event.syscall}{failed}{f' ({_thread(event)})' if with_thread else ''}"
    return tell_event(event, with_thread=with_thread)


def _thread(event: DescriptorEvent) -> str:
    return f"thread {event.thread_name or '(ended)'} {event.tid}"
