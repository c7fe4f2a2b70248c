"""The section of the text report on what happened to descriptors: opened, closed, failed, still open."""

from __future__ import annotations

from collections.abc import Mapping

from threadinfo.model import Descriptor, DescriptorTrace
from threadinfo.render.escape import format_text
from threadinfo.render.text.duration import format_duration, format_traced
from threadinfo.render.text.fold import Cuts

_LISTED = 8
_ROWS = 20


def render_churn(
    trace: DescriptorTrace, descriptors: tuple[Descriptor, ...] | None, duration_ns: int, cuts: Cuts
) -> list[str]:
    """The lines of the section, readable at 80 columns."""
    seconds = duration_ns / 1e9
    lines = [
        "",
        f"=== Descriptor Churn ({format_traced(duration_ns)} traced) ===",
        f"Opened: {trace.opened_count} ({_rate(trace.opened_count, seconds)}), "
        f"closed: {trace.closed_count} ({_rate(trace.closed_count, seconds)}), failed: {trace.failed_count}",
        f"Still open: {trace.still_open_count}, most at once: {trace.peak_open_count}",
    ]
    if trace.unseen_birth_count:
        lines.append(f"Closed without a birth seen: {trace.unseen_birth_count} (made by an ioctl or another process,")
        lines.append("  or several threads' calls on a number that were seen in another order)")
    lines += _counts("Opened as", trace.by_type)
    if cuts.is_whole:
        lines += _counts("Opened by", trace.by_syscall)
        lines += _counts("Closed by", trace.closed_by_syscall)
    if set(trace.closed_by) - {"close"}:
        lines += _counts("Closed how", trace.closed_by)
    marked = [(trace.close_on_exec_set_count, "set"), (trace.close_on_exec_cleared_count, "taken away")]
    if any(count for count, _ in marked):
        lines.append("Close-on-exec: " + ", ".join(f"{count} {word}" for count, word in marked if count))
    life = trace.lifetime_ns
    if life.count:
        lines.append(
            f"Lifetime: p50 {format_duration(life.p50)}, p90 {format_duration(life.p90)}, "
            f"p99 {format_duration(life.p99)}, max {format_duration(life.max)} (of {life.count})"
        )
    lines += _threads(trace, _LISTED if cuts.churning is None else cuts.churning)
    lines += [f"Failed: {failure.syscall} {failure.error} {failure.count}" for failure in trace.failures[:_LISTED]]
    if len(trace.failures) > _LISTED:
        lines.append(f"Failed otherwise: {sum(failure.count for failure in trace.failures[_LISTED:])}")
    lines += _counts("Nobody to accept", trace.empty_by_syscall) if trace.empty_by_syscall else []
    return lines + _born(descriptors, cuts)


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f}/s" if seconds else "-"


def _counts(title: str, counts: Mapping[str, int]) -> list[str]:
    """``Opened by: openat 1200, socket 7, 3 others 5``, broken at 80 columns."""
    if not counts:
        return []
    items = [f"{format_text(name)} {count}" for name, count in list(counts.items())[:_LISTED]]
    rest = list(counts.values())[_LISTED:]
    if rest:
        items.append(f"{len(rest)} others {sum(rest)}")
    lines, line = [], f"{title}: "
    for index, item in enumerate(items):
        piece = item + (", " if index + 1 < len(items) else "")
        if len(line) + len(piece.rstrip()) > 80:
            lines.append(line.rstrip())
            line = "  "
        line += piece
    return [*lines, line.rstrip()]


def _threads(trace: DescriptorTrace, most: int) -> list[str]:
    lines = [
        f"  {format_text(thread.name or '(ended)')} {thread.tid}: "
        f"{thread.opened_count} opened, {thread.closed_count} closed"
        for thread in trace.by_thread[:most]
    ]
    if rest := trace.by_thread[most:]:
        opened, closed = sum(one.opened_count for one in rest), sum(one.closed_count for one in rest)
        lines.append(f"  {len(rest)} other threads: {opened} opened, {closed} closed")
    return ["By thread:", *lines] if lines else []


def _born(descriptors: tuple[Descriptor, ...] | None, cuts: Cuts) -> list[str]:
    """Who made what is open now."""
    born = [(descriptor, descriptor.origin) for descriptor in descriptors or () if descriptor.origin]
    if not born:
        return []
    if not cuts.is_whole:
        return [f"Born during the trace and open: {len(born)} (-v shows who made them)"]
    lines = [
        f"  {descriptor.fd:<6} {origin.opened_at[11:26]} {origin.syscall} by "
        f"{format_text(origin.thread_name or '(ended)')} {origin.tid}: {format_text(descriptor.description)}"
        for descriptor, origin in born[:_ROWS]
    ]
    if len(born) > _ROWS:
        lines.append(f"  {len(born) - _ROWS} others")
    return ["Born during the trace and open:", *lines]
