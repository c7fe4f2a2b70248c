"""What can be said on the command line: types of values, and options that several commands have."""

from __future__ import annotations

import os
import re
from typing import Any

import click
from click.core import ParameterSource

from threadinfo.cli.nearest import nearest
from threadinfo.errors import BadInputError
from threadinfo.tracers import watched

DEFAULT_PORTS = {5000: "web server", 5001: "websocket server", 5002: "websocket server", 5353: "mDNS"}
FORMATS = ("text", "json")
REPORT_FORMATS = (*FORMATS, "html", "collapsed", "speedscope", "pprof")
LONGEST_TRACE_SECONDS = 86_400
_KERNEL_NAME_BYTES = 15
_LARGEST_PORTS_FILE = 1 << 20
_LEAST_SECONDS = 1e-9
_UNITS_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}
_TIME = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18}) ?(ns|us|ms|s|m|min|h)?", re.ASCII)


class Time(click.ParamType[float]):
    """A time: ``5`` (seconds), ``5s``, ``500ms``, ``200us``, ``2m``, ``1h``; gives seconds."""

    name = "time"

    def __init__(self, least_seconds: float = _LEAST_SECONDS, most_seconds: float = LONGEST_TRACE_SECONDS) -> None:
        self._least_seconds, self._most_seconds = least_seconds, most_seconds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails in words."""
        if isinstance(value, float):  # a default, or one that was converted already
            return value
        match = _TIME.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value[:80]!r} is not a time like 5s, 500ms or 2m; a number alone is seconds.", param, ctx)
        seconds = float(match[1]) * _UNITS_SECONDS[match[2] or "s"]
        if not self._least_seconds <= seconds <= self._most_seconds:
            least, most = _format_time(self._least_seconds), _format_time(self._most_seconds)
            self.fail(f"{value[:80]!r} is not between {least} and {most}.", param, ctx)
        return seconds


def _format_time(seconds: float) -> str:
    unit = next((unit for unit in ("h", "s", "ms", "us") if seconds >= _UNITS_SECONDS[unit]), "ns")
    return f"{seconds / _UNITS_SECONDS[unit]:g}{unit}"


class Nearest(click.Choice[str]):
    """One of many words; a mistake is told with the nearest of them, and not with all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word; fails with the nearest."""
        if value not in self.choices:
            near = nearest(str(value), self.choices, cutoff=0)
            self.fail(f"{str(value)[:80]!r} is no type of descriptor. The nearest is {near!r}.", param, ctx)
        return str(value)


def _port_role(text: str) -> tuple[int, str]:
    number, equals, role = text.partition("=")
    digits = number.strip()
    if not (equals and digits.isdecimal() and len(digits) <= 5 and 0 < int(digits) < 1 << 16 and role.strip()):
        raise click.BadParameter(f'{text[:80]!r} is not PORT=ROLE, for example 5000="web server"')
    return int(digits), role.strip()


def read_port_option(_ctx: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[int, str]:
    """``5000=web server``, any number of them."""
    return dict(_port_role(value) for value in values)


def read_ports_file(_ctx: click.Context, _option: click.Parameter, path: str | None) -> dict[int, str]:
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


def read_only(_ctx: click.Context, _option: click.Parameter, text: str | None) -> frozenset[str]:
    """``descriptors,scheduling`` to a set; everything where it is not given."""
    if text is None:
        return frozenset(watched())
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := sorted(names - set(watched())):
        near = nearest(unknown[0], watched())
        hint = f"; did you mean {near}?" if near else ""
        raise click.BadParameter(f"{', '.join(unknown)[:80]!r} is none of {', '.join(watched())}{hint}")
    return names


def complete_target(_ctx: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """Names of processes, for the shell."""
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


def awaited_name(targets: tuple[str, ...]) -> str:
    """Of a process that has not begun only the kernel's name can be compared."""
    if len(targets) != 1 or targets[0].isdecimal():
        raise BadInputError("--wait takes one name, of the process that is to start", None)
    if len(os.fsencode(targets[0])) > _KERNEL_NAME_BYTES:
        short = os.fsencode(targets[0])[:_KERNEL_NAME_BYTES].decode("utf-8", "ignore")
        raise BadInputError("--wait compares with the kernel's name, which has 15 bytes", f"threadinfo {short} --wait")
    return targets[0]


debuginfod_option = click.option(
    "--debuginfod", is_flag=True, callback=_read_debuginfod, help="Fetch missing debug files from $DEBUGINFOD_URLS."
)
frequency_option = click.option(
    "--frequency",
    metavar="HERTZ",
    type=click.IntRange(1, 10_000),
    default=99,
    show_default=True,
    help="How often a second each CPU is looked at.",
)
follow_option = click.option("--follow", is_flag=True, help="Trace and report the processes that it makes, too.")


def refuse_of_a_trace(context: click.Context) -> None:
    """Raises BadInputError where an option was given that only a trace has, and there is none."""
    for option in ("only", "follow", "debuginfod"):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise BadInputError(f"--{option} is of a trace", "add --trace TIME, for example --trace 5s")
