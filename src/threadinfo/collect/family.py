"""The processes that traced ones make: told of one by one while they are few or matter, and added up by command.

Memory does not grow with how many there were: of those that ended only the busiest are kept.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import msgspec

from threadinfo.collect.process import CollectOptions, unseen
from threadinfo.collect.target_reader import TargetReader
from threadinfo.collect.traced import NEVER_SEEN, merge_trace, seen_before_end, seen_of
from threadinfo.collect.watcher import FamilyWatcher, Snapshot, arguments_address
from threadinfo.model import Family, FamilyCommand, Gap, ProcessReport
from threadinfo.proc.process import read_stat
from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.trace.session.awaited import NAME_BYTES
from threadinfo.trace.session.following import Child
from threadinfo.trace.session.session import TraceResult

MOST_TOLD = 100
"""Of those that ended, and as many of those that live."""
_MOST_COMMANDS = 1000
_COMMAND_CHARACTERS = 200
_NUMBER = re.compile(r"\d+")
_OTHERS = "others"
_NAMED = 5
_AGAIN = "trace again: what lives by then is traced from the beginning"


class _Sums:
    """Of the processes that ran one command; None: not watched."""

    def __init__(self) -> None:
        self.count = self.alive_count = 0
        self.figures: list[int | None] = [None] * 5

    def add(self, figures: Sequence[int | None], *, is_alive: bool) -> None:
        """One process more."""
        self.count += 1
        self.alive_count += is_alive
        for place, figure in enumerate(figures):
            if figure is not None:
                self.figures[place] = (self.figures[place] or 0) + figure


class _Known(NamedTuple):
    """A child, with all that is kept of it."""

    child: Child
    ended_ns: int | None
    """CLOCK_MONOTONIC; None: it lives."""
    seen: tuple[object, ...]
    last: Snapshot | None
    """Not one from before it executed what it ran."""

    def name(self) -> str:
        """Of what it ran last."""
        if self.last is not None:
            return self.last.report.name
        if self.child.program:
            return os.path.basename(self.child.program)[:NAME_BYTES]
        scheduling = seen_of(self.seen).scheduling
        names = [one.name for one in scheduling.threads if one.tid == self.child.pid] if scheduling else []
        return names[-1] if names else self.child.name

    def is_fork(self) -> bool | None:
        """Whether it executed nothing; None where nobody watched that."""
        return None if self.child.parent_pid is None else self.child.program is None


class FamilyRecord:
    """What is known of the family of what is traced. It goes on until `told`."""

    def __init__(self, root: ProcDirectory, options: CollectOptions, reader: TargetReader) -> None:
        self._watcher, self._reader = FamilyWatcher(root, options), reader
        self._kept: list[tuple[int, int, _Known]] = []  # a heap, the least busy first
        self._order = count()
        self._sums: dict[tuple[str, str | None, str, bool | None], _Sums] = {}
        self._made_count = 0
        self._root, self._pids = root, tuple(reader.pids)
        self._unknown: set[int] | None = None
        """Those that lived when the trace had begun, and no tracer has told of."""

    def welcome(self, pid: int) -> None:
        """A child that is traced from now on."""
        self._reader.hold(pid)
        self._watcher.add(pid)
        if self._unknown:
            self._unknown.discard(pid)

    def look(self) -> bool:
        """Looks at those whose time it is; says whether it did."""
        if self._unknown is None:  # all tracers are attached by now
            unknown = descendants(self._root, self._pids).keys() - {*self._pids, *self._watcher.pids}
            self._unknown = {pid for pid in unknown if arguments_address(self._root, pid) is not None}  # no zombie
        return self._watcher.look()

    def note_ended(self, child: Child, ended_ns: int, seen: Sequence[object]) -> None:
        """A child that is no more: it is added up, and kept if it is among the busiest."""
        self._reader.let_go(child.pid)
        self._keep(_Known(child, ended_ns, tuple(seen), _of_program(child, self._watcher.forget(child.pid))))

    def _keep(self, known: _Known) -> None:
        self._made_count += 1
        self._count(known)
        heapq.heappush(self._kept, (busy_ns(known.seen), next(self._order), known))
        if len(self._kept) > MOST_TOLD:
            heapq.heappop(self._kept)

    def _count(self, known: _Known) -> None:
        report = known.last.report if known.last else None
        executable = report.executable if report else _absolute(known.child.program)
        self._add(known.name(), executable, report, known.is_fork(), known.seen, is_alive=known.ended_ns is None)

    def _add(
        self,
        name: str,
        executable: str | None,
        report: ProcessReport | None,
        is_fork: bool | None,
        seen: Sequence[object],
        *,
        is_alive: bool,
    ) -> None:
        command = _NUMBER.sub("#", " ".join(report.command_line if report else ())[:_COMMAND_CHARACTERS])
        key = name, executable, command, is_fork
        if key not in self._sums and len(self._sums) >= _MOST_COMMANDS:
            key = _OTHERS, None, "", None
        self._sums.setdefault(key, _Sums()).add(_figures(seen), is_alive=is_alive)

    def told(
        self,
        asked: Sequence[ProcessReport],
        older: Sequence[tuple[ProcessReport, bool]],
        result: TraceResult,
        only: frozenset[str],
    ) -> tuple[list[ProcessReport], Family]:
        """All reports, in the order of their PIDs, and the summary.

        `asked` and `older`, which lived when the trace began (and whether they do now), are made already; of the latter
        those come first that are told of.
        """
        stopped_ns = result.started_ns + result.duration_ns
        living = []
        for child in result.children:
            seen = tuple(result.activities.get(child.pid, ()))
            if self._watcher.is_alive(child.pid):
                last = _of_program(child, self._watcher.last(child.pid))
                living.append(_Known(child, None, seen, last))
            else:
                ended_ns = min(stopped_ns, result.ended_ns.get(child.pid, stopped_ns))
                self._keep(_Known(child, ended_ns, seen, _of_program(child, self._watcher.forget(child.pid))))
        for known in living:
            self._made_count += 1
            self._count(known)
        living.sort(key=lambda known: -busy_ns(known.seen))
        kept = [*living[:MOST_TOLD], *(known for _, _, known in self._kept)]
        told = [self._merge(known, result, only) for known in kept]
        told += [report for report, _ in older[:MOST_TOLD]]
        for report, is_alive in older:
            seen = tuple(result.activities.get(report.pid, ()))
            self._add(report.name, report.executable, report, None, seen, is_alive=is_alive)
        family = Family(
            older_count=len(older),
            made_count=self._made_count,
            left_out_count=result.left_out_count,
            alive_count=sum(sums.alive_count for sums in self._sums.values()),
            told_count=len(told),
            commands=self._commands(),
        )
        every = sorted([*asked, *told], key=lambda report: report.pid)
        if self._unknown and not result.left_out_count:
            listed = ", ".join(map(str, sorted(self._unknown)[:_NAMED]))
            listed += ", ..." if len(self._unknown) > _NAMED else ""
            cause = f"{len(self._unknown)} more were made while the tracers attached, and not seen: {listed}"
            every[0] = msgspec.structs.replace(every[0], gaps=(*every[0].gaps, Gap("children", cause, _AGAIN)))
        if result.left_out_count:
            gap = Gap("children", f"{result.left_out_count} more were made and not followed: they were too many", None)
            every[0] = msgspec.structs.replace(every[0], gaps=(*every[0].gaps, gap))
        return every, family

    def _commands(self) -> tuple[FamilyCommand, ...]:
        commands = [
            FamilyCommand(
                name=name,
                executable=executable,
                command=command,
                is_fork=is_fork,
                count=sums.count,
                alive_count=sums.alive_count,
                on_cpu_ns=sums.figures[0],
                run_queue_ns=sums.figures[1],
                blocked_ns=sums.figures[2],
                opened_count=sums.figures[3],
                failed_count=sums.figures[4],
            )
            for (name, executable, command, is_fork), sums in self._sums.items()
        ]
        return tuple(sorted(commands, key=lambda one: (-(one.on_cpu_ns or 0), -(one.opened_count or 0), -one.count)))

    def _merge(self, known: _Known, result: TraceResult, only: frozenset[str]) -> ProcessReport:
        """With what /proc says now, or said last; the trace is as long as the child lived."""
        child, stopped_ns = known.child, result.started_ns + result.duration_ns
        later = self._watcher.now(child.pid) if known.ended_ns is None else None
        ended_ns = stopped_ns if known.ended_ns is None else known.ended_ns
        earlier = known.last.report if known.last else unseen(child.pid, known.name())
        if known.last is None:
            earlier = msgspec.structs.replace(earlier, executable=_absolute(child.program))
        gap = NEVER_SEEN if known.last is None else seen_before_end(ended_ns / 1e9 - known.last.at)
        own = msgspec.structs.replace(
            result,
            duration_ns=max(0, ended_ns - max(result.started_ns, child.born_ns)),
            ended_by=result.ended_by if later else "target",
            activities={child.pid: known.seen},
        )
        report = merge_trace(earlier, later, own, only, gap)
        gaps = report.gaps
        descriptors = seen_of(known.seen).descriptors
        if descriptors and descriptors.shares_table:
            cause = f"it used the table of process {child.parent_pid}: what it did with it is told there"
            gaps = (*gaps, Gap("descriptors", cause, None))
        elif descriptors is None and any(seen_of(one).descriptors for one in result.activities.values()):
            cause = "it was made while the tracers attached: what it did with descriptors was not seen"
            gaps = (*gaps, Gap("descriptors", cause, _AGAIN))
        return msgspec.structs.replace(report, parent_pid=child.parent_pid, is_fork=known.is_fork(), gaps=gaps)


def _of_program(child: Child, last: Snapshot | None) -> Snapshot | None:
    """What was seen of a child, unless it was its parent's image still: it has executed another since."""
    return None if last is None or last.at * 1e9 < child.executed_ns else last


