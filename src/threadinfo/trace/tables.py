"""The tables of descriptors of the traced processes: a ledger each, what every open number is, and what happened."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from threadinfo.trace.addresses import format_address, socket_kind
from threadinfo.trace.calls import EXIT, Action, Call
from threadinfo.trace.changes import Changes, Op
from threadinfo.trace.descriptor_records import Batch
from threadinfo.trace.ledger import Applied, Ledger
from threadinfo.trace.path_totals import PathTotals
from threadinfo.trace.site_totals import SiteTotals
from threadinfo.trace.totals import Totals

ReadLink = Callable[[int, int], str | None]
"""Gives what a descriptor of a process is (/proc/PID/fd/FD); None where it is not open."""

_MODES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symlink",
}
_LINKS = {"socket:": "socket", "pipe:": "pipe", "anon_inode:": "anon_inode", "/memfd:": "memfd"}
_ANONYMOUS = {
    "[eventfd]": "eventfd",
    "[eventpoll]": "epoll",
    "[timerfd]": "timerfd",
    "[signalfd]": "signalfd",
    "inotify": "inotify",
    "[fanotify]": "fanotify",
    "[pidfd]": "pidfd",
    "[userfaultfd]": "userfaultfd",
    "[io_uring]": "io_uring",
    "[perf_event]": "perf_event",
}
_PATH_ACTIONS = {Action.NUMBER_PATH_0, Action.NUMBER_PATH_1}
_MOST_DUPLICATIONS = 4  # of duplicates of duplicates within one batch


class Known(NamedTuple):
    """What is known of an open number."""

    type: str | None
    text: str | None
    """A path, an address, or what the kernel calls it."""
    at_ns: int
    """When it was born; 0: before the trace."""
    tid: int
    call: str
    stack: int = 0
    """The number of a copied stack that tells where it was born; 0: none was taken."""


class TableTotals(NamedTuple):
    """What is added up of a process's tables."""

    totals: Totals
    paths: PathTotals
    sites: SiteTotals | None
    """None where call sites are not asked for."""


class TypeTable:
    """Types as small numbers, so that they can be counted in arrays."""

    def __init__(self, calls: Mapping[int, Call]) -> None:
        self.names: list[str | None] = [None]
        self._of_call = np.zeros(max(calls) + 8, np.uint8)
        self._of_mode = np.zeros(16, np.uint8)
        for number, call in calls.items():
            self._of_call[number] = self.code(call.type)
        for mode, name in _MODES.items():
            self._of_mode[mode >> 12] = self.code(name)

    def code(self, name: str | None) -> int:
        """The number of a type; a new one for a new type."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def of_event(self, event: np.void) -> str | None:
        """Of one event that bore something; None where that is not told by the event alone."""
        code = int(self._of_call[event["call"]]) or int(self._of_mode[int(event["file_type"])])
        return self.names[code]

    def of_calls(self, calls: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """What calls bear, as far as the call alone tells."""
        return self._of_call[calls]

    def of_births(self, events: NDArray[np.void], changes: Changes) -> NDArray[np.uint8]:
        """By call, and for what was opened by its mode; 0 for duplicates and for what was received."""
        by_call = self._of_call[changes.call]
        by_mode = self._of_mode[events["file_type"][changes.event]]
        return np.where(by_call == 0, by_mode, by_call)


class BatchResult(NamedTuple):
    """What a batch did to one table, for the stream."""

    pid: int
    which: NDArray[np.intp]
    """The indices of the table's events in the batch."""
    applied: Applied
    earlier: Mapping[int, Known]
    """What the numbers were that die, or are duplicated, in this batch and were born before it."""
    copied: Mapping[int, int]
    """The event of a duplicate to the event of this batch that bore what it duplicates."""
    birth_types: NDArray[np.uint8]
    """The code (`TypeTable`) of what each change bears; 0: it bears nothing, or that is not known."""
    death_types: NDArray[np.uint8]
    """The code of what dies by each change."""


