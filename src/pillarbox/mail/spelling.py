"""Words for people: guess which one somebody meant who wrote another, and name some of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LIKENESS = 0.7  # of 1; what is less alike is rather another word than a slip


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that somebody may have meant, or "". Slips seldom change the first letter; other words do."""
    import difflib  # noqa: PLC0415 - only what is wrong needs it

    alike = [one for one in known if one[:1] == word[:1]]
    return next(iter(difflib.get_close_matches(word, alike, n=1, cutoff=_LIKENESS)), "")


def some(names: Sequence[str], shown: int) -> str:
    """Names, at most so many of them, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
