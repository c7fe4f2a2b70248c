"""What this host allows: each thing that tracing needs, its state, what its absence means, and what mends it.

For any user. Things are tried rather than inferred: maps are made, a program is loaded and attached, types are read,
libraries loaded, memory and files taken. Only the compiler is not run: the command's rehearsal does that.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from threadinfo.errors import NotAvailableError, explain
from threadinfo.model import Check
from threadinfo.own_rights import CAPABILITIES, has_hosts_rights, more_rights
from threadinfo.trace.kernel import compiler, preflight
from threadinfo.trace.kernel.btf import BTF_PATH, KernelTypes
from threadinfo.trace.kernel.machine import (
    CAPABILITIES_NEEDED,
    GRANT_CAPABILITIES,
    cpu_count,
    may_trace,
    pid_limit,
    possible_on_this_process,
)
from threadinfo.trace.stacks.libdw import Libraries
from threadinfo.tracers import TRACERS

_OLDEST_KERNEL = (5, 8)
_ROOT = 'sudo "$(command -v threadinfo)"'
_NO_TRACING = "no tracing"
_CLOSED_TO_ANYBODY = 0.1  # of all processes: a security module may protect a few, whatever rights one has


class Others(Protocol):
    """What may be read of other processes."""

    @property
    def process_count(self) -> int: ...  # noqa: D102
    @property
    def closed_count(self) -> int: ...  # noqa: D102
    @property
    def hides_first(self) -> bool: ...  # noqa: D102


def examine(others: Others | None = None) -> tuple[Check, ...]:
    """All requirements, in the order in which tracing would stumble over them."""
    privilege, namespace = _privilege(), _pid_namespace()
    may = privilege.state == "ok"
    checks = [privilege, namespace, *([] if others is None else [_others(others)]), _kernel(), _machine(), _lockdown()]
    memory = _try("memory", "room for a trace", preflight.try_memory)
    checks.append(memory)
    checks.append(_try("open files", f"{preflight.NEEDED_FILES} more may be opened", preflight.try_files))
    checks.append(_try("CPUs and PIDs", lambda: f"{cpu_count()} CPUs, PIDs below {pid_limit()}"))
    if may:  # or it would say again what privilege said
        checks.append(_try("BPF", "a program was loaded, attached and detached", preflight.try_bpf))
    checks.append(_try("BTF", _read_types))
    if memory.state == "ok":
        checks.append(_try("tracepoints", _read_tracepoints))
    else:  # OpenBLAS ends the process that has no room for it
        checks.append(_check("tracepoints", None, "not tried: that takes more memory", _NO_TRACING, None))
    checks += [_bcc(), _try("LLVM through libbcc", "libbcc was loaded", compiler.load_bcc)]
    checks.append(_try("libdw", "loaded", Libraries, effect="no user stacks", is_required=False))
    checks += [_temporary_files(), _memory_lock(), _tracefs()]
    return tuple(checks)


def _check(
    name: str, is_ok: bool | None, found: str, effect: str, remedy: str | None, *, is_required: bool = True
) -> Check:
    state: Literal["ok", "missing", "unknown"] = "unknown" if is_ok is None else "ok" if is_ok else "missing"
    return Check(name, state, found, effect, None if is_ok else remedy, is_required)


def _try(
    name: str,
    found: str | Callable[[], str],
    do: Callable[[], object] | None = None,
    *,
    effect: str = _NO_TRACING,
    is_required: bool = True,
) -> Check:
    """What doing it says; a function for `found` is what is done."""
    try:
        if do is not None:
            do()
        words = found if isinstance(found, str) else found()
    except (OSError, MemoryError, ImportError) as problem:
        explained = explain(problem)
        return _check(name, False, explained.message, effect, explained.remedy, is_required=is_required)
    except NotAvailableError as problem:
        return _check(name, False, problem.message, effect, problem.remedy, is_required=is_required)
    return _check(name, True, words, effect, None, is_required=is_required)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _others(others: Others) -> Check:
    open_count = others.process_count - others.closed_count
    found = f"{open_count} of {others.process_count} may be looked into"
    if others.hides_first:
        found += "; /proc hides some (hidepid=2)"
    remedy = f"{_ROOT} doctor (or CAP_SYS_PTRACE)" if os.geteuid() else more_rights()
    effect = "of the others descriptors, memory maps and stacks stay unknown"
    is_ok = others.closed_count <= others.process_count * _CLOSED_TO_ANYBODY and not others.hides_first
    return _check("other processes", is_ok, found, effect, remedy, is_required=False)


def _privilege() -> Check:
    status = _read("/proc/self/status") or ""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    held = [name for name, bit in CAPABILITIES.items() if effective >> bit & 1]
    is_root = os.geteuid() == 0
    found = ("root" if is_root else f"user {os.geteuid()}") + f", capabilities: {', '.join(held) or 'none of those'}"
    found += "" if has_hosts_rights() else " (in a user namespace, not the host's)"
    found += "" if (may := may_trace()) else f"; it takes {CAPABILITIES_NEEDED}"
    return _check("privilege", may, found, _NO_TRACING, GRANT_CAPABILITIES if is_root else f"{_ROOT} doctor")


def _pid_namespace() -> Check:
    try:
        is_host = possible_on_this_process()
    except OSError:
        return _check("PID namespace", None, "not readable", _NO_TRACING, None)
    found = "the host's" if is_host else "a container's: the kernel's thread numbers are not those of /proc"
    return _check("PID namespace", is_host, found, _NO_TRACING, "run it on the host, or with the host's PID namespace")


def _kernel() -> Check:
    release = os.uname().release
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else None
    is_ok = None if version is None else version >= _OLDEST_KERNEL
    return _check("kernel", is_ok, f"Linux {release}", "no tracing before 5.8 (ring buffer)", "a newer kernel")


def _machine() -> Check:
    machine = platform.machine()
    is_ok = True if machine == "x86_64" else None if machine == "aarch64" else False
    found = machine + (" (compiled for it, not measured)" if machine == "aarch64" else "")
    return _check("machine", is_ok, found, "no tracing on machines other than x86_64 and aarch64", None)


def _lockdown() -> Check:
    text = _read("/sys/kernel/security/lockdown")
    if text is None:
        return _check("lockdown", True, "not built in, or securityfs is not mounted", _NO_TRACING, None)
    match = re.search(r"\[(\w+)\]", text)
    mode = match[1] if match else "unknown"
    remedy = "boot without lockdown=confidentiality"
    return _check("lockdown", mode != "confidentiality", mode, "no tracing under confidentiality", remedy)


def _read_types() -> str:
    with KernelTypes() as types:
        at = types.offset("task_struct", "pid")
    if at is None:
        raise NotAvailableError(f"{BTF_PATH} knows no task_struct.pid", "a kernel with BTF")
    return f"{BTF_PATH}: task_struct.pid at {at}"


def _read_tracepoints() -> str:
    """What every tracer needs of the kernel: loads them, and NumPy, which takes memory."""
    counts = []
    for registered in TRACERS:
        try:
            counts.append(f"{registered.load().check_kernel()} for {registered.watches[0]}")
        except NotAvailableError as problem:
            if not registered.is_optional:
                raise
            counts.append(f"no {registered.watches[0]} ({problem.message})")
    return ", ".join(counts)


def _temporary_files() -> Check:
    effect = "a stream to a slow file keeps at most 64 MiB of events, and --debuginfod fetches nothing"
    name, remedy = "temporary files", "mount -t tmpfs tmpfs /tmp, or set TMPDIR to a directory that may be written to"
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
    except OSError as problem:
        return _check(name, False, f"none can be made: {problem.strerror}", effect, remedy, is_required=False)
    return _check(name, True, f"in {tempfile.gettempdir()}", effect, None, is_required=False)


def _bcc() -> Check:
    package = compiler.find_bcc()
    if package is None:
        return _check("bcc for Python", False, "not installed", _NO_TRACING, compiler.INSTALL_BCC)
    if not compiler.is_bpf_compiler(package):
        found = f"{package} is another package of that name"
        return _check("bcc for Python", False, found, _NO_TRACING, f"pip uninstall bcc, then {compiler.INSTALL_BCC}")
    match = re.search(r"['\"]([\d.]+)", _read(str(package / "version.py")) or "")
    return _check("bcc for Python", True, f"{match[1] if match else 'version unknown'}, {package}", _NO_TRACING, None)


def _memory_lock() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} kB"
    effect = "maps are refused before Linux 5.11, where they count against this limit"
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    counts = release is not None and (int(release[1]), int(release[2])) < (5, 11)
    is_ok = not counts or soft == resource.RLIM_INFINITY
    return _check("memory lock limit", is_ok, found, effect, "ulimit -l unlimited")


def _tracefs() -> Check:
    is_mounted = os.path.exists("/sys/kernel/tracing/events") or os.path.exists("/sys/kernel/debug/tracing/events")
    found = "mounted" if is_mounted else "not mounted, and not needed: raw tracepoints do without it"
    return _check("tracefs", True, found, "nothing: only other tools need it", None, is_required=False)
