"""What threads were blocked for, and the locks among it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from threadinfo.model.scheduling import WokenBy


class WaitObject(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread waited for."""

    kind: Literal["descriptor", "futex", "lock", "child", "time", "none"]
    """"lock": a futex that looks like a contended mutex. "none": the call names none, or more than one."""
    fd: int | None = None
    inode: int | None = None
    """Of the file that the descriptor was; null where that is not known."""
    is_reused: bool = False
    """Whether the number was more files, one after the other, than were told apart."""
    address: int | None = None
    """Of a futex or lock."""
    pid: int | None = None
    """Of a child; null where the thread waits for any."""
    description: str | None = None
    """Of a descriptor, as it is listed; null where it is not open any more, or is another file by now."""


class LockHolder(msgspec.Struct, frozen=True):
    """Who had a lock when others began to wait for it."""

    pid: int | None
    tid: int | None
    """None for threads of this name that ended, together."""
    name: str
    count: int
    time_ns: int
    """How long these waits took."""


class WaitStack(msgspec.Struct, frozen=True):
    """Where in the program waits began."""

    count: int
    sum_ns: int
    stack: tuple[str, ...]
    """Innermost first, without the C library's own frames."""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread was blocked for: a system call and its object, or what is no system call."""

    syscall: str | None
    """Null where it was none, or a number that is not known."""
    cause: Literal["syscall", "page_fault", "exit", "stopped", "other"]
    """"stopped": by a signal, a tracer or a freezer. "other": a thread that the kernel made, or a call not decoded."""
    object: WaitObject
    is_idle: bool
    """Whether this is waiting for work rather than within it: a stated rule (docs/how-it-works.md)."""
    count: int
    """Waits that took place in the trace, wholly or in part."""
    sum_ns: int
    """In the trace."""
    max_ns: int
    p50_ns: int | None
    p99_ns: int | None
    uninterruptible_ns: int
    """The part of sum_ns in which no signal could end it: mostly the disk."""
    released_by: tuple[WokenBy, ...] = ()
    """Who woke the thread from it, by the time that the waits had taken."""
    held_by: tuple[LockHolder, ...] = ()
    """Who had the lock, where that is certain; by time."""
    stack: tuple[str, ...] = ()
    """Where in the program most of it began, innermost first, without the C library's own frames. Empty: not known."""
    stack_count: int = 0
    stack_ns: int = 0
    """How much of sum_ns began there."""
    other_stacks: tuple[WaitStack, ...] = ()
    """The next three; the rest of sum_ns began elsewhere, before the trace, or where it is not known."""

    @property
    def known_stacks(self) -> tuple[WaitStack, ...]:
        """All that are told, the longest first."""
        first = (WaitStack(self.stack_count, self.stack_ns, self.stack),) if self.stack else ()
        return first + self.other_stacks

    @property
    def time_by_stack(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """(stack, nanoseconds) each, together sum_ns; the last is without a stack where some time has none."""
        known = tuple((one.stack, one.sum_ns) for one in self.known_stacks)
        left_ns = self.sum_ns - sum(ns for _, ns in known)
        return (*known, ((), left_ns)) if left_ns > 0 else known


class LockUse(msgspec.Struct, frozen=True):
    """How long a thread waited for a lock."""

    tid: int
    name: str
    count: int
    time_ns: int


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """A lock of the process for which threads waited; without contention a lock is never seen."""

    address: int
    count: int
    """Waits."""
    wait_ns: int
    max_ns: int
    percent: float
    """wait_ns in percent of the trace: of one thread's time, so that several that wait can be more than 100."""
    waiters: tuple[LockUse, ...]
    """By time."""
    held_by: tuple[LockHolder, ...]
    """When the waits began; by time."""
    released_by: tuple[WokenBy, ...]
    stack: tuple[str, ...] = ()
    """Where most of that time began, innermost first; empty where it is not known."""


class BlockedCall(NamedTuple):
    """What a thread sleeps in: /proc/PID/task/TID/syscall; not part of a report."""

    number: int
    """-1: no system call."""
    arguments: tuple[int, ...]
    polled_fd: int | None
    """Of poll(2) and ppoll(2) for one descriptor: that one."""
