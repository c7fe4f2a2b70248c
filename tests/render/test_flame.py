"""The flame graph of wall time: its widths are the report's nanoseconds, in a browser with and without scripts."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from tests.render.test_html_browser import Open, browser, show  # noqa: F401 - fixtures
from tests.render.test_text_waits import FSYNC, LOCKED, WINDOW_NS, idle, server, traced
from tests.reports import SECOND_NS, process
from threadinfo.model import CpuSample, CpuTime, ProcessReport, Thread
from threadinfo.render.flame import flame, time_rows

BOX = re.compile(
    r'<svg x="([\d.]+)%" y="(\d+)" width="([\d.]+)%" height="17" data-d="(\d+)" data-v="(\d+)"><rect class="(\w+)"'
    r'.*?<text x="4" y="12">(.*?)</text>'
)
STACKS = (
    CpuSample(7, ("spin+0x2 [server]", "main+0x3 [server]"), False),
    CpuSample(3, ("main+0x9 [server]",), True),
)


def sampled(tid: int, name: str) -> Thread:
    """On the CPU for two seconds, of which 70 % in spin; three in waits within work; the rest is waiting for work."""
    thread = traced(tid, name, FSYNC, LOCKED, on_cpu_ns=2 * SECOND_NS)
    return msgspec.structs.replace(thread, cpu=CpuTime(samples=STACKS, sample_period_ns=10_000_000), waits_other_ns=0)


def threads_of_one_process(count: int = 3) -> ProcessReport:
    return server(sampled(7, "worker"), *map(idle, range(100, 100 + count)))


def boxes(one: ProcessReport) -> list[tuple[float, float, int, int, str, str]]:
    """(left, width, depth, nanoseconds, kind, name) of each box."""
    drawn = flame(one)
    assert drawn is not None
    found = [
        (float(left), float(width), int(depth), int(ns), kind, name)
        for left, _, width, depth, ns, kind, name in BOX.findall(str(drawn))
    ]
    assert len(found) == str(drawn).count("data-d=")
    return found


def test_boxes_add_up_and_are_as_wide_as_their_time() -> None:
    found = boxes(threads_of_one_process())
    whole_ns = found[0][3]
    assert whole_ns == 5 * SECOND_NS + 3 * (WINDOW_NS - SECOND_NS // 100 + SECOND_NS // 100)
    by_name = {name: (ns, kind) for _, _, _, ns, kind, name in found}
    assert by_name["worker 7"] == (5 * SECOND_NS, "whole")
    assert by_name["spin [server]"] == (round(1.4 * SECOND_NS), "running")
    assert by_name["[kernel]"] == (round(0.6 * SECOND_NS), "running")
    assert by_name["waiting within work"] == (3 * SECOND_NS, "stuck")
    assert by_name["fsync on FD 7 file: /var/log/hydrogen/7.log"] == (SECOND_NS, "stuck")
    for left, width, depth, ns, _, _ in found:
        assert width == pytest.approx(100 * ns / whole_ns, abs=0.002)
        within = [one for one in found if one[2] == depth + 1 and left - 0.01 <= one[0] < left + width - 0.01]
        assert sum(one[3] for one in within) <= ns * 1.001
        assert all(one[0] + one[1] <= left + width + 0.01 for one in within)


def test_many_threads_are_added_up_where_they_would_not_be_seen() -> None:
    found = boxes(threads_of_one_process(2003))
    assert len(found) < 100
    (others,) = [one for one in found if one[5].endswith(" others") and one[2] == 1]
    assert others[5] == "2003 others"
    assert sum(one[3] for one in found if one[2] == 1) == found[0][3]


def test_table_has_the_same_times_with_work_first() -> None:
    rows, count = time_rows(threads_of_one_process())
    assert count == len(rows)
    assert [(row.kind, row.what, row.time_ns) for row in rows[:3]] == [
        ("running", "on CPU", 2 * SECOND_NS),
        ("stuck", "lock of writer 9 0x7f1200", 2 * SECOND_NS),
        ("stuck", "fsync on FD 7 file: /var/log/hydrogen/7.log", SECOND_NS),
    ]
    assert [row.kind for row in rows[-3:]] == ["sleeping"] * 3
    assert sum(row.time_ns for row in rows) == boxes(threads_of_one_process())[0][3]


def test_without_a_trace_there_is_none() -> None:
    assert flame(process()) is None
    assert time_rows(process()) == ([], 0)


def test_hostile_names_are_text() -> None:
    drawn = str(flame(server(sampled(7, 'a"</title><script>alert(1)</script>\x1b'))))
    assert "<script" not in drawn
    assert "\x1b" not in drawn


def shown(page: Any) -> dict[str, float]:
    """The names of the boxes that are shown, and their widths in percent."""
    script = """() => [...document.querySelectorAll("svg.flame > svg:not([hidden])")]
        .map((box) => [box.querySelector("text").textContent, parseFloat(box.getAttribute("width"))])"""
    return dict(page.evaluate(script))


def box(page: Any, name: str) -> Any:
    return page.locator("svg.flame > svg", has_text=name).first


def test_a_click_zooms_and_waiting_for_work_can_be_left_out(show: Open) -> None:  # noqa: F811
    page = show(threads_of_one_process())
    whole = shown(page)  # as it begins: what only waits for work is left out
    assert "waiting for work" not in whole
    busy_ns = 5 * SECOND_NS + 3 * SECOND_NS // 100
    assert whole["worker 7"] == pytest.approx(100 * 5 * SECOND_NS / busy_ns, abs=0.1)
    assert whole["spin [server]"] == pytest.approx(100 * 1.4 * SECOND_NS / busy_ns, abs=0.1)
    page.locator(".flames input[type=checkbox]").uncheck()
    assert shown(page)["worker 7"] == pytest.approx(100 * 5 / 35, abs=0.1)
    assert shown(page)["waiting for work"] > 20
    box(page, "waiting within work").click()
    assert shown(page)["waiting within work"] == 100
    assert shown(page)["lock of writer 9 0x7f1200"] == pytest.approx(66.67, abs=0.1)
    assert "spin [server]" not in shown(page)
    assert "waiting within work: 8.6 % of all" in page.locator(".flames output").inner_text()
    page.locator(".flames button").click()
    assert shown(page)["worker 7"] == pytest.approx(100 * 5 / 35, abs=0.1)


def test_keys_go_about_and_a_search_says_how_much_it_found(show: Open) -> None:  # noqa: F811
    page = show(threads_of_one_process())
    page.locator("svg.flame > svg").first.focus()
    name = "document.activeElement.querySelector('text').textContent"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(name) == "worker 7"
    page.keyboard.press("Enter")
    assert shown(page)["worker 7"] == 100
    page.keyboard.press("ArrowDown")
    first = page.evaluate(name)
    page.keyboard.press("ArrowRight")
    assert {first, page.evaluate(name)} == {"on CPU", "waiting within work"}
    page.keyboard.press("Escape")
    assert shown(page)["worker 7"] < 100
    page.locator(".flames input[type=search]").fill("spin")
    assert page.locator("svg.flame > svg.found").count() == 1
    assert "Found: 27.8 % of what is shown" in page.locator(".flames output").inner_text()


def test_without_scripts_all_of_it_is_there_and_the_table_says_the_same(show: Open) -> None:  # noqa: F811
    page = show(threads_of_one_process(), java_script_enabled=False)
    assert page.locator("svg.flame > svg").count() == len(boxes(threads_of_one_process()))
    assert page.locator("table.reasons tbody tr").count() == len(time_rows(threads_of_one_process())[0])
    assert "fsync on FD 7" in page.locator("table.reasons").inner_text()
    assert page.locator(".flames input").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_in_boxes_have_contrast(scheme: str, show: Open) -> None:  # noqa: F811
    page = show(threads_of_one_process(), color_scheme=scheme)
    page.locator(".flames input[type=checkbox]").uncheck()
    ratios = page.evaluate(
        """() => [...document.querySelectorAll("svg.flame > svg")].map((box) => {
            const light = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => part / 255)
                    .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const [ink, paper] = ["text", "rect"].map((part) => light(getComputedStyle(box.querySelector(part)).fill));
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        })"""
    )
    assert min(ratios) >= 4.5
