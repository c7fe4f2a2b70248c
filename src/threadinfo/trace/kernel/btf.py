"""Facts about the running kernel: asked of its BTF (/sys/kernel/btf/vmlinux) through libbpf, never a header's.

Reading it takes 15 ms, and finding a name in it half a millisecond: what was asked once is kept until the next boot.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections.abc import Callable
from types import TracebackType

import msgspec

from threadinfo.errors import NotAvailableError, is_lack_of_memory, out_of_memory
from threadinfo.trace.kernel import object_cache
from threadinfo.trace.kernel.machine import MOUNT_SYS

BTF_PATH = "/sys/kernel/btf/vmlinux"
_REMEDY = "a kernel with CONFIG_DEBUG_INFO_BTF has it; Debian's and Ubuntu's have since Linux 5.10"

# include/uapi/linux/btf.h
_KIND_STRUCT, _KIND_UNION, _KIND_TYPEDEF, _KIND_CONST, _KIND_FUNCTION = 4, 5, 8, 10, 12
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_ANSWERS = msgspec.msgpack.Decoder(dict[str, int | None])
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")


def _why_not_read() -> NotAvailableError:
    cause, remedy = "libbpf refuses it", _REMEDY
    try:
        os.close(os.open(BTF_PATH, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as problem:
        cause = problem.strerror or cause
    if not os.path.exists("/sys/kernel"):
        remedy = MOUNT_SYS
    return NotAvailableError(f"cannot read the kernel's types from {BTF_PATH}: {cause}", remedy)


def _key() -> str | None:
    """The name of the entry in which answers are kept; None where it cannot be said which boot this is."""
    try:
        with open(_BOOT_ID, "rb") as file:
            parts = (file.read(), str(os.stat(BTF_PATH).st_size).encode())
    except OSError:
        return None
    return hashlib.sha256(b"types " + b" ".join(parts)).hexdigest()


class KernelTypes:
    """The types of the running kernel; use as a context manager. Raises NotAvailableError where they cannot be read."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libbpf.so.1")
        except OSError as problem:
            if is_lack_of_memory(str(problem)):
                raise out_of_memory() from None
            raise NotAvailableError(f"cannot load libbpf: {problem}", "apt-get install --reinstall libbpf1") from None
        for name in ("btf__parse", "btf__type_by_id", "btf__name_by_offset"):
            getattr(self._lib, name).restype = ctypes.c_void_p
        self._lib.libbpf_set_print(None)  # or it writes to standard error by itself
        self._parsed: int | None = None
        self._is_new = False
        self._key = _key()
        kept = object_cache.read_entry(self._key, _ANSWERS.decode) if self._key else None
        self._answers = kept or {}
        if kept is None:
            self._btf  # noqa: B018 - read now, so that what is wrong with it is told

    @property
    def _btf(self) -> ctypes.c_void_p:
        if self._parsed is None:
            self._parsed = self._lib.btf__parse(BTF_PATH.encode(), None)
            if not self._parsed or self._parsed > 1 << 63:
                self._parsed = None
                raise _why_not_read()
        return ctypes.c_void_p(self._parsed)

    def __enter__(self) -> KernelTypes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parsed is not None:
            self._lib.btf__free(ctypes.c_void_p(self._parsed))
            self._parsed = None
        if self._is_new and self._key:
            object_cache.write_entry(self._key, msgspec.msgpack.encode(self._answers))

    def _answer(self, question: str, ask: Callable[[], int | None]) -> int | None:
        """What was answered before, or is now."""
        if question not in self._answers:
            self._answers[question] = ask()
            self._is_new = True
        return self._answers[question]

    def _type(self, identifier: int) -> tuple[int, int, int]:
        """The address of a type, the number of its members, and its size or the type it refers to."""
        address = self._lib.btf__type_by_id(self._btf, identifier)
        if not address:
            raise NotAvailableError(f"{BTF_PATH} lacks type {identifier}", _REMEDY)
        _, info, size_or_type = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return address, info & 0xFFFF, size_or_type

    def _find(self, name: str, kind: int) -> int:
        """The id of a named type; 0 where the kernel has none."""
        return max(0, int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)))

    def _field_of(self, identifier: int, field_name: str) -> tuple[int, int] | None:
        """Also of a struct or union without a name in it, whose fields are the outer one's; const does not matter."""
        address, count, inner = self._type(identifier)
        own = self._kind(address)
        if own == _KIND_CONST:
            return self._field_of(inner, field_name)
        if own not in {_KIND_STRUCT, _KIND_UNION}:
            return None
        for index in range(count):
            at = address + _TYPE.size + index * _MEMBER.size
            name_offset, kind, bits = _MEMBER.unpack(ctypes.string_at(at, _MEMBER.size))
            name = ctypes.string_at(self._lib.btf__name_by_offset(self._btf, name_offset))
            if name == field_name.encode():
                return (bits & 0xFFFFFF) // 8, kind
            if not name and (found := self._field_of(kind, field_name)) is not None:
                return (bits & 0xFFFFFF) // 8 + found[0], found[1]
        return None

    def _kind(self, address: int) -> int:
        _, info, _ = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return int(info >> 24 & 0x1F)

    def offset(self, struct_name: str, *field_names: str) -> int | None:
        """The offset in bytes of a field, or of a field of a field; None where the kernel lacks it."""
        return self._answer(".".join((struct_name, *field_names)), lambda: self._offset(struct_name, *field_names))

    def _offset(self, struct_name: str, *field_names: str) -> int | None:
        identifier, total = self._find(struct_name, _KIND_STRUCT), 0
        for name in field_names:
            found = self._field_of(identifier, name) if identifier else None
            if found is None:
                return None
            total += found[0]
            identifier = found[1]
        return total

    def tracepoint(self, name: str) -> int:
        """The id of the type that a raw tracepoint's programs have; 0 where the kernel has no such tracepoint."""
        return self._answer(f"tracepoint {name}", lambda: self._find(f"btf_trace_{name}", _KIND_TYPEDEF)) or 0

    def struct(self, name: str) -> int:
        """The id of a struct's type; 0 where the kernel has none of that name."""
        return self._answer(f"struct {name}", lambda: self._find(name, _KIND_STRUCT)) or 0

    def function(self, name: str) -> int:
        """The id of a function's type; 0 where the kernel has none of that name."""
        return self._answer(f"function {name}", lambda: self._find(name, _KIND_FUNCTION)) or 0

    def argument_count(self, tracepoint: str) -> int | None:
        """How many arguments a raw tracepoint has; None where the kernel has no such tracepoint."""
        return self._answer(f"arguments of {tracepoint}", lambda: self._argument_count(tracepoint))

    def _argument_count(self, tracepoint: str) -> int | None:
        typedef = self.tracepoint(tracepoint)
        if not typedef:
            return None
        pointer = self._type(typedef)[2]
        prototype = self._type(pointer)[2]
        return self._type(prototype)[1] - 1  # the first is the tracepoint's own data
