"""A control character in every string that a report can hold: none reaches a terminal, and none makes a line.

The values are made from the model's types: a new field is covered by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import get_args

import msgspec
import pytest

from tests.conftest import run_threadinfo
from tests.planted import plant, string_count
from threadinfo.findings import with_findings
from threadinfo.model import (
    Check,
    Confidence,
    DelayEvent,
    DescriptorEvent,
    DetailValue,
    EventKind,
    ProcessReport,
    Report,
)
from threadinfo.render.doctor import render_doctor_json, render_doctor_text
from threadinfo.render.escape import format_text
from threadinfo.render.html import render_html
from threadinfo.render.json import render_json
from threadinfo.render.stream import render_end_json, render_end_text, render_event_json, render_event_text
from threadinfo.render.text.details import _FORMATTERS
from threadinfo.render.text.report import render_text
from threadinfo.snapshot import Snapshot
from threadinfo.top import columns, detail, summary
from threadinfo.top.table import fit, segment

HOSTILE = "<\x1b]0;t\x07\x9b31m\r\n\x7f\u202e\u2066\u2028\x85\x00&\ufeff\U000e0001>"
HARMLESS = format_text(HOSTILE)
TIME = "2026-11-25T10:30:00.000000"  # of which parts are shown
TURNS = range(len(get_args(EventKind)))  # the longest Literal: each kind of event has its turn
NOT_PRINTABLE = re.compile(r"[^\x20-\x7e\n]")


def report_of(text: str, turn: int) -> Report:
    """With details of every kind that a renderer knows a formatter for."""
    report: Report = plant(Report, text, turn)
    process = report.processes[0]
    assert process.descriptors
    details: dict[str, DetailValue] = dict.fromkeys(_FORMATTERS, text)
    details |= {text: text, f"{text}_bytes": text, f"{text}_names": [text, text], "same_socket_fds": [text]}
    details["watched"] = [{"fd": text, "events": text}]
    descriptor = msgspec.structs.replace(process.descriptors[0], details=details)
    other = msgspec.structs.replace(descriptor, fd=2, socket=None, details={})
    return msgspec.structs.replace(
        report, processes=(msgspec.structs.replace(process, descriptors=(descriptor, other)),) * 2
    )


RENDERERS: dict[str, Callable[[Report], str]] = {
    "text": render_text,
    "verbose": lambda report: render_text(report, verbose=True),
    "wide": lambda report: render_text(report, verbose=True, width=200),
    "findings": lambda report: render_text(with_findings(report), verbose=True),
    "page": render_html,
    "json": render_json,
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", RENDERERS)
def test_report_lets_no_control_character_through(name: str, turn: int) -> None:
    report = report_of(HOSTILE, turn)
    assert string_count(report, HOSTILE) > 100
    rendered = RENDERERS[name](report)
    assert all(line.isprintable() for line in rendered.removesuffix("\n").split("\n"))
    after_a_time, harmless = (RENDERERS[name](report_of(TIME + end, turn)) for end in (HOSTILE, HARMLESS))
    if name == "json":
        assert msgspec.json.decode(rendered, type=Report) == report
    elif name == "page":  # it cuts off before it escapes
        assert after_a_time.count("\n") == harmless.count("\n")
    else:  # as many lines, of the same length: what is wrapped or cut off is measured as it is shown
        assert after_a_time == harmless


@pytest.mark.parametrize("kind", [DescriptorEvent, DelayEvent], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("turn", TURNS)
def test_stream_lets_no_control_character_through(kind: type[DescriptorEvent | DelayEvent], turn: int) -> None:
    event = plant(kind, TIME + HOSTILE, turn)
    assert render_event_text(event) == render_event_text(plant(kind, TIME + HARMLESS, turn))
    event = plant(kind, HOSTILE, turn)
    assert all(line.isprintable() for line in render_event_text(event).removesuffix("\n").split("\n"))
    line = render_event_json(event)
    assert (line.count("\n"), line[-1], NOT_PRINTABLE.search(line)) == (1, "\n", None)
    assert msgspec.json.decode(line, type=kind) == event


def test_ends_of_streams_and_doctor_let_no_control_character_through() -> None:
    confidence, check = plant(Confidence, HOSTILE, 1), plant(Check, HOSTILE, 1)
    assert check.state != "ok"
    assert render_end_text(confidence) == render_end_text(plant(Confidence, HARMLESS, 1))
    assert render_doctor_text([check]) == render_doctor_text([plant(Check, HARMLESS, 1)])
    for line in (render_end_json(confidence), render_doctor_json([check])):
        assert (line.count("\n"), NOT_PRINTABLE.search(line)) == (1, None)
        assert repr(HOSTILE)[1:-1] in repr(json.loads(line))


@pytest.mark.parametrize("turn", TURNS)
def test_live_view_lets_no_control_character_through(turn: int) -> None:
    """Everything that is drawn goes through `segment`; details and tables are escaped before they are measured."""
    snapshot: Snapshot = plant(Snapshot, HOSTILE, turn)
    process: ProcessReport = report_of(HOSTILE, turn).processes[0]
    snapshot = msgspec.structs.replace(snapshot, process=process, tracing="on")
    assert process.threads
    assert process.descriptors
    lines = [text for text, _ in summary.summary_lines(snapshot, 1.0, 100, is_paused=False)]
    lines += detail.thread_detail(snapshot, process.threads[0].tid, 100)
    lines += detail.descriptor_detail(snapshot, process.descriptors[0].fd, None)
    lines += detail.event_detail(snapshot, snapshot.events[0])
    lines += detail.findings_lines(snapshot)
    assert all(line.isprintable() for line in lines)
    rows: tuple[tuple[tuple[columns.Column, ...], object], ...] = (
        (columns.TRACED_THREADS, columns.ThreadLine(process.threads[0], snapshot.moments[7], HOSTILE)),
        (columns.DESCRIPTORS, columns.DescriptorLine(process.descriptors[0], snapshot.ages[7], 7, "+")),
        (columns.SOCKETS, columns.DescriptorLine(process.descriptors[0], snapshot.ages[7], 7, "+")),
        (columns.EVENTS, columns.EventLine(snapshot.events[0], "+")),
    )
    for titles, row in rows:
        assert all(fit(column.text(row), 300).isprintable() for column in titles)
    assert segment(HOSTILE, summary._PLAIN).text == HARMLESS
    assert fit(HOSTILE, 200).isprintable()


def test_messages_let_no_control_character_through() -> None:
    for arguments in ([f"no{HOSTILE}such".replace("\0", "")], ["show", "no\x1b[31m\nsuch"], ["top", "--\x1b[31m"]):
        result = run_threadinfo(*arguments)
        assert result.returncode
        assert "\x1b" not in result.stderr
        assert "\x9b" not in result.stderr
        assert "\\x1b" in result.stderr
