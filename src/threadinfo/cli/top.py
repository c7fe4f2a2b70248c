"""threadinfo top: one process, live."""

from __future__ import annotations

import gc
import sys

import click

from threadinfo.cli.group import cli
from threadinfo.cli.options import DEFAULT_PORTS, Time, complete_target, read_port_option, read_ports_file
from threadinfo.cli.target import find_processes, open_root
from threadinfo.cli.tracing import own_privileges
from threadinfo.collect.process import CollectOptions
from threadinfo.errors import ExitCode

leaves_thread = False
"""Whether a thread that could not be waited for is still busy at the end."""


@cli.command("top")
@click.argument("target", metavar="TARGET", shell_complete=complete_target)
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
def top_command(target: str, interval: float, trace: bool, ports: dict[int, str], ports_file: dict[int, str]) -> None:
    """Show one process live: threads, descriptors, sockets; as root what they do. Keys: ? while it runs."""
    from threadinfo.collect.live import TopSession  # noqa: PLC0415
    from threadinfo.top.app import TopApp  # noqa: PLC0415
    from threadinfo.top.terminal import TerminalDriver, check_terminal, kept_terminal  # noqa: PLC0415

    check_terminal()
    own_privileges()
    root = open_root("/proc")
    pids = find_processes(root, target)
    options = CollectOptions(with_details=True, may_borrow=True, ports=DEFAULT_PORTS | ports_file | ports)
    session = TopSession(root, pids[0], options, interval_seconds=interval, with_trace=trace)
    if len(pids) > 1:
        session.note = f"{len(pids)} processes are called that: this is the first; the others are PID " + ", ".join(
            map(str, pids[1:6])
        )
    view = TopApp(session, TerminalDriver)
    gc.freeze()
    gc.set_threshold(100_000)  # a snapshot is thousands of values and no cycles
    try:
        with kept_terminal():
            status = view.run()
    finally:
        global leaves_thread  # noqa: PLW0603 - it is a fact of the whole process
        leaves_thread = session.is_running
    if view.failure is not None:
        raise view.failure
    if status is None:  # it failed, and Textual has said why
        sys.exit(ExitCode.UNAVAILABLE)
    sys.exit(status)
