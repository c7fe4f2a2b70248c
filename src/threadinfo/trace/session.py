"""A trace from attaching to detaching: waits for its end, keeps the names of those who come and go, adds up.

It ends when the time is over, when the user interrupts (what was seen so far is kept), or when the last target ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Literal, NamedTuple

import msgspec

from threadinfo.containment import contained, detached, note_fault
from threadinfo.errors import NotAvailableError
from threadinfo.model import Confidence, CpuTime, EndedThreads, Gap
from threadinfo.trace import bpf
from threadinfo.trace.awaited import AwaitedProcess
from threadinfo.trace.cpu_samples import CpuSampler
from threadinfo.trace.debug_files import DebugFiles
from threadinfo.trace.descriptor_records import Counts, DescriptorRecorder
from threadinfo.trace.descriptors import (
    SETTLE_SECONDS,
    CodeAccess,
    DescriptorActivity,
    DescriptorTracer,
    LedgerCheck,
    ReadLinks,
    ReadNumbers,
    ReadPids,
)
from threadinfo.trace.following import Child
from threadinfo.trace.kernel_accounts import ReadAccount
from threadinfo.trace.preflight import check_privilege
from threadinfo.trace.privileges import give_up, given_up_by_others
from threadinfo.trace.scheduling import ReadThreads, SchedulingTracer, ThreadActivity
from threadinfo.trace.waits import ReadCall

EndedBy = Literal["duration", "interrupt", "target"]
ReadName = Callable[[int], tuple[int | None, str] | None]
"""Gives (PID, name) of a thread of any process that is alive; None where there is none."""
Progress = Callable[[float, int], None]
"""Is told the seconds since the start and the events so far."""

_REPORT_TICK_SECONDS = 0.05
_BEGINNERS_TICKS = ((0.2, 0.001), (1.0, 0.01), (math.inf, _REPORT_TICK_SECONDS))
"""Until how many seconds after its beginning, and how long a tick then is."""
_AWAITED_MILLISECONDS = 1
_NAMES_SECONDS = 1.0
_STATISTICS_SECONDS = 0.05


NOTHING_SEEN = Confidence(
    seen_count=0, lost_count=0, map_full_count=0, missed_count=0, program_ns_per_event=None, tool_cpu_seconds=0
)


class TraceResult(msgspec.Struct, frozen=True):
    """What a trace saw, of all its targets."""

    started_ns: int
    """CLOCK_MONOTONIC."""
    clock_offset_ns: int
    """From CLOCK_MONOTONIC to UTC: the same for all that is told of the trace."""
    duration_ns: int
    ended_by: EndedBy
    activities: tuple[ThreadActivity, ...] | None
    """None: scheduling was not watched."""
    descriptors: Mapping[int, DescriptorActivity]
    """By process; empty: descriptors were not watched."""
    checks: Mapping[int, LedgerCheck | None]
    """By process: the ledger against /proc; None where it has ended."""
    sees_io_uring: bool
    confidence: Confidence
    children: tuple[Child, ...] = ()
    """Processes that the targets made and that were traced too."""
    ended_ns: Mapping[int, int] = MappingProxyType({})
    """CLOCK_MONOTONIC, when processes ended, of those whose descriptors were watched."""
    left_out_count: int = 0
    """Children that were not traced: there were too many."""
    sharers: frozenset[int] = frozenset()
    """Of the children, those that used their parents' table of descriptors to their end."""
    gaps: tuple[Gap, ...] = ()
    """Faults of ours: what is not told of for them."""
    cpu: Mapping[int, Mapping[int, CpuTime]] = MappingProxyType({})
    """By process and thread: where its time on CPUs went."""
    ended_by_name: Mapping[int, tuple[EndedThreads, ...]] = MappingProxyType({})
    """By process: threads that ended and are not in `activities`."""


class Follow(NamedTuple):
    """That children of the targets are traced too, and theirs."""

    limit: int
    on_child: Callable[[int], None]
    """Called with its PID, a moment after it was made; it may have ended already."""


