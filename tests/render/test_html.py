"""The page without a browser: complete in itself, small, and harmless whatever a report says."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import os
import pty
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from tests.conftest import ROOT, Run
from tests.reports import (
    churn,
    confidence,
    descriptor,
    event,
    latency,
    process,
    report,
    scheduling,
    server,
    suspect,
    thread,
    trace,
    unbound,
)
from threadinfo.findings import with_findings
from threadinfo.model import (
    EndedThread,
    Inference,
    LedgerDifference,
    Memory,
    Origin,
    ProcessReport,
    Served,
    SocketTrace,
)
from threadinfo.render.html import render_html
from threadinfo.render.json import render_json

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7*7 }}&amp;\x1b[31m\n\u202egnp\u2066\x00"
    + ("A" * 4000)
)


def hostile() -> ProcessReport:
    """A process that calls everything it may choose by a name that wants to be a program."""
    origin = Origin(
        opened_at=HOSTILE,
        syscall=HOSTILE,
        tid=7,
        thread_name=HOSTILE,
        stack=(HOSTILE,),
        library=HOSTILE,
        maker=HOSTILE,
        events=(event("bind", local=HOSTILE, thread_name=HOSTILE),),
    )
    guess = Inference(words=HOSTILE, library=HOSTILE, confidence="likely", evidence=(HOSTILE,), source=HOSTILE)
    sock = unbound(
        4,
        explanation=HOSTILE,
        inference=guess,
        local=HOSTILE,
        remote=HOSTILE,
        role=HOSTILE,
        state=HOSTILE,
        evidence=(HOSTILE,),
    )
    served = (Served(7, HOSTILE, HOSTILE),)
    difference = LedgerDifference(9, "open", "closed", HOSTILE, HOSTILE)
    whole = churn(
        leak_suspects=(suspect(stack=(HOSTILE,), library=HOSTILE),), by_type={HOSTILE: 3}, by_syscall={HOSTILE: 3}
    )
    made = event("socket", fd=4, time=HOSTILE, maker=HOSTILE, family=HOSTILE, stack=(HOSTILE,), syscall=HOSTILE)
    sockets = SocketTrace(events=(made, event("close", fd=4, thread_name=HOSTILE)), omitted_count=1)
    return process(
        name=HOSTILE,
        executable=HOSTILE,
        command_line=(HOSTILE,),
        user=HOSTILE,
        started_at=HOSTILE,
        threads=(thread(name=HOSTILE, state_name=HOSTILE, scheduling=scheduling()),),
        descriptors=(
            descriptor(3, target=HOSTILE, description=HOSTILE, details={HOSTILE: HOSTILE}, origin=origin, type=HOSTILE),
            msgspec.structs.replace(sock, served_by=served, description=HOSTILE, origin=origin),
        ),
        trace=trace(
            descriptors=whole,
            sockets=sockets,
            confidence=confidence(ledger_matches_proc=False, ledger_differences=(difference,)),
        ),
    )


class _Page(html.parser.HTMLParser):
    """The elements of a page, and the attributes that could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.dangerous: list[tuple[str, str | None]] = []
        self.policy = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in {"meta", "link", "input", "br", "img"}:
            self.open.append(tag)
        for name, value in attributes:
            is_own_link = name == "href" and (value or "").startswith(("#", "data:,"))
            if (name in {"src", "href", "style", "action", "srcdoc"} and not is_own_link) or name.startswith("on"):
                self.dangerous.append((name, value))
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


REPORTS = {
    "empty": report(),
    "plain": report(process()),
    "unreadable": report(
        process(
            threads=None, descriptors=None, limits=None, memory=Memory(), executable=None, user=None, started_at=None
        )
    ),
    "scheduling": report(process(threads=(thread(scheduling=scheduling()),), trace=trace())),
    "no octaves": report(
        process(
            threads=(
                thread(
                    scheduling=scheduling(run_queue_latency_ns=msgspec.structs.replace(latency(5000), octaves=None))
                ),
            ),
            trace=trace(),
        )
    ),
    "nothing happened": report(process(trace=trace(duration_ns=0, descriptors=churn((), ())))),
    "ended": report(
        process(
            threads=(),
            descriptors=(),
            trace=trace(ended_by="target", ended_threads=(EndedThread(7, "gone", scheduling()),)),
        )
    ),
    "server": report(server(20, 100)),
    "two": report(process(), process(pid=2, name="other")),
    "hostile": report(hostile()),
}


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_well_formed_and_loads_nothing(name: str) -> None:
    text = render_html(with_findings(REPORTS[name]))
    page = _Page(text)
    assert page.open == []
    assert page.dangerous == []
    assert page.elements.count("script") == page.elements.count("style") == 1
    assert "img" not in page.elements
    assert not re.search(r"https?://|@import|url\(", text)
    assert ">None<" not in text


