"""Reports made of literal values: for what renderers and findings do, whatever a machine happens to show."""

from __future__ import annotations

import msgspec

from threadinfo.model import (
    Confidence,
    DelayedBy,
    Descriptor,
    DescriptorEvent,
    DescriptorTrace,
    EventKind,
    Failure,
    Gap,
    Latency,
    LeakSuspect,
    Limits,
    Memory,
    OpenFilesLimit,
    Origin,
    PathChurn,
    ProcessReport,
    Report,
    Scheduling,
    Served,
    SiteChurn,
    Socket,
    SocketTrace,
    StackCounts,
    SuspectThread,
    Thread,
    ThreadChurn,
    Trace,
    Wait,
    WaitObject,
    WokenBy,
)

SECOND_NS = 1_000_000_000
STACK = ("open_log+0x12 [libhydrogen.so] log.c:42", "handle+0x40 [hydrogen] web.c:7", "start_thread+0x80 [libc.so.6]")
STACKS = StackCounts(
    site_count=3,
    copied_count=9,
    uncopied_count=0,
    unwound_count=9,
    complete_count=9,
    attributed_count=460,
    unattributed_count=5,
    unwind_ns_per_stack=120_000,
    problems={},
)
NOTHING = Latency(count=0, mean=None, p50=None, p90=None, p99=None, max=None)
_PARTS = ("mhd", "websocket", "log-writer", "mdns", "timer", "worker")


def latency(p99_ns: int, count: int = 1000) -> Latency:
    """Waits between 1 us and the 99th percentile."""
    octaves = {1 << bits: 1 + 37 * bits % 11 for bits in range(11, max(p99_ns.bit_length(), 12) + 1)}
    return Latency(
        count=count, mean=p99_ns / 8, p50=p99_ns // 16, p90=p99_ns // 4, p99=p99_ns, max=p99_ns + 1, octaves=octaves
    )


def scheduling(
    on_cpu_ns: int = SECOND_NS, run_queue_ns: int = SECOND_NS // 100, *, p99_ns: int = 50_000, **changes: object
) -> Scheduling:
    """What a thread did in ten seconds."""
    rest = max(10 * SECOND_NS - on_cpu_ns - run_queue_ns, 0)
    whole = Scheduling(
        run_queue_latency_ns=latency(p99_ns),
        after_wakeup_ns=latency(p99_ns),
        after_preemption_ns=NOTHING,
        on_cpu_ns=on_cpu_ns,
        run_queue_ns=run_queue_ns,
        blocked_ns=rest,
        sleeping_ns=rest,
        uninterruptible_ns=0,
        voluntary_switch_count=900,
        involuntary_switch_count=100,
        migration_count=3,
        woken_by=(WokenBy(None, None, "interrupt", 700), WokenBy(1, 8, "waker", 300)),
        delayed_by=(DelayedBy(1, 9, "hog", run_queue_ns),),
        delayed_by_unknown_ns=0,
    )
    return msgspec.structs.replace(whole, **changes)


def thread(tid: int = 7, name: str = "worker", **changes: object) -> Thread:
    """A thread that sleeps."""
    whole = Thread(
        tid=tid, name=name, state="S", state_name="sleeping", cpu_percent=1.5, runtime_seconds=2.5, stack_bytes=135168
    )
    return msgspec.structs.replace(whole, **changes)


def wait(syscall: str | None = "epoll_wait", sum_ns: int = SECOND_NS, **changes: object) -> Wait:
    """What a thread was blocked for."""
    target = WaitObject(kind="descriptor", fd=20, inode=20, description="eventpoll")
    whole = Wait(
        syscall=syscall,
        cause="syscall",
        object=target,
        is_idle=syscall == "epoll_wait",
        count=10,
        sum_ns=sum_ns,
        max_ns=sum_ns // 2,
        p50_ns=sum_ns // 20,
        p99_ns=sum_ns // 2,
        uninterruptible_ns=0,
    )
    return msgspec.structs.replace(whole, **changes)


