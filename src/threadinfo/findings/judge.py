"""What stands out in a process, by all the rules that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from threadinfo.containment import contained
from threadinfo.findings.descriptors import failed_for_the_limit, leak, near_the_limit
from threadinfo.findings.memory import swap
from threadinfo.findings.sockets import failed_connects, full_backlog, sleeping_pool, unbound
from threadinfo.findings.threads import slow_to_run, waits_for_cpu, zombie
from threadinfo.findings.trust import ledger_disagreement, lost, scheduling_disagreement
from threadinfo.findings.waits import (
    contended_lock,
    uninterruptible,
    waits_for_disk,
    waits_for_peer,
    waits_for_siblings,
)
from threadinfo.findings.words import SEVERITIES
from threadinfo.model import Finding, Gap, ProcessReport, Report


def with_findings(report: Report) -> Report:
    """The report with the findings of each process, whatever findings it came with."""
    return msgspec.structs.replace(report, processes=tuple(map(_with_findings, report.processes)))


def _with_findings(process: ProcessReport) -> ProcessReport:
    gaps: list[Gap] = []
    with contained("what stands out", gaps):
        return msgspec.structs.replace(process, findings=find(process))
    return msgspec.structs.replace(process, findings=(), gaps=(*process.gaps, *gaps))


def find(process: ProcessReport) -> tuple[Finding, ...]:
    """What stands out in one process, the most urgent first; of equal urgency, in the order of the list below."""
    finders: tuple[Callable[[ProcessReport], Iterator[Finding]], ...] = (
        failed_for_the_limit,
        leak,
        near_the_limit,
        full_backlog,
        failed_connects,
        sleeping_pool,
        contended_lock,
        waits_for_disk,
        waits_for_peer,
        waits_for_siblings,
        waits_for_cpu,
        slow_to_run,
        uninterruptible,
        zombie,
        swap,
        unbound,
        lost,
        ledger_disagreement,
        scheduling_disagreement,
    )
    found = [finding for finder in finders for finding in finder(process)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