def test_policy_allows_the_pages_own_style_and_script_alone() -> None:
    text = render_html(REPORTS["server"])
    policy = dict(rule.strip().split(" ", 1) for rule in _Page(text).policy.split(";"))
    assert policy["default-src"] == "'none'"
    for element in ("style", "script"):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"


def test_script_holds_nothing_of_the_report() -> None:
    scripts = {re.findall("<script>.*?</script>", render_html(REPORTS[name]), re.DOTALL)[0] for name in REPORTS}
    assert len(scripts) == 1


def test_hostile_text_is_shown_escaped() -> None:
    text = render_html(with_findings(REPORTS["hostile"]))
    for character in "\x1b\u202e\u2066\x00":
        assert character not in text
    assert "\\u202egnp\\u2066" in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "49" not in re.findall(r"`(.{0,20})&amp;amp;", text)[0]  # a name is no template


def test_page_grows_no_faster_than_what_it_shows() -> None:
    def cost(threads: int, descriptors: int) -> tuple[float, int]:
        """CPU seconds, whatever else the machine does, and bytes."""
        shown = with_findings(report(server(threads, descriptors)))
        began = time.process_time()
        size = len(render_html(shown).encode())
        return time.process_time() - began, size

    few = [cost(20, 200) for _ in range(3)]
    seconds, size = cost(100, 1000)
    assert size < 2 << 20
    assert seconds < 2 * 5 * min(one[0] for one in few)
    assert size < 5 * few[0][1]


def test_stacks_are_written_once() -> None:
    text = render_html(with_findings(report(server(2, 1000))))
    assert text.count("start_thread+0x80") == 3  # a suspect's, a call site's, and that of what is open
    assert text.count('href="#p1-stack-1"') == 101  # of 100 descriptors, and of a socket's story


def test_page_of_a_real_process_and_of_its_saved_report_are_one(threadinfo: Run, tmp_path: Path) -> None:
    saved = tmp_path / "r.json"
    assert threadinfo(os.getpid(), "--format", "json", "-o", saved).returncode == 0
    shown = threadinfo("show", saved, "--format", "html")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert threadinfo("show", saved, "--format", "html", "-o", tmp_path / "r.html").returncode == 0
    assert (tmp_path / "r.html").read_text() == shown.stdout
    assert f"process {os.getpid()}</small>" in shown.stdout
    straight = threadinfo(os.getpid(), "--format", "html")
    assert straight.stdout.startswith("<!DOCTYPE html>")


def test_page_from_a_report_with_impossible_values_is_an_error(threadinfo: Run) -> None:
    absurd = report(process(threads=(thread(scheduling=scheduling(on_cpu_ns=1 << 62)),), trace=trace()))
    text = render_json(absurd).replace(str(1 << 62), str(10**400))
    result = threadinfo("show", "-", "--format", "html", input=text)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [["1"], ["show", "-"]], ids=["report", "show"])
def test_page_is_not_written_to_a_terminal(command: list[str]) -> None:
    terminal, other_end = pty.openpty()
    try:
        result = subprocess.run(
            [sys.executable, "-m", "threadinfo", *command, "--format", "html"],
            stdin=subprocess.DEVNULL, stdout=other_end, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(other_end)
    assert result.returncode == 2
    assert "-o page.html" in result.stderr


def test_wheel_has_the_pages_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for file in (ROOT / "src" / "threadinfo" / "render" / "page").iterdir():
        assert f"threadinfo/render/page/{file.name}" in names
