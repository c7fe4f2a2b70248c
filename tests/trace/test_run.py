"""`threadinfo run`: a command from its first instruction, which finds everything as it would without us."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, WORKLOADS

pytestmark = pytest.mark.usefixtures("bpf")
TOOL = [sys.executable, "-m", "threadinfo", "run"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("COV")}


def run(*words: str | Path, check: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """The tool with its options and a command."""
    command = [*TOOL, *map(str, words)]
    options = {"env": ENVIRONMENT, "cwd": ROOT, **options}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert check is None or result.returncode == check, result.stderr
    return result


def test_command_finds_everything_as_it_would_without_us(tmp_path: Path) -> None:
    probe = [sys.executable, str(WORKLOADS / "surroundings.py"), "--port", "an argument", ""]
    reader, writer = os.pipe()
    options: dict[str, Any] = {"cwd": tmp_path, "pass_fds": [writer], "stdin": subprocess.DEVNULL}
    options["env"] = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "src"), "COLOUR": "blue \n green"}
    try:
        alone = subprocess.run(probe, capture_output=True, text=True, check=True, **options)
        ours = run("-o", tmp_path / "report", "--", *probe, **options)
    finally:
        os.close(reader)
        os.close(writer)
    expected, found = json.loads(alone.stdout), json.loads(ours.stdout)
    for one in (expected, found):
        del one["links"]
    assert found == expected
    assert writer in found["descriptors"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["true"], 0),
        (["/nonexistent/program"], 127),
        (["no-such-program-at-all"], 127),
        (["/etc/passwd"], 126),
        (["/tmp"], 126),
    ],
)
def test_exit_status_is_the_commands(command: list[str], status: int) -> None:
    result = run("--only", "descriptors", "--", *command, check=status)
    assert result.stdout == ""
    if status in {126, 127}:
        assert result.stderr.startswith(f"cannot run {command[0]}: ")
        assert "===" not in result.stderr
    else:
        assert "=== Trace Confidence ===" in result.stderr


def test_file_in_path_that_is_not_executable_is_126(tmp_path: Path) -> None:
    (tmp_path / "a-text").write_text("words")
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{ENVIRONMENT['PATH']}"}
    assert run("--", "a-text", check=126, env=environment).stderr == "cannot run a-text: Permission denied\n"


def test_locale_that_python_chose_for_itself_is_not_the_commands(tmp_path: Path) -> None:
    bare = {"PATH": ENVIRONMENT["PATH"], "PYTHONPATH": str(ROOT / "src"), "LC_MESSAGES": "C"}
    coerced = subprocess.run(
        [sys.executable, "-c", "import os; print('LC_CTYPE' in os.environ)"],
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    assert coerced.stdout == "True\n"  # or there is nothing to put back
    options = ["--only", "descriptors", "-o", str(tmp_path / "report"), "--", "env"]
    assert sorted(run(*options, env=bare).stdout.splitlines()) == sorted(f"{key}={bare[key]}" for key in bare)
    chosen = {**bare, "LC_CTYPE": "C"}
    assert "LC_CTYPE=C\n" in run(*options, env=chosen).stdout


def test_script_that_names_no_interpreter_is_the_shells_and_one_that_names_a_missing_one_is_not(
    tmp_path: Path,
) -> None:
    script, missing = tmp_path / "script", tmp_path / "missing"
    script.write_text("exit 11\n")
    missing.write_text("#!/nonexistent/interpreter\n")
    for path in (script, missing):
        path.chmod(0o755)
    run("--only", "descriptors", "--", script, check=11)
    result = run("--only", "descriptors", "--", missing, check=127)
    assert "the interpreter or loader that it names is not" in result.stderr


def test_unknown_user_is_wrong_usage_and_a_known_one_is_who_it_runs_as() -> None:
    assert "there is no user" in run("--user", "nobody-at-all", "--", "true", check=2).stderr
    result = run("--user", "nobody", "--", "sh", "-c", "id -un; echo $HOME $USER $LOGNAME")
    assert result.stdout.split("\n")[0] == "nobody"
    assert result.stdout.split("\n")[1].split()[-2:] == ["nobody", "nobody"]


def test_every_descriptor_is_seen_from_the_loaders_on(tmp_path: Path) -> None:
    program = "import os\nfor _ in range(101): os.close(os.open('/dev/zero', 0))\ns = __import__('socket').socket()"
    run("--format", "json", "-o", tmp_path / "r.json", "--", sys.executable, "-c", program)
    (process,) = json.loads((tmp_path / "r.json").read_text())["processes"]
    opened = process["trace"]["descriptors"]
    assert opened["by_syscall"]["socket"] == 1
    paths = {one["path"]: one["opened_count"] for one in opened["by_path"]}
    assert paths["/dev/zero"] == 101
    (socket,) = [event for event in process["trace"]["sockets"]["events"] if event["event"] == "socket"]
    assert (socket["family"], socket["socket_type"], socket["tid"]) == ("AF_INET", "SOCK_STREAM", process["pid"])
    assert opened["closed_by"].get("exec", 0) == 0  # nothing of ours was in its way
    assert process["trace"]["confidence"]["lost_count"] == 0


def test_pipeline_and_a_command_whose_descendant_lives_on(tmp_path: Path) -> None:
    assert run("--", "sh", "-c", "echo one two | wc -w").stdout.strip() == "2"
    result = run("--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    child = int(result.stdout)
    os.kill(child, signal.SIGKILL)  # it lives
    assert "Trace Confidence" in result.stderr


def test_what_was_open_shortly_before_the_end_is_told_with_its_origin(tmp_path: Path) -> None:
    program = (
        "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(3)\nprint('x'); time.sleep(3)"
    )
    run("--format", "json", "-o", tmp_path / "r.json", "--", sys.executable, "-u", "-c", program)
    (process,) = json.loads((tmp_path / "r.json").read_text())["processes"]
    (listener,) = [one for one in process["descriptors"] if one["type"] == "socket" and one["origin"]]
    assert listener["origin"]["syscall"] == "socket"
    assert [event["event"] for event in listener["origin"]["events"]] == ["bind", "listen"]
    assert listener["origin"]["stack"]
    (gap,) = [gap for gap in process["gaps"] if gap["section"] == "process"]
    assert "before the end" in gap["cause"]


def test_signal_that_is_sent_to_us_reaches_the_command() -> None:
    script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [*TOOL, "--only", "descriptors", "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
    ) as tool:
        assert tool.stdout is not None
        assert tool.stdout.readline() == "ready\n"
        tool.send_signal(signal.SIGTERM)
        output, errors = tool.communicate(timeout=60)
    assert (output, tool.returncode) == ("told\n", 5)
    assert "=== Trace Confidence ===" in errors


def read_until(terminal: int, text: str) -> str:
    said = ""
    while text not in said:
        wait_for_more(terminal, said)
        said += os.read(terminal, 65536).decode()
    return said


def wait_for_more(terminal: int, said: str) -> None:
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    assert poll.poll(60_000), f"nothing came after {said!r}"


def drain(terminal: int) -> Iterator[str]:
    while True:
        wait_for_more(terminal, "the end was asked for")
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return
        if not data:
            return
        yield data.decode()


def test_ctrl_c_is_the_commands_and_the_report_still_comes() -> None:
    script = "trap 'echo interrupted; exit 9' INT; tty >/dev/null && echo ready; while :; do sleep 0.05; done"
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execve(sys.executable, [*TOOL, "--only", "descriptors", "--", "sh", "-c", script], ENVIRONMENT)
    said = read_until(terminal, "ready")
    os.write(terminal, b"\x03")
    said += "".join(drain(terminal))
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 9
    assert said.count("interrupted\r\n") == 1
    assert "=== Trace Confidence ===" in said


def test_output_that_cannot_be_written_is_said_before_the_command_begins(tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = run("-o", tmp_path / "no" / "where", "--", "touch", made, check=125)
    assert "cannot write" in result.stderr
    assert not made.exists()


def waiting_child(tool: subprocess.Popen[str]) -> int:
    """The command before its exec: it waits for its release in rt_sigtimedwait(2)."""
    while True:
        assert tool.poll() is None
        children = Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/syscall").read_text().split()[0] in {"128", "137"}:
            return int(children[0])


def begin(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TOOL, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
    )


def test_command_that_is_stopped_and_continued_while_we_attach_does_not_begin_unseen(tmp_path: Path) -> None:
    program = "import os\nfor _ in range(101): os.close(os.open('/dev/zero', 0))"
    with begin("--format", "json", "-o", tmp_path / "r.json", "--", sys.executable, "-c", program) as tool:
        child = waiting_child(tool)
        os.kill(child, signal.SIGTSTP)
        os.kill(child, signal.SIGCONT)  # as Ctrl-Z and fg do
        _, errors = tool.communicate(timeout=60)
    assert tool.returncode == 0, errors
    (process,) = json.loads((tmp_path / "r.json").read_text())["processes"]
    assert {one["path"]: one["opened_count"] for one in process["trace"]["descriptors"]["by_path"]}["/dev/zero"] == 101


def test_command_does_not_outlive_us_when_we_are_killed_while_we_attach(tmp_path: Path) -> None:
    with begin("--", "touch", tmp_path / "made") as tool:
        child = os.pidfd_open(waiting_child(tool))
        tool.kill()
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert poll.poll(30_000), "it still waits for its release"
    os.close(child)
    assert not (tmp_path / "made").exists()


def test_signal_before_the_beginning_is_the_status_and_there_is_no_report() -> None:
    with begin("--", "sleep", "1000") as tool:
        os.kill(waiting_child(tool), signal.SIGINT)
        output, errors = tool.communicate(timeout=60)
    assert (tool.returncode, output, errors) == (130, "", "sleep was ended before it began\n")


def test_interrupt_that_is_sent_to_us_alone_in_the_foreground_reaches_the_command() -> None:
    script = "trap 'echo told; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execve(sys.executable, [*TOOL, "--only", "descriptors", "--", "sh", "-c", script], ENVIRONMENT)
    said = read_until(terminal, "ready")
    os.kill(pid, signal.SIGINT)
    said += "".join(drain(terminal))
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5
    assert said.count("told\r\n") == 1


STUBBORN = "trap '' TSTP; echo be''gun; read line; echo got $line; exit 3"
OBEDIENT = "echo be''gun; read line; echo got $line; exit 3"


def shell_with_jobs() -> tuple[int, int]:
    """An interactive shell on a terminal of its own, whose prompt is "next> "."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execve(
            "/bin/bash", ["bash", "--norc", "--noprofile", "-i"], {**ENVIRONMENT, "PS1": "next> ", "HISTFILE": ""}
        )
    read_until(terminal, "next> ")
    return pid, terminal


