"""What threads wait for: mirrors of bpf/scheduling/waits.h, and what was counted there as values of the report.

The time is that of the state machine (`scheduling.py`): what it charges to "blocked" is charged to one wait, in the
same place. What was before a thread's first event, /proc says; what goes on at the end, the thread's slot says.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.model import BlockedCall, LockHolder, Wait, WaitObject, WaitStack, WokenBy
from threadinfo.syscall_numbers import SYSCALL_NAMES
from threadinfo.trace.descriptors.calls import COMPAT_FIELD, MACHINES
from threadinfo.trace.kernel.btf import KernelTypes
from threadinfo.trace.kernel.histogram import BUCKETS, bucket_of, summarize
from threadinfo.trace.kernel.loader import Programs
from threadinfo.trace.kernel.mapped import GrowingMemory
from threadinfo.trace.scheduling.turnover import Gone, Other, Pairs, Total, Totals, add_total
from threadinfo.trace.stacks.records import MOST_STACKS, buffer_defines

ReadCall = Callable[[int, int], BlockedCall | None]
"""Gives what a thread sleeps in, by PID and thread id; None where it runs, has ended or may not be read."""
Name = Callable[[int], tuple[int | None, str]]
"""Gives (PID, name) of a thread."""
FramesOf = Callable[[int], tuple[str, ...]]
"""Gives the program's frames behind a stack id, innermost first; none where they are not known."""

MOST_WAITS = 32
"""That are told of each thread."""
_MOST_OTHER_STACKS = 3
"""That are told of each wait beside its first."""
STACK_BUFFER_BYTES = {"long": 1 << 22, "short": 1 << 20}
WAITS_A_SLOT = 2
"""On average: most slots are for threads that come and go."""

# Mirrors of bpf/scheduling/waits.h.
_CALLS, _RECENT = 512, 8
_PAGE_FAULT, _STOPPED, _IN_KERNEL, _OTHER_CALL = range(0x10000, 0x10004)
_FOR_LOCK = 0x80000000
_IS_COMPAT, _MANY_FILES = 1, 2
_BY_CALL, _BY_DESCRIPTOR, _BY_FUTEX, _BY_CHILD, _BY_SECOND, _BY_POLL = range(6)

LATENCY = np.dtype([("count", "u8"), ("sum_ns", "u8"), ("max_ns", "u8"), ("buckets", "u4", (BUCKETS,))])
WAKING = np.dtype([("waker", "u4"), ("unused", "u4"), ("count", "u8"), ("ns", "u8")])
AT_STACK = np.dtype([("stack", "u4"), ("unused", "u4"), ("count", "u8"), ("ns", "u8")])
WAIT = np.dtype(
    [
        ("slot", "u4"),
        ("call", "u4"),
        ("object", "u8"),
        ("file", "u8"),
        ("flags", "u4"),
        ("file_count", "u4"),
        ("uninterruptible_ns", "u8"),
        ("waking", WAKING),
        ("holder", "u4"),
        ("unused", "u4"),
        ("holder_count", "u8"),
        ("holder_ns", "u8"),
        ("at", AT_STACK),
        ("took", LATENCY),
    ]
)
_RECENT_WAIT = np.dtype([("call", "u4"), ("wait", "u4"), ("object", "u8"), ("checked_ns", "u8")])
WAITING = np.dtype(
    [
        ("registers", "u8"),
        ("wait", "u4"),
        ("holder", "u4"),
        ("wait_count", "u4"),
        ("stack", "u4"),
        ("other_count", "u8"),
        ("other_ns", "u8"),
        ("recent", _RECENT_WAIT, (_RECENT,)),
    ]
)


_SUM = np.dtype([("slot", "u4"), ("count", "i8"), ("ns", "i8")])
_KEY = np.dtype([("slot", "u4"), ("call", "u4"), ("object", "u8"), ("file", "u8")])
KINDS = np.dtype([("of_call", "u1", (_CALLS,)), ("registers_at", "u8")])


OF_THREAD = 0x80000000
"""In Pair.of: the rest is a slot, and not the place of a wait."""

