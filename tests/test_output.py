"""Where the result goes: the names of our own descriptors, and standard streams that are closed or full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from threadinfo.errors import OutputError
from threadinfo.output import OutputFile


def run_shell(script: str, *arguments: str | int) -> subprocess.CompletedProcess[str]:
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
