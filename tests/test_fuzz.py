"""Generated inputs: trees that pretend to be /proc, and saved reports. No traceback, no wait, no control character.

`THREADINFO_FUZZ=5000` makes as many of each; a few hundred otherwise.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import miniature
from tests.reports import event, process, report, server, trace
from threadinfo.cli import main as cli
from threadinfo.model import SocketTrace
from threadinfo.render.json import render_json

COUNT = int(os.environ.get("THREADINFO_FUZZ", "307"))
SECONDS = 20
FUZZ = settings(
    max_examples=COUNT,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    derandomize=COUNT < 1000,
)
STATUSES = {0, 1, 2, 3, 4}
PID = 1265598


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """A wait becomes an error."""

    def fail(_number: int, _frame: object) -> None:
        raise AssertionError(f"it took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Output(io.TextIOWrapper):
    """Standard output or error in memory."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


def run(*arguments: str) -> tuple[int, str, str]:
    """The command in this process, as far as `main`: any exception that is none of its own is a failure here."""
    output, errors = _Output(), _Output()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    status: object = None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["threadinfo", *arguments])
        try:
            with limited():
                cli.main()
        except SystemExit as ended:
            status = ended.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert status in STATUSES, f"exit status {status!r}: {errors.text()}"
    return int(str(status)), output.text(), errors.text()


def check(result: tuple[int, str, str]) -> None:
    status, output, errors = result
    for text in (output, errors):
        assert all(line.isprintable() for line in text.split("\n")), text
        assert "Traceback" not in text
    assert errors or status == 0


NUMBER = st.one_of(st.integers(-5, 20), st.integers(-(1 << 70), 1 << 70), st.just(10**400))
RAW = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    NUMBER.map(lambda number: str(number).encode() if abs(number) < 1 << 80 else b"9" * 5000),
)
NAMES = (
    "stat status comm cmdline exe smaps_rollup smaps limits auxv maps mountinfo mem fd/0 fd/1 fd/7 fdinfo/0 fdinfo/7 "
    f"ns/net net/tcp net/tcp6 net/udp net/unix net/netlink net/packet net/raw net/icmp task/{PID}/stat "
    f"task/{PID}/status task/{PID}/syscall task/{PID}/comm task/9/stat root"
).split()
LINKS = st.one_of(
    st.sampled_from(
        "socket:[7] socket:[] socket:[99999999999999999999999] pipe:[8] anon_inode:[eventfd] anon_inode:[eventpoll] "
        "anon_inode:bpf-map anon_inode:inotify anon_inode:[timerfd] anon_inode:[signalfd] anon_inode:[io_uring] "
        "anon_inode:[pidfd] pidfd:[3] net:[4] mnt:[] /dev/null /dev/zero /dev/pts/0 /memfd:x\x1b[31m (deleted) / "
        "/nowhere\u202e (deleted) /etc/passwd\n (deleted) ../../.. . exe".split(" ")
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30),
)
TABLES = {
    "net/tcp": b"  sl  local_address\n   0: 0100007F:1388 00000000:0000 0A 0:0 00:0 0 0 0 7 1 0 100 0 0 10 0\n",
    "net/unix": b"Num RefCount Protocol Flags Type St Inode Path\n0: 00000002 00000000 00010000 0001 01 7 /run/x\n",
    "net/netlink": b"sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n0 0 7 00000551 0 0 0 2 0 7\n",
    f"task/{PID}/syscall": b"7 0x7ffe0000 0x1 0x0 0x0 0x0 0x0 0x7ffe0000 0x7f00\n",
    "mountinfo": b"1 1 0:5 / / rw - tmpfs tmpfs rw\n",
    "maps": b"00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/x\n",
    "fdinfo/7": b"pos:\t0\nflags:\t02\nmnt_id:\t1\neventfd-count: 1\ntfd: 5 events: 19 data: 5 pos:0 ino:3 sdev:8\n",
}


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """Replaced as a whole, cut, with a piece changed, or with a word of it changed."""
    how = draw(st.integers(0, 3))
    if how == 0:
        return draw(RAW)
    if how == 1:
        return original[: draw(st.integers(0, len(original)))]
    if how == 2:
        start = draw(st.integers(0, len(original)))
        return original[:start] + draw(RAW) + original[start + draw(st.integers(0, 9)) :]
    words = original.split(b" ")
    words[draw(st.integers(0, len(words) - 1))] = draw(RAW)
    return b" ".join(words)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str | bytes | None]:
    """A process of the miniature, of which files were changed, left out, or made something else."""
    files: dict[str, str | bytes | None] = dict(miniature.process(PID))
    files |= {f"{PID}/{name}": content for name, content in TABLES.items()}
    files |= {f"{PID}/mem": "", f"{PID}/fd/7": "->socket:[7]", f"{PID}/ns/net": "->net:[1]"}
    changed = [f"{PID}/{name}" for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))]
    changed += draw(st.lists(st.sampled_from(["stat", "uptime", "meminfo"]), max_size=1))
    for name in changed:
        old = files.get(name)
        original = old.encode() if isinstance(old, str) else old or b"x"
        match draw(st.integers(0, 6)):
            case 0:
                files.pop(name, None)
            case 1:
                files[name] = "FIFO"
            case 2:
                files[name] = None
            case 3:
                files[name] = f"->{draw(LINKS)}"
            case _ if "/fd/" in name or name.endswith("/exe"):
                files[name] = f"->{draw(LINKS)}"
            case _:
                files[name] = draw(mutated(original))
    return files


