"""A table that is drawn a line at a time: only lines that are seen are made, and only those that changed are drawn."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from threadinfo.render.escape import format_text
from threadinfo.top.columns import Column, column_widths

_PLAIN = Style()
_TITLE = Style(bold=True)
_TITLE_ACTIVE = Style(bold=True, color="cyan")
_HEADING = Style(reverse=True)
_CURSOR = Style(reverse=True, bold=True)
_CURSOR_ELSEWHERE = Style(underline=True)
_MARKED = {"+": Style(color="green", bold=True), "-": Style(color="red", dim=True)}
_FOUND = Style(color="yellow", bold=True)
HEADING_LINES = 2
"""Title and headings."""


class Line(Protocol):
    """What a table shows a line of."""

    mark: str

    @property
    def key(self) -> object:
        """Tells it from the others, and is the same in the next snapshot."""


def fit(text: str, width: int, *, is_right: bool = False) -> str:
    """Text of the target as exactly `width` cells of a terminal, escaped; what was cut off ends with "…"."""
    text = format_text(text[: 4 * width + 8])  # however long: what nobody sees costs nothing
    if text.isascii():
        if len(text) > width:
            return f"{text[: width - 1]}…" if width > 1 else text[:width]
        return text.rjust(width) if is_right else text.ljust(width)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return " " * (width - length) + text if is_right else text + " " * (width - length)


def segment(text: str, style: Style) -> Segment:
    """What is drawn, escaped: the only way from text to the terminal."""
    return Segment(format_text(text), style)


class Table(Widget):
    """Title, headings, lines; the cursor stays on its line (by key) while lines come and go, or on the first."""

    def __init__(self, open_line: Callable[[Table], None], **options: Any) -> None:
        """`open_line` is called when a line is clicked that is selected already."""
        super().__init__(**options)
        self._open_line = open_line
        self.title = ""
        self.columns: tuple[Column, ...] = ()
        self.sort_title = ""
        self.is_reverse = False
        self.is_active = False
        self.lines: Sequence[Any] = ()
        self.filter_text = ""
        self.search_text = ""
        self._all: Sequence[Any] = ()
        self._cursor = 0
        self._top = 0
        self._drawn: list[tuple[str, Style]] = []

    def show(self, title: str, columns: tuple[Column, ...], lines: Sequence[Any]) -> None:
        """Draws these lines, sorted and filtered."""
        self.title, self.columns, self._all = title, columns, lines
        self.update()

    def update(self) -> None:
        """Sorts, filters and draws anew; the cursor stays on its line where that is still there."""
        selected = self.selected()
        column = self.sort_column()
        lines = self._all
        if self.filter_text:
            words = self.filter_text.casefold()
            lines = [line for line in lines if words in self._text_of(line).casefold()]
        if column is not None:
            lines = sorted(lines, key=column.value, reverse=column.is_descending != self.is_reverse)
        self.lines = lines
        if selected is not None and self._cursor:  # on the first line it stays there: what comes first is of interest
            index = self._index_of(selected.key)
            self._cursor = self._cursor if index is None else index
        self.move_to(self._cursor)

    def _index_of(self, key: object) -> int | None:
        if self._cursor < len(self.lines) and self.lines[self._cursor].key == key:
            return self._cursor
        return next((index for index, line in enumerate(self.lines) if line.key == key), None)

    def sort_column(self) -> Column | None:
        """The one it is sorted by; the order of the lines themselves where there is none of that title."""
        return next((column for column in self.columns if column.title and column.title == self.sort_title), None)

    def sort_by(self, title: str) -> None:
        """Sorts by a column; by the one that it is sorted by already, the other way round."""
        self.is_reverse = not self.is_reverse if title == self.sort_title else False
        self.sort_title = title
        self.update()

    def sort_next(self, step: int) -> None:
        """Sorts by the next column that is shown, or the one before (-1)."""
        shown = self.shown_titles()
        if not shown:
            return
        index = shown.index(self.sort_title) if self.sort_title in shown else -1
        self.sort_title, self.is_reverse = shown[(index + step) % len(shown)], False
        self.update()

    def shown_titles(self) -> list[str]:
        """The headings that are seen."""
        return [column.title for column, width in self._shown() if column.title]

    def selected(self) -> Any | None:
        """The line under the cursor."""
        return self.lines[self._cursor] if self._cursor < len(self.lines) else None

    def page_lines(self) -> int:
        """How many lines are seen at once."""
        return max(1, self.size.height - HEADING_LINES)

    def move_to(self, index: int) -> None:
        """Moves the cursor, and what is seen with it."""
        page = self.page_lines()
        self._cursor = max(0, min(index, len(self.lines) - 1))
        self._top = max(0, min(self._top, len(self.lines) - page))
        if self._cursor < self._top:
            self._top = self._cursor
        elif self._cursor >= self._top + page:
            self._top = self._cursor - page + 1
        self.draw()

    def move(self, step: int) -> None:
        """Moves the cursor by some lines."""
        self.move_to(self._cursor + step)

    def select(self, key: Hashable) -> None:
        """Moves the cursor to a line, where that is there."""
        if (index := self._index_of(key)) is not None:
            self.move_to(index)

    def search(self, step: int) -> bool:
        """Moves to the next line that holds the words (-1: the one before), round the end; whether there is one."""
        count = len(self.lines)
        words = self.search_text.casefold()
        for distance in range(1, count + 1):
            index = (self._cursor + step * distance) % count
            if words and words in self._text_of(self.lines[index]).casefold():
                self.move_to(index)
                return True
        return False

    def _text_of(self, line: Any) -> str:
        return " ".join(column.text(line) for column in self.columns)

    def _shown(self) -> list[tuple[Column, int]]:
        widths = column_widths(self.columns, self.size.width)
        return [(column, width) for column, width in zip(self.columns, widths, strict=True) if width]

    def draw(self) -> None:
        """Draws the lines of the screen that changed."""
        drawn = self._make_lines()
        width = self.size.width
        changed = [y for y, line in enumerate(drawn) if y >= len(self._drawn) or self._drawn[y] != line]
        self._drawn = drawn
        if changed:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def _make_lines(self) -> list[tuple[str, Style]]:
        shown, width = self._shown(), self.size.width
        page = self.page_lines()
        first, last = (self._top + 1 if self.lines else 0), min(self._top + page, len(self.lines))
        where = f"{first}-{last} of {len(self.lines)}"
        words = [self.title, where]
        if self.filter_text:
            words.append(f"filter: {self.filter_text}")
        if (column := self.sort_column()) is not None:
            words.append(f"by {column.title} {'down' if column.is_descending != self.is_reverse else 'up'}")
        made = [
            (fit("  ".join(words), width), _TITLE_ACTIVE if self.is_active else _TITLE),
            (
                fit(" ".join(fit(column.title, wide, is_right=column.is_right) for column, wide in shown), width),
                _HEADING,
            ),
        ]
        searched = self.search_text.casefold()
        for index in range(self._top, last):
            line = self.lines[index]
            text = " ".join(fit(column.text(line), wide, is_right=column.is_right) for column, wide in shown)
            style = _MARKED.get(line.mark, _PLAIN)
            if index == self._cursor:
                style = _CURSOR if self.is_active else _CURSOR_ELSEWHERE
            elif searched and searched in text.casefold():
                style = _FOUND
            made.append((text.ljust(width), style))
        made += [(" " * width, _PLAIN)] * (self.size.height - len(made))
        return made

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        if y >= len(self._drawn):
            return Strip.blank(self.size.width)
        text, style = self._drawn[y]
        return Strip([segment(text, style)])

    def on_resize(self) -> None:
        """Other columns fit."""
        self._drawn = []
        self.move_to(self._cursor)

    def on_mouse_scroll_down(self) -> None:
        """The wheel."""
        self.move(3)

    def on_mouse_scroll_up(self) -> None:
        """The wheel."""
        self.move(-3)

    def clicked(self, x: int, y: int) -> None:
        """A click on a heading sorts, one on a line selects it, and one on the selected line opens it."""
        if y < HEADING_LINES:
            self._clicked_heading(x)
            return
        index = self._top + y - HEADING_LINES
        if index >= len(self.lines):
            return
        if index == self._cursor:
            self._open_line(self)
        else:
            self.move_to(index)

    def _clicked_heading(self, x: int) -> None:
        end = 0
        for column, width in self._shown():
            end += width + 1
            if x < end:
                if column.title:
                    self.sort_by(column.title)
                return
