"""What tracing says where it cannot work: the cause that it was, and a remedy that helps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or its capabilities")

_AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
_PYTHON = [sys.executable, "-m", "threadinfo"]


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A command from this checkout, with its output."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, check=False, env=environment, **options
    )


@pytest.mark.parametrize("limit", [5, 6, 12, 20, 32])
def test_too_many_open_files_is_said_to_be_that(bpf: None, limit: int) -> None:
    script = f'ulimit -n {limit}; exec "$@"'
    result = run("sh", "-c", script, "sh", *_PYTHON, str(os.getpid()), "--trace", "0.1", cwd=ROOT)
    assert (result.returncode, result.stdout) == (3, "")
    assert "Traceback" not in result.stderr
    assert "open" in result.stderr
    assert "files" in result.stderr
    for false_remedy in ("apt-get", "mount", "doctor"):
        assert false_remedy not in result.stderr


def test_root_without_capabilities_is_not_told_to_become_root() -> None:
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *_PYTHON]
    traced, doctor = run(*without, "1", "--trace", "0.1", cwd=ROOT), run(*without, "doctor", cwd=ROOT)
    assert traced.returncode == doctor.returncode == 3
    assert "CAP_BPF" in traced.stderr
    assert "--cap-add" in traced.stderr
    privilege = doctor.stdout[: doctor.stdout.index("PID namespace")]
    assert "--cap-add" in privilege
    assert "sudo" not in traced.stderr + privilege


def test_capabilities_without_root_are_enough(bpf: None) -> None:
    # As root for the files that only root may read here, and then without being it.
    capabilities = "+bpf,+perfmon,+sys_ptrace,+dac_read_search"
    command = [*_AS_NOBODY, f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", *_PYTHON]
    result = run(*command, str(os.getpid()), "--trace", "0.1", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "=== Scheduling" in result.stdout
    doctor = run(*command, "doctor", cwd=ROOT)
    assert doctor.stdout.startswith("ok       privilege: user 65534, capabilities: ")
