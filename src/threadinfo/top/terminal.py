"""The terminal: whether it will do, what is written to it, and how it is left."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from textual.drivers.linux_driver import LinuxDriver

from threadinfo.errors import NotAvailableError

if TYPE_CHECKING:
    from textual.app import App

# Mouse, focus and paste reports off, wrapping on, keyboard protocol, colours, cursor and normal screen back.
_PUT_BACK = (
    b"\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2048l\x1b[?7h\x1b[<u\x1b[0m\x1b[?1049l"
    b"\x1b[?25h"
)
_OTHER_SCREEN, _NORMAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
_HUNG_UP = 129  # 128 + SIGHUP


def check_terminal() -> None:
    """Raises NotAvailableError, with the remedy, where standard input and output are no terminal to draw on."""
    streams = {"standard input": sys.stdin, "standard output": sys.stdout}
    for name, stream in streams.items():
        if stream is None or not stream.isatty():
            raise NotAvailableError(
                f"the live view needs a terminal, and {name} is none", "for a file or a pipe: threadinfo report TARGET"
            )
    if os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        raise NotAvailableError(
            f"the live view needs a terminal that it can draw on, and TERM is {os.environ.get('TERM') or 'not set'}",
            "set TERM to what it is, for example TERM=xterm-256color; or threadinfo report TARGET",
        )


@contextlib.contextmanager
def kept_terminal() -> Iterator[None]:
    """Leaves the terminal as it was found, whatever happens between; Textual's own driver does so unless it fails."""
    attributes = termios.tcgetattr(0)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(1, _PUT_BACK)
        raise
    finally:
        with contextlib.suppress(termios.error, OSError):  # it may have hung up
            if termios.tcgetattr(0) != attributes:
                termios.tcsetattr(0, termios.TCSAFLUSH, attributes)


class _Screen:
    """Standard output under another number, as the file that Textual writes to: what is written to a terminal that has
    hung up does no harm.
    """

    def __init__(self, *, continues: bool) -> None:
        self.continues = continues
        self._fd = os.dup(1)
        self.encoding = sys.stdout.encoding or "utf-8"
        self.is_gone = False
        self.stays = False
        """Whether the next view follows at once: then what was on the terminal before is not shown between."""

    def write(self, text: str) -> int:
        if self.continues:
            text = text.replace(_OTHER_SCREEN, "")
        if self.stays:
            text = text.replace(_NORMAL_SCREEN, "")
        data = memoryview(text.encode(self.encoding, "replace"))
        while data and not self.is_gone:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                self.is_gone = True
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return True


class TerminalDriver(LinuxDriver):
    """Textual's driver, on standard output, that outlives a terminal that hangs up."""

    continues = False
    """Whether a view before this one has left the terminal on the other screen."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self._screen = _Screen(continues=self.continues)
        self._file = self._screen  # type: ignore[assignment]

    def stop_application_mode(self) -> None:
        """Back to the normal screen, unless another view follows."""
        self._screen.stays = getattr(self._app, "goes_to", None) is not None
        super().stop_application_mode()

    def _get_terminal_size(self) -> tuple[int, int]:
        """Of the terminal itself: COLUMNS and LINES would outlast a resize."""
        try:
            columns, lines = os.get_terminal_size(self._screen.fileno())
        except OSError:
            return 80, 24
        return columns or 80, lines or 24

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:  # it hung up
            self._app.call_later(self._app.exit, None, _HUNG_UP)
