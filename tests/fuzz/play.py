"""Plays sequences while threadinfo traces them, as a user starts it, and compares."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Sequence as Several
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.conftest import ROOT
from tests.fuzz.compare import compare_report, compare_stream, disorder
from tests.fuzz.sequences import Sequence, merge
from tests.fuzz.truth import Truth

TOOL = (sys.executable, "-m", "threadinfo")
SECONDS = 120.0
_REGION_BYTES = 1 << 22
_ONLY = ("--only", "descriptors,sockets", "--format", "json")
_BLOCKED = {"x86_64": {"7", "271", "23", "270", "230", "35", "232", "281"}, "aarch64": {"73", "72", "115", "22"}}
"""poll, ppoll, select, pselect6, clock_nanosleep, nanosleep, epoll_wait, epoll_pwait."""


class Mode(NamedTuple):
    """How the tool is started, and what it prints."""

    name: str
    begins: str
    """"attach" to programs that run, "run" them, or "wait" for them."""
    is_stream: bool
    follow: bool


MODES = {
    mode.name: mode
    for mode in (
        Mode("report", "attach", False, False),
        Mode("stream", "attach", True, False),
        Mode("run", "run", False, False),
        Mode("wait", "wait", False, False),
        Mode("wait-stream", "wait", True, False),
        Mode("report-follow", "attach", False, True),
        Mode("stream-follow", "attach", True, True),
        Mode("run-follow", "run", False, True),
        Mode("wait-follow", "wait", False, True),
    )
}


class Played(NamedTuple):
    """What came of a batch."""

    differences: tuple[tuple[int, str], ...]
    """The place of a sequence in the batch, and what was wrong; -1: of the batch as a whole."""
    event_count: int
    disorder_count: int
    output: bytes = b""
    """Of the tool, with what the programs noted: evidence of a difference that does not come again."""
    truths: tuple[Truth, ...] = ()

    def keep(self, directory: Path) -> None:
        """Writes what speaks of it to files."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "differences").write_text("".join(f"{place}: {line}\n" for place, line in self.differences))
        (directory / "output").write_bytes(self.output)
        for place, truth in enumerate(self.truths):
            (directory / f"notes-{place}.json").write_text(json.dumps(truth.notes))


class FuzzerError(Exception):
    """The fuzzer itself failed: nothing is said of the tool."""


