"""A trace from attaching to detaching: waits for its end, welcomes those who come, opens and closes the one window.

It ends when the time is over, when the user interrupts (what was seen so far is kept), or when the last target ends.
What is watched is the tracers' affair (`tracer.py`): nothing here knows one of them by name.
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

from threadinfo.containment import contained
from threadinfo.errors import NotAvailableError
from threadinfo.model import Confidence, Gap
from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.machine import clock_offset_ns
from threadinfo.trace.session.attach import Attached, attach
from threadinfo.trace.session.following import Child
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.session.tracer import Tracer, Window

EndedBy = Literal["duration", "interrupt", "target"]

_REPORT_TICK_SECONDS = 0.05
_BEGINNERS_TICKS = ((0.2, 0.001), (1.0, 0.01), (math.inf, _REPORT_TICK_SECONDS))
"""Until how many seconds after its beginning, and how long a tick then is."""
_AWAITED_MILLISECONDS = 1
_STATISTICS_SECONDS = 0.05
_SURELY_TOLD_NS = 300_000_000  # after its end everything of a process has come, and its stacks have been asked for
_TAKE_EVERY_NS = 500_000_000


class TraceResult(msgspec.Struct, frozen=True):
    """What a trace saw, of all its targets."""

    started_ns: int
    """CLOCK_MONOTONIC."""
    clock_offset_ns: int
    """From CLOCK_MONOTONIC to UTC: the same for all that is told of the trace."""
    duration_ns: int
    ended_by: EndedBy
    activities: Mapping[int, Sequence[object]]
    """By process, what each tracer saw of it."""
    confidence: Confidence
    children: tuple[Child, ...] = ()
    """Processes that the targets made and that were traced too."""
    ended_ns: Mapping[int, int] = MappingProxyType({})
    """CLOCK_MONOTONIC, when processes ended, as far as a tracer knows."""
    left_out_count: int = 0
    """Children that were not traced: there were too many."""
    gaps: tuple[Gap, ...] = ()
    """What is not told of, for faults of ours."""


class Awaited(NamedTuple):
    """A process that has not begun."""

    name: str
    """The kernel's name of it."""
    on_waiting: Callable[[], None]
    """Called when it may come: it will not be missed."""
    on_come: Callable[[int], None]
    """Called with its PID, when it has come; it may have ended already."""


class Hooks(NamedTuple):
    """What whoever wants a trace is told, and asked, while it goes on."""

    progress: Callable[[float, int], None] | None = None
    """Is told the seconds since the start and the events so far, once a tick."""
    on_watching: Callable[[], None] | None = None
    """Called when everything is watched. What begins then is looked at very often at first, since a process that ends
    soon can only be read while it lives."""
    on_tick: Callable[[], bool] | None = None
    """Called once a tick; where it says so, what is open now is what is told of a process that ends later."""
    on_child: Callable[[int], None] | None = None
    """Called with the PID of a traced child, a moment after it was made; it may have ended already."""
    on_ended: Callable[[Child, int, Sequence[object]], None] | None = None
    """Called with a child that has ended, when (CLOCK_MONOTONIC), and what each tracer saw of it: none is asked of it
    again, and the result does not have it."""
    is_over: Callable[[], bool] | None = None
    """Asked once a tick whether to end."""
    is_interruptible: bool = True
    """Whether Ctrl-C and SIGTERM end the trace; otherwise they are somebody else's."""