def descriptor(fd: int, **changes: object) -> Descriptor:
    """An open file."""
    whole = Descriptor(
        fd=fd,
        type="file",
        target=f"/var/log/hydrogen/{fd}.log",
        description=f"file: /var/log/hydrogen/{fd}.log",
        inode=100_000 + fd,
        details={"access": "read-write", "size_bytes": 4096 * fd, "close_on_exec": True},
    )
    return msgspec.structs.replace(whole, **changes)


def listener(fd: int, waiting: int, limit: int) -> Descriptor:
    """A TCP listener with a backlog."""
    sock = Socket(
        family="AF_INET",
        type="SOCK_STREAM",
        protocol="TCP",
        state="LISTEN",
        local="127.0.0.1:5000",
        port=5000,
        bound=True,
        role="web server",
        evidence=("/proc/PID/net/tcp", "sock_diag"),
    )
    return descriptor(
        fd,
        type="socket",
        target=f"socket:[{fd}]",
        description="socket (TCP port 5000 - web server)",
        details={"backlog_count": waiting, "backlog_limit_count": limit},
        served_by=(Served(7, "web", "accept4"),),
        socket=sock,
    )


def unbound(fd: int, **changes: object) -> Descriptor:
    """A TCP socket that nothing was done with."""
    sock = Socket(family="AF_INET", type="SOCK_STREAM", protocol="TCP", state="CLOSED", bound=False)
    return descriptor(
        fd,
        type="socket",
        target=f"socket:[{fd}]",
        description="socket (TCP, not bound)",
        details={},
        socket=msgspec.structs.replace(sock, **changes),
    )


def suspect(**changes: object) -> LeakSuspect:
    """A call site that leaks six descriptors a minute."""
    whole = LeakSuspect(
        stack=STACK,
        library="/opt/libhydrogen.so",
        opened_count=61,
        surviving_count=60,
        growth_per_minute=6.0,
        seconds_to_limit=1800.0,
        confidence="high",
        watched_ns=600 * SECOND_NS,
        steadiness=0.99,
        fds=tuple(range(20, 80)),
        path="/var/log/app.log",
        kind="file",
        threads=(SuspectThread(7, "reloader", 59), SuspectThread(8, "main", 1)),
    )
    return msgspec.structs.replace(whole, **changes)


def churn(
    opened: tuple[int, ...] = (5,) * 10, closed: tuple[int, ...] = (5,) * 10, **changes: object
) -> DescriptorTrace:
    """What happened to descriptors in ten seconds."""
    whole = DescriptorTrace(
        opened_count=sum(opened),
        closed_count=sum(closed),
        failed_count=0,
        still_open_count=max(sum(opened) - sum(closed), 0),
        peak_open_count=10,
        unseen_birth_count=0,
        close_on_exec_set_count=0,
        close_on_exec_cleared_count=0,
        by_type={"file": sum(opened)},
        by_syscall={"openat": sum(opened)},
        closed_by_syscall={"close": sum(closed)},
        closed_by={"close": sum(closed)},
        by_thread=(ThreadChurn(7, "worker", sum(opened), sum(closed)),),
        failures=(),
        lifetime_ns=latency(1 << 24, sum(closed)),
        interval_seconds=1,
        opened_per_interval=opened,
        closed_per_interval=closed,
    )
    return msgspec.structs.replace(whole, **changes)


