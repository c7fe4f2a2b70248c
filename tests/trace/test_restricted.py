"""Restricted environments: doctor's verdict and a real trace agree in every one, and both name what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.trace.conftest import why_not
from tests.trace.test_remedies import _AS_NOBODY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes environments")
TOOL = [sys.executable, "-m", "threadinfo"]


def without(*capabilities: str) -> list[str]:
    """Root that lacks some."""
    return ["setpriv", "--bounding-set=" + ",".join(f"-{name}" for name in capabilities)]


def limited(*options: str) -> list[str]:
    return ["prlimit", *options]


def mounted(*commands: str) -> list[str]:
    """In a mount namespace of its own, after commands of the shell."""
    return ["unshare", "-m", "sh", "-ec", "; ".join([*commands, 'exec "$@"']), "sh"]


def hidden(path: str) -> str:
    """What lies at a path, made unusable."""
    return f"mount --bind /dev/null $(readlink -f {path})"


class Environment(NamedTuple):
    """How a command is run there, and what makes tracing impossible, in words that must be said; None where nothing."""

    prefix: list[str]
    missing: str | None = None
    remedy: str = ""
    noted: str = ""
    """A check that is not met, though tracing works."""


LIBRARIES = "/usr/lib/*-linux-gnu"
READ_ONLY = (
    "mount -o remount,ro,bind /",
    "for directory in /tmp /var/tmp /dev/shm /run; do "
    "mount --bind $directory $directory; mount -o remount,ro,bind $directory; done",
    "cd /",
)
NOTHING_COMPILED = "mount -t tmpfs none /var/cache"
NO_DIRECTORY = ["sh", "-ec", 'd=$(mktemp -d); cd "$d"; rmdir "$d"; exec "$@"', "sh"]
ENVIRONMENTS = {
    "nothing is restricted": Environment([]),
    "another user": Environment(
        [*_AS_NOBODY, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"], "CAP_BPF", "sudo"
    ),
    "no capability": Environment(without("all"), "CAP_BPF", "--cap-add"),
    "no CAP_BPF": Environment(without("bpf", "sys_admin"), "CAP_BPF", "--cap-add"),
    "no CAP_PERFMON": Environment(without("perfmon", "sys_admin"), "CAP_PERFMON", "--cap-add"),
    "no CAP_SYS_ADMIN": Environment(without("sys_admin")),
    "no CAP_SYS_PTRACE": Environment(without("sys_ptrace"), noted="other processes"),
    "no CAP_KILL": Environment(without("kill")),
    "no CAP_SETUID, no CAP_SYS_CHROOT": Environment(without("setuid", "setgid", "sys_chroot", "setpcap")),
    "user namespace": Environment(["unshare", "-Ur"], "user namespace", "outside of the user namespace"),
    "PID namespace": Environment(["unshare", "-pf", "--mount-proc"], "PID namespace", "on the host"),
    "read-only, no temporary directory": Environment(mounted(*READ_ONLY), noted="temporary files"),
    "removed working directory": Environment(NO_DIRECTORY),
    "no /sys": Environment(mounted("mount -t tmpfs none /sys"), "/sys/devices/system/cpu", "mount -t sysfs"),
    "no BTF": Environment(mounted("mount -t tmpfs none /sys/kernel/btf"), "/sys/kernel/btf/vmlinux", "BTF"),
    "subset=pid": Environment(mounted("mount -t proc -o subset=pid proc /proc"), "/proc/sys", "mount -t proc"),
    "hidepid=2": Environment(mounted("mount -t proc -o hidepid=2 proc /proc")),
    "hidepid=2 without CAP_SYS_PTRACE": Environment(
        [*mounted("mount -t proc -o hidepid=2 proc /proc"), *without("sys_ptrace")], noted="other processes"
    ),
    "100 MiB of memory": Environment(limited(f"--as={100 << 20}"), "100 MiB", "ulimit -v"),
    "300 MiB of memory": Environment(limited(f"--as={300 << 20}"), "300 MiB", "ulimit -v"),
    "24 open files": Environment(limited("--nofile=24"), "open so many files", "ulimit -n"),
    "no locked memory": Environment(limited("--memlock=0")),
    "no file may grow": Environment(limited("--fsize=0")),
    "no bcc": Environment(
        mounted(NOTHING_COMPILED, "mount -t tmpfs none /usr/lib/python3/dist-packages/bcc"), "bcc", "python3-bpfcc"
    ),
    "broken libbcc": Environment(
        mounted(NOTHING_COMPILED, hidden(f"{LIBRARIES}/libbcc.so.0")), "libbcc", "python3-bpfcc"
    ),
    "broken libbpf": Environment(mounted(NOTHING_COMPILED, hidden(f"{LIBRARIES}/libbpf.so.1")), "libbpf", "libbpf1"),
    "broken libdw": Environment(mounted(hidden(f"{LIBRARIES}/libdw.so.1")), noted="libdw"),
}


def start(prefix: list[str], *arguments: str) -> subprocess.Popen[str]:
    """Without coverage, which needs memory and files of its own there."""
    measured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = measured | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [*prefix, *TOOL, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


@pytest.fixture(scope="module")
def busy() -> Iterator[int]:
    """A process of which there is always something to see."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with subprocess.Popen(["sh", "-c", "while :; do sleep 0.01 </dev/null; done"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_doctor_and_a_trace_agree_and_name_what_is_missing(name: str, busy: int) -> None:
    environment = ENVIRONMENTS[name]
    target = "1" if name == "PID namespace" else str(busy)
    doctor = start(environment.prefix, "doctor", "--format", "json")
    trace = start(environment.prefix, target, "--trace", "1", "--format", "json")
    examined, complaint = doctor.communicate(timeout=300)
    report, said = trace.communicate(timeout=300)
    status = 0 if environment.missing is None else 3
    assert (trace.returncode, doctor.returncode) == (status, status), f"{said}\n{examined}\n{complaint}"
    assert complaint == ""
    assert "Traceback" not in said
    assert "standard output" not in said
    checks = {check["name"]: check for check in json.loads(examined)["checks"]}
    missing = [check for check in checks.values() if check["state"] == "missing"]
    required = [check for check in missing if check["is_required"]]
    if environment.missing is None:
        assert not required
        assert json.loads(report)["processes"][0]["trace"]["confidence"]["seen_count"] > 0, report
    else:
        words = " ".join(f"{check['name']}: {check['found']}: {check['remedy']}" for check in required)
        for part in (environment.missing, environment.remedy):
            assert part in said
            assert part in words
        assert report == ""
    if environment.noted:
        assert environment.noted in [check["name"] for check in missing]
    if name != "another user":  # root is not told to become root
        for text in (said, examined, report):
            assert "sudo" not in text
            assert "run as root" not in text


@pytest.mark.parametrize("user", ["nobody", "root"])
@pytest.mark.usefixtures("bpf")
def test_command_is_run_without_the_right_to_signal_others(user: str) -> None:
    """Without CAP_KILL another user's process cannot be let begin by a signal."""
    run = start(without("kill"), "run", "--user", user, "--only", "descriptors", "-o", "/dev/null", "--", "id", "-un")
    output, said = run.communicate(timeout=300)
    assert (output, run.returncode) == (f"{user}\n", 0), said
