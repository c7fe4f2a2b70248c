"""threadinfo trace: what happens, as it happens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from threadinfo.cli.group import cli
from threadinfo.cli.options import (
    FORMATS,
    Nearest,
    Time,
    awaited_name,
    complete_target,
    debuginfod_option,
    follow_option,
    read_only,
)
from threadinfo.cli.output import write_standard_output
from threadinfo.cli.say import print_error, say_losses, say_waiting
from threadinfo.cli.target import find_all, open_root
from threadinfo.cli.tracing import prepare_trace
from threadinfo.containment import contained
from threadinfo.descriptor_kinds import KIND_NAMES
from threadinfo.errors import BadInputError
from threadinfo.render.escape import Printable, printable
from threadinfo.tracers import streamed, watched

if TYPE_CHECKING:
    from threadinfo.collect.stream import Chunk, EventStream


_FORMAT_SECONDS = 0.015  # of every tick of a stream


@cli.command("trace")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=complete_target)
@click.option("--only", metavar="WHAT", callback=read_only, help=f"{', '.join(watched())}, with commas; default all.")
@click.option(
    "--duration",
    metavar="TIME",
    type=Time(),
    help="5, 500ms, 2m; otherwise until Ctrl-C or the target's end.",
)
@click.option(
    "--threshold", metavar="TIME", type=Time(), default="1ms", show_default=True, help="Waits longer than this."
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=Nearest(KIND_NAMES),
    metavar="TYPE",
    help="Only descriptors of a type: file, socket, ...",
)
@click.option("--thread", "threads", multiple=True, metavar="NAME", help="Only what a thread did: its name or number.")
@click.option("--path", metavar="PATTERN", help="Only paths or addresses that match, for example '/var/log/*'.")
@click.option("--failures", is_flag=True, help="Only calls that failed.")
@click.option("--stacks", is_flag=True, help="With each call where in the program it was made.")
@click.option("--wait", is_flag=True, help="Wait for TARGET to start, and trace it from its first instruction.")
@follow_option
@debuginfod_option
@click.option("--format", "output_format", type=click.Choice(FORMATS), default="text", show_default=True)
def trace_command(
    targets: tuple[str, ...],
    only: frozenset[str],
    duration: float | None,
    threshold: float,
    kinds: tuple[str, ...],
    threads: tuple[str, ...],
    path: str | None,
    failures: bool,
    stacks: bool,
    wait: bool,
    follow: bool,
    debuginfod: tuple[str, ...],
    output_format: str,
) -> None:
    """As root: print what happens to descriptors, and waits for a CPU, as they happen."""
    if sys.stdout is None:
        write_standard_output(printable([]))  # says that it is closed, before any work
    root = open_root("/proc")
    name = awaited_name(targets) if wait else ""
    pids, missing = ([], []) if wait else find_all(root, targets)
    prepare_trace()
    from threadinfo.collect.stream import StreamOptions, open_stream  # noqa: PLC0415

    if not only & streamed():
        words = ",".join(sorted(only))
        raise BadInputError(f"{words}: told of in a report alone", f"threadinfo TARGET --trace 5s --only {words}")
    has_filter = bool(kinds or threads or path or failures)
    if has_filter and not only & streamed() - {"scheduling"}:
        raise BadInputError(
            "--kind, --thread, --path and --failures choose events of descriptors, which --only leaves out",
            "add descriptors to --only",
        )
    options = StreamOptions(
        threshold_ns=round(threshold * 1e9) if "scheduling" in only and not has_filter else None,
        with_descriptors=bool(only & {"descriptors", "sockets"}),
        with_sockets="sockets" in only,
        only_sockets="descriptors" not in only,
        with_stacks=stacks,
        debuginfod=debuginfod,
        kinds=frozenset(kinds),
        threads=frozenset(threads),
        path=path,
        only_failures=failures,
        with_children=follow,
    )
    sys.stdout.flush()
    with open_stream(root, pids, options, (name, say_waiting(name)) if wait else None) as stream:
        if stacks and (stackless := stream.stack_problem()):
            print_error(stackless)
        interrupted = _print_stream(stream, duration, output_format)
    for problem in missing:
        print_error(problem)
    if interrupted is not None:
        sys.exit(128 + interrupted)
    if missing:
        sys.exit(max(problem.exit_code for problem in missing))


def _print_stream(stream: EventStream, duration: float | None, output_format: str) -> int | None:
    """Prints events until the end; gives the signal that ended it, if any. What was seen by then is printed whole."""
    from threadinfo.cli.line_output import LineOutput  # noqa: PLC0415
    from threadinfo.render import stream as lines  # noqa: PLC0415

    as_json = output_format == "json"
    render_event = lines.render_event_json if as_json else lines.render_event_text

    def format_chunk(chunk: Chunk) -> Iterator[Printable]:
        with contained("lines"):
            yield from map(render_event, stream.events(chunk))

    with LineOutput(sys.stdout.fileno(), format_chunk) as output:
        for chunks in stream.chunks(duration):
            for chunk in chunks:
                output.put(chunk)
            output.work(_FORMAT_SECONDS)
            if not output.has_reader():
                break
        chunks, confidence = stream.finish()
        for chunk in chunks:
            output.put(chunk)
        output.drain()
        confidence = msgspec.structs.replace(confidence, omitted_line_count=output.omitted_count)
        output.write_last((lines.render_end_json if as_json else lines.render_end_text)(confidence))
    say_losses(confidence)
    return stream.interrupted_by()
