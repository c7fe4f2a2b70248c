"""From what the user typed to processes: a PID, or a name compared literally with the kernel's."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex

from threadinfo.cli.group import meant_command
from threadinfo.cli.nearest import nearest
from threadinfo.cli.say import print_error
from threadinfo.errors import (
    MORE_FILES,
    BadInputError,
    NotAvailableError,
    ProcessNotFoundError,
    ThreadinfoError,
)
from threadinfo.own_rights import more_rights
from threadinfo.proc.process import COMM_CHARACTERS, full_name
from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError, ProcGoneError, decode

_LARGEST_PID = 1 << 22  # proc_sys_kernel(5), pid_max
_PROC_PATH = re.compile(r"/proc/(\d{1,7})(?:/|$)", re.ASCII)


def find_processes(root: ProcDirectory, target: str) -> list[int]:
    """The PIDs that a TARGET means, ascending; raises ProcessNotFoundError."""
    if not target:
        raise BadInputError("TARGET is empty", "give a PID or the name of an executable")
    return [_find_pid(root, target)] if target.isascii() and target.isdecimal() else _find_name(root, target)


def _not_found(root: ProcDirectory, target: str) -> ProcessNotFoundError:
    name = decode(os.fsencode(target))
    return ProcessNotFoundError(f"Process {name} not found", _hint(root, target, name))


def _hint(root: ProcDirectory, target: str, name: str) -> str | None:
    """What was probably meant."""
    if target.isdecimal():
        return None
    if match := _PROC_PATH.match(target):
        return f"a process is named by its number: threadinfo {match[1]}"
    if os.path.isfile(target):
        return _hint_of_file(root, target)
    names = [] if "/" in target else _read_names(root)
    process = nearest(name, names)
    meant = [words for words in (meant_command(target), process and f"the process {process}") if words]
    if meant:
        return f"no process is called {name}; did you mean {' or '.join(meant)}?"
    return "a TARGET is a PID or a name, and this is a path" if "/" in target else None


def _hint_of_file(root: ProcDirectory, path: str) -> str | None:
    name = os.path.basename(path)
    if "/" in path and name[:COMM_CHARACTERS] in _read_names(root):
        return f"a path is no TARGET; by its name: threadinfo {shlex.quote(name)}"
    if path.endswith(".json"):
        return f"a saved report: threadinfo show {shlex.quote(path)}"
    if "/" in path and os.access(path, os.X_OK):
        return f"no process executes it; to start it: threadinfo run -- {shlex.quote(path)}"
    return "a TARGET is a PID or a name, and this is a file"


def _read_names(root: ProcDirectory) -> set[str]:
    """The kernel's names of all processes but this one, as far as they may be read."""
    names = set()
    for pid in root.numbers():
        if pid != os.getpid():
            with contextlib.suppress(ProcError):
                names.add(decode(root.read(f"{pid}/comm").removesuffix(b"\n")))
    return names


def _remedy() -> str:
    return 'run as root: sudo "$(command -v threadinfo)" ...' if os.geteuid() else more_rights()


def _find_pid(root: ProcDirectory, target: str) -> int:
    """A PID; the id of another thread than the first means the process it belongs to."""
    pid = int(target) if len(target) <= len(str(_LARGEST_PID)) else 0
    try:
        if not pid:
            raise _not_found(root, target)
        for line in root.read_text(f"{pid}/status").splitlines():
            if line.startswith("Tgid:"):
                owner = int(line.split()[1])
                return owner if 0 < owner <= _LARGEST_PID else pid
    except ProcDeniedError as problem:
        raise NotAvailableError(f"cannot read {problem}", _remedy()) from None
    except (ProcGoneError, ValueError, IndexError):
        raise _not_found(root, target) from None
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
        raise _not_found(root, target)
    return pids


def find_same_name(root: ProcDirectory, name: str) -> list[int]:
    """The processes that the kernel calls so, ascending, as far as that may be read."""
    found = []
    for pid in root.numbers():
        with contextlib.suppress(ProcError):
            if pid != os.getpid() and decode(root.read(f"{pid}/comm").removesuffix(b"\n")) == name:
                found.append(pid)
    return found


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
