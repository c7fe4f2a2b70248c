"""Descriptors against the truth: what the workload counted itself, and what /proc lists at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from tests.conftest import ROOT, WORKLOADS
from tests.trace.conftest import wait_until_it_traces
from threadinfo.trace.descriptors.calls import MACHINES, SYSTEM_CALLS, Action, actions_of, calls_of

pytestmark = pytest.mark.usefixtures("bpf")
TOOL = ("-m", "threadinfo")


class Traced(NamedTuple):
    """A workload that has done its work under a tracer."""

    said: str
    output: str
    errors: str
    status: int

    def report(self) -> Any:
        return json.loads(self.output)["processes"][0]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines()]


def build(name: str, directory: Path, *options: str) -> Path:
    program = directory / name
    subprocess.run(["cc", "-O2", *options, "-o", program, WORKLOADS / f"{name}.c"], check=True)
    return program


def trace(
    command: list[str], arguments: list[str], *, output: Path, goes_on: bool = True, tool: Sequence[str] = TOOL
) -> Traced:
    """Starts a workload, attaches, lets it work, and ends the trace when it has said what it did."""
    workload = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert workload.stdin is not None
    assert workload.stdout is not None
    try:
        assert workload.stdout.readline() == "ready\n"
        options = [str(workload.pid) if argument == "PID" else argument for argument in arguments]
        with open(output, "w") as file:
            tracer = subprocess.Popen(
                [sys.executable, *tool, *options], cwd=ROOT, stdout=file, stderr=subprocess.PIPE, text=True
            )
        wait_until_it_traces(tracer)
        workload.stdin.write("\n")
        workload.stdin.flush()
        said = workload.stdout.readline()
        if goes_on:
            tracer.send_signal(signal.SIGINT)
        else:
            workload.stdin.write("\n")
            workload.stdin.flush()
        _, errors = tracer.communicate(timeout=120)
        return Traced(said, output.read_text(), errors, tracer.returncode)
    finally:
        workload.kill()
        workload.communicate()


@pytest.fixture(scope="module")
def every_call(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [sys.executable, str(WORKLOADS / "every_call.py"), str(tmp_path_factory.mktemp("every"))]


def failures(trace_of_descriptors: dict[str, Any]) -> dict[str, int]:
    empty = {f"{call} EAGAIN": count for call, count in trace_of_descriptors["empty_by_syscall"].items()}
    return empty | {f"{one['syscall']} {one['error']}": one["count"] for one in trace_of_descriptors["failures"]}


OLDER_KERNEL = """
from threadinfo.trace.descriptors import recorder
from threadinfo.trace.kernel.functions import KernelFunctions
recorder.find_functions = KernelFunctions
if %s:
    recorder.typed_sys_exit = lambda: None
from threadinfo.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "tool",
    [
        pytest.param(TOOL, id="as this kernel can"),
        pytest.param(("-c", OLDER_KERNEL % "False"), id="without functions of the kernel"),
        pytest.param(("-c", OLDER_KERNEL % "True"), id="without types too"),
    ],
)
def test_every_birth_and_death_is_counted_in_the_report(
    every_call: list[str], tmp_path: Path, tool: Sequence[str]
) -> None:
    traced = trace(every_call, ["PID", "--trace", "600", "--format", "json"], output=tmp_path / "out", tool=tool)
    assert traced.status == 0, traced.errors
    truth, report = json.loads(traced.said), traced.report()
    found = report["trace"]["descriptors"]
    assert found["by_syscall"] == truth["opened"]
    assert found["closed_by_syscall"] == truth["closed"]
    assert failures(found) == truth["failed"]
    assert (found["opened_count"], found["closed_count"]) == (
        sum(truth["opened"].values()),
        sum(truth["closed"].values()),
    )
    assert found["close_on_exec_set_count"] == truth["marked"]["set"]
    assert found["close_on_exec_cleared_count"] == truth["marked"]["cleared"]
    assert found["closed_by"]["replaced"] == truth["closed"]["dup2"]
    assert found["still_open_count"] == found["opened_count"] - found["closed_count"]
    assert found["unseen_birth_count"] == 0
    confidence = report["trace"]["confidence"]
    assert confidence["ledger_matches_proc"] is True
    assert (confidence["lost_count"], confidence["unreadable_count"], confidence["undecoded_count"]) == (0, 0, 0)
    origins = [descriptor["origin"] for descriptor in report["descriptors"] if descriptor["origin"]]
    assert len(origins) == found["still_open_count"]
    assert all(origin["thread_name"] and origin["opened_at"] for origin in origins)


