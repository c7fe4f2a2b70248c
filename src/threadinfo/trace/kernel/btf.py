"""Facts about the running kernel: asked of its BTF (/sys/kernel/btf/vmlinux) through libbpf, never a header's."""

from __future__ import annotations

import ctypes
import os
import struct
from types import TracebackType

from threadinfo.errors import NotAvailableError, is_lack_of_memory, out_of_memory
from threadinfo.trace.kernel.machine import MOUNT_SYS

BTF_PATH = "/sys/kernel/btf/vmlinux"
_REMEDY = "a kernel with CONFIG_DEBUG_INFO_BTF has it; Debian's and Ubuntu's have since Linux 5.10"

# include/uapi/linux/btf.h
_KIND_STRUCT, _KIND_UNION, _KIND_TYPEDEF, _KIND_CONST = 4, 5, 8, 10
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


class KernelTypes:
    """The types of the running kernel; use as a context manager."""

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
        self._btf = self._lib.btf__parse(BTF_PATH.encode(), None)
        if not self._btf or self._btf > 1 << 63:
            raise _why_not_read()

    def __enter__(self) -> KernelTypes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.btf__free(ctypes.c_void_p(self._btf))

    def _type(self, identifier: int) -> tuple[int, int, int]:
        """The address of a type, the number of its members, and its size or the type it refers to."""
        address = self._lib.btf__type_by_id(ctypes.c_void_p(self._btf), identifier)
        if not address:
            raise NotAvailableError(f"{BTF_PATH} lacks type {identifier}", _REMEDY)
        _, info, size_or_type = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return address, info & 0xFFFF, size_or_type

    def _find(self, name: str, kind: int) -> int:
        """The id of a named type; 0 where the kernel has none."""
        return max(0, int(self._lib.btf__find_by_name_kind(ctypes.c_void_p(self._btf), name.encode(), kind)))

    def field(self, struct_name: str, field_name: str) -> tuple[int, int] | None:
        """Offset in bytes and type of a field; None where the struct lacks it."""
        identifier = self._find(struct_name, _KIND_STRUCT)
        return self._field_of(identifier, field_name) if identifier else None

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
            name = ctypes.string_at(self._lib.btf__name_by_offset(ctypes.c_void_p(self._btf), name_offset))
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
        return self._find(f"btf_trace_{name}", _KIND_TYPEDEF)

    def argument_count(self, tracepoint: str) -> int | None:
        """How many arguments a raw tracepoint has; None where the kernel has no such tracepoint."""
        typedef = self.tracepoint(tracepoint)
        if not typedef:
            return None
        pointer = self._type(typedef)[2]
        prototype = self._type(pointer)[2]
        return self._type(prototype)[1] - 1  # the first is the tracepoint's own data
