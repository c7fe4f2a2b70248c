"""What tracing needs to know of this machine."""

from __future__ import annotations


def cpu_count() -> int:
    """All CPUs that the kernel may ever bring up: their numbers index our arrays."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().replace("-", ",").split(",")[-1]) + 1
