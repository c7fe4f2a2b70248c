"""A fault of ours, in each stage on purpose: what it costs, and that everything else is told."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_SECONDS, ROOT, WORKLOADS, Start
from tests.reports import report, server
from tests.terminal import Terminal
from tests.test_top import needs_tmux, terminal  # noqa: F401 - a fixture
from tests.trace.conftest import bpf  # noqa: F401 - a fixture
from threadinfo import containment
from threadinfo.collect import live as collect_top
from threadinfo.collect.live import TopSession
from threadinfo.collect.process import CollectOptions
from threadinfo.errors import NotAvailableError
from threadinfo.findings import with_findings
from threadinfo.model import Gap
from threadinfo.proc.reader import ProcDirectory
from threadinfo.render import html
from threadinfo.render.text import trace as text_trace
from threadinfo.render.text.report import render_text
from threadinfo.snapshot import Snapshot

BREAK = """
import importlib, sys
def fail(*_, **__): raise KeyError("broken on purpose")
module, _, name = {stage!r}.partition(":")
owner = importlib.import_module("threadinfo." + module)
*path, last = name.split(".")
for part in path: owner = getattr(owner, part)
setattr(owner, last, fail)
from threadinfo.cli.main import main
main()
"""
FAULT = "KeyError: 'broken on purpose'"
WHOLE = with_findings(report(server(20, 100)))

PLAIN = ("Memory Footprint", "Thread Information", "Memory Distribution", "File Descriptor Information")
SECTIONS = ("What Stands Out", *PLAIN, "Resource Limits", "Scheduling", "Descriptor Churn", "Trace Confidence")

# The function that is broken, the section that the gap names, and the headings that are then missing.
STAGES = {
    "collect.process:read_limits": ("limits", ()),
    "collect.process:read_threads": ("threads", ()),
    "collect.process:_collect_from": ("process", ()),
    "trace.scheduling.tracer:SchedulingRecorder": ("scheduling", ("Scheduling",)),
    "trace.scheduling.recorder:SchedulingRecorder.start": ("scheduling", ("Scheduling",)),
    "trace.scheduling.recorder:SchedulingRecorder.holders_and_wakers": ("scheduling", ("Scheduling",)),
    "trace.scheduling.recorder:SchedulingRecorder.activities": ("scheduling", ("Scheduling",)),
    "trace.descriptors.tracer:DescriptorTracer.attach": ("descriptors", ("Descriptor Churn",)),
    "trace.descriptors.tracer:DescriptorTracer.read": ("descriptors", ("Descriptor Churn",)),
    "trace.descriptors.tracer:DescriptorTracer.finish": ("ledger", ()),
    "trace.descriptors.tracer:DescriptorTracer.activity": ("descriptors", ("Descriptor Churn",)),
    "trace.descriptors.tracer:DescriptorTracer._log": ("sockets", ()),
    "trace.descriptors.socket_log:SocketLog.events": ("sockets", ()),
    "trace.descriptors.socket_log:SocketLog.of_open": ("sockets", ()),
    "trace.descriptors.recorder:DescriptorRecorder.__exit__": ("detaching", ()),
    "trace.stacks.unwinder:Unwinder.close": ("detaching", ()),
    "trace.stacks.call_sites:CallSites.waiting_count": ("descriptors", ("Descriptor Churn",)),
    "trace.session.session:_measure_programs": ("confidence", ()),
    "collect.traced:merge_scheduling": ("scheduling", ("Scheduling",)),
    "collect.traced:merge_descriptors": ("descriptors", ("Descriptor Churn",)),
    "findings.judge:waits_for_cpu": ("what stands out", ()),
    "render.text.report:_threads": ("threads", ()),
    "render.text.trace:_scheduling": ("scheduling", ("Scheduling",)),
    "render.text.trace:render_churn": ("descriptors", ("Descriptor Churn",)),
}


def run_broken(stage: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with a function in it that fails whenever it is called."""
    command = [sys.executable, "-c", BREAK.format(stage=stage), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize("stage", STAGES)
def test_fault_in_a_stage_costs_its_section(start: Start, stage: str) -> None:
    process = start(sys.executable, WORKLOADS / "lively.py", "fragile", 3, 11)
    section, missing = STAGES[stage]
    result = run_broken(stage, process.pid, "--trace", "0.3")
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"missing for a fault of threadinfo itself: {section}, {FAULT} (")
    assert line.endswith(f"; {containment.REMEDY}")
    assert f"\n  {section}: a fault of threadinfo itself: {FAULT}" in result.stdout
    assert [heading for heading in SECTIONS if f"=== {heading}" not in result.stdout] == list(missing)


