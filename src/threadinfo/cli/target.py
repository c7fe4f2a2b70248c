"""From what the user typed to processes: a PID, or a name compared literally with the kernel's."""

from __future__ import annotations

import errno
import os

from threadinfo.cli.say import print_error
from threadinfo.errors import (
    MORE_FILES,
    BadInputError,
    NotAvailableError,
    ProcessNotFoundError,
    ThreadinfoError,
)
from threadinfo.proc.process import COMM_CHARACTERS, full_name
from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError, ProcGoneError, decode
from threadinfo.proc.rights import more_rights

_LARGEST_PID = 1 << 22  # proc_sys_kernel(5), pid_max


def find_processes(root: ProcDirectory, target: str) -> list[int]:
    """The PIDs that a TARGET means, ascending; raises ProcessNotFoundError."""
    if not target:
        raise BadInputError("TARGET is empty", "give a PID or the name of an executable")
    return [_find_pid(root, target)] if target.isascii() and target.isdecimal() else _find_name(root, target)


def _not_found(target: str) -> ProcessNotFoundError:
    return ProcessNotFoundError(f"Process {decode(os.fsencode(target))} not found")


def _remedy() -> str:
    return 'run as root: sudo "$(command -v threadinfo)" ...' if os.geteuid() else more_rights()


def _find_pid(root: ProcDirectory, target: str) -> int:
    """A PID; the id of another thread than the first means the process it belongs to."""
    pid = int(target) if len(target) <= len(str(_LARGEST_PID)) else 0
    try:
        if not pid:
            raise _not_found(target)
        for line in root.read_text(f"{pid}/status").splitlines():
            if line.startswith("Tgid:"):
                owner = int(line.split()[1])
                return owner if 0 < owner <= _LARGEST_PID else pid
    except ProcDeniedError as problem:
        raise NotAvailableError(f"cannot read {problem}", _remedy()) from None
    except (ProcGoneError, ValueError, IndexError):
        raise _not_found(target) from None
    except ProcError as problem:
        raise NotAvailableError(f"cannot read {problem}") from None
    return pid


def _find_name(root: ProcDirectory, target: str) -> list[int]:
    import psutil  # noqa: PLC0415 - a PID needs no search, and the import takes longer than reading a process

    psutil.PROCFS_PATH = root.path
    name = decode(os.fsencode(target))
    pids = []
    hidden_count = 0
    for pid in psutil.pids():
        try:
            if pid != os.getpid() and _has_name(root, pid, name):
                pids.append(pid)
        except ProcDeniedError:  # /proc is mounted with hidepid=1
            hidden_count += 1
    if not pids and hidden_count:
        raise NotAvailableError(f"no process {name} among those that may be read; {hidden_count} may not", _remedy())
    if not pids:
        raise _not_found(target)
    return pids


def _has_name(root: ProcDirectory, pid: int, name: str) -> bool:
    """Literally; a name that the kernel cut off is completed from the executable, or from argv[0] where denied.

    Raises ProcDeniedError where not even the kernel's name may be read.
    """
    try:
        kernel_name = decode(root.read(f"{pid}/comm").removesuffix(b"\n"))
        if kernel_name == name:
            return True
        if len(kernel_name.encode()) < COMM_CHARACTERS or not name.startswith(kernel_name):
            return False
        try:
            executable = root.link(f"{pid}/exe")
        except ProcError:
            executable = None
        argument = decode(root.read(f"{pid}/cmdline").split(b"\0")[0])
        return full_name(kernel_name, executable, (argument,)) == name
    except ProcDeniedError:
        raise
    except ProcError:  # ended meanwhile
        return False


def open_root(path: str) -> ProcDirectory:
    """The root of /proc; raises NotAvailableError where there is none, or an empty one."""
    try:
        root = ProcDirectory(path)
        if not root.numbers():
            raise NotAvailableError(f"{path} shows no process", "mount it: mount -t proc proc PATH")
    except ProcError as problem:
        is_limit = problem.cause == os.strerror(errno.EMFILE)
        remedy = MORE_FILES if is_limit else "mount it: mount -t proc proc PATH"
        raise NotAvailableError(f"cannot read {problem}", remedy) from None
    return root


def find_all(root: ProcDirectory, targets: tuple[str, ...]) -> tuple[list[int], list[ThreadinfoError]]:
    """The PIDs of all targets, and the error of each that matched none; raises where not a single one matched."""
    pids: list[int] = []
    missing: list[ThreadinfoError] = []
    for target in dict.fromkeys(targets):
        try:
            pids += find_processes(root, target)
        except (ProcessNotFoundError, NotAvailableError) as problem:
            missing.append(problem)
    if not pids:
        for other in missing[:-1]:
            print_error(other)
        raise missing[-1]
    return pids, missing
