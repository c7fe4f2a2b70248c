"""User stacks: copies of registers and stack tops to frames with names, by a child that the target's files may crash.

The kernel cannot walk the stacks of programs without frame pointers, so BPF copies registers and the top of the stack,
and libdw unwinds them afterwards from the unwind tables in the ELF files. Those files are the target's: the child
(child.py) that parses them can do nothing else, is believed nothing unchecked, and is stopped when it hangs.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from threadinfo.errors import NotAvailableError
from threadinfo.trace.stacks import messages as message
from threadinfo.trace.stacks.code_layout import (
    VDSO,
    CodeLayout,
    Module,
    parse_layout,
)
from threadinfo.trace.stacks.debug_files import DebugFiles
from threadinfo.trace.stacks.frames import Frame, Place, Sample, Stack, make_stack, parse_place, why_not
from threadinfo.trace.stacks.libdw import Libraries

__all__ = ["Counters", "Frame", "Sample", "Stack", "Unwinder"]

_SECONDS_PER_STACK = 2.0
"""The longest that one stack may take, its files' first reading included."""
_SECONDS_PER_BATCH, _SECONDS_PER_SAMPLE = 10.0, 0.02
_SECONDS_TO_START = 5.0
_SECONDS_TO_END = 1.0
_MAX_RESTARTS = 5  # a batch
_SUSPICIONS = 2  # until a file is not given to the child any more
_MAX_SPACES = 16
_MAX_MODULES = 4000  # what a message holds
_MAX_PLACES_BYTES = 64 << 20
_MAX_DEBUG_FILES = 200  # that a child holds open (confinement.py)


class Counters(msgspec.Struct):
    """What the unwinder has done so far."""

    stacks: int = 0
    complete: int = 0
    failures: int = 0
    """Stacks without a frame."""
    restarts: int = 0
    """Children that had to be replaced."""
    seconds: float = 0.0
    """Spent in `unwind`, waiting for the child included."""


class _StoppedError(Exception):
    """The child crashed, hung or talked nonsense: the reason, in words."""


