"""What the live view draws: one frozen picture of the process a refresh, made by `collect_top`, drawn by `top`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from threadinfo.model import Descriptor, DescriptorEvent, ProcessReport, Wait

Tracing: TypeAlias = Literal["off", "starting", "on", "unavailable"]

HISTORY_LENGTH = 120
"""How many refreshes the trends of the process go back."""


class ThreadMoment(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread did between two refreshes; None where that is not known, or not traced."""

    cpu_percent: float | None = None
    """Of one CPU: by tracing, otherwise by the clock ticks of /proc/PID/task/TID/stat."""
    queued_percent: float | None = None
    """Of the interval, waiting for a CPU."""
    wait_count: int | None = None
    wait_p50_ns: int | None = None
    wait_p99_ns: int | None = None
    """Of the waits that ended in the interval, from being able to run to running; None where none ended."""
    switches_per_second: float | None = None
    delayed_by: str | None = None
    """Who held the CPU longest while the thread waited, with the part of the wait: "hog 999 98 %"."""
    waits_on: Wait | None = None
    """What it was blocked in longest; sum_ns is how long in the interval."""
    cpu_history: tuple[float, ...] = ()
    """cpu_percent of the last refreshes, the newest last; unknown is 0."""
    wait_history: tuple[float, ...] = ()
    """wait_p99_ns of the last refreshes, the newest last; unknown is 0."""


class Age(msgspec.Struct, frozen=True):
    """How long a descriptor has been open."""

    since_ns: int
    """CLOCK_MONOTONIC: its birth, or when it was first seen."""
    is_exact: bool
    """False: it may be older than that."""


class Trends(msgspec.Struct, frozen=True, kw_only=True):
    """The last refreshes, the newest last, at most `HISTORY_LENGTH`; unknown is 0."""

    cpu_percent: tuple[float, ...] = ()
    resident_bytes: tuple[float, ...] = ()
    descriptor_count: tuple[float, ...] = ()
    opened_per_second: tuple[float, ...] = ()
    closed_per_second: tuple[float, ...] = ()


class Churn(msgspec.Struct, frozen=True, kw_only=True):
    """Births and deaths of descriptors between two refreshes: by tracing all of them, otherwise what /proc shows."""

    opened_count: int | None
    """None where the descriptors may not be read, and nothing is traced."""
    closed_count: int | None
    failed_count: int | None
    """Calls that would have made or closed one, and failed; None without tracing."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The process at one moment."""

    at_ns: int
    """CLOCK_MONOTONIC."""
    interval_ns: int
    """Since the snapshot before; 0: this is the first one."""
    process: ProcessReport
    cpu_percent: float | None
    """Of one CPU, all threads together, in the interval."""
    moments: Mapping[int, ThreadMoment]
    """By thread id."""
    ages: Mapping[int, Age]
    """By descriptor."""
    born: frozenset[int]
    """The descriptors of `process` that are new since the snapshot before."""
    died: tuple[Descriptor, ...]
    """The descriptors of the snapshot before that are gone."""
    churn: Churn
    trends: Trends
    events: tuple[DescriptorEvent, ...]
    """What tracing saw, the newest last, as far back as it is kept."""
    omitted_event_count: int
    """Events since the beginning that are not kept: there were too many in one refresh, or they are too old."""
    tracing: Tracing
    message: str | None
    """What stands in the way of tracing, or what root would add."""
    has_ended: bool = False
    """The process is gone; everything else is as it was last."""


class ProcessSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A process as the picker shows it; None where that may not be read."""

    pid: int
    name: str
    user: str | None = None
    cpu_percent: float | None = None
    """Of one CPU, since the list before; None in the first one."""
    cpu_seconds: float = 0.0
    """Since it began."""
    thread_count: int = 0
    descriptor_count: int | None = None
    resident_bytes: int | None = None
    is_kernel_thread: bool = False
