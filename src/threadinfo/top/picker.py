"""Which process to look at: all of them, by CPU, descriptors or name; what is typed filters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.driver import Driver
from textual.message import Message
from textual.screen import Screen

from threadinfo.errors import ExitCode
from threadinfo.snapshot import ProcessSummary
from threadinfo.top.columns import Column
from threadinfo.top.marks import format_bytes
from threadinfo.top.parts import ENDING, Lines, PlainScreen
from threadinfo.top.table import Table

_BOLD = Style(bold=True)
_FOOTER = "Type to filter  Enter Look  Left Right Sort  F4 Reverse  Esc Forget, quit"


class ProcessLine(NamedTuple):
    """A process as the table shows it."""

    process: ProcessSummary
    mark: str = " "

    @property
    def key(self) -> object:
        """Stays the same from one list to the next."""
        return self.process.pid


def _count(value: float | None) -> float:
    return -1.0 if value is None else value


def _busy(line: ProcessLine) -> tuple[float, float]:
    return _count(line.process.cpu_percent), line.process.cpu_seconds


PROCESSES = (
    Column("PID", 7, lambda line: str(line.process.pid), lambda line: line.process.pid, is_right=True),
    Column("NAME", 15, lambda line: line.process.name, lambda line: line.process.name.casefold(), 1),
    Column("USER", 10, lambda line: line.process.user or "-", lambda line: line.process.user or ""),
    Column(
        "CPU%",
        6,
        lambda line: "-" if line.process.cpu_percent is None else f"{line.process.cpu_percent:.1f}",
        _busy,
        is_right=True,
        is_descending=True,
    ),
    Column(
        "FDS",
        6,
        lambda line: "-" if line.process.descriptor_count is None else str(line.process.descriptor_count),
        lambda line: _count(line.process.descriptor_count),
        is_right=True,
        is_descending=True,
    ),
    Column(
        "THREADS",
        7,
        lambda line: str(line.process.thread_count),
        lambda line: line.process.thread_count,
        is_right=True,
        is_descending=True,
    ),
    Column(
        "RSS",
        10,
        lambda line: format_bytes(line.process.resident_bytes),
        lambda line: _count(line.process.resident_bytes),
        is_right=True,
        is_descending=True,
    ),
)


class Source(Protocol):
    """Where lists come from: `collect.processes`."""

    def start(
        self, publish: Callable[[tuple[ProcessSummary, ...]], None], fail: Callable[[BaseException], None]
    ) -> None:
        """Begins to hand over lists, from any thread."""

    def stop(self) -> None:
        """Ends that."""


class _Listed(Message):
    """A list, or what ended the session."""

    def __init__(self, what: tuple[ProcessSummary, ...] | BaseException) -> None:
        super().__init__()
        self.what = what


class PickerApp(App[int], inherit_bindings=False):
    """Lets somebody choose; its return value is the exit status, and `chosen` the PID."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen, Widget { background: ansi_default; color: ansi_default; }
    #head { height: 1; }
    #processes { height: 1fr; }
    #foot { height: 1; }
    """

    def __init__(self, source: Source, driver_class: type[Driver] | None = None, note: str = "") -> None:
        """`note`: what is to be said first."""
        super().__init__(driver_class=driver_class, ansi_color=True)
        self.animation_level = "none"
        self.failure: BaseException | None = None
        self.chosen: int | None = None
        """The PID."""
        self._source, self._note = source, note
        self._head, self._foot = Lines(id="head"), Lines(id="foot")
        self._table = Table(self._choose, id="processes")
        self._table.sort_title, self._table.is_active = "CPU%", True

    def get_default_screen(self) -> Screen[None]:
        """One without key bindings of Textual's."""
        return PlainScreen(id="_default")

    def compose(self) -> ComposeResult:
        """The parts, from the top down."""
        yield self._head
        yield self._table
        yield self._foot

    def on_mount(self) -> None:
        """Begins."""
        if not self.is_headless:
            for number, status in ENDING.items():
                asyncio.get_running_loop().add_signal_handler(number, self.exit, status)
        self._draw()
        self._source.start(self._receive, self._receive)

    def on_unmount(self) -> None:
        """Ends the session."""
        self._source.stop()

    def _receive(self, what: tuple[ProcessSummary, ...] | BaseException) -> None:
        if self.is_running:
            self.post_message(_Listed(what))

    def on__listed(self, message: _Listed) -> None:
        """Draws a list, or ends."""
        if isinstance(message.what, BaseException):
            self.failure = message.what
            self.exit(int(ExitCode.UNAVAILABLE))
            return
        lines = [ProcessLine(one) for one in message.what if not one.is_kernel_thread]
        self._table.show("Processes", PROCESSES, lines)

    def on_resize(self) -> None:
        """Other parts fit."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        typed = self._table.filter_text
        self._head.show([(f"Filter: {typed}_" if typed else self._note or "Which process?", _BOLD)])
        self._foot.show([(_FOOTER, _BOLD)])

    def _choose(self, table: Table) -> None:
        line = table.selected()
        if isinstance(line, ProcessLine):
            self.chosen = line.process.pid
            self.exit(int(ExitCode.OK))

    def on_key(self, event: events.Key) -> None:
        """An action, or something that is typed."""
        event.stop()
        event.prevent_default()
        table, page = self._table, self._table.page_lines()
        moves = {"up": -1, "down": 1, "pageup": -page, "pagedown": page, "home": -(1 << 30), "end": 1 << 30}
        if event.key in moves:
            table.move(moves[event.key])
        elif event.key == "enter":
            self._choose(table)
        elif event.key == "ctrl+c":
            self.exit(int(ExitCode.INTERRUPTED))
        elif event.key == "f10" or (event.key == "escape" and not table.filter_text):
            self.exit(int(ExitCode.OK))
        elif event.key in {"left", "right"}:
            table.sort_next(1 if event.key == "right" else -1)
        elif event.key == "f4":
            table.is_reverse = not table.is_reverse
            table.update()
        elif event.key in {"escape", "ctrl+u"}:
            self._filter("")
        elif event.key in {"backspace", "ctrl+h"}:
            self._filter(table.filter_text[:-1])
        elif event.character is not None and event.is_printable:
            self._filter(table.filter_text + event.character)
        self._draw()

    def on_paste(self, event: events.Paste) -> None:
        """Into the filter, its first line."""
        self._filter(self._table.filter_text + event.text.split("\n", 1)[0])
        self._draw()

    def _filter(self, text: str) -> None:
        self._table.filter_text = text
        self._table.update()
        self._table.move_to(0)

    def on_click(self, event: events.Click) -> None:
        """On a heading or a line."""
        if self._table.region.contains(event.screen_x, event.screen_y):
            self._table.clicked(event.screen_x - self._table.region.x, event.screen_y - self._table.region.y)
