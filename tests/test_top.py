"""The live view: driven in a real terminal on a process that lives, and key by key on made-up snapshots."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.app import App

from tests import reports
from tests.conftest import WORKLOADS, Start, run_threadinfo
from tests.terminal import Terminal
from tests.trace.conftest import bpf  # noqa: F401 - a fixture
from threadinfo.errors import ENDING_SIGNALS
from threadinfo.model import (
    Descriptor,
    DescriptorEvent,
    Finding,
    Limits,
    Memory,
    OpenFilesLimit,
    Origin,
    ProcessReport,
    Served,
    Socket,
    Thread,
)
from threadinfo.snapshot import Age, Churn, ProcessSummary, Snapshot, ThreadMoment, Trends
from threadinfo.top.app import TopApp
from threadinfo.top.columns import (
    DESCRIPTORS,
    EVENTS,
    PLAIN_THREADS,
    SOCKETS,
    TRACED_THREADS,
    choose_columns,
    column_widths,
    parse_columns,
)
from threadinfo.top.keys import ACTIONS, KEYS
from threadinfo.top.marks import bar, format_age, sparkline, trend
from threadinfo.top.picker import PickerApp
from threadinfo.top.summary import HEIGHT
from threadinfo.top.table import Table, fit

HOSTILE = ("[bold]x[/bold]", "[/]", "\x1b[31mred\x07", "\u202egnp.exe", "a\nb\rc\td", "n" * 4096, "[@click=app.quit]")

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None and not os.environ.get("CI"), reason="needs tmux")


# --- made-up snapshots, in Textual's own test terminal


class StillSource:
    """Hands over what a test gives it."""

    interval_seconds = 1.0

    def __init__(self) -> None:
        self.publish: Callable[[Snapshot], None] = lambda _: None
        self.fail: Callable[[BaseException], None] = lambda _: None
        self.is_stopped = False

    def start(self, publish: Callable[[Snapshot], None], fail: Callable[[BaseException], None]) -> None:
        self.publish, self.fail = publish, fail

    def stop(self) -> None:
        self.is_stopped = True


def make_thread(tid: int, name: str) -> Thread:
    return Thread(
        tid=tid, name=name, state="S", state_name="sleeping", cpu_percent=0.5, runtime_seconds=1.0, stack_bytes=135168
    )


def make_descriptor(fd: int, what: str, **fields: Any) -> Descriptor:
    return Descriptor(fd=fd, type=fields.pop("type", "file"), target=what, description=f"file: {what}", **fields)


def make_event(fd: int, name: str, path: str) -> DescriptorEvent:
    return DescriptorEvent(
        at_ns=fd, time="2026-01-31T14:32:01.123456Z", pid=1, tid=11, thread_name=name, event="open", syscall="openat",
        fd=fd, result=fd, type="file", path=path, stack=(f"frame_of_{path}",),
    )  # fmt: skip


def make_snapshot(names: tuple[str, ...] = ("main", "web", "log"), **fields: Any) -> Snapshot:
    """Threads 11, 12, ... of these names; descriptors 0, 1, ... and a listener of the same."""
    descriptors = [make_descriptor(fd, f"/tmp/{name}") for fd, name in enumerate(names)]
    descriptors.append(
        Descriptor(
            fd=99,
            type="socket",
            target="socket:[7]",
            description="socket (TCP port 5000 - web server)",
            socket=Socket(family="AF_INET", protocol="TCP", state="LISTEN", local=f"{names[0]}:5000", bound=True),
            served_by=(Served(12, names[0], "accept4"),),
            origin=Origin(
                opened_at="2026-01-31T14:32:01.123456Z", syscall="socket", tid=12, thread_name=names[0],
                stack=("listen_on+0x1 [web]",),
            ),
        )
    )  # fmt: skip
    threads = tuple(make_thread(11 + index, name) for index, name in enumerate(names))
    process = ProcessReport(
        pid=11, name=names[0], executable=None, command_line=(), user="root", started_at=None,
        memory=Memory(resident_bytes=1 << 20), threads=threads, descriptors=tuple(descriptors),
        limits=Limits(OpenFilesLimit(100, 100)),
    )  # fmt: skip
    moments = {
        thread.tid: ThreadMoment(
            cpu_percent=float(thread.tid), wait_count=3, wait_p50_ns=1000, wait_p99_ns=1000 * (30 - thread.tid),
            switches_per_second=2.0, delayed_by=f"{names[-1]} 13 50 %", cpu_history=(1.0, 2.0), wait_history=(1.0, 9.0),
        )
        for thread in threads
    }  # fmt: skip
    given: dict[str, Any] = {
        "at_ns": 60_000_000_000, "interval_ns": 1_000_000_000, "process": process, "cpu_percent": 12.5,
        "moments": moments, "ages": {one.fd: Age(0, one.fd == 99) for one in descriptors}, "born": frozenset(),
        "died": (), "churn": Churn(opened_count=7, closed_count=5, failed_count=1),
        "trends": Trends(cpu_percent=(1.0, 12.5)), "events": tuple(make_event(1, name, name) for name in names),
        "omitted_event_count": 0, "tracing": "on", "message": None,
    }  # fmt: skip
    return Snapshot(**(given | fields))


def screen_of(app: App[Any]) -> str:
    """What is seen."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in lines)


