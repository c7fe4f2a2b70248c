"""Where CPU time goes: a copy of the stack of whichever traced thread runs, so many times a second of each CPU.

The kernel's software clock ticks on every CPU (perf_event_open(2)); bpf/cpu_samples.bpf.c copies registers and stack of
the traced threads among those that it interrupts. They are unwound here in a thread of its own, as the tracer of
descriptors does with the stacks of calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import queue
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.errors import NotAvailableError
from threadinfo.model import CpuSample, CpuTime, Gap
from threadinfo.trace.debug_files import DebugFiles
from threadinfo.trace.loader import Programs
from threadinfo.trace.ring import RingReader
from threadinfo.trace.site_groups import format_frames
from threadinfo.trace.stack_records import REGISTER_SP, REGISTER_WORDS
from threadinfo.trace.unwinder import Sample, Stack, Unwinder

# Mirrors of bpf/cpu_samples.bpf.c.
_PROCESSES = 4096
_STACK_WORDS = 4 * 4096 // 8
_HEAD_WORDS = 4
_SAMPLE_PAGES = 4096
_CODE_SEGMENT_AT = 17 * 8

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_SOFTWARE, _CPU_CLOCK, _ATTRIBUTE_BYTES = 1, 0, 112  # include/uapi/linux/perf_event.h
_DISABLED, _CLOSE_ON_EXEC = 1, 8
_SET_BPF, _ENABLE = 0x40042408, 0x2400
_MAPS_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_BATCH = 32
_LIBC = ctypes.CDLL(None, use_errno=True)

ReadMaps = Callable[[int], bytes | None]


class _Control(ctypes.Structure):
    _fields_ = (("is_on", ctypes.c_uint64), ("seen_count", ctypes.c_uint64), ("lost_count", ctypes.c_uint64))


class _Copies(NamedTuple):
    """Samples of one process, a row each."""

    pid: int
    tid: NDArray[np.uint32]
    is_kernel: NDArray[np.bool_]
    samples: list[Sample]


def _open_clock(cpu: int, period_ns: int) -> int:
    """The descriptor of a clock that ticks on one CPU; raises OSError."""
    attributes = struct.pack("=IIQQQQQ", _SOFTWARE, _ATTRIBUTE_BYTES, _CPU_CLOCK, period_ns, 0, 0, _DISABLED)
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTE_BYTES)
    number = _PERF_EVENT_OPEN[platform.machine()]
    fd = int(_LIBC.syscall(number, buffer, -1, cpu, -1, ctypes.c_ulong(_CLOSE_ON_EXEC)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


class CpuSampler:
    """Samples the threads of some processes from `start` to `stop`. A context manager: it detaches at its end."""

    def __init__(
        self,
        pids: Iterable[int],
        frequency: int,
        read_maps: ReadMaps,
        open_mapping: Callable[[int, str], int | None],
        debug_files: DebugFiles | None = None,
    ) -> None:
        """Attaches; raises NotAvailableError, with nothing left attached."""
        self.period_ns = round(1e9 / frequency)
        self._read_maps = read_maps
        self._maps: dict[int, tuple[float, bytes]] = {}
        self._counts: dict[tuple[int, int], Counter[tuple[tuple[str, ...], bool]]] = {}
        self._problems: Counter[str] = Counter()
        self._unwound_count = 0
        self._work: queue.SimpleQueue[_Copies | None] = queue.SimpleQueue()
        self.problem: BaseException | None = None
        """What ended the unwinding, which should not happen."""
        with contextlib.ExitStack() as stack:
            self._unwinder = stack.enter_context(Unwinder(open_mapping, debug_files))
            defines = {"PROCESSES": _PROCESSES, "SAMPLE_PAGES": _SAMPLE_PAGES, "PT_REGS_BYTES": 8 * REGISTER_WORDS}
            defines |= {"CODE_SEGMENT_AT": _CODE_SEGMENT_AT, "STACK_POINTER_AT": 8 * REGISTER_SP}
            programs = stack.enter_context(Programs("cpu_samples.bpf.c", defines, []))
            self._traced = programs.map("traced", ctypes.c_uint32, ctypes.c_uint32)
            self._control = _Control.from_buffer(programs.memory("control", ctypes.sizeof(_Control), 1))
            size = _SAMPLE_PAGES * os.sysconf("SC_PAGESIZE")
            words = 1 + _HEAD_WORDS + REGISTER_WORDS + _STACK_WORDS
            self._reader = RingReader(programs.descriptor("samples"), size, words)
            self.add(*pids)
            program = programs.load_for_clock("on_sample")
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

    def __enter__(self) -> CpuSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)
        self._stack.close()

    def add(self, *pids: int) -> None:
        """Samples these processes too."""
        for pid in pids:
            self._traced.set(ctypes.c_uint32(pid), ctypes.c_uint32(1))

    def start(self) -> None:
        """Begins to count."""
        self._control.is_on = 1

    def read(self) -> None:
        """Takes what was copied since the last call, and has it unwound."""
        records = self._reader.read()
        head = records[:, 1 : 1 + _HEAD_WORDS]
        pids = head[:, 0].astype(np.uint32)
        for pid in np.unique(pids).tolist():
            rows = np.flatnonzero(pids == pid)
            for batch in (rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)):
                self._work.put(_copies(pid, records[batch]))

    def stop(self) -> None:
        """Ends counting, and waits until everything is unwound."""
        self._control.is_on = 0
        self.read()
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)

    @property
    def seen_count(self) -> int:
        """Samples of the traced threads."""
        return int(self._control.seen_count)

    @property
    def lost_count(self) -> int:
        """Those that found no room."""
        return int(self._control.lost_count)

    def cpu_times(self) -> dict[int, dict[int, CpuTime]]:
        """By process and thread: what was sampled, the most frequent first."""
        found: dict[int, dict[int, CpuTime]] = {}
        for (pid, tid), counts in self._counts.items():
            samples = tuple(CpuSample(count, stack, is_kernel) for (stack, is_kernel), count in counts.most_common())
            found.setdefault(pid, {})[tid] = CpuTime(samples=samples, sample_period_ns=self.period_ns)
        return found

    def gaps(self) -> list[Gap]:
        """What is not known of the stacks."""
        gaps = []
        if self._problems:
            words, most = self._problems.most_common(1)[0]
            count = sum(self._problems.values())
            gaps.append(Gap("CPU samples", f"{count} of {self._unwound_count} stacks end early; {most}: {words}", None))
        left = self.seen_count - self.lost_count - self._unwound_count
        if left > 0 or self.lost_count:
            gaps.append(Gap("CPU samples", f"{max(left, 0) + self.lost_count} of {self.seen_count} are missing", None))
        return gaps

    def _run(self, has_begun: threading.Event) -> None:
        try:
            try:
                self._read_maps(0)  # what a thread gives up it gives up when it first reads: before anything is copied
            finally:
                has_begun.set()
            while (copies := self._work.get()) is not None:
                self._unwind(copies)
        except BaseException as problem:  # told of by whoever asks: a dead thread must not be silent
            self.problem = problem

    def _unwind(self, copies: _Copies) -> None:
        at, maps = self._maps.get(copies.pid, (0.0, b""))
        if time.monotonic() - at > _MAPS_SECONDS:
            maps = self._read_maps(copies.pid) or maps
            self._maps[copies.pid] = time.monotonic(), maps
        stacks = self._unwinder.unwind(copies.pid, maps, copies.samples) if maps else [_UNREADABLE] * len(copies.tid)
        for tid, is_kernel, stack in zip(copies.tid.tolist(), copies.is_kernel.tolist(), stacks, strict=True):
            self._unwound_count += 1
            if stack.problem:
                self._problems[stack.problem] += 1
            self._counts.setdefault((copies.pid, tid), Counter())[format_frames(stack.frames), is_kernel] += 1


_UNREADABLE = Stack((), False, "the process had ended before its memory map was read")


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
    registers = records[:, 1 + _HEAD_WORDS : 1 + _HEAD_WORDS + REGISTER_WORDS]
    stacks = records[:, 1 + _HEAD_WORDS + REGISTER_WORDS :]
    tids = (head[:, 0] >> half).astype(np.uint32)
    lengths = head[:, 1].astype(np.uint32)
    samples = [
        Sample(int(tid), registers[index].tobytes(), stacks[index].tobytes()[: int(lengths[index])])
        for index, tid in enumerate(tids)
    ]
    return _Copies(pid, tids, (head[:, 1] >> half).astype(bool), samples)
