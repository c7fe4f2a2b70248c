"""Where CPU time goes: a copy of the stack of whichever traced thread runs, so many times a second of each CPU.

The kernel's software clock ticks on every CPU (perf_event_open(2)); bpf/cpu.bpf.c copies registers and stack of
the traced threads among those that it interrupts. They are unwound here in a thread of its own, as the tracer of
descriptors does with the stacks of calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import platform
import queue
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from threadinfo.containment import note_fault
from threadinfo.errors import NotAvailableError
from threadinfo.model import Confidence, CpuSample, CpuTime, Gap
from threadinfo.trace.kernel.machine import cpu_count
from threadinfo.trace.kernel.privileges import given_up_by_others
from threadinfo.trace.kernel.ring import RingReader
from threadinfo.trace.kernel.symbols import KernelSymbolFile
from threadinfo.trace.session.program_tracer import ProgramTracer
from threadinfo.trace.session.target import TraceOptions, TraceTarget
from threadinfo.trace.stacks.records import REGISTER_SP, REGISTER_WORDS
from threadinfo.trace.stacks.shared_unwinder import SharedUnwinder
from threadinfo.trace.stacks.site_groups import format_frames
from threadinfo.trace.stacks.unwinder import Sample, Stack

# Mirrors of bpf/cpu.bpf.c.
_STACK_WORDS = 4 * 4096 // 8
_HEAD_WORDS = 4
_KERNEL_FRAMES = 32
_RECORD_BYTES = 8 * (_STACK_WORDS + _HEAD_WORDS + _KERNEL_FRAMES + REGISTER_WORDS)
_BUFFERED_SECONDS = 0.2  # of every CPU's samples
_LEAST_PAGES, _MOST_PAGES = 1 << 8, 1 << 14
_CODE_SEGMENT_AT = 17 * 8

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_SOFTWARE, _CPU_CLOCK, _ATTRIBUTE_BYTES = 1, 0, 112  # include/uapi/linux/perf_event.h
_DISABLED, _CLOSE_ON_EXEC = 1, 8
_SET_BPF, _ENABLE = 0x40042408, 0x2400
_MAPS_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_BATCH = 32
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Counts(ctypes.Structure):
    _fields_ = (("seen", ctypes.c_uint64), ("lost", ctypes.c_uint64))


class _Copies(NamedTuple):
    """Samples of one process, a row each."""

    pid: int
    tid: NDArray[np.uint32]
    is_kernel: NDArray[np.bool_]
    kernel_addresses: list[tuple[int, ...]]
    """Innermost first; empty where the thread was in user mode."""
    samples: list[Sample]


class _Way(NamedTuple):
    """Samples that are counted together."""

    stack: tuple[str, ...]
    is_kernel: bool
    kernel_addresses: tuple[int, ...]


def _open_clock(cpu: int, period_ns: int) -> int:
    """The descriptor of a clock that ticks on one CPU; raises OSError."""
    attributes = struct.pack("=IIQQQQQ", _SOFTWARE, _ATTRIBUTE_BYTES, _CPU_CLOCK, period_ns, 0, 0, _DISABLED)
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTE_BYTES)
    number = _PERF_EVENT_OPEN[platform.machine()]
    fd = int(_LIBC.syscall(number, buffer, -1, cpu, -1, ctypes.c_ulong(_CLOSE_ON_EXEC)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


class CpuActivity(msgspec.Struct, frozen=True):
    """Where the time of one process's threads on CPUs went, by thread id."""

    threads: dict[int, CpuTime]


