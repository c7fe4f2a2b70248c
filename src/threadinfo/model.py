"""What a report is made of: frozen values, the same for every source and every renderer.

Names, units and the meaning of null are those of the JSON report, `threadinfo.report/1`: a number is in the unit that
its name ends in, None means "not known" and comes with a `Gap`, 0 means measured and zero. Text that came from the
target is valid Unicode here: bytes that are not UTF-8 were replaced by a visible ``\\xNN`` when they were read.

msgspec's structs rather than dataclasses, because a report holds tens of thousands of them: they are built 14 times
faster and are read from and written to JSON, with validation, by the same definitions (docs/how-it-works.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

DetailItem: TypeAlias = str | int | Mapping[str, int | str | None]
DetailValue: TypeAlias = str | int | float | bool | Sequence[DetailItem] | None
"""What a detail of a descriptor can be: plain JSON values, and flat lists of them."""

Details: TypeAlias = dict[str, DetailValue]


class Gap(msgspec.Struct, frozen=True):
    """Something that the report lacks."""

    section: str
    """The part of the report that is incomplete, for example "descriptors"."""
    cause: str
    """What stood in the way, in words."""
    remedy: str | None
    """What the user can do about it; None where nothing can be done."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of the process."""

    virtual_bytes: int | None = None
    """/proc/PID/status, VmSize."""
    resident_bytes: int | None = None
    """/proc/PID/status, VmRSS."""
    swap_bytes: int | None = None
    """/proc/PID/status, VmSwap."""
    percent: float | None = None
    """resident_bytes in percent of the machine's MemTotal."""
    rss_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Rss: exact, where VmRSS is a counter that lags."""
    pss_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Pss: shared pages divided by their users."""
    mapped_swap_bytes: int | None = None
    """/proc/PID/smaps_rollup (or the sum over smaps), Swap: includes swapped shared memory, which VmSwap does not."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of waits, in nanoseconds; percentiles are at most 7 % off (the buckets of the histogram)."""

    count: int
    mean: float | None
    """None, like those below, where nothing was counted."""
    p50: int | None
    p90: int | None
    p99: int | None
    max: int | None
    octaves: dict[int, int] | None = None
    """How many waits lie in each octave that has any: the key is its upper end, a power of two, and half of that its
    lower one. None where only the summary is kept."""


class WokenBy(msgspec.Struct, frozen=True):
    """Who woke a thread, and how often."""

    pid: int | None
    """None for an interrupt, or where the process is not known."""
    tid: int | None
    """None for an interrupt, and for threads of this name that ended, together."""
    name: str
    """"interrupt" where a timer or a device did; "the network, by NAME" where what NAME sent over loopback did."""
    count: int
    time_ns: int = 0
    """How long the thread had been blocked when it was woken, together."""


class DelayedBy(msgspec.Struct, frozen=True):
    """Who held the CPU while a thread waited for it, and for how long together."""

    pid: int | None
    tid: int | None
    """None for threads of this name that ended, together: there were too many to tell of each."""
    name: str
    time_ns: int
    command: str | None = None
    """The command line of another process, where it is known."""


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread did with its time during the trace, from the kernel's sched_* tracepoints."""

    run_queue_latency_ns: Latency
    """From being able to run to running; after wake-up and after preemption together."""
    after_wakeup_ns: Latency
    after_preemption_ns: Latency
    on_cpu_ns: int
    run_queue_ns: int
    """Includes a wait that had begun before the trace, which the latencies do not."""
    blocked_ns: int
    """sleeping_ns + uninterruptible_ns."""
    sleeping_ns: int
    uninterruptible_ns: int
    voluntary_switch_count: int
    involuntary_switch_count: int
    migration_count: int
    woken_by: tuple[WokenBy, ...]
    """By the time that the waits had taken, descending."""
    delayed_by: tuple[DelayedBy, ...]
    """By time, descending."""
    delayed_by_unknown_ns: int
    """The part of the waiting in which nobody held the CPU, or nobody that the tracer remembered."""


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


class LockUse(msgspec.Struct, frozen=True):
    """How long a thread waited for a lock."""

    tid: int
    name: str
    count: int
    time_ns: int


