"""What this process may do, and what it is that forbids it something all the same."""

from __future__ import annotations

import os

CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""Their bits: include/uapi/linux/capability.h."""

_HOSTS_USER_NAMESPACE = "user:[4026531837]"  # include/linux/proc_ns.h, PROC_USER_INIT_INO
_SECURITY_MODULES = "/sys/kernel/security/lsm"
_PASSIVE_MODULES = {"capability", "lockdown", "yama", "integrity", "ima", "evm"}  # these refuse root none of our reads


def own_status(field: str) -> str:
    """A field of proc_pid_status(5), of this process; "" where there is none."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(f"{field}:")), "")
    except OSError:
        return ""


def has_capability(name: str) -> bool:
    """Whether it is effective: CapEff."""
    return bool(int(own_status("CapEff") or "0", 16) >> CAPABILITIES[name] & 1)


def has_hosts_rights() -> bool:
    """Whether capabilities are the host's: not inside a user namespace."""
    try:
        return os.readlink("/proc/self/ns/user") == _HOSTS_USER_NAMESPACE
    except OSError:
        return True


def has_filter() -> bool:
    """Whether a filter of system calls (seccomp) lies over this process."""
    return own_status("Seccomp") == "2"


def what_forbids() -> str:
    """What is left to refuse a root that has the capability and the host's rights, as far as the kernel tells."""
    try:
        with open(_SECURITY_MODULES, encoding="ascii", errors="replace") as file:
            modules = [name for name in file.read().strip().split(",") if name not in _PASSIVE_MODULES]
    except OSError:
        modules = []
    guards = [f"a security module of the kernel{f' ({chr(44).join(modules)})' if modules else ''}"]
    if has_filter():
        guards.append("the filter of system calls (seccomp) that this process runs under")
    return " or ".join(guards)


def more_rights(capability: str = "CAP_SYS_PTRACE") -> str:
    """What lets this process read what it may not; root is not told to become root, nor to take what it has."""
    if os.geteuid():
        return "run as root"
    if not has_capability(capability):
        return f"this root lacks {capability}: run it outside the container, or with --cap-add {capability[4:]}"
    if not has_hosts_rights():
        return "in a user namespace rights are not the host's: run it as root of the host"
    return f"this root has {capability}: {what_forbids()} refuses it all the same"