def selected(table: Table) -> Any:
    """The line under the cursor."""
    return table.selected()


Body = Callable[[TopApp, Any, StillSource], Coroutine[Any, Any, None]]


def drive(body: Body, snapshot: Snapshot | None = None, size: tuple[int, int] = (80, 24)) -> int | None:
    """Runs the view on a snapshot, and a test's body in it; gives the exit status."""
    source = StillSource()
    app = TopApp(source)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            source.publish(snapshot or make_snapshot())
            await pilot.pause()
            await body(app, pilot, source)

    asyncio.run(run())
    assert source.is_stopped
    return app.return_value


async def press(app: TopApp, pilot: Any, *keys: str) -> str:
    for key in keys:
        await pilot.press(key)
    await pilot.pause()
    return screen_of(app)


def test_head_says_who_what_and_how_much() -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        screen = screen_of(app)
        for words in ("main  PID 11", "3 threads", "traced", "CPU   12.5%", "RSS 1.0 MiB", "4.0% of 100"):
            assert words in screen
        assert "+7.0/s" in screen
        assert "-5.0/s" in screen
        assert "failed 1.0/s" in screen

    drive(body)


# What each action shows that was not there before, after the keys that lead to it.
SHOWS: dict[str, tuple[tuple[str, ...], str]] = {
    "help": ((), "Keys"),
    "threads": (("2",), "Threads  1-3"),
    "descriptors": ((), "Descriptors  1-4 of 4  by FD up"),
    "sockets": ((), "Sockets  1-1 of 1"),
    "events": ((), "Events  1-3 of 3  by TIME down"),
    "next_view": ((), "Descriptors"),
    "previous_view": ((), "Events"),
    "detail": ((), "Thread 13 log"),
    "back": (("enter",), "Threads  1-3"),
    "findings": ((), "Esc Back"),
    "next_process": ((), "No other process has this name"),
    "previous_process": ((), "No other process has this name"),
    "search": ((), "/_"),
    "filter": ((), "Filter: _"),
    "columns": ((), "Columns: TID, NAME, S, CPU%"),
    "sort_right": ((), "by P99 down"),
    "sort_left": ((), "by S up"),
    "reverse": ((), "by CPU% up"),
    "pause": ((), "PAUSED"),
    "next_match": ((), "Nothing was searched for"),
    "previous_match": ((), "Nothing was searched for"),
    "redraw": ((), "Threads  1-3"),
}

# Where the cursor stands after an action, on lines 13, 12, 11, after the keys that lead to it.
MOVES = {
    "up": (("G",), 12),
    "down": ((), 12),
    "page_up": (("G",), 13),
    "page_down": ((), 11),
    "first": (("G",), 13),
    "last": ((), 11),
}


@pytest.mark.parametrize(("key", "action"), ACTIONS.items(), ids=str)
def test_every_key_of_the_help_does_what_the_help_says(key: str, action: str) -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        if action in MOVES:
            before, tid = MOVES[action]
            await press(app, pilot, *before, key)
            assert selected(app._threads).thread.tid == tid
        elif action in SHOWS:
            before, words = SHOWS[action]
            await press(app, pilot, *before)
            if action != "redraw":
                assert words not in screen_of(app)
            assert words in await press(app, pilot, key)
        else:
            await pilot.press(key)

    status = drive(body)
    assert status == {"quit": 0, "pick": 0, "interrupt": 130}.get(action)


def test_help_names_every_key() -> None:
    assert set(ACTIONS.values()) == {entry.action for entry in KEYS}
    assert all(hasattr(TopApp, f"do_{entry.action}") for entry in KEYS)


