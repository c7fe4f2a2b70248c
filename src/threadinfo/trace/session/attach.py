"""The one place that attaches: every tracer that is asked for, or none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from threadinfo.containment import contained, detached
from threadinfo.errors import NotAvailableError
from threadinfo.model import Confidence, Gap
from threadinfo.trace.kernel.preflight import check_privilege
from threadinfo.trace.kernel.privileges import give_up
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.session.tracer import NOTHING_SEEN, AnyTracer, Tracer, Window, join_confidence
from threadinfo.trace.stacks.shared_unwinder import SharedUnwinder
from threadinfo.tracers import TRACERS

_Answer = TypeVar("_Answer")


class Attached:
    """The tracers of one trace. One in which a fault of ours comes to light is not asked any more: it may say wrong."""

    def __init__(self, tracers: Sequence[Tracer], gaps: list[Gap], unwinder: SharedUnwinder) -> None:
        self._tracers, self._unwinder = list(tracers), unwinder
        self.own_gaps = gaps
        """Faults that cost more than one of them, or a whole one."""

    def __iter__(self) -> Iterator[Tracer]:
        return iter(tuple(self._tracers))

    def __len__(self) -> int:
        return len(self._tracers)

    def find(self, kind: type[AnyTracer]) -> AnyTracer | None:
        """The tracer of a kind; None where it is not asked for, or not asked any more."""
        return next((tracer for tracer in self._tracers if isinstance(tracer, kind)), None)

    def ask(self, do: Callable[[Tracer], _Answer]) -> list[_Answer]:
        """The answers of all of them."""
        return [answer for tracer in self for answer in self._ask(tracer, do)]

    def ask_one(self, kind: type[AnyTracer], do: Callable[[AnyTracer], _Answer], otherwise: _Answer) -> _Answer:
        """The answer of the tracer of a kind."""
        tracer = self.find(kind)
        return next(iter(self._ask(tracer, do)), otherwise) if tracer else otherwise

    def _ask(self, tracer: AnyTracer, do: Callable[[AnyTracer], _Answer]) -> list[_Answer]:
        with contained(tracer.name, self.own_gaps):
            return [do(tracer)]
        self._tracers.remove(tracer)
        return []

    def settle(self) -> None:
        """Waits for what has happened and is on its way, and reads it."""
        if seconds := max((tracer.settle_seconds for tracer in self), default=0.0):
            time.sleep(seconds)
            self.ask(lambda tracer: tracer.read())

    def window(self, otherwise: Window) -> Window:
        """The time that was counted: of the tracer whose times must add up to it, where there is one."""
        return next((window for tracer in self if (window := tracer.window)), otherwise)

    def note_moment(self, names: Mapping[int, tuple[int | None, str]]) -> None:
        """Lets `activities` tell of the time until now, while the trace goes on."""
        for tracer in self:
            tracer.note_moment(names)

    def activities(self, pid: int) -> list[object | None]:
        """What each saw of a process; a fault costs that process's part alone."""
        seen = []
        for tracer in self:
            with contained(tracer.name, self.own_gaps):
                seen.append(tracer.activity(pid))
        return seen

    def take(self, pids: Sequence[int]) -> dict[int, list[object]]:
        """What each saw of processes that ended a while ago, of which none is asked again."""
        found: dict[int, list[object]] = {pid: [] for pid in pids}
        for taken in self.ask(lambda tracer: tracer.take(pids)):
            for pid, seen in taken.items():
                found[pid] += [seen] if seen is not None else []
        return found

    def ended_ns(self) -> dict[int, int]:
        """When processes ended, CLOCK_MONOTONIC, as far as any of them knows."""
        return {pid: at_ns for tracer in self for pid, at_ns in tracer.ended_ns.items()}

    def confidence(self) -> Confidence:
        """The accounts of all of them so far."""
        with contained("confidence", self.own_gaps):
            return join_confidence([tracer.confidence() for tracer in self])
        return NOTHING_SEEN

    def require(self) -> None:
        """Raises NotAvailableError where not a single one is left, for a fault of ours."""
        if not self._tracers:
            raise NotAvailableError(f"nothing can be watched: {self.own_gaps[0].cause}", self.own_gaps[0].remedy)

    def gaps(self) -> list[Gap]:
        """Everything that could not be done so far."""
        return [*self.own_gaps, *(gap for tracer in self for gap in tracer.gaps), *self._unwinder.gaps()]


def attach(stack: contextlib.ExitStack, target: TraceTarget, options: TraceOptions) -> Attached:
    """Attaches what is asked for, until the stack is left; raises NotAvailableError where that is impossible."""
    check_privilege()
    gaps: list[Gap] = []
    tracers: list[Tracer] = []
    shared = SharedUnwinder(target.open_mapping, target.perf_map, options.debuginfod)
    unwinder = stack.enter_context(detached(shared, gaps))
    options = options._replace(unwinder=unwinder)
    for registered in TRACERS:
        if not options.only.intersection(registered.watches):
            continue
        kind = registered.load()
        try:
            with contained(kind.name, gaps, but=(OSError,)):
                tracers.append(stack.enter_context(detached(kind.attach(target, options), gaps)))
        except NotAvailableError as problem:
            if not registered.is_optional or options.only <= set(registered.watches):
                raise
            gaps.append(Gap(kind.name, problem.message, problem.remedy))
    give_up(may_use_network=bool(options.debuginfod))
    return Attached(tracers, gaps, unwinder)
