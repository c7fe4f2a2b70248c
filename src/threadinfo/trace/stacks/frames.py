"""What a stack is made of, and how the child's numbers become one: pure, and believing none of them."""

from __future__ import annotations

from typing import NamedTuple

from threadinfo.trace.stacks import messages as message
from threadinfo.trace.stacks.code_layout import CodeLayout, is_library_file, is_library_function

# Where they are in struct pt_regs; what CS is in 32-bit code (arch/x86/include/asm/segment.h).
_CODE_SEGMENT_AT, _STACK_POINTER_AT, _CODE_SEGMENT_32 = 17 * 8, 19 * 8, 0x23
_GO_STARTS = frozenset({"runtime.goexit.abi0", "runtime.goexit", "runtime.mstart.abi0", "runtime.mstart"})


class Sample(NamedTuple):
    """A thread's registers and the top of its stack at one moment."""

    tid: int
    registers: bytes
    """struct pt_regs of x86_64: 168 bytes."""
    stack: bytes
    """What lay in memory from the stack pointer upwards; 8 KiB are enough for most stacks."""


class Frame(NamedTuple):
    """One function on a stack."""

    address: int
    """Where it goes on: the program counter of the innermost, a return address of the others."""
    slot: int | None
    """Address of the stack slot that holds the return address into the caller; None: not known, or no such slot."""
    function: str | None
    """Demangled; None where no symbol is sure to hold the address."""
    offset: int | None
    """Of the address from the function's beginning; None without a function."""
    module: str
    """Path as in maps; empty: in memory that is no file's (JIT)."""
    module_offset: int
    """The address as the ELF file has it, as addr2line wants it; the address itself where there is no file."""
    source: str | None
    """FILE:LINE of the call, where the file, or its debug file on the host, has line numbers."""
    is_signal_frame: bool
    """The kernel's return from a signal handler; the next frame was interrupted, and called nothing."""
    is_library_code: bool
    """Code of a C library, its loader or the vdso; in a static program told by the function's name."""


class Stack(NamedTuple):
    """A sample unwound."""

    frames: tuple[Frame, ...]
    """Innermost first."""
    is_complete: bool
    """It ends where the thread starts: the unwind table says that the last frame has no caller."""
    problem: str | None
    """Why it stops before that, or what is doubtful; None for a complete one."""
    is_cut: bool = False
    """Whether it stops because no more was copied."""


class Place(NamedTuple):
    """What the child said of an address: the parts of a Frame that do not depend on the stack."""

    function: str | None
    offset: int | None
    module: str
    in_module: int
    source: str | None
    is_signal_frame: bool
    is_library_code: bool
    flags: int


def why_not(sample: Sample) -> str | None:
    """Why a sample cannot be unwound; None where it can."""
    if len(sample.registers) != message.REGISTERS_BYTES:
        return f"registers of {len(sample.registers)} bytes, where {message.REGISTERS_BYTES} were expected"
    if int.from_bytes(sample.registers[_CODE_SEGMENT_AT : _CODE_SEGMENT_AT + 8], "little") == _CODE_SEGMENT_32:
        return "32-bit code, which is not unwound"
    return None


def parse_place(data: bytes, layout: CodeLayout) -> Place:
    """The child's PLACE message; raises ValueError, LookupError or struct.error for one that cannot be."""
    _, _, index, flags, in_module, offset, function_bytes, source_bytes = message.PLACE.unpack_from(data)
    at = message.PLACE.size
    if max(function_bytes, source_bytes) > message.MAX_NAME_BYTES or len(data) != at + function_bytes + source_bytes:
        raise ValueError("wrong lengths")
    if not -1 <= index < len(layout.modules):
        raise ValueError("no such module")
    module = layout.modules[index].path if index >= 0 else ""
    function = source = None
    if flags & message.HAS_FUNCTION:
        function = data[at : at + function_bytes].decode("utf-8", "backslashreplace")
    if source_bytes:
        source = data[at + function_bytes :].decode("utf-8", "backslashreplace")
    is_library = is_library_file(module)
    if not layout.has_library and function is not None:
        is_library = is_library_function(function)
    return Place(
        function,
        offset if function is not None else None,
        module,
        in_module,
        source,
        bool(flags & message.IS_SIGNAL_FRAME),
        is_library,
        flags,
    )


def make_stack(
    sample: Sample, raw: list[tuple[int, int, int]], places: list[Place], end: int, words: str, layout: CodeLayout
) -> Stack:
    """The child's numbers to a Stack: cut where they are no code, and with the problem in words."""
    base = int.from_bytes(sample.registers[_STACK_POINTER_AT : _STACK_POINTER_AT + 8], "little")
    frames: list[Frame] = []
    problem = None
    for depth, ((address, _, _), place) in enumerate(zip(raw, places, strict=True)):
        if depth and not layout.is_code(address - 1) and not layout.is_code(address):
            problem = f"{address:#x}, where it goes on, is no code"
            if not places[depth - 1].flags & message.HAS_UNWIND_TABLE:  # it was found by a guess
                problem = _problem(sample, places[:depth], end, words)
            break
        caller = raw[depth + 1] if depth + 1 < len(raw) else None
        slot = None
        if caller is not None and caller[1] and not place.is_signal_frame:
            slot = caller[1] - 8  # the caller's stack pointer is the callee's canonical frame address
            at = slot - base
            if not 0 <= at <= len(sample.stack) - 8 or sample.stack[at : at + 8] != caller[0].to_bytes(8, "little"):
                slot = None
        frames.append(Frame(address, slot, *place[:7]))
    if problem is None:
        problem = _problem(sample, places, end, words)
    guessed = next((place for place in places[: len(frames) - 1] if not place.flags & message.HAS_UNWIND_TABLE), None)
    if guessed is not None:
        doubt = f"{_where(guessed)} has no unwind table: its callers, by frame pointers, may be incomplete"
        problem = f"{doubt}; {problem}" if problem is not None else doubt
    return Stack(tuple(frames), problem is None, problem, problem == _cut(sample))


def _problem(sample: Sample, places: list[Place], end: int, words: str) -> str | None:
    """Why a stack ended as it did, in words; None where it is complete."""
    if end == message.END_TOO_DEEP:
        return f"it has {message.MAX_FRAMES} frames or more"
    if not places:
        return f"it cannot be unwound: {words}"
    last = places[-1]
    if last.flags & message.HAS_NO_CALLER:
        return None
    if not last.module:
        return "it goes through memory that is no file's, such as code made at run time"
    if last.flags & message.HAS_NO_ROOM:
        return f"{last.module} finds no room in the memory that the unwinder may use"
    if not last.flags & message.HAS_ELF:
        return f"{last.module} cannot be read"
    if not last.flags & message.HAS_UNWIND_TABLE:
        return f"{_where(last)} has no unwind table"
    if end == message.END_OF_COPY:
        return _cut(sample)
    if end == message.END_OF_FRAMES:
        if last.function in _GO_STARTS:  # below them Go puts a return address of 0
            return None
        return "its last return address is 0, and no unwind table says that a thread starts there"
    return f"it cannot be unwound further: {words}"


def _cut(sample: Sample) -> str:
    return f"it goes on outside the {len(sample.stack)} bytes that were copied"


def _where(place: Place) -> str:
    return f"{place.function or hex(place.in_module)} in {place.module or 'memory that is no file'}"
