"""A thread, and everything that is known of it."""

from __future__ import annotations

import msgspec

from threadinfo.model.cpu import CpuTime
from threadinfo.model.scheduling import Scheduling
from threadinfo.model.waits import Wait


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """One thread of the process."""

    tid: int
    name: str
    state: str
    """The letter of /proc/PID/task/TID/stat (proc_pid_stat(5))."""
    state_name: str
    cpu_percent: float | None
    """Of one CPU, over the thread's whole life."""
    runtime_seconds: float | None
    """User and system time together."""
    stack_bytes: int | None
    """/proc/PID/status, VmStk: the main thread's stack, the same for every thread (the script's "Stack Size")."""
    thread_stack_bytes: int | None = None
    """Size of the mapping that holds this thread's stack pointer."""
    scheduling: Scheduling | None = None
    """What tracing says of the thread; null without a trace."""
    waits: tuple[Wait, ...] | None = None
    """What it was blocked for, the longest 32 first; null without a trace of waits. With waits_other_ns they add up to
    scheduling.blocked_ns, and with on_cpu_ns and run_queue_ns to the trace."""
    waits_other_ns: int | None = None
    """Waits beyond the 32, and those whose reason was not seen."""
    cpu: CpuTime | None = None
    """Null where CPUs were not sampled, or never while the thread ran."""


class EndedThread(msgspec.Struct, frozen=True):
    """A thread that ended during the trace."""

    tid: int
    name: str
    scheduling: Scheduling
    waits: tuple[Wait, ...] | None = None
    waits_other_ns: int | None = None
    cpu: CpuTime | None = None


class EndedThreads(msgspec.Struct, frozen=True, kw_only=True):
    """Threads of one name that ended, added up: there were too many to tell of each."""

    name: str
    count: int
    on_cpu_ns: int
    run_queue_ns: int
    blocked_ns: int
    voluntary_switch_count: int
    involuntary_switch_count: int
