"""Random sequences of what a ledger of descriptors must know: scripts for sequence.c, by profile and seed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple


class Step(NamedTuple):
    """One line of a script: what a lane does."""

    lane: int
    what: str
    argument: int


class Sequence(NamedTuple):
    """What one seed makes."""

    profile: str
    seed: int
    steps: tuple[Step, ...]
    targets: str = "root"
    """Whom to trace: "root", the "first" child that was made before `go`, or "both"."""

    def script(self) -> str:
        """For sequence.c."""
        return "".join(f"{step.lane} {step.what} {step.argument}\n" for step in self.steps)

    def with_steps(self, steps: Iterable[Step]) -> Sequence:
        """With other steps."""
        return self._replace(steps=tuple(steps))


GO = Step(0, "go", 0)
_FAILURES = 36

_PLAIN = {
    "open": 10, "make": 12, "pair": 5, "duplicate": 8, "onto": 10, "accept": 4, "receive": 4, "peer_pidfd": 1,
    "ring": 2, "close": 14, "close_range": 3, "mark": 5, "fail": 16, "ask": 2, "limit": 2,
}  # fmt: skip
_OF_THREADS = {**_PLAIN, "storm": 8, "pause": 2, "limit": 1, "ring": 1}
PROFILES = ("simple", "signals", "threads", "slow", "shared", "follow")
"""`simple`: one thread. `signals`: calls that are interrupted. `threads`: they contend for numbers. `slow`: and some
closes take their time. `shared`: processes that share a table, and those and threads that part from it. `follow`:
processes that make others, for `--follow`."""
FOLLOWED = frozenset({"follow", "shared"})
"""Profiles that are played under `--follow` too."""


def generate(profile: str, seed: int) -> Sequence:
    """The sequence of a seed."""
    maker = _Maker(random.Random(f"{profile} {seed}"))
    targets = getattr(maker, f"make_{profile}")()
    return Sequence(profile, seed, tuple(maker.steps), targets or "root")


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lanes = 0
        self.steps: list[Step] = []

    def _add(self, lane: int, what: str, argument: int | None = None) -> None:
        self.steps.append(Step(lane, what, self._rng.randrange(4096) if argument is None else argument))

    def _plain(self, lane: int, count: int, weights: dict[str, int] = _PLAIN) -> None:
        for what in self._rng.choices([*weights], [*weights.values()], k=count):
            self._add(lane, what)

    def _lane(self) -> int:
        self._lanes += 1
        return self._lanes

    def _some(self, least: int, most: int) -> int:
        return self._rng.randint(least, most)

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _begin(self) -> None:
        """What is older than the trace."""
        self._plain(0, self._some(0, 6), {"open": 3, "make": 3, "duplicate": 2, "onto": 3, "pair": 1})

    def _end(self, probability: float = 0.15) -> None:
        if self._chance(probability):
            self._add(0, "exit", 0)

    def _insert(self, lane: int, what: str, argument: int | None = None) -> None:
        """At any place after `go`."""
        self._add(lane, what, argument)
        step = self.steps.pop()
        first = self.steps.index(GO) + 1 if GO in self.steps else 0
        self.steps.insert(self._some(first, len(self.steps)), step)

    def make_simple(self) -> None:
        self._begin()
        self.steps.append(GO)
        self._plain(0, self._some(4, 60))
        for what in ("exec", "thread_exec"):
            if self._chance(0.2):
                self._insert(0, what)
        self._end()

    def make_signals(self) -> None:
        self._begin()
        self.steps.append(GO)
        self._plain(0, self._some(2, 12))
        for _ in range(self._some(1, 4)):
            self._insert(0, "interrupt")
        self._end()

    def _threads(self, weights: dict[str, int], least: int, most: int) -> list[int]:
        lanes = [self._lane() for _ in range(self._some(2, 5))]
        for lane in lanes:
            self._add(0, "thread", lane)
        for lane in lanes:
            self._plain(lane, self._some(least, most), weights)
        return lanes

    def make_threads(self) -> None:
        self._begin()
        if self._chance(0.3):  # threads that are there already
            lane = self._lane()
            self._add(0, "thread", lane)
            self._plain(lane, self._some(4, 20), _OF_THREADS)
        self.steps.append(GO)
        self._threads(_OF_THREADS, 4, 30)
        self._plain(0, self._some(0, 20), _OF_THREADS)
        if self._chance(0.5):
            self._add(0, "join", 0)
            self._plain(0, self._some(0, 10))
            if self._chance(0.5):
                self._threads(_OF_THREADS, 4, 15)
        if self._chance(0.15):
            self._add(0, self._rng.choice(["exec", "thread_exec"]))
            self._plain(0, self._some(1, 8))
        self._end()

    def make_slow(self) -> None:
        self._begin()
        self.steps.append(GO)
        weights = {**_OF_THREADS, "linger": 2, "watch": 8, "limit": 0}
        self._threads(weights, 4, 14)
        self._plain(0, self._some(0, 8), weights)
        self._end(0.05)

    def make_shared(self) -> str:
        self._begin()
        targets = "root"
        before = self._some(0, 2) if self._chance(0.5) else 0
        if before:
            targets = self._rng.choice(["root", "first", "both"])
        for _ in range(before):
            self._process(0, "share", stays=targets != "root")
        self.steps.append(GO)
        for _ in range(self._some(1, 4)):
            kind = self._rng.choice(["share", "thread", "fork", "vfork", "plain", "unshare"])
            if kind in {"share", "fork", "vfork"}:
                self._process(0, kind, stays=False)
            elif kind == "thread":
                lane = self._lane()
                self._add(0, "thread", lane)
                self._plain(lane, self._some(0, 6), _OF_THREADS)
                if self._chance(0.6):
                    self._add(lane, self._rng.choice(["unshare", "unshare_range"]))
                    self._plain(lane, self._some(1, 8), _OF_THREADS)
            elif kind == "unshare":
                self._add(0, self._rng.choice(["unshare", "unshare_range", "reap", "join"]))
            self._plain(0, self._some(0, 5))
        if self._chance(0.2):
            self._add(0, self._rng.choice(["exec", "thread_exec"]))
            self._plain(0, self._some(1, 5))
        self._end()
        return targets

    def _process(self, parent: int, how: str, *, stays: bool, depth: int = 0) -> None:
        lane = self._lane()
        self._add(parent, how, lane)
        self._plain(lane, self._some(0, 8))
        if how == "share" and self._chance(0.5):
            self._add(lane, self._rng.choice(["unshare", "unshare_range", "exec"]))
            self._plain(lane, self._some(1, 6))
        elif how != "share" and self._chance(0.3):
            self._add(lane, "exec")
            self._plain(lane, self._some(1, 6))
        if depth < 2 and self._lanes < 18 and self._chance(0.3):
            self._process(lane, self._rng.choice(["fork", "vfork", "share"]), stays=False, depth=depth + 1)
            self._plain(lane, self._some(0, 4))
        if self._lanes < 18 and self._chance(0.2):
            thread = self._lane()
            self._add(lane, "thread", thread)
            self._plain(thread, self._some(1, 8), _OF_THREADS)
        if stays:
            self._add(lane, "stay", 0)

    def make_follow(self) -> None:
        self._begin()
        if self._chance(0.2):
            self._process(0, "fork", stays=False)
        self.steps.append(GO)
        for _ in range(self._some(1, 5)):
            how = self._rng.choice(["fork", "fork", "vfork", "share"])
            self._process(0, how, stays=how == "fork" and self._chance(0.4))
            self._plain(0, self._some(0, 5))
            if self._chance(0.3):
                self._add(0, "reap", 0)
        self._end()


def merge(sequences: Iterable[Sequence]) -> str:
    """The script of several, a round each, for one program that plays them one after another."""
    scripts = []
    for sequence in sequences:
        kept = [step for step in sequence.steps if step.what not in {"exit", "stay"}]
        scripts.append(sequence.with_steps(kept).script())
    return "0 round 0\n".join(scripts)
