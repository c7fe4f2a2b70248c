"""A report, or a stream of events, against the notes of the program: each difference is a sentence."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from tests.fuzz.truth import DEATHS, Figures, Note, Truth

BIRTHS = frozenset({"open", "duplicate", "socket", "accept", "pipe", "receive"})
USES = frozenset({"bind", "listen", "connect", "shutdown"})
MOST_DISORDER_NS = 100_000_000
_DUPLICATES = {"dup", "dup2", "dup3", "fcntl"}
_RECEIVED = {"recvmsg", "recvmmsg", "getsockopt", "pidfd_getfd"}
_NO_NUMBER_AS_RESULT = {"pipe", "pipe2", "socketpair", "recvmsg", "recvmmsg", "getsockopt"}
_SHOWN = 6


def _differ(what: str, told: object, truth: object) -> Iterator[str]:
    if told != truth:
        yield f"{what}: told {told}, was {truth}"


def _differ_counts(what: str, told: Mapping[Any, int], truth: Mapping[Any, int]) -> Iterator[str]:
    """Only the keys that differ."""
    keys = [key for key in {**told, **truth} if told.get(key, 0) != truth.get(key, 0)]
    if keys:
        shown = ", ".join(f"{key} {told.get(key, 0)} not {truth.get(key, 0)}" for key in sorted(keys, key=str)[:_SHOWN])
        yield f"{what}: {shown}" + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def compare_report(
    processes: Mapping[int, Mapping[str, Any]], truth: Truth, targets: Sequence[int], *, follow: bool
) -> list[str]:
    """`processes` are those of the report that belong to the program, by PID."""
    found: list[str] = []
    expected = {*targets} | (_descendants(truth, targets) if follow else set())
    found += _differ("processes of the report", sorted(processes), sorted(expected))
    for pid in sorted(expected & processes.keys()):
        views = _views(truth, pid, targets, expected)
        found += _nearest(pid, (_compare_process(processes[pid], view, pid, tables) for view, tables in views))
    return found


def _nearest(pid: int, tellings: Iterable[Iterable[str]]) -> list[str]:
    """What is wrong in the best of some tellings."""
    nearest: list[str] | None = None
    for lines in tellings:
        told = [f"process {pid}: {line}" for line in lines]
        if nearest is None or len(told) < len(nearest):
            nearest = told
        if not nearest:
            break
    return nearest or []


def _views(truth: Truth, pid: int, targets: Sequence[int], traced: Set[int]) -> Iterator[tuple[Truth, set[int]]]:
    """What may be told of a process, and of which tables."""
    for tables in _told_tables(truth, pid, targets):
        for view in truth.views(tables, traced):
            used = {note.table for note in view.lived if note.kind not in {"open_at_end", "leaving"}}
            yield view, {table for table in tables if table in used or table in truth.owned(pid)}


def _descendants(truth: Truth, targets: Sequence[int]) -> set[int]:
    found = {*targets}
    while more := {child for child, parent in truth.children.items() if parent in found} - found:
        found |= more
    return found - {*targets}


def _told_tables(truth: Truth, pid: int, targets: Sequence[int]) -> Iterator[set[int]]:
    """Which tables a process's report may be of. Of one that two targets share, either may have the say."""
    if pid not in targets:
        yield truth.owned(pid)
        return
    yield truth.owned(pid) | truth.used(pid)
    if any(truth.used(pid) & truth.used(other) for other in targets if other != pid) and pid != truth.root:
        yield truth.owned(pid)


def _compare_process(process: Mapping[str, Any], truth: Truth, pid: int, tables: Set[int]) -> Iterator[str]:
    descriptors = process["trace"]["descriptors"]
    if descriptors is None:
        yield from _differ("descriptors of the trace", None, "told" if tables else None)
        return
    figures = truth.figures(pid, tables)
    yield from _compare_counts(descriptors, figures, is_whole=len(tables) <= 1)
    yield from _compare_ledger(process, truth, pid, figures, is_of_its_own=pid in {truth.owner[one] for one in tables})
    if sockets := process["trace"]["sockets"]:
        uses = Counter((one["event"], one.get("error")) for one in sockets["events"] if one["event"] in USES)
        if not sockets["omitted_count"]:
            yield from _differ_counts("uses of sockets", uses, figures.uses)


