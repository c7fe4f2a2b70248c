"""What stands out in a family is told before its processes, which may be idle themselves."""

from __future__ import annotations

import msgspec

from tests.render.test_text_length import finding
from tests.reports import process, report, trace
from threadinfo.model import Family, Finding, ProcessReport
from threadinfo.render.text.report import render_text


def one_of(pid: int, *findings: Finding) -> ProcessReport:
    return process(pid=pid, name="db", parent_pid=1 if pid > 1 else None, trace=trace(), findings=findings)


def grave(number: int, kind: str, severity: str = "high") -> Finding:
    return msgspec.structs.replace(finding(number), kind=kind, severity=severity)


def text_of(*processes: ProcessReport) -> str:
    family = Family(
        older_count=len(processes), made_count=0, alive_count=len(processes), left_out_count=0,
        told_count=len(processes), commands=(),
    )  # fmt: skip
    return str(render_text(msgspec.structs.replace(report(*processes), family=family)))


def test_findings_of_children_come_before_the_idle_parent() -> None:
    children = [one_of(pid, grave(pid, "thread_waits_for_siblings")) for pid in (20, 21, 22, 30)]
    text = text_of(one_of(1), *children, one_of(40, grave(7, "contended_lock", "medium"), grave(8, "other", "low")))
    head = text[: text.index("=== What Stands Out in db (PID: 1)")]
    assert "  [high] 20: Finding 20 " in head
    assert "so in 3 other processes: 21-22, 30" in " ".join(head.split())
    assert head.index("[high] 20: ") < head.index("[medium] 40: Finding 7 ")
    assert "Finding 8" not in head
    assert max(map(len, head.splitlines())) <= 80


def test_a_family_of_which_nothing_stands_out_has_no_such_paragraph() -> None:
    assert "What stands out in it" not in text_of(one_of(1), one_of(2, grave(3, "contended_lock", "low")))
