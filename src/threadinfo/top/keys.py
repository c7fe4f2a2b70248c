"""Every key of the live view, once: what is pressed, what it does, and what the help says of it."""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """An action and its keys."""

    action: str
    """The name of the method `do_...` of the view."""
    keys: tuple[str, ...]
    """As Textual calls them."""
    shown: str
    """As the help shows them."""
    words: str


KEYS = (
    Key("help", ("question_mark", "f1", "h"), "? F1 h", "this help; again, or Esc, leaves it"),
    Key("quit", ("q", "f10"), "q F10", "quit; Ctrl-C too, with exit status 130"),
    Key("interrupt", ("ctrl+c",), "Ctrl-C", "quit, as an interrupt"),
    Key("threads", ("1", "t"), "1 t", "threads"),
    Key("descriptors", ("2", "d"), "2 d", "descriptors"),
    Key("sockets", ("3", "s"), "3 s", "sockets"),
    Key("events", ("4", "e"), "4 e", "what happened to descriptors, the newest first (as root)"),
    Key("next_view", ("tab",), "Tab", "the next of these; a terminal of 36 lines or more shows two"),
    Key("previous_view", ("shift+tab",), "Shift-Tab", "the one before"),
    Key("up", ("up", "k"), "Up k", "one line up"),
    Key("down", ("down", "j"), "Down j", "one line down"),
    Key("page_up", ("pageup", "ctrl+b", "b"), "PgUp Ctrl-B b", "one page up"),
    Key("page_down", ("pagedown", "ctrl+f"), "PgDn Ctrl-F", "one page down"),
    Key("first", ("home", "g"), "Home g", "to the first line"),
    Key("last", ("end", "G"), "End G", "to the last line"),
    Key("detail", ("enter",), "Enter", "all that is known of the line, with its stack and history"),
    Key("back", ("escape",), "Esc", "back to the table; there: forget filter and search"),
    Key("next_process", ("right",), "Right", "the next process of this name"),
    Key("previous_process", ("left",), "Left", "the one before"),
    Key("pick", ("p",), "p", "all processes, to choose another one"),
    Key("findings", ("f", "exclamation_mark"), "f !", "what stands out, with thresholds and advice"),
    Key("search", ("slash", "f3"), "/ F3", "search: the next line that holds the words"),
    Key("next_match", ("n",), "n", "the next match"),
    Key("previous_match", ("N",), "N", "the match before"),
    Key("filter", ("f4", "backslash", "ampersand"), "F4 \\ &", "show only lines that hold the words; empty: all"),
    Key("sort_right", ("f6", "greater_than_sign", "full_stop"), "F6 > .", "sort by the next column"),
    Key("sort_left", ("less_than_sign", "comma"), "< ,", "sort by the column before"),
    Key("reverse", ("I", "r"), "I r", "the other way round"),
    Key("columns", ("c",), "c", "choose columns: their names, in the order wanted; empty: as before"),
    Key("pause", ("space",), "Space", "pause, and go on with the newest"),
    Key("redraw", ("ctrl+l",), "Ctrl-L", "draw the screen anew"),
)

ACTIONS = {key: entry.action for entry in KEYS for key in entry.keys}
"""Textual's name of a key to the action."""

FOOTER = "F1 Help  Tab View  / Search  F4 Filter  F6 Sort  I Reverse  Space Pause  q Quit"


def help_lines() -> list[str]:
    """The help, at most 80 columns wide."""
    lines = ["Keys", ""]
    lines += [f"  {entry.shown:14} {entry.words}" for entry in KEYS if entry.action != "interrupt"]
    return [
        *lines,
        "",
        "Mouse: a click selects a line, a second one shows its detail; a click on a heading",
        "sorts by it, another one the other way round; the wheel scrolls.",
        "",
        "Marks",
        "",
        "  +              new: opened since the refresh before last",
        "  -              gone: closed since then; it stays on the screen for two refreshes",
        "  AGE >5s        open for longer than it was watched; without > it was seen opened",
        "",
        "Threads, as root",
        "",
        "  P99            of the waits for a CPU that ended in the interval: 99 % were shorter",
        "  TREND          P99 of the last refreshes, the newest at the right",
        "  DELAYED BY     who held the CPU longest meanwhile, and its part of the waiting",
        "  WAITS ON       what it was blocked in longest (from 100 columns on)",
        "  SW/S           context switches per second",
    ]
