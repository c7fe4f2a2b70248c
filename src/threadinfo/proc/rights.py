"""What this process may read of others, tried on all of them; and what would let it read more."""

from __future__ import annotations

import os
from typing import NamedTuple

from threadinfo.proc.reader import ProcDeniedError, ProcDirectory, ProcError


class Others(NamedTuple):
    """The processes of the machine, as far as /proc shows them."""

    process_count: int
    closed_count: int
    """Of those, what they execute, have open and have in memory may not be read."""
    hides_first: bool
    """Whether process 1 is hidden, as with hidepid=2: then others may be, too."""


def count_closed(root: ProcDirectory) -> Others:
    """Reads what every process executes, which takes the rights that its descriptors take. Raises ProcError."""
    pids = root.numbers()
    closed = 0
    for pid in pids:
        try:
            root.link(f"{pid}/exe")
        except ProcDeniedError:
            closed += 1
        except ProcError:  # it has ended, or is the kernel's
            continue
    return Others(len(pids), closed, 1 not in pids)


def more_rights(capability: str = "CAP_SYS_PTRACE") -> str:
    """What lets this process read what it may not; root is not told to become root."""
    if os.geteuid():
        return "run as root"
    return f"this root lacks {capability}: run it outside the container, or with --cap-add {capability[4:]}"
