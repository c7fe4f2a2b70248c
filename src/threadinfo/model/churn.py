"""Descriptors over the time of a trace: counts, call sites, paths, leaks."""

from __future__ import annotations

from typing import Literal

import msgspec

from threadinfo.model.values import Latency


class LedgerDifference(msgspec.Struct, frozen=True):
    """A number on which the ledger and /proc disagree."""

    fd: int
    ledger: Literal["open", "closed"]
    proc: Literal["open", "closed"]
    target: str | None
    """What /proc says it is, or what it was when it was born."""
    reason: str
    """The likely one."""


class Failure(msgspec.Struct, frozen=True):
    """Calls that failed with one error."""

    syscall: str
    error: str
    """For example "EMFILE"."""
    count: int


class LimitFailure(msgspec.Struct, frozen=True):
    """How often a thread found no free descriptor."""

    error: Literal["EMFILE", "ENFILE"]
    """EMFILE: the process has as many open as it may; ENFILE: the machine has."""
    tid: int
    thread_name: str
    count: int


class ThreadChurn(msgspec.Struct, frozen=True):
    """The descriptors that a thread opened and closed."""

    tid: int
    name: str
    opened_count: int
    closed_count: int


class SiteChurn(msgspec.Struct, frozen=True, kw_only=True):
    """What a call site of the program, or another way to it, opened while tracing watched."""

    stack: tuple[str, ...]
    """The frames that make it, innermost first: "function+0x12 [library] file.c:12"; the C library's are left out.
    Empty: of these births no stack is known."""
    library: str | None
    """The file of the innermost of them."""
    opened_count: int
    closed_count: int
    """How many of these were closed, however."""
    still_open_count: int
    limit_failed_count: int
    """Calls that failed with EMFILE or ENFILE."""
    by_type: dict[str, int]
    """What was opened; the keys are `descriptor_kinds.KINDS`, and "unknown"."""
    lifetime_ns: Latency


class PathChurn(msgspec.Struct, frozen=True):
    """How often a path was opened, as the program named it."""

    path: str
    opened_count: int


class SuspectThread(msgspec.Struct, frozen=True):
    """A thread that opened what stays open."""

    tid: int
    name: str
    surviving_count: int


class LeakSuspect(msgspec.Struct, frozen=True, kw_only=True):
    """A call site whose descriptors stay open and become more and more."""

    stack: tuple[str, ...]
    """As in `SiteChurn`."""
    library: str | None
    opened_count: int
    surviving_count: int
    growth_per_minute: float
    seconds_to_limit: float | None
    """Until the soft limit on open files, should this site grow as it did and nothing else; null without a limit."""
    confidence: Literal["high", "medium", "low"]
    watched_ns: int
    """From its first birth to the end of the trace."""
    steadiness: float
    """How well a straight line describes the growth: R², 0 to 1."""
    fds: tuple[int, ...]
    """Which are open, the first hundred."""
    path: str | None = None
    """What most of these are, where that has a path; null of sockets and their like, and where not known."""
    kind: str | None = None
    """What most of those that it opened were: one of `descriptor_kinds.KINDS`."""
    threads: tuple[SuspectThread, ...] = ()
    """Who opened those that stay, the most first."""


class StackCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How the call sites were found: one stack is copied for each way to a call."""

    site_count: int
    copied_count: int
    uncopied_count: int
    """Calls of which a copy was wanted, and there was no room or there were too many at once."""
    unwound_count: int
    complete_count: int
    """Of these, those that end where a thread starts."""
    attributed_count: int
    """Of the births, those whose call site is known."""
    unattributed_count: int
    unwind_ns_per_stack: int | None
    problems: dict[str, int]
    """Why stacks end early, and how many do, most first."""


class DescriptorTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the descriptors of a process during the trace."""

    opened_count: int
    """Births of descriptors by every way: opened, duplicated, accepted, received, ..."""
    closed_count: int
    """Deaths by every way: closed, replaced by dup2, closed by exec, gone with the process."""
    failed_count: int
    """Calls that failed of those that make or close one, and of bind, listen, connect and shutdown; without those that
    found nothing to accept, and connects that go on."""
    still_open_count: int
    """Born during the trace and open at its end."""
    peak_open_count: int
    """The most that were open at once, those that are older than the trace included."""
    unseen_birth_count: int
    """Closed, though no birth was seen: made by no call that is decoded, or calls were seen in another order."""
    close_on_exec_set_count: int
    close_on_exec_cleared_count: int
    by_type: dict[str, int]
    """Births, the most frequent first."""
    by_syscall: dict[str, int]
    """Births, the most frequent first."""
    closed_by_syscall: dict[str, int]
    closed_by: dict[str, int]
    """Deaths by how: "close", "replaced", "exec", "exit"."""
    by_thread: tuple[ThreadChurn, ...]
    """The busiest first."""
    failures: tuple[Failure, ...]
    empty_by_syscall: dict[str, int] = {}
    """How often accept(2) found nobody waiting (EAGAIN), as it does at the end of every turn of a loop."""
    lifetime_ns: Latency
    """Of those that were born and died during the trace."""
    interval_seconds: int
    """What one element of the next two covers."""
    opened_per_interval: tuple[int, ...]
    closed_per_interval: tuple[int, ...]
    by_call_site: tuple[SiteChurn, ...] = ()
    """Most births first, at most 100; those of which no stack is known are one of them."""
    limit_failures: tuple[LimitFailure, ...] = ()
    """Most first."""
    by_path: tuple[PathChurn, ...] = ()
    """Most opened first, at most 20."""
    by_path_omitted_count: int = 0
    """Openings of paths that came after 16,384 others, and are in no place of the list."""
    leak_suspects: tuple[LeakSuspect, ...] = ()
    """The fastest first."""
    seconds_to_limit: float | None = None
    """Until the soft limit on open files, should all suspects grow as they did; null where there is none."""
    stacks: StackCounts | None = None
    """Null where call sites were not asked for or are not available; a gap then says why."""
