"""Looks at processes while they live: one that has ended says nothing of what it was."""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple

from threadinfo.collect.process import CollectOptions, collect_process
from threadinfo.errors import TargetEndedError
from threadinfo.model import ProcessReport
from threadinfo.proc.process import read_machine
from threadinfo.proc.reader import ProcDirectory, ProcError

_FIRST_INTERVAL_SECONDS, _LONGEST_INTERVAL_SECONDS = 0.05, 1.0
_FIRST_LOOK_SECONDS = 0.01  # the stacks of a quick process come first
_SHARE = 0.05  # of one CPU, for looking at /proc meanwhile
_ARGUMENTS_AT = 47 - 2  # field 48 of /proc/PID/stat, arg_start, among those after the name


class Snapshot(NamedTuple):
    """What /proc said, and when."""

    report: ProcessReport
    at: float
    """`time.monotonic`."""


class Watcher:
    """Looks at /proc now and then: a process that has ended says nothing of what it was."""

    def __init__(self, root: ProcDirectory, options: CollectOptions, not_yet: int | None = None) -> None:
        """`not_yet`: where the arguments lie while the process has not called exec yet."""
        self.pid = 0
        self._root, self._options, self._not_yet = root, options, not_yet
        self._machine = read_machine(root)
        self._interval = _FIRST_INTERVAL_SECONDS
        self._next = 0.0
        self._has_begun = False
        self.last: Snapshot | None = None

    def look(self, others_count: int = 0) -> bool:
        """Takes a snapshot when it is time: soon at first, later as often as costs little. Says whether it did.

        `others_count`: of watchers that share what it may cost.
        """
        began = monotonic()
        if self.last is None and not self._has_begun:
            self._has_begun, self._next = True, began + _FIRST_LOOK_SECONDS
        if began < self._next or arguments_address(self._root, self.pid) in {None, self._not_yet}:
            return False  # or it is ours still, before exec
        try:
            self.last = Snapshot(collect_process(self._root, self.pid, self._machine, self._options), began)
        except TargetEndedError:
            return False
        cost = monotonic() - began
        self._interval = min(2 * self._interval, _LONGEST_INTERVAL_SECONDS)
        self._next = monotonic() + max(self._interval, (1 + others_count) * cost / _SHARE)
        return True

    def now(self) -> ProcessReport | None:
        """What /proc says now; None where the process has ended."""
        try:
            return collect_process(self._root, self.pid, self._machine, self._options)
        except TargetEndedError:
            return None


def arguments_address(root: ProcDirectory, pid: int) -> int | None:
    """Where the arguments lie in memory: another place after exec. None for a process that has ended."""
    try:
        fields = root.read(f"{pid}/stat").rpartition(b")")[2].split()
        return int(fields[_ARGUMENTS_AT]) or None
    except (ProcError, ValueError, IndexError):
        return None


class FamilyWatcher:
    """Looks at the children of what is traced."""

    def __init__(self, root: ProcDirectory, options: CollectOptions) -> None:
        self._root, self._options = root, options
        self._of: dict[int, Watcher] = {}

    def add(self, pid: int) -> None:
        """Another child; it may have ended already."""
        self._of[pid] = watcher = Watcher(self._root, self._options)
        watcher.pid = pid

    @property
    def pids(self) -> tuple[int, ...]:
        """Of those that are looked at."""
        return tuple(self._of)

    def look(self) -> bool:
        """Takes snapshots of those whose time it is; says whether it took one."""
        has_looked = False
        for watcher in self._of.values():
            has_looked |= watcher.look(len(self._of))
        return has_looked

    def last(self, pid: int) -> Snapshot | None:
        """What was seen of a child last."""
        return self._of[pid].last if pid in self._of else None

    def now(self, pid: int) -> ProcessReport | None:
        """What /proc says now; None where the child has ended."""
        return self._of[pid].now() if pid in self._of else None

    def is_alive(self, pid: int) -> bool:
        """Whether the child goes on."""
        return pid in self._of and arguments_address(self._root, pid) is not None

    def forget(self, pid: int) -> Snapshot | None:
        """It has ended: what was seen of it last."""
        watcher = self._of.pop(pid, None)
        return watcher.last if watcher else None