class CpuSample(msgspec.Struct, frozen=True):
    """Moments at which a thread was in one place."""

    count: int
    stack: tuple[str, ...]
    """Innermost first; empty where it could not be unwound."""
    is_kernel: bool
    """Whether the kernel worked for the thread: the stack is that of its call, or of where it was interrupted."""
    kernel_stack: tuple[str, ...] = ()
    """The kernel's own functions (/proc/kallsyms), innermost first, without offsets; empty outside of it, and
    where it does not tell their addresses (a gap says so)."""


class CpuTime(msgspec.Struct, frozen=True, kw_only=True):
    """Where a thread's time on CPUs went."""

    samples: tuple[CpuSample, ...]
    """Most first."""
    sample_period_ns: int
    """What one stands for."""


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


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """One thread of the process."""

    tid: int
    name: str
    state: str
    """The letter of /proc/PID/task/TID/stat (proc_pid_stat(5))."""
    state_name: str
    cpu_percent: float | None
    """Of one CPU, over the thread's whole life."""
    runtime_seconds: float | None
    """User and system time together."""
    stack_bytes: int | None
    """/proc/PID/status, VmStk: the main thread's stack, the same for every thread (the script's "Stack Size")."""
    thread_stack_bytes: int | None = None
    """Size of the mapping that holds this thread's stack pointer."""
    scheduling: Scheduling | None = None
    """What tracing says of the thread; null without a trace."""
    waits: tuple[Wait, ...] | None = None
    """What it was blocked for, the longest 32 first; null without a trace of waits. With waits_other_ns they add up to
    scheduling.blocked_ns, and with on_cpu_ns and run_queue_ns to the trace."""
    waits_other_ns: int | None = None
    """Waits beyond the 32, and those whose reason was not seen."""
    cpu: CpuTime | None = None
    """Null where CPUs were not sampled, or never while the thread ran."""


class Served(msgspec.Struct, frozen=True):
    """A thread that waits for, or is busy with, a descriptor."""

    tid: int
    thread_name: str
    how: str
    """The system call that the thread is in, for example "accept4" or "epoll_wait on FD 5"."""


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """Who probably made a socket: the kernel does not record it, so without a trace this is what can be seen."""

    words: str
    """For example "libwebsockets' routing socket, one per context (lws_create_context)"."""
    library: str
    confidence: Literal["likely", "possible"]
    """"possible" where much other code makes such a socket too."""
    evidence: tuple[str, ...]
    """What speaks for it, for example "libwebsockets.so.19 is mapped"; a file may be called anything."""
    source: str
    """Where the library's own source says so."""