def test_job_is_stopped_by_ctrl_z_and_goes_on_in_the_foreground() -> None:
    shell, terminal = shell_with_jobs()
    tool = " ".join(map(shlex.quote, [*TOOL, "--only", "descriptors", "-o", "/dev/null", "--", "sh", "-c", OBEDIENT]))
    os.write(terminal, f"{tool}\n".encode())
    read_until(terminal, "begun\r\n")
    os.write(terminal, b"\x1a")
    assert "Stopped" in read_until(terminal, "next> ")
    os.write(terminal, b"jobs -l\n")
    assert "Stopped" in read_until(terminal, "next> ")
    os.write(terminal, b"fg\n")
    read_until(terminal, "exit 3")  # the shell repeats the command
    os.write(terminal, b"words\n")
    assert "got words" in read_until(terminal, "next> ")
    os.write(terminal, b"echo status $?; exit\n")
    assert "status 3" in "".join(drain(terminal))
    os.waitpid(shell, 0)
    os.close(terminal)


def test_job_that_ignores_ctrl_z_keeps_the_terminal() -> None:
    shell, terminal = shell_with_jobs()
    tool = " ".join(map(shlex.quote, [*TOOL, "--only", "descriptors", "-o", "/dev/null", "--", "sh", "-c", STUBBORN]))
    os.write(terminal, f"{tool}\n".encode())
    read_until(terminal, "begun\r\n")
    os.write(terminal, b"\x1awords\n")
    said = read_until(terminal, "next> ")
    assert "got words" in said
    assert "Stopped" not in said
    os.write(terminal, b"echo status $?; exit\n")
    assert "status 3" in "".join(drain(terminal))
    os.waitpid(shell, 0)
    os.close(terminal)


def test_run_as_a_page_tells_of_sockets_that_are_closed_by_then(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    program = "import socket; s = socket.create_server(('127.0.0.1', 0)); s.close(); raise SystemExit(5)"
    run("--format", "html", "-o", page, "--", sys.executable, "-c", program, check=5)
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    stories = text[text.index("Sockets that the trace saw") :]
    assert "AF_INET SOCK_STREAM TCP" in stories
    assert "bound to 127.0.0.1:" in stories
    assert "listening with a backlog of" in stories
