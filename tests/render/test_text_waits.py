"""Where the time went, in text: what matters comes first, idle threads together, nothing wider than the terminal."""

from __future__ import annotations

import msgspec
import pytest

from tests.reports import SECOND_NS, descriptor, process, report, scheduling, thread, trace, wait
from threadinfo.merge import merge_waits
from threadinfo.model import LockHolder, ProcessReport, Thread, Wait, WaitObject, WokenBy
from threadinfo.render.text.report import render_text

WINDOW_NS = 10 * SECOND_NS
MUTEX = WaitObject(kind="lock", address=0x7F1200)
FSYNC = wait("fsync", SECOND_NS, object=WaitObject(kind="descriptor", fd=7, inode=100_007))
LOCKED = wait(
    "futex",
    2 * SECOND_NS,
    object=MUTEX,
    held_by=(LockHolder(1, 9, "writer", 10, 2 * SECOND_NS),),
    released_by=(WokenBy(1, 9, "writer", 10, 2 * SECOND_NS),),
)


def traced(tid: int, name: str, *waits: Wait, on_cpu_ns: int = SECOND_NS) -> Thread:
    """A thread that was on the CPU for a second, and waited for the rest."""
    rest = WINDOW_NS - on_cpu_ns - sum(one.sum_ns for one in waits)
    whole = scheduling(on_cpu_ns, 0)
    return thread(tid, name, scheduling=whole, waits=waits, waits_other_ns=rest)


def server(*threads: Thread) -> ProcessReport:
    descriptors = (descriptor(7), descriptor(20, inode=20, description="eventpoll"))
    whole = process(threads=threads, descriptors=descriptors, trace=trace(duration_ns=WINDOW_NS))
    return merge_waits(whole, ())


def section(one: ProcessReport, *, width: int = 80, verbose: bool = False) -> list[str]:
    text = render_text(report(one), width=width, verbose=verbose)
    return text[text.index("=== Where the Time") : text.index("=== Memory Footprint")].splitlines()


def idle(tid: int, name: str = "pool") -> Thread:
    return traced(tid, name, wait(sum_ns=WINDOW_NS - SECOND_NS // 100), on_cpu_ns=SECOND_NS // 100)


def test_line_of_a_thread_has_its_reasons_with_waiting_for_work_last() -> None:
    one = traced(7, "worker", wait(sum_ns=6 * SECOND_NS), LOCKED, FSYNC)
    lines = section(server(one), width=200)
    assert lines[0] == "=== Where the Time Went in hydrogen (10.0 s traced) ==="
    assert lines[1] == (
        "7       worker          20 % lock of writer 9 0x7f1200, 10 % on CPU, "
        "10 % fsync on FD 7 file: /var/log/hydrogen/7.log, 60 % idle in epoll_wait on FD 20 eventpoll"
    )


def test_text_is_as_wide_as_the_terminal_and_counts_what_it_leaves_out() -> None:
    hostile = traced(7, "work\x1b[31mer", wait(sum_ns=6 * SECOND_NS), LOCKED, FSYNC)
    lines = section(server(hostile))
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith(" +2")
    assert "\x1b" not in "".join(lines)


def test_threads_that_only_wait_for_work_are_told_of_together() -> None:
    busy = traced(7, "worker", FSYNC, on_cpu_ns=9 * SECOND_NS)
    lines = section(server(*map(idle, range(100, 137)), busy))
    assert lines[1] == "7       worker          90 % on CPU, 10 % fsync on FD 7 file: /var/log/hy..."
    assert lines[2] == "37 other threads only waited for work: 37 in epoll_wait"
    whole = section(server(*map(idle, range(100, 137)), busy), verbose=True)
    assert sum("idle in epoll_wait on FD 20" in line for line in whole) == 37


def test_lock_is_told_with_its_holder_its_waiters_and_who_ended_the_waits() -> None:
    other = msgspec.structs.replace(LOCKED, sum_ns=SECOND_NS, max_ns=SECOND_NS)
    one = server(traced(7, "worker", LOCKED), traced(8, "helper", other))
    assert one.trace
    (lock,) = one.trace.locks
    assert (lock.address, lock.count, lock.wait_ns, lock.percent) == (0x7F1200, 20, 3 * SECOND_NS, 30.0)
    assert [use.tid for use in lock.waiters] == [7, 8]
    assert [(who.tid, who.count, who.time_ns) for who in lock.held_by] == [(9, 20, 4 * SECOND_NS)]
    lines = section(one)
    at = lines.index("Locks that threads waited for:")
    assert lines[at + 1] == "  0x7f1200: 3.00s in 20 waits by 2 threads together, longest 1.00s"
    assert lines[at + 3] == "    waited: worker 7 67 %, helper 8 33 %"
    at = lines.index("Who ended whose waits within work:")
    assert lines[at + 1] == "  writer 9 -> helper 8: 2.00s in 10 waits"


def test_futex_that_is_waited_for_otherwise_too_is_no_lock() -> None:
    """A barrier's round has the value of a contended mutex once."""
    barrier = msgspec.structs.replace(LOCKED, held_by=())
    other = wait("futex", object=WaitObject(kind="futex", address=0x7F1200))
    one = server(traced(7, "worker", barrier, other))
    assert one.trace
    assert one.trace.locks == ()
    assert one.threads
    assert {(known.object.kind, known.is_idle) for known in one.threads[0].waits or ()} == {
        ("futex", True),
        ("futex", False),
    }


@pytest.mark.parametrize(
    ("inode", "is_reused", "words"),
    [(100_007, False, "file: /var/log/hydrogen/7.log"), (5, False, None), (None, True, None)],
)
def test_number_that_is_another_file_by_now_has_no_description(
    inode: int | None, is_reused: bool, words: str | None
) -> None:
    target = WaitObject(kind="descriptor", fd=7, inode=inode, is_reused=is_reused)
    one = server(traced(7, "worker", msgspec.structs.replace(FSYNC, object=target)))
    assert one.threads
    assert one.threads[0].waits
    assert one.threads[0].waits[0].object.description == words


def test_who_reads_a_timer_waits_for_work() -> None:
    timer = descriptor(7, type="timerfd", description="timer notification")
    reading = wait("read", object=WaitObject(kind="descriptor", fd=7, inode=100_007))
    one = process(threads=(traced(7, "timer", reading),), descriptors=(timer,), trace=trace(duration_ns=WINDOW_NS))
    threads = merge_waits(one, ()).threads
    assert threads
    assert [known.is_idle for known in threads[0].waits or ()] == [True]


def test_report_without_waits_has_no_such_section() -> None:
    one = process(threads=(thread(scheduling=scheduling()),), trace=trace())
    assert "Where the Time Went" not in render_text(report(one))