Standing: TypeAlias = Literal[
    "unbound",
    "bound",
    "listening",
    "waiting",
    "connecting",
    "connected",
    "half_closed",
    "closing",
    "closed",
    "reset",
    "not_connected",
    "refused",
]
"""How a socket stands, decided once (proc/standing.py) from all that was found of it; the words follow it.

unbound: neither address nor peer. bound: an address alone. waiting: connected, in the listener's backlog. half_closed:
one direction has ended. closing: both have, the last confirmation is missing. closed: it had a connection, of which
nothing is left. reset: the same, and the error is unread. not_connected: no connection came about, or its listener was
shut down. refused: no connection came about, and the error is unread.
"""


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket is, found from outside the process."""

    family: str | None = None
    """For example "AF_INET"; None where nothing tells."""
    type: str | None = None
    """For example "SOCK_STREAM"."""
    protocol: str | None = None
    """For example "TCP", "UNIX", "NETLINK_ROUTE"."""
    state: str | None = None
    """For example "LISTEN"; None for sockets that have no state."""
    local: str | None = None
    remote: str | None = None
    port: int | None = None
    """The local port, of those families that have ports."""
    bound: bool | None = None
    """Whether it has a local address; None is unknown."""
    role: str | None = None
    """What the user calls this port, for example "web server"."""
    standing: Standing | None = None
    """None is not known, or a kind of socket that nothing tells this of."""
    evidence: tuple[str, ...] = ()
    """Which sources spoke, in the order asked, for example "/proc/PID/net/tcp"."""
    explanation: str | None = None
    """Which kind of socket it is and why, in a sentence; in a report with details only."""
    ambiguous: bool = False
    """Whether the explanation names several stories that look the same from outside: only a trace tells which."""
    inference: Inference | None = None
    """Who probably made it; null where nothing speaks for anybody, or a trace saw which library did."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The birth of a descriptor, as tracing saw it."""

    opened_at: str
    """UTC, ISO 8601, to the microsecond."""
    syscall: str
    tid: int
    thread_name: str
    stack: tuple[str, ...] = ()
    """Innermost first; empty where no stack was taken."""
    library: str | None = None
    """The file of the innermost frame that is not the C library's."""
    maker: str | None = None
    """Who made it, in words; null where no stack is known."""
    events: tuple[DescriptorEvent, ...] = ()
    """Of a socket, by whatever number: bind, listen, connect, shutdown, and how it came to other numbers; first how the
    socket was made, where that was by another number than this."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """One open file descriptor."""

    fd: int
    type: str
    """What it is: one of `descriptor_kinds.KINDS`."""
    target: str
    """What /proc/PID/fd/FD points to, as the kernel says it."""
    description: str
    """What it is, in words."""
    inode: int | None = None
    details: Details = {}
    served_by: tuple[Served, ...] = ()
    socket: Socket | None = None
    origin: Origin | None = None
    """How tracing saw it made; null where it is older than the trace, or without one."""


class OpenFilesLimit(msgspec.Struct, frozen=True):
    """A limit as /proc/PID/limits has it; None is "unlimited"."""

    soft: int | None
    hard: int | None


class Limits(msgspec.Struct, frozen=True):
    """The resource limits that bear on this report."""

    open_files: OpenFilesLimit


class LedgerDifference(msgspec.Struct, frozen=True):
    """A number on which the ledger and /proc disagree."""

    fd: int
    ledger: Literal["open", "closed"]
    proc: Literal["open", "closed"]
    target: str | None
    """What /proc says it is, or what it was when it was born."""
    reason: str
    """The likely one."""


class KernelAccount(NamedTuple):
    """What the kernel itself has counted of a thread since its birth; not part of a report."""

    state: str
    """The letter of /proc/PID/task/TID/status."""
    on_cpu_ns: int
    """/proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst)."""
    run_queue_ns: int
    """The same; of waits that are over."""
    voluntary_count: int
    """Switches: /proc/PID/task/TID/status."""
    involuntary_count: int


class BlockedCall(NamedTuple):
    """What a thread sleeps in: /proc/PID/task/TID/syscall; not part of a report."""

    number: int
    """-1: no system call."""
    arguments: tuple[int, ...]
    polled_fd: int | None
    """Of poll(2) and ppoll(2) for one descriptor: that one."""


class SchedulingDifference(msgspec.Struct, frozen=True):
    """What the trace counted of a thread otherwise than the kernel, between two readings of its accounts."""

    tid: int | None
    """None: of all threads together, and `kernel` is the window times the CPUs."""
    what: Literal["on_cpu_ns", "run_queue_ns", "voluntary_switch_count", "involuntary_switch_count"]
    """Times that are more than 2 % of the window apart, and counts that are not the same."""
    ours: int
    kernel: int


class Confidence(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what happened the trace saw, and what watching cost."""

    seen_count: int
    """Events of the traced threads."""
    lost_count: int
    """Records that the kernel could not hand over."""
    omitted_line_count: int = 0
    """Of a live stream whose reader was slow; totals and ledger never omit."""
    map_full_count: int
    """Threads, wakers, holders or tables that found no room."""
    unreadable_count: int = 0
    """Paths, addresses and messages that could not be read from the process's memory, or not whole."""
    undecoded_count: int = 0
    """32-bit calls, which are not decoded."""
    missed_count: int | None
    """Runs of a program that the kernel left out, and events that must have been there: the next one does not fit."""
    program_ns_per_event: float | None
    """Run time of the programs, from the kernel's own statistics over a short slice."""
    tool_cpu_seconds: float
    """CPU time of threadinfo itself, compilation included."""
    ledger_matches_proc: bool | None = None
    """Whether the ledger of descriptors and /proc agree at the end; None: not traced, or the process has ended."""
    ledger_differences: tuple[LedgerDifference, ...] = ()
    ledger_undecided_count: int = 0
    """Numbers that moved while /proc was read for the comparison."""
    scheduling_matches_kernel: bool | None = None
    """Whether times and switches of the threads agree with schedstat and status of /proc; None: none was compared."""
    scheduling_differences: tuple[SchedulingDifference, ...] = ()
    scheduling_compared_count: int = 0
    """Threads."""
    scheduling_not_compared_count: int = 0
    """Threads that ended, or that had an account already when the trace met them."""


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


