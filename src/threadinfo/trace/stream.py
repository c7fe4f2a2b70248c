"""A live trace: what happens, a few hundredths of a second later, until the time is over or the last target ends."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

import msgspec

from threadinfo.containment import contained, detached
from threadinfo.model import Confidence
from threadinfo.trace.descriptor_events import EventChunk
from threadinfo.trace.descriptors import (
    SETTLE_SECONDS,
    CodeAccess,
    DescriptorTracer,
    LedgerCheck,
    ReadLinks,
    ReadNumbers,
    ReadPids,
)
from threadinfo.trace.kernel_accounts import ReadAccount
from threadinfo.trace.preflight import check_privilege
from threadinfo.trace.privileges import give_up, given_up_by_others
from threadinfo.trace.scheduling import Delay, ReadThreads, SchedulingTracer
from threadinfo.trace.session import (
    NOTHING_SEEN,
    Awaited,
    ChildWatch,
    Follow,
    Interrupt,
    Target,
    hold_if_alive,
    join_counts,
    ticks,
    wait_for,
)

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
        pids: Sequence[int],
        *,
        threshold_ns: int | None,
        with_descriptors: bool,
        read_threads: ReadThreads,
        read_account: ReadAccount,
        read_links: ReadLinks,
        read_numbers: ReadNumbers,
        read_pids: ReadPids,
        code: CodeAccess | None = None,
        buffer_bytes: dict[str, int] | None = None,
        follow: Follow | None = None,
    ) -> None:
        """Attaches. Without `threshold_ns` scheduling is not watched. Raises NotAvailableError.

        With `code` the stacks of calls are found; with `follow` it lasts until the children have ended too.
        """
        check_privilege()
        follow_limit = follow.limit if follow else 0
        code = code and code._replace(read_maps=given_up_by_others(code.read_maps))
        with contextlib.ExitStack() as stack:
            self._targets = [stack.enter_context(Target(pid)) for pid in pids]
            self.scheduling: SchedulingTracer | None = None
            self.descriptors: DescriptorTracer | None = None
            if threshold_ns is not None:
                scheduling = SchedulingTracer(read_threads, read_account, threshold_ns, follow_limit=follow_limit)
                self.scheduling = stack.enter_context(detached(scheduling))
            if with_descriptors:
                descriptors = DescriptorTracer(
                    pids,
                    read_links,
                    read_numbers,
                    read_pids,
                    code=code,
                    for_stream=True,
                    buffer_bytes=buffer_bytes,
                    follow_limit=follow_limit,
                )
                self.descriptors = stack.enter_context(detached(descriptors))
            give_up(may_use_network=bool(code and code.debuginfod))
            self._children = ChildWatch(pids, self.descriptors, self.scheduling, follow.on_child) if follow else None
            self._settled: list[EventChunk] = []
            self.interrupt = stack.enter_context(Interrupt())
            self._stack = stack.pop_all()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, awaited: Awaited) -> None:
        """Waits for a process, which is then the target. Raises KeyboardInterrupt for a Ctrl-C."""
        if self.scheduling:
            self.scheduling.start()
        watching = (self.descriptors and self.descriptors.recorder, self.scheduling)
        tracers = [tracer.awaited for tracer in watching if tracer]
        if self.descriptors:
            self.descriptors.read()
        pid = wait_for(awaited, tracers, self.interrupt)
        self._targets += [self._stack.enter_context(target) for target in hold_if_alive(pid)]

    def ticks(self, duration_seconds: float | None) -> Iterator[StreamTick]:
        """What happens, a few hundredths of a second late; ends with the time, the targets, or when it is closed."""
        if self.scheduling and not self.scheduling.started_ns:
            self.scheduling.start()
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
        """A tracer in which a fault of ours comes to light is not asked any more."""
        tracer, self.scheduling = self.scheduling, None
        if tracer:
            with contained("scheduling"):
                delays = tracer.read_delays()
                tracer.reclaim()
                self.scheduling = tracer
                return delays
        return []

    def _read_chunks(self) -> list[EventChunk]:
        """As above."""
        tracer, self.descriptors = self.descriptors, None
        if tracer:
            with contained("descriptors"):
                chunks = _some(tracer.read())
                self.descriptors = tracer
                return chunks
        return []

    def _settle(self) -> None:
        """All have ended: what they made shortly before is learnt of now."""
        if self.descriptors:
            time.sleep(SETTLE_SECONDS)
            self._settled += self._read_chunks()
        self._welcome()

    def _welcome(self) -> None:
        if self._children:
            with contained("children"):
                self._targets += [self._stack.enter_context(target) for target in self._children.new_targets()]

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
        return StreamTick(delays, chunks, self.confidence(), checks)

    def confidence(self) -> Confidence:
        """The accounts so far."""
        with contained("confidence"):
            return self._confidence()
        return NOTHING_SEEN

    def _confidence(self) -> Confidence:
        confidence = self.scheduling.confidence() if self.scheduling else NOTHING_SEEN
        if self.descriptors is None:
            return confidence
        recorder = self.descriptors.recorder
        return join_counts(confidence, recorder.counts(), recorder.statistics().missed_count)


def _some(chunk: EventChunk | None) -> list[EventChunk]:
    return [chunk] if chunk is not None and len(chunk.at_ns) else []
