"""Reads /proc for a trace: the targets' own directories, held open from before the trace until after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from threadinfo.errors import TargetEndedError
from threadinfo.model import BlockedCall, KernelAccount
from threadinfo.proc.perf_map import read_perf_map
from threadinfo.proc.process import ENDED_STATES
from threadinfo.proc.reader import ProcDirectory, ProcError, ProcGoneError
from threadinfo.proc.serving import is_native, read_blocked_call
from threadinfo.proc.threads import read_kernel_account, read_thread_owner, read_thread_states


class TargetReader:
    """Reads the targets' own directories of /proc: the same processes, though their numbers be used again."""

    def __init__(self, root: ProcDirectory, held: dict[int, ProcDirectory], stack: contextlib.ExitStack) -> None:
        self._root, self._held = root, held
        self._own: dict[int, ProcDirectory] = {}  # those that came later
        stack.callback(self._close_own)
        self.pids = tuple(held)
        self._is_native: dict[int, bool] = {}

    def _close_own(self) -> None:
        for process in self._own.values():
            process.close()

    def hold(self, pid: int) -> None:
        """Another target; nothing is known of one that has ended by now."""
        with contextlib.suppress(ProcError):
            self._held[pid] = self._own[pid] = self._root.directory(str(pid))
            self.pids = tuple(self._held)

    def let_go(self, pid: int) -> None:
        """Of one that has ended, and was held later than the others."""
        if (process := self._own.pop(pid, None)) is not None:
            del self._held[pid]
            self._is_native.pop(pid, None)
            self.pids = tuple(self._held)
            process.close()

    def threads(self) -> dict[int, dict[int, str]]:
        """The threads of every target, with the letters of their states."""
        return {pid: read_thread_states(process) for pid, process in self._held.items()}

    def account(self, pid: int, tid: int) -> KernelAccount | None:
        """What the kernel has counted of a thread of a target; None once it has ended."""
        return read_kernel_account(self._held[pid], tid) if pid in self._held else None

    def call(self, pid: int, tid: int) -> BlockedCall | None:
        """What a thread of a target sleeps in; None where it does not, or cannot be read."""
        if pid not in self._held:
            return None
        if pid not in self._is_native:
            try:
                self._is_native[pid] = is_native(self._held[pid])
            except ProcError:
                self._is_native[pid] = False
        return read_blocked_call(self._held[pid], tid) if self._is_native[pid] else None

    def links(self, pid: int) -> dict[int, str] | None:
        """Everything that a target has open; None where it has ended."""
        try:
            return {
                fd: link if isinstance(link, str) else ""
                for fd, link in self._held[pid].links("fd")
                if not isinstance(link, ProcGoneError)
            }
        except (KeyError, ProcError):
            return None

    def numbers(self, pid: int) -> list[int] | None:
        """The numbers that a target has open; None where it has ended."""
        try:
            return self._held[pid].numbers("fd")
        except (KeyError, ProcError):
            return None

    def maps(self, pid: int) -> bytes | None:
        """/proc/PID/maps of a target; None where it has ended."""
        try:
            return self._held[pid].read("maps")
        except (KeyError, ProcError):
            return None

    def open_mapping(self, pid: int, addresses: str) -> int | None:
        """Opens what a target has mapped at "START-END", whatever its name leads to now; the caller closes it."""
        try:
            return self._held[pid].mapped_file(addresses)
        except (KeyError, ProcError):
            return None

    def perf_map(self, pid: int) -> bytes | None:
        """What a target says of the code that it made at run time; None where it says nothing."""
        return read_perf_map(self._held[pid]) if pid in self._held else None

    def all_pids(self) -> list[int]:
        """The ids of all processes of the machine."""
        return self._root.numbers()

    def name(self, tid: int) -> tuple[int | None, str] | None:
        """(PID, name) of any thread of the machine; None once it has ended."""
        return read_thread_owner(self._root, tid)


@contextlib.contextmanager
def hold_targets(root: ProcDirectory, pids: Sequence[int]) -> Iterator[TargetReader]:
    """Yields what reads the targets; raises TargetEndedError where none is left."""
    with contextlib.ExitStack() as stack:
        held = {}
        for pid in pids:
            with contextlib.suppress(ProcGoneError):
                process = stack.enter_context(root.directory(str(pid)))
                if any(state not in ENDED_STATES for state in read_thread_states(process).values()):
                    held[pid] = process
        if not held:
            raise TargetEndedError(
                "every process ended before it could be traced", "a report without --trace says what is left of it"
            )
        yield TargetReader(root, held, stack)


@contextlib.contextmanager
def hold_none(root: ProcDirectory) -> Iterator[TargetReader]:
    """Yields what will read a target that has not come yet."""
    with contextlib.ExitStack() as stack:
        yield TargetReader(root, {}, stack)
