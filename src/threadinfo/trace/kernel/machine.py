"""What tracing needs to know of this machine."""

from __future__ import annotations

import functools
import os
import time

from threadinfo.errors import NotAvailableError

MOUNT_SYS = "mount -t sysfs sysfs /sys"
_MOUNT_PROC = "mount a whole /proc (this one lacks /proc/sys, as with subset=pid): mount -t proc proc /proc"
_POSSIBLE_CPUS, _PID_MAX = "/sys/devices/system/cpu/possible", "kernel/pid_max"


def cpu_count() -> int:
    """All CPUs that the kernel may ever bring up: their numbers index our arrays. Raises NotAvailableError."""
    try:
        with open(_POSSIBLE_CPUS, encoding="utf-8") as file:
            return int(file.read().strip().replace("-", ",").split(",")[-1]) + 1
    except OSError as problem:
        raise NotAvailableError(
            f"cannot read which CPUs there are, {_POSSIBLE_CPUS}: {problem.strerror}", MOUNT_SYS
        ) from None


def pid_limit() -> int:
    """The ids of processes and threads are below this: proc_sys_kernel(5), pid_max. Raises NotAvailableError."""
    try:
        with open(f"/proc/sys/{_PID_MAX}", encoding="utf-8") as file:
            return int(file.read())
    except OSError as problem:
        raise NotAvailableError(
            f"cannot read the largest PID, /proc/sys/{_PID_MAX}: {problem.strerror}", _MOUNT_PROC
        ) from None


@functools.cache
def clock_offset_ns() -> int:
    """From CLOCK_MONOTONIC to UTC; always the same, so that both clocks of an event are one."""
    return time.time_ns() - time.monotonic_ns()


def taken_ns() -> list[int]:
    """What interrupts and the hypervisor have taken of each CPU since boot: irq, softirq and steal of proc_stat(5)."""
    with open("/proc/stat", encoding="ascii") as file:
        rows = [line.split() for line in file if line.startswith("cpu") and not line.startswith("cpu ")]
    ticks = os.sysconf("SC_CLK_TCK")
    return [sum(map(int, row[6:9])) * 1_000_000_000 // ticks for row in rows]


def most_taken_ns(before: list[int], after: list[int]) -> int:
    """Of one CPU at the most, between two calls of `taken_ns`."""
    return max((now - then for then, now in zip(before, after, strict=False)), default=0)


def counts_thread_times() -> bool:
    """Whether the kernel fills /proc/PID/schedstat: all zeroes otherwise."""
    try:
        with open("/proc/self/schedstat", encoding="ascii") as file:
            return any(map(int, file.read().split()))
    except OSError:
        return False


_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39  # include/uapi/linux/capability.h

CAPABILITIES_NEEDED = "CAP_BPF and CAP_PERFMON"
GRANT_CAPABILITIES = "run it outside the container, or with --cap-add BPF --cap-add PERFMON"


def may_trace() -> bool:
    """Whether this process has the capabilities that tracing needs: CapEff of proc_pid_status(5)."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    held = {bit for bit in (_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF) if effective >> bit & 1}
    return _CAP_SYS_ADMIN in held or {_CAP_PERFMON, _CAP_BPF} <= held


def possible_on_this_process() -> bool:
    """Whether thread ids in our /proc are those that the kernel's tracepoints have: not inside a PID namespace."""
    return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"  # include/linux/proc_ns.h, PROC_PID_INIT_INO
