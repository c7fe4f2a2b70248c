"""Of words that are known, the one that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

_LEAST_ALIKE = 0.7
_LEAST_BEGINNING = 3  # characters


def nearest(word: str, known: Iterable[str], *, cutoff: float = _LEAST_ALIKE) -> str | None:
    """The known word that is most alike, upper or lower case, or that begins so; None where none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

    by_folded = {one.casefold(): one for one in sorted(known, reverse=True)}
    folded = word.casefold()
    if near := get_close_matches(folded, by_folded, n=1, cutoff=cutoff):
        return by_folded[near[0]]
    if len(folded) < _LEAST_BEGINNING:
        return None
    return min((one for low, one in by_folded.items() if low.startswith(folded)), key=len, default=None)