class CpuTracer(ProgramTracer):
    """Samples the threads of some processes."""

    name = "CPU samples"
    source = "cpu.bpf.c"
    tracepoints: ClassVar = {}
    settle_seconds = 0.0

    def __init__(self, target: TraceTarget, options: TraceOptions) -> None:
        if platform.machine() != "x86_64":
            raise NotAvailableError(f"stacks are not unwound on {platform.machine()} yet", None)
        self.period_ns = round(1e9 / options.frequency)
        self._page_count = _buffer_pages(options.frequency)
        self._read_maps = given_up_by_others(target.maps)
        self._maps: dict[int, tuple[float, bytes]] = {}
        self._stacks: dict[tuple[int, int], Counter[_Way]] = {}
        self._kernel_names: dict[int, str] = {}
        self._problems: Counter[str] = Counter()
        self._unwound_count = 0
        self._work: queue.SimpleQueue[_Copies | None] = queue.SimpleQueue()
        self._problem: BaseException | None = None
        super().__init__(target, options)
        with contextlib.ExitStack() as stack:
            stack.callback(self.programs.close)
            own = SharedUnwinder(target.open_mapping, target.perf_map, options.debuginfod)
            self._unwinder = options.unwinder or stack.enter_context(own)
            self._unwinder.start()
            self._symbol_file = KernelSymbolFile()
            stack.callback(self._symbol_file.close)
            self._counts = _Counts.from_buffer(self.programs.memory("counts", ctypes.sizeof(_Counts), 1))
            words = 1 + _HEAD_WORDS + _KERNEL_FRAMES + REGISTER_WORDS + _STACK_WORDS
            self._reader = RingReader(self.programs.descriptor("samples"), self._page_count * mmap.PAGESIZE, words)
            program = self.programs.load_for_clock("on_sample")
            for cpu in _online_cpus():
                try:
                    clock = _open_clock(cpu, self.period_ns)
                    stack.callback(os.close, clock)
                    fcntl.ioctl(clock, _SET_BPF, program)
                    fcntl.ioctl(clock, _ENABLE, 0)
                except OSError as problem:
                    raise NotAvailableError(
                        f"the kernel does not let us sample CPU {cpu}: {problem.strerror}",
                        "threadinfo doctor says what this host allows",
                    ) from None
            has_begun = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(has_begun,), name="cpu samples", daemon=True)
            self._thread.start()
            has_begun.wait()
            self._stack = stack.pop_all()

    def defines(self) -> Mapping[str, int | str]:
        """Of its C file, beside those of processes."""
        registers = {"PT_REGS_BYTES": 8 * REGISTER_WORDS, "CODE_SEGMENT_AT": _CODE_SEGMENT_AT}
        sizes = {"SAMPLE_PAGES": self._page_count, "KERNEL_FRAMES": _KERNEL_FRAMES}
        return {**registers, "STACK_POINTER_AT": 8 * REGISTER_SP, **sizes}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)
        self._stack.close()

    def read(self) -> None:
        """Takes what was copied since the last call, and has it unwound."""
        records = self._reader.read()
        head = records[:, 1 : 1 + _HEAD_WORDS]
        pids = head[:, 0].astype(np.uint32)
        for pid in sorted(set(pids.tolist())):
            rows = np.flatnonzero(pids == pid)
            for batch in (rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)):
                self._work.put(_copies(pid, records[batch]))

    def stop(self) -> None:
        """Ends counting."""
        super().stop()
        self.read()

    def conclude(self) -> None:
        """Waits until everything is unwound."""
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)
        seen, lost = int(self._counts.seen), int(self._counts.lost)
        if self._problems:
            words, _ = self._problems.most_common(1)[0]
            early = f"{self._problems.total()} of {self._unwound_count} stacks end early"
            self.gaps.append(Gap(self.name, f"{early}; mostly: {words}", None))
        if (left := max(0, seen - lost - self._unwound_count) + lost) > 0:
            self.gaps.append(Gap(self.name, f"{left} of {seen} are missing", None))
        self._name_kernel_functions()
        if self._problem:
            note_fault(self.name, self._problem, self.gaps)

    def activity(self, pid: int) -> CpuActivity:
        """What was sampled of a process, the most frequent first."""
        found = {}
        for (of, tid), counts in self._stacks.items():
            if of == pid:
                named: Counter[tuple[tuple[str, ...], bool, tuple[str, ...]]] = Counter()
                for way, count in counts.items():
                    named[way.stack, way.is_kernel, self._kernel_stack(way.kernel_addresses)] += count
                samples = tuple(CpuSample(count, *way) for way, count in named.most_common())
                found[tid] = CpuTime(samples=samples, sample_period_ns=self.period_ns)
        return CpuActivity(found)

    def _kernel_stack(self, addresses: tuple[int, ...]) -> tuple[str, ...]:
        """Empty where no function of it has a name; one without is told as such among others."""
        names = [self._kernel_names.get(address) for address in addresses]
        return tuple(name or _NAMELESS for name in names) if any(names) else ()

    def _name_kernel_functions(self) -> None:
        """Once, at the end: the table is large, and what is asked of it is little."""
        # A way may still be added where the thread could not be waited for: a copy, made at once.
        ways = [way for counts in list(self._stacks.values()) for way in list(counts)]
        addresses = {address for way in ways for address in way.kernel_addresses}
        if not addresses:
            return
        try:
            symbols = self._symbol_file.read()
        except NotAvailableError as problem:
            self.gaps.append(Gap(self.name, f"functions of the kernel have no names: {problem}", problem.remedy))
            return
        self._kernel_names = {address: name for address in addresses if (name := symbols.name(address))}

    def confidence(self) -> Confidence:
        """The accounts so far."""
        return Confidence(
            seen_count=int(self._counts.seen),
            lost_count=int(self._counts.lost),
            map_full_count=0,
            missed_count=self.statistics().missed_count,
            program_ns_per_event=None,
            tool_cpu_seconds=time.process_time(),
        )

    def _run(self, has_begun: threading.Event) -> None:
        try:
            try:
                self._read_maps(0)  # what a thread gives up it gives up when it first reads: before anything is copied
            finally:
                has_begun.set()
            while (copies := self._work.get()) is not None:
                self._unwind(copies)
        except BaseException as problem:  # told of by whoever asks: a dead thread must not be silent
            self._problem = problem

    def _unwind(self, copies: _Copies) -> None:
        at, maps = self._maps.get(copies.pid, (0.0, b""))
        if time.monotonic() - at > _MAPS_SECONDS:
            maps = self._read_maps(copies.pid) or maps
            self._maps[copies.pid] = time.monotonic(), maps
        stacks = self._unwinder.unwind(copies.pid, maps, copies.samples) if maps else [_UNREADABLE] * len(copies.tid)
        rows = zip(copies.tid.tolist(), copies.is_kernel.tolist(), copies.kernel_addresses, stacks, strict=True)
        for tid, is_kernel, kernel_addresses, stack in rows:
            self._unwound_count += 1
            if stack.problem:
                self._problems[stack.problem] += 1
            way = _Way(format_frames(stack.frames), is_kernel, kernel_addresses)
            self._stacks.setdefault((copies.pid, tid), Counter())[way] += 1


