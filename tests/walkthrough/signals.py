"""Signals delivered to each thread: the tracer of CONTRIBUTING's walk-through, complete."""

from __future__ import annotations

import ctypes
import signal
import time
from pathlib import Path
from typing import ClassVar

from threadinfo.model import Confidence, TraceTable
from threadinfo.trace.session.program_tracer import ProgramTracer
from threadinfo.trace.session.target import TraceOptions, TraceTarget


class _Delivery(ctypes.Structure):  # mirrors struct delivery
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("pid", "tid", "number", "unused"))


class _Counts(ctypes.Structure):  # mirrors struct counts
    _fields_ = (("seen", ctypes.c_uint64), ("map_full", ctypes.c_uint64))


class SignalTracer(ProgramTracer):
    """Counts the signals that are delivered to threads."""

    name = "signals"
    source = str(Path(__file__).parent / "signals.bpf.c")
    tracepoints: ClassVar = {"signal_deliver": "on_signal_deliver"}

    def __init__(self, target: TraceTarget, options: TraceOptions) -> None:
        super().__init__(target, options)
        self._deliveries = self.programs.map("deliveries", _Delivery, ctypes.c_uint64)
        self._counts = _Counts.from_buffer(self.programs.memory("counts", ctypes.sizeof(_Counts), 1))

    def activity(self, pid: int) -> TraceTable:
        """A row for each thread and signal."""
        found = sorted((key.tid, key.number, count.value) for key, count in self._deliveries.items() if key.pid == pid)
        names = {number.value: number.name for number in signal.Signals}
        return TraceTable(
            title="Signals Delivered",
            columns=("TID", "Signal", "Count"),
            rows=tuple((str(tid), names.get(number, f"SIGRT {number}"), count) for tid, number, count in found),
        )

    def confidence(self) -> Confidence:
        """The accounts so far."""
        return Confidence(
            seen_count=self._counts.seen,
            lost_count=0,
            map_full_count=self._counts.map_full,
            missed_count=self.statistics().missed_count,
            program_ns_per_event=None,
            tool_cpu_seconds=time.process_time(),
        )
