"""bpf(2): maps, programs and raw tracepoints, by descriptors. No library: these commands are the kernel's own ABI.

Structures and numbers: linux/bpf.h. Every failure is an OSError with the kernel's number.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

ARRAY, RING_BUFFER = 2, 27  # enum bpf_map_type
MAPPABLE = 1 << 10  # BPF_F_MMAPABLE
INSTRUCTION_BYTES = 8

_SYSTEM_CALL = {"x86_64": 321, "aarch64": 280}
MACHINES = tuple(_SYSTEM_CALL)
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN, _MAP_LOOKUP_BATCH = 0, 1, 2, 5, 17, 24
_PROG_TEST_RUN = 10
_MAP_LOOKUP_AND_DELETE, _MAP_LOOKUP_AND_DELETE_BATCH, _MAP_DELETE_BATCH = 21, 25, 27
_ENABLE_STATISTICS = 32
_PERF_EVENT, _RAW_TRACEPOINT, _TRACING = 7, 17, 26  # enum bpf_prog_type
_TRACE_RAW_TRACEPOINT = 23  # enum bpf_attach_type
_LOG_BYTES = 1 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_NAME_BYTES = 15
_ATTRIBUTES_BYTES = 128
_NOT_THE_VERIFIER = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSYS}
_COUNT_AT = 32  # in the attributes of a batch

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class RefusedError(OSError):
    """The verifier refused a program."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, os.strerror(number))
        self.log = log


def _bpf(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """What the kernel returned; what it wrote is in the buffer, where one was given. Raises OSError."""
    number = _SYSTEM_CALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {platform.machine()} is not known")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_BYTES) if isinstance(attributes, bytes) else attributes
    returned = int(_LIBC.syscall(number, command, buffer, len(buffer)))
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return returned


def _make(command: int, attributes: bytes) -> int:
    """A new descriptor. Before Linux 5.11 maps and programs count as locked memory: then the limit is lifted."""
    try:
        return _bpf(command, attributes)
    except PermissionError:
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if soft == resource.RLIM_INFINITY:
            raise
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None
        try:
            return _bpf(command, attributes)
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


def create_map(kind: int, key_bytes: int, value_bytes: int, max_entries: int, flags: int = 0, name: str = "") -> int:
    """The descriptor of a new map."""
    head = struct.pack("=7I", kind, key_bytes, value_bytes, max_entries, flags, 0, 0)
    return _make(_MAP_CREATE, head + name.encode()[:_NAME_BYTES])


def load_program(instructions: bytes, name: str = "", tracepoint_type: int = 0, *, for_clock: bool = False) -> int:
    """The descriptor of a program for raw tracepoints, or for a clock; raises RefusedError with the verifier's words.

    `tracepoint_type`: BTF id of typedef btf_trace_NAME, for a program that loads through its arguments' types.
    """
    code, license_ = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    count = len(instructions) // INSTRUCTION_BYTES

    def load(log: ctypes.Array[ctypes.c_char] | None) -> int:
        where = (0, 0, 0) if log is None else (1, len(log), ctypes.addressof(log))
        addresses = ctypes.addressof(code), ctypes.addressof(license_)
        kind, attached = (_TRACING, _TRACE_RAW_TRACEPOINT) if tracepoint_type else (_RAW_TRACEPOINT, 0)
        kind = _PERF_EVENT if for_clock else kind
        head = struct.pack("=IIQQIIQII", kind, count, *addresses, *where, 0, 0)
        named = head + name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES + 1, b"\0")
        return _make(_PROG_LOAD, named + struct.pack("=4IQ2IQ2I", 0, attached, 0, 0, 0, 0, 0, 0, 0, tracepoint_type))

    try:
        return load(None)
    except OSError as problem:
        number = problem.errno or errno.EINVAL
        if number in _NOT_THE_VERIFIER:
            raise
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return load(log)
    except OSError:
        if not log.value:
            raise
        raise RefusedError(number, log.value.decode(errors="replace")) from None


