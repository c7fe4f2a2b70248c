"""What may be told of a table that is left: not more than nobody can know."""

from __future__ import annotations

import json

from tests.fuzz.truth import Truth

ROOT, THREAD, CHILD = 4001, 4003, 4007
TABLE, OWN = 0, 1


def note(kind: str, tid: int, serial: int, *, table: int = TABLE, fd: int = -1) -> list[object]:
    pid = CHILD if tid == CHILD else ROOT
    return [kind, "eventfd2", pid, tid, table, serial, fd, 0, "eventfd", 0]


def told(last: list[object]) -> set[tuple[int, int]]:
    """How many births of the first thread and of the other one may be told where the child is the target."""
    notes = [
        note("go", ROOT, 1),
        note("birth", ROOT, 2, fd=3),
        note("leaving", CHILD, 7),
        note("birth", ROOT, 3, fd=4),
        note("birth", THREAD, 3, fd=5),
        last,
        note("birth", ROOT, 4, fd=6),
        note("birth", THREAD, 4, fd=7),
        note("birth", THREAD, 5, fd=8),
    ]
    truth = Truth(json.dumps(notes), "/tmp")
    views = truth.views({TABLE}, {CHILD})
    births = [[one.tid for one in view.lived if one.kind == "birth"] for view in views]
    return {(tids.count(ROOT), tids.count(THREAD)) for tids in births}


def test_a_table_is_left_at_one_moment_for_all() -> None:
    """Of each thread the call that was on its way then may be told or not; (1, 2) would be two moments."""
    assert told(note("parted", CHILD, 8, table=OWN)) == {
        *((1, 0), (1, 1), (2, 0), (2, 1)),  # before anything else was noted
        *((3, 0), (3, 1)),  # when the first thread's was
        *((2, 2), (3, 2)),  # when both were
    }


def test_an_end_is_noted_before_it_comes() -> None:
    everything = (3, 3)
    assert everything in told(note("ended", CHILD, 8))
    assert (1, 1) not in told(note("ended", CHILD, 8))
