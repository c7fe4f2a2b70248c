"""The sections of the text report on call sites: who opens most, who is suspected of a leak, who fills the table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from threadinfo.model import DescriptorTrace, LeakSuspect, SiteChurn, StackCounts
from threadinfo.render.escape import format_text
from threadinfo.render.text.duration import format_duration
from threadinfo.render.text.fold import Cuts, format_numbers, left_out

_SITES, _SUSPECTS, _PATHS, _THREADS = 8, 5, 8, 4
_COLUMNS = 80
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def render_leaks(trace: DescriptorTrace, cuts: Cuts) -> list[str]:
    """What leaks, and who is out of descriptors; readable at 80 columns."""
    return [*_limit(trace, cuts.frames), *_suspects(trace, cuts)]


def render_sites(trace: DescriptorTrace, cuts: Cuts) -> list[str]:
    """What was opened most, and where; readable at 80 columns."""
    return [*_paths(trace, cuts), *_sites(trace.by_call_site, trace.stacks, cuts)]


def _paths(trace: DescriptorTrace, cuts: Cuts) -> list[str]:
    every = trace.by_path[:_PATHS]
    most = every if cuts.paths is None else [one for one in every if one.opened_count > 1][: cuts.paths]
    lines = [f"  {one.opened_count:>8} {format_text(one.path)}" for one in most]
    lines += left_out(len(every) - len(most), "other paths") if most else []
    if trace.by_path_omitted_count:
        lines.append(f"  {trace.by_path_omitted_count:>8} of paths that came after 16,384 others")
    return ["", "Opened most:", *lines] if lines else []


def _limit(trace: DescriptorTrace, frames: int) -> list[str]:
    """EMFILE and ENFILE in plain words."""
    if not trace.limit_failures:
        return []
    lines = ["", "=== Out of Descriptors ==="]
    for error, words in (
        ("EMFILE", "because the process has as many open as its limit allows"),
        ("ENFILE", "because the whole machine has as many open as fs.file-max allows"),
    ):
        failures = [failure for failure in trace.limit_failures if failure.error == error]
        if failures:
            lines += _wrap(f"{sum(failure.count for failure in failures)} calls failed ({error}) {words}:", "")
            lines += [
                f"  {format_text(failure.thread_name or '(ended)')} {failure.tid}: {failure.count}"
                for failure in failures[:_THREADS]
            ]
            if len(failures) > _THREADS:
                lines.append(f"  {len(failures) - _THREADS} other threads")
    failed = [(site.limit_failed_count, site.stack) for site in trace.by_call_site]
    held = [(site.still_open_count, site.stack) for site in trace.by_call_site]
    for title, sites in (
        ("They failed at:", failed),
        ("Of what was opened during the trace, the table is held by:", held),
    ):
        most = sorted((one for one in sites if one[0]), key=lambda one: -one[0])[:_THREADS]
        lines += [title] if most else []
        for count, stack in most:
            lines += [f"  {count:>8} {_first(stack)}", *_callers(stack, frames, 11)]
    return lines


def _suspects(trace: DescriptorTrace, cuts: Cuts) -> list[str]:
    if not trace.leak_suspects:
        return []
    lines = ["", "=== Leak Suspects ==="]
    shown = trace.leak_suspects[: _SUSPECTS if cuts.suspects is None else cuts.suspects]
    for suspect in shown:
        kinds = f"{suspect.kind or 'descriptor'}: " if suspect.path else ""
        lines += _wrap(f"{kinds}{suspect.path or suspect.kind or 'descriptors'}", "")
        lines += _wrap(_growth(suspect), "  ")
        opened = [f"{one.name or '(ended)'} {one.tid} ({one.surviving_count})" for one in suspect.threads[:_THREADS]]
        others = len(suspect.threads) - len(opened)
        if opened:
            lines += _wrap(f"opened by thread {', '.join(opened)}" + (f" and {others} others" if others else ""), "  ")
        if suspect.fds:
            lines += _wrap(f"open: FD {format_numbers(suspect.fds)}", "  ")
        lines += [f"  at {_first(suspect.stack)}", *_callers(suspect.stack, cuts.frames, 2)]
    if len(trace.leak_suspects) > len(shown):
        lines.append(f"{len(trace.leak_suspects) - len(shown)} other suspects; the JSON report has them all")
    if trace.seconds_to_limit is not None and len(trace.leak_suspects) > 1:
        lines.append(f"All of them together reach the limit in {format_long(trace.seconds_to_limit)}.")
    return lines


def _growth(suspect: LeakSuspect) -> str:
    words = (
        f"{suspect.surviving_count} of {suspect.opened_count} opened here stay open: "
        f"{suspect.growth_per_minute:.1f} more a minute"
    )
    if suspect.seconds_to_limit is not None:
        words += f", the limit in {format_long(suspect.seconds_to_limit)}"
    return (
        f"{words} (confidence {suspect.confidence}: watched for {format_long(suspect.watched_ns / 1e9)}, "
        f"steadiness {suspect.steadiness:.2f} of 1)"
    )


def _sites(sites: Sequence[SiteChurn], stacks: StackCounts | None, cuts: Cuts) -> list[str]:
    known = [site for site in sites if site.stack]
    if stacks is None or not sites:
        return []
    born = stacks.attributed_count + stacks.unattributed_count
    share = f"{100 * stacks.attributed_count / born:.1f} % of {born} births attributed" if born else "no births"
    lines = ["", "=== Call Sites ===", *_wrap(f"{stacks.site_count} sites, {share}", "")]
    shown = known[: _SITES if cuts.sites is None else cuts.sites]
    for site in shown:
        types = ", ".join(f"{name} {count}" for name, count in list(site.by_type.items())[:3])
        life = f", lifetime p50 {format_duration(site.lifetime_ns.p50)}" if site.lifetime_ns.count else ""
        lines += [
            *textwrap.wrap(
                f"{site.opened_count:>8} {_first(site.stack)}",
                _COLUMNS,
                subsequent_indent=" " * 11,
                break_on_hyphens=False,
            ),
            *_callers(site.stack, cuts.frames, 9),
            *_wrap(f"closed {site.closed_count}, open {site.still_open_count} ({types}){life}", " " * 9),
        ]
    if len(known) > len(shown):
        how = "-v shows more, and the JSON report has" if cuts.sites is not None else "the JSON report has"
        lines.append(f"{stacks.site_count - len(shown)} other sites; {how} the first {len(known)}")
    return lines


def _first(stack: Sequence[str]) -> str:
    return format_text(stack[0]) if stack else "where, is not known"


def _callers(stack: Sequence[str], count: int, indent: int) -> Iterator[str]:
    """The frames above the first; a long one may begin a line of its own for its file."""
    for frame in stack[1:count]:
        yield from _wrap(f"called from {frame}", " " * indent)


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(format_text(text), _COLUMNS, initial_indent=indent, subsequent_indent=indent + "  ")


def format_long(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``12 days``."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"
