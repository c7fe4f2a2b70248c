"""Threads and the CPU: latencies, who woke and delayed whom, and what the kernel says of the same."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from threadinfo.model.values import Latency


class WokenBy(msgspec.Struct, frozen=True):
    """Who woke a thread, and how often."""

    pid: int | None
    """None for an interrupt, or where the process is not known."""
    tid: int | None
    """None for an interrupt, and for threads of this name that ended, together."""
    name: str
    """"interrupt" where a timer or a device did; "the network, by NAME" where what NAME sent over loopback did."""
    count: int
    time_ns: int = 0
    """How long the thread had been blocked when it was woken, together."""


class DelayedBy(msgspec.Struct, frozen=True):
    """Who held the CPU while a thread waited for it, and for how long together."""

    pid: int | None
    tid: int | None
    """None for threads of this name that ended, together: there were too many to tell of each."""
    name: str
    time_ns: int
    command: str | None = None
    """The command line of another process, where it is known."""


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
    """By the time that the waits had taken, descending."""
    delayed_by: tuple[DelayedBy, ...]
    """By time, descending."""
    delayed_by_unknown_ns: int
    """The part of the waiting in which nobody held the CPU, or nobody that the tracer remembered."""


class KernelAccount(NamedTuple):
    """What the kernel itself has counted of a thread since its birth; not part of a report."""

    state: str
    """The letter of /proc/PID/task/TID/status."""
    on_cpu_ns: int
    """/proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst)."""
    run_queue_ns: int
    """The same; of waits that are over."""
    voluntary_count: int
    """Switches: /proc/PID/task/TID/status."""
    involuntary_count: int


class SchedulingDifference(msgspec.Struct, frozen=True):
    """What the trace counted of a thread otherwise than the kernel, between two readings of its accounts."""

    tid: int | None
    """None: of all threads together, and `kernel` is the window times the CPUs."""
    what: Literal["on_cpu_ns", "run_queue_ns", "voluntary_switch_count", "involuntary_switch_count"]
    """Times that are more than 2 % of the window apart, and counts that are not the same."""
    ours: int
    kernel: int


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
