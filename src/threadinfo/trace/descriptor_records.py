"""Loads bpf/descriptors.bpf.c and reads its records in bulk, in the order of their time."""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Collection
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.errors import NotAvailableError
from threadinfo.trace.awaited import AWAITED_BYTES, AwaitedProcess
from threadinfo.trace.btf import KernelTypes
from threadinfo.trace.calls import COMPAT_FIELD, MACHINES, actions_of
from threadinfo.trace.following import FOLLOWING_BYTES, Following
from threadinfo.trace.loader import Programs, ProgramStatistics
from threadinfo.trace.machine import cpu_count, pid_limit
from threadinfo.trace.ring import Records, RingReader
from threadinfo.trace.stack_records import STACK_BUFFER_BYTES, StackReader

# Mirrors of bpf/descriptors.bpf.c.
EVENT = np.dtype(
    [
        ("at_ns", "<i8"),
        ("table", "<u8"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("call", "<u2"),
        ("flags", "u1"),
        ("file_type", "u1"),
        ("result", "<i4"),
        ("fd", "<i4"),
        ("fd2", "<i4"),
        ("length", "<u4"),
        ("stack", "<u4"),
        ("argument", "<u8"),
    ]
)
TRUNCATED, UNREADABLE, SHARES, LAST, FOLLOWED = 1, 2, 4, 8, 16
_DATA_BYTES = {"small": 0, "medium": 64, "large": 256, "huge": 4096}
_CALLS, _MARKS = 1024, 256
_TARGET, _SHARER = 1, 2
_EVENT_WORDS = 1 + EVENT.itemsize // 8  # with the header of the buffer
_TIME_WORD = 1

TRACEPOINTS = {
    "sys_exit": "on_sys_exit",
    "sched_process_fork": "on_sched_process_fork",
    "sched_process_exec": "on_sched_process_exec",
    "sched_process_exit": "on_sched_process_exit",
}
RING_TRACEPOINTS = {
    "io_uring_submit_req": "on_io_uring_submit_req",
    "io_uring_complete": "on_io_uring_complete",
}
"""Left out, and said by `doctor`, where a kernel has no io_uring or an older form of these."""

BUFFER_BYTES = {"small": 1 << 25, "medium": 1 << 25, "large": 1 << 22, "huge": 1 << 22}
"""A quarter of a second of a million opens and closes a second; they are read every few hundredths."""

_HOLD_BACK_NS = 5_000_000
"""A record may be stamped before, and written after, one of another CPU: what is younger than this waits."""

_OFFSETS = {
    "TASK_TGID": ("task_struct", "tgid"),
    "TASK_PID": ("task_struct", "pid"),
    "TASK_COMM": ("task_struct", "comm"),
    "TASK_FILES": ("task_struct", "files"),
    "TASK_EXEC_ID": ("task_struct", "self_exec_id"),
    "TASK_SIGNAL": ("task_struct", "signal"),
    "SIGNAL_LIVE": ("signal_struct", "live"),
    "FILES_FDT": ("files_struct", "fdt"),
    "FILES_COUNT": ("files_struct", "count"),
    "TABLE_MAX_FDS": ("fdtable", "max_fds"),
    "TABLE_FD": ("fdtable", "fd"),
    "TABLE_OPEN_FDS": ("fdtable", "open_fds"),
    "FILE_INODE": ("file", "f_inode"),
    "FILE_PRIVATE": ("file", "private_data"),
    "SOCKET_SK": ("socket", "sk"),
    "SOCK_FAMILY": ("sock_common", "skc_family"),
    "SOCK_TYPE": ("sock", "sk_type"),
    "SOCK_PROTOCOL": ("sock", "sk_protocol"),
    "INODE_MODE": ("inode", "i_mode"),
    "BINARY_NAME": ("linux_binprm", "filename"),
}
_RING_OFFSETS = {
    "RING_OPCODE": ("io_kiocb", "opcode"),
    "RING_OF": ("io_kiocb", "ctx"),
    "RING_RESULT": ("io_kiocb", "cqe"),
    "OPEN_SLOT": ("io_open", "file_slot"),
    "OPEN_NAME": ("io_open", "filename"),
    "NAME_TEXT": ("filename", "name"),
    "CLOSE_NUMBER": ("io_close", "fd"),
    "CLOSE_SLOT": ("io_close", "file_slot"),
    "ACCEPT_FLAGS": ("io_accept", "iou_flags"),
    "ACCEPT_SLOT": ("io_accept", "file_slot"),
    "SOCKET_SLOT": ("io_socket", "file_slot"),
}


class Batch(NamedTuple):
    """Records in the order of their time."""

    events: NDArray[np.void]
    """Of dtype `EVENT`."""
    places: NDArray[np.int64]
    sources: tuple[NDArray[np.uint64], ...]

    def take(self, which: NDArray[np.intp]) -> NDArray[np.void]:
        """The events at some indices, ascending; no copy where they are all there are."""
        return self.events if len(which) == len(self.events) else self.events[which]

    def data(self, index: int) -> bytes:
        """What came with an event: a string of the process, an address, a control message, a bitmap."""
        place = int(self.places[index])
        length = int(self.events["length"][index])
        data: bytes = self.sources[place >> 32][place & 0xFFFFFFFF].tobytes()
        return data[:length]


def is_mark(events: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which events set close-on-exec of the descriptor `fd2`, or take it away."""
    marked: NDArray[np.bool_] = (events["argument"] & _MARKS != 0) & (events["fd"] < 0) & (events["fd2"] >= 0)
    marked &= (events["length"] == 0) & (events["result"] >= 0)
    return marked


class Counts(NamedTuple):
    """The kernel side's own accounts."""

    seen: int
    lost: int
    map_full: int
    compat: int
    unread: int
    uncopied: int


class _Control(ctypes.Structure):
    _fields_ = (("is_on", ctypes.c_uint64), ("copies_left", ctypes.c_int64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in Counts._fields)


def kernel_facts(machine: str) -> tuple[dict[str, int | str], list[tuple[str, str]], bool]:
    """The defines of the program, its tracepoints, and whether io_uring is seen; raises NotAvailableError."""
    if machine not in MACHINES:
        raise NotAvailableError(f"system calls of {machine} are not known: only those of x86_64 and aarch64 are")
    defines: dict[str, int | str] = dict(MACHINES[machine])
    with KernelTypes() as types:
        for name, path in {**_OFFSETS, "COMPAT_OFFSET": ("task_struct", "thread_info", COMPAT_FIELD[machine])}.items():
            offset = types.offset(*path)
            if offset is None:
                raise NotAvailableError(f"this kernel's {path[0]} has no field {path[-1]}")
            defines[name] = offset
        missing = [name for name in TRACEPOINTS if types.argument_count(name) is None]
        if missing:
            raise NotAvailableError(f"this kernel lacks the tracepoints {', '.join(missing)}", None)
        attach = list(TRACEPOINTS.items())
        ring = _ring_facts(types)
    if ring is not None:
        defines |= ring
        attach += RING_TRACEPOINTS.items()
    return defines, attach, ring is not None


def _ring_facts(types: KernelTypes) -> dict[str, int] | None:
    """What the io_uring programs need; None where this kernel's io_uring has another shape, or is not there."""
    if types.argument_count("io_uring_submit_req") != 1:
        return None
    arguments = types.argument_count("io_uring_complete")
    if arguments is None or arguments < 3:
        return None
    found = {name: types.offset(*path) for name, path in _RING_OFFSETS.items()}
    task, context = types.offset("io_kiocb", "task"), types.offset("io_kiocb", "tctx")
    if task is not None:
        found["RING_TASK"] = task
    else:
        found |= {"RING_CONTEXT": context, "RING_CONTEXT_TASK": types.offset("io_uring_task", "task")}
    if arguments == 3:
        found["RING_COMPLETE_HAS_CQE"] = 1
    facts = {name: offset for name, offset in found.items() if offset is not None}
    return facts if len(facts) == len(found) else None


class DescriptorRecorder:
    """Watches the descriptor tables of some processes. A context manager: it detaches at its end."""

    def __init__(
        self,
        pids: Collection[int],
        sharers: Collection[int] = (),
        buffer_bytes: dict[str, int] | None = None,
        *,
        with_stacks: bool = False,
        follow_limit: int = 0,
    ) -> None:
        """Attaches, and records at once; `sharers` are other processes that use a table of theirs.

        `follow_limit`: how many of the processes that traced ones make are traced too.
        Raises NotAvailableError.
        """
        machine = platform.machine()
        defines, attach, self.sees_io_uring = kernel_facts(machine)
        sizes = buffer_bytes or BUFFER_BYTES
        defines |= {f"{name.upper()}_PAGES": size // mmap.PAGESIZE for name, size in sizes.items()}
        self._cpu_count = cpu_count()
        defines |= {"CPU_COUNT": self._cpu_count, "PID_LIMIT": pid_limit()}
        defines |= {f"{name.upper()}_STACK_PAGES": size // mmap.PAGESIZE for name, size in STACK_BUFFER_BYTES.items()}
        self._programs = Programs("descriptors.bpf.c", defines, attach)
        try:
            programs = self._programs
            self.stacks = StackReader(programs) if with_stacks and "REGISTER_IP" in defines else None
            actions = (ctypes.c_uint64 * _CALLS).from_buffer(programs.memory("actions", 8, _CALLS))
            for number, action in actions_of(machine, with_stacks=self.stacks is not None).items():
                actions[number] = action
            counts = programs.memory("counts", ctypes.sizeof(_Counts), self._cpu_count)
            self._counts = (_Counts * self._cpu_count).from_buffer(counts)
            self._control = _Control.from_buffer(programs.memory("control", ctypes.sizeof(_Control), 1))
            self.awaited = AwaitedProcess(programs.memory("awaited", AWAITED_BYTES, 1))
            self.following = Following(programs.memory("following", FOLLOWING_BYTES, 1))
            self.following.allow(follow_limit)
            self._readers = {}
            self._held = {}
            for name, data_bytes in _DATA_BYTES.items():
                words = _EVENT_WORDS + data_bytes // 8
                self._readers[name] = RingReader(programs.table(f"{name}_events").map_fd, sizes[name], words)
                self._held[name] = np.empty((0, words), np.uint64)
            size = int(defines["PID_LIMIT"]) // 32 + 1
            marks = (ctypes.c_uint64 * size).from_buffer(programs.memory("marks", 8, size))
            for mark, marked in ((_TARGET, pids), (_SHARER, sharers)):
                for pid in marked:
                    marks[pid // 32] |= mark << pid % 32 * 2
            self._control.is_on = 1
        except BaseException:
            self._programs.close()
            raise

    def __enter__(self) -> DescriptorRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._programs.close()

    def stop(self) -> None:
        """Records nothing more; what is in the buffers can still be read."""
        self._control.is_on = 0

    def resume(self) -> None:
        """Records again, for measuring; what comes from now on must not be read."""
        self._control.is_on = 1

    def allow_copies(self, count: int) -> None:
        """How many stacks may be copied until the next call."""
        self._control.copies_left = count

    def statistics(self) -> ProgramStatistics:
        """The kernel's account of the programs."""
        return self._programs.statistics()

    def counts(self) -> Counts:
        """The accounts so far, over all CPUs."""
        return Counts(*(sum(getattr(counts, name) for counts in self._counts) for name in Counts._fields))

    def read(self, *, is_last: bool = False) -> Batch:
        """What is older than a few milliseconds, or everything once recording has stopped."""
        cutoff = (1 << 63) if is_last else time.monotonic_ns() - _HOLD_BACK_NS
        rows, places, data = [], [], []
        for index, (name, reader) in enumerate(self._readers.items()):
            records = self._split(name, reader.read(), cutoff)
            rows.append(records[:, 1:_EVENT_WORDS])
            places.append(np.arange(len(records), dtype=np.int64) | index << 32)
            data.append(records[:, _EVENT_WORDS:])
        merged, place = np.concatenate(rows), np.concatenate(places)
        at = merged[:, _TIME_WORD - 1]
        if (at[1:] < at[:-1]).any():
            order = np.argsort(at, kind="stable")
            merged, place = merged[order], place[order]
        return Batch(merged.view(EVENT).reshape(len(merged)), place, tuple(data))

    def _split(self, name: str, records: Records, cutoff: int) -> Records:
        """Gives what is old enough, and keeps the rest for the next time."""
        if len(self._held[name]):
            records = np.concatenate([self._held[name], records])
        is_young = records[:, _TIME_WORD] > cutoff
        first = int(is_young.argmax()) if len(records) else 0
        if not len(records) or not is_young[first]:
            self._held[name] = records[:0]
            return records
        # The buffer is in order but for a few, so that hardly anything has to be moved.
        head, tail, is_young = records[:first], records[first:], is_young[first:]
        self._held[name] = tail[is_young]
        return head if is_young.all() else np.concatenate([head, tail[~is_young]])
