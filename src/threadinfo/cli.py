"""The commands. The only place that prints or exits; everything that a plain report does not need is imported late."""

from __future__ import annotations

import errno
import gc
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click
import msgspec

from threadinfo import __version__
from threadinfo.collect import CollectOptions, collect_report
from threadinfo.containment import DEBUG, REMEDY, contained, faults
from threadinfo.descriptor_kinds import KIND_NAMES
from threadinfo.errors import (
    ENDING_SIGNALS,
    MORE_FILES,
    BadInputError,
    CommandError,
    ExitCode,
    NotAvailableError,
    OutputError,
    ProcessNotFoundError,
    TargetEndedError,
    ThreadinfoError,
    came_from,
    explain,
)
from threadinfo.model import Confidence, Report
from threadinfo.output import OutputFile, write_standard_output
from threadinfo.proc.reader import ProcDirectory, ProcError
from threadinfo.render.escape import Printable, printable
from threadinfo.target import find_processes

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar
    from click.shell_completion import CompletionItem

    from threadinfo.collect_stream import Chunk, EventStream
    from threadinfo.launch import Account
    from threadinfo.model import Check

DEFAULT_PORTS = {5000: "web server", 5001: "websocket server", 5002: "websocket server", 5353: "mDNS"}
FORMATS = ("text", "json")
_REPORT_FORMATS = (*FORMATS, "html", "collapsed")
_DEFAULT_COMMAND = "report"
_FAILURE_OF_OURS = 125
_KERNEL_NAME_BYTES = 15
_LONGEST_TRACE_SECONDS = 86_400
_WATCHED = ("descriptors", "sockets", "scheduling", "waits", "cpu")
_LARGEST_REPORT_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20
_LARGEST_PORTS_FILE = 1 << 20
_REHEARSAL_SECONDS = 0.01
_SHORTEST_PROGRESS_SECONDS = 0.1  # that is worth a bar
_AGAIN_SECONDS = 0.02  # until a signal that was lost is sent again
_FORMAT_SECONDS = 0.015  # of every tick of a stream


_owns_process = False
"""Whether the process is this command's, and not a test's that calls parts of it."""
_leaves_thread = False
"""Whether a thread that could not be waited for is still busy at the end."""


class _DefaultGroup(click.Group):
    """A group in which `threadinfo TARGET...` means `threadinfo report TARGET...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h", "--version"}:
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and targets: either may come first."""
        found = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-"):
            targets = next(iter(self.commands[_DEFAULT_COMMAND].params))
            found += targets.shell_complete(ctx, incomplete)
        return found


@click.group(
    cls=_DefaultGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`threadinfo TARGET...` is short for `threadinfo report TARGET...`. Manual: man threadinfo.",
)
@click.version_option(__version__, message="threadinfo %(version)s")
def cli() -> None:
    """Every thread, all memory and every file descriptor of one process."""


