"""The summary of a family that was followed, and each of it in a few lines where there is no room for more."""

from __future__ import annotations

from threadinfo.model import Family, FamilyCommand, Finding, ProcessReport
from threadinfo.render.escape import format_text
from threadinfo.render.text.duration import format_duration
from threadinfo.render.text.fold import format_numbers, left_out, wrap

_ROWS = 20
_COMMAND_COLUMNS = 32
_FORKED = " (a fork)"
_GRAVE = ("high", "medium")
_FINDINGS = 3


def render_family(family: Family, asked: list[ProcessReport], width: int, *, verbose: bool) -> list[str]:
    """The lines of the section, readable at 80 columns."""
    of = ", ".join(f"{format_text(one.name)} (PID: {one.pid})" for one in asked[:2])
    more = f" and {len(asked) - 2} others" if len(asked) > 2 else ""
    count = family.older_count + family.made_count
    lines = [
        f"=== The Family of {of}{more} ===",
        f"{count} {_noun(count)}: {family.older_count} older than the trace, {family.made_count} made during it; "
        f"{family.alive_count} alive at its end",
    ]
    if family.left_out_count:
        lines.append(f"{family.left_out_count} more were made and not followed: too many lived at once")
    if family.told_count < count:
        lines.append(f"{family.told_count} have a report of their own, the busiest; the others are added up here")
    if not family.commands:
        return lines
    lines += [
        f"{'Count':>6} {'Alive':>5} {'On CPU':>7} {'Queued':>7} {'Blocked':>7} {'Opened':>7} {'Failed':>6}  Command",
        "-" * (53 + len("Command")),
    ]
    shown = family.commands[: None if verbose else _ROWS]
    lines += [_row(one, max(_COMMAND_COLUMNS, width - 53)) for one in shown]
    others = sum(one.count for one in family.commands[len(shown) :])
    return lines + left_out(len(family.commands) - len(shown), f"other commands, of {others} processes")


def render_family_findings(processes: list[ProcessReport], width: int) -> list[str]:
    """What stands out in several of a family, or in one: a paragraph for each kind of finding, the gravest first."""
    found: dict[str, list[tuple[ProcessReport, Finding]]] = {}
    for process in processes:
        for finding in process.findings:
            if finding.severity in _GRAVE:
                found.setdefault(finding.kind, []).append((process, finding))
    if not found:
        return []
    ranked = sorted(found.values(), key=lambda all_: (_GRAVE.index(all_[0][1].severity), -len(all_)))
    lines = ["", "What stands out in it:"]
    for (process, finding), *others in ranked[:_FINDINGS]:
        alike = {one.pid: None for one, _ in others if one.pid != process.pid}
        numbers = format_numbers(alike)
        more = f"; so in {len(alike)} other {_noun(len(alike))}: {numbers}" if alike else ""
        lines += wrap(f"[{finding.severity}] {process.pid}: {finding.words}{more}", "  ", "    ", width)
    return lines + left_out(len(ranked) - _FINDINGS, "other kinds of findings")


def _noun(count: int) -> str:
    return "process" if count == 1 else "processes"


def _row(one: FamilyCommand, columns: int) -> str:
    times = " ".join(f"{format_duration(ns):>7}" for ns in (one.on_cpu_ns, one.run_queue_ns, one.blocked_ns))
    opened, failed = ("-" if count is None else str(count) for count in (one.opened_count, one.failed_count))
    fork = _FORKED if one.is_fork else ""
    command = format_text(one.command.strip() or one.executable or one.name)
    return (
        f"{one.count:6} {one.alive_count:5} {times} {opened:>7} {failed:>6}  {cut(command, columns - len(fork))}{fork}"
    )


def cut(text: str, columns: int) -> str:
    """What is longer ends in an ellipsis."""
    return text if len(text) <= columns else text[: max(1, columns - 3)] + "..."


def render_brief(process: ProcessReport, width: int) -> list[str]:
    """One of the family in few lines: what it ran, how long, and what stands out most."""
    lines = [cut(f"{process.pid} {format_command(process)}", width)]
    threads = [one.scheduling for one in process.threads or () if one.scheduling]
    words = []
    if process.trace is not None:
        threads += [one.scheduling for one in process.trace.ended_threads]
        if threads:
            on_cpu_ns, queued_ns = (sum(getattr(one, of) for one in threads) for of in ("on_cpu_ns", "run_queue_ns"))
            words.append(f"{format_duration(on_cpu_ns)} on CPU, {format_duration(queued_ns)} queued")
        if (churn := process.trace.descriptors) is not None:
            words.append(f"{churn.opened_count} opened, {churn.failed_count} failed")
    lines.append(f"  {'; '.join(words) or 'nothing was seen of it'}")
    if process.findings:
        first = process.findings[0]
        lines.append(cut(f"  [{first.severity}] {format_text(first.words)}", width))
    return lines


def format_command(process: ProcessReport) -> str:
    """Its command line as far as it is known, without the program's directory; otherwise its name."""
    first, *arguments = process.command_line or ("",)
    if first.startswith("/"):
        first = first.rpartition("/")[2]
    return format_text(" ".join([first, *arguments]).strip() or process.name)


def busy_ns(process: ProcessReport) -> int:
    """How long its threads ran and waited for a CPU."""
    every = [one.scheduling for one in process.threads or () if one.scheduling]
    every += [one.scheduling for one in process.trace.ended_threads] if process.trace else []
    return sum(one.on_cpu_ns + one.run_queue_ns for one in every)
