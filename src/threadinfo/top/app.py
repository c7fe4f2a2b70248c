"""The live view: tables of threads, descriptors, sockets and events, drawn from snapshots; it never collects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.driver import Driver
from textual.message import Message
from textual.screen import Screen

from threadinfo.errors import ExitCode
from threadinfo.model import Descriptor, DescriptorEvent
from threadinfo.snapshot import Snapshot
from threadinfo.top import columns as shown
from threadinfo.top.columns import Column, DescriptorLine, EventLine, ThreadLine, choose_columns, parse_columns
from threadinfo.top.detail import descriptor_detail, event_detail, findings_lines, thread_detail
from threadinfo.top.keys import ACTIONS, FOOTER, help_lines
from threadinfo.top.parts import ENDING, Lines, PlainScreen
from threadinfo.top.summary import HEIGHT, summary_lines
from threadinfo.top.table import HEADING_LINES, Table

Change: TypeAlias = Literal["next", "previous", "picker"]
"""To another process: the one after it of those that have its name, the one before, or one of all."""

_TWO_TABLES_FROM = 36  # lines of the terminal
_FLASH_SNAPSHOTS = 2
_MOST_GONE = 100
_VIEWS = ("threads", "descriptors", "sockets", "events")
_FIRST_SORT = {"threads": "CPU%", "descriptors": "FD", "sockets": "FD", "events": "TIME"}
_BIRTHS = {"open", "duplicate", "socket", "accept", "pipe", "receive"}
_PROMPT = Style(bold=True)
_PROMPTS = {"search": "/", "filter": "Filter: ", "columns": "Columns: "}
_ALONE = "No other process has this name; p lists all processes"


class Source(Protocol):
    """Where snapshots come from: `collect.live`'s session."""

    interval_seconds: float

    def start(self, publish: Callable[[Snapshot], None], fail: Callable[[BaseException], None]) -> None:
        """Begins to hand over snapshots, from any thread."""

    def stop(self) -> None:
        """Ends that."""


class _Arrived(Message):
    """A snapshot, or what ended the session."""

    def __init__(self, what: Snapshot | BaseException) -> None:
        super().__init__()
        self.what = what


class _Reader(Lines):
    """Text that may be longer than the screen."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._all: list[str] = []
        self.top = 0

    def read(self, lines: list[str]) -> None:
        """Takes lines, which may be new ones of the same text."""
        width = max(20, self.size.width)
        self._all = [part for line in lines for part in _wrapped(line, width)]
        self.scroll_lines(0)

    def scroll_lines(self, step: int) -> None:
        """Goes down (up) some lines."""
        height = max(1, self.size.height)
        self.top = max(0, min(self.top + step, len(self._all) - height))
        self.show([(line, Style()) for line in self._all[self.top : self.top + height]])

    def on_mouse_scroll_down(self) -> None:
        """The wheel."""
        self.scroll_lines(3)

    def on_mouse_scroll_up(self) -> None:
        """The wheel."""
        self.scroll_lines(-3)


def _wrapped(line: str, width: int) -> list[str]:
    """A line in pieces of a terminal's width, between words where one fits, the later ones indented."""
    if len(line) <= width:
        return [line]
    indent = " " * min(8, len(line) - len(line.lstrip()) + 2)
    pieces, rest, room = [], line, width
    while len(rest) > room:
        end = rest.rfind(" ", len(rest) - len(rest.lstrip()) + 1, room + 1)
        following = rest[end + 1 :].split(" ", 1)[0]
        if end < 0 or len(following) > width - len(indent):  # a path or name that fits no line is broken
            end = room
        pieces.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
        room = width - len(indent)
    return [pieces[0], *(indent + piece for piece in [*pieces[1:], rest] if piece)]


