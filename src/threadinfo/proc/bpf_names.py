"""Names of BPF maps and programs by id (bpf(2)): fdinfo has only the ids. Needs CAP_SYS_ADMIN."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from threadinfo.proc.reader import decode

_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 14, 15
_INFO_BYTES = 256
_NAME_BYTES = 16
_NAME_OFFSETS = {"bpf_map": 24, "bpf_program": 64}  # struct bpf_map_info, struct bpf_prog_info

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, 128)
    number = _SYS_BPF.get(platform.machine())
    return -1 if number is None else int(_libc.syscall(number, command, buffer, len(buffer)))


def bpf_object_name(kind: str, identifier: int) -> str | None:
    """The name its maker gave it, "" for none; None where this user may not ask, or the object is gone."""
    fd = _bpf(_MAP_GET_FD_BY_ID if kind == "bpf_map" else _PROG_GET_FD_BY_ID, struct.pack("=I", identifier))
    if fd < 0:
        return None
    info = ctypes.create_string_buffer(_INFO_BYTES)
    try:
        if _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info))) < 0:
            return None
    finally:
        os.close(fd)
    offset = _NAME_OFFSETS[kind]
    return decode(info.raw[offset : offset + _NAME_BYTES].split(b"\0")[0])