def test_every_birth_and_death_is_in_the_stream(every_call: list[str], tmp_path: Path) -> None:
    arguments = ["trace", "PID", "--only", "descriptors", "--format", "json"]
    traced = trace(every_call, arguments, output=tmp_path / "out")
    assert traced.status == 130, traced.errors
    truth = json.loads(traced.said)
    *events, last = traced.events()
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "events.schema.json").read_text()))
    for line in (*events, last):
        validator.validate(line)
    births = Counter(
        event["syscall"]
        for event in events
        if event["event"] in {"open", "duplicate", "socket", "accept", "pipe", "receive"} and "error" not in event
    )
    assert births == truth["opened"]
    closes = [event for event in events if event["event"] == "close" and "error" not in event]
    assert Counter(event["syscall"] for event in closes) == truth["closed"]
    assert Counter(f"{event['syscall']} {event['error']}" for event in events if "error" in event) == truth["failed"]
    marks = Counter(
        "set" if event["close_on_exec"] else "cleared" for event in events if event["event"] == "close_on_exec"
    )
    assert marks == truth["marked"]
    assert last["confidence"]["ledger_matches_proc"] is True
    assert last["confidence"]["omitted_line_count"] == 0
    assert [event["at_ns"] for event in events] == sorted(event["at_ns"] for event in events)
    assert all(event["lifetime_ns"] > 0 for event in closes)
    long_path = next(event["path"] for event in events if len(event.get("path", "")) > 1000)
    assert long_path.endswith("a file")
    assert {event.get("remote", "").split(":")[0] for event in events if event["event"] == "accept"} >= {"127.0.0.1"}


def test_every_birth_and_death_is_a_line_of_text(every_call: list[str], tmp_path: Path) -> None:
    traced = trace(every_call, ["trace", "PID", "--only", "descriptors"], output=tmp_path / "out")
    truth = json.loads(traced.said)
    lines = traced.output.splitlines()
    births = Counter(
        line.rsplit("(", 1)[1].rstrip(")")
        for line in lines
        if line.endswith(")") and not any(words in line for words in (" failed: ", " on exec (", " mark ", " empty ("))
    )
    assert births == truth["opened"]
    ends = [line.rsplit(" failed: ", 1)[1].rstrip(")").split(" (") for line in lines if " failed: " in line]
    empty = [f"{line.rsplit('(', 1)[1].rstrip(')')} EAGAIN" for line in lines if " accept empty (" in line]
    assert Counter([*empty, *(f"{call} {error}" for error, call in ends)]) == truth["failed"]
    closes = [line for line in lines if line.split(" ")[3:4] == ["close"] and " failed: " not in line]
    assert len(closes) == sum(truth["closed"].values())
    assert "Ledger of descriptors: agrees with /proc" in traced.output


def test_only_failures_only_a_path_only_a_kind(every_call: list[str], tmp_path: Path) -> None:
    base = ["trace", "PID", "--only", "descriptors", "--format", "json"]
    for options, is_right in (
        (["--failures"], lambda event: "error" in event),
        (["--path", "*/a file"], lambda event: event["path"].endswith("/a file")),
        (["--kind", "pipe"], lambda event: event["type"] == "pipe"),
        (["--thread", "nobody"], lambda _event: False),
    ):
        traced = trace(every_call, [*base, *options], output=tmp_path / "out")
        *events, last = traced.events()
        assert all(map(is_right, events)), options
        assert bool(events) == (options[0] != "--thread")
        assert last["confidence"]["seen_count"] > 300


def test_what_comes_by_an_ioctl_is_a_difference_with_its_reason(tmp_path: Path) -> None:
    command = [sys.executable, str(WORKLOADS / "ioctl_made.py")]
    traced = trace(command, ["PID", "--trace", "600", "--format", "json"], output=tmp_path / "out")
    confidence = traced.report()["trace"]["confidence"]
    assert confidence["ledger_matches_proc"] is False
    assert sorted(one["fd"] for one in confidence["ledger_differences"]) == sorted(map(int, traced.said.split()))
    assert {(one["ledger"], one["proc"]) for one in confidence["ledger_differences"]} == {("closed", "open")}
    assert all("ioctl" in one["reason"] and one["target"] for one in confidence["ledger_differences"])


def test_many_threads_on_shared_numbers_end_with_what_proc_says(tmp_path: Path) -> None:
    program = build("shared_storm", tmp_path, "-pthread")
    traced = trace([str(program), "1.5"], ["PID", "--trace", "600", "--format", "json"], output=tmp_path / "out")
    births, deaths = map(int, traced.said.split())
    found, confidence = traced.report()["trace"]["descriptors"], traced.report()["trace"]["confidence"]
    assert confidence["lost_count"] == 0
    assert confidence["ledger_matches_proc"] is True, confidence["ledger_differences"]
    assert (found["opened_count"], found["closed_count"]) == (births, deaths)
    assert found["still_open_count"] == 13


def test_fork_share_unshare_and_exec(tmp_path: Path) -> None:
    program = build("parting", tmp_path, "-static")
    traced = trace([str(program)], ["PID", "--trace", "600", "--format", "json"], output=tmp_path / "out")
    report = traced.report()
    assert report["trace"]["confidence"]["ledger_matches_proc"] is True, report["trace"]["confidence"]
    assert [descriptor["fd"] for descriptor in report["descriptors"]] == [int(fd) for fd in traced.said.split()]
    found = report["trace"]["descriptors"]
    assert found["closed_by"]["exec"] == 5
    assert found["by_syscall"]["dup2"] == 2
    assert sum(found["by_syscall"].values()) == 2 + 7 + 5  # those of the three copies are not this table's


