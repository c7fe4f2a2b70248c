"""All tracers there are. Nothing of them is loaded before it is asked for: this module costs a plain report nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from threadinfo.trace.session.tracer import Tracer


class Registered(NamedTuple):
    """Where a tracer is to be found."""

    watches: tuple[str, ...]
    """What `--only` calls that which it watches."""
    module: str
    class_name: str
    streamed: tuple[str, ...] = ()
    """Of these, what the live stream has events of."""
    shown_live: tuple[str, ...] = ()
    """Of these, what the live view shows."""
    is_optional: bool = False
    """Whether a trace goes on without it where this host does not let it."""

    def load(self) -> type[Tracer]:
        """The class."""
        tracer: type[Tracer] = getattr(importlib.import_module(self.module), self.class_name)
        return tracer


# In the order in which they are attached and stopped; the last that attaches is the first that sees less of the others.
TRACERS = (
    Registered(
        ("scheduling", "waits"),
        "threadinfo.trace.scheduling.tracer",
        "SchedulingTracer",
        streamed=("scheduling",),
        shown_live=("scheduling", "waits"),
    ),
    Registered(("cpu",), "threadinfo.trace.cpu.tracer", "CpuTracer", is_optional=True),
    Registered(
        ("descriptors", "sockets"),
        "threadinfo.trace.descriptors.tracer",
        "DescriptorTracer",
        streamed=("descriptors", "sockets"),
        shown_live=("descriptors", "sockets"),
    ),
)


def watched() -> tuple[str, ...]:
    """Everything that can be watched, as `--only` has it."""
    return tuple(sorted(word for tracer in TRACERS for word in tracer.watches))


def streamed() -> frozenset[str]:
    """What a live stream can have."""
    return frozenset(word for tracer in TRACERS for word in tracer.streamed)


def shown_live() -> frozenset[str]:
    """What the live view shows."""
    return frozenset(word for tracer in TRACERS for word in tracer.shown_live)
