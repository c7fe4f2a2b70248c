"""What a tracer needs that asks of processes no more than whether they are traced: a C file that counts in maps.

Its C file includes kernel.h, marks.h, processes.h and follow.h of bpf/lib; it asks `mark_of(tgid) == TARGET`,
`is_on()`, and counts. The tracer reads its maps when it is asked for its `activity`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar, TypeVar

from threadinfo.errors import NotAvailableError
from threadinfo.trace.kernel.btf import KernelTypes
from threadinfo.trace.kernel.loader import Programs, ProgramStatistics
from threadinfo.trace.kernel.machine import pid_limit
from threadinfo.trace.session.awaited import AWAITED_BYTES, AwaitedProcess
from threadinfo.trace.session.following import FOLLOWING_BYTES, Child, Following
from threadinfo.trace.session.marks import TARGET, ProcessMarks
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.session.tracer import Tracer

_OFFSETS = {"TASK_PID": "pid", "TASK_TGID": "tgid", "TASK_COMM": "comm"}
_OF_PROCESSES = {name: f"on_{name}" for name in ("sched_process_fork", "sched_process_exec")}
_MOST_FOLLOWED = 1024  # as in bpf/lib/follow.h


class _Followed(ctypes.Structure):  # mirrors struct followed
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("parent_pid", ctypes.c_uint32),
        ("born_ns", ctypes.c_uint64),
        ("comm", ctypes.c_char * 16),
    )


_Self = TypeVar("_Self", bound="ProgramTracer")


class ProgramTracer(Tracer):
    """Loads and attaches its C file, marks the targets, and knows their children. Its own part is `activity`."""

    source: ClassVar[str]
    """Its C file: a name in bpf/."""
    tracepoints: ClassVar[Mapping[str, str]]
    """Raw tracepoints that must be there, with its function for each; those of processes come with lib/follow.h."""

    def __init__(self, target: TraceTarget, options: TraceOptions) -> None:
        super().__init__()
        self.target = target
        most_pid = pid_limit()
        defines = {**_find_offsets(), **self.defines(), "PID_LIMIT": most_pid}
        self.check_kernel()
        self.programs = Programs(self.source, defines, [*self.tracepoints.items(), *_OF_PROCESSES.items()])
        try:
            self.awaited = AwaitedProcess(self.programs.memory("awaited", AWAITED_BYTES, 1))
            self.following = Following(self.programs.memory("following", FOLLOWING_BYTES, 1))
            self.following.allow(min(options.follow_limit, _MOST_FOLLOWED))
            self._is_on = ctypes.c_uint64.from_buffer(self.programs.memory("window", 8, 1))
            followed = self.programs.memory("followed", ctypes.sizeof(_Followed), _MOST_FOLLOWED)
            self._told_count = 0
            self._followed = (_Followed * _MOST_FOLLOWED).from_buffer(followed)
            marks = ProcessMarks(self.programs, most_pid)
            for pid in target.pids:
                marks.set(pid, TARGET)
        except BaseException:
            self.programs.close()
            raise

    def defines(self) -> Mapping[str, int | str]:
        """What its C file is given, beside PID_LIMIT and TASK_*."""
        return {}

    @classmethod
    def attach(cls: type[_Self], target: TraceTarget, options: TraceOptions) -> _Self:
        """Attaches; counts nothing before `start`."""
        return cls(target, options)

    @classmethod
    def check_kernel(cls) -> int:
        """How many tracepoints it attaches to; raises NotAvailableError where the kernel lacks one."""
        names = [*cls.tracepoints, *_OF_PROCESSES]
        with KernelTypes() as types:
            missing = [name for name in names if types.argument_count(name) is None]
        if missing:
            raise NotAvailableError(f"this kernel lacks the tracepoints {', '.join(missing)}", None)
        return len(names)

    def start(self) -> None:
        """Begins to count."""
        self._is_on.value = 1

    def stop(self) -> None:
        """Ends counting."""
        self._is_on.value = 0

    def resume(self) -> None:
        """Counts again, for measuring."""
        self._is_on.value = 1

    def children(self) -> Sequence[Child]:
        """Those that were followed since the last call."""
        found = []
        while self._told_count < self.following.followed_count:
            one = self._followed[self._told_count % _MOST_FOLLOWED]
            if not one.pid:  # it is being written
                break
            found.append(
                Child(one.pid, one.parent_pid, one.comm.decode("utf-8", "backslashreplace"), one.born_ns, False)
            )
            one.pid = 0
            self._told_count += 1
        return found

    def statistics(self) -> ProgramStatistics:
        """The kernel's account of the programs."""
        return self.programs.statistics()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.programs.close()


def _find_offsets() -> dict[str, int | str]:
    defines: dict[str, int | str] = {}
    with KernelTypes() as types:
        for name, field in _OFFSETS.items():
            offset = types.offset("task_struct", field)
            if offset is None:
                raise NotAvailableError(f"this kernel's task_struct has no field {field}")
            defines[name] = offset
    return defines
