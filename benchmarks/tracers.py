"""Runs a workload while a tracer is attached, and knows when it is."""

from __future__ import annotations

import ctypes
import platform
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def programs_attached() -> int:
    """How many BPF programs the kernel has loaded, from its own list (bpf(2), BPF_PROG_GET_NEXT_ID)."""
    libc, identifier, count = ctypes.CDLL(None), 0, 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("=II", identifier, 0), 128)
        if libc.syscall({"x86_64": 321}.get(platform.machine(), 280), 11, attributes, 128):  # BPF_PROG_GET_NEXT_ID
            return count
        identifier = struct.unpack_from("=I", attributes, 4)[0]
        count += 1


def under(command: Sequence[str], run: Callable[[], float], output: int = subprocess.DEVNULL) -> float:
    """Runs the workload while a tracer is attached, whose standard output goes to `output`."""
    before = programs_attached()
    tracer = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while programs_attached() <= before or not _is_waiting(tracer.pid):
        if time.monotonic() > deadline or tracer.poll() is not None:
            raise SystemExit(f"{command[0]} did not attach")
        time.sleep(0.05)
    time.sleep(0.5)  # a tracer attaches its programs one by one
    result = run()
    tracer.send_signal(signal.SIGINT)
    tracer.wait()
    while programs_attached() > before:
        time.sleep(0.05)
    return result


def _is_waiting(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "SD"
