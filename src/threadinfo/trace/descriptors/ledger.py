"""The ledger that the kernel side keeps (bpf/descriptors/ledger.h, tables.h), read as memory: nothing is added up here.

Every array is shared with the program, which goes on writing: what is read is a moment of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.model import Latency
from threadinfo.trace.descriptors.calls import CALL_CODES, CALL_NAMES, CODE_EXEC, CODE_EXIT, REPLACING_CODES
from threadinfo.trace.descriptors.type_codes import TYPE_CODES, TYPE_NAMES, code_of_link
from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.histogram import BUCKETS, buckets_of, summarize
from threadinfo.trace.kernel.loader import Programs
from threadinfo.trace.kernel.mapped import GrowingMemory
from threadinfo.trace.stacks.records import MOST_STACKS

# Mirrors of bpf/descriptors.bpf.c and bpf/descriptors/*.h.
_PAGE_NUMBERS = 256
_MOST_LEAVING = 16
_IS_KNOWN, _IS_OPEN = 1, 2
_HAS_ENDED = 2
_NO_TABLE = 0xFFFFFFFF
_STACK_SHIFT, _STACK_MASK, _TIME_SHIFT, _TIME_UNIT_SHIFT = 2, 0x3FFF, 16, 2
_CONTROL = np.dtype(
    [
        ("is_on", "<u8"),
        ("copies_left", "<i8"),
        ("records_left", "<i8"),
        ("records", "<u8"),
        ("started_ns", "<u8"),
        ("seed", "<u8"),
        ("next_process", "<u8"),
        ("next_table", "<u8"),
        ("next_page", "<u8"),
        ("next_thread", "<u8"),
        ("next_stack", "<u8"),
        ("next_failure", "<u8"),
        ("next_path", "<u8"),
        ("thread_changes", "<u8"),
    ]
)
_PROCESS = np.dtype([("state", "<u8"), ("tgid", "<u4"), ("table", "<u4")])
_TABLE = np.dtype(
    [
        ("files", "<u8"),
        ("open_count", "<i8"),
        ("peak_count", "<u8"),
        ("ended_ns", "<u8"),
        ("leaders", "<i8"),
        ("source", "<u8"),
        ("process", "<u4"),
        ("is_lazy", "<u4"),
        ("next_leaving", "<u8"),
        ("leaving", "<u8", _MOST_LEAVING),
    ]
)
_PAGE = np.dtype(
    [("was_open", "<u8", _PAGE_NUMBERS // 64), ("types", "u1", _PAGE_NUMBERS), ("table", "<u4"), ("first", "<u4")]
)
_NUMBER = np.dtype(
    [
        ("life", "<u8"),
        ("owed", "<i4"),
        ("file", "<u4"),
        ("moved_ns", "<u8"),
        ("tid", "<u4"),
        ("call", "<u2"),
        ("type", "u1"),
        ("is_replacement", "u1"),
    ]
)
_THREAD = np.dtype(
    [
        ("opened_count", "<u8"),
        ("closed_count", "<u8"),
        ("tid", "<u4"),
        ("process", "<u4"),
        ("has_ended", "<u4"),
        ("unused", "<u4"),
    ]
)
_TOTALS = np.dtype(
    [
        ("opened", "<i8", CALL_CODES),
        ("closed", "<i8", CALL_CODES),
        ("failed", "<i8", CALL_CODES),
        ("sockets", "<i8", CALL_CODES),
        ("types", "<i8", TYPE_CODES),
        ("close_on_exec", "<i8", 2),
        ("lifetime_sum_ns", "<i8"),
        ("lifetime_max_ns", "<i8"),
        ("path_left_out", "<i8"),
        ("unused", "<i8"),
        ("lifetimes", "<u4", BUCKETS),
    ]
)
_SITE = np.dtype(
    [
        ("opened", "<i8"),
        ("closed", "<i8"),
        ("limit_failed", "<i8"),
        ("first_ns", "<i8"),
        ("lifetime_sum_ns", "<i8"),
        ("lifetime_max_ns", "<i8"),
        ("process", "<u4"),
        ("unused", "<u4"),
        ("types", "<u4", TYPE_CODES),
    ]
)
_FAILURE = np.dtype(
    [("process", "<u4"), ("call", "<u2"), ("error", "<u2"), ("tid", "<u4"), ("unused", "<u4"), ("count", "<i8")]
)
_FREE = np.dtype([("taken", "<u8"), ("given", "<u8")])

FAILURES, PATHS, THREADS = 4096, 16_384, 16_384
_SITE_HISTOGRAMS = 4096
_SPARE_TABLES = 62
_SPARE_PAGES = 1024
"""Of 256 numbers: a quarter of a million more than the first 256 of each table."""
RECORDS_NONE, RECORDS_OF_SOCKETS, RECORDS_ALL = 0, 1, 2


class _FailureKey(ctypes.Structure):  # mirrors struct failure_key
    _fields_ = (
        ("process", ctypes.c_uint32),
        ("call", ctypes.c_uint16),
        ("error", ctypes.c_uint16),
        ("tid", ctypes.c_uint32),
    )


def _delete(hash_: bpf.Map[Any, Any], key: bytes) -> None:
    """Takes one out, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        hash_.delete(key)


