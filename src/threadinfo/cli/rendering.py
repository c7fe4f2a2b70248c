"""The report in the format that was asked for, and where it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from threadinfo.cli.output import OutputFile, write_standard_output
from threadinfo.containment import DEBUG, contained
from threadinfo.errors import BadInputError, NotAvailableError
from threadinfo.model import Report
from threadinfo.render.escape import Binary, Printable


def render(report: Report, output_format: str, *, verbose: bool) -> Printable | Binary:
    """The report as it was asked for; where a fault of ours is in that, as JSON, or at last as text."""
    if verbose or output_format != "text" or any(process.trace for process in report.processes):
        from threadinfo.findings import with_findings  # noqa: PLC0415

        report = with_findings(report)
    for tried in dict.fromkeys((output_format, "json", "text")):
        with contained(f"the report as {tried}"):
            return _render_as(report, tried, verbose=verbose)
    raise NotAvailableError("the report could not be written in any format", f"{DEBUG}=1 says why")


def _render_as(report: Report, output_format: str, *, verbose: bool) -> Printable | Binary:
    if output_format == "html":
        from threadinfo.render.html import render_html  # noqa: PLC0415

        return render_html(report)
    if output_format == "collapsed":
        from threadinfo.render.collapsed import render_collapsed  # noqa: PLC0415

        return render_collapsed(report)
    if output_format == "speedscope":
        from threadinfo.render.speedscope import render_speedscope  # noqa: PLC0415

        return render_speedscope(report)
    if output_format == "pprof":
        from threadinfo.render.pprof import render_pprof  # noqa: PLC0415

        return render_pprof(report)
    if output_format == "json":
        from threadinfo.render.json import render_json  # noqa: PLC0415

        return render_json(report)
    from threadinfo.render.text.report import render_text  # noqa: PLC0415

    width = 80
    if any(process.trace for process in report.processes):
        import shutil  # noqa: PLC0415

        width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else width
    return render_text(report, verbose=verbose, width=width)


def refuse_on_terminal(output_format: str, output: str | None, stream: TextIO | None) -> None:
    """Before any work: a page's thousands of lines are of use to nobody there, unless ``-o -`` asks for them, and what
    is no text never goes there."""
    if stream is None or not stream.isatty():
        return
    if output_format == "html" and output is None:
        raise BadInputError("the page is for a browser, and would go to a terminal", "name a file: -o page.html")
    if output_format == "pprof" and output in {None, "-"}:
        raise BadInputError("a profile is for pprof, and would go to a terminal", "name a file: -o profile.pb.gz")


@contextmanager
def open_output(path: str | None) -> Iterator[Callable[[Printable | Binary], None]]:
    """Yields what takes the result. A file is opened first: that it cannot be written is said before any work."""
    if path is None or path == "-":
        yield write_standard_output
        return
    with OutputFile(path) as file:
        yield file.commit
