"""Loads bpf/descriptors.bpf.c, tells it what to watch, and reads its records in bulk, in the order of their time."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.errors import NotAvailableError
from threadinfo.trace.descriptors.calls import CALL_CODES, COMPAT_FIELD, MACHINES, PATH, actions_of
from threadinfo.trace.descriptors.ledger import KernelLedger, Sizes, choose_sizes
from threadinfo.trace.descriptors.type_codes import ANONYMOUS_CODES, ANONYMOUS_NAME_BYTES, DEFINES, type_code
from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.btf import KernelTypes
from threadinfo.trace.kernel.loader import ProgramStatistics, TypedTracepoint, load_programs
from threadinfo.trace.kernel.machine import cpu_count, pid_limit
from threadinfo.trace.kernel.ring import Records, RingReader
from threadinfo.trace.session.awaited import AWAITED_BYTES, AwaitedProcess
from threadinfo.trace.session.following import FOLLOWING_BYTES, Following
from threadinfo.trace.session.marks import SHARER, TARGET, ProcessMarks
from threadinfo.trace.stacks.records import BUFFER_BYTES as STACK_BUFFER_BYTES
from threadinfo.trace.stacks.records import StackReader, buffer_defines

# Mirrors of bpf/descriptors/events.h.
EVENT = np.dtype(
    [
        ("at_ns", "<i8"),
        ("argument", "<u8"),
        ("lifetime_ns", "<i8"),
        ("process", "<u4"),
        ("table", "<u4"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("result", "<i4"),
        ("fd", "<i4"),
        ("fd2", "<i4"),
        ("length", "<u4"),
        ("stack", "<u4"),
        ("call", "<u2"),
        ("flags", "<u2"),
        ("type", "u1"),
        ("ended_type", "u1"),
        ("unused", "<u2"),
        ("inode", "<u4"),
    ]
)
TRUNCATED, UNREADABLE, SHARES, LAST, FOLLOWED, OPENED, CLOSED, OWED = (1 << bit for bit in range(8))
LATE, EARLY, CLOSE_ON_EXEC, TABLE_GONE, FAILED, SOCKET_USE, ADDRESSES = (1 << bit for bit in range(8, 15))
_DATA_BYTES = {"small": 0, "medium": 64, "large": 256, "huge": 4096}
_CALLS = 1024
_EVENT_WORDS = 1 + EVENT.itemsize // 8  # with the header of the buffer
_TIME_WORD = 1
_ASKS_FOR_TYPED_TASK = bytes.fromhex("850000009e000000 b700000000000000 9500000000000000")  # call 158, return 0

TRACEPOINTS = {
    "sys_exit": "on_sys_exit",
    "sched_process_fork": "on_sched_process_fork",
    "sched_process_exec": "on_sched_process_exec",
    "sched_process_exit": "on_sched_process_exit",
    "signal_deliver": "on_signal_deliver",
}
RING_TRACEPOINTS = {
    "io_uring_submit_req": "on_io_uring_submit_req",
    "io_uring_complete": "on_io_uring_complete",
}
"""Left out, and said in the report, where a kernel has no io_uring or an older form of these."""
PARTS = ("sweep", "receive", "open_received", "apply", "copy")
"""Functions that the others go on in, in the order of the map `parts`."""
UNTYPED_PARTS = ("sweep", "", "", "apply_untyped", "copy")
"""Those of other tracepoints, where sys_exit's programs have types; "" is a place that those do not go on in."""

BUFFER_BYTES = {"small": 1 << 25, "medium": 1 << 25, "large": 1 << 22, "huge": 1 << 22}
"""Of a live stream: a quarter of a second of a million opens and closes a second."""
WORDS_BUFFER_BYTES = {"small": 1 << 22, "medium": 1 << 22, "large": 1 << 20, "huge": 1 << 21}
"""Where only words travel."""

_HOLD_BACK_NS = 5_000_000
"""A record may be stamped before, and written after, one of another CPU: what is younger than this waits."""
_CLOCK_TO_NUMBER_NS = 1_000_000
"""Longer than a program takes from the one to the other, unless the machine itself was stopped."""

