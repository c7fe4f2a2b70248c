"""Text from the target made harmless for a terminal and for a line of a table."""

from __future__ import annotations


def format_text(text: str) -> str:
    r"""Control characters, line breaks and direction marks as ``\xNN`` or ``\uNNNN``; all else unchanged."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(ord(character)) for character in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