@pytest.mark.usefixtures("bpf")
def test_fault_in_what_three_sections_need_is_named_of_each_in_the_order_of_the_tracers(start: Start) -> None:
    process = start(sys.executable, WORKLOADS / "lively.py", "fragile", 3, 11)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("spin\n")  # without a sample nothing of the CPU is missing
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    result = run_broken("trace.stacks.unwinder:Unwinder.unwind", process.pid, "--trace", "0.5")
    assert result.returncode == 3, result.stderr
    (line,) = result.stderr.splitlines()
    told = line.removeprefix("missing for a fault of threadinfo itself: ").split("; ")
    assert [one.partition(f", {FAULT} (")[0] for one in told] == [
        "waits",
        "CPU samples",
        "call sites",
        containment.REMEDY,
    ]
    for section in ("waits", "CPU samples", "call sites"):
        assert f"\n  {section}: a fault of threadinfo itself: {FAULT}" in result.stdout
    assert [heading for heading in SECTIONS if f"=== {heading}" not in result.stdout] == []


@pytest.mark.usefixtures("bpf")
def test_fault_late_in_a_long_trace_leaves_a_whole_report_of_the_rest(start: Start, tmp_path: Path) -> None:
    process = start(sys.executable, WORKLOADS / "lively.py", "fragile", 3, 11)
    stage = "trace.descriptors.tracer:DescriptorTracer.activity"
    arguments = [process.pid, "--trace", "0.3", "--format", "json", "-o", tmp_path / "r.json"]
    result = run_broken(stage, *arguments, THREADINFO_DEBUG="1")
    assert result.returncode == 3
    assert result.stderr.count("Traceback") == 1
    (told,) = json.loads((tmp_path / "r.json").read_text())["processes"]
    assert told["trace"]["descriptors"] is None
    assert told["trace"]["confidence"]["seen_count"] > 0
    assert all(thread["scheduling"] for thread in told["threads"])
    assert len(told["descriptors"]) >= 7
    assert {gap["remedy"] for gap in told["gaps"] if gap["section"] == "descriptors"} == {containment.REMEDY}


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize(
    ("stage", "section"),
    [
        ("trace.descriptors.tracer:DescriptorTracer.read_events", "descriptors"),
        ("trace.descriptors.tracer:DescriptorTracer.finish", "ledger"),
        ("trace.scheduling.recorder:SchedulingRecorder.read_delays", "scheduling"),
        ("trace.descriptors.events:EventMaker.events", "events"),
        ("render.stream:describe_event", "lines"),
        ("trace.kernel.loader:Programs.close", "detaching"),
    ],
)
def test_fault_in_a_stream_costs_its_events(start: Start, stage: str, section: str) -> None:
    process = start(sys.executable, WORKLOADS / "lively.py", "fragile", 3, 11)
    result = run_broken(stage, "trace", process.pid, "--duration", "0.5", "--threshold", "1us")
    assert result.returncode == 3, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"missing for a fault of threadinfo itself: {section}, {FAULT} (")
    assert "events seen, 0 lost" in result.stdout
    told = {word for word in ("waited", "(openat)", " close ") if word in result.stdout}
    assert (
        told
        == {
            "descriptors": {"waited"},
            "ledger": {"waited", "(openat)", " close "},
            "scheduling": {"(openat)", " close "},
            "events": {"waited"},
            "lines": {"waited"},
            "detaching": {"waited", "(openat)", " close "},
        }[section]
    )


@pytest.mark.usefixtures("bpf")
def test_fault_in_run_leaves_the_commands_status() -> None:
    result = run_broken("trace.descriptors.tracer:DescriptorTracer.read", "run", "--", "sh", "-c", "echo done; exit 7")
    assert (result.returncode, result.stdout) == (7, "done\n")
    assert "=== Scheduling" in result.stderr
    assert f"missing for a fault of threadinfo itself: descriptors, {FAULT}" in result.stderr


