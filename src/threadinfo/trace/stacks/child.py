"""The child that reads the target's ELF files, which are hostile, and unwinds: it can do nothing but that.

A fresh interpreter with few modules (unwinder.py starts it) makes one whenever it is asked to, and does nothing else.
A child opens no path: ELF files come as descriptors from the parent, are mapped, and closed. What is looked up for an
address (function, unwind table, line) is remembered, and told to the parent once.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import re
import signal
import struct
import sys
from _socket import SCM_RIGHTS, SOL_SOCKET, socket  # without the classes around it: a fifth of the start
from typing import Any, NoReturn

from threadinfo.trace.stacks import libdw
from threadinfo.trace.stacks import messages as message
from threadinfo.trace.stacks.confinement import confine

_SYS_CLONE, _CLONE_PARENT = 56, 0x00008000  # arch/x86/entry/syscalls/syscall_64.tbl, linux/sched.h
_DESCRIPTOR = struct.Struct("=i")
_WORD = struct.Struct("=Q")
_SIZE = ctypes.c_size_t
_TID = 1  # every sample is unwound as the only thread of its Dwfl; libdw asks for a number
_RUST_HASH = re.compile(rb"::h[0-9a-f]{16}$")

# struct pt_regs: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss.
_REGISTERS = struct.Struct("=21Q")
# Where DWARF's registers (rax rdx rcx rbx rsi rdi rbp rsp r8 to r15, rip) are in it.
_DWARF_ORDER = (10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16)
_AT_RSP = 19


class _Space:
    """One process's modules, as a Dwfl that keeps what it has read."""

    def __init__(self, worker: _Worker, number: int, ranges: bytes) -> None:
        self.number = number
        self.places: dict[int, tuple[int, bool, int]] = {}
        """By 2 * program counter + exact: id, whether it is the return from a signal handler, index of the module
        that libdw looks into."""
        self.mapped: list[tuple[int, int]] = []
        """Where files are in memory, and their sizes."""
        self.without_room: set[int] = set()
        """Indices of the modules whose files were larger than what is left of our memory."""
        dw = worker.libraries.dw
        self.dwfl = dw.dwfl_begin(ctypes.byref(worker.module_callbacks))
        self.ranges = tuple(message.RANGE.iter_unpack(ranges))
        for index, (start, end) in enumerate(self.ranges):
            dw.dwfl_report_module(self.dwfl, b"%d" % index, start, end)
        dw.dwfl_report_end(self.dwfl, None, None)
        dw.dwfl_attach_state(self.dwfl, worker.machine, _TID, ctypes.byref(worker.thread_callbacks), None)

    def close(self, worker: _Worker) -> None:
        """Forgets it all."""
        worker.libraries.dw.dwfl_end(self.dwfl)
        for address, size in self.mapped:
            _libc.munmap(address, size)