class Awaited(NamedTuple):
    """A process that has not begun."""

    name: str
    """The kernel's name of it."""
    on_waiting: Callable[[], None]
    """Called when it may come: it will not be missed."""
    on_come: Callable[[int], None]
    """Called with its PID, when it has come; it may have ended already."""


class Target:
    """A traced process, held by a pidfd: it is the same process at the end, or it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError as problem:
            raise NotAvailableError(f"cannot watch process {pid}: {problem.strerror}") from None

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.pidfd)


class Interrupt:
    """Ctrl-C and SIGTERM as a fact rather than an exception, which would lose what had just been read.

    The second one raises. Where SIGINT was ignored from the start, as a shell has it for a script's background jobs, it
    stays so, and SIGTERM ends the trace.
    """

    def __init__(self) -> None:
        self.came = False
        self.number: int = signal.SIGINT
        """Which of the two came."""
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in self._previous:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.came, self.number = True, number
        os.write(self._write_fd, b"x")  # ends the poll
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __enter__(self) -> Interrupt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()
        os.close(self.fd)
        os.close(self._write_fd)


def trace_processes(
    pids: Sequence[int],
    duration_seconds: float,
    *,
    with_scheduling: bool,
    with_descriptors: bool,
    with_sockets: bool,
    code: CodeAccess | None,
    read_threads: ReadThreads,
    read_account: ReadAccount,
    read_call: ReadCall | None,
    read_name: ReadName,
    read_links: ReadLinks,
    read_numbers: ReadNumbers,
    read_pids: ReadPids,
    progress: Progress,
    on_watching: Callable[[], None] | None = None,
    on_tick: Callable[[], bool] | None = None,
    is_interruptible: bool = True,
    awaited: Awaited | None = None,
    follow: Follow | None = None,
    is_over: Callable[[], bool] | None = None,
    frequency: int | None = None,
) -> TraceResult:
    """Traces processes for a time; raises NotAvailableError, with nothing left attached, where that is impossible.

    `on_watching` is called when everything is watched: what begins then is looked at very often at first, since a
    process that ends soon can only be read while it lives. `on_tick` is called once a tick; where it says so, what is
    open now is what is told of a process that ends later. `awaited`: there are no `pids` yet, but one that will come.
    Raises KeyboardInterrupt for a Ctrl-C before that. With `follow` it lasts until the children have ended too. With
    `read_call` what threads wait for is watched beside scheduling; with `frequency` CPUs are sampled so often a second.
    `is_over` is asked once a tick whether to end. A tracer in which a fault of ours comes to light is not asked any
    more, because what it says may be wrong: the others go on.
    """
    check_privilege()
    follow_limit = follow.limit if follow else 0
    gaps: list[Gap] = []
    code = code and code._replace(read_maps=given_up_by_others(code.read_maps))
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target(pid)) for pid in pids]
        scheduling: SchedulingTracer | None = None
        if with_scheduling:
            with contained("scheduling", gaps, but=(OSError,)):
                watched = SchedulingTracer(read_threads, read_account, follow_limit=follow_limit, read_call=read_call)
                if watched.waits_problem:
                    gaps.append(Gap("waits", watched.waits_problem, None))
                scheduling = stack.enter_context(detached(watched, gaps))
        descriptors: DescriptorTracer | None = None
        clock_offset_ns = time.time_ns() - time.monotonic_ns()
        if with_descriptors:
            log_sockets_at = clock_offset_ns if with_sockets else None
            with contained("descriptors", gaps, but=(OSError,)):
                tracer = DescriptorTracer(
                    pids,
                    read_links,
                    read_numbers,
                    read_pids,
                    code=code,
                    log_sockets_at=log_sockets_at,
                    follow_limit=follow_limit,
                )
                stack.enter_context(detached(tracer, gaps))
                tracer.read()
                descriptors = tracer
        sampler: CpuSampler | None = None
        if frequency and code:
            with contained("CPU samples", gaps, but=(OSError,)):
                try:
                    made = CpuSampler(pids, frequency, code.read_maps, code.open_mapping, DebugFiles(code.debuginfod))
                    sampler = stack.enter_context(detached(made, gaps))
                except NotAvailableError as problem:
                    gaps.append(Gap("CPU samples", problem.message, problem.remedy))
        give_up(may_use_network=bool(code and code.debuginfod))
        names: dict[int, tuple[int | None, str]] = {}
        started_ns = time.monotonic_ns()

        def read_descriptors() -> None:
            nonlocal descriptors
            tracer, descriptors = descriptors, None
            if tracer:
                with contained("descriptors", gaps):
                    tracer.read()
                    descriptors = tracer

        def ask_scheduling(ask: Callable[[SchedulingTracer], None]) -> None:
            nonlocal scheduling
            tracer, scheduling = scheduling, None
            if tracer:
                with contained("scheduling", gaps):
                    ask(tracer)
                    scheduling = tracer

        def ask_sampler(ask: Callable[[CpuSampler], None]) -> None:
            nonlocal sampler
            asked, sampler = sampler, None
            if asked:
                with contained("CPU samples", gaps):
                    ask(asked)
                    sampler = asked

        ask_scheduling(lambda tracer: tracer.start())
        ask_sampler(lambda asked: asked.start())
        interrupt = stack.enter_context(Interrupt()) if is_interruptible else None
        if awaited:
            tracers = [tracer.awaited for tracer in (descriptors and descriptors.recorder, scheduling) if tracer]
            if not tracers:
                raise NotAvailableError(f"nothing can be watched: {gaps[0].cause}", gaps[0].remedy)
            pids = [pid := wait_for(awaited, tracers, interrupt)]
            started_ns = tracers[0].at_ns
            if scheduling:
                scheduling.started_ns = scheduling.awaited.at_ns or started_ns
            targets = [stack.enter_context(target) for target in hold_if_alive(pid)]
            ask_sampler(lambda asked: asked.add(pid))
        if on_watching:
            on_watching()
        tick_seconds = _tick_of_beginner if on_watching or awaited else lambda _seconds: _REPORT_TICK_SECONDS
        children = ChildWatch(pids, descriptors, scheduling, follow.on_child) if follow else None

        def welcome() -> None:
            if children:
                with contained("children", gaps):
                    new = children.new_targets()
                    targets.extend(stack.enter_context(target) for target in new)
                    ask_sampler(lambda asked: asked.add(*(target.pid for target in new)))

        def settle() -> None:
            if descriptors:
                time.sleep(SETTLE_SECONDS)
                read_descriptors()
            welcome()

        def note_now(seconds: float) -> None:
            ask_scheduling(lambda tracer: tracer.reclaim())
            ask_sampler(lambda asked: asked.read())
            with contained("process", gaps):
                if on_tick and on_tick() and descriptors:
                    descriptors.remember_open()
            with contained("progress", gaps):
                progress(seconds, _confidence(scheduling, descriptors).seen_count)
            if seconds // _NAMES_SECONDS != (seconds - _REPORT_TICK_SECONDS) // _NAMES_SECONDS:
                ask_scheduling(lambda tracer: _learn_names(tracer, names, read_name))

        was_ended = False
        for seconds in ticks(targets, interrupt, duration_seconds, tick_seconds, settle if follow else None):
            read_descriptors()
            welcome()
            note_now(seconds)
            if is_over and is_over():
                was_ended = True
                break
        if follow:
            settle()  # who was made a moment ago lives, and is to be compared with /proc
        stopped_ns = time.monotonic_ns()
        ended_by: EndedBy = "duration"
        if was_ended or (interrupt and interrupt.came):
            ended_by = "interrupt"
        elif all(target.has_ended() for target in targets):
            ended_by = "target"
        activities: list[ThreadActivity] | None = None
        ask_scheduling(lambda tracer: tracer.stop())
        ask_sampler(lambda asked: asked.stop())
        if scheduling:
            started_ns, stopped_ns = scheduling.started_ns, scheduling.stopped_ns
        checks: Mapping[int, LedgerCheck | None] = {}
        with contained("ledger", gaps):
            checks = descriptors.finish()[1] if descriptors else {}
        ask_scheduling(lambda tracer: _learn_names(tracer, names, read_name, is_last=True))
        with contained("scheduling", gaps):
            activities = scheduling.activities(scheduling.names() | names) if scheduling else None
        if children:
            welcome()
            pids = [*pids, *children.found]
        of_descriptors: dict[int, DescriptorActivity] = {}
        for pid in pids:
            with contained("descriptors", gaps):
                if descriptors and (activity := descriptors.activity(pid)) is not None:
                    of_descriptors[pid] = activity
        if descriptors:
            gaps += descriptors.gaps
        if descriptors and descriptors.sites and descriptors.sites.problem:
            note_fault("call sites", descriptors.sites.problem, gaps)
        if sampler:
            gaps += sampler.gaps()
            if sampler.problem:
                note_fault("CPU samples", sampler.problem, gaps)
        confidence = NOTHING_SEEN
        with contained("confidence", gaps):
            confidence = _confidence(scheduling, descriptors)
            measured = [tracer for tracer in (scheduling, descriptors and descriptors.recorder) if tracer]
            confidence = msgspec.structs.replace(confidence, program_ns_per_event=_measure_programs(measured))
        result = TraceResult(
            started_ns=started_ns,
            clock_offset_ns=clock_offset_ns,
            duration_ns=stopped_ns - started_ns,
            ended_by=ended_by,
            activities=None if activities is None else tuple(activities),
            descriptors=of_descriptors,
            checks=checks,
            sees_io_uring=descriptors is None or descriptors.recorder.sees_io_uring,
            confidence=confidence,
            children=tuple(
                child._replace(name=descriptors.names.get(child.pid, child.name) if descriptors else child.name)
                for child in (children.found.values() if children else ())
            ),
            ended_ns=descriptors.ended_ns if descriptors else {},
            left_out_count=max(
                (descriptors.recorder.following.left_out_count if descriptors else 0),
                (scheduling.following.left_out_count if scheduling else 0),
            ),
            cpu=sampler.cpu_times() if sampler else {},
            ended_by_name=scheduling.ended_by_name() if scheduling else {},
            sharers=frozenset(pid for pid in pids if descriptors.shares_table(pid)) if descriptors else frozenset(),
        )
    return msgspec.structs.replace(result, gaps=tuple(gaps))  # with those of detaching


class ChildWatch:
    """Learns of processes that the targets made from whatever watches them."""

    def __init__(
        self,
        pids: Sequence[int],
        descriptors: DescriptorTracer | None,
        scheduling: SchedulingTracer | None,
        on_child: Callable[[int], None],
    ) -> None:
        self._pids = frozenset(pids)
        self._descriptors, self._scheduling, self._on_child = descriptors, scheduling, on_child
        self.found: dict[int, Child] = {}

    def look(self) -> list[int]:
        """The PIDs of those that were not known."""
        seen = list(self._descriptors.children.values()) if self._descriptors else []
        seen += self._scheduling.new_children() if self._scheduling else []
        new = []
        for child in seen:
            if child.pid in self._pids:
                continue
            known = self.found.get(child.pid)
            if known is None:
                new.append(child.pid)
            if known is None or known.parent_pid is None:  # scheduling learns of it sooner, but not whose it is
                self.found[child.pid] = child
        return new

    def new_targets(self) -> list[Target]:
        """Those of them that live."""
        targets = []
        for pid in self.look():
            self._on_child(pid)
            targets += hold_if_alive(pid)
        return targets


def wait_for(awaited: Awaited, tracers: Sequence[AwaitedProcess], interrupt: Interrupt | None) -> int:
    """Waits until the process has come, and gives its PID. Raises KeyboardInterrupt, SystemExit for SIGTERM."""
    for tracer in tracers:
        tracer.wait_for(awaited.name)
    poll = select.poll()
    if interrupt:
        poll.register(interrupt.fd, select.POLLIN)
    awaited.on_waiting()
    while (pid := tracers[0].pid) is None:
        poll.poll(_AWAITED_MILLISECONDS)
        if interrupt and interrupt.came:
            raise KeyboardInterrupt if interrupt.number == signal.SIGINT else SystemExit(128 + interrupt.number)
    awaited.on_come(pid)
    return pid


def hold_if_alive(pid: int) -> list[Target]:
    """The process; nothing where it has ended already."""
    try:
        return [Target(pid)]
    except NotAvailableError:
        return []


def _confidence(scheduling: SchedulingTracer | None, descriptors: DescriptorTracer | None) -> Confidence:
    """The accounts so far of what is watched."""
    confidence = scheduling.confidence() if scheduling else NOTHING_SEEN
    if descriptors is None:
        return confidence
    recorder = descriptors.recorder
    return join_counts(confidence, recorder.counts(), recorder.statistics().missed_count)


def join_counts(confidence: Confidence, counts: Counts, missed: int) -> Confidence:
    """The accounts of scheduling and of descriptors together."""
    return msgspec.structs.replace(
        confidence,
        seen_count=confidence.seen_count + counts.seen,
        lost_count=confidence.lost_count + counts.lost,
        map_full_count=confidence.map_full_count + counts.map_full,
        missed_count=(confidence.missed_count or 0) + missed,
        unreadable_count=counts.unread,
        undecoded_count=counts.compat,
        tool_cpu_seconds=time.process_time(),
    )


def ticks(
    targets: Sequence[Target],
    interrupt: Interrupt | None,
    duration_seconds: float,
    tick_seconds: Callable[[float], float],
    settle: Callable[[], None] | None = None,
) -> Iterator[float]:
    """The seconds since the start, once a tick, until the time is over, Ctrl-C, or every target has ended.

    `tick_seconds` gives the length of a tick, by the seconds since the start. `targets` may become more. `settle` is
    called when all have ended: it may find others that they made.
    """
    started = time.monotonic()
    poll = select.poll()
    alive: set[int] = set()
    known_count = 0

    def goes_on() -> bool:
        nonlocal known_count
        for target in targets[known_count:]:
            alive.add(target.pidfd)
            poll.register(target.pidfd, select.POLLIN)
        known_count = len(targets)
        return bool(alive)

    if interrupt:
        poll.register(interrupt.fd, select.POLLIN)
    next_tick = started
    while True:
        if not goes_on() and settle:
            settle()
        if not goes_on():
            break
        left = started + duration_seconds - time.monotonic()
        if left <= 0 or (interrupt and interrupt.came):
            break
        next_tick = max(next_tick + tick_seconds(time.monotonic() - started), time.monotonic())
        for fd, _ in poll.poll(1000 * max(0.0, min(left, next_tick - time.monotonic()))):
            poll.unregister(fd)
            alive.discard(fd)
        yield time.monotonic() - started


def _tick_of_beginner(seconds: float) -> float:
    return next(tick for until, tick in _BEGINNERS_TICKS if seconds < until)


def _measure_programs(tracers: Sequence[SchedulingTracer | DescriptorRecorder]) -> float | None:
    """Nanoseconds a run, by the kernel's own statistics, over a short slice after the window: they cost 30 ns a run."""
    try:
        fd = bpf.enable_statistics()
    except OSError:  # it takes CAP_SYS_ADMIN
        return None
    for tracer in tracers:
        tracer.resume()
    before = [tracer.statistics() for tracer in tracers]
    time.sleep(_STATISTICS_SECONDS)
    after = [tracer.statistics() for tracer in tracers]
    os.close(fd)
    runs = sum(now.run_count - then.run_count for then, now in zip(before, after, strict=True))
    run_ns = sum(now.run_time_ns - then.run_time_ns for then, now in zip(before, after, strict=True))
    return run_ns / runs if runs else None


def _learn_names(
    tracer: SchedulingTracer,
    names: dict[int, tuple[int | None, str]],
    read_name: ReadName,
    *,
    is_last: bool = False,
) -> None:
    """Reads the names of wakers and holders while they live: a number alone would say nothing in the report.

    The last time all of them, because a thread is born with the name of the one that made it.
    """
    for tid in tracer.holders_and_wakers() - (set() if is_last else names.keys()):
        if (name := read_name(tid)) is not None:
            names[tid] = name