def attach_raw_tracepoint(tracepoint: str, program: int) -> int:
    """The descriptor that keeps a program attached: closing it detaches. "": where the type of a typed one says."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    return _make(_RAW_TRACEPOINT_OPEN, struct.pack("=QI", ctypes.addressof(name) if tracepoint else 0, program))


def run_program(program: int, arguments: Sequence[int]) -> None:
    """Runs a program once, in this thread, as if its tracepoint had these arguments (Linux 5.10)."""
    words = (ctypes.c_uint64 * len(arguments))(*arguments)
    sizes = 0, 0, ctypes.sizeof(words), 0
    _bpf(_PROG_TEST_RUN, struct.pack("=4I2Q4I2Q", program, 0, 0, 0, 0, 0, *sizes, ctypes.addressof(words), 0))


def enable_statistics() -> int:
    """Has the kernel time every run of every program until this descriptor is closed (CAP_SYS_ADMIN)."""
    return _bpf(_ENABLE_STATISTICS, struct.pack("=I", 0))


def _at(array: Any, kind: type[_Value], index: int) -> _Value:
    value: _Value = kind.from_buffer(array, index * ctypes.sizeof(kind))  # type: ignore[attr-defined, arg-type]
    return value


class Map(Generic[_Key, _Value]):
    """A map that is no mapped array, as ctypes values; `fd` stays its owner's."""

    def __init__(self, fd: int, key: type[_Key], value: type[_Value], max_entries: int) -> None:
        self.fd = fd
        self._key, self._value, self._max_entries = key, value, max_entries

    def set(self, key: _Key, value: _Value) -> None:
        """Puts one in or changes it; raises OSError (E2BIG) where the map is full."""
        addresses = ctypes.addressof(key), ctypes.addressof(value)  # type: ignore[arg-type]
        _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", self.fd, 0, *addresses, 0))

    def get(self, key: _Key) -> _Value | None:
        """The value of a key; None where it is not in the map."""
        value = self._value()
        addresses = ctypes.addressof(key), ctypes.addressof(value)  # type: ignore[arg-type]
        try:
            _bpf(_MAP_LOOKUP, struct.pack("=IIQQQ", self.fd, 0, *addresses, 0))
        except FileNotFoundError:
            return None
        return value

    def items(self) -> Iterator[tuple[_Key, _Value]]:
        """All of a hash, in no order; what is put in or deleted meanwhile may be missing."""
        for count, keys, values in self._batches(_MAP_LOOKUP_BATCH):
            for index in range(count):  # not by slices: of simple types those are bare numbers
                yield _at(keys, self._key, index), _at(values, self._value, index)

    def read_bytes(self, *, take: bool = False) -> tuple[bytes, bytes]:
        """The same as the bytes of all keys and all values. `take`: out of the map, and nothing that changes meanwhile
        is lost."""
        found: tuple[list[bytes], list[bytes]] = [], []
        for count, *arrays in self._batches(_MAP_LOOKUP_AND_DELETE_BATCH if take else _MAP_LOOKUP_BATCH):
            for all_, array in zip(found, arrays, strict=True):
                all_.append(bytes(memoryview(array).cast("B")[: count * (ctypes.sizeof(array) // len(array))]))
        return b"".join(found[0]), b"".join(found[1])

    def delete(self, keys: bytes) -> None:
        """Takes the items of these keys out, all of which must be there."""
        buffer = ctypes.create_string_buffer(keys, len(keys))
        count = len(keys) // ctypes.sizeof(self._key)  # type: ignore[arg-type]
        if count:
            _bpf(_MAP_DELETE_BATCH, struct.pack("=QQQQIIQQ", 0, 0, ctypes.addressof(buffer), 0, count, self.fd, 0, 0))

    def _batches(self, command: int) -> Iterator[tuple[int, Any, Any]]:
        """How many were found, and arrays of keys and of values that begin with these."""
        count, position, is_last = self._max_entries, ctypes.create_string_buffer(64), False
        start = 0
        while not is_last:
            keys, values = (self._key * count)(), (self._value * count)()  # type: ignore[operator]
            places = start, ctypes.addressof(position), ctypes.addressof(keys), ctypes.addressof(values)
            attributes = struct.pack("=QQQQIIQQ", *places, count, self.fd, 0, 0)
            buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_BYTES)
            try:
                _bpf(command, buffer)
            except FileNotFoundError:
                is_last = True
            (found,) = struct.unpack_from("=I", buffer, _COUNT_AT)
            yield found, keys, values
            start = ctypes.addressof(position)


class Queue(Generic[_Value]):
    """A map that is a queue, as ctypes values; `fd` stays its owner's."""

    def __init__(self, fd: int, value: type[_Value]) -> None:
        self.fd, self._value = fd, value

    def put(self, value: _Value) -> None:
        """Adds one at the end; raises OSError (E2BIG) where it is full."""
        _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", self.fd, 0, 0, ctypes.addressof(value), 0))  # type: ignore[arg-type]

    def take_all(self) -> Iterator[_Value]:
        """Takes what is in it, the oldest first."""
        while True:
            value = self._value()
            try:
                _bpf(
                    _MAP_LOOKUP_AND_DELETE,
                    struct.pack("=IIQQQ", self.fd, 0, 0, ctypes.addressof(value), 0),  # type: ignore[arg-type]
                )
            except FileNotFoundError:
                return
            yield value