def build(directory: Path) -> Path:
    """Compiles sequence.c."""
    program = directory / "sequence"
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-static", "-fno-stack-protector"]
    subprocess.run(["cc", *options, "-o", program, Path(__file__).parent / "sequence.c"], check=True)
    return program


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other tracer of this project's tests meanwhile: they count the machine's BPF programs."""
    with (Path(tempfile.gettempdir()) / "threadinfo-bpf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Program:
    """One program that plays, with a directory of its own."""

    def __init__(self, program: Path, script: str, *how: str, prefix: Several[str] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sq"))
        self.region = self.directory / "region"
        with self.region.open("wb") as file:
            file.truncate(_REGION_BYTES)
        (self.directory / "script").write_text(script)
        (self.directory / "d").mkdir()
        self.made = self.directory / "d"
        (self.made / "file").touch()
        for name in ("fifo", "nobody"):
            os.mkfifo(self.made / name)
        self.command = [*prefix, str(program), *map(str, (self.directory / "script", self.region, self.made)), *how]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **options: Any) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, **options
        )

    def read_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        line = b""
        deadline = time.monotonic() + SECONDS
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise FuzzerError(f"the program says nothing: {self.command}")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise FuzzerError(f"the program ended with {self.process.wait()}: {self.command}")
            line += data
        return line.decode()

    def say(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), b"\n")

    def end(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:  # otherwise the group's number may be another's by now
                os.killpg(self.process.pid, signal.SIGKILL)
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def play(mode: Mode, sequences: Several[Sequence], program: Path) -> Played:
    """Plays a batch under one trace."""
    if mode.begins == "attach":
        return _play_attached(mode, sequences, program)
    return _play_from_start(mode, sequences, program)


def _play_attached(mode: Mode, sequences: Several[Sequence], program: Path) -> Played:
    programs = [_Program(program, sequence.script()) for sequence in sequences]
    try:
        named, targets = [], []
        for one, sequence in zip(programs, sequences, strict=True):
            one.start()
            root, *children = (int(word) for word in one.read_line().split()[1:])
            chosen = {"root": [root], "first": children[:1] or [root], "both": [root, *children[:1]]}
            named.append(chosen[sequence.targets])
            with_descendants = mode.follow and root in named[-1]  # those that live already are followed as well
            targets.append([root, *children] if with_descendants else named[-1])
        pids = [str(pid) for group in named for pid in group]
        options = ["trace", *pids] if mode.is_stream else [*pids, "--trace", "600"]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            tool = _start_tool([*options, *_ONLY, *(["--follow"] if mode.follow else [])], output, errors)
            try:
                wait_until_attached(tool)
                for one in programs:
                    one.say()
                truths = [Truth(one.read_line(), str(one.made)) for one in programs]
                for one, truth in zip(programs, truths, strict=True):
                    if truth.root in truth.ended and one.process is not None:
                        one.process.wait(SECONDS)
                tool.send_signal(signal.SIGINT)
                problems = _finish(tool, errors, {0, 130} if mode.is_stream else {0})
            finally:
                tool.kill()
                tool.wait()
            return _compare(mode, output, truths, targets, problems)
    finally:
        for one in programs:
            one.end()


def _play_from_start(mode: Mode, sequences: Several[Sequence], program: Path) -> Played:
    """One program plays all, a round each."""
    script = merge(sequences)
    follow = ["--follow"] if mode.follow else []
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory() as directory,
    ):
        if mode.begins == "run":
            report = Path(directory) / "report"
            tool_command = [*TOOL, "run", *_ONLY, *follow, "-o", str(report), "--"]
            one = _Program(program, script, "at-once", prefix=tool_command)
            try:
                one.start(stderr=errors)
                assert one.process is not None
                truth = Truth(one.read_line(), str(one.made))
                problems = _finish(one.process, errors, {0})
                if report.exists():
                    output.write(report.read_bytes())
            finally:
                one.end()
            return _compare(mode, output, [truth], [[truth.root]], problems)
        name = f"sq{os.urandom(5).hex()}"
        named = Path(directory) / name
        os.link(program, named) if program.stat().st_dev == Path(directory).stat().st_dev else shutil.copy(
            program, named
        )
        one = _Program(named, script, "from-start")
        options = ["trace", name] if mode.is_stream else [name]
        try:
            tool = _start_tool([*options, "--wait", *_ONLY, *follow], output, errors)
            try:
                _wait_until_said(tool, errors, b"waiting for ")
                one.start()
                truth = Truth(one.read_line(), str(one.made), begins_with_exec=True)
                tool.send_signal(signal.SIGINT)
                problems = _finish(tool, errors, {0, 130} if mode.is_stream else {0})
            finally:
                tool.kill()
                tool.wait()
        finally:
            one.end()
        return _compare(mode, output, [truth], [[truth.root]], problems)


def _start_tool(options: list[str], output: IO[bytes], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*TOOL, *options], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)


def _read_all(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _wait_until_said(tool: subprocess.Popen[bytes], errors: IO[bytes], words: bytes) -> None:
    deadline = time.monotonic() + SECONDS
    while words not in os.pread(errors.fileno(), 1 << 16, 0):
        if tool.poll() is not None or time.monotonic() > deadline:
            raise FuzzerError(f"the tool does not begin: {_read_all(errors).decode()}")
        time.sleep(0.005)


def wait_until_attached(tool: subprocess.Popen[Any]) -> None:
    """It holds links to tracepoints, as many as at the last looks, and its first thread is blocked in a wait."""
    steady, count, deadline = 0, 0, time.monotonic() + SECONDS
    blocked = _BLOCKED[os.uname().machine]
    while steady < 4:
        if tool.poll() is not None or time.monotonic() > deadline:
            raise FuzzerError("the tool does not attach")
        links = 0
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{tool.pid}/fd"):
                with contextlib.suppress(OSError):
                    links += bool(re.search("bpf.?link|raw.?tracepoint", os.readlink(f"/proc/{tool.pid}/fd/{name}")))
        number = Path(f"/proc/{tool.pid}/syscall").read_text().split()[0]
        steady = steady + 1 if links and links == count and number in blocked else 0
        count = links
        time.sleep(0.02)


def _finish(tool: subprocess.Popen[bytes], errors: IO[bytes], statuses: set[int]) -> list[str]:
    try:
        status = tool.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return [f"the tool does not end within {SECONDS:.0f} s"]
    said = _read_all(errors).decode(errors="replace")
    found = [f"exit status {status}"] if status not in statuses else []
    if "Traceback" in said or found:
        found.append(f"it says: {said[-1500:]}")
    return found


def _compare(
    mode: Mode, output: IO[bytes], truths: Several[Truth], targets: Several[Several[int]], problems: list[str]
) -> Played:
    for truth in truths:
        if wrong := truth.problems():
            raise FuzzerError("; ".join(wrong))
    differences = [(-1, problem) for problem in problems]
    text = _read_all(output)
    compare = _compare_stream if mode.is_stream else _compare_reports
    return compare(mode, text, truths, targets, differences)._replace(output=text, truths=tuple(truths))


def _compare_reports(
    mode: Mode, text: bytes, truths: Several[Truth], targets: Several[Several[int]], differences: list[tuple[int, str]]
) -> Played:
    try:
        report = json.loads(text)
    except ValueError as problem:
        return Played((*differences, (-1, f"no report: {problem}")), 0, 0)
    processes = {process["pid"]: process for process in report["processes"]}
    count, rest = 0, set(processes)
    for index, (truth, group) in enumerate(zip(truths, targets, strict=True)):
        pids = {*group, *truth.children} & processes.keys()
        rest -= pids
        count += len(truth.lived)
        mine = {pid: processes[pid] for pid in pids}
        differences += [(index, line) for line in compare_report(mine, truth, group, follow=mode.follow)]
    if rest:
        differences.append((-1, f"processes that nobody asked for: {sorted(rest)}"))
    return Played(tuple(differences), count, 0)


def _compare_stream(
    mode: Mode, text: bytes, truths: Several[Truth], targets: Several[Several[int]], differences: list[tuple[int, str]]
) -> Played:
    lines = [json.loads(line) for line in text.splitlines()]
    if not lines or "confidence" not in lines[-1]:
        return Played((*differences, (-1, "no last line")), 0, 0)
    *events, last = lines
    confidence = last["confidence"]
    for name in ("lost_count", "map_full_count", "omitted_line_count"):
        if confidence[name]:
            differences.append((-1, f"{name}: {confidence[name]}"))
    if confidence["ledger_matches_proc"] is False:
        differences.append((-1, f"ledger_matches_proc: False; {confidence['ledger_differences']}"))
    for index, (truth, group) in enumerate(zip(truths, targets, strict=True)):
        pids = {*group, *truth.children, truth.root}
        mine = [event for event in events if event["pid"] in pids]
        differences += [(index, line) for line in compare_stream(mine, truth, group, follow=mode.follow)]
    return Played(tuple(differences), len(events), disorder(events))
