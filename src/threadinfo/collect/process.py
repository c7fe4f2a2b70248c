"""Collects the report of one process: asks the collectors in turn and turns what they could not read into gaps."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TypeVar

import msgspec

from threadinfo.containment import contained
from threadinfo.errors import NotAvailableError, TargetEndedError
from threadinfo.model import Descriptor, Gap, Memory, ProcessReport, Report
from threadinfo.own_rights import more_rights
from threadinfo.proc import process as identity
from threadinfo.proc import serving
from threadinfo.proc.descriptors import read_descriptors
from threadinfo.proc.limits import read_limits
from threadinfo.proc.memory import read_distribution
from threadinfo.proc.process import Machine, Status, TaskStat
from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError, ProcGoneError
from threadinfo.proc.sockets import Ports
from threadinfo.proc.threads import read_threads, stack_mappings

T = TypeVar("T")


class CollectOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the report needs beyond the plain text, and what it may do to get it."""

    with_details: bool
    """Read fdinfo, each thread's system call and stack: JSON and -v show them, the plain text has no use for them."""
    may_borrow: bool
    """Ask a socket that no table knows through a borrowed duplicate."""
    ports: Ports
    """Roles of ports."""
    frequency: int = 99
    """Of a trace: how often a second each CPU is looked at."""
    debuginfod: tuple[str, ...] = ()
    """Of a trace: servers to ask for debug files that this host lacks."""
    with_stacks: bool = True
    """Of a trace: find where in the program descriptors are made and sockets used."""


def collect_report(root: ProcDirectory, pids: list[int], options: CollectOptions) -> Report:
    """The reports of several processes, in PID order; raises TargetEndedError where none is left to report."""
    machine = identity.read_machine(root)
    reports = []
    for pid in sorted(set(pids)):
        try:
            reports.append(collect_process(root, pid, machine, options))
        except TargetEndedError as problem:
            ended = problem
    if not reports:
        raise ended
    return Report(generated_at=timestamp(), processes=tuple(reports))