def test_filter_search_and_escape() -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        screen = await press(app, pilot, "2", "f4", "l", "o", "x", "backspace", "g", "enter")
        assert "Descriptors  1-1 of 1  filter: log" in screen
        screen = await press(app, pilot, "escape")
        assert "Descriptors  1-4 of 4  by FD" in screen
        await press(app, pilot, "slash", *"/tmp", "enter")
        assert selected(app._others).descriptor.fd == 1  # the next after the one under the cursor
        await press(app, pilot, "n")
        assert selected(app._others).descriptor.fd == 2
        await press(app, pilot, "n")
        assert selected(app._others).descriptor.fd == 0  # round the end, past the socket
        await press(app, pilot, "N")
        assert selected(app._others).descriptor.fd == 2
        assert "Not found: zebra" in await press(app, pilot, "slash", *"zebra", "enter")
        assert "Filter: _" not in await press(app, pilot, "f4", "escape")

    drive(body)


def test_columns_are_chosen_and_put_in_order() -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        screen = await press(app, pilot, "c", "ctrl+u", *"waits on,tid, Name", "enter")
        heading = next(line for line in screen.splitlines() if "TID" in line)
        assert heading.split() == ["WAITS", "ON", "TID", "NAME"]  # which 80 columns have no room for otherwise
        assert "Descriptors  1-4 of 4" in await press(app, pilot, "2")  # the other tables are as they were
        screen = await press(app, pilot, "1", "c", "ctrl+u", *"tid, nmae", "enter")
        assert "No column nmae; there are TID, NAME, S, CPU%" in screen
        assert next(line for line in screen.splitlines() if "TID" in line).split() == heading.split()
        screen = await press(app, pilot, "c", "ctrl+u", "enter")
        assert "CPU%" in next(line for line in screen.splitlines() if "TID" in line)

    drive(body)


def test_chosen_columns_are_kept_where_a_trace_ends() -> None:
    """Tables of a trace and of /proc alone have other columns: those that there are."""
    chosen = parse_columns("DELAYED BY, TID", TRACED_THREADS)
    assert [column.title for column in choose_columns(PLAIN_THREADS, chosen)] == ["TID"]
    assert choose_columns(PLAIN_THREADS, ("DELAYED BY",)) == PLAIN_THREADS
    assert [column.title for column in choose_columns(SOCKETS, ("STATE",))] == ["", "STATE"]


def test_details_have_stack_and_history() -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        screen = await press(app, pilot, "3", "enter")
        assert "socket by main 12" in screen
        assert "listen_on+0x1 [web]" in screen
        screen = await press(app, pilot, "escape", "2", "down", "enter")
        assert "History, the newest first" in screen
        screen = await press(app, pilot, "escape", "4", "enter")
        assert "frame_of_" in screen
        screen = await press(app, pilot, "escape", "1", "down", "enter")
        assert "FD 99 socket (TCP port 5000 - web server) (accept4)" in screen
        assert "Delayed by log 13 50 %" in screen

    drive(body, size=(100, 34))


def test_new_and_closed_descriptors_are_marked_for_two_snapshots() -> None:
    born = make_snapshot(born=frozenset({1}), died=(make_descriptor(7, "/tmp/gone"),))

    async def body(app: TopApp, pilot: Any, source: StillSource) -> None:
        await press(app, pilot, "2")
        for marks in (1, 1, 0):
            source.publish(born if marks and "/tmp/gone" not in screen_of(app) else make_snapshot())
            await pilot.pause()
            screen = screen_of(app)
            assert len(re.findall(r"^\+     1 file", screen, re.M)) == marks
            assert len(re.findall(r"^-     7 file +/tmp/gone", screen, re.M)) == marks

    drive(body)


def test_pause_holds_the_screen_and_goes_on_with_the_newest() -> None:
    async def body(app: TopApp, pilot: Any, source: StillSource) -> None:
        await press(app, pilot, "space")
        source.publish(make_snapshot(("main", "other")))
        await pilot.pause()
        assert "other" not in screen_of(app)
        assert "other" in await press(app, pilot, "space")

    drive(body)


def test_the_last_state_stays_when_the_target_has_ended() -> None:
    async def body(app: TopApp, pilot: Any, source: StillSource) -> None:
        source.publish(make_snapshot(has_ended=True, message="it has ended; this is how it was last"))
        await pilot.pause()
        screen = screen_of(app)
        assert "ENDED  main" in screen
        assert "it has ended" in screen
        assert "web" in screen

    drive(body)


def test_what_ends_the_session_ends_the_view() -> None:
    source = StillSource()
    app = TopApp(source)

    async def run() -> None:
        async with app.run_test() as pilot:
            source.fail(ValueError("boom"))
            await pilot.pause()

    asyncio.run(run())
    assert isinstance(app.failure, ValueError)