_NAMELESS = "not known [kernel]"
_UNREADABLE = Stack((), False, "the process had ended before its memory map was read")


def _buffer_pages(frequency: int) -> int:
    """Of the ring buffer: a power of two."""
    needed = frequency * cpu_count() * _BUFFERED_SECONDS * _RECORD_BYTES / mmap.PAGESIZE
    return max(_LEAST_PAGES, min(_MOST_PAGES, 1 << (int(needed) - 1).bit_length()))


def _online_cpus() -> Iterator[int]:
    """cpu(7): the numbers in /sys/devices/system/cpu/online."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            ranges = [part.split("-") for part in file.read().strip().split(",")]
    except OSError as problem:
        raise NotAvailableError(f"cannot read which CPUs are online: {problem.strerror}", None) from None
    for numbers in ranges:
        yield from range(int(numbers[0]), int(numbers[-1]) + 1)


def _copies(pid: int, records: NDArray[np.uint64]) -> _Copies:
    """`records`: rows of words with the buffer's header."""
    half = np.uint64(32)
    head = records[:, 1 : 1 + _HEAD_WORDS]
    kernel_at = 1 + _HEAD_WORDS
    registers_at = kernel_at + _KERNEL_FRAMES
    registers = records[:, registers_at : registers_at + REGISTER_WORDS]
    stacks = records[:, registers_at + REGISTER_WORDS :]
    kernel_addresses = [tuple(itertools.takewhile(bool, row)) for row in records[:, kernel_at:registers_at].tolist()]
    tids = (head[:, 0] >> half).astype(np.uint32)
    lengths = head[:, 1].astype(np.uint32)
    samples = [
        Sample(int(tid), registers[index].tobytes(), stacks[index].tobytes()[: int(lengths[index])])
        for index, tid in enumerate(tids)
    ]
    return _Copies(pid, tids, (head[:, 1] >> half).astype(bool), kernel_addresses, samples)
