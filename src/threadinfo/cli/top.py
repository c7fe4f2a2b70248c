"""threadinfo top: one process, live.

Each view is a process of its own, forked from this one: a tracer gives up what it does not need, the right to start the
helpers of the next trace included. What ends one view says which comes next.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from threadinfo.cli.group import cli
from threadinfo.cli.options import DEFAULT_PORTS, Time, complete_target, read_port_option, read_ports_file
from threadinfo.cli.target import find_processes, find_same_name, open_root
from threadinfo.cli.tracing import own_privileges
from threadinfo.collect.process import CollectOptions
from threadinfo.errors import ENDING_SIGNALS, ExitCode
from threadinfo.proc.reader import ProcDirectory, ProcError, decode

if TYPE_CHECKING:
    from threadinfo.top.app import TopApp
    from threadinfo.top.picker import PickerApp

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PICKER, _STEPS = "picker", {"next": 1, "previous": -1}

leaves_thread = False
"""Whether a thread that could not be waited for is still busy at the end."""


class _Options(NamedTuple):
    """What every view has."""

    interval_seconds: float
    with_trace: bool
    ports: dict[int, str]


@cli.command("top")
@click.argument("target", required=False, metavar="[TARGET]", shell_complete=complete_target)
@click.option(
    "--interval",
    metavar="TIME",
    type=Time(0.1, 3600),
    default=1.0,
    show_default=True,
    help="How often the screen is refreshed.",
)
@click.option("--trace/--no-trace", default=True, help="As root: trace, or show what /proc says alone.")
@click.option(
    "--port", "ports", multiple=True, metavar="PORT=ROLE", callback=read_port_option, help="What a port is for."
)
@click.option(
    "--ports", "ports_file", metavar="FILE", callback=read_ports_file, help="A file with one PORT=ROLE a line."
)
def top_command(
    target: str | None, interval: float, trace: bool, ports: dict[int, str], ports_file: dict[int, str]
) -> None:
    """Show one process live: threads, descriptors, sockets; as root what they do. Keys: ? while it runs.

    Of several processes of a name it begins with the busiest; without TARGET it lists all, to choose from.
    """
    from threadinfo.top.terminal import check_terminal  # noqa: PLC0415 - before the forks: each view has it then

    check_terminal()
    root = open_root("/proc")
    options = _Options(interval, trace, DEFAULT_PORTS | ports_file | ports)
    pid = None if target is None else _find_busiest(root, find_processes(root, target))
    name, continues, note = "", False, ""
    while True:
        if pid is None:
            answer = _in_child(partial(_pick, root, options, note, continues=continues))
        else:
            name = _read_name(root, pid) or name
            same = find_same_name(root, name)
            answer = _in_child(partial(_show, root, pid, same, options, continues=continues))
        continues, note = True, ""
        if answer in _STEPS and pid is not None:
            pid = _neighbour(find_same_name(root, name), pid, _STEPS[answer])
            note = f"No process is called {name} any more. Which one?" if pid is None else ""
        else:
            pid = None if answer == _PICKER else int(answer)


def _find_busiest(root: ProcDirectory, pids: list[int]) -> int:
    """Of several the one that takes most of a CPU."""
    if len(pids) == 1:
        return pids[0]
    from threadinfo.collect.processes import find_busiest  # noqa: PLC0415

    return find_busiest(root, pids) or pids[0]


def _read_name(root: ProcDirectory, pid: int) -> str | None:
    try:
        return decode(root.read(f"{pid}/comm").removesuffix(b"\n"))
    except ProcError:
        return None


def _neighbour(pids: list[int], pid: int, step: int) -> int | None:
    """The next (previous) of these, round the end; `pid` itself may have ended."""
    pids = sorted({*pids, pid})
    found = pids[(pids.index(pid) + step) % len(pids)]
    return found if len(pids) > 1 else None


def _in_child(view: Callable[[], str]) -> str:
    """What a view answers, run in a child. Where it does not, its exit status is ours, and this does not return."""
    reading, writing = os.pipe()
    with _blocked_signals():
        child = os.fork()
        if not child:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if not child:
        os.close(reading)
        os.write(writing, view().encode())
        sys.exit(ExitCode.OK)
    os.close(writing)
    status = _wait(child)
    with os.fdopen(reading, "rb") as answers:
        if answer := answers.read().decode():
            return answer
    sys.exit(status)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING_SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int) -> int:
    """The child's exit status, as a shell tells it; a signal that would end us goes to the child, which puts the
    terminal back.
    """
    while True:
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            os.kill(child, signal.SIGINT)
        except SystemExit as end:
            os.kill(child, int(end.code or 0) - 128)


def _pick(root: ProcDirectory, options: _Options, note: str, *, continues: bool) -> str:
    """The PID that somebody chose."""
    from threadinfo.collect.processes import PickerSession  # noqa: PLC0415
    from threadinfo.top.picker import PickerApp  # noqa: PLC0415
    from threadinfo.top.terminal import TerminalDriver  # noqa: PLC0415

    picker = PickerApp(PickerSession(root, interval_seconds=options.interval_seconds), TerminalDriver, note)
    _run(picker, continues=continues)
    if picker.chosen is None:
        sys.exit(ExitCode.OK)
    return str(picker.chosen)


def _show(root: ProcDirectory, pid: int, same: list[int], options: _Options, *, continues: bool) -> str:
    """Which process is wanted next."""
    from threadinfo.collect.live import TopSession  # noqa: PLC0415
    from threadinfo.top.app import TopApp  # noqa: PLC0415
    from threadinfo.top.terminal import TerminalDriver  # noqa: PLC0415

    global leaves_thread  # noqa: PLW0603 - it is a fact of the whole process
    own_privileges()
    collected = CollectOptions(with_details=True, may_borrow=True, ports=options.ports)
    session = TopSession(root, pid, collected, interval_seconds=options.interval_seconds, with_trace=options.with_trace)
    if len(same) > 1:
        session.note = f"{len(same)} processes have this name: Left and Right change to the others, p lists all"
    view = TopApp(session, TerminalDriver, has_others=len(same) > 1)
    gc.freeze()
    gc.set_threshold(100_000)  # a snapshot is thousands of values and no cycles
    try:
        _run(view, continues=continues)
    finally:
        leaves_thread = session.is_running
    if view.goes_to is None:
        sys.exit(ExitCode.OK)
    return view.goes_to


def _run(view: TopApp | PickerApp, *, continues: bool) -> None:
    """Runs a view, and ends this process unless it was left as keys leave it."""
    from threadinfo.top.terminal import TerminalDriver, kept_terminal  # noqa: PLC0415

    TerminalDriver.continues = continues
    with kept_terminal():
        status = view.run()
    if view.failure is not None:
        raise view.failure
    if status is None:  # it failed, and Textual has said why
        sys.exit(ExitCode.UNAVAILABLE)
    if status != ExitCode.OK:
        sys.exit(status)
