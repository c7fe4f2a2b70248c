"""Figures of the tracer against the kernel's own: they agree, and where they are made wrong that is told."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import WORKLOADS, Start
from tests.reports import confidence, process, thread, trace
from threadinfo.model import KernelAccount, SchedulingDifference
from threadinfo.proc.reader import ProcDirectory
from threadinfo.proc.threads import read_kernel_account, read_thread_states
from threadinfo.render.text.trace import confidence_lines
from threadinfo.trace.scheduling.kernel_accounts import (
    AFTER_WAKEUP,
    RUNNING,
    SLEEPING,
    Comparison,
    Reading,
    Record,
    Thread,
    compare,
    copy_record,
)
from threadinfo.trace.scheduling.recorder import SchedulingRecorder
from threadinfo.trace.scheduling.records import ThreadRecord

MS = 1_000_000
WINDOW = 1_000 * MS
BUSY_THREADS = 31


def record(**changes: int) -> Record:
    """Of a thread that sleeps since 100 ms after the window's beginning, at 0."""
    fields = {**dict.fromkeys(Record._fields, 0), "tid": 7, "state": SLEEPING, "first_ns": 1, "since_ns": 100 * MS}
    return Record(**{**fields, "born_ns": -1, **changes})


def account(on_cpu_ns: int = 0, run_queue_ns: int = 0, voluntary: int = 0, involuntary: int = 0) -> KernelAccount:
    return KernelAccount("S", on_cpu_ns, run_queue_ns, voluntary, involuntary)


def reading(at_ns: int, ours: Record, kernel: KernelAccount) -> Reading:
    return Reading(at_ns, at_ns + 10_000, ours, kernel, ours)


def compared(ours: Record, kernel: KernelAccount, **changes: Any) -> Comparison:
    """What comes of a thread that had done nothing when the window opened."""
    threads = [Thread(reading(MS, record(first_ns=1), account()), reading(WINDOW, ours, kernel), SLEEPING)]
    told: dict[str, Any] = {"started_ns": 0, "stopped_ns": WINDOW, "on_cpu_ns": 0, "cpus": 2, "taken_ns": 0}
    told |= {"has_times": True, "is_queue_exact": True}
    return compare(threads, 3, **(told | changes))


def whats(comparison: Comparison) -> list[str]:
    return [difference.what for difference in comparison.differences]


def test_accounts_that_are_two_percent_apart_disagree_and_closer_ones_do_not() -> None:
    assert whats(compared(record(on_cpu_ns=119 * MS), account(100 * MS))) == []
    far = compared(record(on_cpu_ns=121 * MS), account(100 * MS))
    assert far.differences == (SchedulingDifference(7, "on_cpu_ns", 121 * MS, 100 * MS),)
    assert (far.compared_count, far.not_compared_count) == (1, 3)
    assert whats(compared(record(on_cpu_ns=79 * MS), account(100 * MS))) == ["on_cpu_ns"]
    assert whats(compared(record(queued_ns=121 * MS), account(0, 100 * MS))) == ["run_queue_ns"]


def test_kernels_time_queued_that_is_too_much_counts_where_the_kernel_is_exact() -> None:
    assert whats(compared(record(), account(0, 900 * MS))) == ["run_queue_ns"]
    assert whats(compared(record(), account(0, 900 * MS), is_queue_exact=False)) == []
    assert whats(compared(record(queued_ns=900 * MS), account(), is_queue_exact=False)) == ["run_queue_ns"]


def test_what_interrupts_took_and_the_border_at_a_switch_are_allowed_for() -> None:
    assert whats(compared(record(on_cpu_ns=140 * MS), account(100 * MS), taken_ns=25 * MS)) == []
    assert whats(compared(record(on_cpu_ns=100 * MS), account(140 * MS), taken_ns=25 * MS)) == ["on_cpu_ns"]
    often = record(on_cpu_ns=140 * MS, voluntary_count=5_000)
    assert whats(compared(often, account(100 * MS, 0, 5_000))) == []


def test_one_switch_more_or_less_disagrees_unless_the_thread_is_moving() -> None:
    assert whats(compared(record(voluntary_count=11, involuntary_count=3), account(0, 0, 11, 3))) == []
    assert whats(compared(record(voluntary_count=10), account(0, 0, 11))) == ["voluntary_switch_count"]
    assert whats(compared(record(involuntary_count=12), account(0, 0, 0, 11))) == ["involuntary_switch_count"]
    assert whats(compared(record(state=RUNNING, since_ns=WINDOW, voluntary_count=10), account(0, 0, 11))) == []
    # a signal that came when it was about to sleep: of one kind for the kernel, of the other at the tracepoint
    assert whats(compared(record(voluntary_count=10, involuntary_count=1), account(0, 0, 11))) == []
    assert whats(compared(record(voluntary_count=1, involuntary_count=10), account(0, 0, 11))) != []


