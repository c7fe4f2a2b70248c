"""What every command that traces does first, and the trace of a report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from threadinfo.collect.process import CollectOptions
from threadinfo.errors import BadInputError
from threadinfo.model import Report
from threadinfo.proc.reader import ProcDirectory

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar


_SHORTEST_PROGRESS_SECONDS = 0.1  # that is worth a bar

owns_process = False
"""Whether the process is this command's, and not a test's that calls parts of it; `main` says so."""


def prepare_trace() -> None:
    """Raises NotAvailableError where tracing cannot work, before anything large is loaded."""
    from threadinfo.trace.kernel.preflight import check_privilege  # noqa: PLC0415

    check_privilege()
    own_privileges()


def own_privileges() -> None:
    """A tracer in a process that is ours alone gives up what it does not need."""
    from threadinfo.trace.kernel import privileges  # noqa: PLC0415

    privileges.is_own_process = owns_process


def collect_traced(
    root: ProcDirectory,
    pids: list[int],
    options: CollectOptions,
    seconds: float,
    only: frozenset[str],
    *,
    follow: bool,
) -> Report:
    """A report with a trace, and a progress bar where somebody looks."""
    prepare_trace()
    from threadinfo.collect.trace_report import collect_traced_report  # noqa: PLC0415

    if root.path != "/proc":
        raise BadInputError("--trace watches this machine's processes, and --proc names others", "leave out --proc")
    if not sys.stderr.isatty() or seconds < _SHORTEST_PROGRESS_SECONDS:
        return collect_traced_report(root, pids, options, seconds, only, None, with_children=follow)
    progress: ProgressBar[int] = click.progressbar(
        length=round(seconds * 10),
        label="tracing",
        file=sys.stderr,
        item_show_func=lambda events: f"{events or 0:,} events",
    )
    with progress as bar:
        return collect_traced_report(
            root,
            pids,
            options,
            seconds,
            only,
            lambda now, events: bar.update(round(now * 10) - bar.pos, events),
            with_children=follow,
        )
