"""What a program of sequence.c says that it did: its notes, and the figures that a report of each process must have."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Set
from functools import cached_property
from typing import NamedTuple

PATHS = ("", "file", "/dev/null", "", "fifo", "absent")
"""Of `Note.path`, below the directory where they are not absolute."""
_ERRORS = {**errno.errorcode, errno.EAGAIN: "EAGAIN", errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}
_RING_REQUESTS = {"io_uring_openat", "io_uring_accept", "io_uring_socket", "io_uring_close"}
DEATHS = frozenset({"close", "replaced", "exec", "exit", "parting"})
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


class Truth:
    """All notes of one program."""

    def __init__(self, text: str, directory: str) -> None:
        self.notes = [Note(*note) for note in json.loads(text)]
        self.directory = directory
        start = next(index for index, note in enumerate(self.notes) if note.kind == "go")
        self.root = self.notes[start].pid
        self.owner = {0: self.root} | {note.table: note.pid for note in self.notes if note.kind == "parted"}
        self.tables_before = {note.table for note in self.notes[:start]} | {0}
        self.lived = self.notes[start + 1 :]
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
        """The tables that a process used when the trace began."""
        first = next((note.table for note in self.notes if note.pid == pid and note.table in self.tables_before), None)
        return set() if first is None else {first}

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
        failures = [note for note in notes if note.kind == "failure"]
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
            now += (note.kind == "birth") - (note.kind in DEATHS)
            most = max(most, now)
        return most

    def _born_open(self, pid: int, tables: Set[int]) -> dict[int, tuple[str, int]] | None:
        if pid in self.ended:
            return {}
        if len(tables) != 1 or (last := self._last(next(iter(tables)))) is None:
            return None
        # A number's births are noted in their order, whoever makes them: each comes after the close before it.
        newest = {note.fd: note for note in self.of(tables) if note.kind == "birth"}
        return {fd: (newest[fd].syscall, newest[fd].tid) for fd in last if fd in newest}