class _Worker:
    """The libraries, the socket, and the sample that is being unwound."""

    def __init__(self, channel: socket, suspect: mmap.mmap) -> None:
        self.channel, self.suspect = channel, suspect
        self.libraries = libdw.Libraries()
        self.demangler = libdw.Demangler()
        self.spaces: dict[int, _Space] = {}
        self.place_count = 0
        self.space: _Space
        self.registers: tuple[int, ...] = ()
        self.stack: memoryview = memoryview(b"")
        self.stack_pointer = 0
        self.frames: list[tuple[int, int, int]] = []
        self.reads: dict[int, int] = {}
        """Of the frame that is being unwound: addresses in the stack by what they hold. Only elfutils before 0.188."""
        self.was_signal_frame = False
        self.is_outside_copy = False
        self.program_counter, self.register = ctypes.c_uint64(), ctypes.c_uint64()
        self.thread_callbacks = libdw.ThreadCallbacks(
            libdw.NextThread(self._next_thread),
            libdw.GetThread(self._get_thread),
            libdw.MemoryRead(self._read_memory),
            libdw.SetRegisters(self._set_registers),
        )
        self.module_callbacks = libdw.ModuleCallbacks(
            libdw.FindElf(self._find_elf), libdw.FindDebugFile(self._find_debug_file)
        )
        self.on_frame = libdw.OnFrame(self._on_frame)
        # Which machine's registers these are is told by an ELF header of our own, never by the target's files.
        header = struct.pack(
            "=4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 3, 62, 1, 0, 0, 0, 0, 64, 56, 0, 64, 0, 0
        )
        self.header = ctypes.create_string_buffer(header, len(header))
        self.machine = self.libraries.elf.elf_memory(self.header, len(header))

    # What libdw asks of us.

    def _next_thread(self, _dwfl: int, _argument: int, thread: Any) -> int:
        if thread[0]:
            return 0
        thread[0] = 1
        return _TID

    def _get_thread(self, _dwfl: int, _tid: int, _argument: int, thread: Any) -> bool:
        thread[0] = 1
        return True

    def _read_memory(self, _dwfl: int, address: int, result: Any, _argument: int) -> bool:
        offset = address - self.stack_pointer
        if 0 <= offset <= len(self.stack) - 8:
            (result[0],) = (value,) = _WORD.unpack_from(self.stack, offset)
            if not self.libraries.has_frame_registers:
                self.reads[value] = address
            return True
        self.is_outside_copy = True
        return False

    def _set_registers(self, thread: int, _argument: int) -> bool:
        values = (ctypes.c_uint64 * libdw.REGISTER_COUNT)(*[self.registers[at] for at in _DWARF_ORDER])
        return bool(self.libraries.dw.dwfl_thread_state_registers(thread, 0, libdw.REGISTER_COUNT, values))

    def _find_elf(self, _module: int, _data: int, name: bytes, _base: int, _file: int, elf: int) -> int:
        """Hands over the file as memory: libdw would keep a descriptor open for each, and programs map hundreds."""
        descriptor = self._ask(message.HEADER.pack(message.NEED_ELF, int(name)))
        if descriptor < 0:
            return -1
        size = os.fstat(descriptor).st_size
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, 0)
        problem = ctypes.get_errno()
        os.close(descriptor)
        if address == _MAP_FAILED:
            if problem == errno.ENOMEM:
                self.space.without_room.add(int(name))
            return -1
        self.space.mapped.append((address, size))
        ctypes.c_void_p.from_address(elf).value = self.libraries.elf.elf_memory(address, size)
        return -1

    def _find_debug_file(
        self, module: int, _data: int, name: bytes, _base: int, _file: bytes, _link: bytes, _checksum: int, _found: int
    ) -> int:
        """Only by build-id: a name in .gnu_debuglink is the target's to choose."""
        bits, address = ctypes.c_void_p(), ctypes.c_uint64()
        length = self.libraries.dw.dwfl_module_build_id(module, ctypes.byref(bits), ctypes.byref(address))
        if not 2 <= length <= 64 or not bits.value:
            return -1
        build_id = ctypes.string_at(bits.value, length)
        return self._ask(message.HEADER.pack(message.NEED_DEBUG, int(name)) + build_id)

    def _on_frame(self, state: int, _argument: int) -> int:
        dw = self.libraries.dw
        self.is_outside_copy = False  # what could not be read for this frame is another frame's register
        dw.dwfl_frame_pc(state, ctypes.byref(self.program_counter), None)
        pc, sp = self.program_counter.value, 0
        if self.libraries.has_frame_registers and not dw.dwfl_frame_reg(
            state, libdw.STACK_POINTER, ctypes.byref(self.register)
        ):
            sp = self.register.value
        elif pc in self.reads:
            sp = self.reads[pc] + 8  # where a return address was read, the caller's stack began above it
        self.reads.clear()
        # A return address may be the first of another function, where the call was the caller's last instruction.
        is_exact = not self.frames or self.was_signal_frame
        key = 2 * pc + is_exact
        place = self.space.places.get(key)
        if place is None:
            place = self.space.places[key] = self._look_up(pc, pc if is_exact else pc - 1)
        identifier, self.was_signal_frame, index = place
        message.SUSPECT.pack_into(self.suspect, 0, index)  # libdw goes on in it when this returns
        self.frames.append((pc, sp, identifier))
        return libdw.CALLBACK_ABORT if len(self.frames) == message.MAX_FRAMES else libdw.CALLBACK_OK

    # What an address is.

    def _look_up(self, pc: int, address: int) -> tuple[int, bool, int]:
        """Tells the parent what is at an address; returns what `_Space.places` keeps."""
        self.place_count += 1
        dw, identifier = self.libraries.dw, self.place_count
        index, suspect, flags, in_file, offset, function, source = -1, -1, 0, pc, 0, b"", b""
        if module := dw.dwfl_addrmodule(self.space.dwfl, address):
            suspect = int(dw.dwfl_module_info(module, None, None, None, None, None, None, None))
            message.SUSPECT.pack_into(self.suspect, 0, suspect)
        # libdw counts what lies behind a module as the module's, up to the next one: memory with code made at run time.
        if module and self.space.ranges[suspect][0] <= address < self.space.ranges[suspect][1]:
            bias = ctypes.c_uint64()
            index = suspect
            in_file = pc - self.space.ranges[index][0]
            if dw.dwfl_module_getelf(module, ctypes.byref(bias)):
                flags = message.HAS_ELF
                in_file = (pc - bias.value) & 0xFFFFFFFFFFFFFFFF
                function_start = None
                if (found := self._frame_description(module, address)) is not None:
                    function_start, table_flags = found
                    flags |= table_flags
                    if flags & message.IS_SIGNAL_FRAME:
                        address = pc
                if (symbol := self._function(module, address, function_start)) is not None:
                    flags |= message.HAS_FUNCTION
                    function, offset = symbol
                    offset += pc - address
                source = self._source(module, address)
            elif index in self.space.without_room:
                flags = message.HAS_NO_ROOM
        self.channel.send(
            message.PLACE.pack(message.PLACE_IS, identifier, index, flags, in_file, offset, len(function), len(source))
            + function
            + source
        )
        return identifier, bool(flags & message.IS_SIGNAL_FRAME), suspect

    def _frame_description(self, module: int, address: int) -> tuple[int, int] | None:
        """Where the function starts, and the flags that the unwind table has for it; None: it is not in the table."""
        dw = self.libraries.dw
        bias, frame = ctypes.c_uint64(), ctypes.c_void_p()
        for table in (dw.dwfl_module_eh_cfi, dw.dwfl_module_dwarf_cfi):
            cfi = table(module, ctypes.byref(bias))
            if not cfi or dw.dwarf_cfi_addrframe(cfi, address - bias.value, ctypes.byref(frame)):
                continue
            start, end, is_signal_frame = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_bool()
            return_address = dw.dwarf_frame_info(
                frame, ctypes.byref(start), ctypes.byref(end), ctypes.byref(is_signal_frame)
            )
            flags = message.HAS_UNWIND_TABLE | (message.IS_SIGNAL_FRAME if is_signal_frame.value else 0)
            operations, rule, count = ctypes.create_string_buffer(libdw.OPERATIONS_BYTES), ctypes.c_void_p(), _SIZE()
            if not dw.dwarf_frame_register(
                frame, return_address, operations, ctypes.byref(rule), ctypes.byref(count)
            ) and (rule.value == ctypes.addressof(operations) and count.value == 0):
                flags |= message.HAS_NO_CALLER
            _free(frame)
            return start.value + bias.value, flags
        return None

    def _function(self, module: int, address: int, function_start: int | None) -> tuple[bytes, int] | None:
        """Name and offset of the function that an address is in; None where no symbol is sure to hold it.

        A stripped library has the symbols that it exports and no other: the nearest one before may be far away. A
        symbol without a size counts where the unwind table says that the same function begins there or before.
        """
        offset, bias, symbol = ctypes.c_uint64(), ctypes.c_uint64(), libdw.Symbol()
        name = self.libraries.dw.dwfl_module_addrinfo(
            module, address, ctypes.byref(offset), ctypes.byref(symbol), None, None, ctypes.byref(bias)
        )
        if not name:
            return None
        if symbol.size:
            if offset.value >= symbol.size:
                return None
        elif function_start is None or address - offset.value < function_start:
            return None
        plain = name[: message.MAX_NAME_BYTES].partition(b"@")[0]  # "@@GLIBC_2.2.5" is a version
        readable = _RUST_HASH.sub(b"", self.demangler.demangle(plain))
        return readable[: message.MAX_NAME_BYTES], offset.value

    def _source(self, module: int, address: int) -> bytes:
        """FILE:LINE of an address; empty where the file has no line table for it."""
        line = self.libraries.dw.dwfl_module_getsrc(module, address)
        if not line:
            return b""
        number = ctypes.c_int()
        file = self.libraries.dw.dwfl_lineinfo(line, None, ctypes.byref(number), None, None, None)
        if not file or number.value <= 0:
            return b""
        return file.rpartition(b"/")[2][: message.MAX_NAME_BYTES - 16] + b":%d" % number.value  # type: ignore[no-any-return]

    # What the parent asks.

    def _receive(self) -> tuple[bytes, int]:
        """A message and the descriptor that came with it, or -1; ends the process when the parent is gone."""
        data, ancillary, _, _ = self.channel.recvmsg(message.MAX_MESSAGE_BYTES, 64)
        if not data:
            os._exit(0)
        for level, kind, content in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                return data, _DESCRIPTOR.unpack_from(content)[0]
        return data, -1

    def _ask(self, question: bytes) -> int:
        """The parent's descriptor for a file, or -1."""
        self.channel.send(question)
        return self._receive()[1]

    def serve(self) -> None:
        """Answers until the parent closes its end."""
        while True:
            data, descriptor = self._receive()
            kind, number = message.HEADER.unpack_from(data)
            if kind == message.SPACE:
                self.spaces[number] = _Space(self, number, data[message.HEADER.size :])
            elif kind == message.FORGET:
                self.spaces.pop(number).close(self)
            elif kind == message.BATCH:
                _, number, first = message.BATCH_IS.unpack(data)
                self.space = self.spaces[number]
                self._unwind_batch(descriptor, first)

    def fail(self, problem: BaseException | None) -> NoReturn:
        """Ends the process after an error of our own, and says which."""
        self.channel.send(message.FAILED + f"{type(problem).__name__}: {problem}".encode()[:200])
        os._exit(1)

    def _unwind_batch(self, descriptor: int, first: int) -> None:
        view = memoryview(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        os.close(descriptor)
        position = index = 0
        while position < len(view):
            (stack_bytes,) = message.SAMPLE.unpack_from(view, position)
            at = position + message.SAMPLE.size
            position = at + message.REGISTERS_BYTES + stack_bytes
            if index >= first:
                self.registers = _REGISTERS.unpack_from(view, at)
                self.stack = view[at + message.REGISTERS_BYTES : position]
                self._unwind(index)
            index += 1
        self.channel.send(message.HEADER.pack(message.DONE, index))

    def _unwind(self, index: int) -> None:
        message.SUSPECT.pack_into(self.suspect, 0, -1)
        self.stack_pointer = self.registers[_AT_RSP]
        self.frames, self.was_signal_frame, self.is_outside_copy = [], False, False
        result = self.libraries.dw.dwfl_getthread_frames(self.space.dwfl, _TID, self.on_frame, None)
        words = b""
        if len(self.frames) >= message.MAX_FRAMES:
            end = message.END_TOO_DEEP
        elif self.is_outside_copy:  # which libdw takes for the end of the stack
            end = message.END_OF_COPY
        elif result == 0:
            end = message.END_OF_FRAMES
        else:
            end, words = message.END_ERROR, self.libraries.error()[:200]
        packed = b"".join([message.FRAME.pack(*frame) for frame in self.frames])
        self.channel.send(message.STACK.pack(message.STACK_IS, index, end, len(self.frames)) + packed + words)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, _SIZE, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, _SIZE]
