"""What tracing reads of the processes that it watches, and what it is asked to watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from threadinfo.model import BlockedCall, KernelAccount
from threadinfo.trace.stacks.shared_unwinder import SharedUnwinder


class TraceTarget(Protocol):
    """Reads /proc for the tracers: always the same processes, though their numbers be used again.

    Of a process that has ended, or that was never a target, everything is None.
    """

    @property
    def pids(self) -> Sequence[int]:
        """The targets."""
        ...

    def threads(self) -> Mapping[int, Mapping[int, str]]:
        """Of every target: thread id to the letter of its state."""
        ...

    def account(self, pid: int, tid: int) -> KernelAccount | None:
        """What the kernel has counted of a thread of a target."""
        ...

    def call(self, pid: int, tid: int) -> BlockedCall | None:
        """What a thread of a target sleeps in; None where it runs, or where its calls are not those of this machine."""
        ...

    def links(self, pid: int) -> Mapping[int, str] | None:
        """All of /proc/PID/fd: number to what it points to."""
        ...

    def numbers(self, pid: int) -> Sequence[int] | None:
        """The numbers in /proc/PID/fd."""
        ...

    def maps(self, pid: int) -> bytes | None:
        """/proc/PID/maps."""
        ...

    def open_mapping(self, pid: int, addresses: str) -> int | None:
        """Opens what a target has mapped at "START-END", as maps has it; the caller closes it."""
        ...

    def perf_map(self, pid: int) -> bytes | None:
        """What a target says of the code that it made at run time, as perf(1) reads it; None where it says nothing."""
        ...

    def name(self, tid: int) -> tuple[int | None, str] | None:
        """(PID, name) of any thread of the machine."""
        ...

    def all_pids(self) -> Sequence[int]:
        """The ids of all processes of the machine."""
        ...


class TraceOptions(NamedTuple):
    """What to watch, and how."""

    only: frozenset[str]
    """Of what tracers say that they watch (`tracers.watched`)."""
    sends_events: bool = False
    """For those who look at what happens: every event travels, rather than what is counted of them."""
    threshold_ns: int | None = None
    """Of those events: waits for a CPU that are longer; None: no waits."""
    with_stacks: bool = True
    """Whether call sites are found, where that is possible."""
    frequency: int = 99
    """How often a second each CPU is looked at."""
    debuginfod: tuple[str, ...] = ()
    """Servers to ask for debug files that this host lacks."""
    unwinder: SharedUnwinder | None = None
    """For whoever needs stacks; None: each has its own."""
    follow_limit: int = 0
    """How many of the processes that traced ones make are traced too."""
