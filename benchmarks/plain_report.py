"""The plain report against lsfd + ps, lsof and the import of its own libraries, on a small and on a large process."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from side_by_side import measure

HERE = Path(__file__).parent
BUILD = HERE / "build"
OURS = [sys.executable, "-m", "threadinfo"]


@contextmanager
def big_process(threads: int, descriptors: int) -> Iterator[str]:
    """A process that holds that many threads and descriptors of six kinds; gives its PID."""
    program = BUILD / "big_process"
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, HERE / "big_process.c"], check=True)
    process = subprocess.Popen([program, str(threads), str(descriptors)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield str(process.pid)
    process.kill()
    process.communicate()


def main() -> None:
    """Prints one table."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    many = min(17_000, int(hard / 1.2) if hard > 0 else 17_000)
    with big_process(2000, many) as large, big_process(2000, many // 10) as small:
        peers = f"lsfd -p {large} && ps -L -p {large}"
        commands = {
            f"threadinfo, 2,000 threads and {many:,} descriptors": [*OURS, large],
            "lsfd -p and ps -L -p, the same process": ["sh", "-c", peers],
            f"threadinfo, 2,000 threads and {many // 10:,} descriptors": [*OURS, small],
            "threadinfo --format json, the large process": [*OURS, large, "--format", "json"],
            "lsof -p, the large process": ["lsof", "-p", large],
        }
        medians = dict(zip(commands, measure(list(commands.values())), strict=True))
        ours, peer, tenth = list(medians.values())[:3]
    for name, measured in medians.items():
        figures = f"{measured.wall_seconds:7.3f} s {measured.peak_kilobytes / 1024:6.1f} MiB"
        print(f"{name:55} {f'not measured: {measured.problem}' if measured.problem else figures}")
    if not peer.problem:
        print(f"threadinfo / (lsfd + ps): {ours.wall_seconds / peer.wall_seconds:.2f}")
    print(f"ten times the descriptors: {ours.wall_seconds / tenth.wall_seconds:.2f} times the time")

    with subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE) as shell:
        plain, imports = measure([[*OURS, str(shell.pid)], [sys.executable, "-c", "import click, psutil"]], runs=11)
    print(
        f"threadinfo of a shell {plain.wall_seconds:.3f} s, importing click and psutil {imports.wall_seconds:.3f} s: "
        f"{plain.wall_seconds / imports.wall_seconds:.2f}"
    )


main()
