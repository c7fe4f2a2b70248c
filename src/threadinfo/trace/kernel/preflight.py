"""Whether this process may trace: each thing is tried on the smallest scale, before anything large is loaded."""

from __future__ import annotations

import errno
import mmap
import os
import platform

from threadinfo.errors import MORE_FILES, TOO_MANY_FILES, NotAvailableError, more_memory, out_of_memory
from threadinfo.own_rights import has_filter, has_hosts_rights, what_forbids
from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.machine import (
    CAPABILITIES_NEEDED,
    GRANT_CAPABILITIES,
    may_trace,
    possible_on_this_process,
)

NEEDED_MEMORY_BYTES = 400 << 20
"""Of address space, besides what an interpreter has: LLVM alone takes 300 MiB."""
NEEDED_FILES = 40
"""Open at once, of ours: with fewer no trace was ever made."""

_MAP_NORESERVE = 0x4000  # asm-generic/mman.h

_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")


def check_privilege() -> None:
    """Raises NotAvailableError, with the remedy, where tracing cannot work; before anything is compiled."""
    if not may_trace():
        if os.geteuid() == 0:
            raise NotAvailableError(f"tracing needs {CAPABILITIES_NEEDED}, which this root lacks", GRANT_CAPABILITIES)
        raise NotAvailableError(
            "tracing needs root",
            f'sudo "$(command -v threadinfo)" ... (or {CAPABILITIES_NEEDED}); see threadinfo doctor',
        )
    if not possible_on_this_process():
        raise NotAvailableError(
            "tracing needs the host's PID namespace: here the kernel's thread numbers are not those of /proc",
            "run it on the host, or in a container with the host's PID namespace",
        )
    try_bpf()
    try_memory()


def try_bpf() -> None:
    """Makes the maps that we need, loads a program and attaches it, and undoes it all; raises NotAvailableError."""
    if platform.machine() not in bpf.MACHINES:
        raise NotAvailableError(f"tracing knows {' and '.join(bpf.MACHINES)}, and this is {platform.machine()}")
    opened: list[int] = []
    doing = "make a BPF map"
    try:
        opened.append(bpf.create_map(bpf.ARRAY, 4, 8, 1, bpf.MAPPABLE))
        doing = "map a BPF map"
        mmap.mmap(opened[-1], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ).close()
        doing = "make a BPF ring buffer"
        opened.append(bpf.create_map(bpf.RING_BUFFER, 0, 0, mmap.PAGESIZE))
        doing = "load a BPF program"
        opened.append(bpf.load_program(_RETURN_0))
        doing = "attach a BPF program to a raw tracepoint"
        opened.append(bpf.attach_raw_tracepoint("sched_switch", opened[-1]))
    except OSError as problem:
        raise _explain(doing, problem.errno or errno.EIO) from None
    finally:
        for fd in opened:
            os.close(fd)


def _explain(doing: str, number: int) -> NotAvailableError:
    message = f"the kernel does not let us {doing}: {os.strerror(number)}"
    if number in {errno.EMFILE, errno.ENFILE}:
        return NotAvailableError(TOO_MANY_FILES, MORE_FILES)
    if number == errno.ENOMEM:
        return NotAvailableError(message, more_memory())
    if number in {errno.EPERM, errno.EACCES}:
        if not has_hosts_rights():
            return NotAvailableError(
                f"{message}: in a user namespace rights are not the host's",
                "run it as root of the host, outside of the user namespace (rootless container, unshare -U)",
            )
        if has_filter():
            return NotAvailableError(
                message, "it is forbidden to this process: run it outside the container, or with seccomp=unconfined"
            )
        return NotAvailableError(message, f"{what_forbids()} refuses it, or the kernel is locked down (lockdown)")
    if number in {errno.ENOSYS, errno.EINVAL}:
        return NotAvailableError(message, "a kernel with CONFIG_BPF_SYSCALL, Linux 5.8 or later")
    return NotAvailableError(message)


def try_memory() -> None:
    """Takes as much address space as a trace does, and gives it back; raises NotAvailableError."""
    try:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        mmap.mmap(-1, NEEDED_MEMORY_BYTES, flags=flags, prot=0).close()
    except OSError as problem:
        if problem.errno != errno.ENOMEM:
            raise
        raise out_of_memory() from None


def try_files() -> None:
    """Opens as many files as a trace needs, and closes them; raises NotAvailableError."""
    opened: list[int] = []
    try:
        for _ in range(NEEDED_FILES):
            opened.append(os.open("/proc/self", os.O_PATH | os.O_CLOEXEC))
    except OSError as problem:
        if problem.errno != errno.EMFILE:
            raise
        raise NotAvailableError(TOO_MANY_FILES, MORE_FILES) from None
    finally:
        for fd in opened:
            os.close(fd)
