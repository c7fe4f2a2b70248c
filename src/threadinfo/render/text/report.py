"""The plain text report: the sections, columns and words of the script that this project began as.

Where ours differ from the script's, and why: docs/differences.md. A test compares the two byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from threadinfo.containment import contained
from threadinfo.descriptor_kinds import KINDS, KindName
from threadinfo.model import Descriptor, Family, Finding, Gap, Memory, ProcessReport, Report, Thread
from threadinfo.render.escape import Printable, format_text, printable
from threadinfo.render.text.details import format_details
from threadinfo.render.text.fold import SHORT, SHORTER, SHORTEST, WHOLE, Cuts, format_numbers, left_out, wrap

_NOTE = (
    "Note: In Linux, threads share most memory except for their stacks.",
    "The total memory footprint combines both in-RAM (RSS) and swapped pages.",
)
_STANDARD_STREAMS = {0: "stdin: ", 1: "stdout: ", 2: "stderr: "}
_STREAM_TYPES: set[KindName] = {"terminal", "device", "file", "pipe", "fifo", "directory"}
_COLUMNS: dict[str, str] = {kind.name: kind.column for kind in KINDS}
_NOT_READ = "(not read: see the end)"
_MOST_LINES = 500  # of a family, without -v
_LONG_LINES = 150  # of one process, without -v
_BRIEF_LINES, _BRIEF_EACH = 90, 3  # for those that are told of in brief


def render_text(report: Report, *, verbose: bool = False, width: int = 80) -> Printable:
    """The whole report, ending in a newline; `verbose` adds what the script had no words for.

    `width` is the terminal's: what a trace adds uses the room that there is.
    """
    if report.family is not None:
        return printable(_render_family(report, report.family, verbose=verbose, width=width))
    lines: list[str] = []
    for index, process in enumerate(report.processes):
        lines += [""] * bool(index)
        lines += _render_process(process, verbose=verbose, width=width)
    return printable(lines)


def _render_family(report: Report, family: Family, *, verbose: bool, width: int) -> list[str]:
    """The summary, whom the user asked for, and the busiest of the others; without `verbose` as many as have room."""
    from threadinfo.render.text.family import (  # noqa: PLC0415 - of a trace
        busy_ns,
        render_brief,
        render_family,
        render_family_findings,
    )

    asked = [one for one in report.processes if one.parent_pid is None]
    others = [one for one in report.processes if one.parent_pid is not None]
    lines = render_family(family, asked, width, verbose=verbose)
    lines += render_family_findings([*asked, *others], width)
    for process in asked:
        lines += ["", *_render_process(process, verbose=verbose, width=width)]
    if verbose:
        for process in others:
            lines += ["", *_render_process(process, verbose=verbose, width=width)]
        return lines
    others.sort(key=lambda one: -busy_ns(one))
    room = _MOST_LINES - len(lines) - _BRIEF_LINES
    while others and len(whole := ["", *_render_process(others[0], verbose=False, width=width)]) <= room:
        lines += whole
        room -= len(whole)
        del others[0]
    if others:
        lines += ["", "=== Others of the Family ==="]
        told = others[: max(0, _MOST_LINES - len(lines) - 1) // _BRIEF_EACH]
        for process in told:
            lines += render_brief(process, width)
        if len(others) > len(told):
            lines.append(f"{len(others) - len(told)} others (-v shows them)")
    return lines


def _render_process(process: ProcessReport, *, verbose: bool, width: int) -> list[str]:
    if process.trace is None or verbose:
        return _render_cut(process, WHOLE, verbose=verbose, width=width)
    lines: list[str] = []
    for cuts in (SHORT, SHORTER, SHORTEST):
        lines = _render_cut(process, cuts, verbose=False, width=width)
        if len(lines) <= _LONG_LINES:
            break
    return lines


def _render_cut(process: ProcessReport, cuts: Cuts, *, verbose: bool, width: int) -> list[str]:
    gaps = list(process.gaps)

    def section(name: str, render: Callable[[], list[str]]) -> list[str]:
        with contained(name, gaps):
            return render()
        return [_NOT_READ]

    lines = []
    trace = process.trace
    if verbose or trace is not None:
        lines += [_heading(process, width)]
        lines += section(
            "what stands out",
            lambda: _findings(process.findings, cuts.advice, is_traced=trace is not None, verbose=verbose),
        )
        if trace is not None:
            from threadinfo.render.text.trace import render_before  # noqa: PLC0415 - a plain report needs none of it

            lines += render_before(process, trace, width, section, cuts)
        lines.append("")
    lines += [f"=== Memory Footprint for {process.name} (PID: {process.pid}) ==="]
    if process.parent_pid is not None:
        lines.append(_origin(process))
    lines += section("memory", lambda: _footprint(process.memory))
    lines += ["", "=== Thread Information ==="]
    lines += section("threads", lambda: _threads(process.threads, cuts.listed_threads, verbose=verbose))
    lines += ["", "=== Memory Distribution ==="]
    lines += section("memory distribution", lambda: _distribution(process))
    lines += ["", "=== File Descriptor Information ==="]
    lines += section("descriptors", lambda: _descriptors(process.descriptors, cuts.equal, verbose=verbose))
    lines += ["", "=== Resource Limits ===", *section("limits", lambda: [_limits(process)]), "", *_NOTE]
    if trace is not None:
        from threadinfo.render.text.trace import render_after  # noqa: PLC0415

        lines += render_after(trace, section, cuts)
    if gaps:
        lines += ["", "Not in this report:"]
        told = list(dict.fromkeys(format_gap(gap) for gap in gaps))
        for gap in told[: cuts.gaps]:
            lines += [f"  {gap}"] if trace is None else wrap(gap, "  ", "    ")
        if cuts.gaps is not None:
            lines += left_out(len(told) - cuts.gaps, "others")
    return lines


def _origin(process: ProcessReport) -> str:
    if process.is_older:
        return f"A child of process {process.parent_pid}, older than the trace"
    fork = "; it executed nothing: its name is its parent's" if process.is_fork else ""
    return f"Made by process {process.parent_pid}, and followed from its first instruction{fork}"


def _heading(process: ProcessReport, width: int) -> str:
    """With its command line, where that says more than the name."""
    from threadinfo.render.text.family import cut, format_command  # noqa: PLC0415 - a bare plain report has none

    head, command = f"=== What Stands Out in {process.name} (PID: {process.pid})", format_command(process)
    if command == format_text(process.name):
        return f"{head} ==="
    return f"{head}: {cut(command, max(20, width - len(head) - 6))} ==="


def _findings(findings: tuple[Finding, ...], advised: int | None, *, is_traced: bool, verbose: bool) -> list[str]:
    """A paragraph each for what, and what next; with -v for the threshold, too. Readable at 80 columns.

    `advised`: how many of them say what next; None: all.
    """
    if not findings:
        unknown = "" if is_traced else " Waits for a CPU and leaks are only seen by a trace."
        return [f"Nothing crosses a threshold.{unknown}"]
    lines = []
    for number, finding in enumerate(findings, 1):
        title = f"{number}. [{finding.severity}] {finding.words}."
        lines += wrap(title, "", "   ")
        threshold = [f"Threshold: {finding.rule}."] if verbose else []
        advice = [f"Next: {finding.advice}"] if advised is None or number <= advised else []
        for words in (*threshold, *advice):
            lines += wrap(words, "   ", "     ")
    if advised is not None and len(findings) > advised:
        lines.append("What to do about the others: -v")
    return lines


def format_gap(gap: Gap) -> str:
    """One line: section, cause, remedy."""
    return f"{gap.section}: {gap.cause}" + (f" ({gap.remedy})" if gap.remedy else "")


def _kilobytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes // 1024} kB"


def _footprint(memory: Memory) -> list[str]:
    in_use = None
    if memory.resident_bytes is not None:
        in_use = memory.resident_bytes + (memory.swap_bytes or 0)
    usage = "unknown" if memory.percent is None else f"{format_tenths(memory.percent)}%"
    return [
        f"Total Virtual Memory: {_kilobytes(memory.virtual_bytes)}",
        f"Memory In Use: {_kilobytes(in_use)} (RAM: {_kilobytes(memory.resident_bytes)}, "
        f"Swap: {_kilobytes(memory.swap_bytes)})",
        f"Memory Usage: {usage} of system RAM",
    ]


def format_tenths(percent: float) -> str:
    """One decimal place, cut off and not rounded, as ps(1) does."""
    return f"{math.floor(percent * 10) / 10:.1f}"


def format_runtime(seconds: float) -> str:
    """Hundredths of a second as bc(1) prints them: ``0``, ``.01``, ``1.00``."""
    hundredths = round(seconds * 100)
    if not hundredths:
        return "0"
    return f"{hundredths // 100 or ''}.{hundredths % 100:02}"


def _threads(threads: tuple[Thread, ...] | None, most: int | None, *, verbose: bool) -> list[str]:
    """`most`: how many are shown, those that ran longest; None: all."""
    if threads is None:
        return [_NOT_READ]
    name_column = 20 if verbose else 0
    lines = ["TID     CPU%   Stack Size  Runtime (s)   State" + f"{'':13}  Name".rstrip() * verbose, "-" * 45]
    shown = sorted(threads, key=lambda thread: -(thread.runtime_seconds or 0))[:most]
    for thread in sorted(shown, key=lambda thread: str(thread.tid)):  # as strings, as the script's glob sorts them
        cpu = "-" if thread.cpu_percent is None else format_tenths(thread.cpu_percent)
        stack = "" if thread.stack_bytes is None else _kilobytes(thread.stack_bytes)
        runtime = "-" if thread.runtime_seconds is None else format_runtime(thread.runtime_seconds)
        state = format_text(f"{thread.state}({thread.state_name})")
        line = f"{thread.tid:<7} {cpu:<6} {stack:<11} {runtime:<13} {state:<{name_column}}"
        if verbose:
            own = thread.thread_stack_bytes
            line += thread.name + (f" (own stack: {own // 1024} kB)" if own is not None else "")
        lines.append(line)
    return lines + left_out(len(threads) - len(shown), "other threads ran less")


def _distribution(process: ProcessReport) -> list[str]:
    memory = process.memory
    sizes = (("Rss:", memory.rss_bytes), ("Pss:", memory.pss_bytes), ("Swap:", memory.mapped_swap_bytes))
    if all(size is None for _, size in sizes):
        return [_NOT_READ] if _has_gap(process, "memory distribution") else []
    return [f"{label:<16}{size // 1024:8} kB" for label, size in sizes if size is not None]


def _has_gap(process: ProcessReport, section: str) -> bool:
    return any(gap.section == section for gap in process.gaps)


def _descriptors(descriptors: tuple[Descriptor, ...] | None, equal: int | None, *, verbose: bool) -> list[str]:
    """`equal`: from how many on those of one kind and description are told once; None: each is."""
    if descriptors is None:
        return [_NOT_READ]
    lines = [
        f"Count: {len(descriptors)} file descriptors",
        "",
        "Detailed FD List:",
        "FD     Type       Description",
        "-" * 32,
    ]
    alike: dict[tuple[str, str], list[int]] = {}
    for descriptor in descriptors:
        if descriptor.fd not in _STANDARD_STREAMS:
            alike.setdefault((descriptor.type, descriptor.description), []).append(descriptor.fd)
    for descriptor in descriptors:
        same = alike.get((descriptor.type, descriptor.description), [])
        is_folded = equal is not None and len(same) >= equal and descriptor.fd in same
        if is_folded and descriptor.fd != same[0]:
            continue
        kind = _COLUMNS.get(descriptor.type, "anon_inode")  # a saved report may be of another version
        words = descriptor.description
        if descriptor.fd in _STANDARD_STREAMS:
            words = _STANDARD_STREAMS[descriptor.fd] + words
            if descriptor.type in _STREAM_TYPES:
                kind = "stdio"
        if verbose and (extra := format_details(descriptor)):
            words += f" [{extra}]"
        lines.append(f"{descriptor.fd:<6} {kind:<10} {words}")
        if is_folded:
            more = f"{len(same) - 1} more like it: FD {format_numbers(same[1:])} (-v shows each)"
            lines += wrap(more, " " * 18, " " * 20)
    return lines


def _limits(process: ProcessReport) -> str:
    if process.limits is None:
        return _NOT_READ
    limit = process.limits.open_files
    soft, hard = ("unlimited" if value is None else str(value) for value in (limit.soft, limit.hard))
    return f"{'Max open files':<25} {soft:<20} {hard:<20} {'files':<10}"
