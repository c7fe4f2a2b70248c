"""The sections that a trace adds to the text report: readable at 80 columns, names as wide as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from threadinfo.model import Confidence, ProcessReport, Scheduling, Trace
from threadinfo.render.escape import format_text
from threadinfo.render.text.churn import render_churn
from threadinfo.render.text.cpu import render_cpu
from threadinfo.render.text.duration import format_duration, format_traced
from threadinfo.render.text.family import cut
from threadinfo.render.text.fold import NOBODY, Cuts, left_out, wrap
from threadinfo.render.text.sites import render_leaks, render_sites
from threadinfo.render.text.sockets import render_sockets
from threadinfo.render.text.table import render_table
from threadinfo.render.text.waits import render_waits

_NAME_COLUMNS = 15
_ENDED_NAMES = 5
_COMMAND_COLUMNS = 48
_WIDE_NAME_COLUMNS = 24
_DIFFERENCES = 20
_ENDED_ROWS = 20
_ENDED = "*"
_WHAT = {
    "on_cpu_ns": "on CPU",
    "run_queue_ns": "queued",
    "voluntary_switch_count": "voluntary switches",
    "involuntary_switch_count": "involuntary switches",
}


Section = Callable[[str, Callable[[], list[str]]], list[str]]
"""Gives the lines of a section of this name, or that it is missing, for a fault of ours."""


def render_before(process: ProcessReport, trace: Trace, width: int, section: Section, cuts: Cuts) -> list[str]:
    """What comes before the listing: where the time went, what leaks, what was opened and closed."""
    churn = trace.descriptors
    waits = section("where the time went", lambda: render_waits(process, trace, width, cuts))
    lines = ["", *waits] if waits else []
    cpu = section("where CPU time went", lambda: render_cpu(process, trace, width, cuts))
    lines += ["", *cpu] if cpu else []
    lines += section("scheduling", lambda: _scheduling(process, trace, width, cuts))
    if churn is not None:
        lines += section("leaks", lambda: render_leaks(churn, cuts))
        lines += section("descriptors", lambda: render_churn(churn, process.descriptors, trace.duration_ns, cuts))
        lines += section("call sites", lambda: render_sites(churn, cuts))
    return lines


def render_after(trace: Trace, section: Section, cuts: Cuts) -> list[str]:
    """What comes after the listing: the stories of sockets, and how far all of it can be trusted."""
    sockets = trace.sockets
    lines = []
    if sockets is not None:
        lines += section("sockets", lambda: render_sockets(sockets, cuts))
    for table in trace.tables:
        lines += section(table.title.lower(), partial(render_table, table))
    lines += ["", "=== Trace Confidence ===", *section("confidence", lambda: confidence_lines(trace.confidence))]
    return lines


def _scheduling(process: ProcessReport, trace: Trace, width: int, cuts: Cuts) -> list[str]:
    rows = [(thread.tid, thread.name, thread.scheduling) for thread in process.threads or () if thread.scheduling]
    busiest = sorted(trace.ended_threads, key=lambda thread: -thread.scheduling.on_cpu_ns)[:_ENDED_ROWS]
    name_columns = _NAME_COLUMNS if width < 100 else _WIDE_NAME_COLUMNS
    ended = [(thread.tid, thread.name, thread.scheduling) for thread in busiest]
    why = {"interrupt": ", interrupted", "target": ", until the process ended"}.get(trace.ended_by, "")
    everyone = rows + ended
    shown = _busiest(everyone, cuts.threads)
    lines = []
    if everyone:
        lines = [
            "",
            f"=== Scheduling ({format_traced(trace.duration_ns)} traced{why}) ===",
            f"{'TID':7} {'Name':{name_columns}} {'On CPU':>7} {'Queued':>7} {'Blocked':>7} {'Switches':>8} "
            f"{'p50':>7} {'p99':>7} {'max':>7}",
            "-" * (64 + name_columns),
        ]
    lines += [_row(row, trace.duration_ns, name_columns, has_ended=row in ended) for row in shown]
    others = left_out(len(everyone) - len(shown), "other threads ran and waited less")
    if any(row in ended for row in shown):
        lines.append("; ".join(["* ended during the trace", *(line.lstrip() for line in others)]))
    else:
        lines += others
    if len(trace.ended_threads) > len(ended):
        lines.append(f"{len(trace.ended_threads) - len(ended)} other threads ended; the JSON report has each of them")
    for one in trace.ended_threads_by_name[: _ENDED_ROWS if cuts.is_whole else _ENDED_NAMES]:
        times = f"{format_duration(one.on_cpu_ns)} on CPU, {format_duration(one.run_queue_ns)} queued"
        lines.append(f"{format_text(one.name)}: {one.count} more of this name ended; {times}")
    lines += _relations("Who held the CPU while they waited:", process.pid, everyone, _delays, width, cuts)
    if cuts.is_whole or all(thread.waits is None for thread in process.threads or ()):  # or who ended the waits is told
        title = "Who woke them (the share of the time blocked, and how often):"
        lines += _relations(title, process.pid, everyone, _wakers, width, cuts)
    return lines


_Row = tuple[int, str, Scheduling]


def _busiest(rows: Sequence[_Row], most: int | None) -> list[_Row]:
    """Those that ran or waited for a CPU most, in the order that they had."""
    busy = sorted(rows, key=lambda row: -(row[2].on_cpu_ns + row[2].run_queue_ns))[:most]
    return [row for row in rows if row in busy] if most is not None else list(rows)


def _row(row: _Row, duration_ns: int, name_columns: int, *, has_ended: bool) -> str:
    tid, name, scheduling = row
    name = f"{format_text(name)[: name_columns - has_ended]}{_ENDED * has_ended}"
    shares = " ".join(
        f"{100 * ns / duration_ns if duration_ns else 0:6.1f}%"
        for ns in (scheduling.on_cpu_ns, scheduling.run_queue_ns, scheduling.blocked_ns)
    )
    latency = scheduling.run_queue_latency_ns
    switches = scheduling.voluntary_switch_count + scheduling.involuntary_switch_count
    waits = " ".join(f"{format_duration(ns):>7}" for ns in (latency.p50, latency.p99, latency.max))
    return f"{tid:<7} {name:{name_columns}} {shares} {switches:8} {waits}"


def _relations(
    title: str,
    pid: int,
    rows: Iterable[_Row],
    describe: Callable[[Scheduling, int, int], tuple[int, str]],
    width: int,
    cuts: Cuts,
) -> list[str]:
    """Who did it to whom: those it happened to most, where not all are shown."""
    every = ((f"{name} {tid}", *describe(scheduling, pid, cuts.partners)) for tid, name, scheduling in rows)
    told = [(amount, f"{who}: {words}") for who, amount, words in every if words]
    if cuts.relations is not None:
        told.sort(key=lambda one: -one[0])
    shown = told[: cuts.relations]
    lines = [line for _, words in shown for line in wrap(words, "  ", "    ", width)]
    return ["", title, *lines, *left_out(len(told) - len(shown), "other threads")] if lines else []


def _shares(partners: Sequence[tuple[str, int]], total: int, most: int) -> list[str]:
    """``hog 999 60.0 %``, and how many others there are."""
    words = [f"{who} {100 * amount / total:.1f} %" for who, amount in partners[:most]]
    return words + ([f"{len(partners) - most} others"] if len(partners) > most else [])


def _who(name: str, pid: int | None, tid: int | None, own: int, command: str | None = None) -> str:
    """``python3 999 (python3 /srv/hog.py)``, where a command is known that says more than the name."""
    if tid is None:
        return name
    about = f"process {pid}" if pid not in {None, tid, own} else ""
    if command is not None and command != name:
        about = f"{about}: {cut(command, _COMMAND_COLUMNS)}" if about else cut(command, _COMMAND_COLUMNS)
    return f"{name} {tid}" + (f" ({about})" if about else "")


def _delays(scheduling: Scheduling, own: int, most: int) -> tuple[int, str]:
    """The time, and ``1.20s of waiting: hog 999 98.0 %, nobody or unknown 2.0 %``."""
    total = sum(holder.time_ns for holder in scheduling.delayed_by) + scheduling.delayed_by_unknown_ns
    if not total or not scheduling.delayed_by:
        return total, ""
    holders = [(_who(one.name, one.pid, one.tid, own, one.command), one.time_ns) for one in scheduling.delayed_by]
    parts = _shares(holders, total, most)
    if scheduling.delayed_by_unknown_ns * 200 > total:
        parts.append(f"{NOBODY} {100 * scheduling.delayed_by_unknown_ns / total:.1f} %")
    return total, f"{format_duration(total)} of waiting: " + ", ".join(parts)


def _wakers(scheduling: Scheduling, own: int, most: int) -> tuple[int, str]:
    """How often, and ``1000 wake-ups after 5.00s blocked: main 1230 60.0 % (400), interrupt 40.0 % (600)``."""
    total, blocked_ns = (sum(getattr(waker, field) for waker in scheduling.woken_by) for field in ("count", "time_ns"))
    if not total:
        return 0, ""
    if not blocked_ns:  # saved by an earlier version
        wakers = [(_who(one.name, one.pid, one.tid, own), one.count) for one in scheduling.woken_by]
        return total, f"{total} wake-ups: " + ", ".join(_shares(wakers, total, most))
    parts = [
        f"{_who(one.name, one.pid, one.tid, own)} {100 * one.time_ns / blocked_ns:.1f} % ({one.count})"
        for one in scheduling.woken_by[:most]
    ]
    if len(scheduling.woken_by) > most:
        parts.append(f"{len(scheduling.woken_by) - most} others")
    return total, f"{total} wake-ups after {format_duration(blocked_ns)} blocked: " + ", ".join(parts)


def confidence_lines(confidence: Confidence) -> list[str]:
    """What was seen, lost and left out, what it cost, and whether the ledger of descriptors proved right."""
    missed = "unknown" if confidence.missed_count is None else str(confidence.missed_count)
    cost = confidence.program_ns_per_event
    lines = [
        f"{confidence.seen_count} events seen, {confidence.lost_count} lost, {missed} missed, "
        f"{confidence.map_full_count} without room in a map",
        f"Cost: {'unknown' if cost is None else f'{cost:.0f} ns'} an event in the kernel, "
        f"{confidence.tool_cpu_seconds:.2f} s of CPU for threadinfo itself",
    ]
    if confidence.omitted_line_count:
        lines.append(f"{confidence.omitted_line_count} lines left out: the reader was slow")
    if confidence.unreadable_count:
        lines.append(f"{confidence.unreadable_count} paths or messages could not be read, or not whole")
    if confidence.undecoded_count:
        lines.append(f"{confidence.undecoded_count} 32-bit calls were not decoded")
    return lines + _kernel_accounts(confidence) + _ledger(confidence)


def _kernel_accounts(confidence: Confidence) -> list[str]:
    if confidence.scheduling_matches_kernel is None and not confidence.scheduling_differences:
        return []
    rest = confidence.scheduling_not_compared_count
    others = f"; {rest} {'was' if rest == 1 else 'were'} not compared" if rest else ""
    count = confidence.scheduling_compared_count
    threads = f"{count} {'thread' if count == 1 else 'threads'}"
    if confidence.scheduling_matches_kernel:
        return wrap(f"Scheduling: agrees with the kernel's own accounts of {threads}{others}", "", "  ")
    differences = confidence.scheduling_differences
    doubtful = len({difference.tid for difference in differences if difference.tid is not None})
    lines = [f"Scheduling: disagrees with the kernel's own accounts on {doubtful} of {threads}{others}"]
    for difference in differences[:_DIFFERENCES]:
        ours, kernel = (
            format_duration(value) if difference.what.endswith("_ns") else str(value)
            for value in (difference.ours, difference.kernel)
        )
        what = _WHAT[difference.what]
        if difference.tid is None:
            lines.append(f"  all together: {ours} {what}, but the CPUs had {kernel}")
        else:
            lines.append(f"  {difference.tid}: {ours} {what} here, {kernel} for the kernel")
    if len(differences) > _DIFFERENCES:
        lines.append(f"  {len(differences) - _DIFFERENCES} others")
    return lines


def _ledger(confidence: Confidence) -> list[str]:
    if confidence.ledger_matches_proc is None:
        return []
    undecided = confidence.ledger_undecided_count
    moving = f"; {undecided} moved while /proc was read" if undecided else ""
    if confidence.ledger_matches_proc:
        return [f"Ledger of descriptors: agrees with /proc{moving}"]
    lines = [f"Ledger of descriptors: disagrees with /proc on {len(confidence.ledger_differences)}{moving}"]
    for difference in confidence.ledger_differences[:_DIFFERENCES]:
        target = f" {format_text(difference.target)}" if difference.target else ""
        lines.append(
            f"  {difference.fd}{target}: {difference.ledger} in the ledger, {difference.proc} in /proc: "
            f"{difference.reason}"
        )
    if len(confidence.ledger_differences) > _DIFFERENCES:
        lines.append(f"  {len(confidence.ledger_differences) - _DIFFERENCES} others")
    return lines
