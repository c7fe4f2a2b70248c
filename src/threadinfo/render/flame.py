"""A flame graph of wall time: what every thread did of the time that was traced, from the whole down to a function.

All threads, each thread, then on the CPU, queued for one, waiting within work and waiting for work; below that call
stacks, outermost first, and what was waited for. Widths are shares of nanoseconds; what is too narrow to be seen is
added up, so that a page's size does not grow with the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from markupsafe import Markup

from threadinfo.model import CpuTime, EndedThread, ProcessReport, Thread, Wait
from threadinfo.render.charts import format_duration
from threadinfo.render.collapsed import NOT_UNWOUND, function_of, kernel_frames
from threadinfo.render.escape import format_text
from threadinfo.render.text.waits import describe_wait

Kind = Literal["whole", "running", "queued", "stuck", "sleeping"]
"""Of a box: its colour in the style sheet. "stuck" is waiting within work, "sleeping" waiting for work."""

_LEAST_SHARE = 0.002  # of all, or without waiting for work of what is none: that can be left out
_MOST_DEPTH = 48
_LINE = 18  # pixels
_ROWS = 300
_MOST_NAME = 160
_BOX = Markup(
    '<svg x="{}%" y="{}" width="{}%" height="17" data-d="{}" data-v="{}">'
    '<rect class="{}" width="100%" height="16"></rect><text x="4" y="12">{}</text><title>{}: {}, {:.1f} %</title></svg>'
)


class Row(NamedTuple):
    """A line of the table that says the same."""

    name: str
    tid: int
    has_ended: bool
    kind: Kind
    what: str
    time_ns: int
    share_percent: float
    """Of the thread's time."""
    wait_count: int | None
    max_ns: int | None


class _Node:
    """A box, and what it is made of."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name, self.kind, self.ns = name, kind, 0.0
        self.parts: dict[tuple[str, Kind], _Node] = {}

    def add(self, path: Iterable[tuple[str, Kind]], ns: float) -> None:
        """Time of a way through the tree."""
        node = self
        node.ns += ns
        for step in path:
            node = node.parts.setdefault(step, _Node(*step))
            node.ns += ns


def flame(process: ProcessReport) -> Markup | None:
    """The graph; None where nothing of it was traced."""
    root = _Node(f"{process.name}, all threads", "whole")
    for thread in _threads(process):
        who: tuple[str, Kind] = (f"{thread.name} {thread.tid}", "whole")
        for path, ns in _ways(thread):
            root.add([who, *path], ns)
    if root.ns <= 0:
        return None
    busy_ns = root.ns - _idle_ns(root)
    boxes = [*_boxes(root, 0, 0.0, root.ns, busy_ns)]
    depth = max(box[0] for box in boxes)
    words = f"Wall time of all threads of {format_text(process.name)}"
    whole = Markup('<svg class="flame" role="group" aria-label="{}" height="{}">{}</svg>')
    return whole.format(words, (depth + 1) * _LINE, Markup("").join(box[1] for box in boxes))


def time_rows(process: ProcessReport) -> tuple[list[Row], int]:
    """The same in words, the most time within work first; and how many there are."""
    told = [row for thread in _threads(process) for row in _rows(thread) if row.time_ns]
    told.sort(key=lambda one: (one.kind == "sleeping", -one.time_ns))
    return told[:_ROWS], len(told)


def _rows(thread: Thread | EndedThread) -> Iterator[Row]:
    whole_ns = sum(ns for _, ns in _ways(thread)) or 1.0
    has_ended = isinstance(thread, EndedThread)

    def row(kind: Kind, what: str, ns: int, count: int | None = None, max_ns: int | None = None) -> Row:
        return Row(thread.name, thread.tid, has_ended, kind, what, ns, 100 * ns / whole_ns, count, max_ns)

    if thread.scheduling:
        latency = thread.scheduling.run_queue_latency_ns
        yield row("running", "on CPU", thread.scheduling.on_cpu_ns)
        yield row("queued", "queued for a CPU", thread.scheduling.run_queue_ns, latency.count, latency.max)
    for wait in thread.waits or ():
        yield row(_kind(wait), describe_wait(wait), wait.sum_ns, wait.count, wait.max_ns)
    if thread.waits_other_ns:
        yield row("stuck", "other waits", thread.waits_other_ns)


def _threads(process: ProcessReport) -> list[Thread | EndedThread]:
    threads: list[Thread | EndedThread] = [*(process.threads or ())]
    threads += process.trace.ended_threads if process.trace else ()
    return [one for one in threads if one.cpu or one.waits is not None]


def _kind(wait: Wait) -> Kind:
    return "sleeping" if wait.is_idle else "stuck"


def _ways(thread: Thread | EndedThread) -> Iterator[tuple[list[tuple[str, Kind]], float]]:
    """(way through the tree below the thread, nanoseconds) each; together they are the thread's time."""
    scheduling = thread.scheduling
    if scheduling is not None or thread.cpu is not None:
        yield from _on_cpu(thread.cpu, scheduling.on_cpu_ns if scheduling else None)
    if scheduling is not None:
        yield [("queued for a CPU", "queued")], scheduling.run_queue_ns
    for wait in thread.waits or ():
        kind = _kind(wait)
        reason = "waiting for work" if wait.is_idle else "waiting within work"
        for stack, ns in wait.time_by_stack:
            frames = [function_of(frame) for frame in reversed(stack)][-_MOST_DEPTH:]
            yield [(name, kind) for name in (reason, *frames, describe_wait(wait))], ns
    if thread.waits_other_ns:
        yield [("waiting within work", "stuck"), ("other waits", "stuck")], thread.waits_other_ns