_MAP_FAILED = ctypes.c_void_p(-1).value
_free = _libc.free
_free.argtypes = [ctypes.c_void_p]


def _be_child(channel: socket, memory: int) -> NoReturn:
    """Gives up everything, says so, and serves until the parent leaves."""
    worker = _Worker(channel, mmap.mmap(memory, message.SUSPECT.size))
    os.close(memory)
    held = confine()
    sys.unraisablehook = lambda error: worker.fail(error.exc_value)  # a callback's; libdw would go on with no answer
    worker.channel.send(message.READY + " ".join(sorted(held)).encode())
    try:
        worker.serve()
    except Exception as problem:
        worker.fail(problem)
    finally:
        os._exit(1)


def main() -> None:
    """Argument: a descriptor of a socket. Each message there asks for a child, and brings its socket and its memory.

    The answer is its PID, or the negative errno. It is the asking process's own child (CLONE_PARENT): that one waits
    for it, and it is killed when that one ends.
    """
    control = socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or nobody could wait for a child
    libdw.Libraries()  # loaded once for all
    libdw.Demangler()
    gc.disable()
    while True:
        data, ancillary, _, _ = control.recvmsg(1, 64)
        if not data:
            os._exit(0)
        channel, memory = message.TWO_DESCRIPTORS.unpack(ancillary[0][2])
        pid = _libc.syscall(_SYS_CLONE, _CLONE_PARENT | signal.SIGCHLD, None, None, None, None)
        problem = ctypes.get_errno()
        if not pid:
            control.close()
            _be_child(socket(fileno=channel), memory)
        os.close(channel)
        os.close(memory)
        control.send(_DESCRIPTOR.pack(pid if pid > 0 else -problem))
