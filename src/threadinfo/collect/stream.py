"""The live stream: events of a trace with the names that /proc gives to threads, in the order of time."""

from __future__ import annotations

import contextlib
import fnmatch
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import NamedTuple

import msgspec

from threadinfo.collect.family import descendants
from threadinfo.collect.target_reader import TargetReader, hold_none, hold_targets
from threadinfo.collect.traced import allow_children
from threadinfo.containment import contained
from threadinfo.errors import NotAvailableError
from threadinfo.model import Confidence, DelayEvent, DescriptorEvent
from threadinfo.proc.reader import ProcDirectory
from threadinfo.trace.descriptors.events import EventChunk, EventMaker, Moments
from threadinfo.trace.kernel.machine import clock_offset_ns
from threadinfo.trace.scheduling.recorder import Delay
from threadinfo.trace.session.session import Awaited
from threadinfo.trace.session.stream import Stream, StreamTick
from threadinfo.trace.session.target import TraceOptions

_NAMES_LAST_SECONDS = 1.0
_STACKS_LAST_SECONDS = 0.5
_MOST_NAMES = 65_536


class StreamOptions(NamedTuple):
    """What to watch, and what to show of it."""

    threshold_ns: int | None
    """Waits for a CPU longer than this; None: do not watch scheduling."""
    with_descriptors: bool
    kinds: frozenset[str] = frozenset()
    """Types of descriptors; empty: all."""
    threads: frozenset[str] = frozenset()
    """Names or numbers; empty: all."""
    path: str | None = None
    """A pattern of the shell (fnmatch(3))."""
    only_failures: bool = False
    with_children: bool = False
    """Trace processes that the targets make too."""
    with_sockets: bool = True
    """What is done with sockets between their birth and their death."""
    only_sockets: bool = False
    with_stacks: bool = False
    debuginfod: tuple[str, ...] = ()
    """Servers to ask for debug files that this host lacks."""


class Chunk(NamedTuple):
    """Events that wait to be written, and how many there are at most."""

    names: dict[int, str]
    descriptors: EventChunk | None
    delays: tuple[DelayEvent, ...]

    def line_count(self) -> int:
        """Before the filters by name, type and path."""
        return len(self.delays) + (len(self.descriptors.at_ns) if self.descriptors else 0)

    def nbytes(self) -> int:
        """About how much memory it takes."""
        return 400 * len(self.delays) + (self.descriptors.nbytes() if self.descriptors else 0)