_OFFSETS = {
    "TASK_TGID": ("task_struct", "tgid"),
    "TASK_PID": ("task_struct", "pid"),
    "TASK_COMM": ("task_struct", "comm"),
    "TASK_FLAGS": ("task_struct", "flags"),
    "TASK_FILES": ("task_struct", "files"),
    "TASK_LEADER": ("task_struct", "group_leader"),
    "TASK_EXEC_ID": ("task_struct", "self_exec_id"),
    "TASK_SIGNAL": ("task_struct", "signal"),
    "SIGNAL_LIVE": ("signal_struct", "live"),
    "SIGACTION_HANDLER": ("k_sigaction", "sa", "sa_handler"),
    "SIGACTION_FLAGS": ("k_sigaction", "sa", "sa_flags"),
    "FILES_FDT": ("files_struct", "fdt"),
    "FILES_COUNT": ("files_struct", "count"),
    "TABLE_MAX_FDS": ("fdtable", "max_fds"),
    "TABLE_FD": ("fdtable", "fd"),
    "TABLE_OPEN_FDS": ("fdtable", "open_fds"),
    "FILE_INODE": ("file", "f_inode"),
    "FILE_PRIVATE": ("file", "private_data"),
    "SOCKET_SK": ("socket", "sk"),
    "SOCK_FAMILY": ("sock_common", "skc_family"),
    "SOCK_REMOTE": ("sock_common", "skc_daddr"),
    "SOCK_LOCAL": ("sock_common", "skc_rcv_saddr"),
    "SOCK_REMOTE_PORT": ("sock_common", "skc_dport"),
    "SOCK_LOCAL_PORT": ("sock_common", "skc_num"),
    "SOCK_INTERFACE": ("sock_common", "skc_bound_dev_if"),
    "SOCK_TYPE": ("sock", "sk_type"),
    "SOCK_PROTOCOL": ("sock", "sk_protocol"),
    "INODE_MODE": ("inode", "i_mode"),
    "INODE_NUMBER": ("inode", "i_ino"),
    "INODE_SUPER": ("inode", "i_sb"),
    "INODE_DEVICE": ("inode", "i_rdev"),
    "FILE_DENTRY": ("file", "f_path", "dentry"),
    "DENTRY_NAME": ("dentry", "d_name", "name"),
    "DENTRY_PARENT": ("dentry", "d_parent"),
    "INODE_PRIVATE": ("inode", "i_private"),
    "PID_TASKS": ("pid", "tasks"),
    "TASK_PID_LINKS": ("task_struct", "pid_links"),
    "SUPER_MAGIC": ("super_block", "s_magic"),
    "BINARY_NAME": ("linux_binprm", "filename"),
}
_IPV6_OFFSETS = {
    "SOCK_REMOTE_6": ("sock_common", "skc_v6_daddr"),
    "SOCK_LOCAL_6": ("sock_common", "skc_v6_rcv_saddr"),
}
"""Left out where a kernel has no IPv6."""
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

    def data(self, index: int) -> bytes:
        """What came with an event: a string of the process, or an address."""
        place = int(self.places[index])
        length = int(self.events["length"][index])
        data: bytes = self.sources[place >> 32][place & 0xFFFFFFFF].tobytes()
        return data[:length]

    def text(self, index: int) -> str:
        """A string that came with an event, escaped where it is not UTF-8."""
        return self.data(index).split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


class Counts(NamedTuple):
    """The kernel side's own accounts."""

    seen: int
    lost: int
    map_full: int
    compat: int
    unread: int
    uncopied: int
    omitted: int


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in (*Counts._fields, "forgotten"))


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
        ipv6 = {name: types.offset(*path) for name, path in _IPV6_OFFSETS.items()}
        defines |= {name: offset for name, offset in ipv6.items() if offset is not None}
        missing = [name for name in TRACEPOINTS if types.argument_count(name) is None]
        if missing:
            raise NotAvailableError(f"this kernel lacks the tracepoints {', '.join(missing)}", None)
        attach = list(TRACEPOINTS.items())
        ring = _ring_facts(types)
    if ring is not None:
        defines |= ring
        attach += RING_TRACEPOINTS.items()
    return defines, attach, ring is not None


def typed_sys_exit() -> TypedTracepoint | None:
    """How sys_exit's programs load through types; None before Linux 5.11 (bpf_get_current_task_btf)."""
    with KernelTypes() as types:
        type_id = types.tracepoint("sys_exit")
    if not type_id:
        return None
    try:
        os.close(bpf.load_program(_ASKS_FOR_TYPED_TASK, "", type_id))
    except OSError:
        return None
    return TypedTracepoint("sys_exit", type_id, PARTS)


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


class Target(NamedTuple):
    """A process to be watched."""

    pid: int
    links: Mapping[int, str]
    """What it has open, as in /proc/PID/fd."""
    shares_with: int | None
    """An earlier target whose table it uses."""