def confidence(**changes: object) -> Confidence:
    """A trace that saw everything."""
    whole = Confidence(
        seen_count=12_345, lost_count=0, map_full_count=0, missed_count=0, program_ns_per_event=180.0,
        tool_cpu_seconds=0.5, ledger_matches_proc=True,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def trace(**changes: object) -> Trace:
    """Ten seconds."""
    whole = Trace(duration_ns=10 * SECOND_NS, ended_by="duration", ended_threads=(), confidence=confidence())
    return msgspec.structs.replace(whole, **changes)


def process(**changes: object) -> ProcessReport:
    """A process about which there is nothing to say."""
    whole = ProcessReport(
        pid=1,
        name="hydrogen",
        executable="/opt/hydrogen",
        command_line=("/opt/hydrogen", "--serve"),
        user="www",
        started_at="2026-11-23T10:00:00.000000Z",
        memory=Memory(virtual_bytes=1 << 30, resident_bytes=100 << 20, swap_bytes=0, percent=1.2, rss_bytes=100 << 20),
        threads=(thread(),),
        descriptors=(descriptor(3),),
        limits=Limits(open_files=OpenFilesLimit(1024, 4096)),
    )
    return msgspec.structs.replace(whole, **changes)


def report(*processes: ProcessReport) -> Report:
    """A report of these."""
    return Report(generated_at="2026-11-23T12:00:00.000000Z", processes=processes)


def server(thread_count: int, descriptor_count: int) -> ProcessReport:
    """A traced server of any size, with every section of a report in it."""
    threads = tuple(
        thread(
            1000 + index,
            f"{_PARTS[index % len(_PARTS)]}-{index}",
            scheduling=scheduling(
                on_cpu_ns=SECOND_NS * (index % 7 + 1) // 10,
                run_queue_ns=SECOND_NS * (index % 5) // 4 + 1,
                p99_ns=20_000 << index % 11,
            ),
        )
        for index in range(thread_count)
    )
    return process(
        threads=threads,
        descriptors=tuple(_any_descriptor(fd) for fd in range(descriptor_count)),
        trace=trace(
            descriptors=churn(
                opened=tuple(40 + index % 13 for index in range(10)),
                closed=tuple(30 + index % 11 for index in range(10)),
                by_call_site=(_site(STACK, 400), _site(("accept_client+0x8 [hydrogen] web.c:91",), 60), _site((), 5)),
                by_path=(PathChurn("/var/log/hydrogen/access.log", 123), PathChurn("/etc/hosts", 45)),
                leak_suspects=(suspect(),),
                seconds_to_limit=1800.0,
                failed_count=3,
                failures=(Failure("openat", "ENOENT", 3),),
                stacks=STACKS,
            ),
            sockets=SocketTrace(
                events=(
                    event("socket", family="AF_INET", syscall="socket", stack=STACK),
                    event("bind", local="127.0.0.1:5000"),
                    event("close", syscall="close", lifetime_ns=SECOND_NS),
                ),
                omitted_count=0,
            ),
        ),
        gaps=(Gap("limits", "cannot be read", "run as root"),),
    )


def _site(stack: tuple[str, ...], opened: int) -> SiteChurn:
    return SiteChurn(
        stack=stack,
        library="/opt/libhydrogen.so" if stack else None,
        opened_count=opened,
        closed_count=opened - 3,
        still_open_count=3,
        limit_failed_count=0,
        by_type={"file": opened},
        lifetime_ns=latency(1 << 22, opened - 3),
    )


def event(kind: EventKind, **changes: object) -> DescriptorEvent:
    """Something that was done to a socket."""
    whole = DescriptorEvent(
        at_ns=1,
        time="2026-11-23T11:59:59.123456Z",
        pid=1,
        tid=1000,
        thread_name="mhd-0",
        event=kind,
        fd=9,
    )
    return msgspec.structs.replace(whole, **changes)


def _any_descriptor(fd: int) -> Descriptor:
    if fd % 10 == 3:
        return listener(fd, 0, 128)
    if fd % 10 == 7:
        return unbound(fd, remote="10.0.0.1:443", bound=True)
    if fd % 10 == 9:
        origin = Origin(
            opened_at="2026-11-23T11:59:59.123456Z",
            syscall="openat",
            tid=1000,
            thread_name="mhd-0",
            stack=STACK,
            library="/opt/libhydrogen.so",
            maker="libhydrogen.so's open_log, called from handle, thread mhd-0 1000",
            events=(event("bind", local="127.0.0.1:5000"), event("listen", backlog=128)),
        )
        return descriptor(fd, origin=origin)
    return descriptor(fd)
