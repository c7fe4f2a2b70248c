"""Parsers of stat, status and their kin: real files, and any text that a name may hold."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import miniature
from tests.conftest import MakeProc
from threadinfo.proc import process
from threadinfo.proc.process import Machine, TaskStat
from threadinfo.proc.reader import MalformedLineError, ProcDirectory, ProcGoneError

MACHINE = Machine(boot_time_seconds=1_700_000_000, uptime_seconds=1000.0, memory_bytes=None, ticks_per_second=100)


@given(name=st.text(max_size=64), state=st.sampled_from("RSDTtZXIP"), ticks=st.integers(0, 2**63))
def test_parse_stat_any_name_leaves_the_other_fields_right(name: str, state: str, ticks: int) -> None:
    parsed = process.parse_stat(miniature.stat(7, name, state, user=ticks, threads=13))
    assert (parsed.name, parsed.state, parsed.cpu_ticks, parsed.thread_count, parsed.start_ticks) == (
        name,
        state,
        ticks,
        13,
        100,
    )


def test_parse_stat_the_scripts_trap_is_a_name_like_any_other() -> None:
    assert process.parse_stat(miniature.stat(7, "a) R 9 9 9 (b", user=5)).cpu_ticks == 5


@given(text=st.text())
def test_parse_stat_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = process.parse_stat(text)
    except MalformedLineError:
        return
    assert isinstance(parsed, TaskStat)


def test_read_stat_of_this_process_agrees_with_the_kernel() -> None:
    with ProcDirectory("/proc") as root, root.directory(str(os.getpid())) as own:
        stat = process.read_stat(own)
        assert stat.state == "R"
        assert not stat.is_kernel_thread
        times = os.times()
        assert abs(stat.cpu_ticks - (times.user + times.system) * os.sysconf("SC_CLK_TCK")) <= 3


def test_read_stat_of_kthreadd_is_a_kernel_thread() -> None:
    with ProcDirectory("/proc") as root:
        try:
            with root.directory("2") as kthreadd:
                assert process.read_stat(kthreadd).is_kernel_thread == (kthreadd.read("comm") == b"kthreadd\n")
        except ProcGoneError:
            pytest.skip("no PID 2 in this PID namespace")


def test_parse_status_sizes_are_bytes() -> None:
    status = process.parse_status(miniature.STATUS.format(pid=1, name="x"))
    assert (status.virtual_bytes, status.resident_bytes, status.swap_bytes) == (472328 * 1024, 14028 * 1024, 512 * 1024)


def test_parse_status_without_memory_lines_is_none_not_zero() -> None:
    status = process.parse_status("Name:\tkthreadd\nUid:\t0\t7\t0\t0\n")
    assert (status.virtual_bytes, status.effective_uid) == (None, 7)


@pytest.mark.parametrize("line", ["VmRSS:\t12 pages", "VmRSS:\tmany kB", "VmRSS:", "Uid:\t0"])
def test_parse_status_malformed_line_is_named(line: str) -> None:
    with pytest.raises(MalformedLineError, match="line 2"):
        process.parse_status(f"Uid:\t0\t0\t0\t0\n{line}\n")


@pytest.mark.parametrize(
    ("name", "executable", "arguments", "expected"),
    [
        ("short", "/bin/other", (), "short"),
        ("fifteen-letters", "/usr/bin/fifteen-letters-and-more", (), "fifteen-letters-and-more"),
        ("fifteen-letters", "/usr/bin/fifteen-letters-and-more (deleted)", (), "fifteen-letters-and-more"),
        ("fifteen-letters", None, ("./fifteen-letters-2",), "fifteen-letters-2"),
        ("fifteen-letters", "/bin/python3", ("python3",), "fifteen-letters"),
    ],
)
def test_full_name(name: str, executable: str | None, arguments: tuple[str, ...], expected: str) -> None:
    assert process.full_name(name, executable, arguments) == expected


def test_read_command_line_keeps_what_is_not_utf8(make_proc: MakeProc) -> None:
    root = make_proc({"7/cmdline": b"./a\0b\xffc\0\n\0"})
    with ProcDirectory(str(root)) as proc, proc.directory("7") as target:
        assert process.read_command_line(target) == ("./a", "b\\xffc", "\n")


def test_started_at_is_boot_time_plus_ticks() -> None:
    stat = process.parse_stat(miniature.stat(1))
    assert process.started_at(stat, MACHINE) == "2023-11-14T22:13:21.000Z"


@given(ticks=st.integers(0, 10**12))
def test_cpu_percent_is_never_negative(ticks: int) -> None:
    percent = process.cpu_percent(process.parse_stat(miniature.stat(1, user=ticks)), MACHINE)
    assert percent is not None
    assert percent >= 0


def test_user_name_of_an_unknown_uid_is_its_number() -> None:
    assert process.user_name(4_000_000_001) == "4000000001"
    assert set(process.user_name(0)) <= set(string.printable)
