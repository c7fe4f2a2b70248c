"""Times whole commands in turns, A B A B ..., and compares their medians: machines are noisy, ratios less so."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """The medians of several runs of one command."""

    wall_seconds: float
    peak_kilobytes: int


def measure(commands: Sequence[Sequence[str]], runs: int = 5) -> list[Measured]:
    """Runs every command once to warm up, then `runs` times in turns."""
    walls: list[list[float]] = [[] for _ in commands]
    peaks = [0 for _ in commands]
    for turn in range(runs + 1):
        for index, command in enumerate(commands):
            started = time.perf_counter()
            with open(os.devnull, "wb") as nothing:
                process = subprocess.Popen(command, stdout=nothing)
                _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{command} failed: {status}")
            if turn:
                walls[index].append(time.perf_counter() - started)
                peaks[index] = max(peaks[index], usage.ru_maxrss)
    return [Measured(statistics.median(series), peak) for series, peak in zip(walls, peaks, strict=True)]
