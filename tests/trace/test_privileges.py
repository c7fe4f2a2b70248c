"""What a tracer can still do once it is attached: attempts in the very process, and that its report is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trace.conftest import wait_until_it_traces
from threadinfo.trace.kernel.privileges import KEPT_CAPABILITIES

pytestmark = [pytest.mark.usefixtures("bpf"), pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")]
# The command with attempts when everything is attached, and later in the thread that unwinds.
PROGRAM = """
import ctypes, json, os, socket, sys, threading
from threadinfo.trace.scheduling import recorder as scheduling
from threadinfo.trace.stacks import unwinder
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    return None if libc.syscall(*arguments) < 0 else 1
def execute():
    pid = os.fork()
    if not pid:
        try:
            os.execv("/bin/true", ["true"])
        finally:
            os._exit(99)
    return None if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 99 else 1
ATTEMPTS = {
    "exec": execute,
    "ipv4": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "ipv6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "ptrace": lambda: call(101, 16, os.getppid(), 0, 0),
    "mount": lambda: call(165, b"none", b"/mnt", b"tmpfs", 0, 0),
    "io_uring": lambda: call(425, 1, ctypes.create_string_buffer(120)),
    "setuid": lambda: os.setuid(1) or 1,
    "chroot": lambda: os.chroot("/tmp") or 1,
    "device": lambda: os.mknod("/tmp/never-made", 0o20600, os.makedev(1, 3)) or 1,
    "time": lambda: call(164, ctypes.create_string_buffer(16), 0),
}
def attempt(where):
    found = {}
    for name, do in ATTEMPTS.items():
        try:
            result = do()
        except OSError:
            result = None
        found[name] = "refused" if result is None else "possible"
    print(json.dumps({where: found}), file=sys.stderr, flush=True)
has_begun = threading.Event()
original = scheduling.SchedulingRecorder.start
def start(self):
    original(self)
    attempt("tracer")
    has_begun.set()
scheduling.SchedulingRecorder.start = start
unwind = unwinder.Unwinder.unwind
def unwind_and_try(self, *arguments):
    if has_begun.is_set():
        has_begun.clear()
        attempt("unwinding thread")
    return unwind(self, *arguments)
unwinder.Unwinder.unwind = unwind_and_try
from threadinfo.cli.main import main
main()
"""
TARGET = """
import ctypes, os, socket, sys
ctypes.CDLL(None).unshare(0x40000000)  # another network namespace: it is entered to ask for sockets
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0threadinfo-test-%d" % os.getpid())
listener.listen(7)
print("ready", flush=True)
sys.stdin.readline()
kept = [socket.socket() for _ in range(11)]
print("done", flush=True)
sys.stdin.readline()
"""


def capabilities(status: str) -> dict[str, int]:
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {name: int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")}


def test_attached_tracer_can_do_little_and_its_report_is_whole() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        command = [sys.executable, "-c", PROGRAM, str(target.pid), "--trace", "600", "--format", "json"]
        tool = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until_it_traces(tool)
        target.stdin.write("\n")
        target.stdin.flush()
        assert target.stdout.readline() == "done\n"
        threads = [path.read_text() for path in Path(f"/proc/{tool.pid}/task").glob("*/status")]
        assert len(threads) > 1
        for status in threads:
            held = capabilities(status)
            assert all(not value & ~KEPT_CAPABILITIES for value in held.values()), status
            assert "\nSeccomp:\t2\n" in status
            assert "\nNoNewPrivs:\t1\n" in status
        tool.send_signal(signal.SIGINT)
        output, said = tool.communicate(timeout=120)
        target.kill()
    assert tool.returncode == 0, said
    attempts = {where: found for line in said.splitlines() for where, found in json.loads(line).items()}
    assert attempts.keys() == {"tracer", "unwinding thread"}
    for found in attempts.values():
        assert len(found) == 11
        assert set(found.values()) == {"refused"}, found
    (report,) = json.loads(output)["processes"]
    trace = report["trace"]
    assert trace["confidence"]["program_ns_per_event"]  # the kernel's statistics were asked for
    assert trace["confidence"]["ledger_matches_proc"]
    assert trace["descriptors"]["by_syscall"]["socket"] == 11
    assert trace["descriptors"]["stacks"]["attributed_count"] == 11
    unix = next(one for one in report["descriptors"] if one["socket"] and one["socket"]["family"] == "AF_UNIX")
    assert unix["socket"]["state"] == "LISTEN"
    unbound = [one["socket"] for one in report["descriptors"] if one["socket"] and one["socket"]["family"] == "AF_INET"]
    assert len(unbound) == 11
    assert all("borrowed" in " ".join(one["evidence"]) or "pidfd_getfd" in str(one["evidence"]) for one in unbound)
    assert report["user"] == "root"
    assert [gap for gap in report["gaps"] if "CAP_" in str(gap["remedy"])] == []


def test_library_keeps_its_rights() -> None:
    program = "from threadinfo.trace.kernel.privileges import give_up; print(give_up())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "frozenset()\n"
