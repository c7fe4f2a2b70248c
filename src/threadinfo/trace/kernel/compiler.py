"""The one place that knows bcc: finds the distribution's, and compiles our C to instructions, without kernel headers.

LLVM takes 130 MB and a second: it runs in a process of its own, which ends when that is done (`python -c`, `main`).
bcc's Python module is pure Python over libbcc.so, so an interpreter in any virtual environment can load the
distribution's copy by its path. PyPI's "bcc" is an unrelated package.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import msgspec

from threadinfo.errors import (
    MORE_FILES,
    TOO_MANY_FILES,
    NotAvailableError,
    is_lack_of_memory,
    more_memory,
    out_of_memory,
)
from threadinfo.trace.kernel import bpf

INSTALL_BCC = "apt-get install python3-bpfcc (on Fedora: dnf install python3-bcc)"
_OTHER_BCC = "bcc 0.26 with LLVM 14 is what it was measured with; threadinfo doctor says what is here"
_DISTRIBUTION = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
)
_LOAD_WIDE, _MAP_BY_DESCRIPTOR = 0x18, 1  # an instruction of two words that loads 64 bits; its source register
_CALL, _KERNEL_FUNCTION_CALL = 0x85, 2 << 4  # and its source register where it is no helper that is called
KERNEL_FUNCTION = 0x7FF00000
"""And the place of one of the kernel's own functions in what the loader is given: its number in our source."""
_MOST_FUNCTIONS = 16

_MARK = b"\0threadinfo: the answer\0"


class MapDefinition(msgspec.Struct, frozen=True):
    """A map as the source declares it (bpf(2), BPF_MAP_CREATE)."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


class CompiledProgram(msgspec.Struct, frozen=True):
    """A function's instructions; where they load a map the descriptor is 0."""

    name: str
    instructions: bytes
    maps: tuple[tuple[int, int], ...]
    """(index of the instruction, index of the map) each."""
    functions: tuple[tuple[int, int], ...] = ()
    """(index of the instruction, which of the kernel's functions it calls) each; the loader knows their numbers."""


class CompiledObject(msgspec.Struct, frozen=True):
    """Everything that one C file becomes."""

    maps: tuple[MapDefinition, ...]
    programs: tuple[CompiledProgram, ...]


class _Failure(msgspec.Struct, frozen=True):
    message: str
    remedy: str | None = None


class _Order(msgspec.Struct, frozen=True):
    source: bytes
    directory: str
    flags: tuple[str, ...]


class _Answer(msgspec.Struct, frozen=True):
    compiled: CompiledObject | None = None
    failure: _Failure | None = None


def find_bcc() -> Path | None:
    """The bcc package to load: the distribution's, or whatever Python finds by that name; None where there is none."""
    for pattern in _DISTRIBUTION:
        base, _, rest = pattern.partition("*")
        parents = [Path(pattern)] if not rest else sorted(Path(base).parent.glob(Path(base).name + "*" + rest))
        for parent in parents:
            if (parent / "bcc" / "__init__.py").is_file():
                return parent / "bcc"
    spec = importlib.util.find_spec("bcc")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def is_bpf_compiler(package: Path) -> bool:
    """Whether a package called bcc is the BPF Compiler Collection, told without running it."""
    return (package / "libbcc.py").is_file() and (package / "table.py").is_file()


def check_bcc() -> Path:
    """The bcc package; raises NotAvailableError where it is missing or wrong."""
    package = find_bcc()
    if package is None:
        raise NotAvailableError("tracing needs bcc for Python, which is not installed", INSTALL_BCC)
    if not is_bpf_compiler(package):
        raise NotAvailableError(
            f"{package} is not the BPF Compiler Collection: PyPI's bcc is an unrelated package",
            f"pip uninstall bcc, then {INSTALL_BCC}",
        )
    return package


def load_bcc() -> ModuleType:
    """The distribution's bcc module; raises NotAvailableError where it is missing, wrong or broken."""
    if "bcc" in sys.modules and hasattr(sys.modules["bcc"], "BPF"):
        return sys.modules["bcc"]
    package = check_bcc()
    spec = importlib.util.spec_from_file_location(
        "bcc", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise NotAvailableError(f"cannot load bcc from {package}", INSTALL_BCC)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        with warnings.catch_warnings():  # newer Pythons warn of escape sequences in bcc's own strings
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
    except (ImportError, OSError, AttributeError, SyntaxError) as problem:
        del sys.modules["bcc"]
        if is_lack_of_memory(str(problem)):
            raise out_of_memory() from None
        raise NotAvailableError(f"cannot load bcc from {package}: {problem}", INSTALL_BCC) from None
    return module


def compile_source(source: bytes, directory: Path, flags: Sequence[str]) -> CompiledObject:
    """What clang makes of a C file in a child of ours; raises NotAvailableError with what it said.

    `directory`: where include/ lies, which stands for the kernel's headers.
    """
    check_bcc()
    order = msgspec.msgpack.encode(_Order(source, str(directory), tuple(flags)))
    command = "import sys; sys.path[:] = sys.argv[1:]; from threadinfo.trace.kernel.compiler import main; main()"
    with subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-I", "-c", command, *(os.path.abspath(path) for path in sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",  # the compiler asks for the working directory, and ours may have been removed
        env={"BCC_KERNEL_SOURCE": str(directory), "PATH": "/usr/bin:/bin"},
    ) as child:
        try:
            said, answer = _talk(child, order)
        except BaseException:
            child.kill()
            raise
    if answer is None:
        raise _explain(f"the compiler ended (status {child.returncode})", said)
    if answer.compiled is not None:
        return answer.compiled
    failure = answer.failure or _Failure("")
    raise NotAvailableError(failure.message, failure.remedy) if failure.remedy else _explain(failure.message, said)


