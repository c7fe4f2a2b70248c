"""The one place that knows bcc: finds the distribution's, compiles ours without kernel headers, attaches and detaches.

bcc's Python module is pure Python over libbcc.so, so an interpreter in any virtual environment can load the
distribution's copy by its path. PyPI's "bcc" is an unrelated package.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import mmap
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import msgspec

from threadinfo.errors import (
    MORE_FILES,
    TOO_MANY_FILES,
    NotAvailableError,
    is_lack_of_memory,
    more_memory,
    out_of_memory,
)

INSTALL_BCC = "apt-get install python3-bpfcc (on Fedora: dnf install python3-bcc)"
_OTHER_BCC = "bcc 0.26 with LLVM 14 is what it was measured with; threadinfo doctor says what is here"
_DISTRIBUTION = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
)


def bpf_directory() -> Path:
    """Where our C sources are: in the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent.parent / "bpf"


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


def load_bcc() -> ModuleType:
    """The distribution's bcc module; raises NotAvailableError where it is missing, wrong or broken."""
    if "bcc" in sys.modules and hasattr(sys.modules["bcc"], "BPF"):
        return sys.modules["bcc"]
    package = find_bcc()
    if package is None:
        raise NotAvailableError("tracing needs bcc for Python, which is not installed", INSTALL_BCC)
    if not is_bpf_compiler(package):
        raise NotAvailableError(
            f"{package} is not the BPF Compiler Collection: PyPI's bcc is an unrelated package",
            f"pip uninstall bcc, then {INSTALL_BCC}",
        )
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


class ProgramStatistics(msgspec.Struct, frozen=True):
    """The kernel's own account of our programs, from fdinfo of their descriptors (bpf(2), BPF_ENABLE_STATS)."""

    run_count: int
    run_time_ns: int
    missed_count: int
    """Runs that the kernel left out because a program was running on that CPU already."""


class _TestRun(ctypes.Structure):  # struct bpf_test_run_opts of libbpf's bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Programs:
    """Compiled, loaded and attached programs; detached on every way out. Use as a context manager."""

    def __init__(
        self,
        source: str,
        defines: Mapping[str, int | str],
        attach: Sequence[tuple[str, str]],
        parts: Sequence[str] = (),
    ) -> None:
        """`attach`: (raw tracepoint, function) each. `parts`: functions that others call, in the order of that map.

        Raises NotAvailableError, with nothing left attached.
        """
        bcc = load_bcc()
        _leave_removed_directory()
        directory = bpf_directory()
        os.environ["BCC_KERNEL_SOURCE"] = str(directory)
        flags = [f"-D{name}={value}" for name, value in defines.items()]
        flags += ["-g0"]  # debug information would be a tenth of the time
        self._bpf: Any = None
        with _captured_stderr() as messages:
            try:
                self._bpf = bcc.BPF(text=read_source(directory / source), cflags=flags)
                for index, part in enumerate(parts):
                    function = self._bpf.load_func(part.encode(), bcc.BPF.RAW_TRACEPOINT)
                    self._bpf[b"parts"][ctypes.c_int(index)] = ctypes.c_int(function.fd)
                for tracepoint, function in attach:
                    self._bpf.attach_raw_tracepoint(tp=tracepoint.encode(), fn_name=function.encode())
            except Exception as problem:  # bcc raises nothing more precise
                said = messages()
                self.close()
                raise _explain(str(problem), said) from None

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detaches everything; may be called twice."""
        if self._bpf is not None:  # not by truth value: a BPF object is falsy until a table of it was used
            self._bpf.cleanup()
            self._bpf = None

    def table(self, name: str) -> Any:
        """A map of the programs, as bcc's own table object."""
        return self._bpf[name.encode()]

    def run(self, function: str, *arguments: int) -> None:
        """Runs a function for raw tracepoints once, in this thread, with these arguments; raises OSError."""
        words = (ctypes.c_uint64 * len(arguments))(*arguments)
        options = _TestRun(ctx_in=ctypes.addressof(words), ctx_size_in=ctypes.sizeof(words))
        options.sz = ctypes.sizeof(options)
        descriptor = self._bpf.load_func(function.encode(), sys.modules["bcc"].BPF.RAW_TRACEPOINT).fd
        result = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts(descriptor, ctypes.byref(options))
        if result:
            raise OSError(-result, os.strerror(-result))

    def consume_ring_buffers(self) -> None:
        """Calls the functions that were given to `open_ring_buffer` for what has been written since."""
        self._bpf.ring_buffer_consume()

    def memory(self, name: str, element_bytes: int, count: int) -> mmap.mmap:
        """A mappable array as memory: `count` elements of `element_bytes`, which must be a multiple of 8."""
        size = -(-element_bytes * count // mmap.PAGESIZE) * mmap.PAGESIZE
        return mmap.mmap(self._bpf[name.encode()].map_fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def statistics(self) -> ProgramStatistics:
        """The sums over all programs."""
        sums = {"run_cnt": 0, "run_time_ns": 0, "recursion_misses": 0}
        for function in self._bpf.funcs.values():
            with open(f"/proc/self/fdinfo/{function.fd}", encoding="ascii") as file:
                for line in file:
                    key, _, value = line.partition(":")
                    if key in sums:
                        sums[key] += int(value)
        return ProgramStatistics(sums["run_cnt"], sums["run_time_ns"], sums["recursion_misses"])


def read_source(path: Path) -> bytes:
    """A C file with the files of ours that it includes put in: bcc finds maps in the main file alone."""
    lines = [f'#line 1 "{path}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith('#include "'):
            lines += [read_source(bpf_directory() / line.split('"')[1]).decode(), f'#line {number + 1} "{path}"']
        else:
            lines.append(line)
    return "\n".join(lines).encode()


def _leave_removed_directory() -> None:
    """The compiler asks for the working directory; in one that was removed no relative path leads anywhere anyway."""
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Any]:
    """Keeps what clang and the verifier write to descriptor 2; yields a function that gives it."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.memfd_create("threadinfo-messages", os.MFD_CLOEXEC), "w+b") as file:
        os.dup2(file.fileno(), 2)

        def text() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _explain(problem: str, said: str) -> NotAvailableError:
    """bcc's bare exception and what clang or the verifier said, as one message with its likely cause."""
    problem = re.sub(r"\bb'([^']*)'", r"\1", problem)  # bcc has names as bytes
    lines = [line for line in said.splitlines() if line.strip()]
    if os.strerror(errno.EMFILE) in problem + said:
        return NotAvailableError(TOO_MANY_FILES, MORE_FILES)
    last = f": {lines[-1].strip()}" if lines else ""
    if os.strerror(errno.ENOMEM) in problem + said:
        return NotAvailableError(f"there is no memory for BPF programs and their maps ({problem}{last})", more_memory())
    if os.strerror(errno.EPERM) in problem + said:
        return NotAvailableError(
            f"the kernel refuses BPF programs ({problem}{last})", "threadinfo doctor says what this host allows"
        )
    if "raw tracepoint" in problem:
        return NotAvailableError(f"{problem}{last}", "threadinfo doctor lists the tracepoints that this kernel lacks")
    if "compile" in problem:
        errors = [line for line in lines if "error" in line][:3] or lines[:3]
        return NotAvailableError(f"bcc could not compile our program: {'; '.join(errors) or problem}", _OTHER_BCC)
    return NotAvailableError(f"{problem}{last}", "threadinfo doctor says what this host allows")