class Table:
    """One table of descriptors."""

    def __init__(self, pid: int, tid: int, calls: Mapping[int, Call], types: TypeTable, added_up: TableTotals) -> None:
        self.pid, self.tid = pid, tid
        self.users = {pid}
        """The processes that use it, as far as is known."""
        self.ledger = Ledger()
        self.known: dict[int, Known] = {}
        self.known_before_end: dict[int, Known] = {}
        """What was open when the last process that used it ended, or at a moment before that which was asked for."""
        self.is_remembered = False
        self.added_up = added_up
        self.totals = added_up.totals
        self._calls, self._types = calls, types
        # By number: the copied stack of the birth, and the code of the type.
        self._born_at, self._type_of = np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        self._has_path = np.zeros(max(calls) + 8, bool)
        paths = [number for number, call in calls.items() if call.action in _PATH_ACTIONS]
        self._has_path[paths] = True

    def seed(self, links: Mapping[int, str]) -> None:
        """What /proc says is open."""
        self.ledger.seed(links)
        self._grow(max(links, default=0))
        for fd, link in links.items():
            self.known[fd] = Known(type_of_link(link), link, 0, 0, "")
            self._type_of[fd] = self._types.code(self.known[fd].type)

    def part(self, tid: int) -> Table:
        """A copy that another thread goes on with; what it inherited was born at no site of its own."""
        other = Table(self.pid, tid, self._calls, self._types, self.added_up)
        other.ledger, other.known = self.ledger.copy(), dict(self.known)
        other._grow(len(self._type_of))
        other._type_of[: len(self._type_of)] = self._type_of
        return other

    def apply(
        self, batch: Batch, which: NDArray[np.intp], changes: Changes, read_link: ReadLink, *, for_stream: bool
    ) -> BatchResult:
        """Moves the ledger, and counts."""
        applied = self.ledger.apply(changes)
        changes = applied.changes
        types = self._types.of_births(batch.events, changes)
        duplicates, sources = self._resolve_duplicates(applied, types)
        self.totals.add_changes(applied, types)
        self._add_paths(batch, changes.event[applied.is_birth & self._has_path[changes.call]])
        self._grow(int(changes.fd.max(initial=0)))
        death_types = self._types_of_deaths(batch, applied, types)
        if self.added_up.sites:
            # What a process that ends leaves open was not closed by anybody: it may have leaked.
            lived_on = applied._replace(is_death=applied.is_death & (changes.call != EXIT))
            self._add_sites(batch, lived_on, types, self.added_up.sites)
        earlier: dict[int, Known] = {}
        copied: dict[int, int] = {}
        if for_stream:
            old = {*changes.fd[applied.is_death & (applied.born_by < 0)].tolist()}
            old |= {*changes.source[duplicates[sources < 0]].tolist()}
            earlier = {fd: self.known[fd] for fd in old if fd in self.known}
            here = sources >= 0
            copied = dict(
                zip(changes.event[duplicates[here]].tolist(), changes.event[sources[here]].tolist(), strict=True)
            )
        self._learn(batch, applied, types, read_link)
        return BatchResult(self.pid, which, applied, earlier, copied, types, death_types)

    def _add_paths(self, batch: Batch, which: NDArray[np.int32]) -> None:
        named = which[batch.events["length"][which] > 0]
        if named.size:
            self.added_up.paths.add(batch, named)

    def _grow(self, number: int) -> None:
        if number >= len(self._born_at):
            more = max(2 * len(self._born_at), number + 1) - len(self._born_at)
            self._born_at = np.concatenate([self._born_at, np.zeros(more, np.uint32)])
            self._type_of = np.concatenate([self._type_of, np.zeros(more, np.uint8)])

    def _types_of_deaths(self, batch: Batch, applied: Applied, types: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What dies by each change; notes what is alive at the batch's end."""
        changes, births, last = applied.changes, applied.is_birth, applied.is_last_birth
        of_event = np.zeros(len(batch.events) + 1, np.uint8)
        of_event[changes.event[births]] = types[births]
        dying = np.where(applied.born_by >= 0, of_event[applied.born_by], self._type_of[changes.fd])
        self._type_of[changes.fd[last]] = types[last]
        return np.where(applied.is_death, dying, 0)

    def _add_sites(self, batch: Batch, applied: Applied, types: NDArray[np.uint8], sites: SiteTotals) -> None:
        fd, stacks = applied.changes.fd, batch.events["stack"]
        if not fd.size:
            return
        born_at = stacks[applied.changes.event]
        died_at = np.where(applied.born_by >= 0, stacks[applied.born_by], self._born_at[fd])
        sites.add_changes(applied, types, born_at, died_at)
        last = applied.is_last_birth
        self._born_at[fd[last]] = born_at[last]

    def _resolve_duplicates(
        self, applied: Applied, types: NDArray[np.uint8]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Completes the types of duplicates; gives their changes, and those that bore what they duplicate, or -1."""
        changes = applied.changes
        duplicates = np.flatnonzero(applied.is_birth & (changes.source >= 0))
        if not duplicates.size:
            return duplicates, duplicates
        births = np.flatnonzero(applied.is_birth)
        base = int(changes.at_ns.min())
        keys = changes.fd[births].astype(np.int64) << 42 | changes.at_ns[births] - base
        wanted = changes.source[duplicates].astype(np.int64) << 42 | changes.at_ns[duplicates] - base
        place = np.searchsorted(keys, wanted) - 1
        is_here = (place >= 0) & (changes.fd[births[place]] == changes.source[duplicates])
        sources = np.where(is_here, births[place], -1)
        for fd in np.unique(changes.source[duplicates[~is_here]]).tolist():
            known = self.known.get(fd)
            code = self._types.code(known.type) if known else 0
            types[duplicates[~is_here & (changes.source[duplicates] == fd)]] = code
        for _ in range(_MOST_DUPLICATIONS):  # the source may be a duplicate itself
            types[duplicates[is_here]] = types[sources[is_here]]
        return duplicates, sources

    def _learn(self, batch: Batch, applied: Applied, types: NDArray[np.uint8], read_link: ReadLink) -> None:
        """Keeps what is open at the batch's end: as many steps as numbers that changed, not as there were changes."""
        changes = applied.changes
        born = np.flatnonzero(applied.is_last_birth)
        sources = {int(source): self.known.get(int(source)) for source in changes.source[born].tolist() if source >= 0}
        fresh: dict[int, Known] = {}
        for index in born[np.argsort(changes.at_ns[born], kind="stable")].tolist():
            fd, source = int(changes.fd[index]), int(changes.source[index])
            event = int(changes.event[index])
            text = self.text_of(batch, event)
            type_name = self._types.names[types[index]]
            if source >= 0 and (origin := fresh.get(source) or sources.get(source)):
                text = origin.text
            if type_name is None or (source >= 0 and text is None):
                link = read_link(self.pid, fd)
                text = text or link
                type_name = type_name or (type_of_link(link) if link else None)
            name = self.name_of(int(changes.call[index]))
            stack = int(batch.events["stack"][event])
            fresh[fd] = Known(type_name, text, int(changes.at_ns[index]), int(changes.tid[index]), name, stack)
        gone = changes.fd[applied.is_death]
        for fd in (np.unique(gone) if gone.size else gone).tolist():
            if not self.ledger.is_open[fd]:
                self.known.pop(fd, None)
        self.known |= fresh

    def name_of(self, call: int) -> str:
        """The name of a call."""
        return self._calls[call].name if call in self._calls else "execve"

    def text_of(self, batch: Batch, index: int) -> str | None:
        """What an event says of its descriptor: a path, or an address."""
        return event_text(self._calls, batch, index)

    def close_all(self, at_ns: int, tid: int, call: int) -> Changes:
        """The changes by which everything that is open dies, at the end of the last process that uses it."""
        if not self.is_remembered:
            self.known_before_end = dict(self.known)
        numbers = self.ledger.numbers().astype(np.int32)
        count = len(numbers)
        return Changes(
            np.full(count, at_ns, np.int64),
            numbers,
            np.full(count, tid, np.uint32),
            np.full(count, Op.CLOSE_IF_OPEN, np.uint8),
            np.full(count, call, np.uint16),
            np.full(count, -1, np.int32),
            np.full(count, -1, np.int32),
        )


def event_text(calls: Mapping[int, Call], batch: Batch, index: int) -> str | None:
    """What an event says of its descriptor: a path, or an address; None where it says nothing."""
    event = batch.events[index]
    call = calls.get(int(event["call"]))
    if call is None:
        return None
    if call.action in {Action.SOCKET, Action.PAIR_3}:
        return "{0.family} {0.type} {0.protocol}".format(socket_kind(int(event["argument"])))
    if call.action == Action.ACCEPT:
        return format_address(batch.data(index))
    if int(event["length"]) and call.event in {"open", "exec"}:
        return batch.data(index).rstrip(b"\0").decode("utf-8", "backslashreplace")
    return None


def type_of_link(link: str) -> str | None:
    """The type of what /proc/PID/fd/FD points to, as far as the link tells."""
    for prefix, name in _LINKS.items():
        if link.startswith(prefix):
            return _ANONYMOUS.get(link.removeprefix("anon_inode:"), name)
    return "device" if link.startswith("/dev/") else "file" if link.startswith("/") else None


def group_by_table(batch: Batch) -> dict[int, NDArray[np.intp]]:
    """The indices of the events of each table."""
    tables = batch.events["table"]
    if not len(tables):
        return {}
    if (tables == tables[0]).all():
        return {int(tables[0]): np.arange(len(tables))}
    return {int(table): np.flatnonzero(tables == table) for table in np.unique(tables)}