@pytest.mark.parametrize("size", [(80, 24), (250, 70), (3, 2)], ids=str)
def test_hostile_names_are_harmless(size: tuple[int, int]) -> None:
    snapshot = make_snapshot(HOSTILE, message=" ".join(HOSTILE))

    async def body(app: TopApp, pilot: Any, source: StillSource) -> None:
        screen = screen_of(app)
        if size[0] >= 80:
            assert "[bold]x[/bold]" in screen
            assert "\\x1b[31mred" in screen
            assert "\\u202egnp" in screen
        for keys in (("enter",), ("escape", "2"), ("enter", "G"), ("escape", "3", "enter"), ("escape", "4"), ("enter",),
                     ("escape", "slash", *"[/]", "enter"), ("f4", *"[bo", "enter"), ("escape", "f")):  # fmt: skip
            screen = await press(app, pilot, *keys)
            assert screen.replace("\n", "").isprintable()
            assert all(len(line) <= size[0] for line in screen.split("\n"))
        for name in HOSTILE:  # first in line: in the head, and in the first detail
            source.publish(make_snapshot((name, *HOSTILE), message=name))
            assert (await press(app, pilot, "escape", "2", "enter")).replace("\n", "").isprintable()

    drive(body, snapshot, size)


@pytest.mark.parametrize("columns", [TRACED_THREADS, PLAIN_THREADS, DESCRIPTORS, SOCKETS, EVENTS], ids=len)
def test_columns_fill_every_width(columns: Any) -> None:
    for width in range(1, 300):
        widths = [one for one in column_widths(columns, width) if one]
        assert min(widths) > 0
        assert sum(widths) + len(widths) - 1 <= max(width, 1)


@pytest.mark.parametrize("text", ["", "abc", "日本語の名前", "e\u0301" * 50, "\x00\u202e", "🙂" * 9])
@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_cells_are_as_wide_as_asked(text: str, width: int) -> None:
    from rich.cells import cell_len

    assert cell_len(fit(text, width)) == cell_len(fit(text, width, is_right=True)) == width


def test_marks() -> None:
    assert sparkline((0, 1, 8), 4) == "  ▁█"
    assert trend((5, 5), 3) == " ▁▁"
    assert trend((100, 200), 2) == "▁█"
    assert bar(0.5, 6) == "[||  ]"
    assert [format_age(seconds) for seconds in (5, 192, 7500, 356_400)] == ["5s", "3m12s", "2h05m", "4d03h"]


@pytest.mark.parametrize(("key", "where"), [("right", "next"), ("left", "previous"), ("p", "picker")])
def test_another_process_is_asked_for_and_the_view_ends(key: str, where: str) -> None:
    source = StillSource()
    app = TopApp(source, has_others=True)

    async def run() -> None:
        async with app.run_test() as pilot:
            source.publish(make_snapshot())
            await pilot.press("enter", key)

    asyncio.run(run())
    assert (app.goes_to, app.return_value, source.is_stopped) == (where, 0, True)


LEAK = Finding(
    kind="descriptor_leak", severity="high", value=61.0, threshold=3.0, unit="count", rule="3 or more stay open",
    words="/etc/threadinfo/services.conf, opened by thread reloader 12: 61 of 67 files are still open, 3,977 more each "
    "minute. At this rate the limit is reached in 5 minutes. Confidence: medium, watched for 2 s.",
    advice="Find the path after that call on which it is not closed.",
)  # fmt: skip


def with_leak(snapshot: Snapshot) -> Snapshot:
    leak = reports.suspect(
        path="/etc/threadinfo/services.conf", growth_per_minute=3977.0, seconds_to_limit=300.0, confidence="medium"
    )
    churn = reports.churn((1,), (1,), leak_suspects=(leak,), seconds_to_limit=None)
    process = msgspec.structs.replace(snapshot.process, findings=(LEAK,), trace=reports.trace(descriptors=churn))
    return msgspec.structs.replace(snapshot, process=process)


def test_head_keeps_rate_and_time_to_the_limit_at_80_columns() -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        (line,) = [line for line in screen_of(app).split("\n") if line.startswith("high: ")]
        assert "leak of 3977 a minute, the limit in 5m00s: " in line
        assert "services.conf" in line
        assert line.endswith("(f: advice)")
        assert len(line) <= 80

    drive(body, with_leak(make_snapshot()))


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_text_is_broken_between_words(width: int) -> None:
    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        screen = await press(app, pilot, "f")
        shown = screen.split("\n")[HEIGHT:]
        words = {word for line in shown for word in line.split()}
        assert set(LEAK.words.split()) <= words
        assert all(len(line) <= width for line in shown)

    drive(body, with_leak(make_snapshot()), size=(width, 40))


