"""What a program of sequence.c says that it did: its notes, and the figures that a report of each process must have."""

from __future__ import annotations

import copy
import errno
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Set
from collections.abc import Sequence as Several
from functools import cached_property
from typing import NamedTuple

from threadinfo.socket_identity import UNDER_WAY

PATHS = ("", "file", "/dev/null", "", "fifo", "absent")
"""Of `Note.path`, below the directory where they are not absolute."""
_ERRORS = {**errno.errorcode, errno.EAGAIN: "EAGAIN", errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}
_RING_REQUESTS = {"io_uring_openat", "io_uring_accept", "io_uring_socket", "io_uring_close"}
DEATHS = frozenset({"close", "replaced", "exec", "exit", "parting"})
_SHARING_PROCESS = 2  # `error` of a fork
LIMITS = (errno.EMFILE, errno.ENFILE)


class Note(NamedTuple):
    """What one call did; sequence.c says what the kinds are."""

    kind: str
    call: str
    pid: int
    tid: int
    table: int
    serial: int
    fd: int
    error: int
    type: str
    path: int

    @property
    def syscall(self) -> str:
        """As reports have it."""
        return self.call.replace("io_uring_", "io_uring ") if self.call in _RING_REQUESTS else self.call

    @property
    def error_name(self) -> str:
        """For example "ENOENT"."""
        return _ERRORS.get(self.error, f"error {self.error}")

    @property
    def is_failed_use(self) -> bool:
        """Of a socket; a connection that is being made is no failure."""
        return self.kind == "use" and bool(self.error) and self.error_name not in UNDER_WAY

    @property
    def is_optional(self) -> bool:
        """A death as a table comes to be or goes with a thread: whose it is, is for the ledger to say."""
        return self.kind == "parting" or (self.kind in {"exec", "exit"} and bool(self.error))


class Figures(NamedTuple):
    """Of the tables of one process, from `go` on."""

    opened: Counter[str]
    closed: Counter[str]
    closed_by: Counter[str]
    failures: Counter[tuple[str, str]]
    types: Counter[str]
    by_thread: dict[int, tuple[int, int]]
    marks: tuple[int, int]
    """Close-on-exec set, cleared."""
    limit_failures: Counter[tuple[str, int]]
    paths: Counter[str]
    uses: Counter[tuple[str, str | None]]
    optional: int
    """Deaths that may be told or not."""
    peak: int | None
    """None where several threads or tables were at it."""
    born_open: dict[int, tuple[str, int]] | None
    """Of the table that /proc shows: what is open at the end and was born since `go`, by which call and thread; None
    where that is not told."""


class _Beyond(NamedTuple):
    """What others did to a table, and until when that may be told."""

    calls: tuple[list[list[int]], ...]
    """By thread, and of each call together: places of notes."""
    told: list[tuple[int, ...]]
    """How many of each thread's calls may have been told: one of these."""


