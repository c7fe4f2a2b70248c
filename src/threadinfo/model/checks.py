"""What doctor finds."""

from __future__ import annotations

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One thing that tracing needs of a host, for `threadinfo doctor`."""

    name: str
    state: Literal["ok", "missing", "unknown"]
    found: str
    effect: str
    """What does not work without it."""
    remedy: str | None
    """None where nothing is to be done, or nothing can be."""
    is_required: bool
    """Whether there is no tracing at all without it."""