def test_time_before_the_first_event_is_what_it_did_then() -> None:
    kernel = account(900 * MS)
    for state, expected in ((RUNNING, []), (SLEEPING, ["on_cpu_ns"]), (AFTER_WAKEUP, ["on_cpu_ns"])):
        nothing_yet = reading(0, record(first_ns=0, since_ns=0, state=0), account())
        ours = record(first_ns=900 * MS, since_ns=900 * MS)
        thread = Thread(nothing_yet, reading(WINDOW, ours, kernel), state)
        told: dict[str, Any] = {"started_ns": 0, "stopped_ns": WINDOW, "on_cpu_ns": 0, "cpus": 2, "taken_ns": 0}
        told |= {"is_queue_exact": True}
        found = whats(compare([thread], 0, **told, has_times=True))
        assert [what for what in found if what == "on_cpu_ns"] == expected
        assert whats(compare([thread], 0, **told, has_times=False)) == []


def test_more_time_than_the_cpus_had_disagrees_though_no_thread_was_compared() -> None:
    told: dict[str, Any] = {"started_ns": 0, "stopped_ns": WINDOW, "cpus": 2, "taken_ns": 0}
    told |= {"has_times": True, "is_queue_exact": True}
    assert compare([], 5, on_cpu_ns=2 * WINDOW, **told) == Comparison(0, 5, ())
    (difference,) = compare([], 5, on_cpu_ns=3 * WINDOW, **told).differences
    assert difference == SchedulingDifference(None, "on_cpu_ns", 3 * WINDOW, 2 * WINDOW)


def test_text_says_with_what_the_figures_agree_and_lists_where_not() -> None:
    agrees = confidence(scheduling_matches_kernel=True, scheduling_compared_count=1, scheduling_not_compared_count=2)
    said = " ".join(line.strip() for line in confidence_lines(agrees))
    assert "Scheduling: agrees with the kernel's own accounts of 1 thread; 2 were not compared" in said
    differences = (
        SchedulingDifference(None, "on_cpu_ns", 39_700 * MS, 6_000 * MS),
        SchedulingDifference(7, "on_cpu_ns", 1_487 * MS, 170_000),
        SchedulingDifference(7, "voluntary_switch_count", 3, 4),
    )
    lines = confidence_lines(
        msgspec.structs.replace(
            agrees,
            scheduling_matches_kernel=False,
            scheduling_differences=differences,
            scheduling_compared_count=2000,
            scheduling_not_compared_count=0,
        )
    )
    at = lines.index("Scheduling: disagrees with the kernel's own accounts on 1 of 2000 threads")
    assert lines[at + 1 : at + 4] == [
        "  all together: 39.7s on CPU, but the CPUs had 6.00s",
        "  7: 1.49s on CPU here, 170us for the kernel",
        "  7: 3 voluntary switches here, 4 for the kernel",
    ]
    assert not [line for line in confidence_lines(confidence()) if line.startswith("Scheduling")]


def test_record_that_moves_while_it_is_copied_is_copied_again() -> None:
    class Moving:
        """Memory whose first two looks differ."""

        def __init__(self) -> None:
            self.looks = 0

        def __getitem__(self, key: slice) -> bytes:
            self.looks += 1
            length: int = key.stop - key.start
            return bytes([min(self.looks, 3)]) * length

    memory = Moving()
    assert copy_record(memory, 0).tid == 0x03030303  # type: ignore[arg-type]
    assert memory.looks == 4


# --- with real threads ------------------------------------------------------------------------------------------------


@pytest.fixture
def traced(bpf: None, start: Start) -> Iterator[tuple[int, SchedulingRecorder, ProcDirectory]]:
    """A process whose threads sleep and wake, and a tracer that has not started."""
    pid = start(sys.executable, WORKLOADS / "many.py", "busy", BUSY_THREADS, 3).pid
    with ProcDirectory(f"/proc/{pid}") as directory:

        def threads() -> dict[int, dict[int, str]]:
            return {pid: read_thread_states(directory)}

        with SchedulingRecorder(threads, lambda _pid, tid: read_kernel_account(directory, tid)) as tracer:
            yield pid, tracer, directory


def test_corrupted_time_of_a_thread_is_told(traced: tuple[int, SchedulingRecorder, ProcDirectory]) -> None:
    pid, tracer, _ = traced
    tracer.start()
    time.sleep(0.2)
    record = next(one for one in tracer.records if one["tid"] == pid)
    record["first_ns"] = record["first_ns"] or tracer.started_ns + 1
    record["on_cpu_ns"] += 150 * MS
    record["voluntary_count"] += 1
    tracer.stop()
    told = tracer.confidence()
    assert told.scheduling_matches_kernel is False
    assert {one.what for one in told.scheduling_differences if one.tid == pid} == {
        "on_cpu_ns",
        "voluntary_switch_count",
    }
    assert {one.tid for one in told.scheduling_differences} == {pid}
    assert told.scheduling_compared_count == len(read_thread_states(traced[2]))
    assert any(f"  {pid}: " in line for line in confidence_lines(told))
    report = process(threads=(thread(pid),), trace=trace(confidence=told))
    from threadinfo.findings import find

    assert [finding.kind for finding in find(report)] == ["scheduling_disagrees"]


