"""The page in Debian's chromium, headless: nothing is requested or complained of, and tables sort and filter."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.render.test_html import REPORTS, hostile
from tests.reports import process, report, server
from threadinfo.findings import with_findings
from threadinfo.model import Failure, Lock, LockHolder, LockUse, ProcessReport, Report
from threadinfo.render.html import render_html

api = pytest.importorskip("playwright.sync_api")

SERVER = server(20, 100)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests here: starting it takes longer than each of them."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None and not os.environ.get("CI"):
        pytest.skip("needs chromium: apt-get install chromium")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a report; afterwards nothing may have been asked of a network, and nothing complained of."""
    contexts: list[Any] = []
    said: list[str] = []
    asked: list[str] = []
    file = tmp_path / "report.html"

    def show_report(shown: Report | ProcessReport, **options: Any) -> Any:
        whole = shown if isinstance(shown, Report) else report(shown)
        file.write_text(render_html(with_findings(whole)), encoding="utf-8")
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield show_report
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if url != "data:,"} == {file.as_uri()}


def column(page: Any, table: str, number: int, attribute: str | None = None) -> list[str]:
    """What stands in one column of the rows that are shown."""
    script = """([table, number, attribute]) => [...document.querySelectorAll(`table.${table} tbody tr`)]
        .filter((row) => row.checkVisibility())
        .map((row) => attribute ? row.cells[number].getAttribute(attribute) : row.cells[number].textContent.trim())"""
    return list(page.evaluate(script, [table, number, attribute]))


@pytest.mark.parametrize("name", REPORTS)
def test_any_page_opens_without_a_word(name: str, show: Open) -> None:
    page = show(REPORTS[name])
    assert "threadinfo" in page.locator("footer").inner_text()


def test_charts_have_the_numbers_of_the_report(show: Open) -> None:
    page = show(SERVER)
    threads = {thread.tid: thread.scheduling for thread in SERVER.threads or () if thread.scheduling}
    rows = page.locator("table.times tbody tr")
    assert rows.count() == len(threads)
    assert SERVER.trace is not None
    for row in rows.all():
        traced = threads[int(row.locator("th small").inner_text())]
        width = float(row.locator("rect.running").get_attribute("width").rstrip("%"))
        assert width == pytest.approx(100 * traced.on_cpu_ns / SERVER.trace.duration_ns, abs=0.01)
        assert int(row.locator("td[data-n]").first.get_attribute("data-n")) == traced.on_cpu_ns
    for row in page.locator("table.latencies tbody tr").all():
        latency = threads[int(row.locator("th small").inner_text())].run_queue_latency_ns
        counts = [int(title.split(" of ")[0]) for title in row.locator("rect.cell title").all_text_contents()]
        assert counts == [count for _, count in sorted((latency.octaves or {}).items())]
        shown = [cell.get_attribute("data-n") for cell in row.locator("td[data-n]").all()]
        assert shown == [str(latency.p50), str(latency.p90), str(latency.p99), str(latency.max)]
    churn = SERVER.trace.descriptors
    assert churn is not None
    titles = page.locator("svg.churn .hover title").all_text_contents()
    expected = zip(churn.opened_per_interval, churn.closed_per_interval, strict=True)
    for title, (opened, closed) in zip(titles, expected, strict=True):
        assert f"{opened} opened, {closed} closed" in title
    assert page.locator("svg.columns rect").count() == len(churn.lifetime_ns.octaves or ())
    assert page.locator("table.suspects tbody tr").count() == 1
    assert column(page, "sites", 3) == ["400", "60", "5"]
    assert page.locator("table.stories tbody tr").count() == 1
    assert "bound to 127.0.0.1:5000" in page.locator("table.stories").text_content()
    numbers = [finding.kind for finding in with_findings(report(SERVER)).processes[0].findings]
    assert page.locator(".findings li").count() == len(numbers) > 2


def test_every_chart_is_visible_and_has_its_colours(show: Open) -> None:
    page = show(SERVER)
    for selector in ("rect.running", "rect.queued", "rect.cell", "rect.born", "rect.died"):
        box = page.locator(f"svg {selector}").first.bounding_box()
        assert box["width"] > 1
        assert box["height"] > 5
        colour = page.locator(f"svg {selector}").first.evaluate("(rect) => getComputedStyle(rect).fill")
        assert colour not in {"rgb(0, 0, 0)", "none"}


