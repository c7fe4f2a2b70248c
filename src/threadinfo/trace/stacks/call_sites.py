"""Finds out where the program made its calls: the frames behind the numbers that events carry.

Unwinding costs a fraction of a millisecond, so it is done once for every way that leads to a call, in a thread of its
own; how far each frame's return address lies from where the frame begins is learnt from it and taught to the program
in the kernel, which walks known frames itself (bpf/lib/stacks.h). A frame of which two stacks say different
things, for example of a function that calls alloca(3), is walked by nobody: it ends the way.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.stacks.records import (
    IS_END,
    IS_OUTERMOST,
    IS_PROGRAM,
    IS_ROOT,
    MOST_STACKS,
    REGISTER_IP,
    REGISTER_WORDS,
    CopiedStacks,
    StackReader,
)
from threadinfo.trace.stacks.unwinder import Frame, Sample, Stack

_FIRST_ALLOWANCE, _MOST_WAITING = 16_384, 8_192
_TRICKLE = 8
_CLOSE_SECONDS = 15.0
_SHOWN_PROBLEMS = 10
_WARMED_FILES = 8
_BATCH = 64
_WORD = 8
_LARGEST_STEP = 1 << 20
_MOST_WALKED = 64
_MIX = np.uint64(0x9E3779B97F4A7C15)

_UNREADABLE = Stack((), False, "the process had ended before its memory map was read")

ReadMaps = Callable[[int], bytes | None]
"""Gives /proc/PID/maps; None where the process has ended."""


class Unwinds(Protocol):
    """What is needed of an unwinder."""

    def unwind(self, pid: int, maps: bytes, samples: Sequence[Sample]) -> list[Stack]:
        """The stacks, in the order of the samples."""


class _Learnt(NamedTuple):
    step: int
    flags: int


class _Image:
    """One program in one process: from an exec to the next."""

    def __init__(self, pid: int, exec_id: int) -> None:
        self.pid, self.exec_id = pid, exec_id
        self.learnt: dict[int, _Learnt] = {}
        self.stacks: dict[int, int] = {}
        """The stack's place in `CallSites` by the hash of the addresses that can be walked."""
        self.maps = b""

    def walk(self, copies: CopiedStacks) -> NDArray[np.uint64]:
        """A hash of the addresses of each stack's frames, as far as those are known and lie within."""
        walkable = {pc: learnt.step for pc, learnt in self.learnt.items() if not learnt.flags & IS_END}
        known = np.array(sorted(walkable), np.uint64)
        steps = np.array([walkable[pc] for pc in sorted(walkable)], np.int64)
        pc = copies.ip().copy()
        at = np.zeros(len(pc), np.int64)
        way = np.zeros(len(pc), np.uint64)
        rows = np.arange(len(pc))
        for _ in range(_MOST_WALKED):
            way[rows] = (way[rows] ^ pc[rows]) * _MIX
            way[rows] ^= way[rows] >> np.uint64(32)
            if not known.size:
                break
            place = np.minimum(np.searchsorted(known, pc[rows]), len(known) - 1)
            goes_on = known[place] == pc[rows]
            rows, place = rows[goes_on], place[goes_on]
            at[rows] += steps[place]
            rows = rows[at[rows] + _WORD <= copies.length[rows]]
            if not rows.size:
                break
            pc[rows] = copies.stack[rows, at[rows] // _WORD]
            at[rows] += _WORD
        return way


class CallSites:
    """The stacks behind the numbers. Close it: a thread works for it."""

    def __init__(self, unwinder: Unwinds, read_maps: ReadMaps, pids: Iterable[int]) -> None:
        """Begins to read how the code of the processes is to be unwound, so that it is known when stacks come."""
        self._unwinder, self._read_maps, self._pids = unwinder, read_maps, tuple(pids)
        self._reader: StackReader | None = None
        self._allow: Callable[[int], None] | None = None
        self._images: dict[tuple[int, int], _Image] = {}
        self._stacks: list[Stack] = []
        self._stack_of = np.full(MOST_STACKS, -1, np.int32)
        self._work: queue.SimpleQueue[Sequence[CopiedStacks] | frozenset[int] | None] = queue.SimpleQueue()
        self._done_count = 0
        self._problems: Counter[str] = Counter()
        self._is_closed = False
        self._unwind_ns = 0
        self.copied_count = 0
        self.unwound_count = 0
        self.complete_count = 0
        self.problem: BaseException | None = None
        """What ended the thread, which should not happen."""
        self._thread = threading.Thread(target=self._run, args=(self._pids,), name="call sites", daemon=True)
        self._thread.start()

    def attach(self, reader: StackReader, allow_copies: Callable[[int], None]) -> None:
        """Begins to take copies."""
        for pid in self._pids:
            for first, end in _code_ranges((self._read_maps(pid) or b"").splitlines()):
                reader.add_code(first, end)
        self._reader, self._allow = reader, allow_copies
        self._allow(_FIRST_ALLOWANCE)

    def read(self) -> None:
        """Takes what was copied since the last call, and allows more, the less the more of it waits."""
        if self._reader is None or self._allow is None:
            return
        copies = self._reader.read()
        if copies:
            self.copied_count += sum(len(some.number) for some in copies)
            self._work.put(copies)
        allowance = min(_MOST_WAITING - self.waiting_count(), MOST_STACKS - self.copied_count)
        if self._reader.untaught_count:  # what is not taught is copied again and again
            allowance = min(allowance, _TRICKLE)
        if self.copied_count:
            self._allow(max(0, allowance))

    def forget(self, pids: Iterable[int]) -> None:
        """No more stacks of these processes come; what is known stays known."""
        self._work.put(frozenset(pids))

    def waiting_count(self) -> int:
        """Of the copies, those whose stacks will be known later."""
        return self.copied_count - self._done_count if self._thread.is_alive() else 0

    def finish(self, seconds: float) -> None:
        """Ends the thread: what is not unwound by then stays unknown."""
        self.read()
        if self._allow:
            self._allow(0)
        self._work.put(None)
        self._thread.join(seconds)
        self._is_closed = True

    def close(self) -> None:
        """Ends the thread. One that a file of the target's holds up, on a file system that does not answer, is left."""
        self._is_closed = True
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def stack(self, number: int) -> Stack | None:
        """What is known of a number by now."""
        place = int(self._stack_of[number]) if 0 < number < MOST_STACKS else -1
        return self._stacks[place] if place >= 0 else None

    def problems(self) -> dict[str, int]:
        """Why stacks end early, and how many do, most first; what comes after the tenth is left out."""
        counts = self._problems.copy()
        if self.problem is not None:
            counts[f"unwinding ended: {self.problem!r}"] += 1
        return dict(counts.most_common(_SHOWN_PROBLEMS))

    def unwind_ns_per_stack(self) -> int | None:
        """None before the first."""
        return self._unwind_ns // self.unwound_count if self.unwound_count else None

    def _run(self, pids: Sequence[int]) -> None:
        try:
            for pid in pids:
                self._warm_up(pid)
            while (copies := self._work.get()) is not None:
                if isinstance(copies, frozenset):
                    self._images = {key: image for key, image in self._images.items() if key[0] not in copies}
                    continue
                for some in copies:
                    self._resolve(some)
                    self._done_count += len(some.number)
        except BaseException as problem:  # shown by whoever asks: a dead thread must not be silent
            self.problem = problem
            if self._allow:
                self._allow(0)

    def _warm_up(self, pid: int) -> None:
        """Asks for a frame in each of the first files, from a stack that is made up: it is then ready for real ones."""
        maps = _maps_of_code(self._read_maps(pid) or b"")
        samples = []
        of_files = [line for line in maps.splitlines() if len(line.split(None, 5)) == 6]
        for first, _ in [*_code_ranges(of_files)][:_WARMED_FILES]:
            registers = np.zeros(REGISTER_WORDS, np.uint64)
            registers[REGISTER_IP] = first
            samples.append(Sample(pid, registers.tobytes(), bytes(_WORD)))
        if samples and not self._is_closed:
            self._unwinder.unwind(pid, maps, samples)

    def _resolve(self, copies: CopiedStacks) -> None:
        programs = copies.pid.astype(np.uint64) << np.uint64(32) | copies.exec_id
        for program in sorted(set(programs.tolist())):
            key = (program >> 32, program & 0xFFFFFFFF)
            image = self._images.setdefault(key, _Image(*key))
            pending = copies.take(programs == program)
            while len(pending.number) and not self._is_closed:
                pending = self._resolve_some(image, pending)

    def _resolve_some(self, image: _Image, copies: CopiedStacks) -> CopiedStacks:
        """Unwinds one of each way that is not known; gives the others, of which more may be known then."""
        ways, first, which = np.unique(image.walk(copies), return_index=True, return_inverse=True)
        places = np.array([self._place(image, way, copies) for way in ways.tolist()], np.int32)
        numbers = np.minimum(copies.number, MOST_STACKS - 1)
        is_known = places[which] >= 0
        self._stack_of[numbers[is_known]] = places[which[is_known]]
        chosen = first[places < 0][:_BATCH]
        if chosen.size:
            self._unwind(image, copies.take(chosen))
        is_left = ~is_known
        is_left[chosen] = False
        return copies.take(is_left)

    def _place(self, image: _Image, way: int, copies: CopiedStacks) -> int:
        """The place of the stack of a way; -1 where there is none, or a long copy may tell more."""
        place = image.stacks.get(way, -1)
        return place if place < 0 or not copies.is_long or self._stacks[place].is_complete else -1

    def _unwind(self, image: _Image, copies: CopiedStacks) -> None:
        began_ns = time.monotonic_ns()
        self._read_image_maps(image)
        samples = [
            Sample(int(tid), registers.tobytes(), stack.tobytes()[:length])
            for tid, registers, stack, length in zip(
                copies.tid, copies.registers, copies.stack, copies.length.tolist(), strict=True
            )
        ]
        stacks = [_UNREADABLE] * len(samples)
        if image.maps:
            stacks = self._unwinder.unwind(image.pid, image.maps, samples)
        begins = copies.sp().tolist()
        for begin, length, number, stack in zip(
            begins, copies.length.tolist(), copies.number.tolist(), stacks, strict=True
        ):
            self.unwound_count += 1
            self.complete_count += stack.is_complete
            self._stacks.append(stack)
            self._stack_of[min(number, MOST_STACKS - 1)] = len(self._stacks) - 1
            if stack.problem and (copies.is_long or not stack.is_cut):  # a short one is meant to end early
                self._problems[stack.problem] += 1
            self._learn(image, begin, length, stack, is_long=copies.is_long)
        for way, place in zip(image.walk(copies).tolist(), range(-len(stacks), 0), strict=True):
            image.stacks[way] = len(self._stacks) + place
        self._unwind_ns += time.monotonic_ns() - began_ns

    def _read_image_maps(self, image: _Image) -> None:
        maps = self._read_maps(image.pid)
        if maps is None or (maps := _maps_of_code(maps)) == image.maps:
            return
        gone = [*_code_ranges(set(image.maps.splitlines()) - set(maps.splitlines()))]
        for first, end in _code_ranges(set(maps.splitlines()) - set(image.maps.splitlines())):
            if self._reader:
                self._reader.add_code(first, end)
        image.maps = maps
        for pc, known in image.learnt.items():
            if any(first <= pc < end for first, end in gone):  # other code may come to lie there
                self._teach(image, pc, known._replace(flags=known.flags | IS_END))
        if gone:
            image.stacks.clear()

    def _learn(self, image: _Image, begin: int, length: int, stack: Stack, *, is_long: bool) -> None:
        """How far from each frame's beginning its return address lies."""
        end = begin + length
        places = range(len(stack.frames))
        root = next((index for index in places if _is_start(stack.frames[index:])), None)
        for index, frame in enumerate(stack.frames):
            is_last = index == len(stack.frames) - 1
            flags = 0 if frame.is_library_code else IS_PROGRAM
            if root is not None and index == root - 1 and stack.is_complete:
                flags |= IS_ROOT
            step = 0
            if is_last and stack.is_complete:
                flags |= IS_END | IS_OUTERMOST
            elif not _is_step(frame, begin):
                if is_last and stack.is_cut and not is_long:
                    return  # a longer copy may tell more
                flags |= IS_END
            else:
                step = (frame.slot or 0) - begin
                if is_last or begin + step + _WORD > end:
                    flags |= IS_END
                begin += step + _WORD
            self._note(image, frame, _Learnt(step, flags))
            if flags & IS_END:
                return

    def _note(self, image: _Image, frame: Frame, found: _Learnt) -> None:
        known = image.learnt.get(frame.address)
        if known is None:
            self._teach(image, frame.address, found)
        elif known.step != found.step and not known.flags & IS_END:
            self._teach(image, frame.address, known._replace(flags=known.flags | IS_END))

    def _teach(self, image: _Image, pc: int, learnt: _Learnt) -> None:
        image.learnt[pc] = learnt
        if self._reader:
            self._reader.teach(image.pid, image.exec_id, pc, learnt.step, learnt.flags)


def _is_start(frames: Sequence[Frame]) -> bool:
    """Whether all of these are the C library's, which started the thread."""
    return all(frame.is_library_code or frame.function == "_start" for frame in frames)


def _is_step(frame: Frame, begin: int) -> bool:
    if frame.slot is None or frame.is_signal_frame:
        return False
    return 0 <= frame.slot - begin < _LARGEST_STEP and (frame.slot - begin) % _WORD == 0


def _maps_of_code(maps: bytes) -> bytes:
    """The lines of code, and of files that have code mapped: what the process maps besides comes and goes."""
    lines = [line.split(None, 5) for line in maps.splitlines()]
    files = {line[5] for line in lines if len(line) == 6 and b"x" in line[1]} - {b"[vsyscall]"}
    kept = [line for line in lines if (line[5] in files if len(line) == 6 else len(line) == 5 and b"x" in line[1])]
    return b"".join(b" ".join(line) + b"\n" for line in kept)


def _code_ranges(lines: Iterable[bytes]) -> Iterable[tuple[int, int]]:
    for line in lines:
        addresses, permissions = line.split(None, 2)[:2]
        if b"x" in permissions:
            first, _, end = addresses.partition(b"-")
            yield int(first, 16), int(end, 16)
