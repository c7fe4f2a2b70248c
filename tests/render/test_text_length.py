"""How long the text of one traced process may be without -v, whatever was seen."""

from __future__ import annotations

import pytest

from tests.reports import STACKS, churn, process, report, scheduling, suspect, thread, trace, wait
from threadinfo.model import Finding, Gap, ProcessReport
from threadinfo.render.text.report import render_text

MOST_LINES = 150
GAPS = 29
FINDINGS = 9


def finding(number: int) -> Finding:
    return Finding(
        kind="descriptor_leak",
        severity="low",
        words=f"Finding {number} " + "whose words fill more than one line of a terminal " * 3,
        value=1.0,
        unit="count",
        threshold=0.5,
        rule="more than half",
        advice=f"advice {number} " + "that fills more than one line of a terminal, too " * 3,
    )


def busy(findings: int, gaps: int) -> ProcessReport:
    """Every section has more rows than are shown."""
    threads = tuple(
        thread(tid, f"worker-{tid}", scheduling=scheduling(p99_ns=50_000 + tid), waits=(wait(), wait("read")))
        for tid in range(7, 48)
    )
    descriptors = churn(leak_suspects=tuple(suspect(fds=(fd,)) for fd in range(3, 20)), stacks=STACKS)
    return process(
        threads=threads,
        trace=trace(descriptors=descriptors),
        findings=tuple(map(finding, range(1, findings + 1))),
        gaps=tuple(Gap(f"section {number}", "a cause " * 20, "a remedy") for number in range(gaps)),
    )


@pytest.mark.parametrize(("findings", "gaps"), [(0, 0), (3, 3), (FINDINGS, 3), (FINDINGS, GAPS)])
def test_a_traced_process_has_at_most_150_lines(findings: int, gaps: int) -> None:
    lines = render_text(report(busy(findings, gaps))).splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "[low] Finding " in line] == [
        line
        for number in range(1, findings + 1)
        for line in lines
        if line.startswith(f"{number}. [low] Finding {number} ")
    ]


def test_advice_and_gaps_that_are_left_out_are_said_and_shown_by_v() -> None:
    whole = report(busy(FINDINGS, GAPS))
    text, verbose = render_text(whole), render_text(whole, verbose=True)
    assert [f"advice {number} " in text for number in range(1, FINDINGS + 1)] == [True] * 2 + [False] * 7
    assert "What to do about the others: -v" in text
    assert f"  {GAPS - 3} others (-v shows them)" in text
    assert all(f"advice {number} " in verbose for number in range(1, FINDINGS + 1))
    assert all(f"section {number}: " in verbose for number in range(GAPS))


def test_nothing_is_left_out_where_there_is_room() -> None:
    text = render_text(report(busy(2, 2)))
    assert text.count("Next: advice") == 2
    assert "What to do about the others" not in text
