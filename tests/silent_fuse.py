"""A FUSE server that can fall silent: `python -m tests.silent_fuse DIRECTORY`, as root; the raw protocol of fuse(4).

It serves one directory with the file "file", whose attributes are never cached, says "ready", and answers until the
line "silent" comes on its standard input. After that it takes every request and answers none. At any other line, or the
end of its input, it unmounts what it mounted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import sys
from pathlib import Path

HEADER = struct.Struct("=IIQQIIII")  # include/uapi/linux/fuse.h, fuse_in_header
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = (
    1, 2, 3, 14, 15, 18, 25, 26, 27, 28, 29,
)  # fmt: skip
_INTERRUPT, _BATCH_FORGET = 36, 42
_FILE = 2
_DETACH = 2  # MNT_DETACH


def attributes(node: int, content: bytes) -> bytes:
    mode, size = (0o040755, 0) if node == 1 else (0o100755, len(content))
    return _ATTRIBUTES.pack(node, size, 8, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)


def answer(operation: int, node: int, body: bytes, content: bytes) -> bytes | int:
    """What follows the header of the answer, or an error's number."""
    if operation == _INIT:
        # version 7.31, no read-ahead, no flags; 64 bytes in all
        return struct.pack("=IIIIHHIIHH", 7, 31, 0, 0, 12, 10, 1 << 17, 1, 1, 0) + bytes(28)
    if operation == _LOOKUP:
        if body.rstrip(b"\0") != b"file":
            return errno.ENOENT
        return struct.pack("=QQQQII", _FILE, 0, 1 << 20, 0, 0, 0) + attributes(_FILE, content)
    if operation == _GETATTR:
        return struct.pack("=QII", 0, 0, 0) + attributes(node, content)
    if operation in {_OPEN, _OPENDIR}:
        return struct.pack("=QII", 0, 0, 0)
    if operation == _READ:
        _, offset, size = struct.unpack_from("=QQI", body)
        return content[offset : offset + size]
    if operation in {_READDIR, _RELEASE, _RELEASEDIR, _FLUSH}:
        return b""
    return errno.ENOSYS


def main() -> None:
    """Serves until the end of standard input."""
    directory = sys.argv[1]
    content = Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b"content\n" * 1000
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"silent", directory.encode(), b"fuse", 6, options):  # MS_NOSUID | MS_NODEV
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    is_silent = False
    try:
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([device, 0], [], [])
            if 0 in readable:
                if os.read(0, 100) != b"silent\n":
                    return
                is_silent = True
                print("silent", flush=True)
            if device in readable:
                request = os.read(device, 1 << 18)
                _, operation, unique, node, *_ = HEADER.unpack_from(request)
                if is_silent or operation in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
                    continue
                result = answer(operation, node, request[HEADER.size :], content)
                error, data = (-result, b"") if isinstance(result, int) else (0, result)
                os.write(device, struct.pack("=IiQ", 16 + len(data), error, unique) + data)
    finally:
        libc.umount2(directory.encode(), _DETACH)
        os.close(device)  # what still waits for an answer gets an error


if __name__ == "__main__":
    main()