def test_corrupted_slots_that_exceed_the_cpus_are_told(traced: tuple[int, SchedulingRecorder, ProcDirectory]) -> None:
    _, tracer, _ = traced
    tracer.start()
    for record in tracer.records:
        if record["tid"]:
            record["on_cpu_ns"] += 10**12
    tracer.stop()
    assert None in {one.tid for one in tracer.confidence().scheduling_differences}


def test_kernel_that_counts_otherwise_is_told(traced: tuple[int, SchedulingRecorder, ProcDirectory]) -> None:
    pid, tracer, directory = traced
    tracer.start()
    time.sleep(0.1)
    own = tracer._read_account
    tracer._read_account = lambda of, tid: (  # a reader that has one switch more, of one thread
        found._replace(voluntary_count=found.voluntary_count + (tid == pid)) if (found := own(of, tid)) else None
    )
    tracer.stop()
    assert [(one.tid, one.what) for one in tracer.confidence().scheduling_differences] == [
        (pid, "voluntary_switch_count")
    ]
    assert directory.numbers("task")


def test_threads_that_end_are_not_compared(bpf: None, start: Start, tmp_path: Path) -> None:
    source = tmp_path / "ending.py"
    source.write_text(
        "import sys, threading\n"
        "go = threading.Event()\n"
        "for _ in range(13): threading.Thread(target=go.wait).start()\n"
        "for _ in range(7): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "go.set()\n"
        "for one in threading.enumerate():\n"
        "    if one is not threading.current_thread() and not one.daemon: one.join()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    child = start(sys.executable, source)
    assert child.stdin is not None
    assert child.stdout is not None
    with ProcDirectory(f"/proc/{child.pid}") as directory:

        def threads() -> dict[int, dict[int, str]]:
            return {child.pid: read_thread_states(directory)}

        with SchedulingRecorder(threads, lambda _pid, tid: read_kernel_account(directory, tid)) as tracer:
            tracer.start()
            child.stdin.write("\n")
            child.stdin.flush()
            while len(threads()[child.pid]) != 1 + 7 + 1:
                time.sleep(0.01)
            tracer.stop()
            told = tracer.confidence()
    assert told.scheduling_not_compared_count == 13
    assert told.scheduling_compared_count == 1 + 7 + 1  # the one that was born is compared over its whole life
    assert told.scheduling_matches_kernel is True, told.scheduling_differences


def test_sleeper_whose_waking_nobody_was_told_of_has_not_run_since_the_beginning(
    bpf: None, start: Start, tmp_path: Path
) -> None:
    """What some kernels do while certain threads are current: here the programs are off for that time."""
    source = tmp_path / "sleeper.py"
    source.write_text(
        "import os, sys, threading, time\n"
        "def sleeper():\n"
        "    sys.stdin.readline()\n"
        "    os.set_blocking(0, False)\n"
        "    os.write(1, b'spinning\\n')\n"
        "    while True:\n"
        "        try: os.read(0, 1); break\n"
        "        except BlockingIOError: pass\n"
        "    time.sleep(1000)\n"
        "threading.Thread(target=sleeper, name='sleeper').start()\n"
        "print('ready', flush=True)\n"
        "threading.Event().wait()\n"
    )
    child = start(sys.executable, source)
    assert child.stdin is not None
    assert child.stdout is not None
    (tid,) = read_tids(child.pid) - {child.pid}
    with ProcDirectory(f"/proc/{child.pid}") as directory:

        def threads() -> dict[int, dict[int, str]]:
            return {child.pid: read_thread_states(directory)}

        with SchedulingRecorder(threads, lambda _pid, tid: read_kernel_account(directory, tid)) as tracer:
            before = read_kernel_account(directory, tid)
            tracer.start()
            time.sleep(0.5)  # the false time, if it is told
            tracer._control.is_on = 0
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "spinning\n"
            tracer._control.is_on = 1
            child.stdin.write("\n")
            child.stdin.flush()
            while (after := read_kernel_account(directory, tid)) is None or after.state != "S":
                pass
            tracer.stop()
            told = next(one.scheduling for one in tracer.activities({}) if one.tid == tid)
            assert (tracer.confidence().missed_count or 0) > 0
    assert before is not None
    window = tracer.stopped_ns - tracer.started_ns
    assert told.sleeping_ns >= 500 * MS  # rather than running, or waiting for a CPU
    assert told.on_cpu_ns == pytest.approx(after.on_cpu_ns - before.on_cpu_ns, abs=0.02 * window)
    assert told.on_cpu_ns + told.run_queue_ns + told.blocked_ns == pytest.approx(window, rel=0.01)


def read_tids(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}


def test_record_mirrors_the_head_of_the_programs_structure() -> None:
    thread = ThreadRecord(**{name: index + 1 for index, name in enumerate(Record._fields)})
    memory = memoryview(ctypes.string_at(ctypes.addressof(thread), ctypes.sizeof(thread)))
    assert copy_record(memory, 0) == tuple(range(1, len(Record._fields) + 1))