class _Seconds(click.FloatRange):
    """A number of seconds; "nan" is a float, and between any bounds, but not a time."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


class _Nearest(click.Choice[str]):
    """One of many words; a mistake is told with the nearest of them, and not with all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self._refuse(str(value), param, ctx)
        return str(value)

    def _refuse(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> None:
        from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

        near = get_close_matches(value.lower(), self.choices, n=1, cutoff=0)
        self.fail(f"{value[:80]!r} is no type of descriptor. The nearest is {near[0]!r}.", param, ctx)


def _port_role(text: str) -> tuple[int, str]:
    number, equals, role = text.partition("=")
    digits = number.strip()
    if not (equals and digits.isdecimal() and len(digits) <= 5 and 0 < int(digits) < 1 << 16 and role.strip()):
        raise click.BadParameter(f'{text[:80]!r} is not PORT=ROLE, for example 5000="web server"')
    return int(digits), role.strip()


def _read_port_option(_ctx: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[int, str]:
    return dict(_port_role(value) for value in values)


def _read_ports_file(_ctx: click.Context, _option: click.Parameter, path: str | None) -> dict[int, str]:
    """A file with one PORT=ROLE a line; empty lines and those that begin with # do not count."""
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LARGEST_PORTS_FILE + 1)
        if len(text) > _LARGEST_PORTS_FILE:
            raise click.BadParameter(f"{path} is longer than {_LARGEST_PORTS_FILE >> 20} MiB")
    except (OSError, UnicodeDecodeError) as problem:
        raise click.BadParameter(f"cannot read {path}: {problem}") from None
    ports: dict[int, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and not line.startswith("#"):
            try:
                ports.update([_port_role(line)])
            except click.BadParameter as problem:
                raise click.BadParameter(f"{path}, line {number}: {problem.message}") from None
    return ports


def _read_only(_ctx: click.Context, _option: click.Parameter, text: str | None) -> frozenset[str]:
    """``descriptors,scheduling`` to a set; everything where it is not given."""
    if text is None:
        return frozenset(_WATCHED)
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := names - set(_WATCHED):
        raise click.BadParameter(f"{', '.join(sorted(unknown))!r} is none of {', '.join(_WATCHED)}")
    return names


def _complete_target(_ctx: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    import psutil  # noqa: PLC0415 - only the shell's completion comes here

    names = {process.info["name"] for process in psutil.process_iter(["name"])}
    return sorted(name for name in names if name and name.isprintable() and name.startswith(incomplete))


def _read_debuginfod(_ctx: click.Context, _option: click.Parameter, is_asked: bool) -> tuple[str, ...]:
    """The servers of DEBUGINFOD_URLS, where they may be asked."""
    if not is_asked:
        return ()
    servers = tuple(os.environ.get("DEBUGINFOD_URLS", "").split())
    if not servers:
        raise BadInputError(
            "--debuginfod asks the servers of DEBUGINFOD_URLS, which names none",
            "sudo DEBUGINFOD_URLS=https://debuginfod.debian.net ... (sudo does not pass the environment on)",
        )
    if wrong := [server for server in servers if not server.startswith(("https://", "http://"))]:
        raise BadInputError(f"DEBUGINFOD_URLS names {wrong[0]!r}, which is no address of http or https", None)
    return servers


_debuginfod_option = click.option(
    "--debuginfod", is_flag=True, callback=_read_debuginfod, help="Fetch missing debug files from $DEBUGINFOD_URLS."
)
_frequency_option = click.option(
    "--frequency",
    metavar="HERTZ",
    type=click.IntRange(1, 10_000),
    default=99,
    show_default=True,
    help="How often a second each CPU is looked at.",
)
_follow_option = click.option("--follow", is_flag=True, help="Trace and report the processes that it makes, too.")


@cli.command(_DEFAULT_COMMAND)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=_complete_target)
@click.option("--format", "output_format", type=click.Choice(_REPORT_FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all, instead of standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Add thread names, descriptor details and who serves them.")
@click.option("--proc", "proc_path", metavar="PATH", default="/proc", show_default=True, help="Another root of /proc.")
@click.option(
    "--port", "ports", multiple=True, metavar="PORT=ROLE", callback=_read_port_option, help="What a port is for."
)
@click.option(
    "--ports", "ports_file", metavar="FILE", callback=_read_ports_file, help="A file with one PORT=ROLE a line."
)
@click.option(
    "--borrow/--no-borrow",
    default=True,
    help="Ask a socket that no table knows through a borrowed duplicate of it, or do not.",
)
@click.option(
    "--trace",
    "trace_seconds",
    metavar="SECONDS",
    type=_Seconds(0, _LONGEST_TRACE_SECONDS, min_open=True),
    help="As root: watch for so long, and add what threads and descriptors did.",
)
@click.option(
    "--only",
    metavar="WHAT",
    callback=_read_only,
    help="Of a trace: descriptors, sockets, scheduling, waits, cpu; default all.",
)
@click.option("--wait", is_flag=True, help="As root: wait for TARGET to start; trace it from its first instruction.")
@_frequency_option
@_follow_option
@_debuginfod_option
def report_command(
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
    _refuse_page_on_terminal(output_format, output, sys.stdout)
    gc.disable()  # a report is built once and then the process ends: nothing would be freed
    if verbose and (wait or trace_seconds is not None):
        _say_what_is_logged()
    with _output(output) as write:
        if follow and trace_seconds is None and not wait:
            raise BadInputError("--follow is of a trace", "add --trace SECONDS")
        root = _open_root(proc_path)
        pids, missing = ([], []) if wait else _find_all(root, targets)
        options = CollectOptions(
            with_details=verbose or output_format != "text",
            may_borrow=borrow and proc_path == "/proc",  # elsewhere the numbers are not those of pidfd_open(2)
            ports=DEFAULT_PORTS | ports_file | ports,
            frequency=frequency,
            debuginfod=debuginfod,
        )
        if wait:
            report = _collect_awaited(
                root, _awaited_name(targets), trace_seconds or math.inf, options, only, follow=follow
            )
        elif trace_seconds is None:
            report = collect_report(root, pids, options)
        else:
            report = _collect_traced(root, pids, options, trace_seconds, only, follow=follow)
        write(_render(report, output_format, verbose=verbose))
    if any(process.trace for process in report.processes):
        _say_losses(next(process.trace.confidence for process in report.processes if process.trace))
    for problem in missing:
        _print_error(problem)
    if missing:
        sys.exit(max(problem.exit_code for problem in missing))


def _prepare_trace() -> None:
    """Raises NotAvailableError where tracing cannot work, before anything large is loaded."""
    from threadinfo.trace.preflight import check_privilege  # noqa: PLC0415

    check_privilege()
    _own_privileges()


def _own_privileges() -> None:
    """A tracer in a process that is ours alone gives up what it does not need."""
    from threadinfo.trace import privileges  # noqa: PLC0415

    privileges.is_own_process = _owns_process


def _collect_traced(
    root: ProcDirectory,
    pids: list[int],
    options: CollectOptions,
    seconds: float,
    only: frozenset[str],
    *,
    follow: bool,
) -> Report:
    _prepare_trace()
    from threadinfo.collect_trace import collect_traced_report  # noqa: PLC0415

    if root.path != "/proc":
        raise BadInputError("--trace watches this machine's processes, and --proc names others", "leave out --proc")
    if not sys.stderr.isatty() or seconds < _SHORTEST_PROGRESS_SECONDS:
        silent = lambda _seconds, _events: None  # noqa: E731
        return collect_traced_report(root, pids, options, seconds, only, silent, with_children=follow)
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


def _awaited_name(targets: tuple[str, ...]) -> str:
    """Of a process that has not begun only the kernel's name can be compared."""
    if len(targets) != 1 or targets[0].isdecimal():
        raise BadInputError("--wait takes one name, of the process that is to start", None)
    if len(os.fsencode(targets[0])) > _KERNEL_NAME_BYTES:
        short = os.fsencode(targets[0])[:_KERNEL_NAME_BYTES].decode("utf-8", "ignore")
        raise BadInputError("--wait compares with the kernel's name, which has 15 bytes", f"threadinfo {short} --wait")
    return targets[0]


def _say_waiting(name: str) -> Callable[[], None]:
    return lambda: _say(f"waiting for {name} to start")


def _collect_awaited(
    root: ProcDirectory, name: str, seconds: float, options: CollectOptions, only: frozenset[str], *, follow: bool
) -> Report:
    _prepare_trace()
    from threadinfo.collect_run import collect_awaited  # noqa: PLC0415

    if root.path != "/proc":
        raise BadInputError("--wait watches this machine's processes, and --proc names others", "leave out --proc")
    gc.enable()  # it may take a while
    return collect_awaited(root, name, seconds, options, only, _say_waiting(name), with_children=follow)


_UNITS_NS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}


def _read_threshold(_ctx: click.Context, _option: click.Parameter, text: str) -> int:
    """``1ms`` to nanoseconds."""
    number = text.rstrip("nums")
    try:
        nanoseconds = int(float(number) * _UNITS_NS[text[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        nanoseconds = 0
    if not 0 < nanoseconds < 1 << 63:
        raise click.BadParameter(f"{text!r} is not a time like 500us, 1ms or 2s")
    return nanoseconds


@cli.command("trace")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", shell_complete=_complete_target)
@click.option(
    "--only", metavar="WHAT", callback=_read_only, help="descriptors, sockets, scheduling, with commas; default all."
)
@click.option(
    "--duration",
    metavar="SECONDS",
    type=_Seconds(0, _LONGEST_TRACE_SECONDS, min_open=True),
    help="Otherwise until Ctrl-C or the target's end.",
)
@click.option(
    "--threshold", metavar="TIME", default="1ms", callback=_read_threshold, help="Waits longer than this; default 1ms."
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=_Nearest(KIND_NAMES),
    metavar="TYPE",
    help="Only descriptors of a type: file, socket, ...",
)
@click.option("--thread", "threads", multiple=True, metavar="NAME", help="Only what a thread did: its name or number.")
@click.option("--path", metavar="PATTERN", help="Only paths or addresses that match, for example '/var/log/*'.")
@click.option("--failures", is_flag=True, help="Only calls that failed.")
@click.option("--stacks", is_flag=True, help="With each call where in the program it was made.")
@click.option("--wait", is_flag=True, help="Wait for TARGET to start, and trace it from its first instruction.")
@_follow_option
@_debuginfod_option
@click.option("--format", "output_format", type=click.Choice(FORMATS), default="text", show_default=True)
def trace_command(
    targets: tuple[str, ...],
    only: frozenset[str],
    duration: float | None,
    threshold: int,
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
    root = _open_root("/proc")
    name = _awaited_name(targets) if wait else ""
    pids, missing = ([], []) if wait else _find_all(root, targets)
    _prepare_trace()
    from threadinfo.collect_stream import StreamOptions, open_stream  # noqa: PLC0415

    if only <= {"waits", "cpu"}:
        words = ",".join(sorted(only))
        raise BadInputError(f"{words}: told of in a report alone", f"threadinfo TARGET --trace SECONDS --only {words}")
    has_filter = bool(kinds or threads or path or failures)
    options = StreamOptions(
        threshold_ns=threshold if "scheduling" in only and not has_filter else None,
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
    with open_stream(root, pids, options, (name, _say_waiting(name)) if wait else None) as stream:
        if stacks and (stackless := stream.stack_problem()):
            _print_error(stackless)
        interrupted = _print_stream(stream, duration, output_format)
    for problem in missing:
        _print_error(problem)
    if interrupted is not None:
        sys.exit(128 + interrupted)
    if missing:
        sys.exit(max(problem.exit_code for problem in missing))


def _print_stream(stream: EventStream, duration: float | None, output_format: str) -> int | None:
    """Prints events until the end; gives the signal that ended it, if any. What was seen by then is printed whole."""
    from threadinfo.line_output import LineOutput  # noqa: PLC0415
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
    _say_losses(confidence)
    return stream.interrupted_by()


@cli.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--user", metavar="NAME", help="Start it as this user, with an environment and a terminal of its own.")
@click.option("--preserve-env", is_flag=True, help="With --user: pass our environment on.")
@click.option("--no-new-privs", is_flag=True, help="Nothing that it executes may give it more rights (set-user-ID).")
@click.option(
    "--only", metavar="WHAT", callback=_read_only, help="descriptors, sockets, scheduling, with commas; default all."
)
@_frequency_option
@_follow_option
@_debuginfod_option
@click.option("--format", "output_format", type=click.Choice(_REPORT_FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Add thread names, descriptor details and whole stacks.")
@click.option(
    "--port", "ports", multiple=True, metavar="PORT=ROLE", callback=_read_port_option, help="What a port is for."
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
            _say_what_is_logged()
        options = CollectOptions(
            with_details=verbose or output_format != "text",
            may_borrow=True,
            ports=roles,
            frequency=frequency,
            debuginfod=debuginfod,
        )
        from threadinfo.launch import Account  # noqa: PLC0415

        account = Account(user, preserve_env, no_new_privs)
        if preserve_env and user is None:
            raise BadInputError("--preserve-env is of another user's command", "add --user NAME")
        status = _run(command, account, options, only, output_format, output, follow=follow, verbose=verbose)
    except BadInputError:
        raise
    except CommandError as problem:
        _print_error(problem)
        status = problem.status
    except ThreadinfoError as problem:
        _print_error(problem)
        status = _FAILURE_OF_OURS
    except ProcError as problem:
        _print_error(NotAvailableError(f"cannot read {problem}"))
        status = _FAILURE_OF_OURS
    except (OSError, MemoryError, ImportError) as problem:
        _print_error(explain(problem))
        status = _FAILURE_OF_OURS
    _say_faults()
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
    from threadinfo.launch import Command  # noqa: PLC0415

    _refuse_page_on_terminal(output_format, output, sys.stderr)
    with _output(output or "/dev/stderr") as write, Command(arguments, account) as command:
        _prepare_trace()
        from threadinfo.collect_run import collect_run  # noqa: PLC0415

        try:
            report, status = collect_run(_open_root("/proc"), command, options, only, with_children=follow)
        except TargetEndedError:
            return command.wait()  # raises: a signal came before it began
        write(_render(report, output_format, verbose=verbose))
    return status


@cli.command("top")
@click.argument("target", metavar="TARGET", shell_complete=_complete_target)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=_Seconds(0.1, 3600),
    default=1.0,
    show_default=True,
    help="How often the screen is refreshed.",
)
@click.option("--trace/--no-trace", default=True, help="As root: trace, or show what /proc says alone.")
@click.option(
    "--port", "ports", multiple=True, metavar="PORT=ROLE", callback=_read_port_option, help="What a port is for."
)
@click.option(
    "--ports", "ports_file", metavar="FILE", callback=_read_ports_file, help="A file with one PORT=ROLE a line."
)
def top_command(target: str, interval: float, trace: bool, ports: dict[int, str], ports_file: dict[int, str]) -> None:
    """Show one process live: threads, descriptors, sockets; as root what they do. Keys: ? while it runs."""
    from threadinfo.collect_top import TopSession  # noqa: PLC0415
    from threadinfo.top.app import TopApp  # noqa: PLC0415
    from threadinfo.top.terminal import TerminalDriver, check_terminal, kept_terminal  # noqa: PLC0415

    check_terminal()
    _own_privileges()
    root = _open_root("/proc")
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
        global _leaves_thread  # noqa: PLW0603 - it is a fact of the whole process
        _leaves_thread = session.is_running
    if view.failure is not None:
        raise view.failure
    if status is None:  # it failed, and Textual has said why
        sys.exit(ExitCode.UNAVAILABLE)
    sys.exit(status)


@cli.command("doctor")
@click.option("--format", "output_format", type=click.Choice(FORMATS), default="text", show_default=True)
def doctor_command(output_format: str) -> None:
    """What this host allows, what is missing, and what would mend it; exit status 3 where tracing cannot work."""
    from threadinfo.proc.rights import count_closed  # noqa: PLC0415
    from threadinfo.render.doctor import render_doctor_json, render_doctor_text  # noqa: PLC0415
    from threadinfo.trace.doctor import examine  # noqa: PLC0415

    try:
        root = _open_root("/proc")
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
        report = _collect_traced(root, [os.getpid()], options, _REHEARSAL_SECONDS, frozenset(_WATCHED), follow=False)
    except ThreadinfoError as problem:
        return Check(name, "missing", problem.message, effect, problem.remedy, is_required=True)
    except (OSError, MemoryError, ImportError) as problem:
        explained = explain(problem)
        return Check(name, "missing", explained.message, effect, explained.remedy, is_required=True)
    seen = sum(process.trace.confidence.seen_count for process in report.processes if process.trace)
    return Check(name, "ok", f"this process was traced: {seen} events", effect, None, is_required=True)


@cli.command("show")
@click.argument("file", metavar="FILE")
@click.option("--format", "output_format", type=click.Choice(_REPORT_FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all, instead of standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Add thread names, descriptor details and who serves them.")
def show_command(file: str, output_format: str, output: str | None, verbose: bool) -> None:
    """Render a report that was saved with --format json again; FILE may be - for standard input."""
    from threadinfo.render.json import parse_json  # noqa: PLC0415

    _refuse_page_on_terminal(output_format, output, sys.stdout)
    data = _read_saved(file)
    report = parse_json(data, file)
    with _output(output) as write:
        text = _render(report, output_format, verbose=verbose)
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


def _open_root(path: str) -> ProcDirectory:
    try:
        root = ProcDirectory(path)
        if not root.numbers():
            raise NotAvailableError(f"{path} shows no process", "mount it: mount -t proc proc PATH")
    except ProcError as problem:
        is_limit = problem.cause == os.strerror(errno.EMFILE)
        remedy = MORE_FILES if is_limit else "mount it: mount -t proc proc PATH"
        raise NotAvailableError(f"cannot read {problem}", remedy) from None
    return root


def _find_all(root: ProcDirectory, targets: tuple[str, ...]) -> tuple[list[int], list[ThreadinfoError]]:
    """The PIDs of all targets, and the error of each that matched none; raises where not a single one matched."""
    pids: list[int] = []
    missing: list[ThreadinfoError] = []
    for target in dict.fromkeys(targets):
        try:
            pids += find_processes(root, target)
        except (ProcessNotFoundError, NotAvailableError) as problem:
            missing.append(problem)
    if not pids:
        for other in missing[:-1]:
            _print_error(other)
        raise missing[-1]
    return pids, missing


def _render(report: Report, output_format: str, *, verbose: bool) -> Printable:
    """The report as it was asked for; where a fault of ours is in that, as JSON, or at last as text."""
    if verbose or output_format != "text" or any(process.trace for process in report.processes):
        from threadinfo.findings import with_findings  # noqa: PLC0415

        report = with_findings(report)
    for tried in dict.fromkeys((output_format, "json", "text")):
        with contained(f"the report as {tried}"):
            return _render_as(report, tried, verbose=verbose)
    raise NotAvailableError("the report could not be written in any format", f"{DEBUG}=1 says why")


def _render_as(report: Report, output_format: str, *, verbose: bool) -> Printable:
    if output_format == "html":
        from threadinfo.render.html import render_html  # noqa: PLC0415

        return render_html(report)
    if output_format == "collapsed":
        from threadinfo.render.collapsed import render_collapsed  # noqa: PLC0415

        return render_collapsed(report)
    if output_format == "json":
        from threadinfo.render.json import render_json  # noqa: PLC0415

        return render_json(report)
    from threadinfo.render.text import render_text  # noqa: PLC0415

    width = 80
    if any(process.trace for process in report.processes):
        import shutil  # noqa: PLC0415

        width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else width
    return render_text(report, verbose=verbose, width=width)


def _refuse_page_on_terminal(output_format: str, output: str | None, stream: TextIO | None) -> None:
    """Before any work: thousands of lines of HTML are of use to nobody there, unless ``-o -`` asks for them."""
    if output_format == "html" and output is None and stream is not None and stream.isatty():
        raise BadInputError("the page is for a browser, and would go to a terminal", "name a file: -o page.html")


@contextmanager
def _output(path: str | None) -> Iterator[Callable[[Printable], None]]:
    """Yields what takes the result. A file is opened first: that it cannot be written is said before any work."""
    if path is None or path == "-":
        yield write_standard_output
        return
    with OutputFile(path) as file:
        yield file.commit


def _say_losses(confidence: Confidence) -> None:
    if confidence.lost_count:
        words = "records were lost: lines are missing; counts and the ledger are whole"
        _say(f"{confidence.lost_count} {words}")
    if confidence.omitted_line_count:
        _say(f"{confidence.omitted_line_count} lines were left out: the reader was slow")


def _print_error(problem: ThreadinfoError) -> None:
    _say(problem.message, *([f"  {problem.remedy}"] if problem.remedy else []))


def _say(*lines: str) -> None:
    """To standard error."""
    click.echo(printable(lines), err=True, nl=False)


def _say_what_is_logged() -> None:
    """To standard error, for who asked for words: what went another way than usual, and lost nothing."""
    import logging  # noqa: PLC0415 - takes time, and most reports need none

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _say(self.format(record))

    logger = logging.getLogger("threadinfo")
    logger.addHandler(Handler())
    logger.setLevel(logging.INFO)


def main() -> NoReturn:
    """Runs the command, and ends the process."""
    try:
        _main()
    except SystemExit as end:
        if _leaves_thread:  # it may be in the compiler, and exit(3) takes that away under it: a crash
            os._exit(end.code if isinstance(end.code, int) else ExitCode.OK)
        raise


def _main() -> NoReturn:
    """The only place that turns errors into messages and exit codes."""
    global _owns_process  # noqa: PLW0603 - it is a fact of the whole process
    _owns_process = True
    _fill_standard_descriptors()
    for number in ENDING_SIGNALS:  # what is attached or half-written is put away on these too
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.unraisablehook = _send_again
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    try:
        status: int | str | None = ExitCode.OK
        try:
            with contained("the command", but=(ProcError, OSError, click.ClickException, click.Abort)):
                cli.main(standalone_mode=False)
        except SystemExit as end:
            status = end.code
        is_whole = not _say_faults()
        sys.exit(status if is_whole or status not in {ExitCode.OK, ExitCode.INTERRUPTED} else ExitCode.UNAVAILABLE)
    except ThreadinfoError as problem:
        _print_error(problem)
        sys.exit(problem.exit_code)
    except ProcError as problem:  # where no part of the report could be left out for it
        _print_error(NotAvailableError(f"cannot read {problem}"))
        sys.exit(ExitCode.UNAVAILABLE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    except (OSError, MemoryError, ImportError) as problem:
        explained: ThreadinfoError = explain(problem)
        if isinstance(problem, OSError) and problem.filename is None and came_from(problem) == "cli":
            explained = OutputError(f"cannot write to standard output: {problem.strerror}")  # --help to a full disk
        _print_error(explained)
        sys.exit(ExitCode.UNAVAILABLE)
    except click.ClickException as problem:
        words = io.StringIO()
        problem.show(words)
        _say(*words.getvalue().removesuffix("\n").split("\n"))
        sys.exit(problem.exit_code)
    finally:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left that a late Ctrl-C could interrupt in order
        _say_faults()
        _flush_or_drop()


def _say_faults() -> bool:
    """Says once, in one line, what is missing for a fault of ours; whether there was any."""
    if not faults:
        return False
    told, faults[:] = faults[:], []
    if os.environ.get(DEBUG):
        import traceback  # noqa: PLC0415

        for fault in told:
            lines = "".join(traceback.format_exception(type(fault.error), fault.error, fault.error.__traceback__))
            _say(*lines.splitlines())
    words = "; ".join(f"{fault.section}, {fault.words()}" for fault in told)
    _say(f"missing for a fault of threadinfo itself: {words}; {REMEDY}")
    return True


def _fill_standard_descriptors() -> None:
    """Where 0, 1 or 2 is closed, the next file that is opened would take its number, and be written to as that."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _send_again(ignored: sys.UnraisableHookArgs) -> None:
    """A signal that comes while Python calls back (the import of a module ends with one) would end nothing."""
    problem = ignored.exc_value
    number: int | None = None
    if isinstance(problem, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(problem, SystemExit) and isinstance(problem.code, int) and problem.code > 128:
        number = problem.code - 128
    if number is None:
        sys.__unraisablehook__(ignored)
    else:
        import threading  # noqa: PLC0415

        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()


def _flush_or_drop() -> None:
    """Python flushes once more at its end, and would print a traceback where the reader of a pipe has left."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
