"""The descriptors of a process: proc_pid_fd(5) for what they are, proc_pid_fdinfo(5) for the details."""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from threadinfo.descriptor_kinds import BY_NAME, KIND_OF_MODE, KindName, kind_of_link
from threadinfo.model import Descriptor, Details, Gap
from threadinfo.own_rights import more_rights
from threadinfo.proc import describe, fdinfo
from threadinfo.proc.file_status import FileStatus
from threadinfo.proc.process import read_stat
from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError, ProcGoneError, ProcSilentError
from threadinfo.proc.sockets import FoundSocket, Ports, read_sockets

_DELETED = " (deleted)"
_MQUEUE_FILE_BYTES = 80  # ipc/mqueue.c, FILENT_SIZE


class DescriptorListing(NamedTuple):
    """The descriptors that could be read, and what could not."""

    descriptors: tuple[Descriptor, ...]
    gaps: tuple[Gap, ...]


class _Kind(NamedTuple):
    type: KindName
    description: str
    inode: int | None = None
    details: Details = {}  # noqa: RUF012 - never changed


def read_descriptors(
    process: ProcDirectory,
    pid: int,
    ports: Ports,
    *,
    with_details: bool,
    may_borrow: bool,
    only: Iterable[int] | None = None,
) -> DescriptorListing:
    """Lists fd/ once, and asks of each descriptor what its kind needs; `only`: of these numbers alone.

    Raises ProcError: where the directory may not be read, or none of its entries may.
    `with_details` reads fdinfo too: one file more a descriptor, which the plain text has no use for.
    """
    targets: list[tuple[int, str]] = []
    problems: list[ProcError] = []
    sockets: defaultdict[int, list[int]] = defaultdict(list)
    for fd, target in process.links("fd", only):
        if isinstance(target, ProcError):
            problems.append(target)
            continue
        targets.append((fd, target))
        if target.startswith("socket:["):
            sockets[_bracketed(target)].append(fd)
    if problems and not targets and all(isinstance(problem, ProcDeniedError) for problem in problems):
        raise problems[0]  # an empty list would say that it has none
    found, gaps = read_sockets(process, pid, sockets, ports, may_borrow=may_borrow)
    mqueue = _MessageQueues(process)
    doubts: list[ProcError] = []
    descriptors = []
    for fd, target in targets:
        try:
            descriptors.append(_read_descriptor(process, fd, target, found, mqueue, doubts, with_details=with_details))
        except ProcError as problem:
            problems.append(problem)
    if with_details:
        _join_pipes(descriptors)
        _name_bpf_objects(descriptors)
        _name_watches(process, descriptors)
    gaps.extend(_gaps(problems))
    if doubts:
        remedy = None
        if any(isinstance(doubt, ProcSilentError) for doubt in doubts):
            remedy = "see whether the server of that file system runs"
        gaps.append(Gap("descriptors", f"{len(doubts)} known by name alone, for example {doubts[0]}", remedy))
    return DescriptorListing(tuple(descriptors), tuple(gaps))


def _gaps(problems: list[ProcError]) -> list[Gap]:
    """One line for each way in which descriptors were lost, with how many."""
    gaps = []
    gone = sum(isinstance(problem, ProcGoneError) for problem in problems)
    if gone:
        gaps.append(Gap("descriptors", f"{gone} closed while they were read", None))
    denied = [problem for problem in problems if isinstance(problem, ProcDeniedError)]
    if denied:
        gaps.append(Gap("descriptors", f"{len(denied)} not readable, for example {denied[0]}", more_rights()))
    others = [problem for problem in problems if not isinstance(problem, ProcGoneError | ProcDeniedError)]
    if others:
        gaps.append(Gap("descriptors", f"{len(others)} not readable, for example {others[0]}", None))
    return gaps


def _bracketed(target: str) -> int:
    """``"socket:[123]"`` to 123; 0 where there is no number."""
    digits = target[target.find("[") + 1 : -1]
    return int(digits) if digits.isdecimal() else 0


