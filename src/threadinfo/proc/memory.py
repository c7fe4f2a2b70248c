"""The memory of a process: proc_pid_status(5) for the counters, proc_pid_smaps(5) for the exact distribution."""

from __future__ import annotations

import msgspec

from threadinfo.proc.process import parse_kilobytes
from threadinfo.proc.reader import MalformedLineError, ProcDirectory, ProcGoneError


class Distribution(msgspec.Struct, frozen=True):
    """The sums of all mappings, in bytes."""

    rss_bytes: int
    pss_bytes: int
    swap_bytes: int


def parse_smaps(text: str) -> Distribution:
    """Adds up an smaps file, or takes an smaps_rollup's only entry; raises MalformedLineError."""
    sums = {"Rss": 0, "Pss": 0, "Swap": 0}
    seen = set()
    for number, line in enumerate(text.split("\n"), 1):
        key, colon, value = line.partition(":")
        if colon and key in sums:
            try:
                sums[key] += parse_kilobytes(value)
            except ValueError:
                raise MalformedLineError(number, line) from None
            seen.add(key)
    if text and len(seen) < len(sums):
        raise MalformedLineError(1, f"no {', '.join(sorted(set(sums) - seen))} line")
    return Distribution(sums["Rss"], sums["Pss"], sums["Swap"])


def read_distribution(process: ProcDirectory) -> Distribution:
    """/proc/PID/smaps_rollup, or on kernels before 4.14 the sum over /proc/PID/smaps."""
    try:
        return process.parse("smaps_rollup", parse_smaps)
    except ProcGoneError:
        return process.parse("smaps", parse_smaps)
