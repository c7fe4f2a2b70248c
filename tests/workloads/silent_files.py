"""Holds and maps files of a file system that will fall silent: `silent_files.py DIRECTORY COVERED`; any descriptors.

DIRECTORY/file is open and mapped, and what a thread polls is mapped over with it; COVERED/name was deleted and has
another name. Prints START-END of the mapping once the thread polls.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import threading

_PAGE = mmap.PAGESIZE
_FIXED = 0x10  # MAP_FIXED
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
libc.poll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)

directory, covered = sys.argv[1:]
held = os.open(f"{directory}/file", os.O_RDONLY)
deleted = os.open(f"{covered}/name", os.O_RDWR | os.O_CREAT)
os.link(f"{covered}/name", f"{covered}/other")
os.unlink(f"{covered}/name")

mapped = libc.mmap(None, 2 * _PAGE, mmap.PROT_READ, mmap.MAP_PRIVATE, held, 0)
polled = libc.mmap(None, _PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
reading, writing = os.pipe()
ctypes.memmove(polled, struct.pack("=ihh", reading, 1, 0), 8)
thread = threading.Thread(target=libc.poll, args=(polled, 1, -1), daemon=True)
thread.start()
while True:
    with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
        if file.read().split()[0] == {"x86_64": "7"}.get(os.uname().machine, "73"):
            break
libc.mmap(polled, _PAGE, mmap.PROT_READ, mmap.MAP_PRIVATE | _FIXED, held, _PAGE)
print(f"{mapped:x}-{mapped + 2 * _PAGE:x}", held, deleted, flush=True)
sys.stdin.readline()
os._exit(0)