def test_tables_sort_by_number_and_by_word_and_say_so(show: Open) -> None:
    page = show(SERVER)
    head = page.locator("table.latencies th", has_text="p99")
    assert head.get_attribute("aria-sort") is None
    head.locator("button").focus()
    page.keyboard.press("Enter")
    values = [int(value) for value in column(page, "latencies", 5, "data-n")]
    assert values == sorted(values, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert [int(value) for value in column(page, "latencies", 5, "data-n")] == values[::-1]
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("table.threads th button", has_text="Name").click()
    names = column(page, "threads", 1)
    assert names == sorted(names)
    page.locator("table.descriptors th button", has_text="FD").click()
    assert column(page, "descriptors", 0)[:3] == ["99", "98", "97"]


def test_tables_filter_by_words(show: Open) -> None:
    page = show(SERVER)
    tools = page.locator("xpath=//table[contains(@class, 'descriptors')]/../preceding-sibling::div[1]")
    tools.locator("input").fill("LISTEN web 3")
    assert column(page, "descriptors", 0) == []
    tools.locator("input").fill("socket Web")
    assert column(page, "descriptors", 0) == [str(fd) for fd in range(3, 100, 10)]
    assert tools.locator("output").inner_text() == "10 of 100 rows"
    tools.locator("input").fill("")
    assert len(column(page, "descriptors", 0)) == 100


def test_everything_is_there_without_scripts(show: Open) -> None:
    page = show(SERVER, java_script_enabled=False)
    assert page.locator("table.descriptors tbody tr").count() == 100
    assert page.locator("table.threads tbody tr").last.is_visible()
    assert page.locator("th button, input").count() == 0
    folded = page.locator("table.suspects th details")
    assert not folded.locator("li").first.is_visible()
    folded.locator("summary").click()
    assert "start_thread" in folded.inner_text()


def test_a_link_to_a_stack_unfolds_it(show: Open) -> None:
    page = show(SERVER)
    page.locator("table.descriptors a").first.click()
    assert page.locator("#p1-stack-1").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme: str, show: Open) -> None:
    """WCAG's 4.5 to 1, for what is written in soft and in signal colours too."""
    page = show(SERVER, color_scheme=scheme)
    for selector in ("body", ".soft", ".findings .tag", ".findings .rule", "thead th", "summary", "nav a", "svg text"):
        ratio = page.evaluate(
            """(selector) => {
                const light = (colour) => {
                    const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => part / 255)
                        .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
                };
                const element = document.querySelector(selector);
                const style = getComputedStyle(element);
                const ink = light(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
                let below = element;
                while (getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)") below = below.parentElement;
                const paper = light(getComputedStyle(below).backgroundColor);
                return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
            }""",
            selector,
        )
        assert ratio >= 4.5, selector


@pytest.mark.parametrize("shown", [SERVER, hostile(), process()], ids=["server", "hostile", "plain"])
def test_page_is_never_wider_than_the_screen(shown: ProcessReport, show: Open) -> None:
    page = show(shown, viewport={"width": 1280, "height": 800})
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 800])
def test_times_of_who_delayed_whom_are_on_a_narrow_screen(width: int, show: Open) -> None:
    page = show(SERVER, viewport={"width": width, "height": 800})
    cells = page.locator("table.delays tbody td.n")
    assert cells.count() >= 2
    for cell in cells.all():
        box = cell.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= width


