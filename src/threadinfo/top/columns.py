"""What the tables show: columns, each with the text of a line's cell and the value that it is sorted by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from threadinfo.model import Descriptor, DescriptorEvent, Thread
from threadinfo.render.stream import describe_event, event_verb
from threadinfo.render.text.details import format_details
from threadinfo.render.text.duration import format_duration
from threadinfo.render.text.waits import describe_wait
from threadinfo.snapshot import Age, ThreadMoment
from threadinfo.top.marks import format_age, format_bytes, format_rate, sparkline

_NO_NUMBER = -1.0
_TREND_COLUMNS = 8


class ThreadLine(NamedTuple):
    """A thread as the table shows it."""

    thread: Thread
    moment: ThreadMoment
    serves: str
    mark: str = " "

    @property
    def key(self) -> object:
        """Stays the same from one snapshot to the next."""
        return self.thread.tid


class DescriptorLine(NamedTuple):
    """A descriptor as the tables show it."""

    descriptor: Descriptor
    age: Age | None
    now_ns: int
    mark: str
    """"+" new, "-" gone, " " neither."""

    @property
    def key(self) -> object:
        """Stays the same from one snapshot to the next."""
        return (self.descriptor.fd, self.mark == "-")


class EventLine(NamedTuple):
    """Something that happened to a descriptor."""

    event: DescriptorEvent
    mark: str

    @property
    def key(self) -> object:
        """Stays the same from one snapshot to the next."""
        return (self.event.at_ns, self.event.event, self.event.fd, self.event.tid)


class Column(NamedTuple):
    """A column of a table; its functions take a line."""

    title: str
    width: int
    text: Callable[[Any], str]
    """Not yet escaped."""
    value: Callable[[Any], Any]
    """What it is sorted by."""
    weight: int = 0
    """Its part of the room that is left."""
    is_right: bool = False
    is_descending: bool = False
    """Whether the largest comes first when one begins to sort by it."""
    from_width: int = 0
    """Left out of narrower terminals."""


def _number(value: float | None) -> float:
    return _NO_NUMBER if value is None else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


_TID = Column("TID", 7, lambda line: str(line.thread.tid), lambda line: line.thread.tid)
_NAME = Column("NAME", 15, lambda line: line.thread.name, lambda line: line.thread.name, 1)
_CPU = Column(
    "CPU%",
    5,
    lambda line: _percent(line.moment.cpu_percent),
    lambda line: _number(line.moment.cpu_percent),
    is_right=True,
    is_descending=True,
)
_SERVES = Column("SERVES", 10, lambda line: line.serves, lambda line: line.serves, 1, from_width=120)

TRACED_THREADS = (
    _TID,
    _NAME,
    Column("S", 1, lambda line: line.thread.state, lambda line: line.thread.state),
    _CPU,
    Column(
        "WAIT%",
        5,
        lambda line: _percent(line.moment.queued_percent),
        lambda line: _number(line.moment.queued_percent),
        is_right=True,
        is_descending=True,
        from_width=100,
    ),
    Column(
        "P50",
        6,
        lambda line: format_duration(line.moment.wait_p50_ns),
        lambda line: _number(line.moment.wait_p50_ns),
        is_right=True,
        is_descending=True,
        from_width=140,
    ),
    Column(
        "P99",
        6,
        lambda line: format_duration(line.moment.wait_p99_ns),
        lambda line: _number(line.moment.wait_p99_ns),
        is_right=True,
        is_descending=True,
    ),
    Column(
        "TREND",
        _TREND_COLUMNS,
        lambda line: sparkline(line.moment.wait_history, _TREND_COLUMNS),
        lambda line: sum(line.moment.wait_history[-_TREND_COLUMNS:]),
        is_descending=True,
    ),
    Column(
        "DELAYED BY",
        14,
        lambda line: line.moment.delayed_by or "",
        lambda line: line.moment.delayed_by or "",
        2,
    ),
    Column(
        "WAITS ON",
        18,
        lambda line: describe_wait(line.moment.waits_on) if line.moment.waits_on else "",
        lambda line: line.moment.waits_on.sum_ns if line.moment.waits_on else 0,
        2,
        is_descending=True,
        from_width=100,
    ),
    Column(
        "SW/S",
        5,
        lambda line: format_rate(line.moment.switches_per_second),
        lambda line: _number(line.moment.switches_per_second),
        is_right=True,
        is_descending=True,
    ),
    _SERVES,
)

PLAIN_THREADS = (
    _TID,
    _NAME,
    Column("STATE", 9, lambda line: line.thread.state_name, lambda line: line.thread.state_name),
    _CPU,
    Column(
        "TREND",
        _TREND_COLUMNS,
        lambda line: sparkline(line.moment.cpu_history, _TREND_COLUMNS, highest=10.0),
        lambda line: sum(line.moment.cpu_history[-_TREND_COLUMNS:]),
        is_descending=True,
    ),
    Column(
        "RUNTIME",
        9,
        lambda line: "-" if line.thread.runtime_seconds is None else f"{line.thread.runtime_seconds:.2f}s",
        lambda line: _number(line.thread.runtime_seconds),
        is_right=True,
        is_descending=True,
    ),
    Column(
        "STACK",
        9,
        lambda line: format_bytes(line.thread.thread_stack_bytes),
        lambda line: _number(line.thread.thread_stack_bytes),
        is_right=True,
        is_descending=True,
    ),
    _SERVES._replace(from_width=0, width=8),
)


def _age(line: DescriptorLine) -> str:
    if line.age is None:
        return ""
    return ("" if line.age.is_exact else ">") + format_age((line.now_ns - line.age.since_ns) / 1e9)


def _seconds(line: DescriptorLine) -> float:
    return (line.now_ns - line.age.since_ns) / 1e9 if line.age else 0.0


def _served(line: DescriptorLine) -> str:
    servers = line.descriptor.served_by
    if not servers:
        return ""
    more = f" +{len(servers) - 1}" if len(servers) > 1 else ""
    return f"{servers[0].thread_name} {servers[0].tid}{more}"


def _origin(line: DescriptorLine) -> str:
    """Who made it: what tracing saw, otherwise what is inferred."""
    if (origin := line.descriptor.origin) is not None:
        frame = f" {origin.stack[0]}" if origin.stack else ""
        return f"{origin.syscall} {origin.thread_name or origin.tid}{frame}"
    if line.descriptor.socket is not None and (inference := line.descriptor.socket.inference) is not None:
        return f"{inference.confidence} {inference.library}"
    return ""


def _what(line: DescriptorLine) -> str:
    """The description without what the kind says already."""
    kind, words = line.descriptor.type, line.descriptor.description
    if words.startswith(f"{kind} (") and words.endswith(")"):
        return words[len(kind) + 2 : -1]
    return words.removeprefix(f"{kind}: ")


_MARK = Column("", 1, lambda line: line.mark, lambda line: line.mark)
_FD = Column("FD", 5, lambda line: str(line.descriptor.fd), lambda line: line.descriptor.fd, is_right=True)
_AGE = Column("AGE", 7, _age, _seconds, is_right=True)
_SERVED = Column("SERVED BY", 14, _served, _served, 1)
_ORIGIN = Column("ORIGIN", 14, _origin, _origin, 2)

DESCRIPTORS = (
    _MARK,
    _FD,
    Column("KIND", 10, lambda line: line.descriptor.type, lambda line: line.descriptor.type),
    Column("WHAT", 20, _what, _what, 3),
    _AGE,
    _SERVED,
    _ORIGIN,
    Column(
        "DETAILS",
        20,
        lambda line: format_details(line.descriptor),
        lambda line: format_details(line.descriptor),
        2,
        from_width=160,
    ),
)


def _queue(line: DescriptorLine) -> str:
    """Of a listener, the connections that wait and how many may; otherwise bytes to receive and to send."""
    details = line.descriptor.details
    if (waiting := details.get("backlog_count")) is not None:
        return f"{waiting}/{details.get('backlog_limit_count', '?')}"
    received, sent = details.get("receive_queue_bytes"), details.get("send_queue_bytes")
    return f"{received or 0}/{sent or 0}" if received is not None or sent is not None else ""


def _of_socket(line: DescriptorLine, field: str) -> str:
    sock = line.descriptor.socket
    value = getattr(sock, field) if sock is not None else None
    return value or ""


def _state(line: DescriptorLine) -> str:
    sock = line.descriptor.socket
    if sock is None or (sock.state and (sock.bound or sock.state != "CLOSED")):
        return sock.state or "" if sock else ""
    return {True: "bound", False: "not bound", None: sock.state or ""}[sock.bound]


def _protocol(line: DescriptorLine) -> str:
    return _of_socket(line, "protocol") or _of_socket(line, "family") or "?"


SOCKETS = (
    _MARK,
    _FD,
    Column("PROTO", 9, _protocol, _protocol),
    Column("STATE", 11, _state, _state),
    Column("LOCAL", 17, lambda line: _of_socket(line, "local"), lambda line: _of_socket(line, "local"), 2),
    Column("REMOTE", 16, lambda line: _of_socket(line, "remote"), lambda line: _of_socket(line, "remote"), 2),
    Column("ROLE", 8, lambda line: _of_socket(line, "role"), lambda line: _of_socket(line, "role"), 1, from_width=120),
    Column("QUEUE", 8, _queue, _queue, from_width=100),
    _AGE,
    _SERVED._replace(width=10),
    _ORIGIN._replace(from_width=100),
)

EVENTS = (
    _MARK,
    Column(
        "TIME",
        12,
        lambda line: line.event.time[11:23],
        lambda line: line.event.at_ns,
        is_descending=True,
    ),
    Column(
        "THREAD",
        14,
        lambda line: f"{line.event.thread_name or '?'} {line.event.tid}",
        lambda line: (line.event.thread_name, line.event.tid),
        1,
    ),
    Column("EVENT", 8, lambda line: event_verb(line.event), lambda line: line.event.event),
    Column("WHAT", 24, lambda line: describe_event(line.event), lambda line: describe_event(line.event), 3),
    Column(
        "CALL SITE",
        20,
        lambda line: line.event.stack[0] if line.event.stack else "",
        lambda line: line.event.stack[0] if line.event.stack else "",
        2,
        from_width=110,
    ),
)


def parse_columns(text: str, columns: tuple[Column, ...]) -> tuple[str, ...]:
    """Titles parted by commas, upper or lower case; raises ValueError, in words, where one is not of these columns."""
    titles = {column.title.casefold(): column.title for column in columns if column.title}
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word.casefold() not in titles:
            raise ValueError(f"No column {word}; there are {', '.join(titles.values())}")
    return tuple(dict.fromkeys(titles[word.casefold()] for word in wanted))


def choose_columns(columns: tuple[Column, ...], titles: tuple[str, ...]) -> tuple[Column, ...]:
    """Those columns alone, in that order, on narrow terminals too, after what has no title; all where none is left."""
    known = {column.title: column for column in columns}
    chosen = [known[title]._replace(from_width=0) for title in titles if title in known]
    return (*(column for column in columns if not column.title), *chosen) if chosen else columns


def column_widths(columns: tuple[Column, ...], width: int) -> list[int]:
    """How wide each column is where a table has `width` characters, a blank between two; 0: left out.

    Room that is left goes to the columns with a weight; where it is too narrow, the last columns are cut or left out.
    """
    widths = [column.width if width >= column.from_width else 0 for column in columns]
    left = width - sum(widths) - (sum(1 for one in widths if one) - 1)
    weights = [column.weight if wide else 0 for column, wide in zip(columns, widths, strict=True)]
    total = sum(weights)
    if left > 0 and total:
        for index, weight in enumerate(weights):
            widths[index] += left * weight // total
        last = max(index for index, weight in enumerate(weights) if weight)
        widths[last] += left - sum(left * weight // total for weight in weights)
    while left < 0:
        index = max(index for index, wide in enumerate(widths) if wide)
        if widths[index] + left >= 3 or index == 0:
            widths[index] = max(1, widths[index] + left)
            break
        left += widths[index] + 1
        widths[index] = 0
    return widths