# Calls by what their first argument is; of others it is nothing that could be told.
_DESCRIPTOR_CALLS = frozenset(
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 accept accept4 connect recvfrom recvmsg "
    "recvmmsg sendto sendmsg sendmmsg epoll_wait epoll_pwait epoll_pwait2 ioctl fcntl flock fsync fdatasync "
    "sync_file_range sync_file_range2 syncfs sendfile splice vmsplice tee io_uring_enter mq_timedreceive mq_timedsend "
    "fallocate ftruncate getdents getdents64 copy_file_range close fstat newfstatat openat openat2 unlinkat renameat2 "
    "fchmod fchown fadvise64 readahead shutdown setsockopt getsockopt finit_module".split()
)
_FUTEX_CALLS = frozenset({"futex", "futex_wait", "futex_waitv"})
_POLL_CALLS = frozenset({"poll", "ppoll"})
_TIME_CALLS = frozenset({"nanosleep", "clock_nanosleep"})
_CHILD_CALLS = frozenset({"wait4", "waitid"})
_EXIT_CALLS = frozenset({"exit", "exit_group"})

# Waiting for work: docs/how-it-works.md states the rule.
_IDLE_CALLS = (
    frozenset(
        "epoll_wait epoll_pwait epoll_pwait2 select pselect6 accept accept4 pause rt_sigsuspend rt_sigtimedwait "
        "io_uring_enter io_getevents io_pgetevents mq_timedreceive msgrcv restart_syscall".split()
    )
    | _TIME_CALLS
    | _CHILD_CALLS
    | _EXIT_CALLS
)


def _kind_of(name: str) -> int:
    if name in _DESCRIPTOR_CALLS:
        return _BY_DESCRIPTOR
    if name in _FUTEX_CALLS - {"futex_waitv"}:
        return _BY_FUTEX
    if name in _POLL_CALLS:
        return _BY_POLL
    return {"wait4": _BY_CHILD, "waitid": _BY_SECOND}.get(name, _BY_CALL)


_KINDS = {number: _kind_of(name) for number, name in SYSCALL_NAMES.items() if number < _CALLS}


def kernel_facts(types: KernelTypes) -> dict[str, int | str] | str:
    """The defines that waits add to the program's; or, in words, why this machine's waits cannot be told."""
    machine = platform.machine()
    layout = MACHINES.get(machine)
    if layout is None:
        return f"where a {machine} keeps the registers of a system call is not known"
    stack, flags = types.offset("task_struct", "stack"), types.offset("task_struct", "flags")
    compat = types.offset("task_struct", "thread_info", COMPAT_FIELD[machine])
    if stack is None or flags is None or compat is None:
        return "this kernel's task_struct does not say where a thread's stack is"
    if types.argument_count("sys_enter") is None:
        return "this kernel lacks the tracepoint sys_enter"
    defines: dict[str, int | str] = {"TASK_STACK": stack, "TASK_FLAGS": flags, "TASK_COMPAT": compat}
    defines |= {name: layout[name] for name in ("REGISTER_CALL", "REGISTER_0", "REGISTER_1", "REGISTER_2")}
    defines["COMPAT_MASK"] = layout["COMPAT_MASK"]
    files = {
        "TASK_FILES": types.offset("task_struct", "files"),
        "FILES_TABLE": types.offset("files_struct", "fdt"),
        "TABLE_FILES": types.offset("fdtable", "fd"),
        "FILE_INODE": types.offset("file", "f_inode"),
        "INODE_NUMBER": types.offset("inode", "i_ino"),
    }
    known = {name: offset for name, offset in files.items() if offset is not None}
    return defines | (known if len(known) == len(files) else {})


def stack_facts(types: KernelTypes) -> dict[str, int | str]:
    """The defines that stacks of waits add to those; none where this machine's stacks are not walked."""
    layout = MACHINES.get(platform.machine(), {})
    exec_id = types.offset("task_struct", "self_exec_id")
    if "REGISTER_IP" not in layout or exec_id is None:
        return {}
    registers = {name: layout[name] for name in ("REGISTER_IP", "REGISTER_SP", "PT_REGS_BYTES")}
    return {**registers, **buffer_defines(STACK_BUFFER_BYTES), "TASK_EXEC_ID": exec_id, "WAIT_STACKS": MOST_STACKS}


