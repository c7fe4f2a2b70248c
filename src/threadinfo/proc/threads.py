"""The threads of a process: task/TID/stat, one read a thread, and where their own stacks lie."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from threadinfo.model import KernelAccount, Thread
from threadinfo.proc.process import STATE_NAMES, Machine, cpu_percent, read_stat
from threadinfo.proc.reader import MalformedLineError, ProcDirectory, ProcError, ProcGoneError


class ThreadListing(NamedTuple):
    """The threads that could be read, and how many ended while they were read."""

    threads: tuple[Thread, ...]
    vanished_count: int


def read_threads(
    process: ProcDirectory, machine: Machine, stack_bytes: int | None, thread_stack_bytes: dict[int, int]
) -> ThreadListing:
    """Reads task/*/stat. `stack_bytes` is VmStk; `thread_stack_bytes` is what `stack_mappings` found."""
    threads = []
    vanished_count = 0
    with process.directory("task") as tasks:
        for tid in tasks.numbers():
            try:
                stat = read_stat(tasks, f"{tid}/stat")
            except ProcGoneError:
                vanished_count += 1
                continue
            threads.append(
                Thread(
                    tid=tid,
                    name=stat.name,
                    state=stat.state,
                    state_name=STATE_NAMES.get(stat.state, "unknown"),
                    cpu_percent=cpu_percent(stat, machine),
                    runtime_seconds=stat.cpu_ticks / machine.ticks_per_second,
                    stack_bytes=stack_bytes,
                    thread_stack_bytes=thread_stack_bytes.get(tid),
                )
            )
    return ThreadListing(tuple(threads), vanished_count)


def read_thread_states(process: ProcDirectory) -> dict[int, str]:
    """The id and state letter of every thread; empty once the process has ended."""
    states = {}
    try:
        tids = process.numbers("task")
    except ProcGoneError:
        return {}
    for tid in tids:
        try:
            states[tid] = read_stat(process, f"task/{tid}/stat").state
        except ProcGoneError:
            continue
    return states


def read_kernel_account(process: ProcDirectory, tid: int) -> KernelAccount | None:
    """task/TID/schedstat, or zeroes where there is none, and task/TID/status; None once the thread has ended."""
    try:
        times = process.read(f"task/{tid}/schedstat").split()
    except ProcError:  # or the thread has ended: then there is no status either
        times = [b"0", b"0"]
    try:
        status = process.read(f"task/{tid}/status")
        # The name at the top has no newline: the kernel escapes it.
        state = status[status.index(b"\nState:\t") + 8 :][:1].decode("ascii")
        counts = status[status.index(b"\nvoluntary_ctxt_switches:") :].split()
        return KernelAccount(state, int(times[0]), int(times[1]), int(counts[1]), int(counts[3]))
    except (ProcError, ValueError, IndexError):
        return None


def read_thread_owner(root: ProcDirectory, tid: int) -> tuple[int | None, str] | None:
    """(PID, name) of a thread of any process; None once it has ended. /proc/TID is there though not listed."""
    try:
        name = root.read_text(f"{tid}/comm").removesuffix("\n")
        for line in root.read_text(f"{tid}/status").splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1]), name
    except (ProcError, ValueError, IndexError):
        return None
    return None, name


def parse_mappings(text: str) -> tuple[list[int], list[int]]:
    """/proc/PID/maps to the start and end addresses of the mappings, ascending; raises MalformedLineError."""
    starts, ends = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            start, end = line[: line.index(" ")].split("-")
            starts.append(int(start, 16))
            ends.append(int(end, 16))
        except ValueError:
            raise MalformedLineError(number, line) from None
    return starts, ends


def stack_mappings(process: ProcDirectory, stack_pointers: dict[int, int]) -> dict[int, int]:
    """For each thread whose stack pointer is known, the size of the mapping that holds it, in bytes."""
    if not stack_pointers:
        return {}
    starts, ends = process.parse("maps", parse_mappings)
    sizes = {}
    for tid, pointer in stack_pointers.items():
        index = bisect_right(starts, pointer) - 1
        if index >= 0 and pointer < ends[index]:
            sizes[tid] = ends[index] - starts[index]
    return sizes
