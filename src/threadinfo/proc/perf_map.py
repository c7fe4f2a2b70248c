"""The file in which a program names the code that it made at run time: /tmp/perf-PID.map, as perf(1) reads it.

Java's, Node's and Python's virtual machines write it if they are asked to. It is the target's own, in its mount
namespace and by its own number. No link is followed.
"""

from __future__ import annotations

import os
import stat

from threadinfo.proc.file_status import is_on_a_server, open_directory
from threadinfo.proc.makers import parse_own_pids
from threadinfo.proc.reader import ProcDirectory, ProcError

_MOST_BYTES = 32 << 20


def read_perf_map(process: ProcDirectory) -> bytes | None:
    """The file of a process, or its first 32 MiB; None where there is none, or it is not to be read."""
    try:
        number = parse_own_pids(process.read("status").decode("utf-8", "replace"))[-1]
        directory = _open_tmp(process)
    except (ProcError, OSError, IndexError):
        return None
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        fd = os.open(f"perf-{number}.map", flags, dir_fd=directory)
    except OSError:
        return None
    finally:
        os.close(directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or is_on_a_server(fd):
            return None
        with open(fd, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)


def _open_tmp(process: ProcDirectory) -> int:
    root = process.root_descriptor()
    try:
        return open_directory("/tmp", root)  # noqa: S108 - where perf(1) looks
    finally:
        os.close(root)
