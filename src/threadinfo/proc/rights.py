"""What this process may read of others, tried on all of them."""

from __future__ import annotations

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