class TopApp(App[int], inherit_bindings=False):
    """Draws what a session hands it; its return value is the exit status."""

    ENABLE_COMMAND_PALETTE = False
    CSS = f"""
    Screen, Widget {{ background: ansi_default; color: ansi_default; }}
    #summary {{ height: {HEIGHT}; }}
    #panes {{ height: 1fr; }}
    #threads {{ height: 1fr; }}
    #others {{ height: 1fr; }}
    #reader {{ height: 1fr; display: none; }}
    #footer {{ height: 1; }}
    """

    def __init__(self, source: Source, driver_class: type[Driver] | None = None, *, has_others: bool = False) -> None:
        """Nothing is drawn before `run`. `has_others`: there are other processes of its name to change to."""
        super().__init__(driver_class=driver_class, ansi_color=True)
        self.animation_level = "none"
        self.failure: BaseException | None = None
        """What ended the session, to be raised once the terminal is as it was."""
        self.goes_to: Change | None = None
        """Which process is wanted instead of this one, when it ends."""
        self._source, self._has_others = source, has_others
        self._snapshot: Snapshot | None = None
        self._waiting: Snapshot | None = None
        self._is_paused = False
        self._height = 0
        self._threads_height: int | str = "1fr"
        self._view = "threads"
        self._other_view = "descriptors"
        self._sorts = dict.fromkeys(_VIEWS, ("", False)) | {view: (sort, False) for view, sort in _FIRST_SORT.items()}
        self._new: dict[int, int] = {}
        self._gone: list[tuple[Descriptor, int]] = []
        self._reading: Callable[[Snapshot], list[str]] | None = None
        self._is_help = False
        self._prompt: tuple[str, str] | None = None  # what is asked for, and what was typed
        self._offered: dict[str, tuple[Column, ...]] = {}  # by view
        self._columns: dict[str, tuple[str, ...]] = {}  # titles that were chosen, by view
        self._said = ""
        self._summary = Lines(id="summary")
        self._threads = Table(self._open, id="threads")
        self._others = Table(self._open, id="others")
        self._threads.sort_title = _FIRST_SORT["threads"]
        self._others.sort_title = _FIRST_SORT[self._other_view]
        self._reader = _Reader(id="reader")
        self._footer = Lines(id="footer")

    def get_default_screen(self) -> Screen[None]:
        """One without key bindings of Textual's."""
        return PlainScreen(id="_default")

    def compose(self) -> ComposeResult:
        """The parts, from the top down."""
        yield self._summary
        with Vertical(id="panes"):
            yield self._threads
            yield self._others
        yield self._reader
        yield self._footer

    def on_mount(self) -> None:
        """Begins: signals end the view as keys do, so that the terminal is put back."""
        loop = asyncio.get_running_loop()
        if not self.is_headless:
            for number, status in ENDING.items():
                loop.add_signal_handler(number, self.exit, status)
        self._height = self.size.height
        self._arrange()
        self._draw_footer()
        self._source.start(self._receive, self._receive)

    def on_unmount(self) -> None:
        """Ends the session."""
        self._source.stop()

    def _receive(self, what: Snapshot | BaseException) -> None:
        """Called in the session's thread."""
        if self.is_running:
            self.post_message(_Arrived(what))

    def on__arrived(self, message: _Arrived) -> None:
        """Draws a snapshot, or ends."""
        if isinstance(message.what, BaseException):
            self.failure = message.what
            self.exit(int(ExitCode.UNAVAILABLE))
        elif self._is_paused and not message.what.has_ended:
            self._waiting = message.what
        else:
            self._take(message.what)

    def _take(self, snapshot: Snapshot) -> None:
        """Notes what is new and what is gone, and draws."""
        if not snapshot.has_ended:
            self._new = {fd: left - 1 for fd, left in self._new.items() if left > 1}
            self._new |= dict.fromkeys(snapshot.born, _FLASH_SNAPSHOTS)
            self._gone = [(one, left - 1) for one, left in self._gone if left > 1]
            self._gone = [*self._gone, *((one, _FLASH_SNAPSHOTS) for one in snapshot.died)][-_MOST_GONE:]
        self._snapshot = snapshot
        self._draw()

    # --- drawing

    def _arrange(self) -> None:
        """Which tables are there, by the terminal's height."""
        two = self._height >= _TWO_TABLES_FROM
        is_reading = self._reading is not None or self._is_help
        self.query_one("#panes").display = not is_reading
        self._reader.display = is_reading
        self._threads.display = two or self._view == "threads"
        self._others.display = two or self._view != "threads"
        self._threads.is_active = self._view == "threads"
        self._others.is_active = self._view != "threads"

    def _share_height(self, snapshot: Snapshot) -> None:
        """Of two tables the one that needs less than half leaves the rest to the other."""
        needed = len(snapshot.process.threads or ()) + HEADING_LINES
        has_two = self._threads.display and self._others.display
        height = needed if has_two and needed < (self._height - HEIGHT - 1) // 2 else "1fr"
        if height != self._threads_height:
            self._threads_height = height
            self._threads.styles.height = height

    def on_resize(self, event: events.Resize) -> None:
        """Other parts fit."""
        self._height = event.size.height
        self._arrange()
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        snapshot = self._snapshot
        if snapshot is None:
            self._summary.show([("reading the process ...", Style())])
            return
        interval = self._source.interval_seconds
        self._summary.show(summary_lines(snapshot, interval, self.size.width, is_paused=self._is_paused))
        self._share_height(snapshot)
        if self._is_help:
            self._reader.read(help_lines())
        elif self._reading is not None:
            self._reader.read(self._reading(snapshot))
        else:
            if self._threads.display:
                self._draw_threads(snapshot)
            if self._others.display:
                self._draw_others(snapshot)
        self._draw_footer()

    def _draw_threads(self, snapshot: Snapshot) -> None:
        serves: dict[int, list[int]] = {}
        for descriptor in snapshot.process.descriptors or ():
            for server in descriptor.served_by:
                serves.setdefault(server.tid, []).append(descriptor.fd)
        lines = [
            ThreadLine(thread, snapshot.moments[thread.tid], _some_numbers(serves.get(thread.tid, ())))
            for thread in snapshot.process.threads or ()
            if thread.tid in snapshot.moments
        ]
        is_traced = snapshot.tracing == "on"
        columns = shown.TRACED_THREADS if is_traced else shown.PLAIN_THREADS
        self._threads.show("Threads", self._chosen("threads", columns), lines)

    def _chosen(self, view: str, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Of a view's columns those that were chosen."""
        self._offered[view] = columns
        return choose_columns(columns, self._columns.get(view, ()))

    def _draw_others(self, snapshot: Snapshot) -> None:
        if self._other_view == "events":
            lines: list[Any] = [EventLine(event, _event_mark(event)) for event in snapshot.events]
            title = "Events" if snapshot.tracing == "on" else "Events (only a trace, which root may do, sees them)"
            if snapshot.omitted_event_count:
                title += f", {snapshot.omitted_event_count} earlier ones not kept"
            self._others.show(title, self._chosen("events", shown.EVENTS), lines)
            return
        only_sockets = self._other_view == "sockets"
        lines = [
            DescriptorLine(one, snapshot.ages.get(one.fd), snapshot.at_ns, "+" if one.fd in self._new else " ")
            for one in snapshot.process.descriptors or ()
            if not only_sockets or one.type == "socket"
        ]
        lines += [
            DescriptorLine(one, None, snapshot.at_ns, "-")
            for one, _ in self._gone
            if not only_sockets or one.type == "socket"
        ]
        if self._gone:
            lines.sort(key=lambda line: line.descriptor.fd)
        title, columns = ("Sockets", shown.SOCKETS) if only_sockets else ("Descriptors", shown.DESCRIPTORS)
        self._others.show(title, self._chosen(self._other_view, columns), lines)

    def _draw_footer(self) -> None:
        text = FOOTER
        if self._prompt is not None:
            what, typed = self._prompt
            text = f"{_PROMPTS[what]}{typed}_"
            text = text if len(text) <= self.size.width else f"…{text[1 - self.size.width :]}"  # where it is typed
        elif self._said:
            text = self._said
        elif self._reading is not None or self._is_help:
            text = "Esc Back  Up Down PgUp PgDn Scroll  Space Pause  q Quit"
        self._footer.show([(text, _PROMPT)])

    # --- keys

    def on_key(self, event: events.Key) -> None:
        """Every key: typed into the prompt, or an action."""
        event.stop()
        event.prevent_default()
        self._said = ""
        if self._prompt is not None and event.key != "ctrl+c":
            self._type(event)
        elif (action := ACTIONS.get(event.key)) is not None:
            getattr(self, f"do_{action}")()
        self._draw_footer()

    def on_paste(self, event: events.Paste) -> None:
        """Into the prompt, its first line."""
        if self._prompt is not None:
            what, typed = self._prompt
            self._prompt = (what, typed + event.text.split("\n", 1)[0])
            self._draw_footer()

    def _type(self, event: events.Key) -> None:
        assert self._prompt is not None  # noqa: S101 - the caller asked
        what, typed = self._prompt
        if event.key in {"enter", "escape"}:
            self._prompt = None
            if event.key == "enter":
                self._answer(what, typed)
        elif event.key in {"backspace", "ctrl+h"}:
            self._prompt = (what, typed[:-1])
        elif event.key == "ctrl+u":
            self._prompt = (what, "")
        elif event.character is not None and event.is_printable:
            self._prompt = (what, typed + event.character)

    def _answer(self, what: str, typed: str) -> None:
        table = self._table()
        if what == "columns":
            try:
                self._columns[self._view] = parse_columns(typed, self._offered[self._view])
            except ValueError as problem:
                self._said = str(problem)
            self._draw()
            return
        if what == "filter":
            table.filter_text = typed
            table.update()
            return
        table.search_text = typed or table.search_text
        self._search(1)

    def _table(self) -> Table:
        return self._threads if self._view == "threads" else self._others

    def _is_text(self) -> bool:
        return self._reading is not None or self._is_help

    def _set_view(self, view: str) -> None:
        self._reading, self._is_help = None, False
        if view not in {"threads", self._other_view}:
            self._sorts[self._other_view] = (self._others.sort_title, self._others.is_reverse)
            self._others.sort_title, self._others.is_reverse = self._sorts[view]
            self._others.filter_text = self._others.search_text = ""
            self._other_view = view
        self._view = view
        self._changed()

    def _changed(self) -> None:
        """Something else is to be seen: draws it once it has its place."""
        self._arrange()
        self.call_after_refresh(self._draw)

    def do_quit(self) -> None:
        """Ends."""
        self.exit(int(ExitCode.OK))

    def do_interrupt(self) -> None:
        """Ends as an interrupted command does."""
        self.exit(int(ExitCode.INTERRUPTED))

    def _change(self, where: Change) -> None:
        self.goes_to = where
        self._footer.show([("changing to another process ...", _PROMPT)])
        self.exit(int(ExitCode.OK))

    def do_next_process(self) -> None:
        """The next process of the name."""
        if self._has_others:
            self._change("next")
        else:
            self._said = _ALONE

    def do_previous_process(self) -> None:
        """The process of the name before this one."""
        if self._has_others:
            self._change("previous")
        else:
            self._said = _ALONE

    def do_pick(self) -> None:
        """Lists all processes."""
        self._change("picker")

    def do_help(self) -> None:
        """Shows the keys, or leaves them."""
        self._is_help = not self._is_help
        self._reader.top = 0
        self._changed()

    def do_threads(self) -> None:
        """The table of threads."""
        self._set_view("threads")

    def do_descriptors(self) -> None:
        """The table of descriptors."""
        self._set_view("descriptors")

    def do_sockets(self) -> None:
        """The table of sockets."""
        self._set_view("sockets")

    def do_events(self) -> None:
        """The table of events."""
        self._set_view("events")

    def do_next_view(self) -> None:
        """The next table."""
        self._set_view(_VIEWS[(_VIEWS.index(self._view) + 1) % len(_VIEWS)])

    def do_previous_view(self) -> None:
        """The table before."""
        self._set_view(_VIEWS[_VIEWS.index(self._view) - 1])

    def _move(self, step: int) -> None:
        if self._is_text():
            self._reader.scroll_lines(step)
        else:
            self._table().move(step)

    def _page(self) -> int:
        return max(1, self._reader.size.height - 1) if self._is_text() else self._table().page_lines()

    def do_up(self) -> None:
        """A line up."""
        self._move(-1)

    def do_down(self) -> None:
        """A line down."""
        self._move(1)

    def do_page_up(self) -> None:
        """A page up."""
        self._move(-self._page())

    def do_page_down(self) -> None:
        """A page down."""
        self._move(self._page())

    def do_first(self) -> None:
        """To the first line."""
        self._move(-(1 << 30))

    def do_last(self) -> None:
        """To the last line."""
        self._move(1 << 30)

    def do_detail(self) -> None:
        """All about the line under the cursor."""
        if not self._is_text():
            self._open(self._table())

    def _open(self, table: Table) -> None:
        line = table.selected()
        if isinstance(line, ThreadLine):
            tid = line.thread.tid
            self._reading = lambda snapshot: thread_detail(snapshot, tid, self.size.width)
        elif isinstance(line, DescriptorLine):
            descriptor = line.descriptor
            self._reading = lambda snapshot: descriptor_detail(snapshot, descriptor.fd, descriptor)
        elif isinstance(line, EventLine):
            known: DescriptorEvent = line.event
            self._reading = lambda snapshot: event_detail(snapshot, known)
        else:
            return
        self._reader.top = 0
        self._changed()

    def do_findings(self) -> None:
        """What stands out, and what is not known."""
        self._is_help = False
        self._reading = findings_lines
        self._reader.top = 0
        self._changed()

    def do_back(self) -> None:
        """Back to the table; there, everything is shown again."""
        if self._is_text():
            self._reading, self._is_help = None, False
            self._changed()
            return
        table = self._table()
        table.filter_text = table.search_text = ""
        table.update()

    def do_search(self) -> None:
        """Asks for words."""
        if not self._is_text():
            self._prompt = ("search", "")

    def do_filter(self) -> None:
        """Asks for words."""
        if not self._is_text():
            self._prompt = ("filter", self._table().filter_text)

    def do_columns(self) -> None:
        """Asks for columns; those that are shown are there to be changed."""
        if not self._is_text():
            self._prompt = ("columns", ", ".join(self._table().shown_titles()))

    def _search(self, step: int) -> None:
        table = self._table()
        if not table.search_text:
            self._said = "Nothing was searched for yet: /"
        elif not table.search(step):
            self._said = f"Not found: {table.search_text}"

    def do_next_match(self) -> None:
        """The next line that was searched for."""
        self._search(1)

    def do_previous_match(self) -> None:
        """The line before that was searched for."""
        self._search(-1)

    def do_sort_right(self) -> None:
        """By the next column."""
        self._table().sort_next(1)

    def do_sort_left(self) -> None:
        """By the column before."""
        self._table().sort_next(-1)

    def do_reverse(self) -> None:
        """The other way round."""
        table = self._table()
        table.is_reverse = not table.is_reverse
        table.update()

    def do_pause(self) -> None:
        """Stops drawing what is new, or draws the newest."""
        self._is_paused = not self._is_paused
        if not self._is_paused and self._waiting is not None:
            self._take(self._waiting)
            self._waiting = None
        self._draw()

    def do_redraw(self) -> None:
        """The whole screen."""
        self.refresh(layout=True)
        self.screen.refresh(layout=True)

    def on_click(self, event: events.Click) -> None:
        """In a table; the one that was clicked becomes the active one."""
        if self._is_text():
            return
        for table in (self._threads, self._others):
            if table.display and table.region.contains(event.screen_x, event.screen_y):
                view = "threads" if table is self._threads else self._other_view
                if view != self._view:
                    self._set_view(view)
                table.clicked(event.screen_x - table.region.x, event.screen_y - table.region.y)
                self._draw_footer()


def _some_numbers(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    more = f" +{len(numbers) - 3}" if len(numbers) > 3 else ""
    return f"FD {' '.join(map(str, numbers[:3]))}{more}"


def _event_mark(event: DescriptorEvent) -> str:
    if event.error is not None:
        return "!"
    return "+" if event.event in _BIRTHS else "-" if event.event == "close" else " "