def size_defines(sizes: Sizes, buffer_bytes: Mapping[str, int], cpus: int) -> dict[str, int | str]:
    """The defines of the program that say how large its maps are."""
    rings = {f"{name.upper()}_PAGES": size for name, size in buffer_bytes.items()}
    pages = {name: size // mmap.PAGESIZE for name, size in rings.items()} | buffer_defines(STACK_BUFFER_BYTES)
    return {**sizes.defines(), **DEFINES, **pages, "CPU_COUNT": cpus, "PID_LIMIT": pid_limit()}


class DescriptorRecorder:
    """Watches the descriptor tables of some processes. A context manager: it detaches at its end."""

    def __init__(
        self,
        targets: Sequence[Target],
        read_numbers: Callable[[int], Sequence[int] | None],
        sharers: Mapping[int, int] | None = None,
        buffer_bytes: Mapping[str, int] = BUFFER_BYTES,
        *,
        records: int,
        with_stacks: bool = False,
        follow_limit: int = 0,
    ) -> None:
        """Attaches, and counts at once; `sharers`: other processes that use a target's table, to the target's PID.

        `read_numbers` gives the numbers that a process has open, or None. `records`: which are wanted (ledger.py).
        `follow_limit`: how many of the processes that traced ones make are traced too. Raises NotAvailableError.
        """
        machine = platform.machine()
        defines, attach, self.sees_io_uring = kernel_facts(machine)
        with_stacks = with_stacks and "REGISTER_IP" in defines
        self._cpu_count = cpu_count()
        open_count = max((len(target.links) for target in targets), default=0)
        sizes = choose_sizes(len(targets), follow_limit, self._cpu_count, open_count, with_stacks=with_stacks)
        defines |= size_defines(sizes, buffer_bytes, self._cpu_count)
        typed = typed_sys_exit()
        if typed is not None:
            defines["IS_TYPED"] = 1
        parts = PARTS if typed is None else UNTYPED_PARTS
        self._programs = load_programs("descriptors.bpf.c", defines, attach, parts, typed)
        try:
            programs = self._programs
            self.ledger = KernelLedger(programs, sizes)
            self._control = self.ledger.control
            self.stacks = StackReader(programs, STACK_BUFFER_BYTES) if with_stacks else None
            actions = (ctypes.c_uint64 * _CALLS).from_buffer(programs.memory("actions", 8, _CALLS))
            for number, action in actions_of(machine, type_code, with_stacks=with_stacks).items():
                actions[number] = action
            left = programs.memory("kind_records_left", 8, 2 * CALL_CODES)
            self._kind_records_left = np.frombuffer(left, "<i8", 2 * CALL_CODES)
            names = programs.map("anonymous_names", ctypes.c_char * ANONYMOUS_NAME_BYTES, ctypes.c_uint8)
            for text, code in ANONYMOUS_CODES.items():
                names.set((ctypes.c_char * ANONYMOUS_NAME_BYTES).from_buffer_copy(text), ctypes.c_uint8(code))
            counts = programs.memory("counts", ctypes.sizeof(_Counts), self._cpu_count)
            self._counts = (_Counts * self._cpu_count).from_buffer(counts)
            self.awaited = AwaitedProcess(programs.memory("awaited", AWAITED_BYTES, 1))
            self.following = Following(programs.memory("following", FOLLOWING_BYTES, 1))
            self.following.allow(follow_limit)
            self._readers = {}
            self._held = {}
            for name, data_bytes in _DATA_BYTES.items():
                words = _EVENT_WORDS + data_bytes // 8
                self._readers[name] = RingReader(programs.descriptor(f"{name}_events"), buffer_bytes[name], words)
                self._held[name] = np.empty((0, words), np.uint64)
            self._begin(targets, sharers or {}, int(defines["PID_LIMIT"]), records)
            for target in targets:
                if target.shares_with is None and (now := read_numbers(target.pid)) is not None:
                    table = self.ledger.table_of(self.ledger.process_slots()[target.pid])
                    self.ledger.correct(table or 0, target.links, now)
        except BaseException:
            self._programs.close()
            raise

    def _begin(self, targets: Sequence[Target], sharers: Mapping[int, int], most_pid: int, records: int) -> None:
        marks = ProcessMarks(self._programs, most_pid)
        slots: dict[int, tuple[int, int]] = {}
        for target in targets:
            shared = None if target.shares_with is None else slots[target.shares_with][1]
            slots[target.pid] = self.ledger.add_process(target.pid, shared)
            if shared is None:
                self.ledger.seed(slots[target.pid][1], target.links)
            marks.set(target.pid, TARGET)
        for pid, owner in sharers.items():
            self.ledger.share_process(pid, slots[owner][0])
            marks.set(pid, SHARER)
        for pid, (slot, _) in slots.items():
            self._show(pid, slot)
        control = self._control[0]
        control["started_ns"] = time.monotonic_ns()
        control["seed"] = int.from_bytes(os.urandom(8), "little")
        control["records"], control["records_left"] = records, 1 << 62
        control["is_on"] = 1

    def _show(self, pid: int, slot: int) -> None:
        """Says which table a target uses now; where that cannot be said, it is what its first call is seen to use."""
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                self._programs.run("show_target", descriptor, slot)
            finally:
                os.close(descriptor)

    def __enter__(self) -> DescriptorRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._programs.close()

    def stop(self) -> None:
        """Counts and records nothing more; what is in the buffers can still be read."""
        self._control["is_on"] = 0

    def resume(self) -> None:
        """Counts again, for measuring; what comes from now on must not be read."""
        self._control["is_on"] = 1

    def allow_copies(self, count: int) -> None:
        """How many stacks may be copied until the next call."""
        self._control["copies_left"] = count

    def allow_records(self, count: int) -> None:
        """How many records of descriptors may come until the next call; what is left out is counted."""
        self._control["records_left"] = count

    def allow_records_of_kinds(self, count: int) -> None:
        """How many more of each call, and of each call that fails, may come until the next call though no more may."""
        self._kind_records_left[:] = count

    def statistics(self) -> ProgramStatistics:
        """The kernel's account of the programs."""
        return self._programs.statistics()

    def counts(self) -> Counts:
        """The accounts so far, over all CPUs."""
        return Counts(*(sum(getattr(counts, name) for counts in self._counts) for name in Counts._fields))

    def read(self, *, is_last: bool = False) -> Batch:
        """What is older than a few milliseconds, or everything once recording has stopped."""
        cutoff = (1 << 63) if is_last else time.monotonic_ns() - _HOLD_BACK_NS
        there = {name: self._unread(name, reader.read()) for name, reader in self._readers.items()}
        cutoff = before_late_closes(there["small"], cutoff)
        rows, places, data = [], [], []
        for index, (name, unread) in enumerate(there.items()):
            records = self._split(name, unread, cutoff)
            rows.append(records[:, 1:_EVENT_WORDS])
            places.append(np.arange(len(records), dtype=np.int64) | index << 32)
            data.append(records[:, _EVENT_WORDS:])
        merged, place = np.concatenate(rows), np.concatenate(places)
        at = merged[:, _TIME_WORD - 1]
        if (at[1:] < at[:-1]).any():
            order = np.argsort(at, kind="stable")
            merged, place = merged[order], place[order]
        return self._take_paths(Batch(merged.view(EVENT).reshape(len(merged)), place, tuple(data)))

    def _take_paths(self, batch: Batch) -> Batch:
        """Paths that are new are for the ledger."""
        is_path = batch.events["call"] == PATH
        for index in np.flatnonzero(is_path).tolist():
            event = batch.events[index]
            self.ledger.paths[int(event["argument"])] = int(event["process"]), batch.text(index)
        return Batch(batch.events[~is_path], batch.places[~is_path], batch.sources) if is_path.any() else batch

    def _unread(self, name: str, records: Records) -> Records:
        """With what was kept of the last time."""
        return np.concatenate([self._held[name], records]) if len(self._held[name]) else records

    def _split(self, name: str, records: Records, cutoff: int) -> Records:
        """Gives what is old enough, and keeps the rest for the next time."""
        is_young = records[:, _TIME_WORD] > cutoff
        first = int(is_young.argmax()) if len(records) else 0
        if not len(records) or not is_young[first]:
            self._held[name] = records[:0]
            return records
        # The buffer is in order but for a few, so that hardly anything has to be moved.
        head, tail, is_young = records[:first], records[first:], is_young[first:]
        self._held[name] = tail[is_young]
        return head if is_young.all() else np.concatenate([head, tail[~is_young]])


def before_late_closes(small: Records, cutoff: int) -> int:
    """Where to cut records in two, so that a late close and the opening that owes it come together.

    A close looks at the clock before it looks at the number: what opened that again may be later by what lies between.
    """
    at = small[:, _TIME_WORD]
    near = np.flatnonzero((at <= cutoff) & (at > cutoff - _CLOCK_TO_NUMBER_NS))
    if not near.size or not (at > cutoff).any():
        return cutoff
    events = small[near, 1:_EVENT_WORDS].view(EVENT).reshape(-1)
    late = events["at_ns"][events["flags"] & LATE != 0]
    return int(late.min()) - 1 if late.size else cutoff


def error_name(number: int) -> str:
    """``EMFILE`` for 24, as errno(3) has it."""
    if number == errno.EOPNOTSUPP:  # Python knows the same number as ENOTSUP
        return "EOPNOTSUPP"
    return errno.errorcode.get(number, f"error {number}")
