"""--format pprof, read again by protobuf's own parser and, where it is there, by `go tool pprof`."""

from __future__ import annotations

import gzip
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.conftest import Run
from tests.render.test_text_waits import FSYNC, LOCKED, server, traced
from tests.reports import process, report, thread, wait
from threadinfo.model import CpuSample, CpuTime, Report, WaitStack
from threadinfo.render.json import render_json
from threadinfo.render.pprof import QUEUED, render_pprof

# Of profile.proto (github.com/google/pprof, Apache License 2.0): message: (name, number, type, is repeated) each.
SCHEMA: dict[str, list[tuple[str, int, str, bool]]] = {
    "ValueType": [("type", 1, "int64", False), ("unit", 2, "int64", False)],
    "Label": [("key", 1, "int64", False), ("str", 2, "int64", False), ("num", 3, "int64", False)],
    "Sample": [("location_id", 1, "uint64", True), ("value", 2, "int64", True), ("label", 3, "Label", True)],
    "Mapping": [("id", 1, "uint64", False), ("filename", 5, "int64", False), ("has_functions", 7, "bool", False)],
    "Line": [("function_id", 1, "uint64", False), ("line", 2, "int64", False)],
    "Location": [("id", 1, "uint64", False), ("mapping_id", 2, "uint64", False), ("line", 4, "Line", True)],
    "Function": [("id", 1, "uint64", False), ("name", 2, "int64", False), ("filename", 4, "int64", False)],
    "Profile": [
        ("sample_type", 1, "ValueType", True),
        ("sample", 2, "Sample", True),
        ("mapping", 3, "Mapping", True),
        ("location", 4, "Location", True),
        ("function", 5, "Function", True),
        ("string_table", 6, "string", True),
        ("time_nanos", 9, "int64", False),
        ("duration_nanos", 10, "int64", False),
        ("period_type", 11, "ValueType", False),
        ("period", 12, "int64", False),
        ("default_sample_type", 14, "int64", False),
    ],
}
SCALARS = {"int64": 3, "uint64": 4, "bool": 8, "string": 9}
MILLISECOND = 1_000_000


def parse(data: bytes) -> Any:
    """A profile, by the library of those who made the format."""
    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package="pprof", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, is_repeated in fields:
            added = message.field.add(name=field, number=number, label=3 if is_repeated else 1)
            if kind in SCALARS:
                added.type = SCALARS[kind]  # type: ignore[assignment]
            else:
                added.type, added.type_name = 11, f".pprof.{kind}"  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    profile = message_factory.GetMessageClass(pool.FindMessageTypeByName("pprof.Profile"))()
    profile.ParseFromString(gzip.decompress(data))
    return profile


def read(one: Report) -> tuple[Any, list[tuple[list[str], dict[str, int], dict[str, str | int]]]]:
    """The profile; of each sample its frames, innermost first, its values and its labels."""
    profile = parse(render_pprof(one))
    words = profile.string_table
    assert words[0] == ""
    functions = {function.id: words[function.name] for function in profile.function}
    places = {place.id: functions[place.line[0].function_id] for place in profile.location}
    types = [words[kind.type] for kind in profile.sample_type]
    samples = [
        (
            [places[number] for number in sample.location_id],
            dict(zip(types, sample.value, strict=True)),
            {words[label.key]: words[label.str] or label.num for label in sample.label},
        )
        for sample in profile.sample
    ]
    return profile, samples


def sampled() -> Report:
    stack = ("spin+0x12 [server] spin.c:7", "main+0x3 [server] spin.c:30", "0x1234 [libc.so.6]")
    samples = (CpuSample(7, stack, False), CpuSample(3, stack[1:], True), CpuSample(2, (), False))
    cpu = CpuTime(samples=samples, sample_period_ns=10 * MILLISECOND)
    return report(process(name="p\x1b", threads=(thread(7, "worker", cpu=cpu),)))


def test_samples_of_the_cpu_are_those_of_the_report() -> None:
    profile, samples = read(sampled())
    assert [(frames, values["samples"], values["cpu"]) for frames, values, _ in samples] == [
        (["spin [server]", "main [server]", "0x1234 [libc.so.6]"], 7, 70 * MILLISECOND),
        (["[kernel]", "main [server]", "0x1234 [libc.so.6]"], 3, 30 * MILLISECOND),
        (["[unknown]"], 2, 20 * MILLISECOND),
    ]
    assert samples[0][2] == {"process": "p\\x1b", "pid": 1, "thread": "worker", "tid": 7}
    words = profile.string_table
    assert {words[function.filename] for function in profile.function} == {"", "spin.c"}
    assert [words[mapping.filename] for mapping in profile.mapping][1:] == ["server", "libc.so.6"]
    assert profile.period == 10 * MILLISECOND
    assert words[profile.default_sample_type] == "cpu"


def test_what_was_waited_for_is_a_frame_with_its_time() -> None:
    one = report(server(traced(7, "worker", FSYNC, LOCKED)))
    _, samples = read(one)
    (known,) = [found for found in (one.processes[0].threads or ()) if found.waits]
    assert known.scheduling
    blocked = {frames[0]: values["blocked"] for frames, values, _ in samples if values["blocked"]}
    assert len(blocked) == len(known.waits or ())
    assert sum(blocked.values()) == sum(wait.sum_ns for wait in known.waits or ())
    assert any(frame.startswith("[fsync on FD 7") for frame in blocked)
    queued = [(frames, values["queued"]) for frames, values, _ in samples if values["queued"]]
    assert queued == ([([QUEUED], known.scheduling.run_queue_ns)] if known.scheduling.run_queue_ns else [])


def test_report_without_a_trace_is_a_profile_without_samples() -> None:
    profile, samples = read(report(process()))
    assert samples == []
    assert len(profile.sample_type) == 4


def test_profile_is_written_to_a_file_and_refused_on_a_terminal(threadinfo: Run, tmp_path: Path) -> None:
    saved = tmp_path / "r.json"
    saved.write_text(render_json(sampled()))
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "threadinfo", "show", str(saved), "--format", "pprof"]
    refused = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False)
    os.close(terminal)
    os.close(main)
    assert refused.returncode == 2
    assert "-o profile.pb.gz" in refused.stderr
    assert gzip.decompress(subprocess.run(command, capture_output=True, check=True).stdout)
    done = threadinfo("show", saved, "--format", "pprof", "-o", tmp_path / "p.pb.gz")
    assert done.returncode == 0, done.stderr
    assert len(parse((tmp_path / "p.pb.gz").read_bytes()).sample) == 3


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not here")
def test_go_tool_pprof_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "p.pb.gz"
    path.write_bytes(render_pprof(sampled()))
    command = ["go", "tool", "pprof", "-top", "-sample_index=samples", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of 12 total" in done.stdout
    assert " spin [server]" in done.stdout


def test_a_wait_has_the_frames_that_led_to_it() -> None:
    stack, other = ("put+0x2 [shop]", "main+0x9 [shop]"), WaitStack(1, 3, ("get+0x1 [shop]",))
    whole = wait("read", 10, stack=stack, stack_ns=6, other_stacks=(other,))
    _, samples = read(report(process(threads=(thread(waits=(whole,)),))))
    ways = {tuple(frames[1:]): values["blocked"] for frames, values, _ in samples if values["blocked"]}
    assert ways == {("put [shop]", "main [shop]"): 6, ("get [shop]",): 3, (): 1}