class _Starter:
    """A fresh interpreter that starts children. What confining one takes, this process need not keep for it.

    Raises OSError where it cannot be. When the thread that made it ends, its children are killed.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = str(Path(__file__).resolve().parents[3])
        program = f"import sys; sys.path.append({source!r}); from threadinfo.trace.stacks.child import main; main()"
        options = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, *options, "-c", program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,  # an interrupt from the terminal is its parent's to answer
            )
        except OSError:
            self._control.close()
            raise
        finally:
            theirs.close()

    def start(self, channel: socket.socket, memory: int) -> int:
        """The PID of a new child of ours, which is given both. Raises OSError, _StoppedError."""
        descriptors = array.array("i", [channel.fileno(), memory])
        self._control.settimeout(_SECONDS_TO_START)
        try:
            self._control.sendmsg([b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            answer = self._control.recv(4)
        except (ConnectionError, TimeoutError):
            answer = b""
        if len(answer) != 4:
            raise _StoppedError("the unwinder did not start")
        (pid,) = struct.unpack("=i", answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)

    def close(self) -> None:
        """Ends it; its children live on."""
        self._control.close()
        self._process.kill()
        self._process.wait()


class _ChildProcess:
    """A running child and what it has been told. Raises _StoppedError or OSError when it does not start."""

    def __init__(self, starter: _Starter) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.spaces: OrderedDict[object, int] = OrderedDict()
        self.next_space = 0
        self.places: dict[int, Place] = {}
        self.places_bytes = 0
        self.debug_file_count = 0
        self.has_no_room = False
        self.spent_seconds = 0.0
        self.held: frozenset[str] = frozenset()
        self._memory = os.memfd_create("threadinfo-suspect", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(self._memory, message.SUSPECT.pack(-1))
            fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            with theirs:
                self.pid = starter.start(theirs, self._memory)
            self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.channel.close()
            os.close(self._memory)
            raise
        self._code: int | None = None
        try:
            try:
                data = self.receive(time.monotonic() + _SECONDS_TO_START)
            except TimeoutError:
                raise _StoppedError(f"the unwinder did not start within {_SECONDS_TO_START:g} s") from None
            if data[:1] != message.READY:
                raise _StoppedError("the unwinder did not start")
            self.held = frozenset(data[1:].decode("ascii", "replace").split())
            if "seccomp" not in self.held:
                raise _StoppedError("the unwinder could not be confined")
        except BaseException:
            self.close()
            raise

    def receive(self, deadline: float) -> bytes:
        """A message; raises TimeoutError at the deadline (CLOCK_MONOTONIC), _StoppedError when none can come."""
        try:
            data = self.channel.recv(message.MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            poller = select.poll()
            poller.register(self.channel, select.POLLIN)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError from None
            return self.receive(deadline)
        except ConnectionError:
            data = b""
        if not data:
            raise _StoppedError(self._why_it_ended())
        if data[:1] == message.FAILED:
            raise _StoppedError(f"the unwinder failed ({data[1:201].decode('utf-8', 'backslashreplace')})")
        return data

    def _why_it_ended(self) -> str:
        code = self._wait(1.0)
        if code is None:
            return "the unwinder closed its socket"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"the unwinder crashed ({signal.Signals(-code).name})"
        return f"the unwinder ended (status {code})"

    def _wait(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal; None where it has none after so many seconds."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if self._code is None and poller.poll(1000 * seconds):
            try:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # SIGCHLD is ignored: the kernel has waited for it
                self._code = 0
        return self._code

    def send(self, data: bytes, descriptor: int | None = None) -> None:
        ancillary = []
        if descriptor is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self.channel.sendmsg([data], ancillary)
        except OSError:
            raise _StoppedError(self._why_it_ended()) from None

    def suspect(self, modules: Sequence[Module]) -> Module | None:
        """The module that it looked into last."""
        (index,) = message.SUSPECT.unpack(os.pread(self._memory, message.SUSPECT.size, 0))
        return modules[index] if 0 <= index < len(modules) else None

    def renew_cpu_time(self, seconds: float) -> None:
        """Allows that much more CPU time: a bound for the case that this process cannot stop it any more."""
        bounds = int(self.spent_seconds + seconds) + 5, resource.RLIM_INFINITY
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(self.pid, resource.RLIMIT_CPU, bounds)

    def is_full(self) -> bool:
        """Whether a new one, with nothing remembered, does better."""
        is_wordy = self.places_bytes > _MAX_PLACES_BYTES // 2
        return is_wordy or self.has_no_room or self.debug_file_count > _MAX_DEBUG_FILES // 2

    def close(self) -> None:
        self.channel.close()
        os.close(self._memory)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # without CAP_KILL: it is another user's by now
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._wait(_SECONDS_TO_END)
        os.close(self._pidfd)


class Unwinder:
    """Unwinds samples; use as a context manager. When the thread that made it ends, the kernel kills the child.

    `open_mapping` is given a PID and START-END of a mapping, a name in /proc/PID/map_files. It returns a descriptor of
    the file that is mapped there, open for reading, which is closed here, or None where it cannot.

    Raises NotAvailableError where libdw is missing or the machine is not x86_64.
    """

    def __init__(self, open_mapping: Callable[[int, str], int | None], debug_files: DebugFiles | None = None) -> None:
        if platform.machine() != "x86_64":
            raise NotAvailableError(f"stacks are unwound on x86_64 only, and this is {platform.machine()}")
        Libraries()
        self.counters = Counters()
        self._open_mapping = open_mapping
        self._debug_files = debug_files or DebugFiles()
        self._child: _ChildProcess | None = None
        self._starter: _Starter | None = None
        self._start_problem: OSError | None = None
        try:
            self._starter = _Starter()
        except OSError as problem:
            self._start_problem = problem
        self._layouts: dict[int, tuple[bytes, CodeLayout]] = {}
        self._suspicions: Counter[bytes] = Counter()

    def __enter__(self) -> Unwinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child; may be called twice."""
        self._stop()
        if self._starter is not None:
            self._starter.close()
            self._starter = None

    def _start_child(self) -> _ChildProcess:
        """A child that is ready; raises _StoppedError where there cannot be one."""
        problem = self._start_problem
        try:
            if self._starter is not None:
                return _ChildProcess(self._starter)
        except OSError as failure:
            problem = failure
        raise _StoppedError(f"the unwinder cannot be started ({problem.strerror if problem else 'it was closed'})")

    def _stop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    @property
    def child_pid(self) -> int | None:
        """The process that unwinds; None while there is none."""
        return self._child.pid if self._child else None

    @property
    def confinement(self) -> frozenset[str]:
        """What the child has given up (see confinement.confine); empty while there is none."""
        return self._child.held if self._child else frozenset()

    def unwind(self, pid: int, maps: bytes, samples: Sequence[Sample]) -> list[Stack]:
        """The stacks of one process's samples, in their order.

        `maps`: contents of /proc/PID/maps, read when the samples were taken or soon after. Never raises for what the
        target did; what could not be unwound has no frames, and a problem. Bounded time: 10 s and 20 ms a sample.
        """
        started = time.monotonic()
        if self._child is not None and self._child.is_full():
            self._stop()
        layout = self._layout(pid, maps)
        batch = _Batch(pid, layout, samples, started + _SECONDS_PER_BATCH + _SECONDS_PER_SAMPLE * len(samples))
        try:
            self._run(batch)
        except BaseException:  # an interrupt, or `open_mapping` failed: the child is in the middle of something
            self._stop()
            raise
        finally:
            batch.close()
        stacks = batch.stacks()
        self.counters.stacks += len(stacks)
        self.counters.complete += sum(stack.is_complete for stack in stacks)
        self.counters.failures += sum(not stack.frames for stack in stacks)
        self.counters.seconds += time.monotonic() - started
        return stacks

    def _layout(self, pid: int, maps: bytes) -> CodeLayout:
        known = self._layouts.get(pid)
        if known is not None and known[0] == maps:
            return known[1]
        layout = parse_layout(maps)
        if len(self._layouts) >= _MAX_SPACES:
            self._layouts.pop(next(iter(self._layouts)))
        self._layouts[pid] = maps, layout
        return layout

    def _run(self, batch: _Batch) -> None:
        """Children one after the other, until each sample has its stack or a problem."""
        restarts = 0
        while batch.next_index < len(batch.sent):
            if time.monotonic() >= batch.deadline:
                return batch.fail_rest("no time was left to unwind it")
            try:
                if self._child is None:
                    self._child = self._start_child()
                self._converse(self._child, batch)
            except _StoppedError as reason:
                suspect = self._child.suspect(batch.layout.modules) if self._child is not None else None
                self._stop()
                self.counters.restarts += 1
                restarts += 1
                if suspect is not None:
                    self._suspicions[suspect.identity] += 1
                batch.fail_next(f"{reason}, in {suspect.path}" if suspect is not None else str(reason))
                if restarts > _MAX_RESTARTS:
                    return batch.fail_rest("the unwinder was stopped too often")
        return None

    def _converse(self, child: _ChildProcess, batch: _Batch) -> None:
        """One child and what is left of the batch; raises _StoppedError."""
        started = time.monotonic()
        number = self._tell_space(child, batch)
        child.renew_cpu_time(batch.deadline - started)
        child.send(message.BATCH_IS.pack(message.BATCH, number, batch.next_index), batch.descriptor)
        deadline = started + _SECONDS_PER_STACK
        while True:
            try:
                data = child.receive(min(deadline, batch.deadline))
            except TimeoutError:
                raise _StoppedError(f"the unwinder was stopped after {_SECONDS_PER_STACK:g} s") from None
            if time.monotonic() > min(deadline, batch.deadline):  # it talks, and does not come to an end
                raise _StoppedError(f"the unwinder was stopped after {_SECONDS_PER_STACK:g} s")
            try:
                if data[:1] == message.STACK_IS:
                    batch.accept(data, child.places)
                    deadline = time.monotonic() + _SECONDS_PER_STACK
                elif data[:1] == message.DONE:
                    if batch.next_index != len(batch.sent):
                        raise ValueError("it left samples out")
                    child.spent_seconds += time.monotonic() - started
                    return
                else:
                    before = batch.deadline
                    self._answer(child, batch, data)
                    deadline += batch.deadline - before
            except (ValueError, LookupError, struct.error) as problem:
                raise _StoppedError(f"the unwinder answered nonsense ({type(problem).__name__})") from None

    def _tell_space(self, child: _ChildProcess, batch: _Batch) -> int:
        """The child's number for these modules: what it has read of them stays read, for the forks of a process too."""
        key = modules = batch.layout.modules[:_MAX_MODULES]
        if key in child.spaces:
            child.spaces.move_to_end(key)
            return child.spaces[key]
        if len(child.spaces) >= _MAX_SPACES:
            _, oldest = child.spaces.popitem(last=False)
            child.send(message.HEADER.pack(message.FORGET, oldest))
        child.next_space += 1
        number = child.spaces[key] = child.next_space
        ranges = b"".join(message.RANGE.pack(module.start, module.end) for module in modules)
        child.send(message.HEADER.pack(message.SPACE, number) + ranges)
        return number

    def _answer(self, child: _ChildProcess, batch: _Batch, data: bytes) -> None:
        """Everything that the child says but stacks."""
        kind, number = message.HEADER.unpack_from(data)
        modules = batch.layout.modules
        if kind == message.PLACE_IS:
            child.places_bytes += len(data) + 200
            if child.places_bytes > _MAX_PLACES_BYTES:
                raise ValueError("too much")
            child.places[number] = place = parse_place(data, batch.layout)
            child.has_no_room |= bool(place.flags & message.HAS_NO_ROOM)
        elif kind in {message.NEED_ELF, message.NEED_DEBUG}:
            module = modules[number]
            descriptor = None
            if self._suspicions[module.identity] < (1 if kind == message.NEED_DEBUG else _SUSPICIONS):
                if kind == message.NEED_DEBUG:
                    began = time.monotonic()
                    if child.debug_file_count < _MAX_DEBUG_FILES:
                        descriptor = self._debug_files.open(data[message.HEADER.size :])
                        child.debug_file_count += descriptor is not None
                    batch.deadline += time.monotonic() - began  # a server's slowness is not the child's
                elif module.path == VDSO:
                    descriptor = open_vdso()
                elif module.mapping is not None:
                    descriptor = self._open_mapping(batch.pid, module.mapping)
            try:
                child.send(message.FILE, descriptor)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        else:
            raise ValueError("unknown kind")


