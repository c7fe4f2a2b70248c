"""Where the program makes its descriptors, and what leaks: against what the workloads counted themselves."""

from __future__ import annotations

import functools
import http.server
import json
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKLOADS, Run
from tests.trace.test_descriptors import Traced, build, trace
from threadinfo.render.json import parse_json
from threadinfo.render.text.report import render_text

pytestmark = pytest.mark.usefixtures("bpf")

NEEDED_TO_LINK = {".dynsym", ".gnu.hash"}

PLACES = {
    ("two_in_one",): 101 + 103,
    ("wrapper", "first_caller", "main"): 107,
    ("wrapper", "second_caller", "main"): 109,
    ("wrapper", "first_caller", "in_thread"): 23,
    ("on_signal",): 127,
    ("varies",): 131,
    ("recursive",): 113,
}


def churn(traced: Traced) -> Any:
    return traced.report()["trace"]["descriptors"]


def functions(stack: Iterable[str]) -> tuple[str, ...]:
    return tuple(frame.split("+", 1)[0] for frame in stack)


def opened_at(sites: list[Any], place: tuple[str, ...]) -> int:
    """Births whose innermost frames are in these functions."""
    return sum(site["opened_count"] for site in sites if functions(site["stack"])[: len(place)] == place)


@pytest.fixture(scope="module", params=["dynamic", "static"])
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    directory = tmp_path_factory.mktemp("call_sites")
    options = ["-O1", "-pthread"]
    if request.param == "static":
        program = build("call_sites", directory, *options, "-static")
    else:
        library = directory / "libdeep.so"
        flags = ["-O2", "-fPIC", "-shared", "-fomit-frame-pointer", "-s"]
        subprocess.run(["cc", *flags, "-o", library, WORKLOADS / "call_sites_library.c"], check=True)
        program = build("call_sites", directory, *options, "-DWITH_LIBRARY", "-Wl,--no-as-needed", str(library))
    arguments = ["PID", "--trace", "60", "--only", "descriptors", "--format", "json"]
    return trace([str(program)], arguments, output=directory / "report.json")


def test_each_place_has_the_births_that_it_made(places: Traced) -> None:
    sites = churn(places)["by_call_site"]
    assert {place: opened_at(sites, place) for place in PLACES} == PLACES
    stacks = churn(places)["stacks"]
    assert (stacks["unattributed_count"], stacks["attributed_count"]) == (0, churn(places)["opened_count"])


def test_without_stacks_all_is_counted_and_no_place_is_told(tmp_path: Path) -> None:
    program = build("call_sites", tmp_path, "-O1", "-pthread", "-static")
    arguments = ["PID", "--trace", "60", "--only", "descriptors", "--no-stacks", "--format", "json"]
    traced = trace([str(program)], arguments, output=tmp_path / "report.json")
    assert churn(traced)["opened_count"] >= sum(PLACES.values())
    assert churn(traced)["stacks"] is None
    assert not churn(traced)["by_call_site"]
    assert traced.report()["trace"]["confidence"]["ledger_matches_proc"] is True
    assert not any("site" in gap["section"] for gap in traced.report()["gaps"])
    assert "Call Sites" not in render_text(parse_json(traced.output.encode(), "report"), verbose=True)


def test_two_sites_in_one_function_are_two(places: Traced) -> None:
    sites = [site for site in churn(places)["by_call_site"] if functions(site["stack"])[:1] == ("two_in_one",)]
    assert sorted(site["opened_count"] for site in sites) == [101, 103]


def test_recursion_is_shown_once(places: Traced) -> None:
    sites = [site for site in churn(places)["by_call_site"] if functions(site["stack"])[:1] == ("recursive",)]
    assert all(functions(site["stack"]).count("recursive") <= 2 for site in sites)
    assert sum(site["opened_count"] for site in sites) == 113