EventKind: TypeAlias = Literal[
    "open",
    "close",
    "duplicate",
    "socket",
    "accept",
    "pipe",
    "receive",
    "bind",
    "listen",
    "connect",
    "shutdown",
    "close_on_exec",
    "fork",
    "exec",
    "exit",
]
"""What happened to a descriptor or its process; "open" is every birth that has no word of its own."""


class DelayEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A thread waited for a CPU longer than the threshold: an event of the live stream."""

    at_ns: int
    """CLOCK_MONOTONIC, when the wait ended."""
    time: str
    """The same moment, UTC, ISO 8601."""
    pid: int
    tid: int
    thread_name: str
    event: Literal["delayed"] = "delayed"
    cpu: int
    wait_ns: int
    held_by: str | None
    """Name and number of the thread that held the CPU longest meanwhile."""


class DescriptorEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something happened to a descriptor: an event of the live stream. What does not apply is left out."""

    at_ns: int
    """CLOCK_MONOTONIC, when the call returned."""
    time: str
    """The same moment, UTC, ISO 8601."""
    pid: int
    tid: int
    thread_name: str
    event: EventKind
    syscall: str | None = None
    fd: int | None = None
    """The descriptor that was born, closed or marked; absent where a call failed."""
    result: int | None = None
    error: str | None = None
    """For example "EMFILE"; absent where the call succeeded."""
    type: str | None = None
    inode: int | None = None
    """Of a socket: the same whatever numbers it has, and in every process; absent of its ends and where not known."""
    path: str | None = None
    """What was opened, or what the kernel calls it."""
    family: str | None = None
    socket_type: str | None = None
    protocol: str | None = None
    local: str | None = None
    """What a socket was bound to, or accepted at; of an accepted Unix socket in a report only."""
    remote: str | None = None
    backlog: int | None = None
    """Of listen(2)."""
    shut: Literal["receiving", "sending", "both"] | None = None
    """Of shutdown(2)."""
    stack: tuple[str, ...] = ()
    """The frames that made the call, innermost first; those of a socket's calls down to the thread's start."""
    maker: str | None = None
    """Of the birth of a socket, in a report: who made it, in words."""
    source_fd: int | None = None
    """What was duplicated, listened on or received from."""
    how: Literal["close", "replaced", "exec", "exit"] | None = None
    """Of a close."""
    lifetime_ns: int | None = None
    """Of a close, where the birth was seen."""
    close_on_exec: bool | None = None
    """What it was set to."""
    child_pid: int | None = None
    child_tid: int | None = None
    shares_descriptors: bool | None = None
    """Whether the child uses the same table."""


class SocketCalls(msgspec.Struct, frozen=True):
    """How often a call made, numbered or used sockets, or failed to."""

    syscall: str
    error: str | None
    """For example "ECONNREFUSED", and "EINPROGRESS" of a connection under way; null: it worked."""
    count: int
    """Of calls that make sockets, the sockets: socketpair makes two."""


class SocketTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the sockets of a process."""

    events: tuple[DescriptorEvent, ...]
    """In the order of time: whole stories, ten thousand events at the most. The first of each kind, failures and what
    is open have a quarter of the room each, before the others."""
    omitted_count: int
    """Calls that are counted in `calls` and are not among the events."""
    made_count: int | None = None
    """Sockets that were made, accepted or received; null in reports of earlier versions."""
    calls: tuple[SocketCalls, ...] = ()
    """Every call, whether or not an event tells of it; accepts that found nobody are in `empty_by_syscall`."""


class EndedThread(msgspec.Struct, frozen=True):
    """A thread that ended during the trace."""

    tid: int
    name: str
    scheduling: Scheduling
    waits: tuple[Wait, ...] | None = None
    waits_other_ns: int | None = None
    cpu: CpuTime | None = None


class EndedThreads(msgspec.Struct, frozen=True, kw_only=True):
    """Threads of one name that ended, added up: there were too many to tell of each."""

    name: str
    count: int
    on_cpu_ns: int
    run_queue_ns: int
    blocked_ns: int
    voluntary_switch_count: int
    involuntary_switch_count: int


class TraceTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table that a tracer hands over, shown as it is: of what has no fields of its own here."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]
    """A cell for each column."""
    omitted_count: int = 0
    """Rows that were left out."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What tracing saw of a process."""

    duration_ns: int
    ended_by: Literal["duration", "interrupt", "target"]
    """Whether the time was over, the user interrupted, or the process ended."""
    ended_threads: tuple[EndedThread, ...]
    ended_threads_by_name: tuple[EndedThreads, ...] = ()
    """Those that are not in `ended_threads`, most time on a CPU first."""
    locks: tuple[Lock, ...] = ()
    """Most waiting first; of a trace of waits."""
    descriptors: DescriptorTrace | None = None
    sockets: SocketTrace | None = None
    tables: tuple[TraceTable, ...] = ()
    """What tracers hand over that have no fields of their own here."""
    confidence: Confidence


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that stands out: one of a kind, for the worst thread or descriptor and those that are like it."""

    kind: str
    """For example "thread_waits_for_cpu"."""
    severity: Literal["high", "medium", "low"]
    words: str
    """What was found, with its number."""
    value: float
    """The number that crossed the threshold, in `unit`."""
    threshold: float
    unit: Literal["percent", "ns", "bytes", "count"]
    rule: str
    """The threshold in words, with the smallest amounts that count."""
    advice: str
    """What to do next."""
    tids: tuple[int, ...] = ()
    """The threads that it is about, the worst first."""
    fds: tuple[int, ...] = ()
    """The descriptors that it is about, the worst first."""


class ProcessReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one process."""

    pid: int
    name: str
    """The kernel's name of the process, or, where that was cut off at 15 characters, the executable's."""
    executable: str | None
    command_line: tuple[str, ...]
    user: str | None
    started_at: str | None
    """UTC, ISO 8601."""
    memory: Memory
    threads: tuple[Thread, ...] | None
    """In the order of their numbers; None where they could not be listed."""
    descriptors: tuple[Descriptor, ...] | None
    """In the order of their numbers; None where they could not be listed."""
    limits: Limits | None
    trace: Trace | None = None
    """What tracing saw; null without a trace."""
    parent_pid: int | None = None
    """Of a child that was followed: the process that made it, or, of one that is older than the trace, its parent."""
    is_fork: bool | None = None
    """Of a child: it executed nothing, so that name and command line are its parent's; null: not known."""
    is_older: bool = False
    """Of a child that was followed: it was there when the trace began."""
    findings: tuple[Finding, ...] = ()
    """What stands out, the most urgent first; made anew from the rest whenever a report is rendered."""
    gaps: tuple[Gap, ...] = ()


class FamilyCommand(msgspec.Struct, frozen=True, kw_only=True):
    """Processes of a family that ran the same command, added up."""

    name: str
    executable: str | None
    command: str
    """The command line, as far as it is known, with # for numbers."""
    is_fork: bool | None
    """They executed nothing: name and command are their parents'; null: not known."""
    count: int
    alive_count: int
    """At the end of the trace."""
    on_cpu_ns: int | None
    """Null where scheduling was not watched; so are the next two."""
    run_queue_ns: int | None
    blocked_ns: int | None
    opened_count: int | None
    """Descriptors; null where they were not watched."""
    failed_count: int | None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """The processes that came from those that were asked for, by --follow; these are not among them."""

    older_count: int
    """They were there when the trace began."""
    made_count: int
    """Made during the trace, and followed."""
    left_out_count: int
    """Made and not followed: too many lived at once."""
    alive_count: int
    told_count: int
    """That have a report of their own: those that ran and waited for a CPU most."""
    commands: tuple[FamilyCommand, ...]
    """All of them, by executable and command, those that ran most first."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the command: every process that was asked for, in PID order."""

    schema: Literal["threadinfo.report/1"] = "threadinfo.report/1"
    generated_at: str
    """UTC, ISO 8601."""
    processes: tuple[ProcessReport, ...]
    family: Family | None = None
    """With --follow."""


class Check(msgspec.Struct, frozen=True):
    """One thing that tracing needs of a host, for `threadinfo doctor`."""

    name: str
    state: Literal["ok", "missing", "unknown"]
    found: str
    effect: str
    """What does not work without it."""
    remedy: str | None
    """None where nothing is to be done, or nothing can be."""
    is_required: bool
    """Whether there is no tracing at all without it."""