def _compare_counts(told: Mapping[str, Any], figures: Figures, *, is_whole: bool) -> Iterator[str]:
    closed, closed_by = Counter(told["closed_by_syscall"]), Counter(told["closed_by"])
    if not is_whole:  # when a thread with a table of its own ends, that table ends too: whose it is, is not told
        closed.pop("exit", None)
        closed_by.pop("exit", None)
    yield from _differ("opened_count", told["opened_count"], figures.opened.total())
    yield from _differ_counts("by_syscall", told["by_syscall"], figures.opened)
    is_optional = figures.optional and 0 < closed.total() - figures.closed.total() <= figures.optional
    if not is_optional and is_whole:
        yield from _differ("closed_count", told["closed_count"], figures.closed.total())
        yield from _differ_counts("closed_by_syscall", closed, figures.closed)
        yield from _differ_counts("closed_by", closed_by, figures.closed_by)
    elif not is_whole:
        kept = Counter({call: count for call, count in figures.closed.items() if call != "exit"})
        ways = Counter({how: count for how, count in figures.closed_by.items() if how != "exit"})
        if not figures.optional:
            yield from _differ_counts("closed_by_syscall", closed, kept)
            yield from _differ_counts("closed_by", closed_by, ways)
        else:
            yield from _differ_counts("closed_by_syscall", Counter(close=closed["close"]), Counter(close=kept["close"]))
            yield from _differ_counts(
                "closed_by", Counter(replaced=closed_by["replaced"]), Counter(replaced=ways["replaced"])
            )
    yield from _differ(
        "failed_count", told["failed_count"] + sum(told["empty_by_syscall"].values()), figures.failures.total()
    )
    failures = {(one["syscall"], one["error"]): one["count"] for one in told["failures"]}
    failures |= {(call, "EAGAIN"): count for call, count in told["empty_by_syscall"].items()}
    yield from _differ_counts("failures", failures, figures.failures)
    limits = {(one["error"], one["tid"]): one["count"] for one in told["limit_failures"]}
    yield from _differ_counts("limit_failures", limits, figures.limit_failures)
    marks = (told["close_on_exec_set_count"], told["close_on_exec_cleared_count"])
    yield from _differ("close-on-exec (set, cleared)", marks, figures.marks)
    yield from _compare_types(told["by_type"], figures)
    yield from _compare_threads(told, figures, is_whole=is_whole and not figures.optional)
    yield from _differ("unseen_birth_count", told["unseen_birth_count"], 0)
    yield from _differ("sum of opened_per_interval", sum(told["opened_per_interval"]), told["opened_count"])
    yield from _differ("sum of closed_per_interval", sum(told["closed_per_interval"]), told["closed_count"])
    paths = {one["path"]: one["opened_count"] for one in told["by_path"] if one["path"] in figures.paths}
    yield from _differ_counts("by_path", paths, figures.paths)
    if is_whole and figures.peak is not None:
        yield from _differ("peak_open_count", told["peak_open_count"], figures.peak)
    if is_whole and figures.born_open is not None:
        yield from _differ("still_open_count", told["still_open_count"], len(figures.born_open))
        if not figures.optional:
            lived = told["opened_count"] - told["still_open_count"]
            yield from _differ("lifetime_ns.count", told["lifetime_ns"]["count"], lived)


def _compare_types(told: Mapping[str, int], figures: Figures) -> Iterator[str]:
    """What was received, and copies of that, may be of any type, and of none where it was gone at once."""
    slack = figures.types["unknown"]
    yield from _differ("sum of by_type", sum(told.values()), figures.opened.total())
    for name in {*told, *figures.types} - {"unknown"}:
        count, least = told.get(name, 0), figures.types[name]
        copies = sum(figures.opened[call] for call in _DUPLICATES)
        if not least - (copies if slack else 0) <= count <= least + slack:
            yield f"by_type: {name} {count} not {least}" + (f" to {least + slack}" if slack else "")


def _compare_threads(told: Mapping[str, Any], figures: Figures, *, is_whole: bool) -> Iterator[str]:
    opened = {one["tid"]: one["opened_count"] for one in told["by_thread"]}
    closed = {one["tid"]: one["closed_count"] for one in told["by_thread"]}
    if any(call.startswith("io_uring ") for call in {*figures.opened, *figures.closed}):
        return  # the kernel's workers may have done it
    yield from _differ_counts("births by_thread", opened, {tid: both[0] for tid, both in figures.by_thread.items()})
    if is_whole:
        yield from _differ_counts("deaths by_thread", closed, {tid: both[1] for tid, both in figures.by_thread.items()})


