"""`python -m tests.fuzz`: as many seeds as fit into a time, or one again; `make fuzz SECONDS=600`."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.campaign import PAIRS, Difference, Tally, find_shortest, generate_all, play_batch
from tests.fuzz.play import MODES, FuzzerError, alone, build
from tests.fuzz.sequences import PROFILES
from tests.fuzz.shrink import kind_of

_AT_ONCE = {"attach": 40, "run": 16, "wait": 16}
_FOLLOWED_AT_ONCE = 8  # together they make fewer processes than a report tells of one by one
_MOST_TRACES = 40  # to find one shortest sequence
_SHOWN = 12
_MOST_FAILURES = 5


def main() -> int:
    """0 where nothing differs, 1 where something does, 2 where the fuzzer itself failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--mode", choices=[*MODES], action="append", help="only these; may be given again")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="only these; may be given again")
    parser.add_argument("--seed", help="only these, with commas: once in each mode")
    parser.add_argument("--first", type=int, help="the first seed; a random one where it is not given")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--keep", type=Path, help="a directory for the output and the notes of traces that differ")
    options = parser.parse_args()
    pairs = [
        (mode, profile)
        for mode, profile in PAIRS
        if (not options.mode or mode.name in options.mode) and (not options.profile or profile in options.profile)
    ]
    first = options.first if options.first is not None else random.SystemRandom().randrange(1 << 30)
    tallies = {(mode.name, profile): Tally() for mode, profile in pairs}
    found: list[Difference] = []
    spent, failures = 0.0, 0  # seconds, without the waiting for other tracers
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        turns = iter(pairs) if options.seed else itertools.cycle(pairs)
        seed = first
        for mode, profile in turns:
            if not options.seed and spent > options.seconds:
                break
            at_once = min(_AT_ONCE[mode.begins], _FOLLOWED_AT_ONCE if mode.follow else 40)
            seeds = [*range(seed, seed + at_once)]
            if options.seed:
                seeds = [*map(int, options.seed.split(","))]
            seed += len(seeds)
            try:
                with alone():
                    began = time.monotonic()
                    tally = tallies[mode.name, profile]
                    found += play_batch(mode, generate_all(profile, seeds), program, tally, options.keep)
                    spent += time.monotonic() - began
            except KeyboardInterrupt:
                break
            except FuzzerError as problem:
                failures += 1
                print(f"{mode.name}, {profile}, seeds {seeds}: the fuzzer failed: {problem}", file=sys.stderr)
                if failures == _MOST_FAILURES:
                    break
        _show(found, program, shrinks=not options.no_shrink)
    print(f"first seed {first}, {spent:.0f} s")
    print(f"{'mode':14} {'profile':8} {'seeds':>6} {'traces':>6} {'events':>8} {'differing':>9} {'disorder':>8}  kinds")
    for (name, profile), tally in tallies.items():
        if tally.traces:
            kinds = ", ".join(kind for kind, _ in tally.lines.most_common(4))
            print(
                f"{name:14} {profile:8} {tally.seeds:6} {tally.traces:6} {tally.events:8} {len(tally.differing):9} "
                f"{tally.disorder:8}  {kinds}"
            )
    total = sum(tally.seeds for tally in tallies.values())
    print(f"all: {total} seeds, {sum(len(tally.differing) for tally in tallies.values())} differ")
    return 2 if failures else 1 if found else 0


def _show(found: list[Difference], program: Path, *, shrinks: bool) -> None:
    """One of each kind, with its shortest sequence."""
    seen: set[tuple[str, frozenset[str]]] = set()

    def urgency(one: Difference) -> tuple[bool, int]:
        """Where there is no result at all first, then the shortest."""
        return not any(line.startswith("it says") for line in one.lines), sum(len(each.steps) for each in one.sequences)

    for difference in sorted(found, key=urgency):
        kinds = frozenset(kind_of(line) for line in difference.lines)
        if (difference.mode.name, kinds) in seen or len(seen) == _SHOWN:
            continue
        seen.add((difference.mode.name, kinds))
        shortest = None
        if shrinks:
            with alone():
                shortest = find_shortest(difference, program, _MOST_TRACES)
        print(difference.words(shortest), end="\n\n", flush=True)
    if len(found) > len(seen):
        print(f"and {len(found) - len(seen)} more, of these kinds or not shown\n")


if __name__ == "__main__":
    sys.exit(main())
