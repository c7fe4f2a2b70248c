"""threadinfo show: a saved report again."""

from __future__ import annotations

import sys

import click

from threadinfo.cli.group import cli
from threadinfo.cli.options import REPORT_FORMATS
from threadinfo.cli.rendering import open_output, refuse_on_terminal, render
from threadinfo.containment import faults
from threadinfo.errors import BadInputError

_LARGEST_REPORT_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20


@cli.command("show")
@click.argument("file", metavar="FILE")
@click.option("--format", "output_format", type=click.Choice(REPORT_FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all, instead of standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Add thread names, descriptor details and who serves them.")
def show_command(file: str, output_format: str, output: str | None, verbose: bool) -> None:
    """Render a report that was saved with --format json again; FILE may be - for standard input."""
    from threadinfo.render.json import parse_json  # noqa: PLC0415

    refuse_on_terminal(output_format, output, sys.stdout)
    data = _read_saved(file)
    report = parse_json(data, file)
    with open_output(output) as write:
        text = render(report, output_format, verbose=verbose)
        if faults:  # the file is anybody's, and may say what no report of ours does
            raise BadInputError(f"{file} holds values that no report has: {faults.pop(0).error!r}")
        write(text)


def _read_saved(file: str) -> bytes:
    """A saved report; what cannot be one is refused as soon as that is seen."""
    if file == "-" and sys.stdin is None:
        raise BadInputError("standard input is closed")
    chunks: list[bytes] = []
    size = 0
    try:
        with open(0 if file == "-" else file, "rb", buffering=0, closefd=file != "-") as saved:
            while chunk := saved.read(_CHUNK_BYTES):
                chunks.append(chunk)
                size += len(chunk)
                if size > _LARGEST_REPORT_BYTES:
                    raise BadInputError(f"{file} is larger than any report ({_LARGEST_REPORT_BYTES >> 20} MiB)")
                begins = b"".join(chunks).lstrip()[:1] if size <= _CHUNK_BYTES else b"{"
                if b"\0" in chunk or begins not in {b"", b"{"}:
                    break  # the parser says where
    except OSError as problem:
        raise BadInputError(f"cannot read {file}: {problem.strerror}") from None
    return b"".join(chunks)
