"""Where the result goes: the names of our own descriptors, and standard streams that are closed or full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from threadinfo.errors import OutputError
from threadinfo.output import OutputFile


def run_shell(script: str, *arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    """The command with arguments in a shell's redirections: `script` calls it "$@"."""
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "threadinfo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"])
def test_output_to_our_own_descriptor_is_written_to_it(name: str, tmp_path: Path) -> None:
    result = run_shell('"$@"', os.getpid(), "-o", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("=== Memory Footprint")


def test_output_link_below_dev_is_not_replaced_though_it_leads_to_a_file(tmp_path: Path) -> None:
    # As root, replacing it would leave the machine without /dev/stdout. Not by the command, lest it do so here.
    file = tmp_path / "file"
    with file.open("wb") as redirected:
        saved = os.dup(1)
        try:
            os.dup2(redirected.fileno(), 1)
            with OutputFile("/dev/stdout") as output:
                assert output._temporary is None
                output.commit("all of it\n")
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    assert file.read_text() == "all of it\n"


def test_output_to_a_descriptor_that_is_closed_is_said() -> None:
    with pytest.raises(OutputError, match="Bad file descriptor"):
        OutputFile("/proc/self/fd/999999")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root looks at SUDO_UID")
@pytest.mark.parametrize("uid", ["99999999999999", "9" * 5000])
def test_output_under_a_sudo_of_an_impossible_user_stays_ours(uid: str, threadinfo: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    result = threadinfo(os.getpid(), "-o", file, env=os.environ | {"SUDO_UID": uid})
    assert (result.returncode, result.stderr) == (0, "")
    assert file.stat().st_uid == 0
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_to_a_file_needs_no_standard_streams(streams: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert run_shell(f'"$@" {streams}', os.getpid(), "--format", "json", "-o", file).returncode == 0
    assert file.read_text().endswith("}\n")


def test_a_closed_standard_stream_is_nobody_elses_number(tmp_path: Path) -> None:
    program = (
        "import os, threadinfo.cli as cli\n"
        "try: cli.main()\n"
        "finally: os.write(9, repr([os.readlink(f'/proc/self/fd/{n}') for n in range(3)]).encode())"
    )
    script = f"exec 9>{tmp_path}/fds <&- >&- 2>&-; exec '{sys.executable}' -c \"$0\" 1 -o /dev/null"
    subprocess.run(["sh", "-c", script, program], check=True, cwd=ROOT)
    assert (tmp_path / "fds").read_text() == repr(["/dev/null"] * 3)


def test_a_late_or_early_interrupt_is_no_traceback(tmp_path: Path) -> None:
    module = tmp_path / "threadinfo"
    module.mkdir()
    entry = (ROOT / "src" / "threadinfo" / "__main__.py").read_text()
    (module / "__main__.py").write_text(entry)
    (module / "__init__.py").write_text("")
    (module / "cli.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "threadinfo"]
    early = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}
    )
    assert (early.returncode, early.stderr) == (-signal.SIGINT, "")
    program = (
        "import os, signal, threadinfo.cli as cli\n"
        "cli._flush_or_drop = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "1", "-o", "/dev/null"]
    late = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (late.returncode, late.stderr) == (-signal.SIGINT, "")
