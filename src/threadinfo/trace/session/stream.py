"""A live trace: what happens, a few hundredths of a second later, until the time is over or the last target ends."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

import msgspec

from threadinfo.containment import contained
from threadinfo.model import Confidence
from threadinfo.trace.descriptors.events import EventChunk
from threadinfo.trace.descriptors.tracer import DescriptorTracer, LedgerCheck
from threadinfo.trace.scheduling.recorder import Delay
from threadinfo.trace.scheduling.tracer import SchedulingTracer
from threadinfo.trace.session.attach import attach
from threadinfo.trace.session.following import Child
from threadinfo.trace.session.session import (
    Awaited,
    ChildWatch,
    Interrupt,
    Target,
    close_all,
    hold_if_alive,
    ticks,
    wait_for,
)
from threadinfo.trace.session.target import TraceOptions, TraceTarget

_TICK_SECONDS = 0.02


class StreamTick(msgspec.Struct, frozen=True):
    """What happened since the last tick of a live stream."""

    delays: list[Delay]
    chunks: list[EventChunk]
    confidence: Confidence
    checks: Mapping[int, LedgerCheck | None] | None = None
    """At the last tick: the ledgers against /proc."""


class Stream:
    """A live trace. A context manager: it detaches at its end."""

    def __init__(
        self,
        target: TraceTarget,
        options: TraceOptions,
        on_child: Callable[[int], None] | None = None,
        on_ended: Callable[[Child, int, Sequence[object]], None] | None = None,
    ) -> None:
        """Attaches; raises NotAvailableError. Where children are followed it lasts until they have ended too.

        `on_child` is called with the PID of each, a moment after it was made, `on_ended` as `Hooks` says.
        """
        with contextlib.ExitStack() as stack:
            self._targets = [stack.enter_context(Target(pid)) for pid in target.pids]
            stack.callback(close_all, self._targets)
            self._tracers = attach(stack, target, options)
            self._tracers.require()
            self._children = None
            if options.follow_limit:
                self._children = ChildWatch(target.pids, self._tracers, options.follow_limit, on_child, on_ended)
            self._settled: list[EventChunk] = []
            self._has_started = False
            self.interrupt = stack.enter_context(Interrupt())
            self._stack = stack.pop_all()

    @property
    def descriptors(self) -> DescriptorTracer | None:
        """None where they are not watched, or not any more for a fault of ours."""
        return self._tracers.find(DescriptorTracer)

    @property
    def scheduling(self) -> SchedulingTracer | None:
        """None where it is not watched, or not any more for a fault of ours."""
        return self._tracers.find(SchedulingTracer)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, awaited: Awaited) -> None:
        """Waits for a process, which is then the target. Raises KeyboardInterrupt for a Ctrl-C."""
        self._start()
        pid, _ = wait_for(awaited, self._tracers, self.interrupt)
        self._targets += hold_if_alive(pid)

    def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._tracers.ask(lambda tracer: tracer.start())

    def ticks(self, duration_seconds: float | None) -> Iterator[StreamTick]:
        """What happens, a few hundredths of a second late; ends with the time, the targets, or when it is closed."""
        self._start()
        seconds = math.inf if duration_seconds is None else duration_seconds
        settle = self._settle if self._children else None
        for _ in ticks(self._targets, self.interrupt, seconds, lambda _seconds: _TICK_SECONDS, settle):
            yield self._tick()

    def _tick(self) -> StreamTick:
        delays = self._read_delays()
        chunks, self._settled = self._settled, []
        chunks += self._read_chunks()
        self._welcome()
        return StreamTick(delays, chunks, self.confidence())

    def _read_delays(self) -> list[Delay]:
        return self._tracers.ask_one(SchedulingTracer, lambda tracer: tracer.read_delays(), [])

    def _read_chunks(self) -> list[EventChunk]:
        return self._tracers.ask_one(DescriptorTracer, lambda tracer: _some(tracer.read_events()), [])

    def _settle(self) -> None:
        """All have ended: what they made shortly before is learnt of now."""
        if self.descriptors:
            time.sleep(self.descriptors.settle_seconds)
            self._settled += self._read_chunks()
        self._welcome()

    def _welcome(self) -> None:
        if self._children:
            with contained("children"):
                self._targets += self._children.new_targets()
                self._children.take_ended(self._targets)

    def finish(self) -> StreamTick:
        """Stops, and gives what is left, with the ledgers' comparison."""
        if self._children:
            self._settle()
        with contained("scheduling"):
            if self.scheduling:
                self.scheduling.stop()
        delays = self._read_delays()
        chunks, self._settled = self._settled, []
        checks = None
        with contained("ledger"):
            if self.descriptors:
                chunk, checks = self.descriptors.finish()
                chunks += _some(chunk)
                self.descriptors.conclude()
        return StreamTick(delays, chunks, self.confidence(), checks)

    def confidence(self) -> Confidence:
        """The accounts so far."""
        return self._tracers.confidence()


def _some(chunk: EventChunk | None) -> list[EventChunk]:
    return [chunk] if chunk is not None and len(chunk.at_ns) else []
