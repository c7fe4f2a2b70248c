"""One child that unwinds for every tracer of a trace: what it has read of the target's files it reads once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from threadinfo.model import Gap
from threadinfo.trace.stacks.debug_files import DebugFiles
from threadinfo.trace.stacks.frames import Sample, Stack
from threadinfo.trace.stacks.perf_map import ReadPerfMap, RunTimeCode
from threadinfo.trace.stacks.unwinder import Unwinder

_PERF_MAPS = (
    "programs name it in /tmp/perf-PID.map: node --perf-basic-prof, python -X perf (3.12), "
    "jcmd PID Compiler.perfmap (Java 17)"
)


class SharedUnwinder:
    """An `Unwinder` that is started by the first who asks, and serves one thread after the other.

    A context manager; when the thread that started it ends, so does its child.
    """

    def __init__(
        self,
        open_mapping: Callable[[int, str], int | None],
        read_perf_map: ReadPerfMap,
        debuginfod: tuple[str, ...] = (),
    ) -> None:
        """`open_mapping`: as of `Unwinder`. `debuginfod`: servers to ask for debug files that this host lacks."""
        self._open_mapping, self._debuginfod = open_mapping, debuginfod
        self._run_time_code = RunTimeCode(read_perf_map)
        self._unwinder: Unwinder | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Raises NotAvailableError where stacks are not unwound on this machine."""
        with self._lock:
            self._started()

    def _started(self) -> Unwinder:
        if self._unwinder is None:
            self._unwinder = Unwinder(self._open_mapping, DebugFiles(self._debuginfod))
        return self._unwinder

    def unwind(self, pid: int, maps: bytes, samples: Sequence[Sample]) -> list[Stack]:
        """As `Unwinder.unwind`, once the others are done."""
        with self._lock:
            stacks = self._started().unwind(pid, maps, samples)
            return [self._run_time_code.name(pid, stack) for stack in stacks]

    def gaps(self) -> list[Gap]:
        """What could not be named so far."""
        code = self._run_time_code
        if not code.nameless_count:
            return []
        whole = code.nameless_count + code.named_count
        cause = f"{code.nameless_count} of {whole} frames are of code that was made at run time, and have no names"
        return [Gap("stacks", cause, _PERF_MAPS)]

    def __enter__(self) -> SharedUnwinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Without the lock: a thread that a file of the target's holds up may have it.
        if self._unwinder is not None:
            self._unwinder.close()
