"""What it costs to know where in the program each descriptor is made: one call site, a thousand, and sockets.

Needs root and cc. Medians of rounds that take turns; ratios to the same workload untraced.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tracers import TURNS, under

HERE = Path(__file__).parent
BUILD = HERE / "build"
WORKLOADS = {"open_storm": 100_000, "many_sites": 100_000, "socket_storm": 40_000}
BIRTHS = {"open_storm": "openat", "many_sites": "openat", "socket_storm": "socket"}


def start(name: str) -> subprocess.Popen[str]:
    """A workload that waits for its start."""
    command = [str(BUILD / name), str(WORKLOADS[name])]
    workload = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert workload.stdout is not None
    workload.stdout.readline()
    return workload


def run(workload: subprocess.Popen[str]) -> float:
    """Lets it go; the median of its rounds, in nanoseconds."""
    output, _ = workload.communicate("\n")
    return statistics.median(map(float, output.split()))


def traced(name: str) -> tuple[float, Any]:
    """Nanoseconds under our report, and the trace."""
    workload = start(name)
    with tempfile.NamedTemporaryFile() as file:
        tool = [sys.executable, "-m", "threadinfo", str(workload.pid), "--trace", "600", "--format", "json"]
        taken = under([*tool, "--only", "descriptors,sockets", "-o", file.name], lambda: run(workload))
        return taken, json.loads(Path(file.name).read_text())["processes"][0]["trace"]


def main() -> None:
    """Prints one table."""
    BUILD.mkdir(exist_ok=True)
    for name, count in WORKLOADS.items():
        subprocess.run(["cc", "-O2", "-o", BUILD / name, HERE / f"{name}.c"], check=True)
        plain, under_us, traces = [], [], []
        for _ in range(TURNS):
            plain.append(run(start(name)))
            taken, trace = traced(name)
            under_us.append(taken)
            traces.append(trace)
        ratio = statistics.median(under_us) / statistics.median(plain)
        lost = sum(5 * count - trace["descriptors"]["by_syscall"][BIRTHS[name]] for trace in traces)
        stacks = traces[-1]["descriptors"]["stacks"]
        share = statistics.median(
            100 * trace["descriptors"]["stacks"]["attributed_count"] / trace["descriptors"]["opened_count"]
            for trace in traces
        )
        print(
            f"{name:14}{statistics.median(plain):7.0f} ns, traced {statistics.median(under_us):7.0f} ns: {ratio:.2f}x, "
            f"{lost} births lost, {share:.1f} % attributed, {stacks['site_count']} sites, "
            f"{stacks['copied_count']} stacks copied, {stacks['unwound_count']} unwound in "
            f"{(stacks['unwind_ns_per_stack'] or 0) / 1e6:.2f} ms each",
            flush=True,
        )


main()
