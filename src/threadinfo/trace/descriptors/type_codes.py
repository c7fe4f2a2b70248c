"""The kinds of descriptors as small numbers: the kernel side counts by them."""

from __future__ import annotations

from threadinfo.descriptor_kinds import ANONYMOUS_NAMES, KIND_NAMES, kind_of_link

TYPE_CODES = 48
TYPE_NAMES: tuple[str | None, ...] = (None, *KIND_NAMES)
"""By code; 0: not known."""
_CODES = {name: code for code, name in enumerate(TYPE_NAMES)}

DEFINES = {f"TYPE_{name.upper()}": _CODES[name] for name in KIND_NAMES}
"""For the program in the kernel."""

ANONYMOUS_NAME_BYTES = 16
ANONYMOUS_CODES = {
    name.encode()[: ANONYMOUS_NAME_BYTES - 1].ljust(ANONYMOUS_NAME_BYTES, b"\0"): _CODES[kind]
    for name, kind in ANONYMOUS_NAMES.items()
}
"""For the program in the kernel, by as much of an anonymous inode's name as it looks at."""

_TOLD_BY_INODE = {"file", "device", "terminal", "memfd_secret", "other"}


def type_code(name: str | None) -> int:
    """The code of a type; 0 for None and for one that is not known."""
    return _CODES.get(name, 0)


def code_of_link(link: str) -> int:
    """The code of what /proc/PID/fd/FD points to; 0 where the link alone does not tell: a path may lie."""
    kind = kind_of_link(link).name
    return 0 if kind in _TOLD_BY_INODE else _CODES[kind]
