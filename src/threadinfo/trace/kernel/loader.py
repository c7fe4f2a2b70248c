"""Our BPF programs: compiled or taken from what was kept, loaded, attached and detached. No library stays loaded."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import msgspec

from threadinfo.errors import MORE_FILES, TOO_MANY_FILES, NotAvailableError, more_memory
from threadinfo.trace.kernel import bpf, object_cache
from threadinfo.trace.kernel.compiler import CompiledObject, MapDefinition, compile_source
from threadinfo.trace.kernel.functions import find_functions

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_LOADED_AT_ONCE = 4
_PARTS, _TYPED_PARTS = "parts", "parts of typed programs"
_log = logging.getLogger(__name__)


def bpf_directory() -> Path:
    """Where our C sources are: in the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent.parent / "bpf"


class ProgramRefusedError(NotAvailableError):
    """The kernel's verifier refuses a program of ours."""


class ProgramStatistics(msgspec.Struct, frozen=True):
    """The kernel's own account of our programs, from fdinfo of their descriptors (bpf(2), BPF_ENABLE_STATS)."""

    run_count: int
    run_time_ns: int
    missed_count: int
    """Runs that the kernel left out because a program was running on that CPU already."""


class TypedTracepoint(NamedTuple):
    """A raw tracepoint whose programs may load through the types of its arguments (BPF_TRACE_RAW_TP)."""

    name: str
    type_id: int
    """BTF id of typedef btf_trace_NAME."""
    parts: tuple[str, ...] = ()
    """Functions that its programs go on in; "" is a place that stays empty."""