def _compare_ledger(
    process: Mapping[str, Any], truth: Truth, pid: int, figures: Figures, *, is_of_its_own: bool
) -> Iterator[str]:
    confidence = process["trace"]["confidence"]
    lives = pid not in truth.ended
    if is_of_its_own:
        yield from _differ("ledger_matches_proc", confidence["ledger_matches_proc"], True if lives else None)
    for one in confidence["ledger_differences"]:
        yield f"ledger_differences: FD {one['fd']}, ledger {one['ledger']}, proc {one['proc']}: {one['reason']}"
    yield from _differ("lost_count", confidence["lost_count"], 0)
    yield from _differ("map_full_count", confidence["map_full_count"], 0)
    if lives and figures.born_open is not None and process["descriptors"] is not None:
        origins = {
            one["fd"]: (one["origin"]["syscall"], one["origin"]["tid"])
            for one in process["descriptors"]
            if one["origin"]
        }
        wrong = [fd for fd in {*origins, *figures.born_open} if origins.get(fd) != figures.born_open.get(fd)]
        for fd in sorted(wrong)[:_SHOWN]:
            yield f"origin of FD {fd}: told {origins.get(fd)}, was {figures.born_open.get(fd)}"


def compare_stream(
    events: Sequence[Mapping[str, Any]], truth: Truth, targets: Sequence[int], *, follow: bool
) -> list[str]:
    """`events` are those whose process, or whose thread, is the program's; in the order of the lines."""
    found: list[str] = []
    pids = [*targets, *(sorted(_descendants(truth, targets)) if follow else ())]
    for pid in pids:
        mine = [event for event in events if event["pid"] == pid]
        views = _views(truth, pid, targets, {*pids})
        found += _nearest(pid, (_compare_events(mine, view, pid, tables) for view, tables in views))
    strangers = {event["pid"] for event in events} - {*pids}
    if strangers:
        found.append(f"events of processes that are not traced: {sorted(strangers)}")
    found += _compare_order(events, truth)
    return found


def _key_of_event(event: Mapping[str, Any]) -> tuple[object, ...]:
    kind, error = event["event"], event.get("error")
    if kind in USES:
        return ("use", event["syscall"], event["fd"], error)
    if error is not None:
        return ("failure", event["syscall"], -1, error)
    if kind == "close":
        return (event["how"], event["syscall"], event["fd"], None)
    if kind == "close_on_exec":
        return ("mark", event["syscall"], event["fd"], int(event["close_on_exec"]))
    return ("birth", event["syscall"], event["fd"], None)


def _key_of_note(note: Note) -> tuple[object, ...]:
    if note.kind == "use":
        return ("use", note.call, note.fd, note.error_name if note.error else None)
    if note.kind == "failure":
        return ("failure", note.syscall, -1, note.error_name)
    if note.kind == "mark":
        return ("mark", note.call, note.fd, note.error)
    return (note.kind, note.syscall, note.fd, None)


_IN_SEQUENCE = frozenset({"birth", "close", "replaced", "failure", "mark", "use"})


def _compare_events(events: Sequence[Mapping[str, Any]], truth: Truth, pid: int, tables: Set[int]) -> Iterator[str]:
    notes = truth.of(tables)
    calls = [event for event in events if event["event"] not in {"fork", "exec", "exit", "thread_start", "thread_exit"}]
    lasting = [event for event in calls if event.get("how") in {"exec", "exit"}]
    optional = sum(note.is_optional for note in notes)
    sequence = [event for event in calls if event.get("how") not in {"exec", "exit"}]
    if any(note.kind == "parting" for note in notes):
        sequence = [event for event in sequence if event.get("syscall") != "close_range"]
        notes = [note for note in notes if note.call != "close_range"]
    by_ring = Counter(_key_of_event(event) for event in sequence if event["syscall"].startswith("io_uring "))
    asked = Counter(_key_of_note(note) for note in notes if note.syscall.startswith("io_uring "))
    yield from _differ_counts("events of rings", by_ring, asked)  # by whichever thread: the kernel has workers for it
    sequence = [event for event in sequence if not event["syscall"].startswith("io_uring ")]
    notes = [note for note in notes if not note.syscall.startswith("io_uring ")]
    tids = {event["tid"] for event in sequence} | {note.tid for note in notes if note.kind in _IN_SEQUENCE}
    for tid in sorted(tids):
        told = [
            _ordered(_key_of_event(event) for event in group)
            for _, group in itertools.groupby(
                (event for event in sequence if event["tid"] == tid), key=lambda one: one["at_ns"]
            )
        ]
        did = [
            _ordered(map(_key_of_note, group))
            for _, group in itertools.groupby(
                (note for note in notes if note.tid == tid and note.kind in _IN_SEQUENCE), key=lambda note: note.serial
            )
        ]
        yield from _compare_sequences(tid, [*itertools.chain(*told)], [*itertools.chain(*did)])
    if len(tables) == 1:
        sure = Counter(_key_of_note(note) for note in notes if note.kind in {"exec", "exit"} and not note.is_optional)
        if not optional:
            yield from _differ_counts("deaths by exec and exit", Counter(map(_key_of_event, lasting)), sure)
        yield from _replay(calls, truth, next(iter(tables)))
    for event in calls:
        if event["event"] in BIRTHS and event.get("error") is None:
            wanted = event["fd"] if event["syscall"] not in _NO_NUMBER_AS_RESULT else event.get("result")
            if event.get("result") != wanted:
                yield f"{event['syscall']} of FD {event['fd']} has the result {event.get('result')}"
    yield from _compare_processes(events, notes)
    told_types = Counter(event["type"] for event in calls if event["event"] in BIRTHS and event.get("type"))
    known = Counter(note.type for note in truth.of(tables) if note.kind == "birth")
    for name, count in told_types.items():
        if count > known[name] + known["unknown"]:
            yield f"types of births: {name} {count} not {known[name]}"