@pytest.mark.parametrize(
    ("seconds", "columns"),
    [(10.0, 10), (9.5, 10), (9.03, 9), (12.0, 12)],  # the report knows of ten, and in the rest nothing happened
)
def test_descriptors_over_time_are_drawn_to_the_end_of_the_trace(seconds: float, columns: int, show: Open) -> None:
    assert SERVER.trace is not None
    assert SERVER.trace.descriptors is not None
    churn = SERVER.trace.descriptors
    took = msgspec.structs.replace(SERVER.trace, duration_ns=int(seconds * 1e9))
    page = show(msgspec.structs.replace(SERVER, trace=took))
    hovers = page.locator("svg.churn .hover")
    assert hovers.count() == columns
    places = [(float(one.get_attribute("x").rstrip("%")), float(one.get_attribute("width").rstrip("%")))
              for one in hovers.all()]  # fmt: skip
    assert sum(places[-1]) == pytest.approx(100, abs=0.02)
    assert places[-1][1] / places[0][1] == pytest.approx(seconds - columns + 1, abs=0.01)
    assert page.locator("svg.churn .tick").last.text_content() == f"{seconds:.3g} s"
    titles = page.locator("svg.churn .hover title").all_text_contents()
    told = [int(re.search(r": (\d+) opened", title)[1]) for title in titles]  # type: ignore[index]
    assert sum(told) == sum(churn.opened_per_interval)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (800, 800), (400, 740)])
def test_first_screen_has_the_first_finding(width: int, height: int, show: Open) -> None:
    page = show(SERVER, viewport={"width": width, "height": height})
    box = page.locator(".findings .what").first.bounding_box()
    assert box["y"] + box["height"] <= height


@pytest.mark.parametrize("width", [1280, 400])
def test_names_of_errors_stay_in_one_line(width: int, show: Open) -> None:
    assert SERVER.trace is not None
    assert SERVER.trace.descriptors is not None
    failed = msgspec.structs.replace(SERVER.trace.descriptors, failures=(Failure("connect", "ECONNREFUSED", 24),))
    whole = msgspec.structs.replace(SERVER.trace, descriptors=failed)
    page = show(msgspec.structs.replace(SERVER, trace=whole), viewport={"width": width, "height": 800})
    script = """(cell) => [...cell.textContent.matchAll(/\\S+/g)].map((word) => {
        const range = document.createRange();
        range.setStart(cell.firstChild, word.index);
        range.setEnd(cell.firstChild, word.index + word[0].length);
        return new Set([...range.getClientRects()].map((line) => line.top)).size;
    })"""
    lines = page.locator(".counts td", has_text="ECONNREFUSED").evaluate(script)
    assert lines == [1, 1]


def test_locks_have_their_holders_and_their_waiters(show: Open) -> None:
    assert SERVER.trace is not None
    waiters = tuple(LockUse(20 + number, f"waiter-{number}", 3, 10**9) for number in range(6))
    lock = Lock(
        address=0x7F12AB,
        count=18,
        wait_ns=6 * 10**9,
        max_ns=10**9,
        percent=60.0,
        waiters=waiters,
        held_by=(LockHolder(1, 9, "<holder>", 18, 6 * 10**9),),
        released_by=(),
    )
    others = tuple(msgspec.structs.replace(lock, address=address, held_by=(), waiters=()) for address in range(45))
    whole = msgspec.structs.replace(SERVER.trace, locks=(lock, *others))
    page = show(msgspec.structs.replace(SERVER, trace=whole))
    cells = page.locator("table.locks tbody tr").first.locator("th, td").all_inner_texts()
    assert cells[:4] == ["0x7f12ab", "6.00 s", "60.0 %", "<holder> 9 6.00 s"]
    assert cells[4].splitlines() == [*(f"waiter-{number} {20 + number} 1.00 s" for number in range(4)), "and 2 more"]
    assert page.locator("table.locks tbody tr").count() == 40
    assert "6 others" in page.locator("h2:text('Locks') + .about").inner_text()


def test_a_leak_has_its_path_and_its_threads_before_its_address(show: Open) -> None:
    cell = show(SERVER).locator("table.suspects tbody th").first.inner_text()
    assert cell.index("/var/log/app.log") < cell.index("reloader") < cell.index("open_log")


def test_print_shows_every_row_and_what_is_folded(show: Open) -> None:
    page = show(SERVER)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("table.suspects th details li").first.is_visible()
    assert not page.locator("nav").is_visible()
    region = page.locator("table.descriptors").locator("xpath=..")
    assert region.evaluate("(box) => box.scrollHeight <= box.clientHeight + 1")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert not page.locator("table.suspects th details li").first.is_visible()