def _absolute(program: str | None) -> str | None:
    return program if program and program.startswith("/") else None


def _figures(seen: Sequence[object]) -> tuple[int | None, ...]:
    """On a CPU, queued and blocked, in ns; descriptors opened, calls on them that failed."""
    scheduling, descriptors, _ = seen_of(seen)
    times: tuple[int | None, ...] = None, None, None
    if scheduling is not None:
        threads = [one.scheduling for one in scheduling.threads]
        every = [*threads, *scheduling.ended_by_name]
        times = tuple(sum(getattr(one, of) for one in every) for of in ("on_cpu_ns", "run_queue_ns", "blocked_ns"))
    counts = (descriptors.trace.opened_count, descriptors.trace.failed_count) if descriptors else (None, None)
    return *times, *counts


def busy_ns(seen: Sequence[object]) -> int:
    """How long a process ran and waited for a CPU; where that was not watched, what it opened."""
    on_cpu_ns, queued_ns, _, opened, _ = _figures(seen)
    return (on_cpu_ns or 0) + (queued_ns or 0) if on_cpu_ns is not None else opened or 0


def descendants(root: ProcDirectory, pids: Sequence[int]) -> dict[int, int]:
    """The living processes that came from some, by PID, each with its parent's."""
    parents: dict[int, int] = {}
    for pid in root.numbers():
        try:
            with root.directory(str(pid)) as process:
                parents[pid] = read_stat(process).parent_pid
        except ProcError:
            continue
    found: dict[int, int] = {}
    wanted = set(pids)
    while new := {pid for pid, parent in parents.items() if parent in wanted} - found.keys() - set(pids):
        found |= {pid: parents[pid] for pid in new}
        wanted = new
    return dict(sorted(found.items()))