def test_site_in_a_stripped_library_is_told_by_file_and_offset_and_by_who_called_it(places: Traced) -> None:
    deep = [site for site in churn(places)["by_call_site"] if site["library"] == "libdeep.so"]
    if not deep:
        assert any(site["library"] == "call_sites" for site in churn(places)["by_call_site"])  # the static one
        return
    assert [site["opened_count"] for site in deep] == [137]
    (inner, exported, caller, *_) = deep[0]["stack"]
    assert inner.startswith("0x")
    assert (functions([exported, caller]), exported.split()[1]) == (("library_open", "main"), "[libdeep.so]")


@pytest.fixture(scope="module")
def leaks(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    directory = tmp_path_factory.mktemp("leaks")
    program = build("leaks", directory, "-O1")
    arguments = ["PID", "--trace", "60", "--only", "descriptors", "--format", "json"]
    return trace([str(program), "1499", "limit"], arguments, output=directory / "report.json")


def test_leak_is_suspected_and_nothing_else(leaks: Traced) -> None:
    said = json.loads(leaks.said)
    suspects = churn(leaks)["leak_suspects"]
    assert [functions(suspect["stack"]) for suspect in suspects] == [("leaks_one_in_seven", "main")]
    suspect = suspects[0]
    assert (suspect["surviving_count"], suspect["opened_count"]) == (said["leaked"], said["rounds"])
    assert said["pool"] == 97


def test_leak_is_projected_to_the_limit(leaks: Traced) -> None:
    said, report = json.loads(leaks.said), leaks.report()
    suspect = churn(leaks)["leak_suspects"][0]
    rate = said["leaked"] / said["seconds"]
    assert suspect["growth_per_minute"] == pytest.approx(60 * rate, rel=0.1)
    left = report["limits"]["open_files"]["soft"] - len(report["descriptors"])
    assert suspect["seconds_to_limit"] == pytest.approx(left / rate, rel=0.1, abs=0.1)


def test_calls_that_found_the_table_full(leaks: Traced) -> None:
    said, trace_of = json.loads(leaks.said), churn(leaks)
    assert said["failed"] == 13
    assert [(one["error"], one["count"]) for one in trace_of["limit_failures"]] == [("EMFILE", 13)]
    failed = Counter({functions(one["stack"])[:1]: one["limit_failed_count"] for one in trace_of["by_call_site"]})
    assert +failed == {("fails",): 13}


def test_paths_are_counted(leaks: Traced) -> None:
    said = json.loads(leaks.said)
    counts = {one["path"]: one["opened_count"] for one in churn(leaks)["by_path"]}
    assert counts == {"/dev/null": said["rounds"], "/dev/zero": said["rounds"], "/dev/full": 5}


def test_text_report_names_the_leak_and_those_that_failed(leaks: Traced) -> None:
    text = render_text(parse_json(leaks.output.encode(), "report"))
    suspects = text[text.index("=== Leak Suspects ===") :]
    assert suspects.splitlines()[1] == "device: /dev/null"
    assert re.search(r"^  at leaks_one_in_seven\+", suspects, re.MULTILINE)
    assert "13 calls failed (EMFILE)" in text
    assert max(map(len, suspects.partition("\n=== Call Sites")[0].splitlines())) <= 80


def test_library_whose_tables_are_damaged_costs_its_own_stacks_only(tmp_path: Path) -> None:
    library = tmp_path / "libdeep.so"
    flags = ["-O2", "-fPIC", "-shared", "-fomit-frame-pointer", "-s"]
    subprocess.run(["cc", *flags, "-o", library, WORKLOADS / "call_sites_library.c"], check=True)
    sections = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    data = bytearray(library.read_bytes())
    for line in sections.splitlines():
        words = line.replace("[", " ").replace("]", " ").split()
        if len(words) > 5 and words[1] in {".eh_frame", ".eh_frame_hdr", ".dynsym", ".gnu.hash"} - NEEDED_TO_LINK:
            start, size = int(words[4], 16), int(words[5], 16)
            data[start : start + size] = bytes(0xFF - index % 7 for index in range(size))
    program = build("call_sites", tmp_path, "-O1", "-pthread", "-DWITH_LIBRARY", "-Wl,--no-as-needed", str(library))
    library.write_bytes(data)
    arguments = ["PID", "--trace", "60", "--only", "descriptors", "--format", "json"]
    traced = trace([str(program)], arguments, output=tmp_path / "report.json")
    sites = churn(traced)["by_call_site"]
    assert {place: opened_at(sites, place) for place in PLACES} == PLACES
    assert not any("library_open" in site["stack"][0] for site in sites if site["opened_count"] == 137)
    (gap,) = [gap for gap in traced.report()["gaps"] if gap["section"] == "call sites"]
    assert "libdeep.so" in gap["cause"]


def serve_debug_file(program: Path, directory: Path) -> tuple[http.server.ThreadingHTTPServer, str]:
    """Takes a program's debug information away, and serves it by its build-id, as debuginfod(8) does."""
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True).stdout
    build_id = notes.partition("Build ID:")[2].split()[0]
    place = directory / "buildid" / build_id
    place.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", program, place / "debuginfo"], check=True)
    subprocess.run(["strip", program], check=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def test_debug_files_are_fetched_when_that_is_asked_for_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = build("leaks", tmp_path, "-O1", "-g")
    server, address = serve_debug_file(program, tmp_path / "server")
    monkeypatch.setenv("DEBUGINFOD_URLS", f"{address}/nothing-here {address}")
    arguments = ["PID", "--trace", "60", "--only", "descriptors", "--format", "json"]
    without = trace([str(program), "11"], arguments, output=tmp_path / "without.json")
    asked = trace([str(program), "11"], [*arguments, "--debuginfod"], output=tmp_path / "asked.json")
    server.shutdown()
    assert not any("leaks_none" in site["stack"][0] for site in churn(without)["by_call_site"])
    (clean,) = [site for site in churn(asked)["by_call_site"] if site["stack"][0].startswith("leaks_none+")]
    assert clean["opened_count"] == 11
    assert " leaks.c:" in clean["stack"][0]


def test_debuginfod_without_servers_is_wrong_usage(threadinfo: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for servers in ("", "file:///etc"):
        monkeypatch.setenv("DEBUGINFOD_URLS", servers)
        result = threadinfo("1", "--trace", "1", "--debuginfod")
        assert result.returncode == 2
        assert "DEBUGINFOD_URLS" in result.stderr


MANY = 400


def build_many(directory: Path) -> list[str]:
    """A program and as many libraries, each with an inode and a build-id of its own."""
    program, library, mark = build("many_libraries", directory), directory / "library.so", b"\xa5" * 20
    flags = ["-O2", "-g", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-fPIC", "-shared", "-DLIBRARY"]
    source = WORKLOADS / "many_libraries.c"
    subprocess.run(["cc", *flags, f"-Wl,--build-id=0x{mark.hex()}", "-o", library, source], check=True)
    content = library.read_bytes()
    assert content.count(mark) == 1
    paths = [directory / f"library-{number}.so" for number in range(MANY)]
    for number, path in enumerate(paths):
        path.write_bytes(content.replace(mark, number.to_bytes(len(mark), "big")))
    return [str(program), *map(str, paths)]


def test_program_of_400_libraries_has_every_stack_whole(tmp_path: Path) -> None:
    command = build_many(tmp_path)
    arguments = ["PID", "--trace", "600", "--only", "descriptors", "--format", "json"]
    traced = trace(command, arguments, output=tmp_path / "report.json")
    assert traced.said == f"{MANY}\n", traced.errors
    stacks = churn(traced)["stacks"]
    assert (stacks["problems"], stacks["unwound_count"], stacks["complete_count"]) == ({}, MANY, MANY)
    assert (stacks["site_count"], stacks["attributed_count"], stacks["unattributed_count"]) == (MANY, MANY, 0)
    opened = [one for one in traced.report()["descriptors"] if one["target"] == "/dev/null" and one["origin"]]
    ways = {tuple(frame.rsplit("(", 1)[-1] for frame in one["origin"]["stack"]) for one in opened}
    assert (len(opened), len(ways)) == (MANY, MANY)