class Sizes(NamedTuple):
    """Of the arrays."""

    processes: int
    tables: int
    pages: int
    shards: int
    stacks: int
    histograms: int

    def defines(self) -> dict[str, int]:
        """For the program in the kernel."""
        return {
            "PROCESSES": self.processes,
            "TABLES": self.tables,
            "PAGES": self.pages,
            "SHARDS": self.shards,
            "SITES": self.stacks,
            "SITE_HISTOGRAMS": self.histograms,
            "THREADS": THREADS,
            "FREE_SLOTS": THREADS,
            "FAILURES": FAILURES,
            "PATHS": PATHS,
            "CALL_CODES": CALL_CODES,
            "TYPE_CODES": TYPE_CODES,
        }


def _round_up(count: int) -> int:
    """To a power of two: the program is compiled for these sizes, once for each."""
    return 1 << max(0, count - 1).bit_length()


def choose_sizes(target_count: int, follow_limit: int, cpus: int, open_count: int, *, with_stacks: bool) -> Sizes:
    """As much as may be needed for so many targets and processes that they make, with so many descriptors open now."""
    processes = _round_up(target_count + follow_limit + 2)
    tables = processes + _SPARE_TABLES
    pages = tables + _round_up(_SPARE_PAGES + 2 * open_count // _PAGE_NUMBERS)
    shards = min(cpus, 64) if processes <= 16 else 1  # a copy a CPU is for few processes that do much
    stacks = MOST_STACKS if with_stacks else processes
    return Sizes(processes, tables, pages, shards, stacks, min(stacks, _SITE_HISTOGRAMS))


class OpenDescriptor(NamedTuple):
    """An open number."""

    type: str | None
    at_ns: int
    """When it was opened; 0: before the trace."""
    tid: int
    call: str
    stack: int
    """The stack id of the call; 0: not known."""


class TableState(NamedTuple):
    """The open numbers of a table, ascending, as columns."""

    fd: NDArray[np.int64]
    opened_ns: NDArray[np.int64]
    """0: before the trace."""
    tid: NDArray[np.uint32]
    call: NDArray[np.uint16]
    type: NDArray[np.uint8]
    stack: NDArray[np.int64]

    def descriptors(self) -> dict[int, OpenDescriptor]:
        """By number."""
        columns = (self.fd, self.opened_ns, self.tid, self.call, self.type, self.stack)
        return {
            fd: OpenDescriptor(TYPE_NAMES[kind], at, tid, CALL_NAMES.get(call, ""), stack)
            for fd, at, tid, call, kind, stack in zip(*(column.tolist() for column in columns), strict=True)
        }

    def opened(self) -> TableState:
        """Those that were opened during the trace."""
        seen = self.opened_ns > 0
        fd, opened_ns, tid, call, kind, stack = self
        return TableState(fd[seen], opened_ns[seen], tid[seen], call[seen], kind[seen], stack[seen])


class ProcessTotals(NamedTuple):
    """What was counted of a process."""

    opened: NDArray[np.int64]
    """By code of the call, like the next three."""
    closed: NDArray[np.int64]
    failed: NDArray[np.int64]
    sockets: NDArray[np.int64]
    """Made or numbered by the call; of bind, listen, connect and shutdown those that worked."""
    types: NDArray[np.int64]
    close_on_exec: tuple[int, int]
    """Taken away, set."""
    lifetime: Latency
    """Of those that were opened and closed during the trace."""
    path_left_out: int

    def by_call(self, counts: NDArray[np.int64]) -> dict[str, int]:
        """Counts by a call's name, the largest first."""
        named = Counter({CALL_NAMES[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()})
        return dict(named.most_common())

    def by_type(self) -> dict[str, int]:
        """What was opened, the largest first."""
        named = Counter({TYPE_NAMES[code] or "unknown": int(self.types[code]) for code in np.flatnonzero(self.types)})
        return dict(named.most_common())

    def closed_by(self) -> dict[str, int]:
        """How descriptors ended: close, replaced, exec, exit."""
        replaced = int(self.closed[list(REPLACING_CODES)].sum())
        ends = {"replaced": replaced, "exec": int(self.closed[CODE_EXEC]), "exit": int(self.closed[CODE_EXIT])}
        ends["close"] = int(self.closed.sum()) - sum(ends.values())
        return dict(Counter({how: count for how, count in ends.items() if count}).most_common())


class _Ended(NamedTuple):
    """What the last process that used a table left open: closed by its end."""

    closed_count: int
    lifetimes_ns: NDArray[np.int64]


class KernelLedger:
    """The arrays of one loaded program. Slots of processes, tables and threads are numbers from 0 on."""

    def __init__(self, programs: Programs, sizes: Sizes) -> None:
        self.sizes = sizes
        self._memory: dict[str, mmap.mmap] = {}
        self._programs = programs
        self.control = self._array("control", _CONTROL, 1)
        self._processes = self._array("process_slots", _PROCESS, sizes.processes)
        self._tables = self._array("table_slots", _TABLE, sizes.tables)
        self._growing = {
            "page_slots": GrowingMemory(programs, "page_slots", _PAGE.itemsize, sizes.pages),
            "numbers": GrowingMemory(programs, "numbers", _NUMBER.itemsize * _PAGE_NUMBERS, sizes.pages),
            "thread_slots": GrowingMemory(programs, "thread_slots", _THREAD.itemsize, THREADS),
            "sites": GrowingMemory(programs, "sites", _SITE.itemsize, sizes.stacks),
            "site_lifetimes": GrowingMemory(programs, "site_lifetimes", 4 * BUCKETS, sizes.histograms),
            "failures": GrowingMemory(programs, "failures", _FAILURE.itemsize, FAILURES),
            "path_counts": GrowingMemory(programs, "path_counts", 8, PATHS),
        }
        self._totals = self._array("totals", _TOTALS, sizes.shards * sizes.processes).reshape(sizes.shards, -1)
        self.paths: dict[int, tuple[int, str]] = {}
        """By place in the kernel's counts: the slot of the process, and the path as it named it."""
        self._folded: Counter[tuple[int, int, str]] = Counter()
        self._ended: dict[int, _Ended] = {}
        self._free = {
            what: programs.memory(f"free_{what}", _FREE.itemsize + 4 * THREADS, 1)
            for what in ("threads", "tables", "pages", "processes", "failures", "paths")
        }
        self.control["next_table"] = self.control["next_process"] = 0
        self.control["next_page"] = sizes.tables
        self.control["next_stack"] = sizes.processes

    def _array(self, name: str, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        self._memory[name] = self._programs.memory(name, dtype.itemsize, count)
        return np.frombuffer(self._memory[name], dtype, count)

    # Of what the kernel side gives out one after the other, as much as is given out and a little more: whatever number
    # we have of one was given out before.

    def _given(self, name: str, given: str, dtype: Any) -> NDArray[Any]:
        memory = self._growing[name].upto(int(self.control[given][0]))
        return np.frombuffer(memory, dtype, self._growing[name].mapped_count)

    @property
    def _pages(self) -> NDArray[np.void]:
        return self._given("page_slots", "next_page", _PAGE)

    @property
    def _numbers(self) -> NDArray[np.void]:
        memory = self._growing["numbers"].upto(int(self.control["next_page"][0]))
        count = self._growing["numbers"].mapped_count * _PAGE_NUMBERS
        return np.frombuffer(memory, _NUMBER, count).reshape(-1, _PAGE_NUMBERS)

    @property
    def _threads(self) -> NDArray[np.void]:
        return self._given("thread_slots", "next_thread", _THREAD)

    @property
    def sites(self) -> NDArray[np.void]:
        """By stack id."""
        return self._given("sites", "next_stack", _SITE)

    @property
    def _site_lifetimes(self) -> NDArray[np.uint32]:
        return self._given("site_lifetimes", "next_stack", np.dtype(("<u4", BUCKETS)))

    @property
    def _failures(self) -> NDArray[np.void]:
        return self._given("failures", "next_failure", _FAILURE)

    @property
    def _path_counts(self) -> NDArray[np.int64]:
        return self._given("path_counts", "next_path", "<i8")

    # --- before it begins -------------------------------------------------------------------------------------------

    def add_process(self, pid: int, table: int | None = None) -> tuple[int, int]:
        """A target, which may share the table of another; gives the slots of the process and of its table."""
        control = self.control[0]
        slot = int(control["next_process"])
        control["next_process"] += 1
        if table is None:
            table = int(control["next_table"])
            control["next_table"] += 1
            self._tables[table]["process"] = slot
        self._processes[slot] = (0, pid, table)
        self._tables[table]["leaders"] += 1
        self.share_process(pid, slot)
        return slot, table

    def share_process(self, pid: int, slot: int) -> None:
        """What a process does with the table of that one is told of that one."""
        processes = self._programs.map("processes", ctypes.c_uint32, ctypes.c_uint32)
        processes.set(ctypes.c_uint32(pid), ctypes.c_uint32(slot))

    def seed(self, table: int, links: Mapping[int, str]) -> None:
        """What is open before anything is seen; `links` as in /proc/PID/fd."""
        for number, fds in itertools.groupby(sorted(links), lambda fd: fd // _PAGE_NUMBERS):
            page = self._page(table, number)
            if page is None:
                return
            entry = self._pages[page]
            for fd in fds:
                entry["was_open"][fd % _PAGE_NUMBERS // 64] |= np.uint64(1 << fd % 64)
                entry["types"][fd % _PAGE_NUMBERS] = code_of_link(links[fd])
        self._tables[table]["open_count"] = self._tables[table]["peak_count"] = len(links)

    def correct(self, table: int, before: Iterable[int], now: Iterable[int]) -> None:
        """Numbers that moved between the first reading and the first event: where no event told of them."""
        was, is_ = set(before), set(now)
        for fd in was ^ is_:
            page = self._page(table, fd // _PAGE_NUMBERS)
            if page is None or int(self._numbers[page][fd % _PAGE_NUMBERS]["life"]) & _IS_KNOWN:
                continue
            self._pages[page]["was_open"][fd % _PAGE_NUMBERS // 64] ^= np.uint64(1 << fd % 64)
            self._tables[table]["open_count"] += 1 if fd in is_ else -1

    def _page(self, table: int, page: int) -> int | None:
        if page == 0:
            self._pages[table]["table"] = table
            return table
        pages = self._programs.map("pages", ctypes.c_uint64, ctypes.c_uint32)
        key = ctypes.c_uint64(table << 32 | page)
        if (known := pages.get(key)) is not None:
            return int(known.value)
        slot = int(self.control["next_page"][0])
        if slot >= self.sizes.pages:
            return None
        self.control["next_page"] += 1
        self._pages[slot]["table"], self._pages[slot]["first"] = table, page * _PAGE_NUMBERS
        pages.set(key, ctypes.c_uint32(slot))
        return slot

    # --- while it goes on -------------------------------------------------------------------------------------------

    def process_slots(self) -> dict[int, int]:
        """PID to slot; of two that had the same PID the later one."""
        count = min(int(self.control["next_process"][0]), self.sizes.processes)
        return {int(pid): slot for slot, pid in enumerate(self._processes["tgid"][:count].tolist()) if pid}

    def pids(self, processes: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The PIDs of slots; 0 for one that is none."""
        known = np.minimum(processes, self.sizes.processes - 1).astype(np.intp)
        return np.where(processes < self.sizes.processes, self._processes["tgid"][known], 0).astype(np.int64)

    def table_of(self, process: int) -> int | None:
        """The slot of a process's table; None where there was no room for it."""
        table = int(self._processes[process]["table"])
        return table if table < self.sizes.tables else None

    def owner_of(self, table: int) -> int:
        """The slot of the process that a table's events are told of."""
        return int(self._tables[table]["process"])

    def has_ended(self, table: int) -> bool:
        """Whether the last process that used a table has ended."""
        return bool(self._tables[table]["ended_ns"])

    def _numbers_of(self, table: int) -> tuple[NDArray[np.int64], NDArray[np.void], NDArray[np.bool_]]:
        """All numbers of its pages, their entries, and which are open."""
        used = min(int(self.control["next_page"][0]), self.sizes.pages)
        more = np.flatnonzero(self._pages["table"][self.sizes.tables : used] == table) + self.sizes.tables
        pages = np.concatenate([[table], more[np.argsort(self._pages["first"][more], kind="stable")]])
        entries = self._numbers[pages].reshape(-1)
        fds = (self._pages["first"][pages].astype(np.int64)[:, None] + np.arange(_PAGE_NUMBERS)).reshape(-1)
        bits = np.ascontiguousarray(self._pages["was_open"][pages]).view(np.uint8)
        was_open = np.unpackbits(bits, bitorder="little").astype(bool).reshape(-1)
        life = entries["life"]
        return fds, entries, np.where(life & _IS_KNOWN, (life & _IS_OPEN) != 0, was_open)

    def state(self, table: int) -> TableState:
        """What is open."""
        fds, entries, is_open = self._numbers_of(table)
        entries = entries[is_open]
        since = (entries["life"] >> _TIME_SHIFT).astype(np.int64) << _TIME_UNIT_SHIFT
        started_ns = int(self.control["started_ns"][0])
        stack = (entries["life"] >> _STACK_SHIFT & _STACK_MASK).astype(np.int64)
        return TableState(
            fds[is_open],
            np.where(since > 0, started_ns + since, 0),
            entries["tid"],
            entries["call"],
            entries["type"],
            np.where(stack < self.sizes.processes, 0, stack),
        )

    def moved_since(self, table: int, at_ns: int) -> set[int]:
        """Numbers that changed at that time or later."""
        fds, entries, _ = self._numbers_of(table)
        return set(fds[entries["moved_ns"] >= at_ns].tolist())

    def unseen(self, table: int) -> tuple[int, int]:
        """How often a number was closed that nobody was seen to open, and opened that nobody was seen to close."""
        owed = self._numbers_of(table)[1]["owed"]
        return int(-owed[owed < 0].sum()), int(owed[owed > 0].sum())

    def open_count(self, table: int) -> int:
        """How many numbers are open."""
        return int(self._tables[table]["open_count"])

    def peak_count(self, table: int) -> int:
        """The most that were open at once."""
        return int(self._tables[table]["peak_count"])

    def end_table(self, table: int, tid: int) -> TableState:
        """The end of a table's last process, by a thread, has closed what was open: counts that, once, and gives it."""
        state = self.state(table)
        process = self.owner_of(table)
        opened = state.opened()
        self._folded[process, tid, "closed"] += len(state.fd)
        before = self._ended.get(process, _Ended(0, np.zeros(0, np.int64)))
        lived = int(self._tables[table]["ended_ns"]) - opened.opened_ns
        self._ended[process] = _Ended(
            before.closed_count + len(state.fd), np.concatenate([before.lifetimes_ns, np.maximum(lived, 0)])
        )
        return state

    def counts(self, process: int) -> tuple[int, int, int]:
        """Opened, closed and failed so far."""
        totals = self._totals[:, process]
        ended = self._ended[process].closed_count if process in self._ended else 0
        return (
            int(totals["opened"].sum()),
            int(totals["closed"].sum()) + ended,
            int(totals["failed"].sum()),
        )

    def totals(self, process: int) -> ProcessTotals:
        """Everything so far."""
        shards = self._totals[:, process].copy()
        lifetimes = shards["lifetimes"].sum(axis=0, dtype=np.int64)
        total_ns, longest_ns = int(shards["lifetime_sum_ns"].sum()), int(shards["lifetime_max_ns"].max())
        closed = shards["closed"].sum(axis=0)
        if (ended := self._ended.get(process)) is not None:
            closed[CODE_EXIT] += ended.closed_count
            lived = ended.lifetimes_ns
            lifetimes += np.bincount(buckets_of(lived), minlength=BUCKETS)
            total_ns += int(lived.sum())
            longest_ns = max(longest_ns, int(lived.max(initial=0)))
        cleared, was_set = shards["close_on_exec"].sum(axis=0).tolist()
        return ProcessTotals(
            opened=shards["opened"].sum(axis=0),
            closed=closed,
            failed=shards["failed"].sum(axis=0),
            sockets=shards["sockets"].sum(axis=0),
            types=shards["types"].sum(axis=0),
            close_on_exec=(cleared, was_set),
            lifetime=summarize(int(lifetimes.sum()), total_ns, longest_ns, lifetimes.tolist(), with_octaves=True),
            path_left_out=int(shards["path_left_out"].sum()),
        )

    def failures(self, process: int) -> tuple[Counter[tuple[str, int]], Counter[tuple[int, int]]]:
        """Counts by call and error number; of EMFILE and ENFILE also by error number and thread."""
        by_call: Counter[tuple[str, int]] = Counter()
        by_thread: Counter[tuple[int, int]] = Counter()
        used = self._failures[: min(int(self.control["next_failure"][0]), FAILURES)]
        for entry in used[(used["process"] == process) & (used["count"] > 0)].tolist():
            _, call, error, tid, _, count = entry
            by_call[CALL_NAMES[call], error] += count
            if tid:
                by_thread[error, tid] += count
        return by_call, by_thread

    def fold_threads(self) -> None:
        """Takes what ended threads did, and gives their slots out again."""
        used = min(int(self.control["next_thread"][0]), THREADS)
        ended = np.flatnonzero(self._threads["has_ended"][:used])
        if not ended.size:
            return
        for entry in self._threads[ended].tolist():
            opened, closed, tid, process, _, _ = entry
            if opened or closed:
                self._folded[process, tid, "opened"] += opened
                self._folded[process, tid, "closed"] += closed
        self._threads[ended] = 0
        self._give_back("threads", ended)

    def _give_back(self, what: str, slots: NDArray[np.intp]) -> None:
        """Lets the kernel give them out again; what was in them is gone by now."""
        head = np.frombuffer(self._free[what], _FREE, 1)
        places = (int(head["given"][0]) + np.arange(len(slots))) % THREADS
        np.frombuffer(self._free[what], "<u4", THREADS, _FREE.itemsize)[places] = slots
        head["given"] += len(slots)

    def release(self, pids: Iterable[int]) -> set[int]:
        """Forgets processes that have ended, and gives the tables that were theirs: all of that is given out again.

        One whose table others use is kept, and so is a table that it shared with its owner.
        """
        self.fold_threads()
        slots = self.process_slots()
        is_used = (self._tables["ended_ns"] == 0) & (self._tables["files"] > 0)
        in_use = set(self._tables["process"][is_used].tolist())
        released = [(pid, slots[pid]) for pid in pids if pid in slots]
        released = [
            (pid, slot)
            for pid, slot in released
            if slot not in in_use and int(self._processes[slot]["state"]) == _HAS_ENDED
        ]
        if not released:
            return set()
        mine = np.array([slot for _, slot in released])
        used = min(int(self.control["next_page"][0]), self.sizes.pages)
        tables = np.flatnonzero(np.isin(self._tables["process"], mine) & (self._tables["ended_ns"] > 0))
        pages = np.flatnonzero(np.isin(self._pages["table"][self.sizes.tables : used], tables)) + self.sizes.tables
        failures = np.flatnonzero(np.isin(self._failures["process"], mine) & (self._failures["count"] > 0))
        paths = np.array([place for place, (slot, _) in self.paths.items() if slot in set(mine.tolist())], np.intp)
        # Nobody finds them any more, then they are emptied, and only then are they given out.
        for pid, _ in released:
            _delete(self._programs.map("processes", ctypes.c_uint32, ctypes.c_uint32), struct.pack("=I", pid))
        for table, first in zip(
            self._pages["table"][pages].tolist(), self._pages["first"][pages].tolist(), strict=True
        ):
            key = struct.pack("=Q", table << 32 | first // _PAGE_NUMBERS)
            _delete(self._programs.map("pages", ctypes.c_uint64, ctypes.c_uint32), key)
        for process, call, error, tid, *_ in self._failures[failures].tolist():
            key = struct.pack("=IHHI", process, call, error, tid)
            _delete(self._programs.map("failure_slots", _FailureKey, ctypes.c_uint32), key)
        self._forget_paths(paths)
        for every in (tables, pages):
            self._numbers[every] = 0
            self._pages[every] = 0
        self._pages["table"][pages] = _NO_TABLE
        self._tables[tables] = 0
        self._totals[:, mine] = 0
        self._failures[failures] = 0
        sites = np.flatnonzero(np.isin(self.sites["process"], mine))
        sites = np.concatenate([mine, sites[sites >= self.sizes.processes]])
        self.sites[sites] = 0
        self.sites["process"][sites] = _NO_TABLE
        self._site_lifetimes[sites[sites < self.sizes.histograms]] = 0
        self._processes[mine] = 0
        gone = set(mine.tolist())
        self._ended = {slot: ended for slot, ended in self._ended.items() if slot not in gone}
        self._folded = Counter({key: count for key, count in self._folded.items() if key[0] not in gone})
        for what, free in (("tables", tables), ("pages", pages), ("failures", failures), ("paths", paths)):
            self._give_back(what, free)
        self._give_back("processes", mine)
        return set(tables.tolist())

    def _forget_paths(self, places: NDArray[np.intp]) -> None:
        if not places.size:
            return
        slots = self._programs.map("path_slots", ctypes.c_uint64, ctypes.c_uint32)
        keys, values = (
            np.frombuffer(all_, dtype) for all_, dtype in zip(slots.read_bytes(), ("<u8", "<u4"), strict=True)
        )
        for key in keys[np.isin(values, places)].tolist():
            _delete(slots, struct.pack("=Q", key))
        self._path_counts[places] = 0
        for place in places.tolist():
            del self.paths[place]

    def threads(self, process: int) -> dict[int, tuple[int, int]]:
        """What each thread opened and closed, by its id."""
        self.fold_threads()
        found = {
            tid: [self._folded[process, tid, "opened"], self._folded[process, tid, "closed"]]
            for slot, tid, _ in self._folded
            if slot == process
        }
        used = self._threads[: min(int(self.control["next_thread"][0]), THREADS)]
        for opened, closed, tid, *_ in used[(used["process"] == process) & (used["tid"] > 0)].tolist():
            if opened or closed:
                counts = found.setdefault(tid, [0, 0])
                counts[0] += opened
                counts[1] += closed
        return {tid: (opened, closed) for tid, (opened, closed) in found.items()}

    def by_path(self, process: int, most: int) -> list[tuple[str, int]]:
        """Paths as the program named them, and how often each was opened, the most frequent first."""
        counts: Counter[str] = Counter()
        for place, (owner, path) in self.paths.items():
            if owner == process:
                counts[path] += int(self._path_counts[place])
        return counts.most_common(most)

    # --- by call site -----------------------------------------------------------------------------------------------

    def site_ids(self, process: int) -> NDArray[np.int64]:
        """Of the stacks that the calls of a process had; the first stands for those that are not known."""
        used = min(int(self.control["next_stack"][0]), self.sizes.stacks)
        sites = self.sites[:used]
        ids = np.flatnonzero((sites["process"] == process) & (sites["opened"] + sites["limit_failed"] > 0))
        unknown = ids < self.sizes.processes
        ids = ids[~unknown]
        mine = self.sites[process]
        return np.concatenate([[process], ids]) if mine["opened"] + mine["limit_failed"] > 0 else ids

    def site_lifetime(self, ids: Collection[int]) -> Latency:
        """Of those that were opened at one of the sites and have ended."""
        which = np.array(list(ids), np.int64)
        counts = self._site_lifetimes[which[which < self.sizes.histograms]].sum(axis=0, dtype=np.int64)
        sites = self.sites[which]
        total, longest = int(sites["lifetime_sum_ns"].sum()), int(sites["lifetime_max_ns"].max(initial=0))
        return summarize(int(counts.sum()), total, longest, counts.tolist())
