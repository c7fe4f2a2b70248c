"""The head of the view: who the process is, its CPU, memory and descriptors with their trends, and what stands out."""

from __future__ import annotations

from rich.style import Style

from threadinfo.render.escape import format_text
from threadinfo.snapshot import Snapshot
from threadinfo.top.marks import bar, format_age, format_bytes, format_rate, sparkline, trend

HEIGHT = 5

StyledText = tuple[str, Style]

_PLAIN = Style()
_BOLD = Style(bold=True)
_WARNING = Style(color="yellow", bold=True)
_ALARM = Style(color="red", bold=True)
_GOOD = Style(color="green")
_SUREST = ("high", "medium", "low")
_LEAST_NAME = 8  # columns
_NEAR_LIMIT, _AT_LIMIT = 0.8, 0.95


def summary_lines(snapshot: Snapshot, interval_seconds: float, width: int, *, is_paused: bool) -> list[StyledText]:
    """`HEIGHT` lines of text with their styles; the text is escaped, and may be longer than `width`."""
    graph = max(8, min(40, width // 5))
    return [
        _identity(snapshot, interval_seconds, is_paused=is_paused),
        (_load(snapshot, graph), _PLAIN),
        _descriptors(snapshot, width, graph),
        (_churn(snapshot, graph), _PLAIN),
        _outstanding(snapshot, width),
    ]


def _identity(snapshot: Snapshot, interval_seconds: float, *, is_paused: bool) -> StyledText:
    process = snapshot.process
    words = [f"{format_text(process.name[:40])}  PID {process.pid}"]
    if process.user is not None:
        words.append(f"user {format_text(process.user)}")
    words.append(f"{len(process.threads or ())} threads")
    words.append({"on": "traced", "starting": "starting to trace"}.get(snapshot.tracing, "not traced"))
    words.append(f"every {interval_seconds:g} s")
    if snapshot.has_ended:
        return f"ENDED  {'  '.join(words)}", _ALARM
    if is_paused:
        return f"PAUSED  {'  '.join(words)}", _WARNING
    return "  ".join(words), _BOLD


def _load(snapshot: Snapshot, graph: int) -> str:
    memory, trends = snapshot.process.memory, snapshot.trends
    cpu = "-" if snapshot.cpu_percent is None else f"{snapshot.cpu_percent:.1f}%"
    words = f"CPU {cpu:>7} {sparkline(trends.cpu_percent, graph, highest=10.0)}  "
    words += f"RSS {format_bytes(memory.resident_bytes)} {trend(trends.resident_bytes, graph)}"
    if len(trends.resident_bytes) > 1:
        change = trends.resident_bytes[-1] - trends.resident_bytes[0]
        words += f" {'+' if change >= 0 else '-'}{format_bytes(abs(change))}"
    if memory.swap_bytes:
        words += f"  swap {format_bytes(memory.swap_bytes)}"
    return words


def _descriptors(snapshot: Snapshot, width: int, graph: int) -> StyledText:
    process = snapshot.process
    if process.descriptors is None:
        return "FDs not readable for this user", _WARNING
    count = len(process.descriptors)
    limit = process.limits.open_files.soft if process.limits else None
    words = f"FDs {count:>7} {trend(snapshot.trends.descriptor_count, graph)}  "
    if limit is None:
        return f"{words}no limit known", _PLAIN
    share = count / limit if limit else 1.0
    words += f"{bar(share, max(8, min(40, width - len(words) - 24)))} {100 * share:.1f}% of {limit}"
    return words, _ALARM if share >= _AT_LIMIT else _WARNING if share >= _NEAR_LIMIT else _PLAIN


def _churn(snapshot: Snapshot, graph: int) -> str:
    churn, trends = snapshot.churn, snapshot.trends
    if churn.opened_count is None or churn.closed_count is None:
        return "Churn  not known: the descriptors may not be read"
    seconds = snapshot.interval_ns / 1e9
    opened = format_rate(churn.opened_count / seconds) if seconds else "-"
    closed = format_rate(churn.closed_count / seconds) if seconds else "-"
    words = f"Churn  +{opened}/s {sparkline(trends.opened_per_second, graph)}  -{closed}/s"
    if churn.failed_count is not None and seconds:
        words += f"  failed {format_rate(churn.failed_count / seconds)}/s"
    else:
        words += "  (what lives shorter than a refresh is not seen)"
    return words


def _outstanding(snapshot: Snapshot, width: int) -> StyledText:
    """What ended it, then what is missing, then what stands out."""
    if snapshot.has_ended or snapshot.tracing == "unavailable":
        return format_text(snapshot.message or "the process has ended"), _ALARM
    if snapshot.message:
        return format_text(snapshot.message), _WARNING
    lost = snapshot.process.trace.confidence.lost_count if snapshot.process.trace else 0
    if lost:
        return f"{lost} records were lost: events are missing", _WARNING
    if snapshot.process.trace and snapshot.process.trace.confidence.scheduling_matches_kernel is False:
        return "times of some threads disagree with the kernel's own: not to be relied on", _WARNING
    if findings := snapshot.process.findings:
        first = findings[0]
        more = f"  (f: {len(findings) - 1} more)" if len(findings) > 1 else "  (f: advice)"
        room = width - len(first.severity) - len(more) - 2
        words = format_text(first.words)
        if len(words) > room and first.kind == "descriptor_leak" and (short := _short_leak(snapshot, room)):
            words = short
        if len(words) > room > 1:
            words = f"{words[: room - 1]}…"
        return f"{first.severity}: {words}{more}", _ALARM if first.severity == "high" else _WARNING
    return "nothing stands out", _GOOD


def _short_leak(snapshot: Snapshot, room: int) -> str | None:
    """Of the worst suspected leak what is asked for first: how fast, and how long until the limit."""
    traced = snapshot.process.trace.descriptors if snapshot.process.trace else None
    if traced is None or not traced.leak_suspects:
        return None
    worst = min(traced.leak_suspects, key=lambda one: _SUREST.index(one.confidence))  # as the finding has it
    left = worst.seconds_to_limit if traced.seconds_to_limit is None else traced.seconds_to_limit
    words = f"leak of {format_rate(worst.growth_per_minute)} a minute"
    if left is not None:
        words += f", the limit in {format_age(left)}"
    what = format_text(worst.path or worst.kind or "descriptors")
    room -= len(words) + 2
    if room < _LEAST_NAME:
        return words
    return f"{words}: {what if len(what) <= room else '…' + what[len(what) - room + 1 :]}"
