"""What `threadinfo doctor` prints."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from threadinfo.model import Check
from threadinfo.render.escape import Printable, printable
from threadinfo.render.json import encode_ascii

_MARKS = {"ok": "ok", "missing": "MISSING", "unknown": "unknown"}


def render_doctor_text(checks: Sequence[Check]) -> Printable:
    """A line each; what is missing has its effect and its remedy below it."""
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.state]:8} {check.name}: {check.found}")
        if check.state != "ok":
            lines.append(f"{'':8}   effect: {check.effect}")
            if check.remedy:
                lines.append(f"{'':8}   remedy: {check.remedy}")
    return printable(lines)


class _Checks(msgspec.Struct, frozen=True):
    checks: tuple[Check, ...]


def render_doctor_json(checks: Sequence[Check]) -> Printable:
    """One object: ``{"checks": [...]}``."""
    return encode_ascii(_Checks(tuple(checks)))
