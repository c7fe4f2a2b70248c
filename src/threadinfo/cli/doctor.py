"""threadinfo doctor: what this host allows."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from threadinfo.cli.group import cli
from threadinfo.cli.options import FORMATS
from threadinfo.cli.output import write_standard_output
from threadinfo.cli.target import open_root
from threadinfo.cli.tracing import collect_traced
from threadinfo.collect.process import CollectOptions
from threadinfo.errors import ExitCode, NotAvailableError, ThreadinfoError, explain
from threadinfo.proc.reader import ProcDirectory
from threadinfo.tracers import watched

if TYPE_CHECKING:
    from threadinfo.model import Check


_REHEARSAL_SECONDS = 0.01


@cli.command("doctor")
@click.option("--format", "output_format", type=click.Choice(FORMATS), default="text", show_default=True)
def doctor_command(output_format: str) -> None:
    """What this host allows, what is missing, and what would mend it; exit status 3 where tracing cannot work."""
    from threadinfo.proc.rights import count_closed  # noqa: PLC0415
    from threadinfo.render.doctor import render_doctor_json, render_doctor_text  # noqa: PLC0415
    from threadinfo.trace.kernel.doctor import examine  # noqa: PLC0415

    try:
        root = open_root("/proc")
        others = count_closed(root)
    except NotAvailableError:
        root, others = None, None
    checks = examine(others)
    if root is not None and not any(check.is_required and check.state == "missing" for check in checks):
        checks += (_rehearse(root),)
    write_standard_output((render_doctor_json if output_format == "json" else render_doctor_text)(checks))
    if any(check.state == "missing" and check.is_required for check in checks):
        sys.exit(ExitCode.UNAVAILABLE)


def _rehearse(root: ProcDirectory) -> Check:
    """A trace of this process itself: what no single check told."""
    from threadinfo.model import Check  # noqa: PLC0415

    name, effect = "rehearsal", "no tracing"
    options = CollectOptions(with_details=False, may_borrow=True, ports={})
    try:
        report = collect_traced(root, [os.getpid()], options, _REHEARSAL_SECONDS, frozenset(watched()), follow=False)
    except ThreadinfoError as problem:
        return Check(name, "missing", problem.message, effect, problem.remedy, is_required=True)
    except (OSError, MemoryError, ImportError) as problem:
        explained = explain(problem)
        return Check(name, "missing", explained.message, effect, explained.remedy, is_required=True)
    seen = sum(process.trace.confidence.seen_count for process in report.processes if process.trace)
    return Check(name, "ok", f"this process was traced: {seen} events", effect, None, is_required=True)
