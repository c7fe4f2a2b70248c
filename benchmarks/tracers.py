"""Runs a workload while a tracer is attached, and knows when it is; a peer that cannot run says why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TURNS = int(os.environ.get("TURNS", "3"))
"""How often everything is measured."""
_IN_A_NAMESPACE = "THREADINFO_BENCHMARK_HAS_TRACEFS"
_ATTACH_SECONDS = 60
_STEADY_SECONDS = 2.0  # a tracer attaches its programs one by one
_PROGRAM_ID = re.compile(r"^prog_id:", re.MULTILINE)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a background job: tracers are ended with it
    signal.signal(signal.SIGINT, signal.default_int_handler)


class PeerError(Exception):
    """A peer that cannot run here: the reason, in its words."""


def mount_tracefs() -> None:
    """Peers need tracefs: where it is not mounted, this process begins anew in a mount namespace that has it."""
    if os.geteuid() or os.path.exists("/sys/kernel/tracing/events") or _IN_A_NAMESPACE in os.environ:
        return
    script = 'mount -t tracefs nodev /sys/kernel/tracing; mount -t debugfs nodev /sys/kernel/debug; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, *sys.argv]
    os.execvpe(command[0], command, os.environ | {_IN_A_NAMESPACE: "1"})


def under(
    command: Sequence[str],
    run: Callable[[], float],
    output: int = subprocess.DEVNULL,
    *,
    has_programs: bool = True,
) -> float:
    """Runs the workload while a tracer is attached, whose standard output goes to `output`; raises PeerError.

    One without BPF programs says in no way that it is attached: it has two seconds.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            tracer = subprocess.Popen(command, stdout=output, stderr=errors)
        except OSError as problem:
            raise PeerError(str(problem.strerror)) from None
        try:
            deadline = time.monotonic() + _ATTACH_SECONDS
            count, since = 0, time.monotonic()
            while not (
                (count or not has_programs) and time.monotonic() > since + _STEADY_SECONDS and _is_waiting(tracer.pid)
            ):
                if (now := _count_programs(tracer.pid)) != count:
                    count, since = now, time.monotonic()
                if tracer.poll() is not None:
                    raise PeerError(f"it ended with status {tracer.returncode}: {last_line(errors.fileno())}")
                if time.monotonic() > deadline:
                    raise PeerError(f"it did not attach within {_ATTACH_SECONDS} s: {last_line(errors.fileno())}")
                time.sleep(0.05)
            result = run()
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        finally:
            tracer.kill()
            tracer.wait()
    return result


def last_line(fd: int) -> str:
    """The last line that was written to a file, which mostly is the reason."""
    size = os.fstat(fd).st_size
    lines = os.pread(fd, 4096, max(0, size - 4096)).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "it says nothing"


def _count_programs(pid: int) -> int:
    """How many BPF programs a process holds: others', of another tracer beside it, do not count."""
    try:
        return sum(bool(_PROGRAM_ID.search(file.read_text())) for file in Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:  # it ended, or closed one
        return 0


def _is_waiting(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "SD"
