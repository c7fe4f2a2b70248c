"""What the target, a saved file or the caller's surroundings may do to us."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import miniature
from tests.conftest import ROOT, MakeProc, Run, run_threadinfo


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A report of this process, as JSON."""
    result = run_threadinfo(os.getpid(), "--format", "json")
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def show(report: Any, *options: str) -> subprocess.CompletedProcess[str]:
    return run_threadinfo("show", "-", *options, input=report if isinstance(report, str) else json.dumps(report))


@pytest.mark.parametrize("field", ["state", "state_name", "name"])
def test_show_lets_no_control_character_through(report: dict[str, Any], field: str) -> None:
    hostile = json.loads(json.dumps(report))
    hostile["processes"][0]["threads"][0][field] = "\x1b[31mX\n"
    result = show(hostile, "-v")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert "\\x1b[31mX\\x0a" in result.stdout


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("memory", "percent"), 1e308),
        (("threads", 0, "runtime_seconds"), 1e308),
        (("descriptors", 0, "details"), {"watched": [{}]}),
        (("descriptors", 0, "details"), {"next_expiry_ns": 10**400}),
    ],
)
def test_show_of_values_that_no_report_has_is_an_error(
    report: dict[str, Any], path: tuple[Any, ...], value: object
) -> None:
    hostile = json.loads(json.dumps(report))
    place = hostile["processes"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    result = show(hostile, "-v")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("text", ['{"zz":' * 2000, "[" * 100_000])
def test_show_of_deep_nesting_is_an_error(text: str) -> None:
    result = show(text)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["1"], ["1", "--format", "json"], ["doctor"], ["show", "-"]], ids=" ".join)
def test_a_closed_standard_output_is_said(arguments: list[str]) -> None:
    command = f'"$@" >&- {"<&-" if arguments[0] == "show" else ""}'
    result = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "threadinfo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in result.stderr
    assert "standard" in result.stderr
    assert result.returncode in {2, 3}


def test_a_closed_standard_error_does_not_matter() -> None:
    command = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "threadinfo", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0
    assert "=== Thread Information ===" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_temporary_file(tmp_path: Path, number: signal.Signals) -> None:
    fifo = tmp_path / "in"
    os.mkfifo(fifo)
    program = (
        "import os, sys, threadinfo.cli.main as cli\nfrom threadinfo.cli import report\n"
        "report.collect_report = lambda *_: (print('ready', flush=True), open(sys.argv.pop()).read())\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "1", "-o", str(tmp_path / "report"), str(fifo)]
    command = [sys.executable, "-c", program.replace("sys.argv.pop()", repr(str(fifo))), *command[3:-1]]
    tool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert tool.stdout is not None
    assert tool.stdout.readline() == "ready\n"
    tool.send_signal(number)
    _, errors = tool.communicate(timeout=20)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert tool.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in errors


@pytest.mark.parametrize("content", [b"", b"garbage", b"1 (x) S", b"\xff\x00"])
def test_a_malformed_stat_names_the_file(threadinfo: Run, make_proc: MakeProc, content: bytes) -> None:
    proc = make_proc({"7/stat": content, "7/status": "Tgid:\t7\n", "stat": "btime 1\n", "uptime": "9 9\n"})
    result = threadinfo("7", "--proc", proc)
    assert result.returncode == 3
    assert "7/stat" in result.stderr
    assert "Traceback" not in result.stderr


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))


@pytest.mark.parametrize("file", ["/dev/zero", "/dev/urandom"])
def test_show_of_an_endless_file_is_refused_at_its_beginning(threadinfo: Run, file: str) -> None:
    result = threadinfo("show", file, preexec_fn=limit_memory, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    # random bytes may begin with a digit, which is JSON
    assert result.stderr.startswith((f"{file} is not JSON", f"{file} is not a threadinfo.report/1"))


def test_show_of_an_endless_object_is_refused_at_a_limit() -> None:
    with subprocess.Popen(["sh", "-c", "printf '{'; yes ' '"], stdout=subprocess.PIPE) as endless:
        result = run_threadinfo("show", "-", stdin=endless.stdout)
        endless.kill()
    assert (result.returncode, result.stdout) == (2, "")
    assert "larger than any report" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "sparse"])