def _talk(child: subprocess.Popen[bytes], order: bytes) -> tuple[str, _Answer | None]:
    """What clang said, and the answer behind it; None where there is none."""
    if child.stdin is None or child.stdout is None:
        return "", None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(order)
    said, _, answer = child.stdout.read().partition(_MARK)
    try:
        return said.decode(errors="replace"), msgspec.msgpack.decode(answer, type=_Answer)
    except msgspec.DecodeError:
        return said.decode(errors="replace"), None


def _explain(problem: str, said: str) -> NotAvailableError:
    """bcc's bare exception and what clang said, as one message with its likely cause."""
    lines = [line for line in said.splitlines() if line.strip()]
    if os.strerror(errno.EMFILE) in problem + said:
        return NotAvailableError(TOO_MANY_FILES, MORE_FILES)
    if is_lack_of_memory(said) or os.strerror(errno.ENOMEM) in problem + said:
        return NotAvailableError(f"there is no memory to compile BPF programs ({problem})", more_memory())
    errors = [line for line in lines if "error" in line][:3] or lines[-3:]
    return NotAvailableError(f"bcc could not compile our program: {'; '.join(errors) or problem}", _OTHER_BCC)


def main() -> None:
    """The child: an order on standard input, an answer on standard output, behind what clang says."""
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Order)
    try:
        answer = _Answer(_compile(order))
    except NotAvailableError as problem:
        answer = _Answer(failure=_Failure(problem.message, problem.remedy))
    except Exception as problem:
        answer = _Answer(failure=_Failure(str(problem)))
    sys.stdout.buffer.write(_MARK + msgspec.msgpack.encode(answer))
    sys.stdout.buffer.flush()
    os._exit(0)  # LLVM's own way out takes a tenth of a second


def _compile(order: _Order) -> CompiledObject:
    bcc = load_bcc()
    module = bcc.BPF(text=order.source, cflags=[*order.flags, "-g0"])  # debug information would be a tenth of the time
    library, handle = bcc.libbcc.lib, module.module
    maps, by_descriptor = [], {}
    library.bpf_num_tables.restype, library.bpf_num_tables.argtypes = bcc.ct.c_size_t, [bcc.ct.c_void_p]
    library.bpf_table_name.restype = bcc.ct.c_char_p
    library.bpf_table_name.argtypes = [bcc.ct.c_void_p, bcc.ct.c_size_t]
    for index in range(library.bpf_num_tables(handle)):
        name = library.bpf_table_name(handle, index)
        descriptor = library.bpf_table_fd(handle, name)
        by_descriptor[descriptor] = index
        maps.append(_definition(name.decode(), descriptor))
    programs = []
    for index in range(library.bpf_num_functions(handle)):
        name = library.bpf_function_name(handle, index)
        programs.append(_program(name.decode(), module.dump_func(name), by_descriptor))
    return CompiledObject(tuple(maps), tuple(programs))


def _definition(name: str, descriptor: int) -> MapDefinition:
    """What the kernel says of a map that bcc has made."""
    facts = {}
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(":")
            with contextlib.suppress(ValueError):
                facts[key] = int(value, 0)
    shape = (facts[key] for key in ("map_type", "key_size", "value_size", "max_entries", "map_flags"))
    return MapDefinition(name, *shape)


def _program(name: str, code: bytes, by_descriptor: dict[int, int]) -> CompiledProgram:
    """A program whose maps are named instead of numbered (bpf(2), BPF_PSEUDO_MAP_FD), and the kernel's functions."""
    instructions, maps, functions = bytearray(code), [], []
    index = 0
    while index * bpf.INSTRUCTION_BYTES < len(instructions):
        operation, registers, _, value = struct.unpack_from("=BBhi", instructions, index * bpf.INSTRUCTION_BYTES)
        if operation == _LOAD_WIDE:
            if registers >> 4 == _MAP_BY_DESCRIPTOR:
                maps.append((index, by_descriptor[value]))
                struct.pack_into("=i", instructions, index * bpf.INSTRUCTION_BYTES + 4, 0)
            index += 1
        elif operation == _CALL and 0 <= value - KERNEL_FUNCTION < _MOST_FUNCTIONS:
            functions.append((index, value - KERNEL_FUNCTION))
            struct.pack_into("=BBhi", instructions, index * bpf.INSTRUCTION_BYTES, _CALL, _KERNEL_FUNCTION_CALL, 0, 0)
        index += 1
    return CompiledProgram(name, bytes(instructions), tuple(maps), tuple(functions))
