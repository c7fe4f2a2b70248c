"""Times whole commands in turns, A B A B ..., and compares their medians: machines are noisy, ratios less so."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """The medians of several runs of one command; of one that failed, how it did."""

    wall_seconds: float
    peak_kilobytes: int
    problem: str | None = None


def measure(commands: Sequence[Sequence[str]], runs: int = 5) -> list[Measured]:
    """Runs every command once to warm up, then `runs` times in turns."""
    walls: list[list[float]] = [[] for _ in commands]
    peaks = [0 for _ in commands]
    problems: dict[int, str] = {}
    for turn in range(runs + 1):
        for index, command in enumerate(commands):
            if index in problems:
                continue
            started = time.perf_counter()
            with open(os.devnull, "wb") as nothing:
                try:
                    process = subprocess.Popen(command, stdout=nothing)
                except OSError as problem:
                    problems[index] = str(problem.strerror)
                    continue
                _, status, usage = os.wait4(process.pid, 0)
            if status:
                problems[index] = f"it ended with status {os.waitstatus_to_exitcode(status)}"
                continue
            if turn:
                walls[index].append(time.perf_counter() - started)
                peaks[index] = max(peaks[index], usage.ru_maxrss)
    return [
        Measured(0, 0, problems[index]) if index in problems else Measured(statistics.median(series), peaks[index])
        for index, series in enumerate(walls)
    ]