def test_fault_that_nothing_contains_is_one_line(start: Start) -> None:
    process = start(sys.executable, WORKLOADS / "many.py", "fragile", 1, 3)
    result = run_broken("cli.report:collect_report", process.pid)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith(f"missing for a fault of threadinfo itself: the command, {FAULT}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("format_", ["html", "json"])
def test_fault_of_a_whole_format_is_another_format(start: Start, tmp_path: Path, format_: str) -> None:
    process = start(sys.executable, WORKLOADS / "many.py", "fragile", 1, 3)
    stage = {"html": "render.html:_view", "json": "render.json:render_json"}[format_]
    result = run_broken(stage, process.pid, "--format", format_, "-o", tmp_path / "out")
    assert result.returncode == 3
    assert f"the report as {format_}, {FAULT}" in result.stderr
    written = (tmp_path / "out").read_text()
    if format_ == "html":
        assert json.loads(written)["processes"][0]["pid"] == process.pid
    else:
        assert "=== Resource Limits ===" in written


@pytest.fixture
def _no_faults() -> Iterator[None]:
    containment.faults.clear()
    yield
    containment.faults.clear()


def fail(*_: object, **__: object) -> None:
    raise KeyError("broken on purpose")


PAGE_STAGES = {
    "_rows": ("scheduling", "What each thread had"),
    "_delays": ("scheduling", "Who delayed whom"),
    "_wakers": ("scheduling", None),
    "_suspects": ("leaks", "What seems to leak"),
    "_sites": ("call sites", "Where descriptors are opened"),
    "tell_stories": ("sockets of the trace", "Sockets that the trace saw"),
    "_churn_chart": ("descriptors over time", None),
    "_lifetimes": ("lifetimes", "How long they lived"),
    "_finding_number": ("what stands out", "What stands out"),
    "format_details": ("descriptors", "All descriptors"),
}


@pytest.mark.usefixtures("_no_faults")
@pytest.mark.parametrize("stage", PAGE_STAGES)
def test_fault_in_a_section_of_the_page_costs_that_section(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section, heading = PAGE_STAGES[stage]
    whole = html.render_html(WHOLE)
    monkeypatch.setattr(html, stage, fail)
    page = html.render_html(WHOLE)
    assert section in {fault.section for fault in containment.faults}
    assert f"<strong>{section}</strong>: a fault of threadinfo itself: KeyError: &#39;broken on purpose&#39;" in page
    assert heading is None or (f">{heading}" in whole and f">{heading}</h2>" not in page)
    for other in ("All threads", "Memory and limits", "Confidence and gaps"):
        assert other in page
    assert page.endswith("</html>\n")


@pytest.mark.usefixtures("_no_faults")
def test_fault_in_a_section_of_the_text_is_where_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_trace, "render_sockets", fail)
    text = render_text(WHOLE)
    assert "(not read: see the end)" in text
    assert "\n  sockets: a fault of threadinfo itself: KeyError" in text
    assert "=== Trace Confidence ===" in text


@pytest.mark.usefixtures("_no_faults")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(5), NotAvailableError("no"), OSError("full")])
def test_what_is_foreseen_is_not_hidden(error: BaseException) -> None:
    with pytest.raises(type(error)), containment.contained("anything", but=(OSError,)):
        raise error
    assert containment.faults == []


@pytest.mark.usefixtures("_no_faults")
def test_fault_of_every_tick_is_told_of_once() -> None:
    gaps: list[Gap] = []
    for _ in range(1009):
        with containment.contained("ticks", gaps):
            fail()
    assert len(containment.faults) == len(gaps) == 1


@pytest.mark.usefixtures("_no_faults")
@pytest.mark.parametrize("stage", ["refresh_process", "find", "merge_trace"])
def test_fault_in_a_refresh_of_the_live_view_is_said_and_the_view_goes_on(
    start: Start, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(sys.executable, WORKLOADS / "many.py", "fragile", 3, 11)
    monkeypatch.setattr(collect_top, stage, fail)
    if stage == "merge_trace":
        monkeypatch.setattr(collect_top._Reading, "_churn", fail)
    options = CollectOptions(with_details=True, may_borrow=True, ports={})
    session = TopSession(ProcDirectory("/proc"), process.pid, options, interval_seconds=0.05, with_trace=False)
    told: queue.Queue[Snapshot | BaseException] = queue.Queue()
    session.start(told.put, told.put)
    first, second = told.get(timeout=30), told.get(timeout=30) if stage != "merge_trace" else None
    session.stop()
    if stage == "merge_trace":  # nothing was ever read
        assert isinstance(first, NotAvailableError)
        assert "broken on purpose" in first.message
        return
    assert isinstance(first, Snapshot)
    assert isinstance(second, Snapshot)
    assert len(second.process.threads or ()) == 3
    assert "broken on purpose" in (second.message or "")


@needs_tmux
@pytest.mark.usefixtures("bpf")
def test_fault_in_the_trace_of_the_live_view_leaves_what_proc_says(
    start: Start,
    terminal: Callable[..., Terminal],  # noqa: F811
    tmp_path: Path,
) -> None:
    process = start(sys.executable, WORKLOADS / "lively.py", "fragile", 8, 40)
    program = tmp_path / "broken.py"
    program.write_text(BREAK.format(stage="trace.descriptors.tracer:DescriptorTracer.read_events"))
    window = terminal(120, 40)
    window.type(f"{sys.executable} {program} top {process.pid} --interval 0.3; echo status=$?\n")
    window.wait_for("Threads  1-8 of 8", "Descriptors  1-", "a fault of threadinfo itself")
    window.press("q")
    window.wait_for("missing for a fault of threadinfo itself: tracing", "status=3")
