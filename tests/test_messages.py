"""What is said to who mistook a word: the right form, the exit code of the contract, and nothing on standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, WORKLOADS, Run, Start
from threadinfo.cli.nearest import nearest
from threadinfo.cli.options import Time

MANY = WORKLOADS / "many.py"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("doctro", "the command doctor"),
        ("trce", "the command trace"),
        ("TOPP", "the command top"),
        ("help", "threadinfo --help"),
        ("version", "threadinfo --version"),
    ],
)
def test_first_word_that_is_nearly_a_command(word: str, meant: str, threadinfo: Run) -> None:
    result = threadinfo(word)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Process {word} not found\n  no process is called {word}; did you mean {meant}?\n"


def test_command_is_meant_only_where_one_may_stand(threadinfo: Run) -> None:
    for arguments in (("report", "doctro"), ("trace", "doctro"), ("4194304", "doctro")):
        result = threadinfo(*arguments)
        assert result.returncode == 1
        assert "the command" not in result.stderr


@pytest.mark.parametrize("command", [[], ["report"], ["trace"]])
def test_nearest_name_of_a_process_is_told(command: list[str], start: Start, threadinfo: Run) -> None:
    start(sys.executable, MANY, "zyqueue-worker", 1, 3)
    for mistaken in ("zyqueue-wroker", "zyqueue", "ZYQUEUE-WORKER"):
        result = threadinfo(*command, mistaken)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.endswith(f"no process is called {mistaken}; did you mean the process zyqueue-worker?\n")
    assert threadinfo(*command, "zzzzzzzz").stderr == "Process zzzzzzzz not found\n"


def test_name_that_attacks_a_terminal_is_harmless_as_the_nearest_too(start: Start, threadinfo: Run) -> None:
    start(sys.executable, MANY, "zyquack\x1b]0;a", 1, 3)
    result = threadinfo("zyquack]0;a")
    assert "the process zyquack\\x1b]0;a?" in result.stderr
    assert "\x1b" not in result.stderr


def test_path_in_place_of_a_name(start: Start, threadinfo: Run, tmp_path: Path) -> None:
    process = start(sys.executable, MANY, "zyserver", 1, 3)
    program, saved, plain = tmp_path / "zyserver", tmp_path / "r.json", tmp_path / "notes"
    for file in (program, saved, plain):
        file.write_text("")
    program.chmod(0o755)
    idle = tmp_path / "zy idle"
    idle.symlink_to("/bin/true")
    hints = {
        f"{program}": "by its name: threadinfo zyserver",
        f"{idle}": f"to start it: threadinfo run -- '{idle}'",
        f"{saved}": f"threadinfo show {saved}",
        f"{plain}": "a PID or a name, and this is a file",
        f"{tmp_path}/missing": "a PID or a name, and this is a path",
        f"/proc/{process.pid}": f"threadinfo {process.pid}",
        f"/proc/{process.pid}/fd": f"threadinfo {process.pid}",
    }
    for path, words in hints.items():
        result = threadinfo(path)
        assert (result.returncode, result.stdout) == (1, ""), path
        first, second = result.stderr.splitlines()
        assert first == f"Process {path} not found"
        assert second.endswith(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("-p 4321", "A process needs no option: threadinfo 4321."),
        ("-p4321", "threadinfo 4321."),
        ("--pid 4321", "threadinfo 4321."),
        ("--pid=4321", "threadinfo 4321."),
        ("trace --pid 4321", "threadinfo trace 4321."),
        ("top -p", "threadinfo top TARGET."),
        ("trace -o file 1", "threadinfo trace TARGET > FILE."),
        ("trace --output file 1", "threadinfo TARGET --trace TIME -o FILE."),
        ("trace --trace 5 1", "--duration TIME."),
        ("report --duration 5 1", "threadinfo TARGET --trace TIME."),
        ("1 --duration 5", "threadinfo TARGET --trace TIME."),
        ("top --delay 5 1", "--interval TIME."),
        ("1 --json", "--format json."),
        ("1 --failures", "an option of: trace."),
        ("trace 1 --user web", "an option of: run."),
        ("1 --fromat json", "'--format'"),
        ("1 --trace 1 --only descriptor", "did you mean descriptors?"),
        ("trace 1 --kind sokcet", "The nearest is 'socket'."),
    ],
)
def test_option_that_is_called_otherwise_here(arguments: str, words: str, threadinfo: Run) -> None:
    result = threadinfo(*arguments.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith(f"{words}\n") or words in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", ["--only sockets", "--only descriptors,scheduling,waits", "--follow", "--no-stacks"])
def test_option_of_a_trace_without_one_is_an_error(option: str, threadinfo: Run) -> None:
    result = threadinfo("1", *option.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"{option.split(maxsplit=1)[0]} is of a trace\n  add --trace TIME, for example --trace 5s\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("5", 5.0), ("5s", 5.0), ("0.5", 0.5), (".5s", 0.5), ("5.", 5.0), ("500ms", 0.5), ("200us", 0.0002)),
        *(("7ns", 7e-9), ("2m", 120.0), ("2min", 120.0), ("1h", 3600.0), ("5 s", 5.0), (" 5s ", 5.0), ("24h", 86400.0)),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert Time().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "nan", "inf", "-1", "1e3", "1_0", "5ss", "5 s 3", "0", "25h"])
@pytest.mark.parametrize("option", ["report 1 --trace", "trace 1 --duration", "trace 1 --threshold"])
def test_what_is_no_time(text: str, option: str, threadinfo: Run) -> None:
    import click

    with pytest.raises(click.BadParameter, match=r"is not (a time like 5s, 500ms or 2m|between 1ns and 24h)"):
        Time().convert(text, None, None)
    if text in {"5x", "0"}:  # every option that takes a time takes this one
        result = threadinfo(*option.split(), text)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"Invalid value for '{option.rsplit(maxsplit=1)[-1]}': '{text}' is not " in result.stderr


def test_every_option_that_is_a_time_has_the_one_type() -> None:
    import threadinfo.cli.main  # noqa: F401 - it brings every command
    from threadinfo.cli.group import cli

    options = {
        (name, option.name): option.type
        for name, command in cli.commands.items()
        for option in command.params
        if option.name in {"trace_seconds", "duration", "interval", "threshold"}
    }
    assert len(options) == 4
    assert all(isinstance(kind, Time) for kind in options.values()), options


def test_nearest() -> None:
    assert nearest("nginz", ["nginx", "redis"]) == "nginx"
    assert nearest("redis", ["redis-server", "redis-sentinel"]) == "redis-server"
    assert nearest("re", ["redis"]) is None
    assert nearest("absent", ["present"]) is None
    assert nearest("anything", []) is None


def test_examples_of_times_in_the_manual_are_times() -> None:
    manual = (ROOT / "docs" / "threadinfo.1").read_text()
    for text in ("500ms", "200us", "2m", "1h"):
        assert text in manual
        Time().convert(text, None, None)
