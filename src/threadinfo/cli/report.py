"""threadinfo report, and its short form: processes as they are, and with --trace what they do."""

from __future__ import annotations

import gc
import math
import sys

import click

from threadinfo.cli.group import DEFAULT_COMMAND, cli
from threadinfo.cli.options import (
    DEFAULT_PORTS,
    REPORT_FORMATS,
    Time,
    awaited_name,
    complete_target,
    debuginfod_option,
    follow_option,
    frequency_option,
    read_only,
    read_port_option,
    read_ports_file,
    refuse_of_a_trace,
)
from threadinfo.cli.rendering import open_output, refuse_on_terminal, render
from threadinfo.cli.say import print_error, say_losses, say_waiting, say_what_is_logged
from threadinfo.cli.target import find_all, open_root
from threadinfo.cli.tracing import collect_traced, prepare_trace
from threadinfo.collect.process import CollectOptions, collect_report
from threadinfo.errors import BadInputError
from threadinfo.model import Report
from threadinfo.proc.reader import ProcDirectory
from threadinfo.tracers import watched


@cli.command(DEFAULT_COMMAND)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=complete_target)
@click.option("--format", "output_format", type=click.Choice(REPORT_FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all, instead of standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Add thread names, descriptor details and who serves them.")
@click.option("--proc", "proc_path", metavar="PATH", default="/proc", show_default=True, help="Another root of /proc.")
@click.option(
    "--port", "ports", multiple=True, metavar="PORT=ROLE", callback=read_port_option, help="What a port is for."
)
@click.option(
    "--ports", "ports_file", metavar="FILE", callback=read_ports_file, help="A file with one PORT=ROLE a line."
)
@click.option(
    "--borrow/--no-borrow",
    default=True,
    help="Ask a socket that no table knows through a borrowed duplicate of it, or do not.",
)
@click.option(
    "--trace",
    "trace_seconds",
    metavar="TIME",
    type=Time(),
    help="As root: watch for so long (5, 500ms, 2m), and add what threads and descriptors did.",
)
@click.option("--only", metavar="WHAT", callback=read_only, help=f"Of a trace: {', '.join(watched())}; default all.")
@click.option("--wait", is_flag=True, help="As root: wait for TARGET to start; trace it from its first instruction.")
@frequency_option
@follow_option
@debuginfod_option
@click.pass_context
def report_command(
    context: click.Context,
    targets: tuple[str, ...],
    trace_seconds: float | None,
    wait: bool,
    frequency: int,
    follow: bool,
    debuginfod: tuple[str, ...],
    only: frozenset[str],
    output_format: str,
    output: str | None,
    verbose: bool,
    proc_path: str,
    ports: dict[int, str],
    ports_file: dict[int, str],
    borrow: bool,
) -> None:
    """Report processes, by PID or by name: threads, memory, descriptors, limits.

    A name is compared literally with the kernel's name of the process. All processes of that name are reported.
    """
    refuse_on_terminal(output_format, output, sys.stdout)
    gc.disable()  # a report is built once and then the process ends: nothing would be freed
    if verbose and (wait or trace_seconds is not None):
        say_what_is_logged()
    with open_output(output) as write:
        if trace_seconds is None and not wait:
            refuse_of_a_trace(context)
        root = open_root(proc_path)
        pids, missing = ([], []) if wait else find_all(root, targets)
        options = CollectOptions(
            with_details=verbose or output_format != "text",
            may_borrow=borrow and proc_path == "/proc",  # elsewhere the numbers are not those of pidfd_open(2)
            ports=DEFAULT_PORTS | ports_file | ports,
            frequency=frequency,
            debuginfod=debuginfod,
        )
        if wait:
            report = _collect_awaited(
                root, awaited_name(targets), trace_seconds or math.inf, options, only, follow=follow
            )
        elif trace_seconds is None:
            report = collect_report(root, pids, options)
        else:
            report = collect_traced(root, pids, options, trace_seconds, only, follow=follow)
        write(render(report, output_format, verbose=verbose))
    if any(process.trace for process in report.processes):
        say_losses(next(process.trace.confidence for process in report.processes if process.trace))
    for problem in missing:
        print_error(problem)
    if missing:
        sys.exit(max(problem.exit_code for problem in missing))


def _collect_awaited(
    root: ProcDirectory, name: str, seconds: float, options: CollectOptions, only: frozenset[str], *, follow: bool
) -> Report:
    prepare_trace()
    from threadinfo.collect.run import collect_awaited  # noqa: PLC0415

    if root.path != "/proc":
        raise BadInputError("--wait watches this machine's processes, and --proc names others", "leave out --proc")
    gc.enable()  # it may take a while
    return collect_awaited(root, name, seconds, options, only, say_waiting(name), with_children=follow)