def _read_descriptor(
    process: ProcDirectory,
    fd: int,
    target: str,
    sockets: Mapping[int, FoundSocket],
    mqueue: _MessageQueues,
    doubts: list[ProcError],
    *,
    with_details: bool,
) -> Descriptor:
    sock = None
    if target.startswith("socket:["):
        inode = _bracketed(target)
        sock, extra = sockets[inode]
        kind = _Kind("socket", describe.describe_socket(sock, extra, inode), inode, extra)
    elif target[:1] == "/":
        kind = _classify_path(process, fd, target, mqueue, doubts)
    else:
        kind = _classify_special(target)
    details = kind.details
    if with_details:
        if sock is not None:
            from threadinfo.proc.explain import explain_socket  # noqa: PLC0415 - the plain text has no use for it

            words, is_ambiguous = explain_socket(sock, details)
            sock = msgspec.structs.replace(sock, explanation=words, ambiguous=is_ambiguous)
        details = details | _read_details(process, fd, kind.type)
    return Descriptor(
        fd=fd,
        type=kind.type,
        target=target,
        description=kind.description,
        inode=kind.inode,
        details=details,
        socket=sock,
    )


def _classify_special(target: str) -> _Kind:
    """A target that is no path: the kernel made the name."""
    kind = kind_of_link(target)
    prefix, _, rest = target.partition(":")
    if prefix == "anon_inode":
        return _Kind(kind.name, kind.words if kind.name != "anon_inode" else f"{kind.words}: {rest}")
    words = f"{describe.NAMESPACES[prefix]} {target}" if kind.name == "namespace" else target
    return _Kind(kind.name, kind.words if kind.name == "pidfd" else words, _bracketed(target) or None)


def _classify_path(
    process: ProcDirectory, fd: int, target: str, mqueue: _MessageQueues, doubts: list[ProcError]
) -> _Kind:
    """A target that looks like a path. What it is, is asked of the open file itself: the path may lie."""
    try:
        status = process.stat(f"fd/{fd}")
    except (ProcGoneError, ProcDeniedError):
        raise
    except ProcError as problem:  # its file system does not answer, or knows it no more
        doubts.append(problem)
        return _Kind("other", target)
    mode, inode = status.mode, status.inode
    by_mode = BY_NAME[KIND_OF_MODE.get(stat.S_IFMT(mode), "file")]
    match by_mode.name:
        case "device" if stat.S_ISCHR(mode) and kind_of_link(target).name == "terminal":
            return _Kind("terminal", BY_NAME["terminal"].words, inode)
        case "device":
            return _Kind("device", describe.DEVICES.get(target, target) if stat.S_ISCHR(mode) else target, inode)
        case "directory":
            details: Details = {} if status.link_count else {"deleted": True}
            return _Kind("directory", f"{by_mode.words}: {target}", inode, details)
        case "fifo" | "symlink":
            return _Kind(by_mode.name, f"{by_mode.words}: {target}", inode)
    if stat.S_ISSOCK(mode):  # opened with O_PATH: the name of a socket, not a socket
        return _Kind("file", f"socket file: {target}", inode)
    details = {"size_bytes": status.size_bytes}
    if target.endswith(_DELETED) and target.startswith("/memfd:"):
        name = target.removeprefix("/memfd:").removesuffix(_DELETED)
        return _Kind("memfd", f"{BY_NAME['memfd'].words}: {name}", inode, details | {"name": name})
    if target == f"/secretmem{_DELETED}":
        return _Kind("memfd_secret", BY_NAME["memfd_secret"].words, inode, details)
    name = target.removesuffix(_DELETED) if status.link_count == 0 else target
    if status.size_bytes == _MQUEUE_FILE_BYTES and name.count("/") == 1 and mqueue.holds(status):
        if status.link_count:
            return _Kind("mqueue", f"message queue: {name}", inode, {"name": name})
        return _Kind("mqueue", f"message queue: {name} (removed)", inode, {"name": name, "deleted": True})
    if target.endswith(_DELETED) and (status.link_count == 0 or not _is_still_there(process, target, inode, doubts)):
        return _deleted(target.removesuffix(_DELETED), inode, details, status.block_count * 512, status.link_count)
    return _Kind("file", f"file: {target}", inode, details)


