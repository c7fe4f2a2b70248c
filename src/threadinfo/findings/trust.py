"""What speaks against the trace itself."""

from __future__ import annotations

from collections.abc import Iterator

from threadinfo.findings.words import plural
from threadinfo.model import Finding, ProcessReport


def lost(process: ProcessReport) -> Iterator[Finding]:
    """Events were lost."""
    if process.trace is None:
        return
    confidence = process.trace.confidence
    lost = confidence.lost_count + confidence.map_full_count
    if not lost:
        return
    yield Finding(
        kind="events_lost",
        severity="medium",
        words=f"{confidence.lost_count} records were lost and {confidence.map_full_count} found no room in a map: "
        "counts of this trace are too low",
        value=float(lost),
        threshold=1.0,
        unit="count",
        rule="one or more",
        advice="Trace again with less at once: --only scheduling or --only descriptors, or fewer targets.",
    )


def ledger_disagreement(process: ProcessReport) -> Iterator[Finding]:
    """What was counted and /proc do not agree."""
    differences = process.trace.confidence.ledger_differences if process.trace else ()
    if not differences:
        return
    yield Finding(
        kind="ledger_disagrees",
        severity="low",
        words=f"On {len(differences)} {plural(len(differences), 'descriptor')} the trace and /proc disagree, for "
        f"example FD {differences[0].fd}: {differences[0].reason}",
        value=float(len(differences)),
        threshold=1.0,
        unit="count",
        rule="one descriptor or more",
        advice="The confidence block lists them with the likely reason of each.",
        fds=tuple(difference.fd for difference in differences),
    )


def scheduling_disagreement(process: ProcessReport) -> Iterator[Finding]:
    """Times that were measured and the kernel's own do not agree."""
    own = {None, *(thread.tid for thread in process.threads or ())}
    every = process.trace.confidence.scheduling_differences if process.trace else ()
    differences = [one for one in every if one.tid in own]  # of another process in the same trace
    if not differences:
        return
    tids = tuple(dict.fromkeys(one.tid for one in differences if one.tid is not None))
    words = f"The trace and the kernel's own accounts disagree on {len(tids)} {plural(len(tids), 'thread')}"
    if any(one.tid is None for one in differences):
        words = "The trace counted more time on the CPUs than there was"
    yield Finding(
        kind="scheduling_disagrees",
        severity="low",
        words=f"{words}: nothing is concluded from such figures",
        value=float(len(differences)),
        threshold=1.0,
        unit="count",
        rule="one figure or more: a thread whose times are 2 % of the trace apart or whose switches are not as many, "
        "or more time of all threads together than the CPUs had",
        advice="The confidence block lists them. Trace again; if it comes again, please report it.",
        tids=tids,
    )
