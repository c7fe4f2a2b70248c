"""What a tracer is: one thing that is watched in the kernel, with its C file, its accounts, its part of a report.

`threadinfo/tracers.py` lists all of them; whoever attaches, ticks and detaches knows no more of them than this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar, NamedTuple, TypeVar

import msgspec

from threadinfo.model import Confidence, Gap
from threadinfo.trace.kernel.loader import ProgramStatistics
from threadinfo.trace.session.awaited import AwaitedProcess
from threadinfo.trace.session.following import Child, Following
from threadinfo.trace.session.target import TraceOptions, TraceTarget

AnyTracer = TypeVar("AnyTracer", bound="Tracer")


class Window(NamedTuple):
    """From when to when was counted, CLOCK_MONOTONIC."""

    started_ns: int
    stopped_ns: int


class Tracer(ABC):
    """Watches processes from `start` to `stop`. A context manager: it detaches at its end.

    What `attach` finds impossible it says with NotAvailableError, with nothing left attached.
    """

    name: ClassVar[str]
    """In gaps, and where a fault of ours is told."""
    settle_seconds: ClassVar[float] = 0.0
    """How long what has happened may still be on its way to `read`."""

    awaited: AwaitedProcess
    following: Following

    def __init__(self) -> None:
        self.gaps: list[Gap] = []
        """What it could not do, beyond what the parts of the report say themselves."""

    @classmethod
    @abstractmethod
    def attach(cls: type[AnyTracer], target: TraceTarget, options: TraceOptions) -> AnyTracer:
        """Loads its programs, and watches; counts nothing before `start`, or tells nothing of it."""

    @classmethod
    @abstractmethod
    def check_kernel(cls) -> int:
        """How many tracepoints it attaches to; raises NotAvailableError where the kernel lacks what it needs."""

    def start(self) -> None:  # noqa: B027 - most begin when they are attached
        """Begins the window: what comes from now on is told."""

    def start_at(self, at_ns: int) -> None:  # noqa: B027
        """The process that was waited for has come: its window began then (CLOCK_MONOTONIC)."""

    def read(self) -> None:  # noqa: B027 - what is counted in the kernel needs nobody meanwhile
        """Takes what the kernel has for us. Called once a tick, some hundredths of a second long."""

    def children(self) -> Sequence[Child]:
        """The processes that traced ones have made, as far as it learns of them; what it has told it may leave out."""
        return ()

    def remember(self) -> None:  # noqa: B027
        """What is so now is what is told of a process that ends before the next call."""

    def note_moment(self, names: Mapping[int, tuple[int | None, str]]) -> None:  # noqa: B027
        """Lets `activity` tell of the time until now; `names` are (PID, name) of threads of any process."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the window, reads what is left, and compares with /proc what can be compared: at once, others wait."""

    def conclude(self) -> None:  # noqa: B027
        """What takes its time after the window, when all have stopped: stacks that are still to be unwound."""

    @property
    def window(self) -> Window | None:
        """Where it counts time, which must add up; None: anybody's will do."""
        return None

    @property
    def ended_ns(self) -> Mapping[int, int]:
        """CLOCK_MONOTONIC, when processes ended, by PID, as far as it knows."""
        return {}

    @abstractmethod
    def activity(self, pid: int) -> object | None:
        """What it saw of a process, as a frozen value that is placed in the report by its type."""

    def take(self, pids: Sequence[int]) -> dict[int, object | None]:
        """What it saw of processes that ended a while ago. It may forget them, and use what they used for others."""
        return {pid: self.activity(pid) for pid in pids}

    @abstractmethod
    def confidence(self) -> Confidence:
        """Its account of itself so far."""

    @abstractmethod
    def statistics(self) -> ProgramStatistics:
        """The kernel's account of its programs."""

    @abstractmethod
    def resume(self) -> None:
        """Lets the programs work again after `stop`, to measure them; what they count then must not be read."""

    def __enter__(self: AnyTracer) -> AnyTracer:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detaches."""


NOTHING_SEEN = Confidence(
    seen_count=0, lost_count=0, map_full_count=0, missed_count=0, program_ns_per_event=None, tool_cpu_seconds=0
)


def join_confidence(accounts: Sequence[Confidence]) -> Confidence:
    """All accounts as one: counts are added, and what one alone says is kept."""
    joined = NOTHING_SEEN
    for one in accounts:
        changes = {}
        for name in Confidence.__struct_fields__:
            known, new = getattr(joined, name), getattr(one, name)
            if name == "tool_cpu_seconds":
                changes[name] = max(known, new)
            elif name.endswith("_count"):
                changes[name] = (known or 0) + (new or 0)
            elif new not in (None, ()):
                changes[name] = new
        joined = msgspec.structs.replace(joined, **changes)
    return joined