def test_word_that_fits_no_line_is_broken_and_nothing_is_lost() -> None:
    from threadinfo.top.app import _wrapped

    for text in ("  " + "/very" * 40, "a b " * 30 + "x" * 100 + " end", "x" * 80, "x" * 81, " " * 90 + "end", "  a"):
        for width in (20, 33, 80):
            pieces = _wrapped(text, width)
            assert all(len(piece) <= width for piece in pieces)
            assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_graphs_of_a_thread_stay_on_their_line(width: int) -> None:
    snapshot = make_snapshot()
    moments = {
        tid: msgspec.structs.replace(one, cpu_history=(1.0, 20.0) * 60, wait_history=(3.0, 9.0) * 60)
        for tid, one in snapshot.moments.items()
    }

    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        shown = (await press(app, pilot, "enter")).split("\n")
        graphs = [line for line in shown if "█" in line]
        assert [line.split()[0] for line in graphs if not line.startswith(("CPU ", "FDs", "Churn"))] == ["CPU", "P99"]

    drive(body, msgspec.structs.replace(snapshot, moments=moments), size=(width, 40))


@pytest.mark.parametrize("size", [(200, 60), (120, 40)], ids=str)
def test_two_tables_share_the_height_by_what_they_need(size: tuple[int, int]) -> None:
    names = tuple(f"file{number}" for number in range(70))
    snapshot = make_snapshot(names)
    process = msgspec.structs.replace(snapshot.process, threads=(snapshot.process.threads or ())[:5])

    async def body(app: TopApp, pilot: Any, source: StillSource) -> None:
        await pilot.pause()
        lines = screen_of(app).split("\n")
        assert not [number for number, line in enumerate(lines) if not line.strip()]
        source.publish(snapshot)  # as many threads as descriptors
        await pilot.pause()
        await pilot.pause()
        lines = screen_of(app).split("\n")
        threads, descriptors = (
            next(number for number, line in enumerate(lines) if line.startswith(title))
            for title in ("Threads ", "Descriptors ")
        )
        assert abs((descriptors - threads) - (len(lines) - 1 - descriptors)) <= 1

    drive(body, msgspec.structs.replace(snapshot, process=process), size=size)


def test_churn_that_was_not_measured_is_not_zero() -> None:
    snapshot = make_snapshot(churn=Churn(opened_count=None, closed_count=None, failed_count=None), tracing="off")
    process = msgspec.structs.replace(snapshot.process, descriptors=None)

    async def body(app: TopApp, pilot: Any, _source: StillSource) -> None:
        screen = screen_of(app)
        assert "FDs not readable" in screen
        assert "Churn  not known" in screen
        assert "0/s" not in screen

    drive(body, msgspec.structs.replace(snapshot, process=process))


# --- the picker


class StillList:
    """Hands over a list."""

    def __init__(self) -> None:
        self.publish: Callable[[tuple[ProcessSummary, ...]], None] = lambda _: None
        self.is_stopped = False

    def start(
        self, publish: Callable[[tuple[ProcessSummary, ...]], None], fail: Callable[[BaseException], None]
    ) -> None:
        self.publish = publish

    def stop(self) -> None:
        self.is_stopped = True


PROCESSES = (
    ProcessSummary(pid=1, name="init", user="root", cpu_percent=0.0, thread_count=1, descriptor_count=None),
    ProcessSummary(pid=20, name="nginx", user="web", cpu_percent=1.5, thread_count=2, descriptor_count=11),
    ProcessSummary(pid=21, name="nginx", user="web", cpu_percent=99.0, thread_count=2, descriptor_count=7),
    ProcessSummary(pid=30, name="redis", user="redis", cpu_percent=0.5, thread_count=5, descriptor_count=1013),
    ProcessSummary(pid=40, name="kworker/0:1", is_kernel_thread=True),
)


def pick(*keys: str) -> tuple[PickerApp, str]:
    """The picker after these keys, and what was seen last."""
    source = StillList()
    app = PickerApp(source)
    seen = ""

    async def run() -> None:
        nonlocal seen
        async with app.run_test(size=(80, 24)) as pilot:
            source.publish(PROCESSES)
            await pilot.pause()
            for key in keys:
                if app.chosen is None:
                    seen = screen_of(app)
                await pilot.press(key)
            if app.chosen is None and app.return_value is None:
                seen = screen_of(app)

    asyncio.run(run())
    assert source.is_stopped
    return app, seen


