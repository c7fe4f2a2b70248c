"""Where the time went: a line a thread with its largest reasons, locks, and who ended whose waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from threadinfo.model import Lock, LockHolder, LockUse, ProcessReport, Scheduling, Trace, Wait, WokenBy
from threadinfo.render.escape import format_text
from threadinfo.render.text.duration import format_duration, format_traced
from threadinfo.render.text.fold import Cuts, left_out, wrap

_NAME_COLUMNS = 15
_LEAST_PERCENT = 0.5  # in a line; -v has all
_IDLE_PERCENT = 99.0
_IDLE_ROWS = 3  # threads that only wait for work, before they are told of together
_LISTED = 3
_CALLERS = 3  # frames, the innermost included
_PATH_COLUMNS = 40
_LEAST_COLUMNS = 18  # of a reason that is cut


class _Row(NamedTuple):
    """A traced thread."""

    tid: int
    name: str
    has_ended: bool
    scheduling: Scheduling
    waits: tuple[Wait, ...]
    other_ns: int

    @property
    def idle_ns(self) -> int:
        return sum(wait.sum_ns for wait in self.waits if wait.is_idle)

    @property
    def total_ns(self) -> int:
        """Less than the trace where it began or ended meanwhile."""
        scheduling = self.scheduling
        return scheduling.on_cpu_ns + scheduling.run_queue_ns + scheduling.blocked_ns


def _rows(process: ProcessReport, trace: Trace) -> list[_Row]:
    alive = [
        _Row(thread.tid, thread.name, False, thread.scheduling, thread.waits, thread.waits_other_ns or 0)
        for thread in process.threads or ()
        if thread.scheduling and thread.waits is not None
    ]
    ended = [
        _Row(thread.tid, thread.name, True, thread.scheduling, thread.waits, thread.waits_other_ns or 0)
        for thread in trace.ended_threads
        if thread.waits is not None
    ]
    return sorted(alive + ended, key=lambda row: (row.idle_ns - row.total_ns, row.tid))


def render_waits(process: ProcessReport, trace: Trace, width: int, cuts: Cuts) -> list[str]:
    """The lines of the section; none where waits were not traced. Where nothing is cut, every wait of every thread."""
    rows = _rows(process, trace)
    if not rows:
        return []
    lines = [f"=== Where the Time Went in {format_text(process.name)} ({format_traced(trace.duration_ns)} traced) ==="]
    if cuts.waiting is None:
        for row in rows:
            lines += _whole(row)
    else:
        lines += _short(rows, width, cuts.waiting)
    lines += _locks(trace.locks, width, cuts.locks)
    return lines + [line[: max(width, 60)] for line in _graph(rows, cuts.edges)]


def _short(rows: list[_Row], width: int, most: int) -> list[str]:
    busy = [row for row in rows if not _is_idle(row)]
    idle = [row for row in rows if _is_idle(row)]
    if len(idle) <= _IDLE_ROWS:
        busy, idle = busy + idle, []
    lines = [_line(row, width) for row in busy[:most]]
    if left := busy[most:]:
        lines.append(f"{len(left)} other threads, each busy for less time (-v tells of all)")
    if idle:
        calls: dict[str, int] = {}
        for row in idle:
            call = row.waits[0].syscall or _cause(row.waits[0])
            calls[call] = calls.get(call, 0) + 1
        ranked = sorted(calls.items(), key=lambda item: (-item[1], item[0]))
        words = ", ".join(f"{count} in {call}" for call, count in ranked[:_LISTED])
        lines += wrap(f"{len(idle)} {'other ' * bool(busy)}threads only waited for work: {words}", "", "  ", width)
    return lines


def _is_idle(row: _Row) -> bool:
    return bool(row.waits) and 100 * row.idle_ns >= _IDLE_PERCENT * row.total_ns


def _line(row: _Row, width: int) -> str:
    """As many reasons as there is room for, the largest first; waiting for work comes last."""
    line = f"{row.tid:<7} {format_text(row.name)[:_NAME_COLUMNS]:{_NAME_COLUMNS}} "
    line += "ended; " * row.has_ended
    reasons = [words for percent, words in _reasons(row) if percent >= _LEAST_PERCENT]
    if not reasons:
        return f"{line}nothing that was seen"
    room = max(width, 60) - len(line) - len(" +99")
    text, told = "", 0
    for words in reasons:
        left = room - len(text) - 2
        if told and left < min(len(words), _LEAST_COLUMNS):
            break
        text += ", " * bool(told) + (words if len(words) <= left else words[: left - 3] + "...")
        told += 1
    return line + text + f" +{len(reasons) - told}" * (told < len(reasons))


def _reasons(row: _Row) -> Iterator[tuple[float, str]]:
    """(percent of its time, words): what it did and waited for within work, then what it waited for as work."""
    total = row.total_ns or 1
    found = [
        (row.scheduling.on_cpu_ns, "on CPU"),
        (row.scheduling.run_queue_ns, "queued"),
        (row.other_ns, "other waits"),
        *((wait.sum_ns, describe_wait(wait)) for wait in row.waits if not wait.is_idle),
    ]
    for ns, words in sorted(found, key=lambda one: -one[0]):
        yield 100 * ns / total, f"{_percent(ns, total)} {words}"
    idle = [wait for wait in row.waits if wait.is_idle]
    for wait in idle:
        yield 100 * wait.sum_ns / total, f"{_percent(wait.sum_ns, total)} idle in {describe_wait(wait)}"


def _percent(ns: int, total_ns: int) -> str:
    percent = 100 * ns / total_ns
    return f"{percent:.0f} %" if percent >= 10 or not ns else f"{percent:.1f} %"


def _cause(wait: Wait) -> str:
    return {"page_fault": "a page fault", "stopped": "a stop", "exit": "its end"}.get(wait.cause, "an unknown call")


def describe_wait(wait: Wait) -> str:
    """``fsync on FD 7 /var/lib/x``, ``lock of worker 1234 0x7f12``, ``a page fault``."""
    target = wait.object
    if target.kind == "lock":
        holder = wait.held_by[0] if wait.held_by else None
        return f"lock {f'of {_who(holder.name, holder.tid)} ' if holder else ''}{target.address or 0:#x}"
    if wait.syscall is None or wait.cause != "syscall":
        return _cause(wait)
    if target.kind == "futex":
        return f"{wait.syscall} {target.address or 0:#x}"
    if target.kind == "descriptor":
        words = f"{wait.syscall} on FD {target.fd}"
        if target.is_reused:
            return f"{words} (many files)"
        return f"{words} {_short_name(target.description)}" if target.description else words
    if target.kind == "child":
        return f"{wait.syscall} for {'any child' if target.pid is None else f'process {target.pid}'}"
    return wait.syscall


def _short_name(description: str) -> str:
    """A long one without its beginning, where paths have what they share."""
    text = format_text(description)
    return text if len(text) <= _PATH_COLUMNS else "..." + text[3 - _PATH_COLUMNS :]


def _who(name: str, tid: int | None) -> str:
    return format_text(name) if tid is None else f"{format_text(name)} {tid}"


def _whole(row: _Row) -> list[str]:
    """Every wait with its figures."""
    scheduling, total = row.scheduling, row.total_ns or 1
    who = f"{row.tid} {format_text(row.name)}{' (ended)' * row.has_ended}"
    lines = [
        f"{who}: {_percent(scheduling.on_cpu_ns, total)} on CPU, {_percent(scheduling.run_queue_ns, total)} queued, "
        f"{_percent(scheduling.blocked_ns, total)} blocked"
    ]
    for wait in sorted(row.waits, key=lambda one: (one.is_idle, -one.sum_ns)):
        idle = "idle in " if wait.is_idle else ""
        lines.append(f"  {_percent(wait.sum_ns, total):>6} {idle}{describe_wait(wait)}")
        disk = f", {format_duration(wait.uninterruptible_ns)} uninterruptible" * bool(wait.uninterruptible_ns)
        lines.append(
            f"         {format_duration(wait.sum_ns)} in {wait.count} {_plural(wait.count, 'wait')}: "
            f"p50 {format_duration(wait.p50_ns)}, p99 {format_duration(wait.p99_ns)}, "
            f"max {format_duration(wait.max_ns)}{disk}"
        )
        if words := _wakers(wait.released_by):
            lines.append(f"         released by {words}")
        lines += _places(wait)
    if row.other_ns * 1000 > total:
        lines.append(f"  {_percent(row.other_ns, total):>6} other waits, each shorter or of an unknown reason")
    return lines


def _places(wait: Wait) -> list[str]:
    """Where in the program it began; the share of each place, where there are several or the rest is not known."""
    lines = []
    for one in wait.known_stacks:
        share = "" if one.sum_ns == wait.sum_ns else f"{_percent(one.sum_ns, wait.sum_ns or 1)} "
        lines.append(f"         {share}at {format_text(one.stack[0])}")
        lines += [f"           called from {format_text(frame)}" for frame in one.stack[1:_CALLERS]]
    return lines


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _wakers(released_by: tuple[WokenBy, ...]) -> str:
    total = sum(waker.time_ns for waker in released_by) or 1
    parts = [f"{_who(one.name, one.tid)} {_percent(one.time_ns, total)}" for one in released_by[:_LISTED]]
    if len(released_by) > _LISTED:
        parts.append(f"{len(released_by) - _LISTED} others")
    return ", ".join(parts)


def _locks(locks: tuple[Lock, ...], width: int, most: int | None) -> list[str]:
    if not locks:
        return []
    lines = ["", "Locks that threads waited for:"]
    for lock in locks[:most]:
        several = len(lock.waiters) > 1  # whose times are added up: they may be more than the trace
        share = f"by {len(lock.waiters)} threads together" if several else f"({lock.percent:.1f} % of the trace)"
        lines.append(
            f"  {lock.address:#x}: {format_duration(lock.wait_ns)} in {lock.count} {_plural(lock.count, 'wait')} "
            f"{share}, longest {format_duration(lock.max_ns)}"
        )
        holders = _shares(lock.held_by, lock.wait_ns, width - len("    held by "))
        lines.append(f"    held by {holders or 'nobody that is known'}")
        if lock.stack:
            lines.append(f"    waited at {format_text(lock.stack[0])}"[: max(width, 60)])
        lines.append(f"    waited: {_shares(lock.waiters, lock.wait_ns, width - len('    waited: '))}")
    lines += left_out(len(locks[most:]) if most else 0, "others")
    return lines


def _shares(threads: tuple[LockHolder | LockUse, ...], total_ns: int, room: int) -> str:
    """As many as have room, one at the least."""
    parts = [f"{_who(one.name, one.tid)} {_percent(one.time_ns, total_ns or 1)}" for one in threads[:_LISTED]]
    while True:
        others = [f"{len(threads) - len(parts)} others"] if len(threads) > len(parts) else []
        words = ", ".join([*parts, *others])
        if len(words) <= room or len(parts) <= 1:
            return words
        del parts[-1]


def _graph(rows: Iterable[_Row], most: int | None) -> list[str]:
    """Who ended the waits within work of whom, by the time that they had taken."""
    edges: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        for wait in row.waits:
            for waker in () if wait.is_idle else wait.released_by:
                if waker.tid is not None:
                    edge = _who(waker.name, waker.tid), _who(row.name, row.tid)
                    ns, count = edges.get(edge, (0, 0))
                    edges[edge] = ns + waker.time_ns, count + waker.count
    if not edges:
        return []
    ranked = sorted(edges.items(), key=lambda item: (-item[1][0], item[0]))
    lines = ["", "Who ended whose waits within work:"]
    lines += [
        f"  {waker} -> {waiter}: {format_duration(ns)} in {count} {_plural(count, 'wait')}"
        for (waker, waiter), (ns, count) in ranked[:most]
    ]
    lines += left_out(len(ranked[most:]) if most else 0, "others")
    return lines
