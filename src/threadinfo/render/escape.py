"""Text from the target made harmless for a terminal and for a line of a table.

Whatever is printed or written is a `Printable`, and only two functions make one: `printable`, from lines, and
`json.encode_ascii`. So a renderer that forgets to escape a name is no way out: it hands over lines, in which nothing of
its own is a control character, and the line breaks are added here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType

Printable = NewType("Printable", str)
"""Text in which no character but the line breaks of our own does anything to a terminal."""

Binary = NewType("Binary", bytes)
"""A format for other programs, which goes to no terminal."""


def printable(lines: Iterable[str]) -> Printable:
    """Lines as text, each ended by a line break; everything in them that is not printable is escaped."""
    return Printable("".join([f"{format_text(line)}\n" for line in lines]))


def format_text(text: str) -> str:
    r"""Control characters, line breaks and direction marks as ``\xNN`` or ``\uNNNN``; all else unchanged."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(ord(character)) for character in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
