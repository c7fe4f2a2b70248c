"""What the report says of call sites: who opened most, and who is suspected of a leak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from threadinfo.model import DescriptorTrace, LeakSuspect, SiteChurn, StackCounts, SuspectThread
from threadinfo.trace.descriptors.growth import OpenAtSites
from threadinfo.trace.descriptors.ledger import KernelLedger, OpenDescriptor
from threadinfo.trace.descriptors.type_codes import TYPE_NAMES
from threadinfo.trace.stacks.call_sites import CallSites
from threadinfo.trace.stacks.leaks import judge_growth
from threadinfo.trace.stacks.site_groups import Site, group_sites, own_frames, site_frames, site_library

_MOST_SITES = 100
_MOST_THREADS = 10
_MOST_NUMBERS_SHOWN = 100


def describe_sites(
    trace: DescriptorTrace,
    process: int,
    ledger: KernelLedger,
    call_sites: CallSites,
    growth: OpenAtSites,
    opened: Mapping[int, OpenDescriptor],
    stopped_ns: int,
    uncopied_count: int,
) -> DescriptorTrace:
    """The trace with what it saw by call site; `process`: its slot; `opened`: what was opened and is open.

    Names of threads, and paths, are left to whoever has read /proc.
    """
    ids = ledger.site_ids(process).tolist()
    sites = group_sites({stack_id: call_sites.stack(stack_id) for stack_id in ids})
    churn = sorted((_churn(site, ledger) for site in sites), key=lambda one: -one.opened_count)
    fds: dict[int, list[int]] = {}
    for fd, known in sorted(opened.items()):
        fds.setdefault(known.stack, []).append(fd)
    suspects = []
    for site in sites:
        open_here = {fd: opened[fd] for number in site.numbers for fd in fds.get(number, ())}
        if (suspect := _suspect(site, ledger, growth, open_here, stopped_ns)) is not None:
            suspects.append(suspect)
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


def _churn(site: Site, ledger: KernelLedger) -> SiteChurn:
    counts = ledger.sites[list(site.numbers)]
    opened, closed = int(counts["opened"].sum()), int(counts["closed"].sum())
    return SiteChurn(
        stack=site_frames(site.stack),
        library=site_library(site.stack),
        opened_count=opened,
        closed_count=closed,
        still_open_count=max(0, opened - closed),
        limit_failed_count=int(counts["limit_failed"].sum()),
        by_type=dict(_by_type(counts).most_common()),
        lifetime_ns=ledger.site_lifetime(site.numbers),
    )


def _by_type(counts: NDArray[np.void]) -> Counter[str]:
    types = counts["types"].sum(axis=0, dtype=np.int64)
    return Counter({TYPE_NAMES[code] or "unknown": int(types[code]) for code in np.flatnonzero(types).tolist()})


def _suspect(
    site: Site, ledger: KernelLedger, growth: OpenAtSites, opened: Mapping[int, OpenDescriptor], stopped_ns: int
) -> LeakSuspect | None:
    which = np.array(site.numbers)
    counts = ledger.sites[which]
    now = int((counts["opened"] - counts["closed"]).sum())
    opened_ns = counts["first_ns"]
    if not now or not opened_ns.any():
        return None
    first_ns = int(opened_ns[opened_ns > 0].min())
    levels = [int(counts[which[which < len(counts)]].sum()) for counts in growth.open_counts]
    judged = judge_growth([*growth.at_ns, stopped_ns], [*levels, now], first_ns)
    if judged is None:
        return None
    (kind, _), *_ = _by_type(counts).most_common(1) or [("unknown", 0)]
    threads = Counter(known.tid for known in opened.values())
    return LeakSuspect(
        stack=site_frames(site.stack),
        library=site_library(site.stack),
        opened_count=int(counts["opened"].sum()),
        surviving_count=now,
        growth_per_minute=60 * judged.per_second,
        seconds_to_limit=None,
        confidence=judged.confidence,
        watched_ns=stopped_ns - first_ns,
        steadiness=judged.steadiness,
        fds=tuple(sorted(opened)[:_MOST_NUMBERS_SHOWN]),
        kind=None if kind == "unknown" else kind,
        threads=tuple(SuspectThread(tid, "", count) for tid, count in threads.most_common(_MOST_THREADS)),
    )