def build(root: Path, files: dict[str, str | bytes | None]) -> None:
    for name, content in files.items():
        path = root / name
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            elif content == "FIFO":
                os.mkfifo(path)
            elif isinstance(content, str) and content.startswith("->"):
                path.symlink_to(content[2:])
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)


@FUZZ
@given(trees(), st.sampled_from([(), ("-v",), ("--format", "json"), ("--format", "html", "-o", "-")]))
def test_any_tree_in_the_place_of_proc_is_read_or_refused(
    files: dict[str, str | bytes | None], options: tuple[str, ...]
) -> None:
    root = Path(tempfile.mkdtemp(prefix="threadinfo-fuzz-"))
    try:
        build(root, files)
        check(run(str(PID), "--proc", str(root), *options))
    finally:
        shutil.rmtree(root)


def saved() -> Any:
    """A real report's shape, with everything that a trace adds, as plain JSON values."""
    traced = process(
        trace=trace(sockets=SocketTrace(events=(event("socket"), event("bind"), event("close")), omitted_count=1))
    )
    return msgspec.json.decode(render_json(report(traced, server(3, 11))))


SAVED = saved()
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    NUMBER,
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(["\x1b[31m", "\x9b", "a\nb\rc", "\u202e", "\x7f", "\ud800", "open", "EMFILE", "x" * 5000]),
    st.just([]),
    st.just({}),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=9), st.integers(), max_size=2),
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*at, key))


PLACES = list(paths(SAVED))


@st.composite
def reports(draw: st.DrawFn) -> bytes:
    """A saved report with some of its values changed; or with bytes of its text changed."""
    changed = msgspec.json.decode(msgspec.json.encode(SAVED))
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)):
        parent = changed
        with contextlib.suppress(LookupError, TypeError):
            for key in place[:-1]:
                parent = parent[key]
            old = parent[place[-1]]
            value = draw(VALUE)
            if draw(st.integers(0, 4)):  # most often what may stand there, so that it comes to be shown
                if isinstance(old, str):
                    value = draw(st.text(max_size=30)) + draw(st.sampled_from(["", "\x1b[2J\n", "\u202e\x9b"]))
                elif isinstance(old, int | float):
                    value = draw(st.sampled_from([0, -1, 1, 7, 1 << 31, 1 << 62, -(1 << 62)]))
                elif old is None or isinstance(old, list):
                    value = draw(st.sampled_from([None, []]))
            if draw(st.integers(0, 19)):
                parent[place[-1]] = value
            elif isinstance(parent, dict):
                parent[draw(st.text(max_size=20))] = parent.pop(place[-1])
    text = json.dumps(changed).encode("utf-8", "surrogatepass")
    return text if draw(st.integers(0, 19)) else draw(mutated(text))


@FUZZ
@given(reports(), st.sampled_from([(), ("-v",), ("--format", "json"), ("--format", "html", "-o", "-")]))
def test_any_saved_report_is_shown_or_refused(content: bytes, options: tuple[str, ...]) -> None:
    with tempfile.NamedTemporaryFile(prefix="threadinfo-fuzz-") as file:
        file.write(content)
        file.flush()
        check(run("show", file.name, *options))
