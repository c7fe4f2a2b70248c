"""The threads of some processes: on a CPU, waiting for one, blocked; and whether the kernel's own accounts agree."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import msgspec

from threadinfo.containment import contained, note_fault
from threadinfo.errors import NotAvailableError
from threadinfo.model import Confidence, EndedThreads, Gap
from threadinfo.trace.kernel.loader import ProgramStatistics
from threadinfo.trace.kernel.privileges import given_up_by_others
from threadinfo.trace.scheduling.kernel_facts import kernel_facts
from threadinfo.trace.scheduling.recorder import Delay, SchedulingRecorder, ThreadActivity
from threadinfo.trace.session.following import Child
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.session.tracer import Tracer, Window
from threadinfo.trace.stacks.call_sites import CallSites
from threadinfo.trace.stacks.shared_unwinder import SharedUnwinder
from threadinfo.trace.stacks.site_groups import site_frames

_NAMES_SECONDS = 1.0
_MOST_NAMES = 4096
_UNWIND_SECONDS = 3.0  # at the end, for what is still waiting


class SchedulingActivity(msgspec.Struct, frozen=True):
    """What the threads of one process did."""

    threads: tuple[ThreadActivity, ...]
    ended_by_name: tuple[EndedThreads, ...]
    """Threads that ended and are not among those."""


class SchedulingTracer(Tracer):
    """Watches the threads of some processes."""

    name = "scheduling"

    def __init__(self, target: TraceTarget, options: TraceOptions) -> None:
        """Attaches; nothing is counted before `start`. Where waits begin is found where that is possible."""
        super().__init__()
        with_waits = "waits" in options.only and options.threshold_ns is None
        self._sites: CallSites | None = None
        self._frames: dict[int, tuple[str, ...]] = {}
        with contextlib.ExitStack() as stack:
            if with_waits and options.with_stacks and not options.sends_events:
                unwinder = options.unwinder or stack.enter_context(SharedUnwinder(target.open_mapping, target.perf_map))
                try:
                    unwinder.start()
                except NotAvailableError as problem:
                    self.gaps.append(Gap("waits", f"where they began is not known: {problem}", problem.remedy))
                else:
                    self._sites = CallSites(unwinder, given_up_by_others(target.maps), target.pids)
                    stack.callback(self._sites.close)
            self.recorder = stack.enter_context(
                SchedulingRecorder(
                    target.threads,
                    target.account,
                    options.threshold_ns if options.sends_events else None,
                    follow_limit=options.follow_limit,
                    read_call=target.call if with_waits else None,
                    frames_of=self._frames_of if self._sites else None,
                )
            )
            recorder = self.recorder
            if self._sites and recorder.stacks:
                self._sites.attach(recorder.stacks, recorder.allow_copies)
            self._stack = stack.pop_all()
        if recorder.waits_problem:
            self.gaps.append(Gap("waits", recorder.waits_problem, None))
        self.awaited, self.following = recorder.awaited, recorder.following
        self._target = target
        self._names: dict[int, tuple[int | None, str]] = {}
        self._names_at = 0.0
        self._activities: dict[int, list[ThreadActivity]] | None = None

    @classmethod
    def attach(cls, target: TraceTarget, options: TraceOptions) -> SchedulingTracer:
        """Attaches; nothing is counted before `start`."""
        return cls(target, options)

    def _frames_of(self, number: int) -> tuple[str, ...]:
        stack = self._sites.stack(number) if self._sites else None
        if stack is None:
            return ()
        if id(stack) not in self._frames:  # which the sites keep: no other gets its place
            self._frames[id(stack)] = site_frames(stack)
        return self._frames[id(stack)]

    @classmethod
    def check_kernel(cls) -> int:
        """How many tracepoints it attaches to; raises NotAvailableError where the kernel lacks what it needs."""
        return len(kernel_facts()[1])

    def start(self) -> None:
        """Begins to count, for all threads at once."""
        self.recorder.start()

    def start_at(self, at_ns: int) -> None:
        """The process that was waited for has come."""
        self.recorder.started_ns = at_ns

    def read(self) -> None:
        """Makes room for new threads, and learns the names of wakers and holders while they live."""
        self.recorder.reclaim()
        self._read_stacks()
        if time.monotonic() >= self._names_at:
            self._names_at = time.monotonic() + _NAMES_SECONDS
            self._learn_names(self.recorder.holders_and_wakers() - self._names.keys())

    def _read_stacks(self) -> None:
        """A fault in this costs the stacks alone."""
        sites, self._sites = self._sites, None
        if sites:
            with contained("waits", self.gaps):
                sites.read()
                self._sites = sites

    def _learn_names(self, tids: set[int]) -> None:
        for tid in tids:
            if (name := self._target.name(tid)) is not None:
                self._names[tid] = name

    def read_delays(self) -> list[Delay]:
        """The waits that were longer than the threshold, since the last call."""
        delays = self.recorder.read_delays()
        self.recorder.reclaim()
        return delays

    def children(self) -> Sequence[Child]:
        """The processes that traced ones have made since the last call."""
        return self.recorder.new_children()

    def stop(self) -> None:
        """Ends counting, and compares with the kernel's accounts."""
        self.recorder.stop()
        self._learn_names(self.recorder.holders_and_wakers())  # all again: a thread is born with its maker's name

    def conclude(self) -> None:
        """Waits for the stacks that are still to be unwound."""
        if self._sites:
            with contained("waits", self.gaps):
                self._sites.finish(_UNWIND_SECONDS)
                self._note_stacks(self._sites)

    def _note_stacks(self, sites: CallSites) -> None:
        if sites.problem is not None:
            note_fault("waits", sites.problem, self.gaps)
        elif problems := sites.problems():
            words, early = next(iter(problems.items())), sites.unwound_count - sites.complete_count
            cause = f"{early} of {sites.unwound_count} stacks where waits began end early; mostly: {words[0]}"
            self.gaps.append(Gap("waits", cause, None))
        if uncopied := self.recorder.uncopied_count():
            cause = f"of {uncopied} waits it is not known where they began: their stacks came faster than they are read"
            self.gaps.append(Gap("waits", cause, None))

    @property
    def window(self) -> Window:
        """From when to when was counted: what a thread did adds up to it."""
        return Window(self.recorder.started_ns, self.recorder.stopped_ns)

    def note_moment(self, names: Mapping[int, tuple[int | None, str]]) -> None:
        """Lets `activity` tell of the time until now; `names` are (PID, name) of threads of any process."""
        self.recorder.note_moment()
        self._activities = self._decode(names)

    def activity(self, pid: int) -> SchedulingActivity:
        """What the threads of a process did in the window."""
        if self._activities is None:
            self._activities = self._decode(self._names)
        return SchedulingActivity(tuple(self._activities.get(pid, ())), self.recorder.ended_by_name().get(pid, ()))

    def take(self, pids: Sequence[int]) -> dict[int, object | None]:
        """What the threads of ended processes did; their slots are for others from now on."""
        found: dict[int, list[ThreadActivity]] = {pid: [] for pid in pids}
        activities, by_name = self.recorder.take(pids, {**self.recorder.names(), **self._names})
        for activity in activities:
            found[activity.pid].append(activity)
        if self._sites:
            self._sites.forget(pids)
        if len(self._names) > _MOST_NAMES:
            needed = self.recorder.holders_and_wakers()
            self._names = {tid: name for tid, name in self._names.items() if tid in needed}
        return {pid: SchedulingActivity(tuple(threads), by_name.get(pid, ())) for pid, threads in found.items()}

    def _decode(self, names: Mapping[int, tuple[int | None, str]]) -> dict[int, list[ThreadActivity]]:
        found: dict[int, list[ThreadActivity]] = {}
        for activity in self.recorder.activities({**self.recorder.names(), **names}):
            found.setdefault(activity.pid, []).append(activity)
        return found

    def confidence(self) -> Confidence:
        """The accounts so far."""
        return self.recorder.confidence()

    def statistics(self) -> ProgramStatistics:
        """The kernel's account of the programs."""
        return self.recorder.statistics()

    def resume(self) -> None:
        """Lets the programs work again, for measuring them; what they count from now on must not be read."""
        self.recorder.resume()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
