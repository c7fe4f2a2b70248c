"""Who held the CPU while a thread waited for many short turns of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trace.test_descriptors import build, trace
from threadinfo.trace.kernel.functions import find_functions

pytestmark = pytest.mark.usefixtures("bpf")


def test_many_short_turns_are_all_charged_to_their_threads(tmp_path: Path) -> None:
    program = build("short_turns", tmp_path, "-pthread")
    arguments = ["PID", "--trace", "600", "--only", "scheduling", "--format", "json"]
    done = trace([str(program)], arguments, output=tmp_path / "report.json")
    assert done.status == 0, done.errors
    report = done.report()
    threads = [*report["trace"]["ended_threads"], *report["threads"]]
    queued_ns = sum(one["scheduling"]["run_queue_ns"] for one in threads)
    unknown_ns = sum(one["scheduling"]["delayed_by_unknown_ns"] for one in threads)
    assert queued_ns > 5_000_000_000  # seventeen of them, most of the time
    held_ns = sum(by["time_ns"] for one in threads for by in one["scheduling"]["delayed_by"])
    assert held_ns + unknown_ns == pytest.approx(queued_ns, rel=0.02)
    if ("HAS_ITERATORS", 1) in find_functions().defines:  # otherwise few of the turns can be looked back at
        assert unknown_ns < 0.02 * queued_ns
