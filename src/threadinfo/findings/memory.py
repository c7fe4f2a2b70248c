"""Memory that is not where it should be."""

from __future__ import annotations

from collections.abc import Iterator

from threadinfo.findings.words import percent
from threadinfo.model import Finding, ProcessReport

_SWAP_BYTES = 1 << 20
_SWAP_MEDIUM_PERCENT = 10.0


def swap(process: ProcessReport) -> Iterator[Finding]:
    """Memory of it lies in swap."""
    memory = process.memory
    swapped = max(memory.swap_bytes or 0, memory.mapped_swap_bytes or 0)
    if swapped < _SWAP_BYTES:
        return
    share = percent(swapped, swapped + (memory.resident_bytes or 0))
    yield Finding(
        kind="swap_in_use",
        severity="medium" if share >= _SWAP_MEDIUM_PERCENT else "low",
        words=f"{swapped / (1 << 20):.1f} MiB of its memory are in swap, {share:.0f} % of what it uses",
        value=float(swapped),
        threshold=float(_SWAP_BYTES),
        unit="bytes",
        rule="1 MiB or more",
        advice="See whether the machine still swaps (vmstat 1, columns si and so) and who needs the memory; a thread "
        "that touches such a page sleeps until it is read back.",
    )