@pytest.mark.parametrize(
    ("keys", "pid"),
    [
        (("enter",), 21),  # the busiest is first
        (("down", "enter"), 20),
        (("right", "enter"), 30),  # the most descriptors
        (("left", "left", "left", "down", "down", "enter"), 21),  # by PID
        ((*"REDIS", "enter"), 30),
        ((*"redx", "backspace", "enter"), 30),
        ((*"redis", "escape", "enter"), 21),
        ((*"root", "enter"), 1),
        (("f4", "enter"), 1),
        ((*"kworker", "enter"), None),
        (("escape",), None),
    ],
)
def test_picker(keys: tuple[str, ...], pid: int | None) -> None:
    app, seen = pick(*keys)
    assert app.chosen == pid
    assert "Processes  " in seen
    assert app.return_value == (0 if pid or keys == ("escape",) else None)
    assert all(len(line) <= 80 for line in seen.split("\n"))


def test_picker_shows_what_is_not_known_as_such() -> None:
    _, seen = pick("i", "n", "i", "t")
    assert "Filter: init_" in seen
    assert re.search(r"^ +1 init +root +0\.0 +- +1 +-", seen, re.M)


# --- a real terminal


@pytest.fixture
def lively(start: Start) -> subprocess.Popen[str]:
    """A process of 8 threads that does a little of everything."""
    return start(sys.executable, WORKLOADS / "lively.py", f"lively{os.getpid() % 10000}", 8, 40)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals."""
    opened: list[Terminal] = []

    def open_terminal(columns: int, lines: int, **environment: str) -> Terminal:
        opened.append(Terminal(tmp_path, columns, lines, **environment))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.__exit__()


def tell(process: subprocess.Popen[str], command: str) -> None:
    """Has the workload do something, and waits until it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()
    if command != "end":
        assert process.stdout.readline() == "done\n"


@needs_tmux
@pytest.mark.usefixtures("bpf")
def test_root_sees_who_waits_and_who_opens(lively: subprocess.Popen[str], terminal: Callable[..., Terminal]) -> None:
    window = terminal(120, 40)
    window.run("top", lively.pid, "--interval", "0.3")
    window.wait_for("  traced  ", "churner", "DELAYED BY", "Descriptors  1-22")  # 8 threads need less than half
    # Which of them comes first: on a busy machine its threads wait for a CPU.
    window.wait_for_match(r"(low: .*neither bound nor connected|(medium|high): .*(for a CPU|1 more))")
    window.wait_for_match(r"churner +[A-Z] +\d+\.\d")
    window.wait_for("WAITS ON")
    window.wait_for_match(r"churner +[A-Z] .* (clock_nanosleep|futex|select|poll)")
    window.press("2", "G")
    window.wait_for("/etc/hostname", "openat churner")
    window.wait_for_match(r"Churn  \+[1-9]\d*\.\d/s")
    window.press("4")
    window.wait_for("Events", "close", "/etc/hostname (openat)")
    tell(lively, "listen")
    window.press("3")
    window.type("/LISTEN\n")
    window.wait_for("Sockets", "LISTEN", "socket lively")
    window.press("G", "2", "End", "Enter")
    window.wait_for("Origin", "Stack, innermost first")
    window.press("G")
    window.wait_for("History, the newest first")
    tell(lively, "end")
    window.wait_for("ENDED  lively", "it has ended")
    window.press("q")
    window.wait_for("status=0")


@needs_tmux
def test_ordinary_user_sees_the_plain_report_and_what_root_would_add(
    start: Start, terminal: Callable[..., Terminal]
) -> None:
    process = start(sys.executable, "-m", "tests.unprivileged", WORKLOADS / "lively.py", "livelyuser", 8, 40)
    window = terminal(80, 24)
    window.run("top", process.pid, "--interval", "0.3", privileged=False)
    screen = window.wait_for("livelyuser  PID", "root would add", "Threads  1-8 of 8", "RUNTIME", "CPU ")
    assert all(len(line) <= 80 for line in screen.splitlines())
    tell(process, "open /etc/services")
    window.press("2", "F4")
    window.type("/etc/services\n")
    window.wait_for("Descriptors  1-1 of 1  filter: /etc/services")
    tell(process, "close")
    window.wait_for("Descriptors  0-0 of 0")
    window.press("F10")
    window.wait_for("status=0")


