"""What the live view and the picker are both made of."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from rich.style import Style
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from threadinfo.errors import ENDING_SIGNALS, ExitCode
from threadinfo.top.table import fit, segment

ENDING = {number: 128 + number for number in ENDING_SIGNALS} | {signal.SIGINT: int(ExitCode.INTERRUPTED)}
"""Signals that end a view as keys do, so that the terminal is put back, with the exit status."""


class Lines(Widget):
    """Lines of text with their styles, as they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lines: list[tuple[str, Style]] = []

    def show(self, lines: Sequence[tuple[str, Style]]) -> None:
        """Draws them where they changed."""
        width = self.size.width
        fitted = [(fit(text, width), style) for text, style in lines]
        if fitted != self._lines:
            self._lines = fitted
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width)
        text, style = self._lines[y]
        return Strip([segment(text, style)])


class PlainScreen(Screen[None], inherit_bindings=False):
    """Without Textual's own keys."""

    ALLOW_SELECT = False
