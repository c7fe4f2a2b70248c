"""What the live view shows: a session beside it that reads the process once a refresh and hands over snapshots.

It has a thread of its own, so that keys answer at once, and it is cheap: what changes is read every time, and the whole
report, with every descriptor's details, so seldom that it takes a small share of a CPU however large the process is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from threadinfo.collect.process import CollectOptions, collect_process, parse_timestamp, refresh_process
from threadinfo.collect.target_reader import TargetReader, hold_targets
from threadinfo.collect.traced import make_origin, merge_trace
from threadinfo.containment import contained
from threadinfo.errors import NotAvailableError, TargetEndedError
from threadinfo.findings import find
from threadinfo.merge import with_origin
from threadinfo.model import Descriptor, DescriptorEvent, Gap, Origin, ProcessReport, Thread
from threadinfo.proc.process import ENDED_STATES, read_machine
from threadinfo.proc.reader import ProcDirectory, ProcError, ProcGoneError
from threadinfo.snapshot import HISTORY_LENGTH, Age, Churn, Snapshot, ThreadMoment, Tracing, Trends
from threadinfo.trace.kernel.machine import may_trace
from threadinfo.trace.scheduling.intervals import ThreadInterval
from threadinfo.trace.session.watch import Counts, Watch
from threadinfo.tracers import watched

Publish = Callable[[Snapshot], None]
Fail = Callable[[BaseException], None]

_SLOW_TICK_SECONDS, _QUICK_TICK_SECONDS = 0.25, 0.03  # the kernel's buffers are read so often
_MANY_EVENTS = 5_000  # a read; the buffers hold a hundred times as many
_WHOLE_SHARE = 0.01  # of one CPU, for reading the whole report
_NAMES_SHARE = 0.003  # for reading who held the CPU
_STOP_SECONDS = 3.0
_THREAD_HISTORY = 60
_NOTE_NS = 10_000_000_000
_USES = {"bind", "listen", "connect", "shutdown"}
_ROOT_WOULD_ADD = (
    "root would add: waiting for a CPU and who held it, switches, every birth and death of a descriptor with its stack"
)
_ENDED = Gap("process", "it has ended; this is how it was last", None)


class _Seldom:
    """Lets something happen so seldom that it takes no more than a share of a CPU."""

    def __init__(self, share: float, least_seconds: float) -> None:
        self._share, self._least_seconds = share, least_seconds
        self._next = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self._next = time.monotonic() + max(self._least_seconds, (time.thread_time() - began) / self._share)


class TopSession:
    """Reads one process again and again, from `start` to `stop`."""

    def __init__(
        self, root: ProcDirectory, pid: int, options: CollectOptions, *, interval_seconds: float, with_trace: bool
    ) -> None:
        """Nothing is read before `start`. Without `with_trace`, or without the privilege, /proc alone is shown."""
        self.interval_seconds = interval_seconds
        self.note: str | None = None
        """What is to be said of the choice of the process, until there is something more urgent."""
        self._root, self._pid, self._options, self._with_trace = root, pid, options, with_trace
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, publish: Publish, fail: Fail) -> None:
        """Begins; both are called in the session's thread: `publish` with each snapshot, `fail` with what ended it."""
        self._thread = threading.Thread(target=self._run, args=(publish, fail), name="top session", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Detaches and ends; a thread that something of the target's holds up is left: the kernel detaches then."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether its thread is still busy: after `stop`, with what could not be waited for."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, publish: Publish, fail: Fail) -> None:
        try:
            with hold_targets(self._root, [self._pid]) as reader, self._root.directory(str(self._pid)) as process:
                session = _Reading(self._root, process, reader, self._pid, self._options)
                self._refresh(session, publish)
        except BaseException as problem:  # shown by whoever asked: a dead thread must not be silent
            fail(problem)

    def _refresh(self, session: _Reading, publish: Publish) -> None:
        with contextlib.ExitStack() as stack:
            wants_trace = self._with_trace and (os.geteuid() == 0 or may_trace())
            session.tracing = "starting" if wants_trace else "off"
            if self._with_trace and not wants_trace:
                session.message = _ROOT_WOULD_ADD
            session.note = self.note
            publish(session.take())
            if wants_trace:
                try:
                    with contained("tracing", session.gaps):
                        stack.enter_context(session.attach())
                except NotAvailableError as problem:
                    session.tracing = "unavailable"
                    session.message = f"no tracing: {problem.message}" + (f" ({problem.remedy})" * bool(problem.remedy))
            next_at = time.monotonic() + self.interval_seconds
            tick = _SLOW_TICK_SECONDS
            while not self._stop.wait(max(0.0, min(tick, next_at - time.monotonic()))):
                tick = _QUICK_TICK_SECONDS if session.read() > _MANY_EVENTS else _SLOW_TICK_SECONDS
                if time.monotonic() >= next_at:
                    next_at = max(next_at + self.interval_seconds, time.monotonic())
                    snapshot = session.take()
                    publish(snapshot)
                    if snapshot.has_ended:
                        return


class _Reading:
    """What is known of the process from one snapshot to the next."""

    def __init__(
        self, root: ProcDirectory, process: ProcDirectory, reader: TargetReader, pid: int, options: CollectOptions
    ) -> None:
        self._root, self._process, self._reader, self._pid, self._options = root, process, reader, pid, options
        self._machine = read_machine(root)
        self._last: Snapshot | None = None
        self._watch: Watch | None = None
        self._whole = _Seldom(_WHOLE_SHARE, 2.0)
        self._holding = _Seldom(_NAMES_SHARE, 1.0)
        self._ages: dict[int, Age] = {}
        self._origins: dict[int, tuple[int, bool, Origin]] = {}
        self._holders: dict[int, dict[int, int]] = {}
        self._delayed_by: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._other_names: dict[int, tuple[int | None, str]] = {}
        self._counts = Counts(0, 0, 0)
        self._cpu: dict[int, deque[float]] = {}
        self._waits: dict[int, deque[float]] = {}
        self.tracing: Tracing = "off"
        self.message: str | None = None
        self.note: str | None = None
        self.gaps: list[Gap] = []
        """Faults of ours."""
        self._note_until_ns = time.monotonic_ns() + _NOTE_NS

    def attach(self) -> Watch:
        """Begins to trace; raises NotAvailableError."""
        self.tracing = "unavailable"
        self._watch = Watch(self._reader)
        self.tracing = "on"
        self._whole = _Seldom(_WHOLE_SHARE, 2.0)
        return self._watch

    def read(self) -> int:
        """Takes what the kernel has for us, and gives how many events that were.

        A trace in which a fault of ours comes to light is not read any more: what /proc says goes on.
        """
        watch, self._watch = self._watch, None
        count = 0
        if watch:
            with contained("tracing", self.gaps):
                count = watch.read(self._names)
                self._watch = watch
            if self._watch is None:
                self.tracing = "unavailable"
        return count

    def take(self) -> Snapshot:
        """The process now; once it has ended, as it was last, and so where a fault of ours is in the way."""
        with contained("refreshing", self.gaps, but=(ProcError,)):
            snapshot = self._take()
            return msgspec.structs.replace(snapshot, message=self.gaps[0].cause) if self.gaps else snapshot
        if self._last is None:
            raise NotAvailableError(f"nothing can be shown: {self.gaps[-1].cause}", self.gaps[-1].remedy)
        self._last = msgspec.structs.replace(
            self._last, at_ns=time.monotonic_ns(), message=f"not refreshed: {self.gaps[-1].cause}"
        )
        return self._last

    def _take(self) -> Snapshot:
        before = self._last
        at_ns = time.monotonic_ns()
        try:
            process = self._read_process(before.process if before else None)
        except (ProcGoneError, TargetEndedError):
            if before is None:
                raise TargetEndedError(f"process {self._pid} ended before it could be read") from None
            events, omitted = self._events()
            self._last = msgspec.structs.replace(
                before, has_ended=True, message=_ENDED.cause, events=events, omitted_event_count=omitted
            )
            return self._last
        self._names = {thread.tid: thread.name for thread in process.threads or ()}
        process = self._add_origins(process)
        interval_ns = at_ns - before.at_ns if before else 0
        fds = {descriptor.fd: descriptor for descriptor in process.descriptors or ()}
        old = {descriptor.fd: descriptor for descriptor in before.process.descriptors or ()} if before else fds
        born = frozenset(fd for fd, descriptor in fds.items() if fd not in old or _is_other(old[fd], descriptor))
        died = tuple(one for fd, one in old.items() if fd not in fds or fd in born)
        self._note_ages(fds.keys(), born, at_ns, is_first=before is None)
        churn = self._churn(born, died, is_listed=process.descriptors is not None)
        moments = self._moments(process.threads or (), before, interval_ns)
        cpu = _sum_cpu(process, before.process if before else None, interval_ns)
        if self._watch is not None and cpu is not None:  # finer than clock ticks
            cpu = sum(moment.cpu_percent or 0.0 for moment in moments.values())
        events, omitted = self._events()
        self._last = Snapshot(
            at_ns=at_ns,
            interval_ns=interval_ns,
            process=process,
            cpu_percent=cpu,
            moments=moments,
            ages=dict(self._ages),
            born=born,
            died=died,
            churn=churn,
            trends=_extend(before.trends if before else Trends(), process, cpu, churn, interval_ns / 1e9),
            tracing=self.tracing,
            message=self.note if self.note and at_ns < self._note_until_ns else self.message,
            events=events,
            omitted_event_count=omitted,
        )
        return self._last

    def _events(self) -> tuple[tuple[DescriptorEvent, ...], int]:
        return self._watch.events() if self._watch else ((), 0)

    def _read_process(self, earlier: ProcessReport | None) -> ProcessReport:
        if earlier is not None and not self._whole.is_due():
            process = refresh_process(self._process, earlier, self._machine, self._options)
            known = {thread.tid: thread for thread in earlier.threads or ()}
            threads = tuple(
                msgspec.structs.replace(thread, scheduling=one.scheduling, waits=one.waits)
                if (one := known.get(thread.tid))
                else thread
                for thread in process.threads or ()
            )
            return msgspec.structs.replace(process, threads=None if process.threads is None else threads)
        with self._whole.measured():
            self._machine = read_machine(self._root)
            process = collect_process(self._root, self._pid, self._machine, self._options)
            if earlier is not None and process.started_at != earlier.started_at:  # the number is another process's
                raise TargetEndedError(f"process {self._pid} has ended")
            if earlier is not None and all(thread.state in ENDED_STATES for thread in process.threads or ()):
                raise TargetEndedError(f"process {self._pid} is a zombie")
            with contained("the sums of the trace", self.gaps):
                if self._watch is not None:
                    self._learn_names()
                    process = merge_trace(
                        process, process, self._watch.result(self._other_names), frozenset(watched()), _ENDED
                    )
            with contained("what stands out", self.gaps):
                return msgspec.structs.replace(process, findings=find(process))
            return process

    def _learn_names(self) -> None:
        """Of those that held the CPU or woke somebody, while they live."""
        if self._watch is None:
            return
        for tid in self._watch.scheduling.holders_and_wakers() - self._other_names.keys():
            if (name := self._reader.name(tid)) is not None:
                self._other_names[tid] = name

    def _add_origins(self, process: ProcessReport) -> ProcessReport:
        """How each descriptor was made that was born while we watched."""
        if self._watch is None or process.descriptors is None:
            return process
        opened = self._watch.opened()
        uses: dict[int, list[DescriptorEvent]] = {}
        for event in self._watch.events()[0]:
            known = None if event.fd is None else opened.get(event.fd)
            if known and event.fd is not None and event.event in _USES and event.at_ns >= known.at_ns:
                uses.setdefault(event.fd, []).append(event)
        started = None if process.started_at is None else parse_timestamp(process.started_at)
        descriptors = []
        origins = {}
        for descriptor in process.descriptors:
            known = opened.get(descriptor.fd)
            if known is None:
                descriptors.append(descriptor)
                continue
            stack = self._watch.stack(known.stack)
            found = self._origins.get(descriptor.fd)
            events = tuple(uses.get(descriptor.fd, ()))
            if found is None or found[:2] != (known.at_ns, stack is not None) or len(events) > len(found[2].events):
                name = self._names.get(known.tid, "")
                origin = make_origin(known, stack, name, started, self._watch.moments, events)
                found = (known.at_ns, stack is not None, origin)
            origins[descriptor.fd] = found
            is_known = descriptor.origin is found[2]
            descriptors.append(descriptor if is_known else with_origin(descriptor, found[2]))
        self._origins = origins
        return msgspec.structs.replace(process, descriptors=tuple(descriptors))

    def _note_ages(self, fds: Iterable[int], born: frozenset[int], at_ns: int, *, is_first: bool) -> None:
        ages = {}
        for fd in fds:
            if (origin := self._origins.get(fd)) is not None:
                ages[fd] = Age(origin[0], True)
            elif not is_first and fd in born:
                ages[fd] = Age(at_ns, True)
            else:
                ages[fd] = self._ages.get(fd) or Age(at_ns, False)
        self._ages = ages

    def _churn(self, born: frozenset[int], died: tuple[Descriptor, ...], *, is_listed: bool) -> Churn:
        if self._watch is None and not is_listed:
            return Churn(opened_count=None, closed_count=None, failed_count=None)
        if self._watch is None:
            return Churn(opened_count=len(born), closed_count=len(died), failed_count=None)
        now, before = self._watch.counts(), self._counts
        self._counts = now
        return Churn(
            opened_count=now.opened - before.opened,
            closed_count=now.closed - before.closed,
            failed_count=now.failed - before.failed,
        )

    def _moments(
        self, threads: tuple[Thread, ...], before: Snapshot | None, interval_ns: int
    ) -> dict[int, ThreadMoment]:
        intervals = self._watch.intervals() if self._watch else {}
        if intervals and self._holding.is_due():
            with self._holding.measured():
                self._note_holders(intervals)
        waits = self._watch.waits() if self._watch else {}
        old = {thread.tid: thread.runtime_seconds for thread in before.process.threads or ()} if before else {}
        seconds = interval_ns / 1e9
        moments = {}
        for thread in threads:
            interval = intervals.get(thread.tid)
            cpu = None
            if interval is not None and interval.on_cpu_ns is not None and seconds:
                cpu = min(100.0, interval.on_cpu_ns / interval_ns * 100)
            elif seconds and (earlier := old.get(thread.tid)) is not None and thread.runtime_seconds is not None:
                cpu = min(100.0, max(0.0, thread.runtime_seconds - earlier) / seconds * 100)
            cpu_history = self._cpu.setdefault(thread.tid, deque(maxlen=_THREAD_HISTORY))
            wait_history = self._waits.setdefault(thread.tid, deque(maxlen=_THREAD_HISTORY))
            if before is not None:
                cpu_history.append(cpu or 0.0)
            if interval is not None:
                wait_history.append(float(interval.wait_p99_ns or 0))
            moments[thread.tid] = ThreadMoment(
                cpu_percent=cpu,
                queued_percent=min(100.0, interval.queued_ns / interval_ns * 100) if interval and interval_ns else None,
                wait_count=interval.wait_count if interval else None,
                wait_p50_ns=interval.wait_p50_ns if interval else None,
                wait_p99_ns=interval.wait_p99_ns if interval else None,
                switches_per_second=interval.switch_count / seconds if interval and seconds else None,
                delayed_by=self._delayed_by.get(thread.tid),
                waits_on=waits.get(thread.tid),
                cpu_history=tuple(cpu_history),
                wait_history=tuple(wait_history),
            )
        for gone in self._cpu.keys() - moments.keys():
            del self._cpu[gone]
            del self._waits[gone]
        return moments

    def _note_holders(self, intervals: Mapping[int, ThreadInterval]) -> None:
        """Who held the CPU longest since the last look, by thread that waited; who did not wait has nobody."""
        if self._watch is None:
            return
        now = self._watch.scheduling.held_ns()
        self._delayed_by = {}
        for tid, interval in intervals.items():
            before = self._holders.get(interval.slot, {})
            times = {holder: ns - before.get(holder, 0) for holder, ns in now.get(interval.slot, {}).items()}
            total = sum(times.values())
            if total > 0:
                holder = max(times, key=lambda one: times[one])
                self._delayed_by[tid] = f"{self._name(holder)} {holder} {100 * times[holder] / total:.0f} %"
        self._holders = now

    def _name(self, tid: int) -> str:
        if tid in self._names:
            return self._names[tid]
        if tid not in self._other_names:
            found = self._reader.name(tid)
            if found is None and self._watch is not None:
                found = (None, self._watch.scheduling.name(tid) or "(ended)")
            self._other_names[tid] = found or (None, "(ended)")
        return self._other_names[tid][1]


def _is_other(before: Descriptor, now: Descriptor) -> bool:
    """Whether a number is another descriptor than it was."""
    if before.target != now.target:
        return True
    return before.origin is not None and now.origin is not None and before.origin.opened_at != now.origin.opened_at


def _sum_cpu(process: ProcessReport, before: ProcessReport | None, interval_ns: int) -> float | None:
    """Percent of one CPU, of the threads that live: clock ticks since the snapshot before."""
    if before is None or not interval_ns:
        return None
    old = {thread.tid: thread.runtime_seconds or 0.0 for thread in before.threads or ()}
    used = sum(
        max(0.0, thread.runtime_seconds - old.get(thread.tid, 0.0))
        for thread in process.threads or ()
        if thread.runtime_seconds is not None
    )
    return 100 * used / (interval_ns / 1e9)


def _extend(trends: Trends, process: ProcessReport, cpu_percent: float | None, churn: Churn, seconds: float) -> Trends:
    def add(values: tuple[float, ...], value: float | None) -> tuple[float, ...]:
        return (*values[-HISTORY_LENGTH + 1 :], float(value or 0))

    if not seconds:  # the first one has no interval
        return Trends(
            resident_bytes=add((), process.memory.resident_bytes),
            descriptor_count=add((), len(process.descriptors or ())),
        )
    return Trends(
        cpu_percent=add(trends.cpu_percent, cpu_percent),
        resident_bytes=add(trends.resident_bytes, process.memory.resident_bytes),
        descriptor_count=add(trends.descriptor_count, len(process.descriptors or ())),
        opened_per_second=add(trends.opened_per_second, (churn.opened_count or 0) / seconds),
        closed_per_second=add(trends.closed_per_second, (churn.closed_count or 0) / seconds),
    )
