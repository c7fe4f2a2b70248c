"""The sections of the text report on call sites: who opens most, who is suspected of a leak, who fills the table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from threadinfo.model import DescriptorTrace, LeakSuspect, SiteChurn, StackCounts
from threadinfo.render.escape import format_text
from threadinfo.render.text_duration import format_duration

_SITES, _FRAMES, _SUSPECTS, _PATHS, _THREADS, _FDS = 8, 3, 5, 8, 4, 12
_COLUMNS = 80
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def render_sites(trace: DescriptorTrace, *, verbose: bool) -> list[str]:
    """The lines of the sections, readable at 80 columns; `verbose`: with every frame."""
    frames = 32 if verbose else _FRAMES
    return [
        *_paths(trace),
        *_limit(trace, frames),
        *_suspects(trace, frames),
        *_sites(trace.by_call_site, trace.stacks, frames),
    ]


def _paths(trace: DescriptorTrace) -> list[str]:
    most = trace.by_path[:_PATHS]
    lines = [f"  {one.opened_count:>8} {format_text(one.path)}" for one in most]
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


def _suspects(trace: DescriptorTrace, frames: int) -> list[str]:
    if not trace.leak_suspects:
        return []
    lines = ["", "=== Leak Suspects ==="]
    for suspect in trace.leak_suspects[:_SUSPECTS]:
        lines += [_first(suspect.stack), *_callers(suspect.stack, frames, 2), *_wrap(_growth(suspect), "  ")]
        fds = ", ".join(map(str, suspect.fds[:_FDS])) + (" ..." if suspect.surviving_count > _FDS else "")
        if fds:
            lines += _wrap(f"open: FD {fds}", "  ")
    if len(trace.leak_suspects) > _SUSPECTS:
        lines.append(f"{len(trace.leak_suspects) - _SUSPECTS} other suspects; the JSON report has them all")
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


def _sites(sites: Sequence[SiteChurn], stacks: StackCounts | None, frames: int) -> list[str]:
    known = [site for site in sites if site.stack]
    if stacks is None or not sites:
        return []
    born = stacks.attributed_count + stacks.unattributed_count
    share = f"{100 * stacks.attributed_count / born:.1f} % of {born} births attributed" if born else "no births"
    lines = ["", "=== Call Sites ===", *_wrap(f"{stacks.site_count} sites, {share}", "")]
    for site in known[:_SITES]:
        types = ", ".join(f"{name} {count}" for name, count in list(site.by_type.items())[:3])
        life = f", lifetime p50 {format_duration(site.lifetime_ns.p50)}" if site.lifetime_ns.count else ""
        lines += [
            f"{site.opened_count:>8} {_first(site.stack)}",
            *_callers(site.stack, frames, 9),
            *_wrap(f"closed {site.closed_count}, open {site.still_open_count} ({types}){life}", " " * 9),
        ]
    if len(known) > _SITES:
        lines.append(f"{stacks.site_count - _SITES} other sites; the JSON report has the first {len(known)}")
    return lines


def _first(stack: Sequence[str]) -> str:
    return format_text(stack[0]) if stack else "where, is not known"


def _callers(stack: Sequence[str], count: int, indent: int) -> Iterable[str]:
    return (f"{' ' * indent}called from {format_text(frame)}" for frame in stack[1:count])


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(format_text(text), _COLUMNS, initial_indent=indent, subsequent_indent=indent + "  ")


def format_long(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``12 days``."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"
