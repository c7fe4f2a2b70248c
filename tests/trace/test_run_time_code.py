"""Frames of code that a program made at run time: named where it says the names, and a gap where it does not."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace.test_descriptors import Traced, build, trace
from threadinfo.proc.perf_map import read_perf_map
from threadinfo.proc.reader import ProcDirectory
from threadinfo.trace.stacks.perf_map import parse_perf_map

NAME = "LazyCompile:*shop.total /srv/shop.js:17"


def traced(tmp_path: Path, *arguments: str) -> Traced:
    program = build("run_time_code", tmp_path, "-fno-omit-frame-pointer")
    command = ["PID", "--trace", "600", "--only", "waits,cpu", "--frequency", "997", "--format", "json"]
    done = trace([str(program), *arguments], command, output=tmp_path / "report.json")
    assert done.status == 0, done.errors
    return done


@pytest.mark.usefixtures("bpf")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize("has_map", [True, False])
def test_code_made_at_run_time_has_the_names_that_the_program_says(has_map: bool, tmp_path: Path) -> None:
    report = traced(tmp_path, *["map"] * has_map).report()
    (main,) = report["threads"]
    through = [one for one in main["cpu"]["samples"] if "work" in one["stack"][0]]
    count = sum(one["count"] for one in through)
    named = sum(
        one["count"] for one in through if any(f.startswith(NAME) and f.endswith(" [JIT]") for f in one["stack"])
    )
    assert count > 100
    assert named >= 0.95 * count if has_map else named == 0
    (slept,) = [one for one in main["waits"] if one["syscall"] == "clock_nanosleep"]
    assert [frame.partition("+")[0] for frame in slept["stack"]][:3] == ["work", NAME, "main"] or not has_map
    gaps = [gap for gap in report["gaps"] if gap["section"] == "stacks"]
    assert [bool(gap["remedy"]) for gap in gaps] == [True] * (not has_map)


def test_later_lines_count_and_what_is_no_line_is_left_out() -> None:
    text = b"0x0000000000001000 0x0000000000000010 first\n2000 20 second of two\n"  # as Java writes, and as Node does
    text += b"zz 10 no\n3000 0 empty\n1000 8 again\n-5 3 negative\n4000\n"
    known = parse_perf_map(text)
    assert known.names == ("again", "second of two")
    assert known.find(0x1007) == ("again", 7)
    assert known.find(0x1008) is None
    assert known.find(0xFFF) is None
    assert known.find(0x201F) == ("second of two", 0x1F)


@given(st.binary(max_size=400))
def test_any_text_is_parsed(text: bytes) -> None:
    known = parse_perf_map(text)
    assert list(known.starts) == sorted(set(known.starts))
    assert all(end > start for start, end in zip(known.starts, known.ends, strict=True))


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_plain_file_is_not_read(kind: str, tmp_path: Path) -> None:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    secret = tmp_path / "secret"
    secret.write_text("1000 10 secret\n")
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    try:
        with ProcDirectory("/proc").directory(str(os.getpid())) as process:
            assert read_perf_map(process) is None
    finally:
        path.rmdir() if kind == "directory" else path.unlink()