@needs_tmux
@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (250, 70)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("who", ["root", "owner"])
def test_every_size_for_root_and_for_the_owner(
    who: str, size: tuple[int, int], start: Start, terminal: Callable[..., Terminal]
) -> None:
    module = ["-m", "tests.unprivileged"] if who == "owner" else []
    process = start(sys.executable, *module, WORKLOADS / "lively.py", "livelysize", 8, 40)
    window = terminal(*size)
    window.run("top", process.pid, "--interval", "0.3", privileged=who == "root")
    both = ["Descriptors  1-"] if size[1] >= 36 else []
    window.wait_for_match(r"Churn +\+[1-9]" if who == "root" else r"FDs +\d+")
    screen = window.wait_for(
        *("livelysize  PID", "  traced  " if who == "root" else "root would add", "Threads  1-8", "F1 Help"), *both
    )
    assert max(map(len, screen.splitlines())) <= size[0]
    assert "F1 Help" in screen.splitlines()[size[1] - 1]
    window.press("q")
    window.wait_for("status=0")


@needs_tmux
@pytest.mark.usefixtures("bpf")
def test_busiest_of_a_name_comes_first_and_the_others_are_a_key_away(
    start: Start, terminal: Callable[..., Terminal]
) -> None:
    name = f"zymany{os.getpid() % 10000}"
    idle, other = (start(sys.executable, WORKLOADS / "many.py", name, 1, 3) for _ in range(2))
    spin = "import sys, threading; sys.stdout.write('ready\\n'); sys.stdout.flush()\nwhile True: pass"
    named = f"open('/proc/self/comm', 'w').write('{name}')\n{spin}"
    busy = start(sys.executable, "-c", named)
    pids = sorted([idle.pid, other.pid, busy.pid])
    at = pids.index(busy.pid)
    window = terminal(120, 40)
    window.run("top", name, "--interval", "0.3")
    window.wait_for(f"{name}  PID {busy.pid}  ", "3 processes have this name")
    window.wait_for("  traced  ")  # with what a trace gives up, another can only begin in a process of its own
    window.press("Right")
    window.wait_for(f"{name}  PID {pids[(at + 1) % 3]}  ", "  traced  ")
    window.press("Left")
    window.wait_for(f"{name}  PID {busy.pid}  ")
    window.press("Left")
    window.wait_for(f"{name}  PID {pids[at - 1]}  ")
    window.press("p")
    window.wait_for("Which process?", "Processes  1-", "CPU%")
    window.type(name)
    window.wait_for(f"Filter: {name}_", "Processes  1-3 of 3")
    window.wait_for_match(rf"{busy.pid} {name} .* [1-9]\d*\.\d ")
    window.press("Enter")
    window.wait_for(f"{name}  PID {busy.pid}  ")
    assert window.is_alternate()
    window.press("q")
    window.wait_for("status=0")
    assert not window.is_alternate()


@needs_tmux
def test_picker_without_a_target(start: Start, terminal: Callable[..., Terminal]) -> None:
    name = f"zypicked{os.getpid() % 10000}"
    process = start(sys.executable, WORKLOADS / "many.py", name, 1, 3)
    window = terminal(80, 24)
    window.run("top", "--interval", "0.3", "--no-trace")
    window.wait_for("Which process?", "Processes  1-")
    window.type(name)
    window.wait_for("Processes  1-1 of 1", f"{process.pid} {name}")
    window.press("Enter")
    window.wait_for(f"{name}  PID {process.pid}  ")
    window.press("p")
    window.wait_for("Which process?")
    window.press("C-c")
    window.wait_for("status=130")
    assert not window.is_alternate()


@needs_tmux
def test_resize_from_80_to_250_columns_and_back(
    lively: subprocess.Popen[str], terminal: Callable[..., Terminal]
) -> None:
    window = terminal(80, 24, COLUMNS="80", LINES="24")
    window.run("top", lively.pid, "--interval", "0.3", "--no-trace")
    window.wait_for("Threads  1-8 of 8", without="Descriptors  ")
    window.resize(250, 70)
    screen = window.wait_for("Threads  1-8 of 8", "Descriptors  1-", "DETAILS", "SERVES")
    assert max(map(len, screen.splitlines())) > 200
    window.resize(80, 24)
    screen = window.wait_for("Threads  1-8 of 8", without="Descriptors  ")
    assert max(map(len, screen.splitlines())) <= 80
    window.mouse(9, 7)
    window.wait_for("by NAME up")
    window.mouse(9, 7)
    window.wait_for("by NAME down")
    window.mouse(9, 10)
    window.mouse(9, 10)
    window.wait_for("In the last interval")
    window.mouse(9, 10, button=65)
    window.press("Escape")  # with a key right after it, it would be Alt and that key
    window.wait_for("Threads  1-8 of 8")
    window.press("q")
    window.wait_for("status=0")