class _Batch:
    """The samples of one call, and what of them is done."""

    def __init__(self, pid: int, layout: CodeLayout, samples: Sequence[Sample], deadline: float) -> None:
        self.pid, self.layout, self.deadline = pid, layout, deadline
        self.samples = samples
        self.sent: list[int] = []
        """Indices of the samples that the child gets."""
        self.next_index = 0
        """Into `sent`: the first one that has no answer yet."""
        self._stacks: list[Stack | None] = [None] * len(samples)
        self.descriptor: int | None = None
        parts = []
        for index, sample in enumerate(samples):
            if (problem := why_not(sample)) is not None:
                self._stacks[index] = Stack((), False, problem)
                continue
            self.sent.append(index)
            parts += [message.SAMPLE.pack(len(sample.stack)), sample.registers, sample.stack]
        try:
            self.descriptor = os.memfd_create("threadinfo-samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with open(self.descriptor, "wb", closefd=False) as file:
                file.writelines(parts)
            # The next child gets it too, whatever the one before it was made to do.
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        except OSError as problem:  # RLIMIT_FSIZE counts for files in memory too
            self.fail_rest(f"its samples cannot be handed to the unwinder ({problem.strerror})")

    def close(self) -> None:
        """Gives the samples back."""
        if self.descriptor is not None:
            os.close(self.descriptor)

    def fail_next(self, problem: str) -> None:
        """The sample that the child did not survive has no stack."""
        if self.next_index < len(self.sent):
            self._stacks[self.sent[self.next_index]] = Stack((), False, problem)
            self.next_index += 1

    def fail_rest(self, problem: str) -> None:
        """None of the others is tried."""
        while self.next_index < len(self.sent):
            self.fail_next(problem)

    def stacks(self) -> list[Stack]:
        """In the order of the samples."""
        return [stack for stack in self._stacks if stack is not None]

    def accept(self, data: bytes, places: dict[int, Place]) -> None:
        """A stack from the child; raises ValueError and its like for one that cannot be."""
        _, index, end, count = message.STACK.unpack_from(data)
        if index != self.next_index or index >= len(self.sent):
            raise ValueError("not the next one")
        frames_end = message.STACK.size + count * message.FRAME.size
        if count > message.MAX_FRAMES or frames_end > len(data):
            raise ValueError("too many frames")
        raw = list(message.FRAME.iter_unpack(data[message.STACK.size : frames_end]))
        words = data[frames_end : frames_end + 200].decode("utf-8", "backslashreplace")
        sample = self.samples[self.sent[index]]
        self._stacks[self.sent[index]] = make_stack(
            sample, raw, [places[frame[2]] for frame in raw], end, words, self.layout
        )
        self.next_index += 1


def open_vdso() -> int | None:
    """The kernel's vdso as a file: this process's own, which is every 64-bit process's; None where it has none."""
    maps = Path("/proc/self/maps").read_bytes()
    for module in parse_layout(maps).modules:
        if module.path == VDSO:
            descriptor = os.memfd_create("threadinfo-vdso", os.MFD_CLOEXEC)
            os.write(descriptor, ctypes.string_at(module.start, module.end - module.start))
            return descriptor
    return None