class Blocked(NamedTuple):
    """A part of a thread's time of which the programs charged nothing yet: before its first event, or at the end."""

    ns: int
    is_uninterruptible: bool


class GoingOn(NamedTuple):
    """The wait that a thread is in at the end."""

    place: int
    stack: int
    """Its stack id; 0: not known."""
    blocked: Blocked


class ThreadWaits(NamedTuple):
    """What one thread was blocked for."""

    waits: tuple[Wait, ...]
    """The longest."""
    other_ns: int


class _Sum:
    """One wait while it is added up."""

    def __init__(self, call: int, target: int, file: int, flags: int) -> None:
        self.call, self.object, self.file, self.flags = call, target, file, flags
        self.count = self.sum_ns = self.max_ns = self.uninterruptible_ns = 0
        self.buckets = np.zeros(BUCKETS, np.uint32)
        self.places: list[int] = []
        self.pending: tuple[int, int] | None = None
        """(stack id, nanoseconds) of the wait that goes on, which no place has yet."""

    def add(self, blocked: Blocked) -> None:
        """One more wait, or the part of it that lies in the window."""
        self.count += 1
        self.sum_ns += blocked.ns
        self.max_ns = max(self.max_ns, blocked.ns)
        self.uninterruptible_ns += blocked.ns if blocked.is_uninterruptible else 0
        self.buckets[bucket_of(blocked.ns)] += 1