def timestamp() -> str:
    """Now: UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch of a time as a report has it; Python 3.10's own `fromisoformat` does not take the "Z"."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


class _Gaps:
    """Runs readers; one that fails leaves a gap and None, for a fault of ours too."""

    def __init__(self, remedy_for_denied: str) -> None:
        self.gaps: list[Gap] = []
        self._remedy_for_denied = remedy_for_denied

    def read(self, section: str, read: Callable[[], T], gone: str = "the process ended while it was read") -> T | None:
        try:
            with contained(section, self.gaps, but=(ProcError,)):
                return read()
        except ProcDeniedError as problem:
            self.gaps.append(Gap(section, str(problem), self._remedy_for_denied))
        except ProcGoneError as problem:
            self.gaps.append(Gap(section, f"{problem}: {gone}", None))
        except ProcError as problem:
            self.gaps.append(Gap(section, str(problem), None))
        return None


def collect_process(root: ProcDirectory, pid: int, machine: Machine, options: CollectOptions) -> ProcessReport:
    """The report of one process; raises TargetEndedError where nothing of it can be read any more."""
    gaps: list[Gap] = []
    try:
        with root.directory(str(pid)) as process, contained("process", gaps, but=(ProcError, OSError)):
            return _collect(process, pid, machine, options)
        return msgspec.structs.replace(unseen(pid, str(pid)), gaps=tuple(gaps))
    except ProcGoneError:
        raise TargetEndedError(f"process {pid} ended before it could be read") from None
    except ProcError as problem:  # who it is could not be read; of every other part a gap would tell
        raise NotAvailableError(f"cannot read {problem}") from None


def unseen(pid: int, name: str, command_line: tuple[str, ...] = ()) -> ProcessReport:
    """What is known of a process of which nothing could be read."""
    return ProcessReport(
        pid=pid,
        name=name,
        executable=None,
        command_line=command_line,
        user=None,
        started_at=None,
        memory=Memory(),
        threads=None,
        descriptors=None,
        limits=None,
    )


def refresh_process(
    process: ProcDirectory, earlier: ProcessReport, machine: Machine, options: CollectOptions
) -> ProcessReport:
    """The report a moment later, for a tenth of the cost: threads, memory's counters, and what was opened or closed.

    A descriptor that points to what it pointed to is taken from `earlier`, with its details, its socket's state and who
    serves it; so is everything else. `process` is the open directory of the same process; raises ProcGoneError, or
    TargetEndedError where it is a zombie: it has neither memory nor descriptors any more.
    """
    stat = identity.read_stat(process)
    if stat.state in identity.ENDED_STATES and stat.thread_count < 2:
        raise TargetEndedError(f"process {earlier.pid} has ended")
    living = _living_thread(process, stat)
    alive = living or process
    gaps = _Gaps("")  # those of `earlier` stay: what could not be read then cannot be read now
    try:
        status = gaps.read("memory", lambda: identity.read_status(alive))
        stacks = {thread.tid: thread.thread_stack_bytes for thread in earlier.threads or ()}
        stack_bytes = status.stack_bytes if status else None
        known_stacks = {tid: size for tid, size in stacks.items() if size is not None}
        listing = gaps.read("threads", lambda: read_threads(process, machine, stack_bytes, known_stacks))
        descriptors = earlier.descriptors
        if descriptors is not None:
            descriptors = gaps.read("descriptors", lambda: _refresh_descriptors(alive, earlier, options)) or descriptors
    finally:
        if living is not None:
            living.close()
    memory = earlier.memory
    if status is not None and status.resident_bytes is not None:
        memory = msgspec.structs.replace(
            memory,
            virtual_bytes=status.virtual_bytes,
            resident_bytes=status.resident_bytes,
            swap_bytes=status.swap_bytes,
            percent=100 * status.resident_bytes / machine.memory_bytes if machine.memory_bytes else None,
        )
    return msgspec.structs.replace(
        earlier, memory=memory, threads=listing.threads if listing else earlier.threads, descriptors=descriptors
    )


def _refresh_descriptors(
    process: ProcDirectory, earlier: ProcessReport, options: CollectOptions
) -> tuple[Descriptor, ...]:
    links = {fd: target for fd, target in process.links("fd") if isinstance(target, str)}
    kept = {
        descriptor.fd: descriptor
        for descriptor in earlier.descriptors or ()
        if links.get(descriptor.fd) == descriptor.target
    }
    if changed := links.keys() - kept.keys():
        found = read_descriptors(
            process,
            earlier.pid,
            options.ports,
            with_details=options.with_details,
            may_borrow=options.may_borrow,
            only=changed,
        )
        kept.update((descriptor.fd, descriptor) for descriptor in found.descriptors)
    return tuple(kept[fd] for fd in sorted(kept))


def _collect(process: ProcDirectory, pid: int, machine: Machine, options: CollectOptions) -> ProcessReport:
    stat = identity.read_stat(process)
    alive = _living_thread(process, stat)
    try:
        return _collect_from(process, alive or process, pid, stat, machine, options)
    finally:
        if alive is not None:
            alive.close()


def _living_thread(process: ProcDirectory, stat: TaskStat) -> ProcDirectory | None:
    """When the first thread has ended and others have not, memory and descriptors are only visible through those."""
    if stat.state != "Z" or stat.thread_count < 2:
        return None
    try:
        for tid in process.numbers("task"):
            if identity.read_stat(process, f"task/{tid}/stat").state not in identity.ENDED_STATES:
                return process.directory(f"task/{tid}")
    except ProcError:
        return None
    return None


def _collect_from(
    process: ProcDirectory,
    alive: ProcDirectory,
    pid: int,
    stat: TaskStat,
    machine: Machine,
    options: CollectOptions,
) -> ProcessReport:
    gaps = _Gaps(_remedy_for_denied(pid))
    status = gaps.read("memory", lambda: identity.read_status(alive))
    is_zombie = stat.state == "Z" and alive is process
    ended = "a zombie: it has ended and waits for its parent" if is_zombie else "the process ended while it was read"

    command_line = gaps.read("command line", lambda: identity.read_command_line(alive)) or ()
    executable = None
    if not (stat.is_kernel_thread or is_zombie):
        executable = gaps.read("executable", lambda: identity.read_executable(alive))

    memory = _collect_memory(alive, stat, status, machine, gaps, ended, is_zombie=is_zombie)

    calls: dict[int, serving.ThreadCall] = {}
    stacks: dict[int, int] = {}
    if options.with_details and not (stat.is_kernel_thread or is_zombie):
        tids = gaps.read("threads", lambda: process.numbers("task")) or []
        calls = gaps.read("who serves each descriptor", lambda: serving.read_calls(process, tids)) or {}
        pointers = {tid: call.stack_pointer for tid, call in calls.items()}
        stacks = gaps.read("thread stacks", lambda: stack_mappings(alive, pointers)) or {}

    stack_bytes = status.stack_bytes if status else None
    listing = gaps.read("threads", lambda: read_threads(process, machine, stack_bytes, stacks))
    if listing is not None and listing.vanished_count:
        gaps.gaps.append(Gap("threads", f"{listing.vanished_count} ended while they were read", None))

    descriptors = None
    if is_zombie:
        gaps.gaps.append(Gap("descriptors", f"the process is {ended}", None))
    else:
        found = gaps.read(
            "descriptors",
            lambda: read_descriptors(
                alive, pid, options.ports, with_details=options.with_details, may_borrow=options.may_borrow
            ),
            ended,
        )
        if found is not None:
            descriptors = found.descriptors
            gaps.gaps.extend(found.gaps)
    if descriptors and calls and listing is not None:
        if gaps.read("who serves each descriptor", lambda: serving.is_native(alive)):
            served, threads = descriptors, listing.threads
            descriptors = (
                gaps.read("who serves each descriptor", lambda: serving.attach_servers(alive, served, threads, calls))
                or descriptors
            )
        else:
            gaps.gaps.append(
                Gap("who serves each descriptor", "system call numbers of this kind of process are not known", None)
            )
    if descriptors and options.with_details:
        from threadinfo.proc.makers import attach_makers  # noqa: PLC0415 - the plain text has no use for it

        known = descriptors
        descriptors = gaps.read("who made each socket", lambda: attach_makers(alive, known)) or descriptors

    return ProcessReport(
        pid=pid,
        name=identity.full_name(stat.name, executable, command_line),
        executable=executable,
        command_line=command_line,
        user=identity.user_name(status.effective_uid) if status else None,
        started_at=identity.started_at(stat, machine),
        memory=memory,
        threads=listing.threads if listing is not None else None,
        descriptors=descriptors,
        limits=gaps.read("limits", lambda: read_limits(alive), ended),
        gaps=tuple(gaps.gaps),
    )


def _remedy_for_denied(pid: int) -> str:
    if os.geteuid():  # sudo does not search a virtual environment, hence the whole path
        return f'run as root: sudo "$(command -v threadinfo)" {pid}'
    return more_rights()


def _collect_memory(
    process: ProcDirectory,
    stat: TaskStat,
    status: Status | None,
    machine: Machine,
    gaps: _Gaps,
    ended: str,
    *,
    is_zombie: bool,
) -> Memory:
    if stat.is_kernel_thread or (is_zombie and status):  # neither has memory of its own: that is measured, not unknown
        if is_zombie:
            gaps.gaps.append(Gap("memory distribution", f"the process is {ended}", None))
        return Memory(virtual_bytes=0, resident_bytes=0, swap_bytes=0, percent=0.0)
    if status is None:
        return Memory()
    distribution = gaps.read("memory distribution", lambda: read_distribution(process), ended)
    resident, total = status.resident_bytes, machine.memory_bytes
    return Memory(
        virtual_bytes=status.virtual_bytes,
        resident_bytes=resident,
        swap_bytes=status.swap_bytes,
        percent=100 * resident / total if resident is not None and total else None,
        rss_bytes=distribution.rss_bytes if distribution else None,
        pss_bytes=distribution.pss_bytes if distribution else None,
        mapped_swap_bytes=distribution.swap_bytes if distribution else None,
    )