@pytest.mark.parametrize("name", ["stat", "status", "limits", "cmdline", "mem", "ns/net", "net/tcp", "task/7/syscall"])
def test_a_forged_proc_is_read_in_bounded_time_and_memory(
    threadinfo: Run, make_proc: MakeProc, tmp_path: Path, kind: str, name: str
) -> None:
    """A FIFO that nobody writes to, an endless device, a link to that, a file of a terabyte without contents."""
    files = miniature.process(7) | {
        "7/mem": "",
        "7/fd/3": "->socket:[17]",
        "7/fdinfo/3": "pos:\t0\nflags:\t02\n",
        "7/task/7/syscall": "7 0x7ffe0000 0x1 0x0 0x0 0x0 0x0 0x7ffe0000 0x7f00\n",
    }
    files.pop(f"7/{name}", None)
    proc = make_proc(files)
    place = proc / "7" / name
    place.parent.mkdir(exist_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        os.mknod(place, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # zero
    elif kind == "link":
        place.symlink_to("/dev/zero")
    else:
        with place.open("wb") as file:
            file.truncate(1 << 40)
    result = threadinfo("7", "-v", "--proc", proc, preexec_fn=limit_memory, timeout=60)
    assert "Traceback" not in result.stderr
    assert result.returncode == (3 if name in {"stat", "status"} else 0)
    if kind != "sparse" or name not in {"mem", "ns/net"}:  # of those nothing is read to its end
        assert f"{proc}/7/{name}: " in result.stderr + result.stdout


def test_an_absurd_thread_group_is_not_followed(threadinfo: Run, make_proc: MakeProc) -> None:
    result = threadinfo("7", "--proc", make_proc({"7/status": f"Tgid:\t{'7' * 5000}\n"}))
    assert "Traceback" not in result.stderr
    assert result.returncode != 0


def test_a_port_of_six_thousand_digits_is_a_usage_error(threadinfo: Run) -> None:
    result = threadinfo("1", "--port", f"{'9' * 6000}=x")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1000


def test_a_path_that_pretends_to_be_a_line_of_the_table_is_not_believed() -> None:
    """Anybody can bind a socket to such a path, and name any socket's inode in it."""
    lie = "q\n0000000000000000: 00000002 00000000 {flags} 0001 {state} {inode} @lie"
    udp, netlink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    plain, idle = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    idle.bind(f"\0idle {os.getpid()}")
    forgers: list[tuple[socket.socket, Path | None]] = []
    for victim, flags, state in (
        (udp, "00010000", "01"),
        (netlink, "00010000", "01"),
        (plain, "00010000", "01"),
        (idle, "00000000", "03"),  # it is bound, and pretended to be connected
    ):
        # The lines of abstract names come before or after the victim's as the kernel's hash has it: some before.
        for name in range(64):
            forger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line = f"{name}{lie.format(flags=flags, state=state, inode=os.fstat(victim.fileno()).st_ino)}"
            path = line if name == 0 else f"\0{line}"
            forger.bind(path)
            forgers.append((forger, Path(path) if name == 0 else None))
    try:
        result = run_threadinfo(os.getpid(), "--format", "json")
        found = {one["fd"]: one["socket"] for one in json.loads(result.stdout)["processes"][0]["descriptors"]}
    finally:
        for forger, link in forgers:
            forger.close()
            if link:
                link.unlink()
    assert found[udp.fileno()]["protocol"] == "UDP"
    assert found[netlink.fileno()]["family"] == "AF_NETLINK"
    for victim, local in ((plain, None), (idle, f"@idle {os.getpid()}")):
        unix = found[victim.fileno()]
        assert (unix["type"], unix["state"], unix["local"]) == ("SOCK_DGRAM", "UNCONNECTED", local)
    for sock in (udp, netlink, plain, idle):
        sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_process_that_hidepid_lets_be_seen_but_not_read_is_not_allowed() -> None:
    # In a PID namespace of its own: the options of a mount of the same namespace may be the host's.
    script = (
        "mount -t proc -o hidepid=1 proc /proc || exit 99\n"
        "sleep infinity & hidden=$!\n"
        f'run() {{ \'{sys.executable}\' -m tests.unprivileged threadinfo "$@"; echo "exit $?"; }}\n'
        "run $hidden; run sleep; run no-such-process; run 77777; run $$ $hidden\n"
        "kill $hidden\n"
    )
    # coverage, which CI has in every process, could not write its file as that user
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    result = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert [line for line in result.stdout.splitlines() if line.startswith("exit")] == [
        "exit 3",
        "exit 3",
        "exit 3",  # it may be one of those that cannot be read
        "exit 1",
        "exit 3",
    ], result.stderr
    assert "Operation not permitted\n  run as root" in result.stderr
    assert "no process sleep among those that may be read" in result.stderr
    assert "Traceback" not in result.stderr
