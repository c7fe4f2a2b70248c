"""Many seeds: batches of them under each way to start the tool, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.play import MODES, FuzzerError, Mode, play
from tests.fuzz.sequences import FOLLOWED, PROFILES, Sequence, generate
from tests.fuzz.shrink import kind_of, shrink, still_differs

PAIRS = tuple(
    (mode, profile)
    for mode in MODES.values()
    for profile in PROFILES
    if (profile in FOLLOWED if mode.follow else profile != "follow" or mode.begins != "wait")
)
"""Every mode with the profiles that it is for: `--follow` where there are processes to follow."""


@dataclass
class Tally:
    """Of one mode and profile."""

    seeds: int = 0
    traces: int = 0
    events: int = 0
    differing: set[int] = field(default_factory=set)
    """The seeds that differ."""
    lines: Counter[str] = field(default_factory=Counter)
    """Kinds of differences."""
    disorder: int = 0
    """Lines of a stream that come after a later one."""


@dataclass(frozen=True)
class Difference:
    """What one seed, or a batch as a whole, was told wrong."""

    mode: Mode
    sequences: tuple[Sequence, ...]
    lines: tuple[str, ...]

    def words(self, shortest: Sequence | None = None) -> str:
        """For a reader who wants to see it again."""
        first = self.sequences[0]
        seeds = ",".join(str(sequence.seed) for sequence in self.sequences)
        again = f"python -m tests.fuzz --mode {self.mode.name} --profile {first.profile} --seed {seeds}"
        text = "\n".join(
            [f"mode {self.mode.name}, profile {first.profile}, seed {seeds}:", *self.lines[:12], f"  {again}"]
        )
        if shortest is not None:
            text += f"\nshortest (targets: {shortest.targets}):\n{shortest.script()}"
        return text


def play_batch(
    mode: Mode, sequences: Several[Sequence], program: Path, tally: Tally, keep: Path | None = None
) -> list[Difference]:
    """Plays a batch; where something differs, what speaks of it is written below `keep`."""
    played = play(mode, sequences, program)
    if keep is not None and played.differences:
        played.keep(keep / f"{mode.name}-{sequences[0].profile}-{sequences[0].seed}")
    tally.traces += 1
    tally.seeds += len(sequences)
    tally.events += played.event_count
    tally.disorder += played.disorder_count
    by_place: dict[int, list[str]] = {}
    for place, line in played.differences:
        by_place.setdefault(place, []).append(line)
    is_shared = mode.begins != "attach"  # one program played all
    vague = by_place.pop(-1, []) + (by_place.pop(0, []) if is_shared else [])
    found = [Difference(mode, (sequences[place],), tuple(lines)) for place, lines in by_place.items()]
    if vague and len(sequences) == 1:
        lines = (*vague, *(found.pop().lines if found else ()))
        found = [Difference(mode, tuple(sequences), lines)]
    elif vague:
        found.append(Difference(mode, tuple(sequences), tuple(vague)))
    for difference in found:
        tally.differing.update(sequence.seed for sequence in difference.sequences[:1])
        tally.lines.update({kind_of(line) for line in difference.lines})
    return found


def generate_all(profile: str, seeds: Iterable[int]) -> list[Sequence]:
    """The sequences of some seeds."""
    return [generate(profile, seed) for seed in seeds]


def find_shortest(difference: Difference, program: Path, most_traces: int) -> Sequence | None:
    """The shortest sequence that shows one of a difference's kinds; None where it does not come again."""
    kinds = {kind_of(line) for line in difference.lines}
    differs = still_differs(difference.mode, program, kinds, most_traces)
    try:
        again = differs(difference.sequences)
    except FuzzerError:
        return None
    for sequence, still in zip(difference.sequences, again, strict=True):
        if still:
            return shrink(sequence, differs)
    return None