@needs_tmux
@pytest.mark.parametrize("way", [*("Ctrl-C", "SIGINT", "exception"), *(number.name for number in ENDING_SIGNALS)])
def test_terminal_is_put_back(
    lively: subprocess.Popen[str], terminal: Callable[..., Terminal], tmp_path: Path, way: str
) -> None:
    window = terminal(80, 24)
    window.type(f"stty -a > {tmp_path}/before\n")
    if way == "exception":
        code = (
            "from threadinfo.top import app\n"
            "def fail(*_, **__): raise RuntimeError('drawn badly')\n"
            "app.summary_lines = fail\n"
            f"import sys; sys.argv = ['threadinfo', 'top', '{lively.pid}', '--no-trace']\n"
            "from threadinfo.cli.main import main; main()\n"
        )
        (tmp_path / "failing.py").write_text(code)
        window.type(f"{sys.executable} {tmp_path}/failing.py; echo status=$?\n")
        status = 3
    else:
        window.run("top", lively.pid, "--no-trace")
        window.wait_for("Threads  1-8 of 8")
        assert window.is_alternate()
        if way == "Ctrl-C":
            window.press("C-c")
        else:
            for child in Path(f"/proc/{window.pane_pid()}/task/{window.pane_pid()}/children").read_text().split():
                os.kill(int(child), getattr(signal, way))
        status = 130 if way == "Ctrl-C" else 128 + getattr(signal, way)
    window.wait_for(f"status={status}")
    window.type(f"stty -a > {tmp_path}/after; echo written\n")
    window.wait_for("\nwritten")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
    assert not window.is_alternate()


@needs_tmux
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal_that_comes_where_python_ignores_exceptions_ends_it_all_the_same(
    lively: subprocess.Popen[str], terminal: Callable[..., Terminal], tmp_path: Path, name: str
) -> None:
    window = terminal(80, 24)
    code = (
        "import os, signal, sys, weakref\n"
        "import threadinfo.top.app as app\n"
        "class Mortal: pass\n"
        "def begin(self, *arguments, original=app.TopApp.__init__, **options):\n"
        "    mortal = Mortal()\n"
        f"    watched = weakref.ref(mortal, lambda _: os.kill(os.getpid(), signal.{name}))\n"
        "    del mortal\n"
        "    original(self, *arguments, **options)\n"
        "app.TopApp.__init__ = begin\n"
        f"sys.argv = ['threadinfo', 'top', '{lively.pid}', '--no-trace']\n"
        "from threadinfo.cli.main import main; main()\n"
    )
    (tmp_path / "ignoring.py").write_text(code)
    window.type(f"{sys.executable} {tmp_path}/ignoring.py; echo status=$?\n")
    screen = window.wait_for(f"status={128 + getattr(signal, name)}")
    assert "ignored" not in screen
    assert not window.is_alternate()


@needs_tmux
def test_no_color_means_no_colour(lively: subprocess.Popen[str], terminal: Callable[..., Terminal]) -> None:
    window = terminal(120, 40, NO_COLOR="1")
    window.run("top", lively.pid, "--interval", "0.3", "--no-trace")
    window.wait_for("Threads  1-8 of 8", "Descriptors  1-")
    codes = {code for codes in re.findall(r"\x1b\[([\d;]*)m", window.screen(with_escapes=True)) for code in
             codes.split(";")}  # fmt: skip
    assert codes <= {"", "0", "1", "2", "4", "7", "39", "49"}
    window.press("q")
    window.wait_for("status=0")


@needs_tmux
def test_hostile_name_of_a_live_thread(lively: subprocess.Popen[str], terminal: Callable[..., Terminal]) -> None:
    window = terminal(80, 24)
    window.run("top", lively.pid, "--interval", "0.3", "--no-trace")
    window.wait_for("churner")
    tell(lively, "name [b]\x1b[31m\u202ex")
    window.wait_for("[b]\\x1b[31m", without="churner")
    window.press("q")
    window.wait_for("status=0")


@pytest.mark.parametrize(("environment", "words"), [({}, "needs a terminal"), ({"TERM": "dumb"}, "needs a terminal")])
def test_no_terminal_is_a_clear_error(environment: dict[str, str], words: str) -> None:
    result = run_threadinfo("top", os.getpid(), env=os.environ | environment, stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stdout) == (3, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@needs_tmux
def test_dumb_terminal_is_a_clear_error_and_a_missing_process_too(terminal: Callable[..., Terminal]) -> None:
    window = terminal(80, 24, TERM="dumb")
    window.type("export TERM=dumb\n")
    window.run("top", os.getpid())
    window.wait_for("TERM is dumb", "status=3")
    window.type("clear; export TERM=screen\n")
    window.run("top", "no-such-process")
    window.wait_for("Process no-such-process not found", "status=1")