class WaitTables:
    """The kernel's side of it, as memory."""

    def __init__(self, programs: Programs, slot_count: int, frames_of: FramesOf | None) -> None:
        """Teaches the programs what calls wait for, and has them learn where registers are.

        With `frames_of` they were told WAIT_STACKS, and it gives the frames of stack ids.
        """
        self._held = Pairs(programs, "held_by")
        self._began_at = Pairs(programs, "began_at") if frames_of else None
        self._frames_of = frames_of
        self._keys = programs.map("wait_slots", ctypes.c_char * _KEY.itemsize, ctypes.c_uint32)
        self._free = programs.queue("free_waits", ctypes.c_uint32)
        self.place_count = WAITS_A_SLOT * slot_count
        self._waits = GrowingMemory(programs, "waits", WAIT.itemsize, self.place_count)
        self._waiting = GrowingMemory(programs, "waiting", WAITING.itemsize, slot_count)
        kinds = np.frombuffer(programs.memory("wait_kinds", KINDS.itemsize, 1), KINDS, 1)
        self._next = np.frombuffer(programs.memory("next_wait", 8, 1), np.uint64, 1)
        self._next[0] = 1  # 0 is none
        for number, kind in _KINDS.items():
            kinds["of_call"][0, number] = kind
        with programs.attached("sys_enter", "on_sys_enter"):
            os.getppid()
        self.problem = None if kinds["registers_at"][0] else "where the kernel keeps registers could not be learnt"

    @property
    def waits(self) -> NDArray[np.void]:
        """By place, those that are in use and a few more."""
        return _rows(self._waits, WAIT, min(int(self._next[0]), self.place_count))

    def by_slot(self) -> dict[int, list[int]]:
        """The places of each thread's waits."""
        slots = self._used()["slot"]
        found: dict[int, list[int]] = {}
        for place in np.flatnonzero(slots).tolist():
            found.setdefault(int(slots[place]), []).append(place)
        return found

    def slot_of(self, place: int) -> int:
        """Whose wait is in a place."""
        return int(self.waits["slot"][place])

    def give_back(self, slots: NDArray[np.intp]) -> set[int]:
        """Frees what these threads waited for, for others; gives the places."""
        places = np.flatnonzero(np.isin(self._used()["slot"], slots))
        keys = np.frombuffer(self._keys.read_bytes()[0], _KEY)
        self._keys.delete(keys[np.isin(keys["slot"], slots)].tobytes())
        self.waits[places] = np.zeros(1, WAIT)
        self._waiting_of(int(slots.max()))[slots] = np.zeros(1, WAITING)
        return set(places.tolist())

    def are_short(self) -> bool:
        """Whether less than a quarter of the places is left."""
        least = self.place_count // 4
        if self.place_count - int(self._next[0]) >= least:
            return False
        return self.place_count - int(np.count_nonzero(self._used()["slot"])) < least

    def free(self, places: Iterable[int]) -> None:
        """Lets others use them."""
        for place in places:
            self._free.put(ctypes.c_uint32(place))

    def forget_ended(self, folded: Collection[int], gone: Callable[[int], Gone | None]) -> None:
        """Takes who had locks, and where waits began, out of the kernel's hashes."""
        self._held.empty(folded, gone)
        if self._began_at:
            self._began_at.empty(folded, lambda _: None)

    def sums(self) -> NDArray[np.void]:
        """Of every place so far: whose it is, how often, how long."""
        used = self._used()
        found = np.zeros(len(used), _SUM)
        found["slot"], found["count"], found["ns"] = used["slot"], used["took"]["count"], used["took"]["sum_ns"]
        return found

    def describe(self, place: int, ns: int) -> Wait:
        """The wait of a place as one that took so long."""
        row = self.waits[place]
        return _single(_Sum(int(row["call"]), int(row["object"]), int(row["file"]), int(row["flags"])), ns)

    def pending(self, slot: int) -> int:
        """The place of the wait that a thread is in; 0 is not known."""
        return int(self._waiting_of(slot)["wait"][slot])

    def stack_of(self, slot: int) -> int:
        """The stack id of that wait, or of its last one; 0 is not known."""
        return int(self._waiting_of(slot)["stack"][slot])

    def _waiting_of(self, slot: int) -> NDArray[np.void]:
        """What threads are blocked in, by slot: of this one at least."""
        return _rows(self._waiting, WAITING, slot + 1)

    def _used(self) -> NDArray[np.void]:
        return self.waits[: min(int(self._next[0]), self.place_count)]

    def others(self) -> set[int]:
        """The ids of all threads that ended a wait or had a lock so far; 0 and INTERRUPT may be among them."""
        used = self._used()
        last = np.concatenate([used["waking"]["waker"], used["holder"]])
        return self._held.tids() | set(last.tolist())

    def add_wakers(self, woken: dict[int, Totals]) -> None:
        """Adds to what is known by place who woke threads last."""
        last = self._used()["waking"]
        for place in np.flatnonzero(last["count"]).tolist():
            row = last[place]
            add_total(woken.setdefault(place, {}), int(row["waker"]), int(row["count"]), int(row["ns"]))

    def holders(self) -> dict[int, Totals]:
        """Who had the lock when waits began, by place."""
        found = self._held.read()
        for place in np.flatnonzero(self._used()["holder_count"]).tolist():
            row = self.waits[place]
            add_total(found.setdefault(place, {}), int(row["holder"]), int(row["holder_count"]), int(row["holder_ns"]))
        return found

    def stacks(self) -> dict[int, Totals]:
        """Where waits began, as stack ids, by place."""
        found = self._began_at.read() if self._began_at else {}
        at = self._used()["at"]
        for place in np.flatnonzero(at["count"]).tolist() if self._began_at else ():
            row = at[place]
            add_total(found.setdefault(place, {}), int(row["stack"]), int(row["count"]), int(row["ns"]))
        return found

    def _tell_stacks(self, one: _Sum, stacks: Mapping[int, Totals]) -> list[WaitStack]:
        """Those that are known, the longest first."""
        if self._frames_of is None:
            return []
        ids: Totals = {}
        for place in one.places:
            for number, total in stacks.get(place, {}).items():
                add_total(ids, number, total.count, total.ns)
        if one.pending is not None:
            add_total(ids, one.pending[0], 1, one.pending[1])
        sums: dict[tuple[str, ...], Total] = {}
        for number, total in ids.items():
            frames = self._frames_of(number) if isinstance(number, int) else ()
            known = sums.get(frames, Total(0, 0))
            sums[frames] = Total(known.count + total.count, known.ns + total.ns)
        sums.pop((), None)
        longest = sorted(sums.items(), key=lambda item: -item[1].ns)
        return [WaitStack(total.count, total.ns, frames) for frames, total in longest[: 1 + _MOST_OTHER_STACKS]]

    def tell(
        self,
        places: Iterable[int],
        blocked_ns: int,
        before: tuple[BlockedCall | None, Blocked] | None,
        going_on: GoingOn | None,
        wakers: Callable[[int], Mapping[Other, Total]],
        holders: Mapping[int, Mapping[Other, Total]],
        stacks: Mapping[int, Totals],
        name: Name,
    ) -> ThreadWaits:
        """One thread's waits. `before`: what it was blocked in before its first event; `going_on`: the wait that it is
        in at the end. Both are counted in `blocked_ns` already, the thread's time blocked."""
        sums: dict[tuple[int, int, int], _Sum] = {}
        for place in places:
            row = self.waits[place]
            key = int(row["call"]), int(row["object"]), int(row["file"])
            one = sums.setdefault(key, _Sum(*key, int(row["flags"])))
            one.places.append(place)
            one.flags |= int(row["flags"])
            took = row["took"]
            one.count += int(took["count"])
            one.sum_ns += int(took["sum_ns"])
            one.max_ns = max(one.max_ns, int(took["max_ns"]))
            one.uninterruptible_ns += int(row["uninterruptible_ns"])
            one.buckets += took["buckets"]
        if going_on and (found := next((one for one in sums.values() if going_on.place in one.places), None)):
            found.add(going_on.blocked)
            found.pending = going_on.stack, going_on.blocked.ns
        if before and before[0] and before[1].ns:
            call, target = _read_call(before[0])
            same = next((one for one in sums.values() if (one.call, one.object) == (call, target)), None)
            if same is None:
                same = sums.setdefault((call, target, 0), _Sum(call, target, 0, 0))
            same.add(before[1])
        longest = sorted((one for one in sums.values() if one.count), key=lambda one: -one.sum_ns)[:MOST_WAITS]
        waits = tuple(_tell(one, wakers, holders, self._tell_stacks(one, stacks), name) for one in longest)
        return ThreadWaits(waits, max(0, blocked_ns - sum(one.sum_ns for one in waits)))