def _ordered(keys: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """What one call did: deaths first."""
    return sorted(keys, key=lambda key: (key[0] not in DEATHS, str(key[:2]), key[2]))


def _compare_sequences(tid: int, told: list[tuple[object, ...]], did: list[tuple[object, ...]]) -> Iterator[str]:
    if told == did:
        return
    if Counter(told) != Counter(did):
        yield from _differ_counts(f"events of thread {tid}", Counter(told), Counter(did))
        return
    at = next(index for index, both in enumerate(zip(told, did, strict=True)) if both[0] != both[1])
    yield f"order of events of thread {tid}: event {at} is {told[at]}, was {did[at]}"


def _replay(events: Iterable[Mapping[str, Any]], truth: Truth, table: int) -> Iterator[str]:
    """A number is born before it dies, and is not born twice unless the first of the two dies later: a close may return
    long after it has freed the number."""
    born: dict[int, list[bool]] = {fd: [False] for fd in truth.initial[table]}  # and whether that was seen
    for event in events:
        if event["event"] in BIRTHS and event.get("error") is None:
            born.setdefault(event["fd"], []).append(True)
        elif event["event"] == "close" and event.get("error") is None:
            if not born.get(event["fd"]):
                yield f"FD {event['fd']} dies by {event['syscall']} and was not open"
                return
            was_seen = event.get("lifetime_ns") is not None
            if was_seen not in born[event["fd"]]:  # of two closes that are on their way either may return first
                yield f"FD {event['fd']} dies by {event['syscall']} with the lifetime {event.get('lifetime_ns')}"
                return
            born[event["fd"]].remove(was_seen)
    for fd, times in born.items():
        if len(times) > 1:
            yield f"FD {fd} is born {len(times)} times more than it dies"


def _compare_processes(events: Sequence[Mapping[str, Any]], notes: list[Note]) -> Iterator[str]:
    forks = Counter(event["child_tid"] for event in events if event["event"] == "fork")
    forked = Counter(note.fd for note in notes if note.kind == "forked")
    yield from _differ_counts("forks", {tid: forks[tid] for tid in forked}, forked)
    tids = {note.tid for note in notes}
    execs = Counter(event["tid"] for event in events if event["event"] == "exec" and event["tid"] in tids)
    yield from _differ_counts("execs", execs, Counter(note.tid for note in notes if note.kind == "executed"))


def _compare_order(events: Sequence[Mapping[str, Any]], truth: Truth) -> Iterator[str]:
    latest = 0
    worst = 0
    for event in events:
        worst = max(worst, latest - event["at_ns"])
        latest = max(latest, event["at_ns"])
    if worst > MOST_DISORDER_NS:
        yield f"a line is {worst / 1e6:.1f} ms older than one before it"
    seen: set[int] = set()
    told = {event["child_tid"] for event in events if event["event"] == "fork"}
    for event in events:
        if event["event"] == "fork":
            if event["child_tid"] in seen:
                yield f"the fork of {event['child_tid']} comes after what it did"
                return
        elif event["tid"] in told:
            seen.add(event["tid"])


def disorder(events: Sequence[Mapping[str, Any]]) -> int:
    """How many lines come after a later one."""
    latest = count = 0
    for event in events:
        count += event["at_ns"] < latest
        latest = max(latest, event["at_ns"])
    return count