class Truth:
    """All notes of one program."""

    def __init__(self, text: str, directory: str, *, begins_with_exec: bool = False) -> None:
        """`begins_with_exec`: the program was awaited, and the exec that began it is the first that is told of it."""
        self.notes = [Note(*note) for note in json.loads(text)]
        self.directory = directory
        start = next(index for index, note in enumerate(self.notes) if note.kind == "go")
        self.root = self.notes[start].pid
        self.owner = {0: self.root} | {note.table: note.pid for note in self.notes if note.kind == "parted"}
        self.tables_before = {note.table for note in self.notes[:start]} | {0}
        self.lived = self.notes[start + 1 :]
        if begins_with_exec:
            self.lived.insert(0, self.notes[start]._replace(kind="executed", call="execve"))
        self.initial: dict[int, set[int]] = {table: set() for table in self.owner}
        for note in self.notes:
            if note.kind == "open_at_go":
                self.initial[note.table].add(note.fd)
        self.ended = {note.pid for note in self.lived if note.kind == "ended" and note.tid == note.pid}
        if any(note.kind == "exit" and note.pid == note.tid == self.root for note in self.lived):
            self.ended.add(self.root)

    @cached_property
    def children(self) -> dict[int, int]:
        """Processes that were made since `go`, and their parents."""
        return {note.fd: note.pid for note in self.lived if note.kind == "forked" and note.error}

    def owned(self, pid: int) -> set[int]:
        """The tables that began as a process's own."""
        return {table for table, owner in self.owner.items() if owner == pid}

    def used(self, pid: int) -> set[int]:
        """The table that a process used when the trace began; none where it began later."""
        if pid in self.children:
            return set()
        before = [note.table for note in self.notes if note.kind == "parted" and note.tid == note.pid == pid]
        return {next((table for table in reversed(before) if table in self.tables_before), 0)}

    def views(self, tables: Set[int], traced: Set[int]) -> Iterator[Truth]:
        """What may be told of some tables: what others do to one is told as long as the first thread of a traced
        process uses it. When exactly the last one left it, the notes do not say: each moment that fits is a view."""
        beyond = [self._beyond(table, traced) for table in tables]
        for told in itertools.product(*(one.told for one in beyond)):
            late = (
                place
                for one, counts in zip(beyond, told, strict=True)
                for calls, count in zip(one.calls, counts, strict=True)
                for call in calls[count:]
                for place in call
            )
            yield self._without({*late})

    def _without(self, places: Set[int]) -> Truth:
        """The same but for some of `lived`."""
        if not places:
            return self
        view = copy.copy(self)
        view.lived = [note for place, note in enumerate(self.lived) if place not in places]
        return view

    def _beyond(self, table: int, traced: Set[int]) -> _Beyond:
        """What others did to a table from the moment on from which it may be that no traced process used it."""
        users = {pid for pid in traced if table in self.used(pid)}
        left: int | None = None
        for place, note in enumerate(self.lived):
            had_users = bool(users)
            if note.kind == "parted" and note.tid == note.pid and note.pid in traced:
                users = users | {note.pid} if note.table == table else users - {note.pid}
            elif note.kind == "forked" and note.error == _SHARING_PROCESS and note.table == table and note.fd in traced:
                users = users | {note.fd}
            elif note.kind == "ended" and note.tid == note.pid:
                users = users - {note.pid}
            left = None if users else place if had_users else left
        if left is None:
            return _Beyond((), [()])
        first, last = left, len(self.lived)  # it ends some time after it has said so
        if self.lived[left].kind == "parted":  # it has done so when it says so, and was about to when it said that
            last = left - 1
            while first and (self.lived[first].kind, self.lived[first].pid) != ("leaving", self.lived[left].pid):
                first -= 1
        threads: dict[int, dict[int, list[int]]] = {}
        for place, note in enumerate(self.lived):
            if place >= first and note.table == table and note.pid not in traced:
                threads.setdefault(note.tid, {}).setdefault(note.serial, []).append(place)
        calls = tuple([*of_thread.values()] for of_thread in threads.values())
        return _Beyond(calls, self._told(calls, first, last))

    def _told(self, calls: Several[Several[Several[int]]], first: int, last: int) -> list[tuple[int, ...]]:
        """How many of each thread's calls were told, for each moment from one place to another.

        What was noted by then was told. What a thread noted next may have been seen before; what it did after that was
        not. Its end is noted before it comes.
        """
        moments = sorted({first} | {call[0] for of_thread in calls for call in of_thread if first < call[0] <= last})
        found: dict[tuple[int, ...], None] = {}
        for moment in moments:
            counts = []
            for of_thread in calls:
                noted = sum(call[0] <= moment for call in of_thread)
                ends = noted and self.lived[of_thread[noted - 1][0]].kind in {"exit", "ended"}
                counts.append(range(noted - bool(ends), min(noted + 1, len(of_thread)) + 1))
            found |= dict.fromkeys(itertools.product(*counts))
        return [*found]

    def of(self, tables: Set[int]) -> list[Note]:
        """What was done with some tables."""
        return [note for note in self.lived if note.table in tables]

    def problems(self) -> list[str]:
        """Where the notes do not fit themselves: a fault of the fuzzer."""
        found = []
        for table in self.owner:
            count = Counter(self.initial[table])
            notes = self.of({table})
            last = self._last(table)
            for note in notes:
                count[note.fd] += (note.kind == "birth") - (note.kind in {"close", "replaced"})
                if note.kind == "exec" and not note.error:
                    count[note.fd] -= 1
            if last is not None and +count != Counter(last):
                extra, missing = count - Counter(last), Counter(last) - count
                found.append(f"the fuzzer's own notes of table {table}: open {dict(extra)}, not {dict(missing)}")
        return found

    def _last(self, table: int) -> set[int] | None:
        """What is open in a table at the end, as the last that listed it has it; None where nobody did."""
        lists = [note for note in self.of({table}) if note.kind in {"open_at_end", "exit"}]
        return {note.fd for note in lists if note.tid == lists[-1].tid} if lists else None

    def figures(self, pid: int, tables: Set[int]) -> Figures:
        """What a report of a process must say of some tables."""
        notes = self.of(tables)
        births = [note for note in notes if note.kind == "birth"]
        deaths = [note for note in notes if note.kind in DEATHS and not note.is_optional]
        failures = [note for note in notes if note.kind == "failure" or note.is_failed_use]
        marks = Counter(note.error for note in notes if note.kind == "mark")
        threads = {note.tid for note in (*births, *deaths)}
        return Figures(
            opened=Counter(note.syscall for note in births),
            closed=Counter(note.syscall for note in deaths),
            closed_by=Counter(note.kind for note in deaths),
            failures=Counter((note.syscall, note.error_name) for note in failures),
            types=Counter(note.type for note in births),
            by_thread={
                tid: (sum(note.tid == tid for note in births), sum(note.tid == tid for note in deaths))
                for tid in threads
            },
            marks=(marks[1], marks[0]),
            limit_failures=Counter((note.error_name, note.tid) for note in failures if note.error in LIMITS),
            paths=Counter(self._path(note) for note in births if note.path),
            uses=Counter((note.call, note.error_name if note.error else None) for note in notes if note.kind == "use"),
            optional=sum(note.is_optional for note in notes),
            peak=self._peak(notes, tables),
            born_open=self._born_open(pid, tables),
        )

    def _path(self, note: Note) -> str:
        path = PATHS[note.path]
        return path if path.startswith("/") else f"{self.directory}/{path}".rstrip("/")

    def _peak(self, notes: list[Note], tables: Set[int]) -> int | None:
        if len(tables) != 1 or len({note.tid for note in notes if note.kind in DEATHS | {"birth"}}) > 1:
            return None
        now = most = len(self.initial[next(iter(tables))])
        for note in notes:
            # what dies as a table comes to be is not in `initial`, which is listed afterwards
            now += (note.kind == "birth") - (note.kind in DEATHS and not note.is_optional)
            most = max(most, now)
        return most

    def _born_open(self, pid: int, tables: Set[int]) -> dict[int, tuple[str, int]] | None:
        if pid in self.ended:  # where others go on using the table, it is still open
            return {} if any(note.kind == "exit" for note in self.of(tables)) else None
        if len(tables) != 1 or (last := self._last(next(iter(tables)))) is None:
            return None
        # A number's births are noted in their order, whoever makes them: each comes after the close before it.
        newest = {note.fd: note for note in self.of(tables) if note.kind == "birth"}
        return {fd: (newest[fd].syscall, newest[fd].tid) for fd in last if fd in newest}
