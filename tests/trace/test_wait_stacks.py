"""Where in the program waits began: each function's share of one wait, against the program's own clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trace.test_descriptors import Traced, build, trace
from threadinfo.render.html import render_html
from threadinfo.render.json import parse_json
from threadinfo.render.text.report import render_text

pytestmark = pytest.mark.usefixtures("bpf")
ARGUMENTS = ["PID", "--trace", "600", "--only", "waits", "--format", "json"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wait_places", tmp_path_factory.mktemp("waits"), "-pthread")


@pytest.fixture(scope="module")
def traced(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    done = trace([str(program)], ARGUMENTS, output=tmp_path_factory.mktemp("traced") / "report.json")
    assert done.status == 0, done.errors
    return done


def main_thread(traced: Traced) -> dict[str, Any]:
    """The one that counts itself."""
    report = traced.report()
    (main,) = [one for one in report["threads"] if one["tid"] == report["pid"]]
    return dict(main)


def waits_of(traced: Traced, call: str, kind: str) -> dict[str, Any]:
    """The wait of the main thread that has this call and kind of object."""
    waits = [one for one in main_thread(traced)["waits"] if one["syscall"] == call and one["object"]["kind"] == kind]
    return dict(max(waits, key=lambda one: one["sum_ns"]))


def stacks_of(wait: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the function that they are innermost in."""
    first = {"stack": wait["stack"], "count": wait["stack_count"], "sum_ns": wait["stack_ns"]}
    return {one["stack"][0].partition("+")[0]: one for one in (first, *wait["other_stacks"])}


@pytest.mark.parametrize(("call", "kind"), [("read", "descriptor"), ("futex", "lock")])
def test_each_function_has_its_share_of_the_wait(call: str, kind: str, traced: Traced) -> None:
    truths = {one["name"]: one for one in json.loads(traced.said) if one["call"] == call}
    wait, queued_ns = waits_of(traced, call, kind), main_thread(traced)["scheduling"]["run_queue_ns"]
    found = stacks_of(wait)
    assert set(truths) <= set(found)
    for name, truth in truths.items():
        assert found[name]["stack"][1].startswith("main+"), name
        # A partner may be done before it is waited for; the program's clock runs on while it is queued afterwards.
        assert 0.9 * truth["count"] <= found[name]["count"] <= truth["count"], name
        assert 0.95 * truth["ns"] - queued_ns <= found[name]["sum_ns"] <= 1.01 * truth["ns"], name
    longest = max(truths.values(), key=lambda one: one["ns"])
    assert wait["stack"][0].startswith(f"{longest['name']}+")
    assert sum(one["sum_ns"] for one in found.values()) <= wait["sum_ns"]


def test_a_lock_says_where_it_is_waited_for(traced: Traced) -> None:
    (lock,) = traced.report()["trace"]["locks"]
    assert lock["stack"][0].startswith("lock_long+")


def test_text_and_page_show_where_waits_began(traced: Traced) -> None:
    report = parse_json(traced.output.encode(), "report")
    short, whole, page = render_text(report), render_text(report, verbose=True), render_html(report)
    assert "waited at lock_long+" in short
    assert " % at read_long+" in whole
    assert "called from main+" in whole
    for name in ("read_often", "read_long", "lock_often", "lock_long"):
        assert f">{name} [wait_places]" in page  # a box of the flame graph


def test_without_stacks_nothing_is_copied(program: Path, tmp_path: Path) -> None:
    done = trace([str(program)], [*ARGUMENTS, "--no-stacks"], output=tmp_path / "report.json")
    assert done.status == 0, done.errors
    for thread in done.report()["threads"]:
        for wait in thread["waits"]:
            assert (wait["stack"], wait["stack_ns"], wait["other_stacks"]) == ([], 0, [])