class EventStream:
    """A live trace of some processes. Use `open_stream`."""

    def __init__(self, stream: Stream, reader: TargetReader, options: StreamOptions) -> None:
        self._stream, self._reader, self._options = stream, reader, options
        self._moments = Moments(clock_offset_ns())
        self._names: dict[int, str] = {}
        self._names_until = 0.0
        self._maker: EventMaker | None = None
        if stream.descriptors is not None:
            tracer = stream.descriptors
            self._maker = EventMaker(tracer.calls, self._moments, tracer.stack)
        self._held: deque[tuple[float, list[Chunk]]] = deque()

    def chunks(self, duration_seconds: float | None) -> Iterator[list[Chunk]]:
        """What happened, a list a tick, which may be empty."""
        for tick in self._stream.ticks(duration_seconds):
            ready: list[Chunk] = []
            with contained("events"):
                ready = self._hold(self._chunks(tick))
            yield ready

    def _hold(self, chunks: list[Chunk]) -> list[Chunk]:
        """With stacks: what has waited until they are known, or long enough."""
        tracer = self._stream.descriptors
        if tracer is None or tracer.sites is None:
            return chunks
        self._held.append((monotonic() + _STACKS_LAST_SECONDS, chunks))
        ready = []
        while self._held and (not tracer.sites.waiting_count() or self._held[0][0] < monotonic()):
            ready += self._held.popleft()[1]
        return ready

    def stack_problem(self) -> NotAvailableError | None:
        """Why no stacks are shown, although they were asked for."""
        return self._stream.descriptors.stack_problem if self._stream.descriptors else None

    def interrupted_by(self) -> int | None:
        """The signal that ended it: Ctrl-C's or SIGTERM; None where none did."""
        interrupt = self._stream.interrupt
        return interrupt.number if interrupt.came else None

    def finish(self) -> tuple[list[Chunk], Confidence]:
        """Stops; what is left, and the whole account."""
        tick = self._stream.finish()
        chunks = [chunk for _, held in self._held for chunk in held]
        with contained("events"):
            chunks += self._chunks(tick)
        self._held.clear()
        confidence = tick.confidence
        checks = [check for check in (tick.checks or {}).values() if check is not None]
        if checks:
            differences = tuple(difference for check in checks for difference in check.differences)
            confidence = msgspec.structs.replace(
                confidence,
                ledger_matches_proc=not differences,
                ledger_differences=differences,
                ledger_undecided_count=sum(check.undecided_count for check in checks),
            )
        return chunks, confidence

    def events(self, chunk: Chunk) -> Iterator[DescriptorEvent | DelayEvent]:
        """The events of a chunk that are to be shown."""
        yield from chunk.delays
        if chunk.descriptors is not None and self._maker is not None:
            with contained("events"):
                for event in self._maker.events(chunk.descriptors, chunk.names):
                    if self._is_wanted(event):
                        yield event

    def _is_wanted(self, event: DescriptorEvent) -> bool:
        options = self._options
        if options.kinds and event.type not in options.kinds:
            return False
        if options.threads and not options.threads & {event.thread_name, str(event.tid)}:
            return False
        return options.path is None or fnmatch.fnmatchcase(event.path or event.remote or "", options.path)

    def _chunks(self, tick: StreamTick) -> list[Chunk]:
        chunks = []
        if tick.delays and not self._options.only_failures:
            chunks.append(Chunk({}, None, tuple(self._delay_event(delay) for delay in tick.delays)))
        for found in tick.chunks:
            events = found.only_failures() if self._options.only_failures else found
            if self._options.only_sockets and self._stream.descriptors:
                events = events.only_sockets()
            elif not self._options.with_sockets:
                events = events.without_socket_use()
            if len(events.at_ns):
                chunks.append(Chunk(self._names_of(events), events, ()))
        return chunks

    def _names_of(self, events: EventChunk) -> dict[int, str]:
        if monotonic() > self._names_until or len(self._names) > _MOST_NAMES:  # threads change their names
            self._names.clear()
            self._names_until = monotonic() + _NAMES_LAST_SECONDS
        return {tid: self._name(tid) for tid in set(events.tid.tolist())}

    def _name(self, tid: int) -> str:
        if tid not in self._names:
            owner = self._reader.name(tid)
            traced = self._stream.descriptors.names.get(tid, "") if self._stream.descriptors else ""
            self._names[tid] = owner[1] if owner else traced
        return self._names[tid]

    def _delay_event(self, delay: Delay) -> DelayEvent:
        held_by = None
        if delay.held_by_tid is not None:
            name = self._name(delay.held_by_tid)
            if not name and self._stream.scheduling is not None:
                name = self._names[delay.held_by_tid] = self._stream.scheduling.recorder.name(delay.held_by_tid)
            held_by = f"{name or '(ended)'} {delay.held_by_tid}"
        return DelayEvent(
            at_ns=delay.at_ns,
            time=self._moments.format(delay.at_ns),
            pid=delay.pid,
            tid=delay.tid,
            thread_name=delay.thread_name,
            cpu=delay.cpu,
            wait_ns=delay.wait_ns,
            held_by=held_by,
        )


@contextlib.contextmanager
def open_stream(
    root: ProcDirectory,
    pids: Sequence[int],
    options: StreamOptions,
    awaited: tuple[str, Callable[[], None]] | None = None,
) -> Iterator[EventStream]:
    """Attaches, and detaches at the end; raises NotAvailableError or TargetEndedError.

    `awaited`: instead of `pids`, the name of a process that has not begun, and what to call when it may come; Ctrl-C
    before it has come raises KeyboardInterrupt.
    """
    only = {"scheduling"} if options.threshold_ns is not None else set()
    only |= {"descriptors"} if options.with_descriptors else set()
    traced = TraceOptions(
        frozenset(only),
        sends_events=True,
        threshold_ns=options.threshold_ns,
        with_stacks=options.with_stacks,
        debuginfod=options.debuginfod,
        follow_limit=allow_children() if options.with_children else 0,
    )
    every = [*pids, *(descendants(root, pids) if options.with_children else ())]
    with (
        hold_none(root) if awaited else hold_targets(root, every) as reader,
        Stream(reader, traced, reader.hold, lambda child, _ended_ns, _seen: reader.let_go(child.pid)) as stream,
    ):
        if awaited:
            stream.wait(Awaited(*awaited, reader.hold))
        yield EventStream(stream, reader, options)
