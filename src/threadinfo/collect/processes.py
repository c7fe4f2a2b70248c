"""All processes, for who is to choose one: what each is called, and how busy it is."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable

from threadinfo.proc.process import parse_stat, parse_status, user_name
from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.snapshot import ProcessSummary

Publish = Callable[[tuple[ProcessSummary, ...]], None]

_SOON_SECONDS = 0.3  # until the second list, the first that knows who is busy
_STOP_SECONDS = 3.0


class ProcessLister:
    """Lists them, again and again: each list knows the CPU time since the one before."""

    def __init__(self, root: ProcDirectory) -> None:
        self._root = root
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")
        self._users: dict[int, str] = {}
        self._before: dict[tuple[int, int], int] = {}
        self._at = 0.0

    def read(self, pids: Iterable[int] | None = None) -> tuple[ProcessSummary, ...]:
        """These, or all but this one; who ends meanwhile is left out."""
        now = time.monotonic()
        seconds, self._at = now - self._at if self._at else 0.0, now
        ticks: dict[tuple[int, int], int] = {}
        found = []
        for pid in self._root.numbers() if pids is None else pids:
            if pid in {os.getpid(), os.getppid()}:
                continue
            with contextlib.suppress(ProcError):
                found.append(self._read(pid, seconds, ticks))
        self._before = ticks
        return tuple(found)

    def _read(self, pid: int, seconds: float, ticks: dict[tuple[int, int], int]) -> ProcessSummary:
        stat = self._root.parse(f"{pid}/stat", parse_stat)
        status = self._root.parse(f"{pid}/status", parse_status)
        key = (pid, stat.start_ticks)
        ticks[key] = stat.cpu_ticks
        earlier = self._before.get(key)
        percent = None
        if seconds and earlier is not None:
            percent = 100 * (stat.cpu_ticks - earlier) / self._ticks_per_second / seconds
        descriptor_count = None
        with contextlib.suppress(ProcError):
            descriptor_count = len(self._root.numbers(f"{pid}/fd"))
        uid = status.effective_uid
        if uid not in self._users:
            self._users[uid] = user_name(uid)
        return ProcessSummary(
            pid=pid,
            name=stat.name,
            user=self._users[uid],
            cpu_percent=percent,
            cpu_seconds=stat.cpu_ticks / self._ticks_per_second,
            thread_count=stat.thread_count,
            descriptor_count=descriptor_count,
            resident_bytes=status.resident_bytes,
            is_kernel_thread=stat.is_kernel_thread,
        )


class PickerSession:
    """Lists all processes from `start` to `stop`, in a thread of its own."""

    def __init__(self, root: ProcDirectory, *, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self._lister = ProcessLister(root)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, publish: Publish, fail: Callable[[BaseException], None]) -> None:
        """Begins; both are called in the session's thread."""
        self._thread = threading.Thread(target=self._run, args=(publish, fail), name="picker session", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self, publish: Publish, fail: Callable[[BaseException], None]) -> None:
        try:
            publish(self._lister.read())
            seconds = min(_SOON_SECONDS, self.interval_seconds)
            while not self._stop.wait(seconds):
                publish(self._lister.read())
                seconds = self.interval_seconds
        except BaseException as problem:  # shown by whoever asked: a dead thread must not be silent
            fail(problem)


def find_busiest(root: ProcDirectory, pids: Iterable[int]) -> int | None:
    """The one that takes most of a CPU just now, and among idle ones has taken most; None where all have ended."""
    lister = ProcessLister(root)
    known = [one.pid for one in lister.read(pids)]
    time.sleep(_SOON_SECONDS)
    found = lister.read(known)
    return max(found, key=lambda one: (one.cpu_percent or 0.0, one.cpu_seconds, -one.pid)).pid if found else None
