"""What threads waited for against what they counted themselves: object, time, who held the lock, who released it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Start
from tests.trace.test_descriptors import build, trace

pytestmark = pytest.mark.usefixtures("bpf")

ROUNDS = 31
MUTEXES = ("normal", "recursive", "errorcheck", "adaptive", "inheriting", "robust")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the workload says of each of its waiters, and the report."""
    directory = tmp_path_factory.mktemp("waits")
    program = build("waits", directory, "-pthread")
    arguments = ["PID", "--trace", "600", "--only", "waits", "--format", "json"]
    done = trace([str(program), str(directory), str(ROUNDS)], arguments, output=directory / "report.json")
    assert done.status == 0, done.errors
    return json.loads(done.said), done.report()


def threads_of(report: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Every traced thread, those that ended too."""
    return {thread["tid"]: thread for thread in (*report["threads"], *report["trace"]["ended_threads"])}


def its_waits(truth: dict[str, Any], thread: dict[str, Any]) -> list[dict[str, Any]]:
    """The waits of a thread that are those which it has counted; between them it reads a pipe."""

    def is_meant(wait: dict[str, Any]) -> bool:
        target = wait["object"]
        if not truth["call"]:
            return bool(wait["cause"] == "page_fault")
        if wait["syscall"] != truth["call"] or wait["count"] < 1:
            return False
        if truth["fd"] >= 0:
            return bool(target["fd"] == truth["fd"])
        if truth["child"]:
            return bool(target["pid"] == truth["child"])
        if truth["address"]:
            return bool(target["address"] == truth["address"])
        return target["address"] is None or abs(target["address"] - truth["gate"]) > 64

    return [wait for wait in thread["waits"] if is_meant(wait)]


def test_every_wait_has_its_name_and_its_time(traced: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    truths, report = traced
    threads = threads_of(report)
    assert len(truths) >= 18
    for truth in truths:
        thread, name = threads[truth["tid"]], truth["name"]
        found = its_waits(truth, thread)
        assert found, (name, thread["waits"])
        ns = sum(wait["sum_ns"] for wait in found)
        scheduling = thread["scheduling"]
        # Its clock runs on while it waits for a CPU afterwards, and while it makes the call.
        working_ns = scheduling["on_cpu_ns"] + scheduling["run_queue_ns"]
        assert ns <= 1.01 * truth["ns"], name
        assert ns >= 0.99 * truth["ns"] - working_ns, name
        if name != "syncer":  # what the disk has done already is not waited for
            counts = [wait["count"] for wait in found if name != "barrier" or wait["sum_ns"] > 1_000_000]
            # On a busy machine what is waited for may be there already; and a late wake-up of before ends a wait early.
            # Who makes threads waits for the C library's own locks as well: at addresses of theirs.
            assert 0.9 * truth["count"] <= sum(counts), name
            assert max(counts) <= 1.1 * truth["count"] + 1, name
        if truth["address"] and name in {"normal", "semaphore"}:
            assert 5_000_000 <= found[0]["p50_ns"] <= found[0]["p99_ns"] <= found[0]["max_ns"]


def test_waits_add_up_to_the_window(traced: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    truths, report = traced
    window = report["trace"]["duration_ns"]
    told = {truth["tid"] for truth in truths}
    for tid, thread in threads_of(report).items():
        scheduling, waits_ns = thread["scheduling"], sum(wait["sum_ns"] for wait in thread["waits"])
        assert waits_ns + thread["waits_other_ns"] == pytest.approx(scheduling["blocked_ns"], abs=1000), tid
        whole = scheduling["on_cpu_ns"] + scheduling["run_queue_ns"] + waits_ns
        assert sum(wait["uninterruptible_ns"] for wait in thread["waits"]) <= scheduling["uninterruptible_ns"]
        if tid in told:  # it began before the window and ended in it
            assert whole <= 1.01 * window
        if tid in {one["tid"] for one in report["threads"]}:
            assert whole == pytest.approx(window, rel=0.01), thread["name"]
        assert thread["waits_other_ns"] <= 0.01 * window, thread["name"]


def test_holders_of_mutexes_are_named_and_nobody_else(traced: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    truths, report = traced
    threads = threads_of(report)
    for truth in truths:
        held = [(wait, holder) for wait in threads[truth["tid"]]["waits"] for holder in wait["held_by"]]
        if truth["name"] not in MUTEXES:
            assert not held, truth["name"]
            continue
        assert {holder["tid"] for _, holder in held} == {truth["other"]}, truth["name"]
        (wait, holder) = held[0]
        assert wait["object"]["kind"] == "lock"
        assert 0.9 * truth["count"] <= holder["count"] <= wait["count"]
        assert holder["time_ns"] >= 0.99 * wait["sum_ns"]
        assert wait["released_by"][0]["tid"] == truth["other"]
        assert wait["released_by"][0]["time_ns"] >= 0.99 * wait["sum_ns"]


def test_who_released_a_wait_is_named(traced: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    truths, report = traced
    threads = threads_of(report)
    for truth in truths:
        if not truth["other"]:
            continue
        found = its_waits(truth, threads[truth["tid"]])
        released: dict[int | None, int] = {}
        for wait in found:
            for waker in wait["released_by"]:
                released[waker["tid"]] = released.get(waker["tid"], 0) + waker["time_ns"]
        total = sum(wait["sum_ns"] for wait in found)
        assert released.get(truth["other"], 0) >= 0.95 * total, (truth["name"], released)


def test_waits_for_work_are_told_from_waits_within_it(traced: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    truths, report = traced
    threads = threads_of(report)
    idle = {"sleeper", "epoll", "condition", "semaphore", "rwlock", "barrier", "futex", "joiner", "parent"}
    for truth in truths:
        for wait in its_waits(truth, threads[truth["tid"]]):
            if wait["sum_ns"] > 0.5 * truth["ns"]:
                assert wait["is_idle"] == (truth["name"] in idle), truth["name"]


PROGRAM = """
import queue, threading, time
work, lock = queue.Queue(), threading.Lock()
def worker():
    while True:
        item = work.get()
        with lock:
            time.sleep(0.0007)
            sum(range(2000))
for _ in range(5):
    threading.Thread(target=worker, daemon=True).start()
print("ready", flush=True)
while True:
    for item in range(11):
        work.put(item)
    time.sleep(0.003)
"""


def test_waits_of_an_interpreters_threads_add_up_and_its_locks_have_no_holder(
    bpf: None, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    source = tmp_path / "queue_workers.py"
    source.write_text(PROGRAM)
    process = start(sys.executable, source)
    result = threadinfo(process.pid, "--trace", "1.5", "--only", "scheduling,waits", "--format", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)["processes"][0]
    window = report["trace"]["duration_ns"]
    assert len(report["threads"]) == 6
    for thread in report["threads"]:
        scheduling, waits_ns = thread["scheduling"], sum(wait["sum_ns"] for wait in thread["waits"])
        assert scheduling["on_cpu_ns"] + scheduling["run_queue_ns"] + waits_ns == pytest.approx(window, rel=0.01)
        assert thread["waits_other_ns"] <= 0.01 * window
        assert {wait["syscall"] for wait in thread["waits"]} <= {"futex", "clock_nanosleep", "select", None}
        # Its locks are semaphores, of which nobody knows the holder. Its own mutex is one, for some microseconds.
        held = [wait for wait in thread["waits"] if wait["held_by"]]
        assert {wait["object"]["kind"] for wait in held} <= {"lock"}
        assert sum(wait["sum_ns"] for wait in held) <= 0.02 * window
        tids = {one["tid"] for one in report["threads"]} - {thread["tid"]}
        assert {holder["tid"] for wait in held for holder in wait["held_by"]} <= tids


def test_number_that_is_used_again_is_a_wait_of_its_own(
    bpf: None, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    """Three pipes, one after the other under the same number, and then more than are told apart."""
    source = tmp_path / "reused.py"
    source.write_text(
        "import os, threading, time\n"
        "from pathlib import Path\n"
        "blocked = Path(f'/proc/self/task/{os.getpid()}/syscall')\n"
        "def write(r, w):\n"
        "    time.sleep(0.003)  # a number is looked at anew once a millisecond\n"
        "    while int((blocked.read_text().split() + ['0'])[1], 0) != r: time.sleep(0.001)\n"
        "    os.write(w, b'x')\n"
        "def one():\n"
        "    r, w = os.pipe()\n"
        "    thread = threading.Thread(target=write, args=(r, w))\n"
        "    inode = os.fstat(r).st_ino; thread.start(); os.read(r, 1); thread.join(); os.close(r); os.close(w)\n"
        "    return r, inode\n"
        "print('ready', flush=True); input()\n"
        "print([one() for _ in range(29)][0][0], flush=True); input()\n"
    )
    command = [sys.executable, str(source)]
    arguments = ["PID", "--trace", "600", "--only", "waits", "--format", "json"]
    done = trace(command, arguments, output=tmp_path / "report.json")
    thread = done.report()["threads"][0]
    reads = [wait for wait in thread["waits"] if wait["object"]["fd"] == int(done.said)]
    assert sum(wait["count"] for wait in reads) == 29
    apart = [wait for wait in reads if not wait["object"]["is_reused"]]
    assert [wait["count"] for wait in apart] == [1] * 7
    assert len({wait["object"]["inode"] for wait in apart}) == 7
    assert [wait["count"] for wait in reads if wait["object"]["is_reused"]] == [22]


def test_live_stream_of_waits_is_a_usage_error(threadinfo: Run) -> None:
    result = threadinfo("trace", "1", "--only", "waits")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--trace 5s --only waits" in result.stderr


WORKER = """
import socket, threading, time
listening = socket.create_server(("127.0.0.1", 0), backlog=3)
clients = [socket.create_connection(listening.getsockname()) for _ in range(4)]
handled = threading.Condition()
def worker():
    with handled:
        handled.wait()
threading.Thread(target=worker, daemon=True).start()
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def test_worker_that_sleeps_while_connections_wait_is_found(
    bpf: None, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    source = tmp_path / "worker.py"
    source.write_text(WORKER)
    process = start(sys.executable, source)
    result = threadinfo(process.pid, "--trace", "1", "--format", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)["processes"][0]
    (found,) = [one for one in report["findings"] if one["kind"] == "threads_sleep_at_full_backlog"]
    assert set(found["tids"]) == {thread["tid"] for thread in report["threads"]}
    assert "4 connections wait at FD 3" in found["words"]
    text = threadinfo(process.pid, "--trace", "0.5", "--only", "waits").stdout
    assert "idle in clock_nanosleep" in text


def test_process_that_syncs_all_the_time_is_found_with_its_file(
    bpf: None, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    """By what the trace itself says of the time: how fast the disk is, is not ours to choose."""
    source = tmp_path / "sync.py"
    source.write_text(
        f"import os\nfd = os.open({str(tmp_path / 'synced')!r}, os.O_RDWR | os.O_CREAT)\nprint('ready', flush=True)\n"
        "while True:\n    os.pwrite(fd, os.urandom(1 << 20), 0); os.fsync(fd)\n"
    )
    process = start(sys.executable, source)
    result = threadinfo(process.pid, "--trace", "1", "--format", "json")
    report = json.loads(result.stdout)["processes"][0]
    waits = [wait for wait in report["threads"][0]["waits"] if wait["syscall"] == "fsync"]
    share = sum(wait["sum_ns"] for wait in waits) / report["trace"]["duration_ns"]
    found = [one for one in report["findings"] if one["kind"] == "thread_waits_for_disk"]
    assert bool(found) == (share >= 0.1) or share == pytest.approx(0.1, abs=0.02)
    for wait in waits:
        assert wait["object"]["description"].endswith("/synced")


PEERS = """
import os, socket, time
for port in range(20000 + os.getpid() % 10000, 32000):  # below those that the kernel gives to clients
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError:
        continue
    break
if child := os.fork():
    peer, _ = listening.accept()
    print(child, port, flush=True)
    while peer.recv(9):
        time.sleep(0.01)
        peer.send(b"answer")
else:
    peer = socket.create_connection(listening.getsockname())
    listening.close()
    while peer.send(b"question") and peer.recv(9):
        pass
"""


def test_process_that_waits_for_a_slow_peer_is_told_which_and_the_peer_is_told_nothing(
    bpf: None, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    source = tmp_path / "peers.py"
    source.write_text(PEERS)
    server = start(sys.executable, source)
    client, port = server.first_line.split()  # type: ignore[attr-defined]
    result = threadinfo(client, server.pid, "--trace", "1", "--format", "json")
    assert result.returncode == 0, result.stderr
    found = {
        one["pid"]: [each for each in one["findings"] if each["kind"] == "thread_waits_for_peer"]
        for one in json.loads(result.stdout)["processes"]
    }
    assert found[server.pid] == []  # it waits for questions: for work
    (finding,) = found[int(client)]
    assert f"for its peer 127.0.0.1:{port}, " in finding["words"]
    assert f"of process {server.pid} " in finding["advice"]


HOLDING_ROWS = """
import fcntl, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
locked = open(sys.argv[1], "w")
children = []
for _ in range(3):
    requests = subprocess.Popen(["sh", "-c", "while sleep 0.002; do echo; done"], stdout=subprocess.PIPE)
    if child := os.fork():
        children.append(child)
        continue
    locked = open(sys.argv[1], "w")
    while os.read(requests.stdout.fileno(), 1):
        fcntl.lockf(locked, fcntl.LOCK_EX)
        time.sleep(0.02)
        fcntl.lockf(locked, fcntl.LOCK_UN)
    os._exit(0)
print(*children, flush=True)
try:
    signal.pause()
finally:
    for child in children:
        os.kill(child, 9)
"""


def test_process_that_waits_for_what_others_of_its_program_hold(
    bpf: None, start: Start, threadinfo: Run, tmp_path: Path
) -> None:
    """As backends of a database wait for a row: the lock is the kernel's, and no futex."""
    source = tmp_path / "rows.py"
    source.write_text(HOLDING_ROWS)
    parent = start(sys.executable, source, tmp_path / "locked")
    pids = [int(pid) for pid in parent.first_line.split()]  # type: ignore[attr-defined]
    result = threadinfo(*pids, parent.pid, "--trace", "2", "--format", "json")
    assert result.returncode == 0, result.stderr
    kinds = {
        one["pid"]: {each["kind"]: each for each in one["findings"]} for one in json.loads(result.stdout)["processes"]
    }
    assert "thread_waits_for_siblings" not in kinds[parent.pid]
    told = [kinds[pid]["thread_waits_for_siblings"] for pid in pids if "thread_waits_for_siblings" in kinds[pid]]
    assert told  # one of them at least waited for a fifth of the time, or all together would have needed no lock
    for finding in told:
        assert any(f" {pid} ended " in finding["words"] for pid in pids)
