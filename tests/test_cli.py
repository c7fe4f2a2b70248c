"""The command as users and scripts meet it: results, messages, exit codes, files."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest

from tests import miniature
from tests.conftest import OWN_NETWORK, ROOT, WORKLOADS, MakeProc, Run, Start, stop

MANY = WORKLOADS / "many.py"


def test_report_is_the_default_command(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, MANY, "default", 1, 3)
    stop(process)
    short, long = threadinfo(process.pid), threadinfo("report", process.pid)
    assert short.returncode == long.returncode == 0
    assert "=== Memory Footprint for default" in short.stdout
    assert short.stdout.splitlines()[:2] == long.stdout.splitlines()[:2]


def test_report_by_name_has_every_process_in_order_of_pid(start: Start, threadinfo: Run) -> None:
    pids = [start(sys.executable, MANY, "twice (a) b", 1, 3).pid for _ in range(3)]
    result = threadinfo("twice (a) b", "--format", "json")
    assert [process["pid"] for process in json.loads(result.stdout)["processes"]] == sorted(pids)


def test_report_name_is_no_regular_expression(start: Start, threadinfo: Run) -> None:
    start(sys.executable, MANY, "exactly", 1, 3)
    result = threadinfo("exact.*")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "Process exact.* not found\n  no process is called exact.*; did you mean the process exactly?\n"
    )


def test_report_name_longer_than_the_kernels_is_the_executables(start: Start, threadinfo: Run, tmp_path: Path) -> None:
    program = tmp_path / "a-name-longer-than-fifteen"
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(0o755)
    process = subprocess.Popen([program], stdin=subprocess.PIPE)
    try:
        while Path(f"/proc/{process.pid}/comm").read_text() != f"{program.name[:15]}\n":
            assert process.poll() is None
        found = threadinfo(program.name)
        assert f"=== Memory Footprint for {program.name} (PID: {process.pid}) ===" in found.stdout
        assert threadinfo(program.name + "-not").returncode == 1
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("target", ["4194304", "0", "99999999999999999999", "no-such-process", "-1"])
def test_report_no_such_process_is_exit_1(target: str, threadinfo: Run) -> None:
    result = threadinfo("report", "--", target)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Process {target} not found\n"


def test_report_one_of_two_missing_reports_the_other_and_exits_1(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, MANY, "present", 1, 3)
    result = threadinfo(process.pid, "absent")
    assert result.returncode == 1
    assert "for present" in result.stdout
    assert result.stderr == "Process absent not found\n"


def test_report_a_thread_id_means_its_process(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, MANY, "threads", 3, 3)
    tid = max(int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir())
    assert f"(PID: {process.pid})" in threadinfo(tid).stdout


@pytest.mark.parametrize(
    "arguments",
    [["report"], ["1", "--format", "yaml"], ["1", "--port", "web"], ["1", "--port", "70000=x"], ["1", "--nonsense"]],
)
def test_usage_error_is_exit_2_and_prints_nothing_on_standard_output(arguments: list[str], threadinfo: Run) -> None:
    result = threadinfo(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


def test_ports_file_line_is_named_in_its_error(threadinfo: Run, tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    ports.write_text("# ours\n5000=front\n\nsomething\n")
    result = threadinfo("1", "--ports", ports)
    assert result.returncode == 2
    assert "line 4" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_port_roles_of_file_and_option(start: Start, threadinfo: Run, tmp_path: Path) -> None:
    process = start(*OWN_NETWORK, sys.executable, ROOT / "demo" / "hydrogen_demo.py")
    ports = tmp_path / "ports"
    ports.write_text("5000=from the file\n5353 = names\n")
    report = json.loads(
        threadinfo(process.pid, "--ports", ports, "--port", "5000=from the option", "--format", "json").stdout
    )
    roles = {
        descriptor["socket"]["port"]: descriptor["socket"]["role"]
        for descriptor in report["processes"][0]["descriptors"]
        if descriptor["socket"] and descriptor["socket"]["role"]
    }
    assert roles == {5000: "from the option", 5353: "names", 5002: "websocket server"}


def test_json_is_valid_against_the_schema_and_shows_again(start: Start, threadinfo: Run, tmp_path: Path) -> None:
    process = start(sys.executable, MANY, "saved\x1b[31m\n\\", 5, 60)
    stop(process)
    saved = tmp_path / "report.json"
    text = threadinfo(process.pid, "--format", "json", "-o", saved)
    assert (text.returncode, text.stdout, text.stderr) == (0, "", "")
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    report = json.loads(saved.read_text())
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.validate(report, schema, cls=jsonschema.Draft202012Validator)
    assert report["schema"] == "threadinfo.report/1"
    assert threadinfo("show", saved, "--format", "json").stdout == saved.read_text()
    shown = threadinfo("show", saved)
    assert "saved\\x1b[31m\\x0a\\" in shown.stdout
    assert "\x1b" not in saved.read_text() + shown.stdout


def test_schema_in_the_docs_is_the_models() -> None:
    from threadinfo.render.json import report_schema

    assert (ROOT / "docs" / "report.schema.json").read_bytes() == report_schema()


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "other/1"}', "\x00", '{"schema": "threadinfo.report/1"}'])
def test_show_what_is_no_report_is_exit_2(content: str, threadinfo: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    result = threadinfo("show", file)
    assert (result.returncode, result.stdout) == (2, "")
    assert "threadinfo report TARGET --format json" in result.stderr


def test_output_into_a_missing_directory_is_an_error_before_any_work(threadinfo: Run, tmp_path: Path) -> None:
    result = threadinfo("1", "-o", tmp_path / "missing" / "file")
    assert (result.returncode, result.stdout) == (3, "")
    assert "cannot write" in result.stderr
    assert "No such file or directory" in result.stderr


def test_output_when_no_process_matches_leaves_the_old_file(threadinfo: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    assert threadinfo("no-such-process", "-o", file).returncode == 1
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_output_on_a_full_disk_leaves_the_old_file(threadinfo: Run, tmp_path: Path, start: Start) -> None:
    process = start(sys.executable, MANY, "much", 10, 3000)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        file = disk / "file"
        file.write_text("old")
        result = threadinfo(process.pid, "--format", "json", "-o", file)
        assert result.returncode == 3
        assert "No space left on device" in result.stderr
        assert file.read_text() == "old"
        assert list(disk.iterdir()) == [file]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_output_replaces_a_link_and_does_not_follow_it(threadinfo: Run, tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "report"
    precious.write_text("precious")
    link.symlink_to(precious)
    assert threadinfo(os.getpid(), "-o", link).returncode == 0
    assert precious.read_text() == "precious"
    assert not link.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_output_under_sudo_belongs_to_the_caller(threadinfo: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    environment = os.environ | {"SUDO_UID": "1234", "SUDO_GID": "2345"}
    assert threadinfo(os.getpid(), "-o", file, env=environment).returncode == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 2345)


def test_standard_output_whose_reader_left_is_silent(start: Start) -> None:
    process = start(sys.executable, MANY, "much", 2, 3000)
    command = f"'{sys.executable}' -m threadinfo {process.pid} | head -n 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.stdout.count("\n"), result.stderr) == (1, "")


def test_standard_output_that_is_full_is_an_error(threadinfo: Run) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "threadinfo", str(os.getpid())], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert result.returncode == 3
    assert result.stderr == b"cannot write to standard output: No space left on device\n"


def test_terminal_without_utf8_gets_escapes(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, MANY, "größe", 1, 3)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = threadinfo(process.pid, env=environment)
    assert "gr\\xf6\\xdfe" in result.stdout


def test_interrupt_is_exit_130_without_a_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "threadinfo", "show", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    while "show" not in Path(f"/proc/{process.pid}/cmdline").read_text() or not _waits_for_input(process.pid):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def _waits_for_input(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 ")


def test_zombie_is_a_gap_and_not_zero_descriptors(threadinfo: Run) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        result = threadinfo(pid)
        report = json.loads(threadinfo(pid, "--format", "json").stdout)["processes"][0]
    finally:
        os.waitpid(pid, 0)
    assert result.returncode == 0
    assert "Count:" not in result.stdout
    assert "descriptors: the process is a zombie" in result.stdout
    assert report["descriptors"] is None
    assert report["threads"][0]["state"] == "Z"


def test_first_thread_that_ended_leaves_the_others_report_whole(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, WORKLOADS / "leaderless.py")
    report = json.loads(threadinfo(process.pid, "--format", "json").stdout)["processes"][0]
    assert [thread["state"] for thread in report["threads"]] == ["Z", "S"]
    assert len(report["descriptors"]) >= 3
    assert report["memory"]["pss_bytes"] > 0


def test_kernel_thread_has_no_memory_and_that_is_measured(threadinfo: Run) -> None:
    if Path("/proc/2/comm").read_text() != "kthreadd\n" if Path("/proc/2/comm").exists() else True:
        pytest.skip("no kernel threads in this PID namespace")
    report = json.loads(threadinfo(2, "--format", "json").stdout)["processes"][0]
    assert report["memory"]["virtual_bytes"] == 0
    assert report["command_line"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a process of another user")
def test_other_users_process_gives_what_can_be_read_and_the_remedy(start: Start, threadinfo: Run) -> None:
    process = start(sys.executable, MANY, "roots", 3, 10)
    result = threadinfo(process.pid, privileged=False)
    assert result.returncode == 0
    assert result.stdout.count("(not read: see the end)") == 2
    assert f'descriptors: /proc/{process.pid}/fd: Permission denied (run as root: sudo "$(command -v' in result.stdout
    assert len([line for line in result.stdout.splitlines() if "S(sleeping)" in line]) == 3
    report = json.loads(threadinfo(process.pid, "--format", "json", privileged=False).stdout)["processes"][0]
    assert (report["descriptors"], report["memory"]["pss_bytes"]) == (None, None)
    assert report["memory"]["virtual_bytes"] > 0
    assert {gap["section"] for gap in report["gaps"]} >= {"descriptors", "memory distribution"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting /proc needs root")
def test_process_hidden_by_hidepid_is_not_found(start: Start, threadinfo: Run, shared_path: Path) -> None:
    process = start(sys.executable, MANY, "hidden", 1, 3)
    root = shared_path / "proc"
    root.mkdir()
    subprocess.run(["mount", "-t", "proc", "-o", "hidepid=invisible", "proc", root], check=True)
    try:
        assert threadinfo(process.pid, "--proc", root).returncode == 0
        assert threadinfo(process.pid, "--proc", root, privileged=False).returncode == 1
    finally:
        subprocess.run(["umount", root], check=True)


def test_miniature_proc_is_reported_as_the_sample(make_proc: MakeProc, threadinfo: Run) -> None:
    root = make_proc(miniature.process())
    result = threadinfo("--proc", root, "1265598")
    assert result.returncode == 0
    for line in (
        "=== Memory Footprint for hydrogen (PID: 1265598) ===",
        "Total Virtual Memory: 472328 kB",
        "Memory In Use: 14540 kB (RAM: 14028 kB, Swap: 512 kB)",
        "Rss:               14864 kB",
        "Swap:                512 kB",
        "Count: 1 file descriptors",
        "Max open files            524288               524288               files     ",
    ):
        assert line in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("file", "section"),
    [("smaps_rollup", "memory distribution"), ("limits", "limits"), ("status", "memory")],
)
def test_malformed_file_names_path_and_line_and_leaves_the_rest(
    file: str, section: str, make_proc: MakeProc, threadinfo: Run
) -> None:
    root = make_proc(miniature.process(7, **{file: "Rss: ?\nMax open files ?\nVmRSS: ?\n"}))
    result = threadinfo("--proc", root, "7", "--format", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)["processes"][0]
    (gap,) = [gap for gap in report["gaps"] if gap["section"] == section]
    assert f"{root}/7/{file}" in gap["cause"]
    assert "line" in gap["cause"]
    assert report["descriptors"][0]["target"] == "/dev/null"


def test_process_that_ends_half_way_is_exit_4(make_proc: MakeProc, threadinfo: Run) -> None:
    root = make_proc({"7/status": "Tgid:\t7\n", "7/task": None})
    result = threadinfo("--proc", root, "7")
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr == "process 7 ended before it could be read\n"


def test_churning_target_never_breaks_a_listing(start: Start, threadinfo: Run, tmp_path: Path) -> None:
    source = tmp_path / "churn.py"
    source.write_text(
        "import os, threading\n"
        "def threads():\n"
        "    while True: threading.Thread(target=int).start()\n"
        "def files():\n"
        "    while True:\n"
        "        fds = [os.open('/dev/null', 0) for _ in range(50)]\n"
        "        for fd in fds: os.close(fd)\n"
        "for target in (threads, files): threading.Thread(target=target, daemon=True).start()\n"
        "print('ready', flush=True)\ninput()\nos._exit(0)\n"
    )
    process = start(sys.executable, source)
    for _ in range(11):
        result = threadinfo(process.pid, "--format", "json")
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)["processes"][0]
        assert {gap["section"] for gap in report["gaps"]} <= {"descriptors", "threads", "who serves each descriptor"}


def test_names_that_attack_a_terminal_are_harmless(start: Start) -> None:
    process = start(sys.executable, MANY, "\x1b]0;pwned\x07\u202e\n", 1, 3)
    main, side = pty.openpty()
    output = bytearray()

    def read() -> None:
        try:
            while data := os.read(main, 65536):
                output.extend(data)
        except OSError:
            return

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "threadinfo", "-v", str(process.pid)]
    subprocess.run(command, stdout=side, stderr=side, check=True, cwd=ROOT)
    os.close(side)
    reader.join(10)
    os.close(main)
    assert b"\\x1b]0;pwned\\x07" in output
    assert b"\x1b" not in output
    assert "\u202e".encode() not in output


@pytest.mark.parametrize(
    "arguments", [("--only", "cpu"), ("--only", "scheduling", "--failures"), ("--only", "waits,cpu")]
)
def test_a_stream_of_nothing_is_a_usage_error(threadinfo: Run, arguments: tuple[str, ...]) -> None:
    result = threadinfo("trace", os.getpid(), *arguments, "--duration", "0.1")
    assert result.returncode == (2 if os.geteuid() == 0 else 3), result.stderr
    assert "Traceback" not in result.stderr
    assert "fault" not in result.stderr
