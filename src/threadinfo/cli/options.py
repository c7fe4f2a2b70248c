"""What can be said on the command line: types of values, and options that several commands have."""

from __future__ import annotations

import math
import os
from typing import Any

import click

from threadinfo.errors import BadInputError
from threadinfo.tracers import watched

DEFAULT_PORTS = {5000: "web server", 5001: "websocket server", 5002: "websocket server", 5353: "mDNS"}
FORMATS = ("text", "json")
REPORT_FORMATS = (*FORMATS, "html", "collapsed", "speedscope")
LONGEST_TRACE_SECONDS = 86_400
_KERNEL_NAME_BYTES = 15
_LARGEST_PORTS_FILE = 1 << 20
_UNITS_NS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}


class Seconds(click.FloatRange):
    """A number of seconds; "nan" is a float, and between any bounds, but not a time."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A float; fails in words."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


class Nearest(click.Choice[str]):
    """One of many words; a mistake is told with the nearest of them, and not with all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word; fails with the nearest."""
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
    if unknown := names - set(watched()):
        raise click.BadParameter(f"{', '.join(sorted(unknown))!r} is none of {', '.join(watched())}")
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


def read_threshold(_ctx: click.Context, _option: click.Parameter, text: str) -> int:
    """``1ms`` to nanoseconds."""
    number = text.rstrip("nums")
    try:
        nanoseconds = int(float(number) * _UNITS_NS[text[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        nanoseconds = 0
    if not 0 < nanoseconds < 1 << 63:
        raise click.BadParameter(f"{text!r} is not a time like 500us, 1ms or 2s")
    return nanoseconds


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
