"""What a report is made of: frozen values, the same for every source and every renderer.

Names, units and the meaning of null are those of the JSON report, `threadinfo.report/1`: a number is in the unit that
its name ends in, None means "not known" and comes with a `Gap`, 0 means measured and zero. Text that came from the
target is valid Unicode here: bytes that are not UTF-8 were replaced by a visible ``\\xNN`` when they were read.

msgspec's structs rather than dataclasses, because a report holds tens of thousands of them: they are built 14 times
faster and are read from and written to JSON, with validation, by the same definitions (docs/how-it-works.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

DetailItem: TypeAlias = str | int | Mapping[str, int | str | None]
DetailValue: TypeAlias = str | int | float | bool | Sequence[DetailItem] | None
"""What a detail of a descriptor can be: plain JSON values, and flat lists of them."""

Details: TypeAlias = dict[str, DetailValue]


class Gap(msgspec.Struct, frozen=True):
    """Something that the report lacks."""

    section: str
    """The part of the report that is incomplete, for example "descriptors"."""
    cause: str
    """What stood in the way, in words."""
    remedy: str | None
    """What the user can do about it; None where nothing can be done."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of the process."""

    virtual_bytes: int | None = None
    """/proc/PID/status, VmSize."""
    resident_bytes: int | None = None
    """/proc/PID/status, VmRSS."""
    swap_bytes: int | None = None
    """/proc/PID/status, VmSwap."""
    percent: float | None = None
    """resident_bytes in percent of the machine's MemTotal."""
    rss_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Rss: exact, where VmRSS is a counter that lags."""
    pss_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Pss: shared pages divided by their users."""
    mapped_swap_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Swap: includes swapped shared memory, which VmSwap does not."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of waits, in nanoseconds; percentiles are at most 7 % off (the buckets of the histogram)."""

    count: int
    mean: float | None
    """None, like those below, where nothing was counted."""
    p50: int | None
    p90: int | None
    p99: int | None
    max: int | None


class WokenBy(msgspec.Struct, frozen=True):
    """Who woke a thread, and how often."""

    pid: int | None
    """None for an interrupt, or where the process is not known."""
    tid: int | None
    """None for an interrupt."""
    name: str
    """"interrupt" where a timer or a device did."""
    count: int


class DelayedBy(msgspec.Struct, frozen=True):
    """Who held the CPU while a thread waited for it, and for how long together."""

    pid: int | None
    tid: int
    name: str
    time_ns: int


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread did with its time during the trace, from the kernel's sched_* tracepoints."""

    run_queue_latency_ns: Latency
    """From being able to run to running; after wake-up and after preemption together."""
    after_wakeup_ns: Latency
    after_preemption_ns: Latency
    on_cpu_ns: int
    run_queue_ns: int
    """Includes a wait that had begun before the trace, which the latencies do not."""
    blocked_ns: int
    """sleeping_ns + uninterruptible_ns."""
    sleeping_ns: int
    uninterruptible_ns: int
    voluntary_switch_count: int
    involuntary_switch_count: int
    migration_count: int
    woken_by: tuple[WokenBy, ...]
    """By count, descending."""
    delayed_by: tuple[DelayedBy, ...]
    """By time, descending."""
    delayed_by_unknown_ns: int
    """The part of the waiting in which nobody held the CPU, or nobody that the tracer remembered."""


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


class Served(msgspec.Struct, frozen=True):
    """A thread that waits for, or is busy with, a descriptor."""

    tid: int
    thread_name: str
    how: str
    """The system call that the thread is in, for example "accept4" or "epoll_wait on FD 5"."""


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket is, found from outside the process."""

    family: str | None = None
    """For example "AF_INET"; None where nothing tells."""
    type: str | None = None
    """For example "SOCK_STREAM"."""
    protocol: str | None = None
    """For example "TCP", "UNIX", "NETLINK_ROUTE"."""
    state: str | None = None
    """For example "LISTEN"; None for sockets that have no state."""
    local: str | None = None
    remote: str | None = None
    port: int | None = None
    """The local port, of those families that have ports."""
    bound: bool | None = None
    """Whether it has a local address; None is unknown."""
    role: str | None = None
    """What the user calls this port, for example "web server"."""
    evidence: tuple[str, ...] = ()
    """Which sources spoke, in the order asked, for example "/proc/PID/net/tcp"."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """One open file descriptor."""

    fd: int
    type: str
    """What it is: one of `DESCRIPTOR_TYPES`."""
    target: str
    """What /proc/PID/fd/FD points to, as the kernel says it."""
    description: str
    """What it is, in words."""
    inode: int | None = None
    details: Details = {}
    served_by: tuple[Served, ...] = ()
    socket: Socket | None = None
    origin: None = None
    """How tracing saw it made; null without a trace."""


class OpenFilesLimit(msgspec.Struct, frozen=True):
    """A limit as /proc/PID/limits has it; None is "unlimited"."""

    soft: int | None
    hard: int | None


class Limits(msgspec.Struct, frozen=True):
    """The resource limits that bear on this report."""

    open_files: OpenFilesLimit


class Confidence(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what happened the trace saw, and what watching cost."""

    seen_count: int
    """Events of the traced threads."""
    lost_count: int
    """Records that the kernel could not hand over."""
    map_full_count: int
    """Threads, wakers or holders that found no room."""
    missed_count: int | None
    """Runs of a program that the kernel left out, and events that must have been there: the next one does not fit."""
    program_ns_per_event: float | None
    """Run time of the programs, from the kernel's own statistics over a short slice."""
    tool_cpu_seconds: float
    """CPU time of threadinfo itself, compilation included."""


class DelayEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A thread waited for a CPU longer than the threshold: an event of the live stream."""

    at_ns: int
    """CLOCK_MONOTONIC, when the wait ended."""
    time: str
    """The same moment, UTC, ISO 8601."""
    pid: int
    tid: int
    thread_name: str
    event: Literal["delayed"] = "delayed"
    cpu: int
    wait_ns: int
    held_by: str | None
    """Name and number of the thread that held the CPU longest meanwhile."""


class EndedThread(msgspec.Struct, frozen=True):
    """A thread that ended during the trace."""

    tid: int
    name: str
    scheduling: Scheduling


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What tracing saw of a process."""

    duration_ns: int
    ended_by: Literal["duration", "interrupt", "target"]
    """Whether the time was over, the user interrupted, or the process ended."""
    ended_threads: tuple[EndedThread, ...]
    confidence: Confidence


class ProcessReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one process."""

    pid: int
    name: str
    """The kernel's name of the process, or, where that was cut off at 15 characters, the executable's."""
    executable: str | None
    command_line: tuple[str, ...]
    user: str | None
    started_at: str | None
    """UTC, ISO 8601."""
    memory: Memory
    threads: tuple[Thread, ...] | None
    """In the order of their numbers; None where they could not be listed."""
    descriptors: tuple[Descriptor, ...] | None
    """In the order of their numbers; None where they could not be listed."""
    limits: Limits | None
    trace: Trace | None = None
    """What tracing saw; null without a trace."""
    gaps: tuple[Gap, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the command: every process that was asked for, in PID order."""

    schema: Literal["threadinfo.report/1"] = "threadinfo.report/1"
    generated_at: str
    """UTC, ISO 8601."""
    processes: tuple[ProcessReport, ...]


class Check(msgspec.Struct, frozen=True):
    """One thing that tracing needs of a host, for `threadinfo doctor`."""

    name: str
    state: Literal["ok", "missing", "unknown"]
    found: str
    effect: str
    """What does not work without it."""
    remedy: str | None
    """None where nothing is to be done, or nothing can be."""