class Programs:
    """Loaded and attached programs; detached on every way out. Use as a context manager."""

    def __init__(
        self,
        source: str,
        defines: Mapping[str, int | str],
        attach: Sequence[tuple[str, str]],
        parts: Sequence[str] = (),
        typed: TypedTracepoint | None = None,
        functions: Sequence[int] = (),
    ) -> None:
        """`attach`: (raw tracepoint, function) each. `parts`: functions that others go on in, in the order of that map.

        `functions`: BTF ids of functions of the kernel's that are called (functions.py). Raises
        NotAvailableError, with nothing left attached.
        """
        self._maps: dict[str, tuple[int, int]] = {}
        self._programs: dict[tuple[str, bool], int] = {}
        self._links: list[int] = []
        self._functions = functions
        headers = bpf_directory()
        text = read_source(headers / source)
        flags = [f"-D{name}={value}" for name, value in sorted(defines.items())]
        key = object_cache.make_key(text, headers, flags)
        kept = object_cache.read(key)
        if kept is not None:
            try:
                self._start(kept, attach, parts, typed)
            except (bpf.RefusedError, _RefusedStepError, LookupError) as problem:
                _log.info("what was compiled before is not used: %s", problem)
                object_cache.remove(key)
                self.close()
            except BaseException as problem:
                self.close()
                raise _explain(problem) from None
            else:
                return
        compiled = compile_source(text, headers, flags)
        try:
            self._start(compiled, attach, parts, typed)
        except BaseException as problem:
            self.close()
            raise _explain(problem) from None
        object_cache.write(key, compiled)

    def _start(
        self,
        compiled: CompiledObject,
        attach: Sequence[tuple[str, str]],
        parts: Sequence[str],
        typed: TypedTracepoint | None,
    ) -> None:
        """Makes maps, loads, attaches; raises what `_explain` knows, and LookupError for what is no object of ours."""
        self._compiled = compiled
        for item in compiled.maps:
            self._make_map(item, item.name)
            if typed is not None and item.name == _PARTS:  # programs go on only in those of their own type
                self._make_map(item, _TYPED_PARTS)
        of_tracepoint = {name: typed if typed is not None and name == typed.name else None for name, _ in attach}
        self._load_all([(function, of_tracepoint[name]) for name, function in attach], parts, typed)
        self._prepare(parts, typed)
        for tracepoint, function in attach:
            program = self._load(function, of_tracepoint[tracepoint])
            try:
                self._links.append(bpf.attach_raw_tracepoint("" if of_tracepoint[tracepoint] else tracepoint, program))
            except OSError as problem:
                raise _RefusedStepError(problem, f"attach to the raw tracepoint {tracepoint}") from None

    def _load_all(
        self,
        functions: Sequence[tuple[str, TypedTracepoint | None]],
        parts: Sequence[str],
        typed: TypedTracepoint | None,
    ) -> None:
        """Loads everything, several at once: nearly all the time is the verifier's, which locks nobody else out."""
        wanted = [(name, typed) for name in (typed.parts if typed else ()) if name]
        wanted += [*((name, None) for name in parts if name), *functions]
        with ThreadPoolExecutor(_LOADED_AT_ONCE) as pool:
            for _ in pool.map(lambda one: self._load(*one), dict.fromkeys(wanted)):
                pass

    def _prepare(self, parts: Sequence[str], typed: TypedTracepoint | None) -> None:
        """Loads the parts, before anything is attached."""
        for one, names, place in ((None, parts, _PARTS), (typed, typed.parts if typed else (), _TYPED_PARTS)):
            for index, name in enumerate(names):
                if not name:
                    continue
                program = ctypes.c_uint32(self._load(name, one))
                self.map(place, ctypes.c_uint32, ctypes.c_uint32).set(ctypes.c_uint32(index), program)

    def _make_map(self, item: MapDefinition, name: str) -> None:
        shape = item.kind, item.key_bytes, item.value_bytes, item.max_entries, item.flags
        try:
            self._maps[name] = bpf.create_map(*shape, item.name), item.max_entries
        except OSError as problem:
            raise _RefusedStepError(problem, f"make the map {item.name}") from None

    def _load(self, function: str, typed: TypedTracepoint | None, *, for_clock: bool = False) -> int:
        """The descriptor of a function, loaded for raw tracepoints, for a typed one or for a clock."""
        place = function, typed is not None
        if place in self._programs:
            return self._programs[place]
        program = next((one for one in self._compiled.programs if one.name == function), None)
        if program is None:
            raise LookupError(f"it has no function {function}")
        instructions = bytearray(program.instructions)
        for at, number in program.maps:
            name = self._compiled.maps[number].name
            descriptor = self.descriptor(_TYPED_PARTS if typed is not None and name == _PARTS else name)
            struct.pack_into("=i", instructions, at * bpf.INSTRUCTION_BYTES + 4, descriptor)
        for at, number in program.functions:
            if not 0 <= number < len(self._functions):
                raise LookupError(f"it calls function {number} of the kernel, which was not looked for")
            struct.pack_into("=i", instructions, at * bpf.INSTRUCTION_BYTES + 4, self._functions[number])
        try:
            type_id = typed.type_id if typed else 0
            loaded = bpf.load_program(bytes(instructions), function, type_id, for_clock=for_clock)
        except bpf.RefusedError:
            raise
        except OSError as problem:
            raise _RefusedStepError(problem, f"load the program {function}") from None
        self._programs[place] = loaded
        return loaded

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detaches everything; may be called twice."""
        for descriptor in (*self._links, *self._programs.values(), *(fd for fd, _ in self._maps.values())):
            os.close(descriptor)
        self._links, self._programs, self._maps = [], {}, {}

    def descriptor(self, name: str) -> int:
        """Of a map; it stays ours."""
        return self._maps[name][0]

    def map(self, name: str, key: type[_Key], value: type[_Value]) -> bpf.Map[_Key, _Value]:
        """A map that is no mapped array, as ctypes values."""
        fd, max_entries = self._maps[name]
        return bpf.Map(fd, key, value, max_entries)

    def run(self, function: str, *arguments: int) -> None:
        """Runs a function for raw tracepoints once, in this thread, with these arguments; raises OSError."""
        try:
            program = self._load(function, None)
        except _RefusedStepError as problem:
            raise OSError(problem.number, str(problem)) from None
        bpf.run_program(program, arguments)

    def load_for_clock(self, function: str) -> int:
        """The descriptor of a function that a perf event's clock may call; it stays ours. Raises NotAvailableError."""
        try:
            return self._load(function, None, for_clock=True)
        except (bpf.RefusedError, _RefusedStepError) as problem:
            raise _explain(problem) from None

    @contextlib.contextmanager
    def attached(self, tracepoint: str, function: str) -> Iterator[None]:
        """One more program is attached to a raw tracepoint meanwhile; raises NotAvailableError."""
        try:
            link = bpf.attach_raw_tracepoint(tracepoint, self._load(function, None))
        except (OSError, _RefusedStepError) as problem:
            raise _explain(problem) from None
        try:
            yield
        finally:
            os.close(link)

    def queue(self, name: str, value: type[_Value]) -> bpf.Queue[_Value]:
        """A map that is a queue (BPF_QUEUE)."""
        return bpf.Queue(self.descriptor(name), value)

    def memory(self, name: str, element_bytes: int, count: int, *, first: int = 0) -> mmap.mmap:
        """A mappable array as memory: `count` elements of `element_bytes`, which must be a multiple of 8.

        `first`: at which byte it begins, a multiple of the size of a page.
        """
        size = -(-element_bytes * count // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(self.descriptor(name), size, mmap.MAP_SHARED, access, offset=first)

    def statistics(self) -> ProgramStatistics:
        """The sums over all programs."""
        sums = {"run_cnt": 0, "run_time_ns": 0, "recursion_misses": 0}
        for descriptor in self._programs.values():
            with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
                for line in file:
                    key, _, value = line.partition(":")
                    if key in sums:
                        sums[key] += int(value)
        return ProgramStatistics(sums["run_cnt"], sums["run_time_ns"], sums["recursion_misses"])


def load_programs(
    source: str,
    defines: Mapping[str, int | str],
    attach: Sequence[tuple[str, str]],
    parts: Sequence[str] = (),
    typed: TypedTracepoint | None = None,
) -> Programs:
    """As `Programs`, with the kernel's own functions, where it lets them be called so; raises NotAvailableError."""
    functions = find_functions()
    more = dict(functions.defines)
    try:
        return Programs(source, {**defines, **more}, attach, parts, typed, functions.numbers)
    except ProgramRefusedError as problem:
        if not more:
            raise
        _log.info("%s is loaded without the kernel's own functions: %s", source, problem)
    return Programs(source, defines, attach, parts, typed)


def read_source(path: Path) -> bytes:
    """A C file with the files of ours that it includes put in: bcc finds maps in the main file alone."""
    lines = [f'#line 1 "{path}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith('#include "'):
            lines += [read_source(bpf_directory() / line.split('"')[1]).decode(), f'#line {number + 1} "{path}"']
        else:
            lines.append(line)
    return "\n".join(lines).encode()


class _RefusedStepError(Exception):
    """What the kernel did not let us do."""

    def __init__(self, problem: OSError, doing: str) -> None:
        super().__init__(f"the kernel does not let us {doing}: {problem.strerror}")
        self.number = problem.errno


def _explain(problem: BaseException) -> BaseException:
    """With its likely cause, where it is the kernel's."""
    kind = NotAvailableError
    if isinstance(problem, bpf.RefusedError):
        number = problem.errno
        lines = [line for line in problem.log.splitlines() if line.strip() and not line.startswith("processed ")]
        message = f"the kernel refuses our program: {problem.strerror}{f' ({lines[-1].strip()})' if lines else ''}"
        kind = ProgramRefusedError
    elif isinstance(problem, _RefusedStepError):
        number, message = problem.number, str(problem)
    else:
        return problem
    if number in {errno.EMFILE, errno.ENFILE}:
        return NotAvailableError(TOO_MANY_FILES, MORE_FILES)
    if number == errno.ENOMEM:
        return NotAvailableError(f"there is no memory for BPF programs and their maps ({message})", more_memory())
    remedy = "threadinfo doctor lists the tracepoints that this kernel lacks" if number == errno.ENOENT else None
    return kind(message, remedy or "threadinfo doctor says what this host allows")