def _on_cpu(cpu: CpuTime | None, on_cpu_ns: int | None) -> Iterator[tuple[list[tuple[str, Kind]], float]]:
    """Samples share the time that was measured; without it each stands for its period."""
    samples = cpu.samples if cpu else ()
    count = sum(one.count for one in samples)
    if not count:
        yield [("on CPU", "running")], on_cpu_ns or 0
        return
    each = (cpu.sample_period_ns if cpu else 0) if on_cpu_ns is None else on_cpu_ns / count
    for one in samples:
        frames = [function_of(frame) for frame in reversed(one.stack)] or [NOT_UNWOUND]
        way = ["on CPU", *frames[-_MOST_DEPTH:], *reversed(kernel_frames(one))]
        yield [(name, "running") for name in way], one.count * each


def _idle_ns(node: _Node) -> float:
    return node.ns if node.kind == "sleeping" else sum(_idle_ns(part) for part in node.parts.values())


def _boxes(node: _Node, depth: int, left_ns: float, whole_ns: float, busy_ns: float) -> Iterator[tuple[int, Markup]]:
    """(depth, drawing) of a box and of all within it, in the order in which a reader goes through a tree."""
    yield depth, _box(node.name, node.kind, node.ns, depth, left_ns, whole_ns)
    narrow: dict[Kind, list[_Node]] = {}
    for part in sorted(node.parts.values(), key=lambda one: (_idle_ns(one) - one.ns, one.name)):
        idle_ns = _idle_ns(part)
        if max(idle_ns / whole_ns, (part.ns - idle_ns) / (busy_ns or whole_ns)) < _LEAST_SHARE:
            narrow.setdefault(part.kind, []).append(part)
            continue
        yield from _boxes(part, depth + 1, left_ns, whole_ns, busy_ns)
        left_ns += part.ns
    for kind, parts in narrow.items():
        ns = sum(part.ns for part in parts)
        if ns:
            words = f"{len(parts)} {'other' if len(parts) == 1 else 'others'}"
            yield depth + 1, _box(words, kind, ns, depth + 1, left_ns, whole_ns)
            left_ns += ns


def _box(name: str, kind: Kind, ns: float, depth: int, left_ns: float, whole_ns: float) -> Markup:
    left, width = 100 * left_ns / whole_ns, 100 * ns / whole_ns
    words = format_text(name)
    words = words if len(words) <= _MOST_NAME else f"{words[:_MOST_NAME]}\u2026"
    told = (words, words, format_duration(ns), width)
    return _BOX.format(f"{left:.3f}", depth * _LINE, f"{width:.3f}", depth, round(ns), kind, *told)
