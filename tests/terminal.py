"""A real terminal for tests: tmux(1), with a shell in which the command runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT

_WAIT_SECONDS = 60.0  # a busy machine compiles BPF programs slowly
_LOOK_SECONDS = 0.05


class Terminal:
    """A window of tmux's with a shell. A context manager: everything in it ends with it."""

    def __init__(self, directory: Path, columns: int, lines: int, **environment: str) -> None:
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        variables = {key: value for key, value in os.environ.items() if key not in {"TMUX", "NO_COLOR", "COLUMNS"}}
        self._do(
            *("new-session", "-d", "-x", str(columns), "-y", str(lines), "-c", str(ROOT)),
            "env PS1='$ ' bash --norc --noprofile",
            environment=variables | {"LC_ALL": "C.UTF-8", "TERM": "screen-256color"} | environment,
        )
        try:
            self.wait_for("$")
        except BaseException:
            self._do("kill-server")
            raise

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._do("kill-server")

    def _do(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        result = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=20, env=environment
        )
        return result.stdout

    def run(self, *arguments: str | int, privileged: bool = True) -> None:
        """Types a threadinfo command, which prints its exit status when it ends."""
        module = ["threadinfo"] if privileged else ["tests.unprivileged", "threadinfo"]
        self.type(shlex.join([sys.executable, "-m", *module, *map(str, arguments)]) + "; echo status=$?\n")

    def type(self, text: str) -> None:
        """Types text as it is; a line break is Enter."""
        for index, line in enumerate(text.split("\n")):
            if index:
                self.press("Enter")
            if line:
                self._do("send-keys", "-l", line)

    def press(self, *keys: str) -> None:
        """Presses keys, by tmux's names."""
        self._do("send-keys", *keys)

    def mouse(self, column: int, line: int, *, button: int = 0) -> None:
        """A click, as a terminal reports it (SGR); columns and lines count from 1. 64 and 65 are the wheel."""
        self._do("send-keys", "-l", f"\x1b[<{button};{column};{line}M")
        if button < 64:
            self._do("send-keys", "-l", f"\x1b[<{button};{column};{line}m")

    def resize(self, columns: int, lines: int) -> None:
        """Another size."""
        self._do("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self, *, with_escapes: bool = False) -> str:
        """What is seen, without blanks at the ends of lines."""
        return self._do("capture-pane", "-p", *(["-e"] if with_escapes else []))

    def wait_for(self, *texts: str, without: str | None = None) -> str:
        """Waits until all these are seen, and another is not; gives the screen."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            screen = self.screen()
            if all(text in screen for text in texts) and (without is None or without not in screen):
                return screen
            assert time.monotonic() < deadline, f"waited for {texts} without {without!r}:\n{screen}"
            time.sleep(_LOOK_SECONDS)

    def wait_for_match(self, pattern: str) -> str:
        """Waits until a regular expression is found on the screen; gives the screen."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not re.search(pattern, screen := self.screen()):
            assert time.monotonic() < deadline, f"waited for {pattern!r}:\n{screen}"
            time.sleep(_LOOK_SECONDS)
        return screen

    def pane_pid(self) -> int:
        """The shell's."""
        return int(self._do("display-message", "-p", "#{pane_pid}"))

    def is_alternate(self) -> bool:
        """Whether the alternate screen is shown."""
        return self._do("display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}").split() != [
            *("0", "0", "1")
        ]
