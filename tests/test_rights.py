"""What is said where the kernel refuses: the true reason, and never one that does not hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, WORKLOADS, Run, Start
from threadinfo import own_rights

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
TOOL = [sys.executable, "-m", "threadinfo"]


def gaps_of(prefix: list[str], pid: int) -> list[str]:
    """The remedies of a report that is made there."""
    result = subprocess.run(
        [*prefix, *TOOL, str(pid), "--format", "json"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return [gap["remedy"] or "" for gap in json.loads(result.stdout)["processes"][0]["gaps"]]


def test_root_of_a_user_namespace_is_told_of_that_and_not_of_a_capability_it_has(start: Start) -> None:
    process = start(sys.executable, WORKLOADS / "many.py", "outside", 1, 3)
    remedies = gaps_of(["unshare", "--user", "--map-root-user"], process.pid)
    assert "in a user namespace rights are not the host's: run it as root of the host" in remedies
    assert "lacks" not in " ".join(remedies)


def test_root_without_the_capability_is_told_which(start: Start) -> None:
    process = start(sys.executable, WORKLOADS / "many.py", "denied", 1, 3)
    # Owned by root with a capability more than the reader has: without CAP_SYS_PTRACE it may not look.
    remedies = gaps_of(["setpriv", "--bounding-set=-sys_ptrace,-net_raw"], process.pid)
    assert any(remedy.startswith("this root lacks CAP_SYS_PTRACE") for remedy in remedies)


def test_root_with_everything_is_told_what_else_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    words = own_rights.more_rights()
    assert words.startswith("this root has CAP_SYS_PTRACE: a security module of the kernel")
    assert "run" not in words.split()
    monkeypatch.setattr(own_rights, "own_status", {"CapEff": "1ffffffffff", "Seccomp": "2"}.__getitem__)
    assert "seccomp" in own_rights.more_rights()


def test_process_whose_descriptors_are_all_denied_has_an_unknown_number_of_them(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, WORKLOADS / "many.py", "guarded", 1, 3)
    prefix = ["setpriv", "--bounding-set=-sys_ptrace,-net_raw"]
    result = subprocess.run(
        [*prefix, *TOOL, str(process.pid), "--format", "json"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(result.stdout)["processes"][0]["descriptors"] is None
    assert len(json.loads(threadinfo(process.pid, "--format", "json").stdout)["processes"][0]["descriptors"]) >= 3
