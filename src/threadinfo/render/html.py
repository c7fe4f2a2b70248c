"""The report as one self-contained page (`--format html`): no network, no data in the script, readable without it.

Every value that the template writes goes through `format_text` (visible escapes) and then through Jinja2's autoescape;
the style sheet and the script are the same in every page, and the page's own policy allows these two alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TypeVar

import jinja2
import msgspec
from markupsafe import Markup

from threadinfo.containment import contained
from threadinfo.model import (
    DescriptorTrace,
    Finding,
    Latency,
    LeakSuspect,
    ProcessReport,
    Report,
    Scheduling,
    SiteChurn,
    Trace,
)
from threadinfo.render import charts
from threadinfo.render.escape import Printable, format_text, printable
from threadinfo.render.flame import Row as TimeRow
from threadinfo.render.flame import flame, time_rows
from threadinfo.render.text.details import format_details
from threadinfo.render.text.fold import NOBODY
from threadinfo.render.text.sockets import format_socket_event, story_kind, story_numbers, tell_stories
from threadinfo.render.text.trace import confidence_lines
from threadinfo.socket_story import tell_event

T = TypeVar("T")
U = TypeVar("U")

_CHARTED_THREADS = 100
_LISTED = 40
_STORIES = 500


class _Row(msgspec.Struct, frozen=True):
    """A traced thread."""

    tid: int
    name: str
    has_ended: bool
    scheduling: Scheduling
    time: Markup
    waits: Markup


class _Delay(msgspec.Struct, frozen=True):
    """Who waited, and who held the CPU meanwhile."""

    waiter: str
    waiter_tid: int
    holder: str
    holder_tid: int | None
    other_pid: int | None
    """The holder's process, where it is another one or the waiter's is not known."""
    time_ns: int
    share_percent: float
    bar: Markup


class _Stack(msgspec.Struct, frozen=True):
    """A call stack that births share: written once, and pointed to from each."""

    number: int
    frames: tuple[str, ...]
    library: str | None


def render_html(report: Report) -> Printable:
    """The whole page, ending in a newline."""
    style, script = (_part(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_part),
        keep_trailing_newline=True,
    )
    environment.filters.update(
        duration=charts.format_duration,
        details=format_details,
        moment=_moment,
        mebibytes=_mebibytes,
        number=_finding_number,
        threshold=_finding_threshold,
        percent=lambda value: f"{value:.1f} %",
        count=lambda value: f"{value:,}",
        hexadecimal=hex,
        long_time=_long_time,
        told=tell_event,
        happened=format_socket_event,
        story_numbers=story_numbers,
        story_kind=story_kind,
    )
    page = environment.get_template("report.html.j2").render(
        report=report,
        processes=[_view(process) for process in report.processes],
        policy=policy,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
    )
    return printable(page.removesuffix("\n").split("\n"))


def _part(name: str) -> str:
    return (resources.files("threadinfo.render") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finalize(value: object) -> object:
    """Whatever the template writes: unknown is a dash, text shows what is not printable in it."""
    if value is None:
        return "\u2013"
    if isinstance(value, str) and not isinstance(value, Markup):
        return format_text(value)
    return value


def _view(process: ProcessReport) -> dict[str, object]:
    """What the template asks for of one process; `section` is around each part of it."""
    gaps = list(dict.fromkeys(process.gaps))  # the template tells of them last

    def part(name: str, make: Callable[[], T], otherwise: U) -> T | U:
        with contained(name, gaps):
            return make()
        return otherwise

    def section(name: str, caller: Callable[[], Markup]) -> Markup:
        missing = Markup("<p>{} is missing: see the end.</p>\n").format(name.capitalize())
        return part(name, caller, missing)

    trace = process.trace
    scheduled = _scheduled(process, trace)
    shown = scheduled[:_CHARTED_THREADS]
    no_rows: tuple[charts.TimeAxis | None, list[_Row]] = None, []
    axis, rows = part("scheduling", lambda: _rows(shown, trace), no_rows)
    churn = trace.descriptors if trace else None
    stories = part(
        "sockets of the trace", lambda: list(tell_stories(trace.sockets.events)) if trace and trace.sockets else [], []
    )
    no_delays: tuple[list[_Delay], int] = [], 0
    no_times: tuple[list[TimeRow], int] = [], 0
    times, time_count = part("where the time went", lambda: time_rows(process), no_times)
    delays, delay_count = part("scheduling", lambda: _delays(process.pid, scheduled), no_delays)
    latencies = [one[3].run_queue_latency_ns.p99 for one in scheduled]
    limit = process.limits.open_files if process.limits else None
    return {
        "section": section,
        "process": process,
        "trace": trace,
        "tables": trace.tables if trace else (),
        "churn": churn,
        "seconds": trace.duration_ns / 1e9 if trace else 0.0,
        "flame": part("where the time went", lambda: flame(process), None),
        "times": times,
        "time_count": time_count,
        "locks": trace.locks[:_LISTED] if trace else (),
        "rows": rows,
        "row_count": len(scheduled),
        "axis": charts.axis_labels(axis) if axis else None,
        "has_octaves": any(one[3].run_queue_latency_ns.octaves for one in shown),
        "by_wait": sorted(rows, key=lambda row: -(row.scheduling.run_queue_latency_ns.p99 or 0)),
        "worst_p99_ns": max((ns for ns in latencies if ns is not None), default=None),
        "delays": delays,
        "delay_count": delay_count,
        "wakers": part("scheduling", lambda: _wakers(scheduled), []),
        "suspects": part("leaks", lambda: _suspects(churn), []),
        "sites": part("call sites", lambda: _sites(churn), []),
        "stacks": part("call stacks", lambda: _stacks(process), {}),
        "stories": stories[:_STORIES],
        "story_count": len(stories),
        "sockets": [one for one in process.descriptors or () if one.socket is not None],
        "has_origins": any(one.origin for one in process.descriptors or ()),
        "limit": limit,
        "limit_bar": _limit_bar(process, limit.soft if limit else None),
        "churn_chart": part("descriptors over time", lambda: _churn_chart(process, trace), None),
        "lifetimes": part("lifetimes", lambda: _lifetimes(churn.lifetime_ns) if churn else None, None),
        "churn_counts": part("descriptors over time", lambda: _churn_counts(churn) if churn else [], []),
        "confidence": part("confidence", lambda: confidence_lines(trace.confidence) if trace else [], []),
        "gaps": gaps,
    }


def _rows(
    shown: Sequence[tuple[int, str, bool, Scheduling]], trace: Trace | None
) -> tuple[charts.TimeAxis | None, list[_Row]]:
    axis = charts.time_axis(one[3].run_queue_latency_ns for one in shown)
    most = max((count for one in shown for count in (one[3].run_queue_latency_ns.octaves or {}).values()), default=1)
    duration = trace.duration_ns if trace else 0
    return axis, [
        _Row(
            tid,
            name,
            has_ended,
            scheduling,
            _time_bar(scheduling, duration),
            charts.waits(scheduling.run_queue_latency_ns, axis, most) if axis else Markup(""),
        )
        for tid, name, has_ended, scheduling in shown
    ]


def _scheduled(process: ProcessReport, trace: Trace | None) -> list[tuple[int, str, bool, Scheduling]]:
    """Every traced thread, those first that used or wanted a CPU most."""
    rows = [(one.tid, one.name, False, one.scheduling) for one in process.threads or () if one.scheduling]
    rows += [(one.tid, one.name, True, one.scheduling) for one in (trace.ended_threads if trace else ())]
    return sorted(rows, key=lambda row: -(row[3].on_cpu_ns + row[3].run_queue_ns))


def _time_bar(scheduling: Scheduling, duration_ns: int) -> Markup:
    parts = (
        ("running", "on CPU", scheduling.on_cpu_ns),
        ("queued", "waiting for a CPU", scheduling.run_queue_ns),
        ("stuck", "uninterruptible", scheduling.uninterruptible_ns),
        ("sleeping", "sleeping", scheduling.sleeping_ns),
    )
    return charts.bar(
        charts.Part(kind, ns / duration_ns, f"{words} {charts.format_duration(ns)}, {100 * ns / duration_ns:.1f} %")
        for kind, words, ns in parts
        if duration_ns
    )


def _delays(pid: int, rows: Iterable[tuple[int, str, bool, Scheduling]]) -> tuple[list[_Delay], int]:
    """The longest, and how many there are."""
    found: list[tuple[int, int, str, int, str, int | None, int | None]] = []
    for tid, name, _, scheduling in rows:
        total = sum(one.time_ns for one in scheduling.delayed_by) + scheduling.delayed_by_unknown_ns
        holders = [(one.time_ns, one.name, one.tid, one.pid) for one in scheduling.delayed_by]
        unknown = (scheduling.delayed_by_unknown_ns, NOBODY, None, pid)
        found += [(ns, total, name, tid, *who) for ns, *who in (*holders, unknown) if ns]  # type: ignore[misc]
    found.sort(key=lambda one: (one[5] is None, -one[0]))  # nobody comes last
    longest = max((one[0] for one in found), default=1)
    return [
        _Delay(
            name,
            tid,
            holder,
            holder_tid,
            None if other in {pid, None, holder_tid} else other,
            ns,
            100 * ns / total,
            charts.bar([charts.Part("queued", ns / longest)]),
        )
        for ns, total, name, tid, holder, holder_tid, other in found[:_LISTED]
    ], len(found)


def _wakers(rows: Iterable[tuple[int, str, bool, Scheduling]]) -> list[tuple[str, int, str, int | None, int]]:
    """Who was woken, by whom, how often: the most frequent."""
    found = [
        (name, tid, waker.name, waker.tid, waker.count)
        for tid, name, _, scheduling in rows
        for waker in scheduling.woken_by
    ]
    return sorted(found, key=lambda one: -one[4])[:_LISTED]


def _stacks(process: ProcessReport) -> dict[tuple[str, ...], _Stack]:
    """The stacks of births, each once: a thousand descriptors come from a few places."""
    found: dict[tuple[str, ...], _Stack] = {}
    origins = [one.origin for one in process.descriptors or () if one.origin is not None]
    sockets = process.trace.sockets if process.trace else None
    births = [story[0] for story in (tell_stories(sockets.events) if sockets else [])][:_STORIES]
    for stack, library in (*((one.stack, one.library) for one in origins), *((one.stack, None) for one in births)):
        if stack and stack not in found:
            found[stack] = _Stack(len(found) + 1, stack, library)
    return found


def _suspects(churn: DescriptorTrace | None) -> list[tuple[LeakSuspect, Markup]]:
    """Each with a bar: what stayed, of what it opened."""
    suspects = churn.leak_suspects if churn else ()
    return [
        (one, charts.bar([charts.Part("stuck", one.surviving_count / max(one.opened_count, one.surviving_count, 1))]))
        for one in suspects
    ]


def _sites(churn: DescriptorTrace | None) -> list[tuple[SiteChurn, Markup]]:
    """Each with a bar on one scale: of what it opened, what was closed and what is open."""
    sites = churn.by_call_site if churn else ()
    most = max((one.opened_count for one in sites), default=0) or 1
    return [
        (
            one,
            charts.bar(
                [
                    charts.Part("sleeping", one.closed_count / most, f"{one.closed_count:,} closed"),
                    charts.Part("running", one.still_open_count / most, f"{one.still_open_count:,} still open"),
                ]
            ),
        )
        for one in sites
    ]


def _limit_bar(process: ProcessReport, soft: int | None) -> Markup:
    if not soft or process.descriptors is None:
        return Markup("")
    return charts.bar([charts.Part("running", len(process.descriptors) / soft)])


def _churn_chart(process: ProcessReport, trace: Trace | None) -> Markup | None:
    if trace is None or trace.descriptors is None:
        return None
    churn = trace.descriptors
    open_count = len(process.descriptors or ())
    if trace.ended_by != "target":  # otherwise the list is from before the trace
        open_count += sum(churn.closed_per_interval) - sum(churn.opened_per_interval)
    return charts.churn(churn, max(open_count, 0), trace.duration_ns / 1e9)


def _lifetimes(latency: Latency) -> dict[str, object] | None:
    axis = charts.time_axis([latency])
    if axis is None:
        return None
    chart = charts.columns(latency.octaves, axis) if latency.octaves else charts.waits(latency, axis, 1)
    return {"axis": charts.axis_labels(axis), "chart": chart, "latency": latency}


def _churn_counts(churn: DescriptorTrace) -> list[tuple[str, list[tuple[str, int, Markup]]]]:
    """Titled lists of counts, each with its bars."""
    lists: tuple[tuple[str, str, Mapping[str, int]], ...] = (
        ("Opened, by type", "born", churn.by_type),
        ("Opened, by call", "born", churn.by_syscall),
        ("Closed, by call", "died", churn.closed_by_syscall),
        ("Failed", "stuck", {f"{one.syscall} {one.error}": one.count for one in churn.failures}),
    )
    return [
        (title, [(name, count, charts.bar([charts.Part(kind, count / max(counts.values()))])) for name, count in
                 list(counts.items())[:_LISTED] if max(counts.values())])
        for title, kind, counts in lists
        if counts
    ]  # fmt: skip


def _moment(time: str | None) -> str | None:
    """``2026-11-23 21:39:32 UTC``, without what is smaller than a second."""
    if time is None:
        return None
    return f"{time[:10]} {time[11:19]} UTC" if len(time) >= 20 and time[10] == "T" else time


def _mebibytes(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else f"{size_bytes / (1 << 20):,.1f} MiB"


def _amount(value: float, unit: str) -> str:
    if unit == "percent":
        return f"{value:.0f} %"
    if unit == "ns":
        return charts.format_duration(value)
    return f"{value / (1 << 20):,.1f} MiB" if unit == "bytes" else f"{value:,.0f}"


def _long_time(seconds: float | None) -> str | None:
    """``90 s``, ``12 min``, ``5.5 h``, ``3 days``."""
    if seconds is None:
        return None
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.0f} s"


def _finding_number(finding: Finding) -> str:
    return _amount(finding.value, finding.unit)


def _finding_threshold(finding: Finding) -> str:
    return _amount(finding.threshold, finding.unit)
