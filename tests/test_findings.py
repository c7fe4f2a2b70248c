"""What stands out: every finding just above its threshold and just below, and real processes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from tests import miniature
from tests.conftest import MakeProc, Run
from tests.reports import (
    NOTHING,
    SECOND_NS,
    STACKS,
    churn,
    confidence,
    descriptor,
    latency,
    listener,
    process,
    report,
    scheduling,
    server,
    suspect,
    thread,
    trace,
    unbound,
    wait,
)
from threadinfo.findings import find, with_findings
from threadinfo.merge import merge_waits
from threadinfo.model import (
    DelayedBy,
    DescriptorEvent,
    EndedThread,
    Failure,
    Finding,
    LedgerDifference,
    Limits,
    LockHolder,
    Memory,
    OpenFilesLimit,
    Origin,
    ProcessReport,
    Scheduling,
    SchedulingDifference,
    Socket,
    SocketTrace,
    SuspectThread,
    Thread,
    Wait,
    WaitObject,
    WokenBy,
)
from threadinfo.render.json import parse_json, render_json
from threadinfo.render.text.report import render_text


def scheduled(**changes: object) -> ProcessReport:
    return process(threads=(thread(scheduling=scheduling(**changes)),), trace=trace())  # type: ignore[arg-type]


def quick(p99_ns: int, count: int) -> Scheduling:
    return scheduling(run_queue_latency_ns=latency(p99_ns, count))


def many(count: int, soft: int | None) -> ProcessReport:
    limits = Limits(open_files=OpenFilesLimit(soft, soft))
    return process(descriptors=tuple(descriptor(fd) for fd in range(count)), limits=limits)


def leaking(**changes: object) -> ProcessReport:
    return process(trace=trace(descriptors=churn(leak_suspects=(suspect(**changes),), stacks=STACKS)))


def swapped(size_bytes: int) -> ProcessReport:
    return process(memory=Memory(resident_bytes=100 << 20, swap_bytes=size_bytes))


def failing(error: str) -> ProcessReport:
    return process(trace=trace(descriptors=churn(failures=(Failure("openat", error, 17),))))


def connects(error: str | None, count: int, remote: str | None = "127.0.0.1:9") -> ProcessReport:
    tried = tuple(
        DescriptorEvent(
            at_ns=at, time="", pid=7, tid=12 + at % 2, thread_name="c", event="connect", error=error, remote=remote
        )
        for at in range(count)
    )
    return process(trace=trace(sockets=SocketTrace(events=tried, omitted_count=0)))


MUTEX = WaitObject(kind="lock", address=0x7F1200)
HOLDERS = (LockHolder(1, 9, "writer", 10, SECOND_NS),)
SLEEP = WaitObject(kind="time")
FSYNC = WaitObject(kind="descriptor", fd=7)


def waiting(*waits: Wait, **changes: object) -> ProcessReport:
    """A thread that was blocked in these, in ten seconds."""
    one = thread(7, scheduling=scheduling(), waits=waits, waits_other_ns=0)
    return merge_waits(process(threads=(one,), trace=trace(), **changes), ())


def asking(sum_ns: int = 2 * SECOND_NS, count: int = 10, port: int = 40000, is_idle: bool = False) -> ProcessReport:
    """A thread that waits for what a connection from this port brings."""
    sock = Socket(family="AF_INET", type="SOCK_STREAM", local=f"10.0.0.1:{port}", remote="10.0.0.2:5432", port=port)
    target = WaitObject(kind="descriptor", fd=4, inode=44)
    sender = (WokenBy(11, 11, "the network, by db", count, sum_ns),)
    one = wait("recvfrom", sum_ns, object=target, count=count, released_by=sender, is_idle=is_idle)
    return waiting(one, descriptors=(descriptor(4, inode=44, socket=sock),))


def beside_siblings(
    share_ns: int = SECOND_NS, name: str = "hydrogen", requests: int = 20, kind: str = "futex", call: str = "futex"
) -> ProcessReport:
    """A thread that waits for requests, and for two processes of this name."""
    wakers = (WokenBy(21, 21, name, 6, share_ns), WokenBy(22, 22, name, 4, SECOND_NS))
    target = WaitObject(kind=kind)  # type: ignore[arg-type]
    asked = wait("epoll_wait", SECOND_NS, released_by=(WokenBy(31, 31, "client", requests, SECOND_NS),))
    return waiting(wait(call, 2 * SECOND_NS, object=target, released_by=wakers), asked)


CASES = [
    ("thread_waits_for_peer", asking(), asking(sum_ns=2 * SECOND_NS - 10**6)),
    ("thread_waits_for_peer", asking(), asking(count=9)),
    ("thread_waits_for_peer", asking(), asking(port=5000)),  # a client's: it was accepted
    ("thread_waits_for_peer", asking(), asking(is_idle=True)),
    ("thread_waits_for_siblings", beside_siblings(), beside_siblings(share_ns=SECOND_NS - 10**6)),
    ("thread_waits_for_siblings", beside_siblings(), beside_siblings(name="other")),
    ("thread_waits_for_siblings", beside_siblings(), beside_siblings(requests=9)),
    ("thread_waits_for_siblings", beside_siblings(), beside_siblings(kind="child")),
    (  # a lock needs no proof that there is work
        "thread_waits_for_siblings",
        beside_siblings(requests=0, call="fcntl"),
        beside_siblings(requests=0, call="read"),
    ),
    (
        "contended_lock",
        waiting(wait("futex", SECOND_NS, object=MUTEX, held_by=HOLDERS)),
        waiting(wait("futex", SECOND_NS - 1, object=MUTEX, held_by=HOLDERS)),
    ),
    (
        "contended_lock",
        waiting(wait("futex", SECOND_NS, object=MUTEX)),
        waiting(wait("futex", SECOND_NS, object=WaitObject(kind="futex", address=0x7F1200))),
    ),
    (
        "thread_waits_for_disk",
        waiting(wait("fsync", SECOND_NS, object=FSYNC)),
        waiting(wait("fsync", SECOND_NS - 10**6, object=FSYNC)),
    ),
    (  # reading a socket is no disk
        "thread_waits_for_disk",
        waiting(wait("read", SECOND_NS, uninterruptible_ns=SECOND_NS)),
        waiting(wait("read", SECOND_NS)),
    ),
    (
        "threads_sleep_at_full_backlog",
        waiting(wait("clock_nanosleep", 5 * SECOND_NS, object=SLEEP), descriptors=(listener(3, 2, 2),)),
        waiting(wait("clock_nanosleep", 5 * SECOND_NS - 10**7, object=SLEEP), descriptors=(listener(3, 2, 2),)),
    ),
    (
        "threads_sleep_at_full_backlog",
        waiting(wait("clock_nanosleep", 9 * SECOND_NS, object=SLEEP), descriptors=(listener(3, 2, 2),)),
        waiting(wait("accept4", 9 * SECOND_NS), descriptors=(listener(3, 2, 2),)),
    ),
    (
        "threads_sleep_at_full_backlog",
        waiting(wait("clock_nanosleep", 9 * SECOND_NS, object=SLEEP), descriptors=(listener(3, 2, 2),)),
        waiting(wait("clock_nanosleep", 9 * SECOND_NS, object=SLEEP), descriptors=(listener(3, 1, 2),)),
    ),
    # kind, what is reported, what is just not
    (
        "thread_waits_for_cpu",
        scheduled(on_cpu_ns=SECOND_NS, run_queue_ns=SECOND_NS + 1),
        scheduled(on_cpu_ns=SECOND_NS, run_queue_ns=SECOND_NS),
    ),
    (  # of little time nobody notices the half
        "thread_waits_for_cpu",
        scheduled(on_cpu_ns=0, run_queue_ns=SECOND_NS // 2),
        scheduled(on_cpu_ns=0, run_queue_ns=SECOND_NS // 2 - 1),
    ),
    ("run_queue_latency", scheduled(p99_ns=10_000_000), scheduled(p99_ns=9_999_999)),
    (
        "run_queue_latency",
        process(threads=(thread(scheduling=quick(10_000_000, 100)),), trace=trace()),
        process(threads=(thread(scheduling=quick(10_000_000, 99)),), trace=trace()),
    ),
    (
        "thread_uninterruptible",
        scheduled(uninterruptible_ns=SECOND_NS),
        scheduled(uninterruptible_ns=SECOND_NS - 10**6),
    ),
    ("thread_uninterruptible", process(threads=(thread(state="D"),)), process(threads=(thread(state="S"),))),
    ("zombie", process(threads=(thread(state="Z"), thread(8))), process(threads=(thread(state="T"), thread(8)))),
    ("descriptors_near_limit", many(81, 100), many(80, 100)),
    ("descriptors_near_limit", many(81, 100), many(81, None)),
    ("descriptor_leak", leaking(surviving_count=3), leaking(surviving_count=2)),
    (
        "descriptor_growth",
        process(trace=trace(descriptors=churn(opened=(6,) * 10))),
        process(trace=trace(descriptors=churn(opened=(6,) * 9 + (5,)))),
    ),
    (  # where call sites are known, growth that no site explains steadily is no leak
        "descriptor_growth",
        process(trace=trace(descriptors=churn(opened=(6,) * 10))),
        process(trace=trace(descriptors=churn(opened=(6,) * 10, stacks=STACKS))),
    ),
    (  # a start that ends is no growth
        "descriptor_growth",
        process(trace=trace(descriptors=churn(opened=(9, 9, 9, 9, 9, 5, 5, 5, 15, 5)))),
        process(trace=trace(descriptors=churn(opened=(9, 9, 9, 9, 9, 5, 5, 5, 5, 5)))),
    ),
    ("connects_failed", connects("ECONNREFUSED", 10), connects("ECONNREFUSED", 9)),
    ("connects_failed", connects("ETIMEDOUT", 10), connects("EINPROGRESS", 10)),
    ("connects_failed", connects("ENOENT", 10, "/run/x"), connects("ENOENT", 10, "/var/run/nscd/socket")),
    ("open_files_limit_reached", failing("EMFILE"), failing("ENOENT")),
    ("open_files_limit_reached", failing("ENFILE"), failing("EACCES")),
    ("listener_backlog_full", process(descriptors=(listener(3, 2, 2),)), process(descriptors=(listener(3, 1, 2),))),
    ("listener_backlog_full", process(descriptors=(listener(3, 1, 0),)), process(descriptors=(listener(3, 0, 0),))),
    ("socket_bound_to_nothing", process(descriptors=(unbound(3),)), process(descriptors=(unbound(3, bound=True),))),
    ("socket_bound_to_nothing", process(descriptors=(unbound(3),)), process(descriptors=(unbound(3, bound=None),))),
    (  # one half of a pair has no name, and needs none
        "socket_bound_to_nothing",
        process(descriptors=(unbound(3, family="AF_NETLINK", state=None),)),
        process(descriptors=(unbound(3, family="AF_UNIX"),)),
    ),
    ("swap_in_use", swapped(1 << 20), swapped((1 << 20) - 1)),
    (
        "events_lost",
        process(trace=trace(confidence=confidence(lost_count=1))),
        process(trace=trace(confidence=confidence(omitted_line_count=1))),
    ),
    (
        "ledger_disagrees",
        process(
            trace=trace(confidence=confidence(ledger_differences=(LedgerDifference(5, "open", "closed", None, "why"),)))
        ),
        process(trace=trace(confidence=confidence(ledger_undecided_count=3))),
    ),
    (
        "scheduling_disagrees",
        process(
            threads=(thread(5),),
            trace=trace(confidence=confidence(scheduling_differences=(SchedulingDifference(5, "on_cpu_ns", 9, 1),))),
        ),
        process(  # of another process in the same trace
            threads=(thread(5),),
            trace=trace(confidence=confidence(scheduling_differences=(SchedulingDifference(6, "on_cpu_ns", 9, 1),))),
        ),
    ),
    (
        "scheduling_disagrees",
        process(
            trace=trace(confidence=confidence(scheduling_differences=(SchedulingDifference(None, "on_cpu_ns", 9, 1),)))
        ),
        process(trace=trace(confidence=confidence(scheduling_not_compared_count=3))),
    ),
]


def kinds(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.kind for finding in findings]


@pytest.mark.parametrize(
    ("kind", "above", "below"), CASES, ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)]
)
def test_finding_is_there_at_its_threshold_and_not_below(kind: str, above: ProcessReport, below: ProcessReport) -> None:
    found = find(above)
    assert kinds(found) == [kind]
    assert kind not in kinds(find(below))
    finding = found[0]
    assert finding.value >= finding.threshold
    for words in (finding.words, finding.rule, finding.advice):
        assert words
        assert "None" not in words
    assert f"{finding.words}".rstrip(".") == finding.words  # the renderers end the sentence


def test_every_kind_of_finding_is_tested() -> None:
    everything = process(threads=(thread(state="Z"),), descriptors=(unbound(3), listener(4, 3, 2)))
    assert find(process()) == ()
    assert len(find(everything)) == 3
    assert len({kind for kind, _, _ in CASES}) == 20


@pytest.mark.parametrize("tid", [7, None])
def test_figures_that_the_kernel_contradicts_make_no_finding(tid: int | None) -> None:
    waiting = thread(
        7, scheduling=scheduling(on_cpu_ns=0, run_queue_ns=5 * SECOND_NS, uninterruptible_ns=5 * SECOND_NS)
    )
    assert set(kinds(find(process(threads=(waiting,), trace=trace())))) >= {"thread_waits_for_cpu"}
    difference = SchedulingDifference(tid, "run_queue_ns", 5 * SECOND_NS, 0)
    doubtful = trace(confidence=confidence(scheduling_differences=(difference,)))
    assert kinds(find(process(threads=(waiting,), trace=doubtful))) == ["scheduling_disagrees"]
    other = msgspec.structs.replace(waiting, tid=8)
    both = find(process(threads=(waiting, other), trace=doubtful))
    assert [finding.tids for finding in both if finding.kind == "thread_waits_for_cpu"] == (
        [] if tid is None else [(8,)]
    )


def test_findings_are_ranked_by_severity() -> None:
    found = find(
        process(
            threads=(thread(scheduling=scheduling(run_queue_ns=3 * SECOND_NS)),),
            descriptors=(unbound(3), listener(4, 3, 2)),
            memory=Memory(resident_bytes=100 << 20, swap_bytes=50 << 20),
            trace=trace(),
        )
    )
    expected = ["listener_backlog_full", "thread_waits_for_cpu", "swap_in_use", "socket_bound_to_nothing"]
    assert kinds(found) == expected
    assert [finding.severity for finding in found] == ["high", "high", "medium", "low"]


def test_finding_tells_of_the_worst_and_counts_the_others() -> None:
    waiting = [thread(tid, f"t{tid}", scheduling=scheduling(0, tid * SECOND_NS)) for tid in (1, 3, 2)]
    ended = (EndedThread(4, "t4", scheduling(0, 4 * SECOND_NS)),)
    (found,) = find(process(threads=tuple(waiting), trace=trace(ended_threads=ended)))
    assert found.tids == (4, 3, 2, 1)
    assert found.words == "Thread t4 4 waited 4 s for a CPU and ran 0 ns; 3 other threads waited longer than they ran"
    assert "hog 9 held the CPU for 100 % of the wait" in found.advice


@pytest.mark.parametrize(("held_ns", "is_told"), [(25, True), (24, False), (3, False)])
def test_nobody_is_to_be_reniced_who_held_little_of_the_wait(held_ns: int, is_told: bool) -> None:
    holders = (DelayedBy(9, 9, "python3", held_ns, "python3 /srv/hog.py"),)
    waiting = scheduling(0, 5 * SECOND_NS, delayed_by=holders, delayed_by_unknown_ns=100 - held_ns)
    (found,) = find(process(threads=(thread(7, scheduling=waiting),), trace=trace()))
    assert f"python3 9 (python3 /srv/hog.py) held the CPU for {held_ns} % of the wait" in found.advice
    assert ("renice" in found.advice) is is_told
    assert (f"for {100 - held_ns} % nobody is known" in found.advice) is not is_told


def test_a_full_backlog_that_epoll_watches_names_it() -> None:
    loop = msgspec.structs.replace(descriptor(5), details={"watched": [{"fd": 3, "events": "EPOLLIN"}]})
    full = msgspec.structs.replace(listener(3, 2, 2), served_by=())
    (found,) = find(process(descriptors=(full, loop)))
    assert found.advice.startswith("An event loop watches it by epoll, FD 5: ")
    (alone,) = find(process(descriptors=(full,)))
    assert alone.advice.startswith("Nobody waited for it when /proc was read")


def test_leak_has_its_call_site_the_time_to_the_limit_and_the_confidence() -> None:
    (found,) = find(leaking())
    assert found.words == (
        "/var/log/app.log, opened by threads reloader 7, main 8: 60 of 61 files are still open, 6 more each minute. "
        "At this rate the limit is reached in 30 minutes. Confidence: high, watched for 10 minutes. "
        "Opened at open_log+0x12 [libhydrogen.so] log.c:42"
    )
    assert (found.severity, found.value, found.unit) == ("high", 60.0, "count")
    assert found.fds == tuple(range(20, 80))


@pytest.mark.parametrize(
    ("seconds", "sure", "severity"),
    [(3599.0, "high", "high"), (3600.0, "high", "medium"), (60.0, "low", "low"), (None, "medium", "medium")],
)
def test_leak_is_as_urgent_as_its_limit_is_near_and_it_is_sure(seconds: float | None, sure: str, severity: str) -> None:
    (found,) = find(leaking(seconds_to_limit=seconds, confidence=sure))
    assert found.severity == severity
    assert ("limit is reached" in found.words) == (seconds is not None)


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"path": None}, "Opened by threads reloader 7, main 8: 60 of 61 files are still open"),
        ({"path": None, "threads": (), "kind": "bpf_map"}, "60 of 61 bpf maps are still open"),
        ({"threads": (), "kind": "directory"}, "/var/log/app.log: 60 of 61 directories are still open"),
        ({"path": None, "threads": (), "kind": None}, "60 of 61 descriptors are still open"),
        (
            {"threads": tuple(SuspectThread(tid, "", 1) for tid in range(7, 12))},
            "/var/log/app.log, opened by threads (ended) 7, (ended) 8 and 3 others: ",
        ),
    ],
)
def test_leak_says_what_is_known_of_it(changes: dict[str, object], begins: str) -> None:
    (found,) = find(leaking(**changes))
    assert found.words.startswith(begins)


def test_failed_connects_name_peer_error_and_threads() -> None:
    (found,) = find(connects("ECONNREFUSED", 11))
    assert found.words == "11 connects to 127.0.0.1:9 failed with ECONNREFUSED, by threads c 12, c 13"
    assert found.tids == (12, 13)


def test_peer_is_named_with_who_answers_for_it() -> None:
    (found,) = find(asking(sum_ns=5 * SECOND_NS, count=50))
    assert "50.0" not in found.words
    assert "(50 % of the trace) for its peer 10.0.0.2:5432, 50 times, on average 100 ms" in found.words
    assert "db of process 11 (threadinfo 11 --trace 10)" in found.advice
    assert (found.severity, found.tids, found.fds) == ("high", (7,), (4,))


def test_peer_of_connections_that_are_gone_is_known_from_the_trace() -> None:
    events = tuple(
        DescriptorEvent(
            at_ns=0, time="", pid=7, tid=7, thread_name="c", event="connect", fd=4, inode=inode, remote="10.0.0.2:80"
        )
        for inode in (44, 45)
    )
    waits = tuple(
        wait("recvfrom", SECOND_NS, object=WaitObject(kind="descriptor", fd=4, inode=inode), is_idle=False)
        for inode in (44, 45, 46)
    )
    one = thread(7, scheduling=scheduling(), waits=waits, waits_other_ns=0)
    sockets = SocketTrace(events=events, omitted_count=0)
    (found,) = find(process(threads=(one,), trace=trace(sockets=sockets)))
    assert (found.kind, found.value) == ("thread_waits_for_peer", 20.0)


def test_siblings_are_told_by_the_time_that_they_ended() -> None:
    (found,) = find(beside_siblings(share_ns=3 * SECOND_NS))
    assert "waited 4 s (40 % of the trace) for other processes of its program, 10 times" in found.words
    assert "hydrogen 21 ended 75 % of that, 1 other the rest" in found.words


def test_who_accepts_is_told_first_at_a_full_backlog() -> None:
    accepted = DescriptorEvent(at_ns=0, time="", pid=7, tid=8, thread_name="main", event="accept", fd=9, source_fd=3)
    threads = tuple(
        thread(
            tid, name=name, scheduling=scheduling(), waits=(wait(call, 9 * SECOND_NS, object=SLEEP),), waits_other_ns=0
        )
        for tid, name, call in ((7, "helper", "nanosleep"), (8, "main", "clock_nanosleep"), (9, "third", "futex"))
    )
    sockets = SocketTrace(events=(accepted,), omitted_count=0)
    (found,) = find(process(threads=threads, trace=trace(sockets=sockets), descriptors=(listener(3, 2, 2),)))
    assert (
        "while thread main 8, which accepts, was in clock_nanosleep for 90 %, and helper 7 was in nanosl" in found.words
    )
    assert found.words.endswith("1 other thread was blocked as well")


def test_leak_of_connections_names_what_they_are_connected_to() -> None:
    def leaked(port: int) -> str:
        socks = tuple(
            descriptor(fd, socket=Socket(local=f"127.0.0.1:{port}", remote="127.0.0.1:5432", port=port))
            for fd in suspect().fds
        )
        found = process(
            descriptors=(*socks, listener(1, 0, 2)),
            trace=trace(descriptors=churn(leak_suspects=(suspect(),), stacks=STACKS)),
        )
        return next(one.words for one in find(found) if one.kind == "descriptor_leak")

    assert "(connected to 127.0.0.1:5432)" in leaked(40000)
    assert "connected" not in leaked(5000)


def test_unbound_sockets_name_who_made_them_where_that_was_seen() -> None:
    origin = Origin(opened_at="", syscall="socket", tid=12, thread_name="maker", library="libx.so")
    made = [msgspec.structs.replace(unbound(fd), origin=origin) for fd in range(3, 10)]
    other = msgspec.structs.replace(unbound(10), origin=msgspec.structs.replace(origin, tid=13))
    for descriptors, told in (
        (made, "; all made by thread maker 12 through libx.so"),
        ([*made, other], "; 7 made by thread maker 12 through libx.so, 1 by others"),
        ([*made, unbound(11)], "; 7 made by thread maker 12 through libx.so, 1 before the trace"),
        ([unbound(3)], ": FD 3"),
    ):
        (found,) = find(process(descriptors=tuple(descriptors)))
        assert found.words.endswith(told)
        assert ("threadinfo trace" in found.advice) == (len(descriptors) == 1)


def test_leak_tells_of_the_surest_suspect_and_of_the_limit_that_all_reach_together() -> None:
    unsure, sure = suspect(growth_per_minute=90.0, confidence="low", fds=(5,)), suspect(fds=(6, 5))
    whole = churn(leak_suspects=(unsure, sure), seconds_to_limit=600.0, stacks=STACKS)
    (found,) = find(process(trace=trace(descriptors=whole)))
    assert (found.value, found.fds) == (60.0, (6, 5))
    assert "1 other call site grows too. At this rate the limit is reached in 10 minutes" in found.words


def test_a_thread_that_did_nothing_is_no_finding() -> None:
    idle = scheduling(0, 0, run_queue_latency_ns=NOTHING, delayed_by=(), woken_by=())
    assert find(process(threads=(thread(scheduling=idle),), trace=trace())) == ()
    assert find(process(threads=None, descriptors=None, limits=None, memory=Memory(), trace=trace(duration_ns=0))) == ()


def test_a_raised_limit_is_one_that_the_hard_limit_allows() -> None:
    limits = Limits(open_files=OpenFilesLimit(10, 25))
    (found,) = find(process(descriptors=tuple(descriptor(fd) for fd in range(10)), limits=limits))
    assert "prlimit --pid 1 --nofile=25:" in found.advice


def test_findings_of_a_saved_report_are_made_anew() -> None:
    """A report says what an older version found, or what somebody wrote into it."""
    saved = with_findings(report(process(descriptors=(unbound(3),))))
    forged = render_json(saved).replace("neither bound nor connected", "all right")
    assert with_findings(parse_json(forged.encode(), "saved")) == saved


def test_text_has_findings_first_and_the_plain_report_none() -> None:
    text = render_text(with_findings(report(server(2, 30))), verbose=True)
    first = text.splitlines()[:3]
    assert first[0] == "=== What Stands Out in hydrogen (PID: 1): hydrogen --serve ==="
    assert first[1].startswith("1. [high] /var/log/app.log, opened by threads reloader 7")
    assert max(map(len, text[: text.index("=== Memory")].splitlines())) <= 80
    assert "What Stands Out" not in render_text(with_findings(report(process(descriptors=(unbound(3),)))))


def test_text_without_findings_says_so() -> None:
    text = render_text(report(process()), verbose=True)
    assert text.splitlines()[1] == "Nothing crosses a threshold. Waits for a CPU and leaks are only seen by a trace."


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    """Sockets that are closed afterwards."""
    made: list[socket.socket] = []
    yield made
    for sock in made:
        sock.close()


@pytest.mark.parametrize(("count", "is_full"), [(2, False), (3, True)])
def test_a_real_listener_whose_backlog_is_full(
    count: int, is_full: bool, threadinfo: Run, clients: list[socket.socket]
) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=3)
    clients.append(listening)
    clients += [socket.create_connection(listening.getsockname()) for _ in range(count)]
    result = threadinfo(os.getpid(), "--format", "json")
    found = [
        one for one in json.loads(result.stdout)["processes"][0]["findings"] if one["kind"] == "listener_backlog_full"
    ]
    assert [one["fds"][0] for one in found] == ([listening.fileno()] if is_full else [])


def test_a_real_socket_that_is_bound_to_nothing(threadinfo: Run, clients: list[socket.socket]) -> None:
    clients += [socket.socket(), socket.create_server(("127.0.0.1", 0))]
    result = threadinfo(os.getpid(), "--format", "json")
    found = [
        one for one in json.loads(result.stdout)["processes"][0]["findings"] if one["kind"] == "socket_bound_to_nothing"
    ]
    assert clients[0].fileno() in found[0]["fds"]
    assert clients[1].fileno() not in found[0]["fds"]
    text = threadinfo(os.getpid(), "-v").stdout
    assert "neither bound nor connected" in text
    assert "neither bound" not in threadinfo(os.getpid()).stdout


def test_a_swapping_process_in_miniature(threadinfo: Run, make_proc: MakeProc) -> None:
    status = miniature.STATUS.format(pid=7, name="old").replace("     512 kB", "  204800 kB")
    result = threadinfo(7, "--proc", make_proc(miniature.process(7, "old", status=status)), "--format", "json")
    (found,) = json.loads(result.stdout)["processes"][0]["findings"]
    assert (found["kind"], found["severity"], found["value"]) == ("swap_in_use", "medium", 200 << 20)
    assert found["words"] == "200.0 MiB of its memory are in swap, 94 % of what it uses"


def lock_words(*others: Thread, holders: tuple[LockHolder, ...]) -> str:
    """What is said of a lock that one thread waited for."""
    waiter = thread(7, scheduling=scheduling(), waits=(wait("futex", SECOND_NS, object=MUTEX, held_by=holders),))
    whole = merge_waits(process(threads=(waiter, *others), trace=trace()), ())
    (found,) = [one for one in find(whole) if one.kind == "contended_lock"]
    return found.words


def test_a_lock_that_many_had_alike_names_nobody() -> None:
    evenly = tuple(LockHolder(1, 20 + number, f"worker-{number}", 10, SECOND_NS // 8) for number in range(8))
    assert lock_words(holders=evenly).endswith("; 8 threads had it, none for more than 12 % of that")
    mostly = (LockHolder(1, 9, "writer", 10, SECOND_NS // 2), *evenly[:3])
    assert lock_words(holders=mostly).endswith("; writer 9 had it for 50 % of that")


def test_who_sleeps_while_it_has_the_lock_is_said_to() -> None:
    holder = thread(9, "writer", scheduling=scheduling(), waits=(wait("clock_nanosleep", 9 * SECOND_NS, object=SLEEP),))
    words = lock_words(holder, holders=HOLDERS)
    assert words.endswith("; writer 9 had it for 100 % of that, and was in clock_nanosleep for 90 % of the trace")
