"""Prints what a command finds around itself, as JSON: what `threadinfo run` must not have changed."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path


def main() -> None:
    """All but what differs from one run to the next."""
    signals = {
        line.split(":")[0]: line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("SigBlk", "SigIgn", "CapEff", "NoNewPrivs", "TracerPid"))
    }
    found = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "descriptors": [fd for fd in range(1024) if Path(f"/proc/self/fd/{fd}").is_symlink()],
        "links": [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)],
        "signals": signals,
        "pending": sorted(signal.sigpending()),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if "RLIMIT_" in name},
        "mask": os.umask(0),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "session": os.getsid(0),
        "user": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
        "affinity": sorted(os.sched_getaffinity(0)),
    }
    print(json.dumps(found))


main()
