"""The arrays that the kernel side writes and we read: one layout on both sides, and slots that are used again."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from threadinfo.trace.descriptors import ledger
from threadinfo.trace.descriptors.growth import Rates
from threadinfo.trace.descriptors.recorder import (
    EVENT,
    WORDS_BUFFER_BYTES,
    DescriptorRecorder,
    Target,
    kernel_facts,
    size_defines,
)
from threadinfo.trace.kernel.compiler import load_bcc
from threadinfo.trace.kernel.loader import bpf_directory, read_source

pytestmark = pytest.mark.usefixtures("bpf")

SECOND = 1_000_000_000
MIRRORS = {
    "control": ledger._CONTROL,
    "process_slots": ledger._PROCESS,
    "table_slots": ledger._TABLE,
    "page_slots": ledger._PAGE,
    "numbers": ledger._NUMBER,
    "thread_slots": ledger._THREAD,
    "totals": ledger._TOTALS,
    "sites": ledger._SITE,
}


def read_numbers(_pid: int) -> Sequence[int]:
    return sorted(map(int, os.listdir("/proc/self/fd")))


@pytest.fixture
def recorder() -> Iterator[DescriptorRecorder]:
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)}
    target = Target(os.getpid(), links, None)
    with DescriptorRecorder([target], read_numbers, buffer_bytes=WORDS_BUFFER_BYTES, records=0) as one:
        yield one


def test_both_sides_have_the_same_layout() -> None:
    bcc = load_bcc()
    sizes = ledger.choose_sizes(1, 0, 2, 0, with_stacks=True)
    defines = kernel_facts(platform.machine())[0] | size_defines(sizes, WORDS_BUFFER_BYTES, 2)
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_directory())
    module = bcc.BPF(text=read_source(bpf_directory() / "descriptors.bpf.c"), cflags=flags)
    for name, dtype in MIRRORS.items():
        leaf = module[name.encode()].Leaf
        fields: Mapping[str, Any] = dtype.fields or {}
        assert {field: getattr(leaf, field).offset for field, _ in leaf._fields_} == {
            field: int(place[1]) for field, place in fields.items()
        }, name
        assert dtype.itemsize == ctypes.sizeof(leaf), name
    assert EVENT.itemsize == 72


def test_numbers_are_open_since_they_were_opened_and_no_longer(recorder: DescriptorRecorder) -> None:
    slot = recorder.ledger.process_slots()[os.getpid()]
    table = recorder.ledger.table_of(slot)
    assert table is not None
    for fd in [os.open("/dev/null", os.O_RDONLY) for _ in range(307)]:
        os.close(fd)
    recorder.ledger.state(table)  # maps what is in use, which takes descriptors of ours: not below, then
    before = recorder.ledger.counts(slot)[0]
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(307)]  # more than a page holds
    for fd in kept[::2]:
        os.close(fd)
    state = recorder.ledger.state(table).opened()
    mine = [fd for fd in state.fd.tolist() if fd in kept]
    for fd in kept[1::2]:
        os.close(fd)
    assert mine == kept[1::2]
    assert recorder.ledger.counts(slot)[0] - before >= 307
    assert not set(kept) & set(recorder.ledger.state(table).opened().fd.tolist())
    assert (np.diff(state.opened_ns[np.isin(state.fd, kept)]) > 0).all()


def test_rates_are_shared_out_over_the_seconds_and_add_up() -> None:
    rates = Rates(0)
    rates.note(101, 7, SECOND // 2)
    rates.note(101 + 307, 7, 3 * SECOND + SECOND // 2)
    interval, opened, closed = rates.series()
    assert interval == 1
    assert sum(opened) == 408
    assert sum(closed) == 7
    assert opened == (101 + 51, 102, 102, 52)
