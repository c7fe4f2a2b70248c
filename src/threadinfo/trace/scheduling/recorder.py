"""Per-thread scheduling: loads bpf/scheduling.bpf.c, gives every thread a slot, and decodes what the kernel counted.

The statistics are read through the arrays' own memory: no system call an item, whatever the number of threads.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import TracebackType
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from threadinfo.model import BlockedCall, Confidence, DelayedBy, EndedThreads, Scheduling
from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.btf import KernelTypes
from threadinfo.trace.kernel.histogram import summarize
from threadinfo.trace.kernel.loader import ProgramStatistics, load_programs
from threadinfo.trace.kernel.machine import counts_thread_times, cpu_count, most_taken_ns, pid_limit, taken_ns
from threadinfo.trace.kernel.mapped import GrowingMemory, SparseWords
from threadinfo.trace.kernel.ring import RingReader
from threadinfo.trace.scheduling.kernel_accounts import (
    AFTER_PREEMPTION,
    AFTER_WAKEUP,
    ENDED,
    RUNNING,
    SLEEPING,
    UNINTERRUPTIBLE,
    UNKNOWN,
    Comparison,
    ReadAccount,
    Reading,
    Thread,
    compare,
    copy_record,
)
from threadinfo.trace.scheduling.kernel_facts import kernel_facts
from threadinfo.trace.scheduling.records import (
    ChildRecord,
    ControlRecord,
    DelayRecord,
    LossesRecord,
    NameRecord,
    ThreadRecord,
)
from threadinfo.trace.scheduling.turnover import EndedSum, Gone, Pairs, Totals, add_total, is_alive, oldest_first
from threadinfo.trace.scheduling.waits import (
    BY_NETWORK,
    INTERRUPT,
    NETWORK,
    OF_THREAD,
    STACK_BUFFER_BYTES,
    WAITS_A_SLOT,
    Blocked,
    FramesOf,
    GoingOn,
    ReadCall,
    ThreadWaits,
    WaitTables,
    stack_facts,
    tell_wakers,
    whose,
)
from threadinfo.trace.scheduling.waits import kernel_facts as facts_of_waits
from threadinfo.trace.session.awaited import AWAITED_BYTES, AwaitedProcess
from threadinfo.trace.session.following import FOLLOWING_BYTES, Child, Following
from threadinfo.trace.stacks.records import StackReader

ReadThreads = Callable[[], Mapping[int, Mapping[int, str]]]
"""Gives the threads of every traced process now: PID to (thread id to state letter)."""

# Mirrors of bpf/scheduling.bpf.c.
_STREAM_PAGES = 256
_BORN_SLOTS_A_CPU = 1024  # for threads that are born while we watch
_MOST_BORN_SLOTS = 16_384
_FOLDED_AT_ONCE = 1024  # at the least: each time takes some milliseconds
_SURELY_ENDED_NS = 20_000_000  # no event of a thread comes later than this after its end
_PAIRS_A_SLOT = 8
_MOST_SLOTS = 65535
_SLOT_STEP = 1024  # few sizes: the program is compiled for each
_ASLEEP_NS = 100_000  # a thread can say "sleeping" for a moment before it goes


class Delay(NamedTuple):
    """A wait that was longer than the threshold."""

    at_ns: int
    """CLOCK_MONOTONIC, when it ended."""
    wait_ns: int
    pid: int
    tid: int
    thread_name: str
    cpu: int
    held_by_tid: int | None
    """Who held the CPU longest meanwhile; None where nobody that is remembered did."""


class ThreadActivity(msgspec.Struct, frozen=True):
    """What one thread did during the trace."""

    pid: int
    tid: int
    name: str
    """When it was traced last; the name of a thread that lives is better read from /proc."""
    was_born: bool
    has_ended: bool
    scheduling: Scheduling
    waits: ThreadWaits | None = None
    """None: not watched."""


_NOBODY: tuple[int | None, str] = (None, "(ended)")


def _text(comm: bytes) -> str:
    return comm.decode("utf-8", "backslashreplace")


class SchedulingRecorder:
    """Watches the threads of some processes from `start` to `stop`. A context manager: it detaches at its end."""

    def __init__(
        self,
        read_threads: ReadThreads,
        read_account: ReadAccount,
        threshold_ns: int | None = None,
        *,
        follow_limit: int = 0,
        read_call: ReadCall | None = None,
        frames_of: FramesOf | None = None,
    ) -> None:
        """Attaches; nothing is counted before `start`. A `threshold_ns` turns the live stream on.

        `follow_limit`: how many of the processes that traced ones make are traced too. With `read_call`, what threads
        wait for is watched too; with `frames_of` also where in the program their waits begin.
        """
        self._read_threads, self._read_account, self._read_call = read_threads, read_account, read_call
        existing = read_threads()
        cpus = cpu_count()
        thread_count = sum(len(threads) for threads in existing.values())
        born = min(_BORN_SLOTS_A_CPU * cpus, _MOST_BORN_SLOTS)
        self._reserved_slots = born * 5 // 8  # that are free at any time, as far as ended threads can be folded
        wanted = thread_count + thread_count // 4 + 64 + born
        self._slot_count = min(_MOST_SLOTS, -(-wanted // _SLOT_STEP) * _SLOT_STEP)
        defines, attach, self._delays_dequeue = kernel_facts()
        defines |= {"TID_LIMIT": pid_limit(), "SLOT_COUNT": self._slot_count, "CPU_COUNT": cpus}
        defines["PAIRS"] = _PAIRS_A_SLOT * self._slot_count
        self.waits_problem: str | None = None
        """Why what threads wait for is not told, though it was asked for."""
        if read_call is not None:
            with KernelTypes() as types:
                facts, more = facts_of_waits(types), stack_facts(types) if frames_of else {}
            if isinstance(facts, str):
                self.waits_problem = facts
            else:
                defines |= facts | more | {"WAITS": WAITS_A_SLOT * self._slot_count}
        has_stacks = "WAIT_STACKS" in defines
        if has_stacks:
            attach.append(("sched_switch", "on_wait"))
        if threshold_ns is not None:
            defines["STREAM_PAGES"] = _STREAM_PAGES
        self._programs = load_programs("scheduling.bpf.c", defines, attach)
        try:
            programs = self._programs
            self._slot_of = SparseWords(programs, "slot_of", "H", int(defines["TID_LIMIT"]))
            self._thread_memory = GrowingMemory(programs, "threads", ctypes.sizeof(ThreadRecord), self._slot_count)
            self._thread_array = (ThreadRecord * 0)()
            losses = programs.memory("losses", ctypes.sizeof(LossesRecord), cpus)
            self._losses = (LossesRecord * cpus).from_buffer(losses)
            self._control = ControlRecord.from_buffer(programs.memory("control", ctypes.sizeof(ControlRecord), 1))
            self._control.threshold_ns = threshold_ns or 0
            self.awaited = AwaitedProcess(programs.memory("awaited", AWAITED_BYTES, 1))
            self.following = Following(programs.memory("following", FOLLOWING_BYTES, 1))
            self._first_states: dict[int, str] = {}
            self._full_count = 0
            self._next_slot = ctypes.c_uint64.from_buffer(programs.memory("next_slot", 8, 1))
            self._next_slot.value = 1  # 0 is none
            self._free_slots = programs.queue("free_slots", ctypes.c_uint32)
            self._woken, self._delayed = Pairs(programs, "woken_by"), Pairs(programs, "delayed_by")
            self._ended: dict[tuple[int, str], EndedSum] = {}
            self._taken_count = self._taken_on_cpu_ns = 0
            self._full_before = 0
            self.stacks = StackReader(programs, STACK_BUFFER_BYTES) if has_stacks else None
            """Copies of the stacks of waits; None where they are not watched."""
            self._control.next_stack = 1  # 0 is none
            self._waits: WaitTables | None = None
            if "WAITS" in defines:
                waits = WaitTables(programs, self._slot_count, frames_of if has_stacks else None)
                self.waits_problem = waits.problem
                self._waits = None if waits.problem else waits
            self._add_threads(existing)
            self.following.allow(follow_limit)
            self._delay_reader: RingReader | None = None
            if threshold_ns is not None:
                size = _STREAM_PAGES * mmap.PAGESIZE
                self._delay_reader = RingReader(
                    programs.descriptor("delays"), size, 1 + ctypes.sizeof(DelayRecord) // 8
                )
        except BaseException:
            self._programs.close()
            raise
        self.started_ns = 0
        self.stopped_ns = 0
        self._first_readings: dict[int, Reading] = {}
        self._first_calls: dict[int, tuple[int, BlockedCall]] = {}
        self._taken_ns: list[int] = []
        self._comparison: Comparison | None = None
        self._contradicted_count = 0

    def __enter__(self) -> SchedulingRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._programs.close()

    def _add_threads(self, existing: Mapping[int, Mapping[int, str]], born_ns: int = 0) -> None:
        """Gives every thread a slot; lists again until none is new, since one without a slot may have made another.

        `born_ns`: of threads that had no slot until now, from when on they are told of.
        """
        while True:
            added = False
            for pid, threads in existing.items():
                for tid, state in threads.items():
                    self._first_states[tid] = state
                    if not self._slot_of[tid]:
                        added = self._add_thread(pid, tid, state, born_ns) or added
            if not added:
                return
            existing = self._read_threads()

    def _add_thread(self, pid: int, tid: int, letter: str, born_ns: int) -> bool:
        slot = int(self._next_slot.value)
        if slot < self._slot_count:
            self._next_slot.value = slot + 1
        elif (free := next(self._free_slots.take_all(), None)) is not None:
            slot = int(free.value)
        else:
            self._full_count += not born_ns  # it was counted at its birth
            return False
        thread = self._threads[slot]
        thread.tgid = pid
        if born_ns:
            thread.born_ns = thread.first_ns = thread.since_ns = born_ns
            thread.state = {"S": SLEEPING, "D": UNINTERRUPTIBLE}.get(letter, UNKNOWN)
        thread.tid = tid
        self._slot_of[tid] = slot
        return True

    def _given_count(self) -> int:
        return min(int(self._next_slot.value), self._slot_count)

    @property
    def _threads(self) -> ctypes.Array[ThreadRecord]:
        """Slots that are, or were, somebody's, and a few more: the others' memory costs nothing."""
        memory = self._thread_memory.upto(self._given_count())
        if self._thread_memory.mapped_count != len(self._thread_array):
            self._thread_array = (ThreadRecord * self._thread_memory.mapped_count).from_buffer(memory)
        return self._thread_array

    def _given_out(self) -> Iterator[tuple[int, ThreadRecord]]:
        """Slots that are, or were, somebody's."""
        count = self._given_count()
        threads = self._threads
        for slot in range(count):
            yield slot, threads[slot]

    def start(self) -> None:
        """Begins to count, for all threads at once."""
        self.started_ns = time.monotonic_ns()
        self._control.is_on = 1
        self._taken_ns = taken_ns()
        self._first_readings = self._read_accounts()
        self._leave_out_ended()
        self._first_calls = self._read_calls()

    def _read_accounts(self) -> dict[int, Reading]:
        """The kernel's account and ours of every thread that lives, by slot."""
        readings = {}
        for slot, thread in self._given_out():
            if not thread.tid or thread.state == ENDED:
                continue
            memory = memoryview(self._thread_memory.upto(slot + 1))
            at = slot * ctypes.sizeof(ThreadRecord)
            from_ns = time.monotonic_ns()
            before = copy_record(memory, at)
            account = self._read_account(before.tgid, before.tid)
            after = copy_record(memory, at)
            if account is not None:
                readings[slot] = Reading(from_ns, time.monotonic_ns(), before, account, after)
        return readings

    def _read_calls(self) -> dict[int, tuple[int, BlockedCall]]:
        """By slot, of the threads that sleep: what in, and when that was read. An event since makes it worthless."""
        calls: dict[int, tuple[int, BlockedCall]] = {}
        if self._waits is None or self._read_call is None:
            return calls
        for slot, thread in self._given_out():
            if thread.tid and not thread.first_ns and (call := self._read_call(thread.tgid, thread.tid)) is not None:
                calls[slot] = time.monotonic_ns(), call
        return calls

    def _leave_out_ended(self) -> None:
        """Frees the slots of those who ended before the window: no event would ever tell of their end."""
        for slot, thread in self._given_out():
            if not thread.tid or thread.first_ns:
                continue
            reading, is_its_own = self._first_readings.get(slot), self._slot_of[thread.tid] == slot
            if reading is None or reading.account.state in "ZX" or not is_its_own:
                if is_its_own:
                    self._slot_of[thread.tid] = 0
                thread.tid = 0

    def new_children(self) -> list[Child]:
        """The processes that traced ones have made since the last call."""
        return [
            Child(child.tgid, None, _text(child.comm), child.born_ns, False)
            for child in self._programs.queue("children", ChildRecord).take_all()
        ]

    def reclaim(self) -> None:
        """Gives the slots of ended threads back before there are none left: to be called now and then.

        What they did is added up by name. Those that did most are kept one by one, as many as there is room for.
        """
        are_waits_short = self._waits is not None and self._waits.are_short()
        if self._slot_count - int(self._next_slot.value) >= self._reserved_slots and not are_waits_short:
            return
        rows = self.records
        tids, is_full = rows["tid"], self._count_full() > self._full_before
        used = np.flatnonzero(tids)
        if self._slot_count - len(used) >= self._reserved_slots and not is_full and not are_waits_short:
            return
        self._full_before = self._count_full()
        until = time.monotonic_ns() - _SURELY_ENDED_NS
        ended = [slot for slot in used.tolist() if self._threads[slot].state == ENDED]
        ended = [slot for slot in ended if self._threads[slot].ended_ns < until]
        wanted = max(0, self._reserved_slots + _FOLDED_AT_ONCE - (self._slot_count - len(used)))
        wanted = max(wanted, _FOLDED_AT_ONCE) if are_waits_short else wanted
        ages = {slot: int(self._threads[slot].ended_ns) for slot in ended}
        turns = {slot: int(self._threads[slot].on_cpu_ns) for slot in ended}
        self._fold(oldest_first(ended, ages, turns)[:wanted])
        if is_full:
            self._add_threads(self._read_threads(), born_ns=time.monotonic_ns())

    def _fold(self, slots: list[int]) -> None:
        """Adds up what these threads did, and frees everything that was theirs."""
        if not slots:
            return
        taken: dict[int, Gone | None] = {}
        for slot in slots:
            thread = self._threads[slot]
            times, name = self._times(slot, thread), _text(thread.comm)
            taken[thread.tid] = Gone(thread.tgid, name)
            ended = self._ended.setdefault((thread.tgid, name), EndedSum())
            ended.count += 1
            ended.on_cpu_ns += times[RUNNING]
            ended.run_queue_ns += times[AFTER_WAKEUP] + times[AFTER_PREEMPTION]
            ended.blocked_ns += times[SLEEPING] + times[UNINTERRUPTIBLE]
            ended.voluntary_count += thread.voluntary_count
            ended.involuntary_count += thread.involuntary_count
        places = self._waits.give_back(np.array(slots, np.intp)) if self._waits else set()
        names = self.names()

        def gone(tid: int) -> Gone | None:
            """What is told of a thread that has ended."""
            own = tid & ~BY_NETWORK
            if tid == INTERRUPT or self._slot_of[own] or is_alive(own):
                return None
            if own not in taken:
                taken[own] = Gone(*names.get(own, _NOBODY))
            known = taken[own]
            return Gone(known.pid, f"{NETWORK}{known.name}") if known and tid & BY_NETWORK else known

        self._woken.empty({slot | OF_THREAD for slot in slots} | places, gone)
        self._delayed.empty(set(slots), gone)
        if self._waits:
            self._waits.forget_ended(places, gone)
            self._waits.free(places)
        for slot in slots:
            thread = self._threads[slot]
            self._first_states.pop(thread.tid, None)
            self._first_readings.pop(slot, None)
            self._first_calls.pop(slot, None)
            ctypes.memset(ctypes.addressof(thread), 0, ctypes.sizeof(ThreadRecord))
            self._free_slots.put(ctypes.c_uint32(slot))
        unneeded = names.keys() - self.holders_and_wakers()
        self._names().delete(np.array(sorted(unneeded), np.uint32).tobytes())

    def take(
        self, pids: Collection[int], names: Mapping[int, tuple[int | None, str]]
    ) -> tuple[list[ThreadActivity], dict[int, tuple[EndedThreads, ...]]]:
        """What the threads of processes that ended a while ago did, and what was added up of them: both are forgotten.

        `names` is (PID, name) by thread id, of all known.
        """
        rows = self.records
        slots = np.flatnonzero(
            np.isin(rows["tgid"], list(pids)) & (rows["tid"] > 0) & (rows["state"] == ENDED)
        ).tolist()
        if self._control.is_on:  # after the end, all are told of that same window
            self.stopped_ns = time.monotonic_ns()
        activities = self.activities(names, slots)
        by_name = {pid: all_ for pid, all_ in self.ended_by_name().items() if pid in pids}
        self._fold(slots)
        for key in [key for key in self._ended if key[0] in pids]:
            ended = self._ended.pop(key)
            self._taken_count += ended.count
            self._taken_on_cpu_ns += ended.on_cpu_ns
        return activities, by_name

    def ended_by_name(self) -> dict[int, tuple[EndedThreads, ...]]:
        """By process: the threads that ended and are not in `activities`."""
        found: dict[int, list[EndedThreads]] = {}
        for (pid, name), one in self._ended.items():
            found.setdefault(pid, []).append(
                EndedThreads(
                    name=name,
                    count=one.count,
                    on_cpu_ns=one.on_cpu_ns,
                    run_queue_ns=one.run_queue_ns,
                    blocked_ns=one.blocked_ns,
                    voluntary_switch_count=one.voluntary_count,
                    involuntary_switch_count=one.involuntary_count,
                )
            )
        return {pid: tuple(sorted(all_, key=lambda one: -one.on_cpu_ns)) for pid, all_ in found.items()}

    def _count_full(self) -> int:
        return self._full_count + sum(int(losses.full_count) for losses in self._losses)

    def allow_copies(self, count: int) -> None:
        """How many stacks may be copied until the next call."""
        self._control.copies_left = count

    def uncopied_count(self) -> int:
        """Of waits, those whose stacks were new and had no room, or came too fast."""
        return sum(int(losses.uncopied_count) for losses in self._losses)

    def stop(self) -> None:
        """Ends counting, for all threads at once, and compares with the kernel's accounts, read a moment before."""
        last_readings = self._read_accounts()
        self.stopped_ns = time.monotonic_ns()
        self._control.is_on = 0
        self._compare(last_readings)

    def note_moment(self) -> None:
        """Lets `activities` and `confidence` tell of the time until now, while counting goes on."""
        last_readings = self._read_accounts()
        self.stopped_ns = time.monotonic_ns()
        self._compare(last_readings)

    def _compare(self, last_readings: Mapping[int, Reading]) -> None:
        threads: list[Thread] = []
        count, on_cpu_ns = (sum(getattr(one, of) for one in self._ended.values()) for of in ("count", "on_cpu_ns"))
        count, on_cpu_ns = count + self._taken_count, on_cpu_ns + self._taken_on_cpu_ns
        self._contradicted_count = 0
        for slot, thread in self._given_out():
            if not thread.tid or thread.born_ns > self.stopped_ns:
                continue
            count += 1
            on_cpu_ns += self._times(slot, thread)[RUNNING]
            state, is_fitting = self._state_before(slot, thread)
            self._contradicted_count += not is_fitting
            first, last = self._first_readings.get(slot), last_readings.get(slot)
            was_forked = thread.born_ns >= self.started_ns and thread.first_state == SLEEPING
            if last is not None and last.after.state != ENDED and (first is not None or was_forked):
                threads.append(Thread(None if was_forked else first, last, state))
        self._comparison = compare(
            threads,
            count - len(threads),
            started_ns=self.started_ns,
            stopped_ns=self.stopped_ns,
            on_cpu_ns=on_cpu_ns,
            cpus=os.sysconf("SC_NPROCESSORS_ONLN"),
            taken_ns=most_taken_ns(self._taken_ns, taken_ns()),
            has_times=counts_thread_times(),
            is_queue_exact=not self._delays_dequeue,
        )

    def resume(self) -> None:
        """Lets the programs work again, for measuring them; what they count from now on must not be read."""
        self._control.is_on = 1

    def statistics(self) -> ProgramStatistics:
        """The kernel's account of the programs."""
        return self._programs.statistics()

    def confidence(self, program_ns_per_event: float | None = None) -> Confidence:
        """The accounts so far."""
        unexpected = sum(int(losses.unexpected_count) for losses in self._losses) + self._contradicted_count
        confidence = Confidence(
            seen_count=self.seen_count(),
            lost_count=sum(int(losses.lost_count) for losses in self._losses),
            map_full_count=self._count_full(),
            missed_count=self.statistics().missed_count + unexpected,
            program_ns_per_event=program_ns_per_event,
            tool_cpu_seconds=time.process_time(),
        )
        compared = self._comparison
        if compared is None:
            return confidence
        return msgspec.structs.replace(
            confidence,
            scheduling_matches_kernel=(
                not compared.differences if compared.compared_count or compared.differences else None
            ),
            scheduling_differences=compared.differences,
            scheduling_compared_count=compared.compared_count,
            scheduling_not_compared_count=compared.not_compared_count,
        )

    def seen_count(self) -> int:
        """Events of traced threads so far."""
        return sum(int(losses.seen_count) for losses in self._losses)

    def read_delays(self) -> list[Delay]:
        """The waits since the last call, in order of their end."""
        if self._delay_reader is None:
            return []
        data = self._delay_reader.read()[:, 1:].tobytes()
        records = (DelayRecord * (len(data) // ctypes.sizeof(DelayRecord))).from_buffer_copy(data)
        return sorted(
            Delay(
                at_ns=record.at_ns,
                wait_ns=record.wait_ns,
                pid=record.tgid,
                tid=record.tid,
                thread_name=_text(record.comm),
                cpu=record.cpu,
                held_by_tid=record.holder or None,
            )
            for record in records
        )

    def holders_and_wakers(self) -> set[int]:
        """The ids of all other threads that were charged with a wait or woke somebody so far."""
        found = self._woken.tids() | self._delayed.tids()
        for thread in self._used():
            found |= {thread.waking.waker, thread.last_holder}
        if self._waits is not None:
            found |= self._waits.others()
        return {int(tid) & ~BY_NETWORK for tid in found if tid not in {0, INTERRUPT}}

    def _names(self) -> bpf.Map[ctypes.c_uint32, NameRecord]:
        return self._programs.map("names", ctypes.c_uint32, NameRecord)

    def names(self) -> dict[int, tuple[int, str]]:
        """Thread id to (PID, name) of wakers and holders whose names the programs took."""
        return {key.value: (value.tgid, _text(value.comm)) for key, value in self._names().items()}

    def name(self, tid: int) -> str:
        """The same of one thread, "" where the programs took none: one look, however many there are."""
        value = self._names().get(ctypes.c_uint32(tid))
        return _text(value.comm) if value is not None else ""

    @property
    def records(self) -> NDArray[np.void]:
        """The kernel's counters, a slot a thread; those with a tid of 0 are free. They move while they are read."""
        count = self._given_count()
        return np.ctypeslib.as_array(self._threads)[:count]

    def holders(self) -> dict[int, Totals]:
        """By slot: who held the CPU while that thread waited, and how long so far."""
        held = self._delayed.read()
        for slot, thread in self._given_out():
            if thread.tid and thread.last_holder_ns:
                add_total(held.setdefault(slot, {}), thread.last_holder, 0, thread.last_holder_ns)
        return held

    @property
    def waits(self) -> WaitTables | None:
        """What threads wait for; None where that is not watched."""
        return self._waits

    def first_call(self, slot: int) -> BlockedCall | None:
        """What a thread of which no event was seen yet is blocked in; None where that is not known."""
        return self._first_calls[slot][1] if slot in self._first_calls and not self._threads[slot].first_ns else None

    def held_ns(self) -> dict[int, dict[int, int]]:
        """By slot: thread ids of those who held the CPU while that thread waited, and how long so far."""
        return {
            slot: {other: total.ns for other, total in totals.items() if isinstance(other, int)}
            for slot, totals in self.holders().items()
        }

    def _used(self) -> Iterable[ThreadRecord]:
        return (thread for _, thread in self._given_out() if thread.tid)

    def activities(
        self, names: Mapping[int, tuple[int | None, str]], slots: Iterable[int] | None = None
    ) -> list[ThreadActivity]:
        """What threads did between `start` and `stop`; `names` is (PID, name) by thread id, of all known.

        `slots`: of whom; None: of all.
        """
        names = {**names, **self._own_names()}

        def name(tid: int) -> tuple[int | None, str]:
            return names.get(tid, _NOBODY)

        woken, delayed = self._all_wakers(), self.holders()
        waits = self._waits
        places = waits.by_slot() if waits else {}
        lock_holders, stacks = (waits.holders(), waits.stacks()) if waits else ({}, {})
        activities = []
        for slot, thread in self._given_out() if slots is None else ((slot, self._threads[slot]) for slot in slots):
            if not thread.tid or thread.born_ns > self.stopped_ns:
                continue
            own = places.get(slot, [])
            wakers: Totals = {}
            for of in (slot | OF_THREAD, *own):
                for other, total in woken.get(of, {}).items():
                    add_total(wakers, other, total.count, total.ns)
            activity = self._decode(slot, thread, wakers, delayed.get(slot, {}), name)
            if waits is not None:
                before, going_on = self._uncharged(slot, thread, waits)
                blocked_ns = activity.scheduling.blocked_ns
                told = waits.tell(
                    own, blocked_ns, before, going_on, lambda place: woken.get(place, {}), lock_holders, stacks, name
                )
                activity = msgspec.structs.replace(activity, waits=told)
            activities.append(activity)
        return activities

    def _all_wakers(self) -> dict[int, Totals]:
        """By a thread's slot with OF_THREAD, or the place of a wait: who ended it."""
        woken = self._woken.read()
        lasts = [(slot | OF_THREAD, thread.waking) for slot, thread in self._given_out() if thread.tid]
        for of, last in lasts:
            if last.count:
                add_total(woken.setdefault(of, {}), last.waker, last.count, last.ns)
        if self._waits is not None:
            self._waits.add_wakers(woken)
        return woken

    def _uncharged(
        self, slot: int, thread: ThreadRecord, waits: WaitTables
    ) -> tuple[tuple[BlockedCall | None, Blocked] | None, GoingOn | None]:
        """What the thread was blocked in before its first event, and what it is blocked in now."""
        before = going_on = None
        if thread.born_ns < self.started_ns:
            state = self._state_before(slot, thread)[0]
            until = thread.first_ns or self.stopped_ns
            read_ns, call = self._first_calls.get(slot, (until, None))
            if state in {SLEEPING, UNINTERRUPTIBLE}:
                ns = max(0, until - self.started_ns)
                before = (call if read_ns < until else None), Blocked(ns, state == UNINTERRUPTIBLE)
        if thread.first_ns and thread.state in {SLEEPING, UNINTERRUPTIBLE}:
            ns = max(0, self.stopped_ns - max(thread.since_ns, self.started_ns))
            blocked = Blocked(ns, thread.state == UNINTERRUPTIBLE)
            going_on = GoingOn(waits.pending(slot), waits.stack_of(slot), blocked)
        return before, going_on

    def _own_names(self) -> dict[int, tuple[int, str]]:
        """Thread id to (PID, name) of the traced threads that ended: their last names, where others took their first.

        Where two had the same number it is the first one's: exec gives the number of a process's first thread to the
        one that calls it and ends all others, so those who say the number had to do with the first.
        """
        names: dict[int, tuple[int, str]] = {}
        for thread in self._used():
            if thread.state == ENDED and thread.comm:
                names.setdefault(thread.tid, (thread.tgid, _text(thread.comm)))
        return names

    def _decode(
        self,
        slot: int,
        thread: ThreadRecord,
        wakers: Totals,
        holders: Totals,
        name_of: Callable[[int], tuple[int | None, str]],
    ) -> ThreadActivity:
        times = self._times(slot, thread)
        wakeup, preemption = thread.after_wakeup, thread.after_preemption
        both = [a + b for a, b in zip(wakeup.buckets, preemption.buckets, strict=True)]
        count, total = wakeup.count + preemption.count, wakeup.sum_ns + preemption.sum_ns
        scheduling = Scheduling(
            run_queue_latency_ns=summarize(
                count, total, max(wakeup.max_ns, preemption.max_ns), both, with_octaves=True
            ),
            after_wakeup_ns=summarize(wakeup.count, wakeup.sum_ns, wakeup.max_ns, wakeup.buckets),
            after_preemption_ns=summarize(preemption.count, preemption.sum_ns, preemption.max_ns, preemption.buckets),
            on_cpu_ns=times[RUNNING],
            run_queue_ns=times[AFTER_WAKEUP] + times[AFTER_PREEMPTION],
            blocked_ns=times[SLEEPING] + times[UNINTERRUPTIBLE],
            sleeping_ns=times[SLEEPING],
            uninterruptible_ns=times[UNINTERRUPTIBLE],
            voluntary_switch_count=thread.voluntary_count,
            involuntary_switch_count=thread.involuntary_count,
            migration_count=thread.migration_count,
            woken_by=tell_wakers(wakers, name_of),
            delayed_by=tuple(
                DelayedBy(*whose(other, name_of), total.ns)
                for other, total in sorted(holders.items(), key=lambda item: -item[1].ns)
            ),
            delayed_by_unknown_ns=thread.uncharged_ns,
        )
        name = _text(thread.comm)
        if thread.state != ENDED or not name:  # then it is the name at its birth
            known = name_of(thread.tid)
            name = name if known is _NOBODY else known[1]
        return ThreadActivity(
            thread.tgid, thread.tid, name, thread.born_ns >= self.started_ns, thread.state == ENDED, scheduling
        )

    def _times(self, slot: int, thread: ThreadRecord) -> dict[int, int]:
        """Nanoseconds in each state, the time before the first event and after the last one included."""
        times = {
            RUNNING: thread.on_cpu_ns,
            AFTER_WAKEUP: thread.queued_ns,
            AFTER_PREEMPTION: 0,
            SLEEPING: thread.sleeping_ns,
            UNINTERRUPTIBLE: thread.uninterruptible_ns,
        }
        if thread.born_ns < self.started_ns:
            until = thread.first_ns or self.stopped_ns  # no event at all: as it was, it stayed
            times[self._state_before(slot, thread)[0]] += max(0, until - self.started_ns)
        if thread.first_ns and thread.state in times:
            times[thread.state] += max(0, self.stopped_ns - max(thread.since_ns, self.started_ns))
        return times

    def _state_before(self, slot: int, thread: ThreadRecord) -> tuple[int, bool]:
        """What a thread was doing from the window's start to its first event, and whether that event agrees.

        What /proc said in the window, before the event, comes first: where the event needs another one before it, that
        one was not seen.
        """
        reading, needed = self._first_readings.get(slot), thread.first_state
        letter = self._first_states.get(thread.tid, "S")
        if not thread.first_ns:
            letter = reading.account.state if reading else letter
            return {"D": UNINTERRUPTIBLE, "R": RUNNING}.get(letter, SLEEPING), True
        if thread.born_ns >= self.started_ns:
            return needed, True
        is_new = reading is not None and reading.until_ns + _ASLEEP_NS < thread.first_ns
        letter = reading.account.state if is_new and reading else letter
        asleep = UNINTERRUPTIBLE if letter == "D" else SLEEPING
        if needed == SLEEPING or (is_new and letter != "R"):
            return asleep, needed == SLEEPING
        if needed == UNKNOWN:  # it was switched in unseen
            return (AFTER_PREEMPTION if is_new else SLEEPING), True
        return needed, True
