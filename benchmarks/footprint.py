"""What a tracer costs by being there: memory while its target is idle, time until it watches and until it is gone.

Needs root, and for the peers bcc's tools (with kernel headers), libbpf-tools and bpftrace: one that cannot run is a row
that says why. Medians of rounds that take turns, and the ratio to the first peer that runs. Memory is VmRSS of the tool
and of its children, and what its maps take in the kernel. It watches when the last of its programs is loaded and
attached; it is detached when none of its links is left, or of its programs where it has no links. (The kernel frees
programs of sys_enter and sys_exit some 0.3 s after their link is gone.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tracers import TURNS, PeerError, last_line, mount_tracefs

_STEADY_SECONDS, _LONGEST_SECONDS, _LOOK_SECONDS = 1.0, 60.0, 0.002
_BUSY_SECONDS = 0.2  # of CPU in the steady second: it compiles
_PROGRAM, _LINK, _MAP_BYTES = (
    re.compile(rf"^{name}:\s*(\d+)", re.MULTILINE) for name in ("prog_id", "link_id", "memlock")
)
_BPF = {"x86_64": 321}.get(platform.machine(), 280)
_NEXT_PROGRAM, _NEXT_LINK = 11, 31  # BPF_PROG_GET_NEXT_ID, BPF_LINK_GET_NEXT_ID
_BPFTRACE = "tracepoint:sched:sched_switch { @[args->next_pid] = count(); }"


class Footprint(NamedTuple):
    """Of one run."""

    attach_seconds: float
    resident_kb: int
    children_kb: int
    maps_kb: int
    gone_seconds: float
    ended_seconds: float


def all_ids(command: int) -> set[int]:
    """The ids of all programs or links in the kernel."""
    libc, identifier = ctypes.CDLL(None), 0
    found: set[int] = set()
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("=II", identifier, 0), 128)
        if libc.syscall(_BPF, command, attributes, len(attributes)):
            return found
        (identifier,) = struct.unpack_from("=I", attributes, 4)
        found.add(identifier)


def descriptors(pid: int) -> list[str]:
    """What fdinfo says of each BPF program, link and map that a process holds."""
    found = []
    for place in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with contextlib.suppress(OSError):
            text = place.read_text()
            if "prog_id:" in text or "map_id:" in text:
                found.append(text)
    return found


def resident_kb(pid: int) -> int:
    """VmRSS, of proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def children_of(pid: int) -> list[int]:
    """Those that it made, and theirs."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(place.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(place.name), *children_of(int(place.name))]
    return found


def cpu_seconds(pid: int) -> float:
    """Of a process and those that it made: proc_pid_stat(5)."""
    total = 0
    for one in (pid, *children_of(pid)):
        with contextlib.suppress(OSError):
            total += sum(map(int, Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Footprint:
    """Starts a tracer, waits until it watches, and ends it; raises PeerError."""
    if not shutil.which(command[0]):
        raise PeerError("it is not installed")
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        tool = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment})
        try:
            count, since, looked, cpu = 0, started, started, 0.0
            while not count or time.monotonic() < looked + _STEADY_SECONDS:
                if (now := len(descriptors(tool.pid))) != count:
                    count, since = now, time.monotonic()
                    looked, cpu = since, cpu_seconds(tool.pid)
                is_late = time.monotonic() >= looked + 0.9 * _STEADY_SECONDS
                if is_late and (used := cpu_seconds(tool.pid)) > cpu + _BUSY_SECONDS:
                    looked, cpu = time.monotonic(), used
                if tool.poll() is not None:
                    raise PeerError(f"it ended with status {tool.returncode}: {last_line(said.fileno())}")
                if time.monotonic() > started + _LONGEST_SECONDS:
                    raise PeerError(f"it did not attach within {_LONGEST_SECONDS:.0f} s: {last_line(said.fileno())}")
                time.sleep(_LOOK_SECONDS)
            texts = descriptors(tool.pid)
            programs, links = (
                {int(found[1]) for text in texts if (found := pattern.search(text))} for pattern in (_PROGRAM, _LINK)
            )
            maps = sum(int(found[1]) for text in texts if "map_id:" in text and (found := _MAP_BYTES.search(text)))
            resident, children = resident_kb(tool.pid), sum(map(resident_kb, children_of(tool.pid)))
            asked = time.monotonic()
            tool.send_signal(signal.SIGINT)
            while links & all_ids(_NEXT_LINK) if links else programs & all_ids(_NEXT_PROGRAM):
                if time.monotonic() > asked + _LONGEST_SECONDS:
                    raise PeerError("it stays attached")
                time.sleep(_LOOK_SECONDS)
            gone = time.monotonic()
            tool.wait(_LONGEST_SECONDS)
            return Footprint(since - started, resident, children, maps // 1024, gone - asked, time.monotonic() - asked)
        finally:
            tool.kill()
            tool.wait()


def main() -> None:
    """Prints one table."""
    mount_tracefs()
    figures: dict[str, list[Footprint]] = {}
    reasons: dict[str, str] = {}
    with subprocess.Popen(["sleep", "1000"]) as target, tempfile.TemporaryDirectory() as directory:
        pid = str(target.pid)
        ours = [sys.executable, "-m", "threadinfo", pid, "--trace", "600", "-o", os.devnull]
        for turn in range(TURNS):
            cache = {"THREADINFO_CACHE_DIR": f"{directory}/{turn}"}
            for name, command in (
                ("threadinfo, everything, first run", ours),
                ("threadinfo, everything", ours),
                ("threadinfo --only scheduling", [*ours, "--only", "scheduling"]),
                ("threadinfo --only descriptors", [*ours, "--only", "descriptors"]),
                ("bcc's runqlat", ["runqlat-bpfcc", "-p", pid]),
                ("bcc's opensnoop", ["opensnoop-bpfcc", "-p", pid]),
                ("libbpf-tools runqlat", ["/usr/sbin/runqlat", "-p", pid]),
                ("libbpf-tools opensnoop", ["/usr/sbin/opensnoop", "-p", pid]),
                ("bpftrace, one tracepoint", ["bpftrace", "-e", _BPFTRACE]),
            ):
                if name in reasons:
                    continue
                if name in {"threadinfo --only scheduling", "threadinfo --only descriptors"} and not turn:
                    measure(command, cache)  # sizes of its own: compiled once
                try:
                    figures.setdefault(name, []).append(measure(command, cache))
                except PeerError as problem:
                    reasons[name] = str(problem)
        target.kill()
    peers = [name for name, runs in figures.items() if runs and not name.startswith("threadinfo")]
    base = statistics.median(one.resident_kb for one in figures[peers[0]]) if peers else None
    print(
        f"{'':36}attached  resident  to {peers[0] if peers else 'none':22} children  in the kernel  detached    ended"
    )
    for name, runs in figures.items():
        if not runs:
            continue
        of = Footprint(*(statistics.median(column) for column in zip(*runs, strict=True)))
        ratio = f"{of.resident_kb / base:.2f}x" if base else "-"
        print(
            f"{name:36}{of.attach_seconds:6.2f} s {of.resident_kb / 1024:6.1f} MB {ratio:>25}"
            f" {of.children_kb / 1024:5.1f} MB  {of.maps_kb / 1024:10.1f} MB  {of.gone_seconds:6.2f} s "
            f"{of.ended_seconds:6.2f} s",
            flush=True,
        )
    for name, reason in reasons.items():
        print(f"{name:36}not measured: {reason}")


main()
