"""Completion in the shells themselves, as the README sets it up; the manual, as each way of installing leaves it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, WORKLOADS, Start
from tests.terminal import Terminal

README = (ROOT / "README.md").read_text()
SHELLS = {
    "bash": ["bash --norc --noprofile"],
    "zsh": ["zsh -f", "PS1='$ '; unsetopt list_ambiguous; autoload -U compinit; compinit -D -u"],
    "fish": ["fish --no-config"],
}


def set_up(shell: str) -> str:
    """The line that the README has for a shell."""
    (line,) = re.findall(rf"^(.*_THREADINFO_COMPLETE={shell}_source .*?)  +#.*$", README, re.M)
    return str(line)


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal with the command on its path."""
    program = tmp_path / "bin" / "threadinfo"
    program.parent.mkdir()
    code = "import sys; sys.argv[0] = 'threadinfo'; from threadinfo.__main__ import main; main()"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    with Terminal(tmp_path, 100, 30, **path) as terminal:
        yield terminal


@pytest.mark.skipif(shutil.which("tmux") is None and not os.environ.get("CI"), reason="needs tmux")
@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_commands_options_and_processes(shell: str, window: Terminal, start: Start) -> None:
    if shutil.which(shell) is None and not os.environ.get("CI"):
        pytest.skip(f"needs {shell}")
    start(sys.executable, WORKLOADS / "many.py", "zytabbed", 1, 3)
    for line in (*SHELLS[shell], set_up(shell), "echo is''ready"):
        window.type(f"{line}\n")
    window.wait_for("\nisready")
    for typed, completed in (
        ("threadinfo doct", "threadinfo doctor"),
        ("threadinfo report --verb", "threadinfo report --verbose"),
        ("threadinfo zytabb", "threadinfo zytabbed"),
        ("threadinfo trace zytabb", "threadinfo trace zytabbed"),
    ):
        window.type(typed)
        window.press("Tab")
        window.wait_for(f"{completed} ".rstrip())
        window.press("C-u")  # a signal would take what is typed next with it


def find_manual(bin_directory: Path) -> Path:
    """The file that `man threadinfo` shows where this directory is on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "MANPATH"}
    environment["PATH"] = f"{bin_directory}:{os.environ['PATH']}"
    found = subprocess.run(["man", "-w", "threadinfo"], capture_output=True, text=True, check=True, env=environment)
    return Path(found.stdout.strip())


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_man_finds_the_manual_of_an_installed_wheel(tmp_path: Path) -> None:
    """In an environment of its own: pip would otherwise take away the installation that these tests run in."""
    quiet = ["--disable-pip-version-check", "--quiet"]
    build = [sys.executable, "-m", "pip", *quiet, "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("threadinfo-*.whl")
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    install: list[str | Path] = [
        place / "bin" / "python",
        "-m",
        "pip",
        *quiet,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(install, check=True, capture_output=True)
    found = find_manual(place / "bin")
    assert found == place / "share" / "man" / "man1" / "threadinfo.1"
    assert found.read_bytes() == (ROOT / "docs" / "threadinfo.1").read_bytes()
    assert (place / "bin" / "threadinfo").exists()


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_man_finds_the_manual_beside_what_make_has_set_up() -> None:
    """An editable installation, as scripts/setup makes it: these tests run in one."""
    assert find_manual(Path(sys.prefix) / "bin") == Path(sys.prefix) / "share" / "man" / "man1" / "threadinfo.1"


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_manual_is_without_a_warning_and_has_examples() -> None:
    result = subprocess.run(
        ["man", "--warnings=w", "-l", str(ROOT / "docs" / "threadinfo.1")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANROFFOPT": ""},
    )
    assert result.stderr == ""
    for heading in ("NAME", "SYNOPSIS", "TIMES", "EXAMPLES", "EXIT STATUS"):
        assert f"\n{heading}\n" in f"\n{result.stdout}"


def test_manual_has_every_option() -> None:
    import threadinfo.cli.main  # noqa: F401 - it brings every command
    from threadinfo.cli.group import cli

    manual = (ROOT / "docs" / "threadinfo.1").read_text().replace("\\-", "-")
    options = [
        [name for name in (*option.opts, *option.secondary_opts) if name.startswith("--")]
        for command in cli.commands.values()
        for option in command.params
    ]
    assert [names for names in options if names and not any(name in manual for name in names)] == []
    assert all(f"\n.BR {name} " in manual or f"\n.B {name}\n" in manual or f".BI {name} " in manual
               or f"\n.B threadinfo {name}\n" in manual for name in cli.commands)  # fmt: skip