def test_the_end_of_the_target_closes_everything(every_call: list[str], tmp_path: Path) -> None:
    command = ["sh", "-c", "echo ready; read line; exec 7</dev/null; echo done; read line"]
    traced = trace(
        command, ["trace", "PID", "--only", "descriptors", "--format", "json"], output=tmp_path / "out", goes_on=False
    )
    *events, last = traced.events()
    assert {event["fd"] for event in events if event.get("how") == "exit"} >= {0, 1, 2, 7}
    assert last["confidence"]["ledger_matches_proc"] is None


def test_lost_lines_are_counted_and_touch_no_ledger(tmp_path: Path) -> None:
    """A buffer of one page cannot hold a burst."""
    program = build("shared_storm", tmp_path, "-pthread")
    script = (
        "import sys\nfrom threadinfo.trace.descriptors import tracer as descriptors\n"
        "descriptors.BUFFER_BYTES = dict.fromkeys(descriptors.BUFFER_BYTES, 4096) | {'huge': 8192}\n"
        "from threadinfo.cli.main import main\nmain()\n"
    )
    tool = tmp_path / "tool.py"
    tool.write_text(script)
    arguments = ["trace", "PID", "--only", "descriptors", "--format", "json"]
    traced = trace([str(program), "0.3"], arguments, output=tmp_path / "out", tool=[str(tool)])
    confidence = json.loads(traced.output.splitlines()[-1])["confidence"]
    assert confidence["lost_count"] > 0
    assert confidence["ledger_matches_proc"] is True, confidence
    assert "lost" in traced.errors


def test_a_reader_that_leaves_ends_the_stream(every_call: list[str]) -> None:
    workload = subprocess.Popen(every_call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert workload.stdin is not None
    assert workload.stdout is not None
    try:
        workload.stdout.readline()
        tool = subprocess.Popen(
            [sys.executable, "-m", "threadinfo", "trace", str(workload.pid), "--only", "descriptors"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert tool.stdout is not None
        tool.stdout.close()
        assert tool.wait(timeout=30) == 0
        assert tool.stderr is not None
        assert tool.stderr.read() == b""
    finally:
        workload.kill()
        workload.communicate()


def test_a_zombie_is_not_said_to_have_been_blocked() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    command = [sys.executable, "-m", "threadinfo", str(child.pid), "--trace", "0.2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    child.wait()
    assert "100.0%" not in result.stdout
    assert "Traceback" not in result.stderr


def test_the_schema_of_the_stream_is_the_models() -> None:
    from threadinfo.render.json import events_schema

    assert (ROOT / "docs" / "events.schema.json").read_bytes() == events_schema(), "run: make schema"


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_numbers_of_calls_are_each_one_call(machine: str) -> None:
    numbers = [call.x86_64 if machine == "x86_64" else call.aarch64 for call in SYSTEM_CALLS]
    known = [number for number in numbers if number is not None]
    assert len(known) == len(set(known))
    actions = actions_of(machine, lambda _type: 0)
    assert all(actions[number] & 0xFF == calls_of(machine)[number].action for number in known)
    assert Action.COMPAT_ONLY in actions.values()


def test_numbers_of_calls_are_those_of_the_header() -> None:
    """asm/unistd.h of this machine, where it is installed; other numbers are the generic table's."""
    import platform
    import re

    source = "#include <sys/syscall.h>\n"
    text = subprocess.run(["cc", "-E", "-dM", "-"], input=source, capture_output=True, text=True, check=True).stdout
    header = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    column = "x86_64" if platform.machine() == "x86_64" else "aarch64"
    checked = [call for call in SYSTEM_CALLS if getattr(call, column) is not None and call.name in header]
    assert len(checked) > 40
    assert {call.name: getattr(call, column) for call in checked} == {call.name: header[call.name] for call in checked}


def test_the_program_compiles_and_loads_for_the_other_machine() -> None:
    """With aarch64's registers, and without the types that old kernels lack: the verifier accepts it.

    That its numbers are right, only such a machine can show.
    """
    from threadinfo.trace.descriptors.ledger import choose_sizes
    from threadinfo.trace.descriptors.recorder import PARTS, TRACEPOINTS, kernel_facts
    from threadinfo.trace.descriptors.type_codes import DEFINES
    from threadinfo.trace.kernel.loader import Programs

    defines, _, _ = kernel_facts("aarch64")
    pages = {f"{name}_PAGES": 16 for name in ("SMALL", "MEDIUM", "LARGE", "HUGE")}
    defines |= {**pages, **DEFINES, "CPU_COUNT": 2, "PID_LIMIT": 4096}
    defines |= choose_sizes(1, 0, 2, 0, with_stacks=False).defines()
    with Programs("descriptors.bpf.c", defines, list(TRACEPOINTS.items()), PARTS) as programs:
        assert programs.statistics().missed_count == 0
