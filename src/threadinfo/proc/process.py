"""Who the process is: proc_pid_stat(5), proc_pid_status(5), proc_pid_cmdline(5), proc_pid_exe(5)."""

from __future__ import annotations

import os
import pwd
from datetime import datetime, timezone

import msgspec

from threadinfo.proc.reader import MalformedLineError, ProcDirectory, ProcError, decode

COMM_CHARACTERS = 15
"""TASK_COMM_LEN less its NUL: the kernel cuts a process's name off after this many bytes (prctl(2), PR_SET_NAME)."""

STATE_NAMES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk sleep",
    "T": "stopped",
    "t": "tracing stop",
    "X": "dead",
    "Z": "zombie",
    "P": "parked",
    "I": "idle",
}
"""fs/proc/array.c, task_state_array."""
ENDED_STATES = frozenset("ZX")

_FLAG_KERNEL_THREAD = 0x00200000  # include/linux/sched.h, PF_KTHREAD


class TaskStat(msgspec.Struct, frozen=True):
    """What this project needs of a stat file, of a process or of a thread."""

    name: str
    state: str
    is_kernel_thread: bool
    cpu_ticks: int
    """User and system time in clock ticks, of this thread alone in task/TID/stat and of all threads in PID/stat."""
    thread_count: int
    start_ticks: int
    """Clock ticks after boot."""
    parent_pid: int = 0


def parse_stat(text: str) -> TaskStat:
    """Parses a stat file. The name may hold anything, parentheses and newlines included: it ends at the last one."""
    opening, closing = text.find("("), text.rfind(")")
    fields = text[closing + 2 :].split()
    try:
        if opening < 0 or closing < opening:
            raise ValueError("no name in parentheses")
        return TaskStat(
            name=text[opening + 1 : closing],
            state=fields[0],
            parent_pid=int(fields[1]),
            is_kernel_thread=bool(int(fields[6]) & _FLAG_KERNEL_THREAD),
            cpu_ticks=int(fields[11]) + int(fields[12]),
            thread_count=int(fields[17]),
            start_ticks=int(fields[19]),
        )
    except (ValueError, IndexError):
        raise MalformedLineError(1, text) from None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What this project needs of /proc/PID/status; sizes are None for a process that has no memory of its own."""

    effective_uid: int
    virtual_bytes: int | None = None
    resident_bytes: int | None = None
    swap_bytes: int | None = None
    stack_bytes: int | None = None


_STATUS_SIZES = {
    "VmSize": "virtual_bytes",
    "VmRSS": "resident_bytes",
    "VmSwap": "swap_bytes",
    "VmStk": "stack_bytes",
}


def parse_status(text: str) -> Status:
    """Parses /proc/PID/status; raises MalformedLineError where a line that is needed does not hold its numbers."""
    sizes: dict[str, int] = {}
    effective_uid: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.partition(":")
        try:
            if key in _STATUS_SIZES:
                sizes[_STATUS_SIZES[key]] = parse_kilobytes(value)
            elif key == "Uid":
                effective_uid = int(value.split()[1])
        except (ValueError, IndexError):
            raise MalformedLineError(number, line) from None
    if effective_uid is None:
        raise MalformedLineError(1, "no Uid line")
    return Status(effective_uid=effective_uid, **sizes)


def parse_kilobytes(value: str) -> int:
    """``"   1732 kB"`` to bytes."""
    number, unit = value.split()
    if unit != "kB":
        raise ValueError(f"unit {unit!r} instead of kB")
    return int(number) * 1024


class Machine(msgspec.Struct, frozen=True):
    """What a process is measured against; None where /proc does not say."""

    boot_time_seconds: int | None
    """/proc/stat, btime: seconds since the epoch."""
    uptime_seconds: float | None
    """/proc/uptime."""
    memory_bytes: int | None
    """/proc/meminfo, MemTotal."""
    ticks_per_second: int
    """sysconf(_SC_CLK_TCK)."""


def read_machine(root: ProcDirectory) -> Machine:
    """Reads the machine's totals; what cannot be read is None, and the figures that need it are unknown."""
    return Machine(
        boot_time_seconds=_read_number(root, "stat", "btime "),
        uptime_seconds=_read_uptime(root),
        memory_bytes=None if (kilobytes := _read_number(root, "meminfo", "MemTotal:")) is None else kilobytes * 1024,
        ticks_per_second=os.sysconf("SC_CLK_TCK"),
    )


def _read_number(root: ProcDirectory, name: str, key: str) -> int | None:
    try:
        for line in root.read_text(name).splitlines():
            if line.startswith(key):
                return int(line[len(key) :].split()[0])
    except (ProcError, ValueError, IndexError):
        return None
    return None


def _read_uptime(root: ProcDirectory) -> float | None:
    try:
        return float(root.read("uptime").split()[0])
    except (ProcError, ValueError, IndexError):
        return None


def read_stat(process: ProcDirectory, name: str = "stat") -> TaskStat:
    """/proc/PID/stat, or task/TID/stat by `name`."""
    return process.parse(name, parse_stat)


def read_status(process: ProcDirectory) -> Status:
    """/proc/PID/status."""
    return process.parse("status", parse_status)


def read_command_line(process: ProcDirectory) -> tuple[str, ...]:
    """/proc/PID/cmdline; empty for kernel threads and zombies."""
    return tuple(decode(argument) for argument in process.read("cmdline").removesuffix(b"\0").split(b"\0") if argument)


def read_executable(process: ProcDirectory) -> str:
    """/proc/PID/exe; the kernel appends " (deleted)" once the file was removed or replaced."""
    return process.link("exe")


def full_name(name: str, executable: str | None, command_line: tuple[str, ...]) -> str:
    """The process's name in full: the kernel cuts names off, the executable (or, unreadable, argv[0]) has the rest."""
    if len(name.encode()) < COMM_CHARACTERS:
        return name
    for path in (executable, command_line[0] if command_line else None):
        base = os.path.basename((path or "").removesuffix(" (deleted)"))
        if base.startswith(name):
            return base
    return name


def user_name(uid: int) -> str:
    """The name of a user, or the number where the machine knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def started_at(stat: TaskStat, machine: Machine) -> str | None:
    """When the process started: UTC, ISO 8601, to a hundredth of a second (the kernel's clock tick)."""
    if machine.boot_time_seconds is None:
        return None
    seconds = machine.boot_time_seconds + stat.start_ticks / machine.ticks_per_second
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cpu_percent(stat: TaskStat, machine: Machine) -> float | None:
    """CPU time over life time, in percent of one CPU, as `ps` defines it (but not rounded)."""
    if machine.uptime_seconds is None:
        return None
    lived_seconds = machine.uptime_seconds - stat.start_ticks / machine.ticks_per_second
    if lived_seconds <= 0:
        return 0.0
    return 100 * stat.cpu_ticks / machine.ticks_per_second / lived_seconds
