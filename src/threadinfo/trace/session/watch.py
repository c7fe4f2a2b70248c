"""A trace that goes on while somebody looks at it: attached in any thread, read now and then, detached at its end."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple

import msgspec

from threadinfo.errors import NotAvailableError
from threadinfo.model import DescriptorEvent, Wait
from threadinfo.trace.descriptors.events import EventMaker, Moments
from threadinfo.trace.descriptors.ledger import OpenDescriptor
from threadinfo.trace.descriptors.tracer import DescriptorTracer
from threadinfo.trace.kernel.machine import clock_offset_ns
from threadinfo.trace.scheduling.intervals import SchedulingIntervals, ThreadInterval, WaitIntervals
from threadinfo.trace.scheduling.recorder import SchedulingRecorder
from threadinfo.trace.scheduling.tracer import SchedulingTracer
from threadinfo.trace.session.attach import attach
from threadinfo.trace.session.session import TraceResult
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.stacks.unwinder import Stack
from threadinfo.tracers import shown_live

_KEPT_EVENTS = 1000
_EVENTS_A_READ = 200  # more than anybody reads in a second; all are counted, and no more travel


class Counts(NamedTuple):
    """Births, deaths and failed calls since the beginning."""

    opened: int
    closed: int
    failed: int


class _Kept:
    """An event, and the number of its stack until that is known."""

    def __init__(self, event: DescriptorEvent, stack: int) -> None:
        self.event, self.stack = event, stack


class Watch:
    """Watches one process. A context manager: it detaches at its end. Used by one thread at a time."""

    def __init__(self, target: TraceTarget) -> None:
        """Attaches, which takes a second or two; raises NotAvailableError, with nothing left attached."""
        (self.pid,) = target.pids
        self.moments = Moments(clock_offset_ns())
        with contextlib.ExitStack() as stack:
            self._tracers = attach(stack, target, TraceOptions(shown_live(), sends_events=True))
            scheduling, descriptors = self._tracers.find(SchedulingTracer), self._tracers.find(DescriptorTracer)
            if scheduling is None or descriptors is None:
                raise NotAvailableError(f"nothing can be watched: {self._tracers.own_gaps[0].cause}")
            self._scheduling, self.descriptors = scheduling, descriptors
            for tracer in self._tracers:
                tracer.start()
            self._intervals = SchedulingIntervals(scheduling.recorder)
            self._waits = WaitIntervals(scheduling.recorder)
            self._maker = EventMaker(self.descriptors.calls, self.moments)
            self._kept: deque[_Kept] = deque(maxlen=_KEPT_EVENTS)
            self._event_count = self._omitted = 0
            self.descriptors.recorder.allow_records(_EVENTS_A_READ)
            self._stack = stack.pop_all()

    @property
    def scheduling(self) -> SchedulingRecorder:
        """Who held the CPU, and who woke whom."""
        return self._scheduling.recorder

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, names: Mapping[int, str]) -> int:
        """Takes what has happened since the last call, and gives how many events that were.

        The kernel's buffers fill up otherwise: the fuller they were, the sooner the next call should come. `names` are
        those of the threads.
        """
        self.scheduling.reclaim()
        omitted = self.descriptors.recorder.counts().omitted
        chunk = self.descriptors.read_events()
        self.descriptors.recorder.allow_records(_EVENTS_A_READ)
        if chunk is None:
            return 0
        known = {tid: names.get(tid) or self.descriptors.names.get(tid, "") for tid in set(chunk.tid.tolist())}
        for event, stack_id in self._maker.events_with_ids(chunk, known):
            self._kept.append(_Kept(event, stack_id))
        count = len(chunk.at_ns) + omitted - self._omitted
        self._omitted = omitted
        self._event_count += count
        return count

    def events(self) -> tuple[tuple[DescriptorEvent, ...], int]:
        """The latest events with their stacks, as far as they are known by now, and how many others there were."""
        if not self._event_count:
            return (), 0
        for kept in self._kept:
            if kept.stack and (stack := self.descriptors.stack(kept.stack)) is not None:
                kept.event = msgspec.structs.replace(kept.event, stack=self._maker.frames(kept.event, stack))
                kept.stack = 0
        return tuple(kept.event for kept in self._kept), self._event_count - len(self._kept)

    def counts(self) -> Counts:
        """Of the process."""
        return Counts(*self.descriptors.counts(self.pid))

    def intervals(self) -> dict[int, ThreadInterval]:
        """What each thread did since the last call."""
        return self._intervals.read()

    def waits(self) -> dict[int, Wait]:
        """What each thread was blocked in longest since the last call."""
        return self._waits.read()

    def opened(self) -> Mapping[int, OpenDescriptor]:
        """Of the numbers that are open, those that were opened while we watched."""
        return self.descriptors.opened(self.pid)

    def stack(self, number: int) -> Stack | None:
        """The stack behind a stack id, where it is known by now."""
        return self.descriptors.stack(number) if number else None

    def result(self, names: Mapping[int, tuple[int | None, str]]) -> TraceResult:
        """Everything since the beginning, as a trace that ends now would have it; without comparing the ledger.

        `names` are (PID, name) of threads of any process, by thread id.
        """
        self._tracers.note_moment(names)
        started_ns, stopped_ns = self.scheduling.started_ns, self.scheduling.stopped_ns
        return TraceResult(
            started_ns=started_ns,
            duration_ns=stopped_ns - started_ns,
            clock_offset_ns=self.moments.offset_ns,
            ended_by="interrupt",
            activities={self.pid: tuple(seen for seen in self._tracers.activities(self.pid) if seen is not None)},
            confidence=self._tracers.confidence(),
        )
