"""What the kernel side of scheduling writes and we read: one layout on both sides, of every shared struct."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from threadinfo.trace.kernel.btf import KernelTypes
from threadinfo.trace.kernel.compiler import load_bcc
from threadinfo.trace.kernel.loader import bpf_directory, read_source
from threadinfo.trace.scheduling import kernel_accounts, records, turnover, waits
from threadinfo.trace.scheduling.kernel_facts import kernel_facts

pytestmark = pytest.mark.usefixtures("bpf")

LEAVES: dict[str, type[ctypes.Structure] | np.dtype[Any]] = {
    "threads": records.ThreadRecord,
    "losses": records.LossesRecord,
    "control": records.ControlRecord,
    "children": records.ChildRecord,
    "names": records.NameRecord,
    "woken_by": turnover.Total,
    "held_by": turnover.Total,
    **({"began_at": turnover.Total} if platform.machine() == "x86_64" else {}),
    "waits": waits.WAIT,
    "waiting": waits.WAITING,
    "wait_kinds": waits.KINDS,
}
SLOTS = 64


def of_ctypes(kind: type[ctypes.Structure]) -> dict[str, tuple[int, int]]:
    """By the path of each field, inner structs' too: its place and size."""
    found: dict[str, tuple[int, int]] = {}
    for name, inner, *_ in kind._fields_:
        place = getattr(kind, name)
        if isinstance(inner, type) and issubclass(inner, ctypes.Structure):
            found |= {
                f"{name}.{path}": (place.offset + offset, size) for path, (offset, size) in of_ctypes(inner).items()
            }
        else:
            found[name] = place.offset, place.size
    return found


def of_numpy(dtype: np.dtype[Any]) -> dict[str, tuple[int, int]]:
    """The same of NumPy's."""
    found: dict[str, tuple[int, int]] = {}
    fields: Mapping[str, Any] = dtype.fields or {}
    for name, (inner, offset, *_) in fields.items():
        if inner.fields:
            found |= {f"{name}.{path}": (offset + place, size) for path, (place, size) in of_numpy(inner).items()}
        else:
            found[name] = offset, inner.itemsize
    return found


def test_both_sides_have_the_same_layout() -> None:
    bcc = load_bcc()
    defines, *_ = kernel_facts()
    with KernelTypes() as types:
        facts = waits.kernel_facts(types)
        stacks = waits.stack_facts(types)
    assert not isinstance(facts, str)
    assert platform.machine() != "x86_64" or stacks
    defines |= facts | stacks | {"TID_LIMIT": 4096, "SLOT_COUNT": SLOTS, "CPU_COUNT": 2, "PAIRS": SLOTS, "WAITS": SLOTS}
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_directory())
    module = bcc.BPF(text=read_source(bpf_directory() / "scheduling.bpf.c"), cflags=flags)
    for name, mirror in LEAVES.items():
        leaf = module[name.encode()].Leaf
        ours = of_numpy(mirror) if isinstance(mirror, np.dtype) else of_ctypes(mirror)
        assert ours == of_ctypes(leaf), name
        size = mirror.itemsize if isinstance(mirror, np.dtype) else ctypes.sizeof(mirror)
        assert size == ctypes.sizeof(leaf), name
    assert of_ctypes(turnover.Pair) == of_ctypes(module[b"woken_by"].Key) == of_ctypes(module[b"held_by"].Key)


def test_head_of_a_thread_is_what_the_accounts_copy() -> None:
    fields = [name for name, *_ in records.ThreadRecord._fields_][: len(kernel_accounts.Record._fields)]
    assert tuple(fields) == kernel_accounts.Record._fields
    assert kernel_accounts._RECORD.size == records.ThreadRecord.waker.offset