def _rows(memory: GrowingMemory, dtype: np.dtype[np.void], used_count: int) -> NDArray[np.void]:
    rows = memory.upto(used_count)
    return np.frombuffer(rows, dtype, memory.mapped_count)


def describe_call(blocked: BlockedCall, ns: int) -> Wait:
    """What /proc says that a thread is blocked in, as a wait that took so long."""
    return _single(_Sum(*_read_call(blocked), 0, 0), ns)


def _single(one: _Sum, ns: int) -> Wait:
    syscall, cause, target = _describe(one)
    return Wait(
        syscall=syscall,
        cause=cause,
        object=target,
        is_idle=_is_idle(syscall, cause, target),
        count=1,
        sum_ns=ns,
        max_ns=ns,
        p50_ns=None,
        p99_ns=None,
        uninterruptible_ns=0,
    )


def _read_call(blocked: BlockedCall) -> tuple[int, int]:
    """Call and object of a wait that /proc tells of, as the programs would have them."""
    number, arguments = blocked.number, blocked.arguments
    if number < 0:
        return _PAGE_FAULT, 0
    if number >= _CALLS:
        return _OTHER_CALL, 0
    kind = _KINDS.get(number, _BY_CALL)
    if kind == _BY_FUTEX:
        command, expected = arguments[1] & 0x7F, arguments[2] & 0xFFFFFFFF
        is_lock = command in {6, 13} or (command == 0 and expected == 2)
        return number | (_FOR_LOCK if is_lock else 0), arguments[0]
    if kind in {_BY_DESCRIPTOR, _BY_CHILD}:
        return number, arguments[0] & 0xFFFFFFFF
    if kind == _BY_SECOND:
        return number, (arguments[0] & 0xFFFFFFFF) << 32 | arguments[1] & 0xFFFFFFFF
    if kind == _BY_POLL:
        return number, 0xFFFFFFFF if blocked.polled_fd is None else blocked.polled_fd
    return number, 0