class Target:
    """A traced process, held by a pidfd: it is the same process at the end, or it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended_ns = 0
        """CLOCK_MONOTONIC, when its end was noticed; 0: it was not."""
        self.is_polled = False
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError as problem:
            raise NotAvailableError(f"cannot watch process {pid}: {problem.strerror}") from None

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        if self.ended_ns:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Holds it no more."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def close_all(targets: Sequence[Target]) -> None:
    """Holds none of them any more."""
    for target in targets:
        target.close()


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
    target: TraceTarget,
    duration_seconds: float,
    options: TraceOptions,
    hooks: Hooks,
    awaited: Awaited | None = None,
) -> TraceResult:
    """Traces processes for a time; raises NotAvailableError, with nothing left attached, where that is impossible.

    `awaited`: there is no target yet, but one that will come; raises KeyboardInterrupt for a Ctrl-C before that. Where
    children are followed it lasts until they have ended too.
    """
    with contextlib.ExitStack() as stack:
        pids = list(target.pids)
        targets = [stack.enter_context(Target(pid)) for pid in pids]
        stack.callback(close_all, targets)
        tracers = attach(stack, target, options)
        follows, children = bool(options.follow_limit), None
        if follows and not awaited:
            children = ChildWatch(pids, tracers, options.follow_limit, hooks.on_child, hooks.on_ended)
            with contained("children", tracers.own_gaps):
                children.leave_out_ended()
                targets.extend(children.new_targets())  # before the start, which asks /proc for those it is to tell of
        window = Window(time.monotonic_ns(), 0)
        tracers.ask(lambda tracer: tracer.start())
        interrupt = stack.enter_context(Interrupt()) if hooks.is_interruptible else None
        if awaited:
            pid, at_ns = wait_for(awaited, tracers, interrupt)
            pids.append(pid)
            window = Window(at_ns, 0)
            targets += hold_if_alive(pid)
        if children:
            children.leave_out_ended()
        elif follows:
            children = ChildWatch(pids, tracers, options.follow_limit, hooks.on_child, hooks.on_ended)
        if hooks.on_watching:
            hooks.on_watching()
        tick_seconds = _tick_of_beginner if hooks.on_watching or awaited else lambda _seconds: _REPORT_TICK_SECONDS

        def welcome() -> None:
            if children:
                with contained("children", tracers.own_gaps):
                    targets.extend(children.new_targets())
                    children.take_ended(targets)

        def settle() -> None:
            tracers.settle()
            welcome()

        was_ended = False
        for seconds in ticks(targets, interrupt, duration_seconds, tick_seconds, settle if follows else None):
            tracers.ask(lambda tracer: tracer.read())
            welcome()
            with contained("process", tracers.own_gaps):
                if hooks.on_tick and hooks.on_tick():
                    tracers.ask(lambda tracer: tracer.remember())
            with contained("progress", tracers.own_gaps):
                if hooks.progress:
                    hooks.progress(seconds, tracers.confidence().seen_count)
            if hooks.is_over and hooks.is_over():
                was_ended = True
                break
        if follows:
            settle()  # who was made a moment ago lives, and is to be compared with /proc
        window = Window(window.started_ns, time.monotonic_ns())
        ended_by: EndedBy = "duration"
        if was_ended or (interrupt and interrupt.came):
            ended_by = "interrupt"
        elif all(one.has_ended() for one in targets):
            ended_by = "target"
        tracers.ask(lambda tracer: tracer.stop())
        tracers.ask(lambda tracer: tracer.conclude())
        window = tracers.window(window)
        welcome()
        activities = {
            pid: tuple(seen for seen in tracers.activities(pid) if seen is not None)
            for pid in (*pids, *(children.found if children else ()))
        }
        confidence = tracers.confidence()
        with contained("confidence", tracers.own_gaps):
            confidence = msgspec.structs.replace(confidence, program_ns_per_event=_measure_programs([*tracers]))
        result = TraceResult(
            started_ns=window.started_ns,
            clock_offset_ns=clock_offset_ns(),
            duration_ns=window.stopped_ns - window.started_ns,
            ended_by=ended_by,
            activities=activities,
            confidence=confidence,
            children=tuple(children.found.values()) if children else (),
            ended_ns=tracers.ended_ns(),
            left_out_count=max((tracer.following.left_out_count for tracer in tracers), default=0),
        )
    return msgspec.structs.replace(result, gaps=tuple(tracers.gaps()))  # with those of detaching


class ChildWatch:
    """Learns of processes that the targets made from whatever watches them."""

    def __init__(
        self,
        pids: Sequence[int],
        tracers: Attached,
        limit: int,
        on_child: Callable[[int], None] | None,
        on_ended: Callable[[Child, int, Sequence[object]], None] | None,
    ) -> None:
        """`limit`: of those that live at once."""
        self._pids, self._tracers, self._limit = frozenset(pids), tracers, limit
        self._on_child, self._on_ended = on_child, on_ended
        self.found: dict[int, Child] = {}
        """Those that live, or have ended a moment ago."""
        self._ended_ns: dict[int, int] = {}
        self._ended_count = self._next_ns = 0
        self._held: list[Target] = []

    def _look(self) -> list[int]:
        """The PIDs of those that were not known."""
        new = []
        for child in (child for tracer in self._tracers for child in tracer.children()):
            if child.pid in self._pids:
                continue
            if child.pid not in self.found:
                new.append(child.pid)
            if child.pid not in self.found or child.parent_pid is not None:  # not every tracer knows whose it is
                self.found[child.pid] = child
        return new

    def new_targets(self) -> list[Target]:
        """Those of them that live."""
        targets, self._held = self._held, []
        for target in targets:
            if self._on_child:
                self._on_child(target.pid)
        for pid in self._look():
            if self._on_child:
                self._on_child(pid)
            held = hold_if_alive(pid)
            if not held:
                self._ended_ns[pid] = time.monotonic_ns()
            targets += held
        return targets

    def leave_out_ended(self) -> None:
        """Those that came and went while the tracers were attached are not of the window."""
        for pid in self._look():
            if held := hold_if_alive(pid):
                self._held += held
            else:
                del self.found[pid]

    def take_ended(self, targets: list[Target]) -> None:
        """Tells of those that ended a while ago and forgets them, in `targets` too: others may be followed instead."""
        now_ns = time.monotonic_ns()
        if self._on_ended is None or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + _TAKE_EVERY_NS
        for target in [one for one in targets if one.ended_ns and one.pid in self.found]:
            self._ended_ns[target.pid] = target.ended_ns
            targets.remove(target)
            target.close()
        taken = [pid for pid, at_ns in self._ended_ns.items() if now_ns - at_ns > _SURELY_TOLD_NS]
        if not taken:
            return
        exactly = self._tracers.ended_ns()
        seen = self._tracers.take(taken)
        for pid in taken:
            noticed_ns = self._ended_ns.pop(pid)
            self._on_ended(self.found.pop(pid), exactly.get(pid, noticed_ns), seen[pid])
        self._ended_count += len(taken)
        for tracer in self._tracers:
            tracer.following.allow(self._limit + self._ended_count)


def wait_for(awaited: Awaited, tracers: Attached, interrupt: Interrupt | None) -> tuple[int, int]:
    """Waits until the process has come; its PID, and when it came (CLOCK_MONOTONIC).

    Raises KeyboardInterrupt, or SystemExit for SIGTERM.
    """
    tracers.require()
    for tracer in tracers:
        tracer.awaited.wait_for(awaited.name)
    last = [*tracers][-1].awaited  # who sees its exec last: the others have seen it too
    poll = select.poll()
    if interrupt:
        poll.register(interrupt.fd, select.POLLIN)
    awaited.on_waiting()
    while (pid := last.pid) is None:
        poll.poll(_AWAITED_MILLISECONDS)
        if interrupt and interrupt.came:
            raise KeyboardInterrupt if interrupt.number == signal.SIGINT else SystemExit(128 + interrupt.number)
    awaited.on_come(pid)
    for tracer in tracers:
        tracer.start_at(tracer.awaited.at_ns or last.at_ns)
    return pid, last.at_ns


def hold_if_alive(pid: int) -> list[Target]:
    """The process; nothing where it has ended already."""
    try:
        return [Target(pid)]
    except NotAvailableError:
        return []


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
    alive: dict[int, Target] = {}

    def goes_on() -> bool:
        for target in targets:
            if not target.is_polled:
                target.is_polled = True
                alive[target.pidfd] = target
                poll.register(target.pidfd, select.POLLIN)
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
            if fd in alive:
                alive.pop(fd).ended_ns = time.monotonic_ns()
        yield time.monotonic() - started


def _tick_of_beginner(seconds: float) -> float:
    return next(tick for until, tick in _BEGINNERS_TICKS if seconds < until)


def _measure_programs(tracers: Sequence[Tracer]) -> float | None:
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
