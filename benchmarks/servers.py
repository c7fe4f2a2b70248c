"""What tracing costs real servers: nginx with an open and a close a request, redis and postgres, beside the peers.

Every server runs in turns untraced and under each tracer. Throughput and the server's own CPU time a request are
told as ratios of the untraced turn beside them, medians of TURNS turns. What is not installed is a row that says so.
Needs root, and wrk, redis-benchmark and pgbench for the load. Not a part of `make bench`, for the servers' sake.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tracers import TURNS, PeerError, mount_tracefs, under

SECONDS = 2
_TICKS = os.sysconf("SC_CLK_TCK")
_TOOL = (sys.executable, "-m", "threadinfo")
_LONG = "3600"


class Turn(NamedTuple):
    """What a server did in one turn."""

    per_second: float
    cpu_seconds_per_request: float


class Server(NamedTuple):
    """A server that runs, and how to ask it."""

    name: str
    pids: Sequence[int]
    """Those whose CPU time counts, and that are traced."""
    load: Sequence[str]
    rate: re.Pattern[str]
    """Finds the requests a second in what the load prints."""
    follows: bool = False


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of processes and of their children that ended."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(each) for of_one in fields for each in of_one[11:15]) / _TICKS


def ask(server: Server) -> Turn:
    """One turn of load."""
    before, began = cpu_seconds(server.pids), time.monotonic()
    answer = subprocess.run(server.load, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    time.sleep(0.3)  # until processes of single connections have ended, and are counted by their parent
    used = cpu_seconds(server.pids) - before
    found = server.rate.search(answer.stdout)
    if not found:
        raise PeerError(f"{server.load[0]}: {(answer.stderr or answer.stdout).strip().splitlines()[-1:]}")
    rate = float(found.group(1))
    return Turn(rate, used / (rate * seconds))


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise PeerError("it does not listen")


def found(program: str) -> str:
    """The path of a program; raises PeerError."""
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if path is None:
        raise PeerError(f"{program} is not installed")
    return path


@contextmanager
def nginx(directory: Path) -> Iterator[Server]:
    """One worker that opens and closes a file for each request."""
    program, load, port = found("nginx"), found("wrk"), free_port()
    directory.chmod(0o755)
    (directory / "index.html").write_text("answer\n" * 10)
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; error_log stderr; pid {directory}/pid; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {directory}; }} }}\n"
    )
    process = subprocess.Popen([program, "-c", directory / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        url = f"http://127.0.0.1:{port}/index.html"
        yield Server(
            "nginx", [process.pid], [load, "-t1", "-c8", f"-d{SECONDS}", url], re.compile(r"Requests/sec:\s*([\d.]+)")
        )
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis(directory: Path) -> Iterator[Server]:
    """Nothing is written to a disk."""
    program, load, port = found("redis-server"), found("redis-benchmark"), free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", directory], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(port)
        command = [load, "-p", str(port), "-t", "get", "-c", "20", "-n", "150000", "-q", "--csv"]
        yield Server("redis", [process.pid], command, re.compile(r'^"GET","([\d.]+)"', re.MULTILINE))
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgres(directory: Path) -> Iterator[Server]:
    """Reading only: the disk would speak loudest otherwise."""
    load, port = found("pgbench"), free_port()
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        raise PeerError("postgres is not installed")
    directory.chmod(0o777)
    data = directory / "data"
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run([*as_postgres, programs / "initdb", "-D", data, "-A", "trust"], check=True, capture_output=True)
    process = subprocess.Popen(
        [*as_postgres, programs / "postgres", "-D", data, "-p", str(port), "-k", directory], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port)
        where = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "postgres"]
        subprocess.run([load, "-i", "-q", *where], check=True, capture_output=True)
        command = [load, "-n", "-S", "-c", "2", "-T", str(SECONDS), *where]
        yield Server("postgres", [process.pid], command, re.compile(r"tps = ([\d.]+) \(without"), follows=True)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def tracers(server: Server, directory: Path) -> dict[str, tuple[list[str], bool]]:
    """What is compared: its command, and whether it has BPF programs of its own."""
    pid = str(server.pids[0])
    ours = [*_TOOL, pid, "--trace", _LONG, "--format", "json", "-o", str(directory / "report.json")]
    ours += ["--follow"] * server.follows
    with_children = ["-f"] * server.follows
    return {
        "threadinfo --only scheduling": ([*ours, "--only", "scheduling"], True),
        "threadinfo --only descriptors": ([*ours, "--only", "descriptors"], True),
        "threadinfo, everything": (ours, True),
        "libbpf-tools runqlat": (["/usr/sbin/runqlat", "-p", pid, _LONG], True),
        "libbpf-tools opensnoop": (["/usr/sbin/opensnoop", "-p", pid], True),
        "bpftrace": (
            ["bpftrace", "-e", f"tracepoint:syscalls:sys_enter_openat /pid == {pid}/ {{ @[ustack] = count(); }}"],
            True,
        ),
        "perf trace": (["perf", "trace", "-p", pid, "-o", str(directory / "perf")], False),
        "strace": (["strace", *with_children, "-p", pid, "-o", str(directory / "strace")], False),
    }


def measure(start: Callable[[Path], object]) -> None:
    """Prints a line for each tracer."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, start(Path(name)) as server:  # type: ignore[attr-defined]
        print(f"{server.name}, {TURNS} turns of {' '.join(Path(word).name for word in server.load[:1])}", flush=True)
        compared = tracers(server, Path(name))
        ratios: dict[str, list[tuple[float, float]]] = {tracer: [] for tracer in compared}
        problems: dict[str, str] = {}
        ask(server)
        for _ in range(TURNS):
            for tracer, (command, has_programs) in compared.items():
                if tracer in problems:
                    continue
                plain = ask(server)
                turns: list[Turn] = []
                try:
                    under(command, lambda into=turns: into.append(ask(server)) or 0.0, has_programs=has_programs)  # type: ignore[misc]
                except PeerError as problem:
                    problems[tracer] = str(problem)
                    continue
                (traced,) = turns
                cpu = traced.cpu_seconds_per_request / (plain.cpu_seconds_per_request or float("nan"))
                ratios[tracer].append((traced.per_second / plain.per_second, cpu))
        for tracer, found_ratios in ratios.items():
            if tracer in problems:
                print(f"  {tracer:30} cannot run: {problems[tracer]}")
                continue
            rates, cpus = zip(*found_ratios, strict=True)
            spread = f"{min(rates):.2f} to {max(rates):.2f}"
            print(
                f"  {tracer:30} throughput {statistics.median(rates):.2f} ({spread}), "
                f"CPU a request {statistics.median(cpus):.2f} ({min(cpus):.2f} to {max(cpus):.2f})"
            )


def main() -> None:
    """Of all of them, or of those that are named."""
    if os.geteuid():
        sys.exit("tracing needs root")
    mount_tracefs()
    servers = {"nginx": nginx, "redis": redis, "postgres": postgres}
    for name in sys.argv[1:] or servers:
        try:
            measure(servers[name])
        except PeerError as problem:
            print(f"{name}: cannot run: {problem}")


if __name__ == "__main__":
    main()
