"""What this host allows: each thing that tracing needs, its state, what its absence means, and what mends it.

For any user; nothing is compiled or attached, and bcc is looked for but not loaded.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
from pathlib import Path
from typing import Literal

from threadinfo.errors import NotAvailableError
from threadinfo.model import Check
from threadinfo.trace import loader
from threadinfo.trace.btf import BTF_PATH
from threadinfo.trace.libdw import INSTALL_LIBDW
from threadinfo.trace.machine import GRANT_CAPABILITIES, may_trace
from threadinfo.trace.scheduling import kernel_facts, possible_on_this_process

_CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}  # capability.h
_OLDEST_KERNEL = (5, 8)
_ROOT = 'sudo "$(command -v threadinfo)"'


def examine() -> tuple[Check, ...]:
    """All requirements, in the order in which tracing would stumble over them."""
    return (
        _privilege(),
        _pid_namespace(),
        _kernel(),
        _machine(),
        _lockdown(),
        _btf(),
        _tracepoints(),
        _bcc(),
        _library("LLVM through libbcc", "libbcc.so.0", "no tracing", loader.INSTALL_BCC),
        _library("libdw", "libdw.so.1", "no user stacks", INSTALL_LIBDW),
        _memory_lock(),
        _tracefs(),
    )


def _check(name: str, is_ok: bool | None, found: str, effect: str, remedy: str | None) -> Check:
    state: Literal["ok", "missing", "unknown"] = "unknown" if is_ok is None else "ok" if is_ok else "missing"
    return Check(name, state, found, effect, None if is_ok else remedy)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _privilege() -> Check:
    status = _read("/proc/self/status") or ""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    held = [name for name, bit in _CAPABILITIES.items() if effective >> bit & 1]
    is_root = os.geteuid() == 0
    found = ("root" if is_root else f"user {os.geteuid()}") + f", capabilities: {', '.join(held) or 'none of those'}"
    return _check("privilege", may_trace(), found, "no tracing", GRANT_CAPABILITIES if is_root else f"{_ROOT} doctor")


def _pid_namespace() -> Check:
    try:
        is_host = possible_on_this_process()
    except OSError:
        return _check("PID namespace", None, "not readable", "no tracing", None)
    found = "the host's" if is_host else "a container's: the kernel's thread numbers are not those of /proc"
    return _check("PID namespace", is_host, found, "no tracing", "run it on the host, or with the host's PID namespace")


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
        return _check("lockdown", True, "not built in, or securityfs is not mounted", "no tracing", None)
    match = re.search(r"\[(\w+)\]", text)
    mode = match[1] if match else "unknown"
    remedy = "boot without lockdown=confidentiality"
    return _check("lockdown", mode != "confidentiality", mode, "no tracing under confidentiality", remedy)


def _btf() -> Check:
    is_there = os.access(BTF_PATH, os.R_OK)
    return _check("BTF", is_there, BTF_PATH if is_there else "not there", "no tracing", "a kernel with BTF")


def _tracepoints() -> Check:
    try:
        _, attach, _ = kernel_facts()
    except NotAvailableError as problem:
        return _check("tracepoints", False, problem.message, "no tracing", problem.remedy)
    return _check("tracepoints", True, f"{len(attach)} raw tracepoints", "no tracing", None)


def _bcc() -> Check:
    package = loader.find_bcc()
    if package is None:
        return _check("bcc for Python", False, "not installed", "no tracing", loader.INSTALL_BCC)
    if not loader.is_bpf_compiler(package):
        found = f"{package} is another package of that name"
        return _check("bcc for Python", False, found, "no tracing", f"pip uninstall bcc, then {loader.INSTALL_BCC}")
    match = re.search(r"['\"]([\d.]+)", _read(str(package / "version.py")) or "")
    return _check("bcc for Python", True, f"{match[1] if match else 'version unknown'}, {package}", "no tracing", None)


def _library(name: str, file: str, effect: str, remedy: str) -> Check:
    try:
        ctypes.CDLL(file)
    except OSError:
        return _check(name, False, f"{file} is missing", effect, remedy)
    return _check(name, True, file, effect, None)


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
    return _check("tracefs", True, found, "nothing: only other tools need it", None)