def _tell(
    one: _Sum,
    wakers: Callable[[int], Mapping[Other, Total]],
    holders: Mapping[int, Mapping[Other, Total]],
    stacks: Sequence[WaitStack],
    name: Name,
) -> Wait:
    took = summarize(one.count, one.sum_ns, one.max_ns, one.buckets.tolist())
    syscall, cause, target = _describe(one)
    woken: Totals = {}
    held: Totals = {}
    first = stacks[0] if stacks else WaitStack(0, 0, ())
    for place in one.places:
        for totals, more in ((woken, wakers(place)), (held, holders.get(place, {}))):
            for other, total in more.items():
                add_total(totals, other, total.count, total.ns)
    return Wait(
        syscall=syscall,
        cause=cause,
        object=target,
        is_idle=_is_idle(syscall, cause, target),
        count=one.count,
        sum_ns=one.sum_ns,
        max_ns=one.max_ns,
        p50_ns=took.p50,
        p99_ns=took.p99,
        uninterruptible_ns=one.uninterruptible_ns,
        released_by=tell_wakers(woken, name),
        held_by=tuple(
            LockHolder(*whose(other, name), total.count, total.ns)
            for other, total in sorted(held.items(), key=lambda item: -item[1].ns)
        ),
        stack=first.stack,
        stack_count=first.count,
        stack_ns=first.sum_ns,
        other_stacks=tuple(stacks[1:]),
    )


INTERRUPT = 0xFFFFFFFF
BY_NETWORK = 1 << 30
"""Added to a waker's id: what it sent over loopback was received in its context."""
"""As a waker: no thread, but a timer or a device."""


def tell_wakers(woken: Mapping[Other, Total], name: Name) -> tuple[WokenBy, ...]:
    """Who woke a thread, by the time that the waits had taken."""
    found = []
    for other, total in sorted(woken.items(), key=lambda item: (-item[1].ns, -item[1].count)):
        if other == INTERRUPT:
            found.append(WokenBy(None, None, "interrupt", total.count, total.ns))
        else:
            found.append(WokenBy(*whose(other, name), total.count, total.ns))
    return tuple(found)


NETWORK = "the network, by "


def whose(other: Other, name: Name) -> tuple[int | None, int | None, str]:
    """(PID, thread id, name); of threads that are gone no id."""
    if isinstance(other, Gone):
        return other.pid, None, other.name
    tid = other & ~BY_NETWORK
    pid, own = name(tid)
    return pid, tid, f"{NETWORK}{own}" if other & BY_NETWORK else own


Cause = Literal["syscall", "page_fault", "exit", "stopped", "other"]


def _describe(one: _Sum) -> tuple[str | None, Cause, WaitObject]:
    """The call's name, the cause and the object."""
    nothing = WaitObject(kind="none")
    number = one.call & ~_FOR_LOCK
    if number == _PAGE_FAULT:
        return None, "page_fault", nothing
    if number == _STOPPED:
        return None, "stopped", nothing
    if number >= _IN_KERNEL or one.flags & _IS_COMPAT:
        return None, "other", nothing
    call, kind = SYSCALL_NAMES.get(number), _KINDS.get(number, _BY_CALL)
    fd = one.object & 0xFFFFFFFF
    if call in _EXIT_CALLS:
        return call, "exit", nothing
    if call in _TIME_CALLS:
        return call, "syscall", WaitObject(kind="time")
    if kind == _BY_FUTEX:
        return call, "syscall", WaitObject(kind="lock" if one.call & _FOR_LOCK else "futex", address=one.object)
    if kind in {_BY_DESCRIPTOR, _BY_POLL} and fd < 1 << 31:
        is_reused = bool(one.flags & _MANY_FILES)
        inode = None if is_reused else one.file or None
        return call, "syscall", WaitObject(kind="descriptor", fd=fd, inode=inode, is_reused=is_reused)
    if kind == _BY_CHILD:  # wait4(2): below 1 it is a group or any
        return call, "syscall", WaitObject(kind="child", pid=fd if 0 < fd < 1 << 31 else None)
    if kind == _BY_SECOND:  # waitid(2): P_PID is 1
        return call, "syscall", WaitObject(kind="child", pid=fd if one.object >> 32 == 1 else None)
    return call, "syscall", nothing


def _is_idle(syscall: str | None, cause: str, target: WaitObject) -> bool:
    if cause in {"exit", "stopped"} or syscall in _IDLE_CALLS:
        return True
    if syscall in _POLL_CALLS:
        return target.kind == "none"
    return target.kind == "futex"
