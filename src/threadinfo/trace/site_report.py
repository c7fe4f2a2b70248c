"""What the report says of call sites: who opened most, and who is suspected of a leak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from threadinfo.model import DescriptorTrace, LeakSuspect, SiteChurn, StackCounts
from threadinfo.trace.call_sites import CallSites
from threadinfo.trace.leaks import judge_growth
from threadinfo.trace.site_groups import Site, group_sites, own_frames, site_frames, site_library
from threadinfo.trace.site_totals import SiteTotals

_MOST_SITES = 100
_MOST_NUMBERS_SHOWN = 100


def describe_sites(
    trace: DescriptorTrace,
    totals: SiteTotals,
    call_sites: CallSites,
    types: Sequence[str | None],
    fds: Mapping[int, Sequence[int]],
    stopped_ns: int,
    uncopied_count: int,
) -> DescriptorTrace:
    """The trace with what it saw by call site; `fds` are the open numbers that were born at each stack's number."""
    numbers = np.flatnonzero(totals.opened + totals.limit_failed).tolist()
    sites = group_sites({number: call_sites.stack(number) for number in numbers})
    churn = sorted((_churn(site, totals, types) for site in sites), key=lambda one: -one.opened_count)
    suspects = [suspect for site in sites if (suspect := _suspect(site, totals, fds, stopped_ns)) is not None]
    attributed = sum(one.opened_count for one in churn if one.stack)
    return msgspec.structs.replace(
        trace,
        by_call_site=tuple(churn[:_MOST_SITES]),
        leak_suspects=tuple(sorted(suspects, key=lambda suspect: -suspect.growth_per_minute)),
        stacks=StackCounts(
            site_count=len([site for site in sites if site.stack and own_frames(site.stack)]),
            copied_count=call_sites.copied_count,
            uncopied_count=uncopied_count,
            unwound_count=call_sites.unwound_count,
            complete_count=call_sites.complete_count,
            attributed_count=attributed,
            unattributed_count=sum(one.opened_count for one in churn) - attributed,
            unwind_ns_per_stack=call_sites.unwind_ns_per_stack(),
            problems=call_sites.problems(),
        ),
    )


def _churn(site: Site, totals: SiteTotals, types: Sequence[str | None]) -> SiteChurn:
    which = list(site.numbers)
    opened, closed = int(totals.opened[which].sum()), int(totals.closed[which].sum())
    return SiteChurn(
        stack=site_frames(site.stack),
        library=site_library(site.stack),
        opened_count=opened,
        closed_count=closed,
        still_open_count=max(0, opened - closed),
        limit_failed_count=int(totals.limit_failed[which].sum()),
        by_type={types[code] or "unknown": count for code, count in totals.types_of(site.numbers).most_common()},
        lifetime_ns=totals.lifetime_of(site.numbers),
    )


def _suspect(site: Site, totals: SiteTotals, fds: Mapping[int, Sequence[int]], stopped_ns: int) -> LeakSuspect | None:
    which = np.array(site.numbers)
    now = int((totals.opened[which] - totals.closed[which]).sum())
    born = totals.first_ns[which]
    if not now or not born.any():
        return None
    first_ns = int(born[born > 0].min())
    counts = [int(levels[which[which < len(levels)]].sum()) for levels in totals.open_at]
    growth = judge_growth([*totals.moments_ns, stopped_ns], [*counts, now], first_ns)
    if growth is None:
        return None
    still_open = sorted(fd for number in site.numbers for fd in fds.get(number, ()))
    return LeakSuspect(
        stack=site_frames(site.stack),
        library=site_library(site.stack),
        opened_count=int(totals.opened[which].sum()),
        surviving_count=now,
        growth_per_minute=60 * growth.per_second,
        seconds_to_limit=None,
        confidence=growth.confidence,
        watched_ns=stopped_ns - first_ns,
        steadiness=growth.steadiness,
        fds=tuple(still_open[:_MOST_NUMBERS_SHOWN]),
    )
