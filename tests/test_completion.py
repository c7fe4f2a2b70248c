"""Completion for bash, as click's own script for it asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, WORKLOADS, Start


def complete(*words: str) -> list[str]:
    """What is offered for the last word."""
    program = "import threadinfo.cli.main as main\nmain.cli(prog_name='threadinfo')\n"
    environment = {"_THREADINFO_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("threadinfo", *words))}
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | environment | {"COMP_CWORD": str(len(words))},
    )
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


@pytest.mark.parametrize("before", [[], ["report"], ["trace"], ["another"], ["-v"]])
def test_a_target_is_completed_wherever_it_may_stand(start: Start, before: list[str]) -> None:
    start(sys.executable, WORKLOADS / "many.py", "tab-completed", 1, 3)
    assert complete(*before, "tab-c") == ["tab-completed"]


def test_commands_and_options_are_completed() -> None:
    assert "trace" in complete("tra")
    assert {"--version", "--help"} <= set(complete("--"))
    assert "--format" in complete("report", "--")