def _deleted(path: str, inode: int, details: Details, held_bytes: int, link_count: int) -> _Kind:
    details = details | {"deleted": True, "held_bytes": held_bytes}
    directory, _, name = path.rpartition("/")
    if name == f"#{inode}":  # fs/namei.c, O_TMPFILE: the name is the inode's number
        return _Kind("file", f"unnamed temporary file in {directory or '/'} ({held_bytes} bytes held)", inode, details)
    if link_count:
        return _Kind("file", f"file: {path} (removed, another name of it exists)", inode, details)
    return _Kind("file", f"deleted file: {path} ({held_bytes} bytes held)", inode, details)


def _is_still_there(process: ProcDirectory, path: str, inode: int, doubts: list[ProcError]) -> bool:
    """Whether the path, taken literally, leads to this file: then its name really ends in " (deleted)"."""
    try:
        return process.stat_patiently(f"root{path}").inode == inode
    except ProcSilentError as problem:
        doubts.append(problem)
        return True
    except ProcError:
        return False


class _MessageQueues:
    """Tells a POSIX message queue (mq_overview(7)) from a file in the root directory: by the device it is on."""

    def __init__(self, process: ProcDirectory) -> None:
        self._process = process
        self._devices: dict[str, str] | None = None

    def holds(self, status: FileStatus) -> bool:
        """True on a device that mountinfo calls mqueue, or that is mounted nowhere (as /dev/mqueue often is)."""
        if self._devices is None:
            self._devices = {}
            try:
                for line in self._process.read_text("mountinfo").splitlines():
                    fields = line.split(" ")
                    self._devices[fields[2]] = fields[fields.index("-") + 1]
            except (ProcError, ValueError, IndexError):
                return False
        return self._devices.get(f"{status.device_major}:{status.device_minor}", "mqueue") == "mqueue"


def _read_details(process: ProcDirectory, fd: int, kind: str) -> Details:
    details = process.parse(f"fdinfo/{fd}", lambda text: fdinfo.parse_details(kind, text))
    if kind == "pidfd" and details["alive"]:  # fdinfo has the number until the zombie is reaped
        with suppress(ProcError):
            details = details | {"alive": read_stat(process, f"../{details['pid']}/stat").state not in {"Z", "X"}}
    return details


def _join_pipes(descriptors: list[Descriptor]) -> None:
    """Adds to each pipe and FIFO the descriptors of the process that hold its other end."""
    ends: defaultdict[int | None, list[tuple[int, object]]] = defaultdict(list)
    for descriptor in descriptors:
        if descriptor.type in {"pipe", "fifo"}:
            ends[descriptor.inode].append((descriptor.fd, descriptor.details["access"]))
    for index, descriptor in enumerate(descriptors):
        if descriptor.type in {"pipe", "fifo"}:
            details = descriptor.details
            others = [fd for fd, access in ends[descriptor.inode] if access not in {details["access"], "path only"}]
            descriptors[index] = msgspec.structs.replace(descriptor, details=details | {"other_end_fds": others})


def _name_watches(process: ProcDirectory, descriptors: list[Descriptor]) -> None:
    """Adds the paths that inotify instances watch, of those that can be found."""
    if not any(descriptor.details.get("watches") for descriptor in descriptors):
        return
    from threadinfo.proc.watches import WatchedPaths  # noqa: PLC0415 - needs ctypes, which most reports do not

    paths = WatchedPaths(process, descriptors)
    for index, descriptor in enumerate(descriptors):
        if descriptor.details.get("watches"):
            watches = paths.name(descriptor)
            descriptors[index] = msgspec.structs.replace(descriptor, details=descriptor.details | {"watches": watches})


def _name_bpf_objects(descriptors: list[Descriptor]) -> None:
    """Adds the names of BPF maps and programs, which only bpf(2) tells, and only to root."""
    if not any(descriptor.type in {"bpf_map", "bpf_program"} for descriptor in descriptors):
        return
    from threadinfo.proc.bpf_names import bpf_object_name  # noqa: PLC0415 - needs ctypes, which most reports do not

    for index, descriptor in enumerate(descriptors):
        if descriptor.type in {"bpf_map", "bpf_program"}:
            name = bpf_object_name(descriptor.type, int(str(descriptor.details["id"])))
            descriptors[index] = msgspec.structs.replace(descriptor, details=descriptor.details | {"name": name})
