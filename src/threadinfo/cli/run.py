"""threadinfo run: a command, from its first instruction to its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from threadinfo.cli.group import cli
from threadinfo.cli.options import (
    DEFAULT_PORTS,
    REPORT_FORMATS,
    debuginfod_option,
    follow_option,
    frequency_option,
    read_only,
    read_port_option,
)
from threadinfo.cli.rendering import open_output, refuse_on_terminal, render
from threadinfo.cli.say import print_error, say_faults, say_what_is_logged
from threadinfo.cli.target import open_root
from threadinfo.cli.tracing import prepare_trace
from threadinfo.collect.process import CollectOptions
from threadinfo.errors import BadInputError, CommandError, NotAvailableError, TargetEndedError, ThreadinfoError, explain
from threadinfo.proc.reader import ProcError
from threadinfo.tracers import watched

if TYPE_CHECKING:
    from threadinfo.collect.launch import Account


_FAILURE_OF_OURS = 125


@cli.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--user", metavar="NAME", help="Start it as this user, with an environment and a terminal of its own.")
@click.option("--preserve-env", is_flag=True, help="With --user: pass our environment on.")
@click.option("--no-new-privs", is_flag=True, help="Nothing that it executes may give it more rights (set-user-ID).")
@click.option("--only", metavar="WHAT", callback=read_only, help=f"{', '.join(watched())}, with commas; default all.")
@frequency_option
@follow_option
@debuginfod_option
@click.option("--format", "output_format", type=click.Choice(REPORT_FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Add thread names, descriptor details and whole stacks.")
@click.option(
    "--port", "ports", multiple=True, metavar="PORT=ROLE", callback=read_port_option, help="What a port is for."
)
def run_command(
    command: tuple[str, ...],
    user: str | None,
    preserve_env: bool,
    no_new_privs: bool,
    only: frozenset[str],
    frequency: int,
    follow: bool,
    debuginfod: tuple[str, ...],
    output_format: str,
    output: str | None,
    verbose: bool,
    ports: dict[int, str],
) -> None:
    """As root: start COMMAND, trace it from its first instruction, and report when it ends.

    The command keeps the terminal and the standard streams; the exit status is its own, 128 and the number of a signal,
    127 where it is not found, 126 where it is not executable, 125 where we failed.
    """
    try:
        roles = DEFAULT_PORTS | ports
        if verbose:
            say_what_is_logged()
        options = CollectOptions(
            with_details=verbose or output_format != "text",
            may_borrow=True,
            ports=roles,
            frequency=frequency,
            debuginfod=debuginfod,
        )
        from threadinfo.collect.launch import Account  # noqa: PLC0415

        account = Account(user, preserve_env, no_new_privs)
        if preserve_env and user is None:
            raise BadInputError("--preserve-env is of another user's command", "add --user NAME")
        status = _run(command, account, options, only, output_format, output, follow=follow, verbose=verbose)
    except BadInputError:
        raise
    except CommandError as problem:
        print_error(problem)
        status = problem.status
    except ThreadinfoError as problem:
        print_error(problem)
        status = _FAILURE_OF_OURS
    except ProcError as problem:
        print_error(NotAvailableError(f"cannot read {problem}"))
        status = _FAILURE_OF_OURS
    except (OSError, MemoryError, ImportError) as problem:
        print_error(explain(problem))
        status = _FAILURE_OF_OURS
    say_faults()
    sys.exit(status)  # the command's, whatever section its report lacks


def _run(
    arguments: tuple[str, ...],
    account: Account,
    options: CollectOptions,
    only: frozenset[str],
    output_format: str,
    output: str | None,
    *,
    follow: bool,
    verbose: bool,
) -> int:
    from threadinfo.collect.launch import Command  # noqa: PLC0415

    refuse_on_terminal(output_format, output, sys.stderr)
    with open_output(output or "/dev/stderr") as write, Command(arguments, account) as command:
        prepare_trace()
        from threadinfo.collect.run import collect_run  # noqa: PLC0415

        try:
            report, status = collect_run(open_root("/proc"), command, options, only, with_children=follow)
        except TargetEndedError:
            return command.wait()  # raises: a signal came before it began
        write(render(report, output_format, verbose=verbose))
    return status
