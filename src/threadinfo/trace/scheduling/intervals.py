"""What every thread did since the last look, while a trace goes on: differences of the kernel's counters, as arrays."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.model import Wait
from threadinfo.trace.kernel.histogram import BUCKETS, bucket_bounds
from threadinfo.trace.scheduling.kernel_accounts import (
    AFTER_PREEMPTION,
    AFTER_WAKEUP,
    ENDED,
    RUNNING,
    SLEEPING,
    UNINTERRUPTIBLE,
)
from threadinfo.trace.scheduling.recorder import SchedulingRecorder
from threadinfo.trace.scheduling.waits import describe_call

_MIDDLES = np.array([sum(bucket_bounds(index)) // 2 for index in range(BUCKETS)], np.int64)
_NOTHING = np.zeros(0, np.intp)


class ThreadInterval(NamedTuple):
    """One thread between two looks."""

    pid: int
    slot: int
    """Its place in the tracer's arrays, by which `SchedulingRecorder.held_ns` names it."""
    on_cpu_ns: int | None
    """None: no event of it was seen yet."""
    queued_ns: int
    switch_count: int
    wait_count: int
    wait_p50_ns: int | None
    wait_p99_ns: int | None


class SchedulingIntervals:
    """Looks at a tracer's counters time and again."""

    def __init__(self, tracer: SchedulingRecorder) -> None:
        self._tracer = tracer
        self._slots = _NOTHING
        self._before: NDArray[np.void] | None = None
        self._times_before = np.zeros((0, 2), np.int64)

    def read(self) -> dict[int, ThreadInterval]:
        """By thread id, of those that live: what they did since the last call, or since the tracer's start."""
        everything = self._tracer.records
        slots = np.flatnonzero(everything["tid"])
        now_ns = time.monotonic_ns()
        rows = everything[slots]
        times = self._times(rows, now_ns)
        buckets = rows["after_wakeup"]["buckets"] + rows["after_preemption"]["buckets"]
        switches = (rows["voluntary_count"] + rows["involuntary_count"]).astype(np.int64)
        if self._before is not None and len(self._slots):
            place = np.searchsorted(self._slots, slots).clip(max=len(self._slots) - 1)
            is_old = (self._slots[place] == slots) & (self._before["born_ns"][place] == rows["born_ns"])  # used again
            old, place = np.flatnonzero(is_old), place[is_old]
            before = self._before[place]
            delta_times = times.copy()
            delta_times[old] -= self._times_before[place]
            buckets[old] -= before["after_wakeup"]["buckets"] + before["after_preemption"]["buckets"]
            switches[old] -= (before["voluntary_count"] + before["involuntary_count"]).astype(np.int64)
        else:
            delta_times = times
        self._slots, self._before, self._times_before = slots, rows, times
        waits = buckets.sum(axis=1, dtype=np.int64)
        p50, p99 = _percentile(buckets, waits, 50), _percentile(buckets, waits, 99)
        found = {}
        for index in np.flatnonzero(rows["state"] != ENDED).tolist():
            row, count = rows[index], int(waits[index])
            on_cpu_ns, queued_ns = delta_times[index].tolist()
            longest = int(max(row["after_wakeup"]["max_ns"], row["after_preemption"]["max_ns"]))
            found[int(row["tid"])] = ThreadInterval(
                pid=int(row["tgid"]),
                slot=int(slots[index]),
                on_cpu_ns=max(0, on_cpu_ns) if row["first_ns"] else None,
                queued_ns=max(0, queued_ns),
                switch_count=int(switches[index]),
                wait_count=count,
                wait_p50_ns=min(int(p50[index]), longest) if count else None,
                wait_p99_ns=min(int(p99[index]), longest) if count else None,
            )
        return found

    def _times(self, rows: NDArray[np.void], now_ns: int) -> NDArray[np.int64]:
        """Nanoseconds on a CPU and queued, a row a thread, with what is going on and has not been added up yet."""
        since = np.maximum(rows["since_ns"].astype(np.int64), self._tracer.started_ns)
        going_on = np.where(rows["first_ns"] > 0, np.maximum(now_ns - since, 0), 0)
        state = rows["state"]
        is_queued = (state == AFTER_WAKEUP) | (state == AFTER_PREEMPTION)
        return np.stack(
            [
                rows["on_cpu_ns"].astype(np.int64) + np.where(state == RUNNING, going_on, 0),
                rows["queued_ns"].astype(np.int64) + np.where(is_queued, going_on, 0),
            ],
            axis=1,
        )


class WaitIntervals:
    """Looks at what threads wait for, time and again."""

    def __init__(self, tracer: SchedulingRecorder) -> None:
        self._tracer = tracer
        self._before = np.zeros(0, np.int64)
        self._slots = np.zeros(0, np.uint32)
        self._read_ns = tracer.started_ns

    def read(self) -> dict[int, Wait]:
        """By thread id: what each thread was blocked in longest since the last call, with how long that was in it."""
        waits = self._tracer.waits
        if waits is None:
            return {}
        now_ns, since_ns = time.monotonic_ns(), self._read_ns
        sums = waits.sums()
        totals = sums["ns"].copy()
        known = min(len(self._before), len(totals))
        same = self._slots[:known] == sums["slot"][:known]
        totals[:known] -= np.where(same, self._before[:known], 0)
        self._before, self._slots, self._read_ns = sums["ns"], sums["slot"], now_ns
        rows = self._tracer.records
        found: dict[int, Wait] = {}
        asleep: list[tuple[int, int]] = []
        for slot in np.flatnonzero(rows["tid"]).tolist():
            row = rows[slot]
            if not row["first_ns"]:
                if (call := self._tracer.first_call(slot)) is not None:
                    found[int(row["tid"])] = describe_call(call, now_ns - since_ns)
            elif row["state"] in {SLEEPING, UNINTERRUPTIBLE} and 0 < (place := waits.pending(slot)) < len(totals):
                asleep.append((place, now_ns - max(int(row["since_ns"]), since_ns)))
        for place, ns in asleep:
            totals[place] += max(0, ns)
        longest = {int(sums["slot"][place]): place for place in np.argsort(totals, kind="stable").tolist()}
        for slot, place in longest.items():
            ns = min(int(totals[place]), now_ns - since_ns)
            if ns > 0 and slot and rows[slot]["tid"] and rows[slot]["state"] != ENDED:
                found[int(rows[slot]["tid"])] = waits.describe(place, ns)
        return found


def _percentile(buckets: NDArray[np.uint32], counts: NDArray[np.int64], percent: int) -> NDArray[np.int64]:
    """The middle of the bucket that holds it, a thread each; meaningless where nothing was counted."""
    wanted = -(-counts * percent // 100)
    reached = np.cumsum(buckets, axis=1, dtype=np.int64) >= wanted[:, None]
    middles: NDArray[np.int64] = _MIDDLES[np.argmax(reached, axis=1)]
    return middles
