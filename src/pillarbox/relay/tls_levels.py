"""Remember how well the sessions with a domain's mail exchangers were protected, and when one was worse than that.

When a session counts and what follows from a worse one is the business of `relay.tls_watch`; the notes are kept by
`policy.memory`, shared by all workers and read by `pillarbox tls`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pillarbox.policy.memory import Notes

KEEP_S = 30 * 86400.0  # what a domain had is remembered so long after it had it last
_BEST, _WORSE = "tls ", "tls-worse "


class Level(IntEnum):
    """How well a session is protected."""

    CLEAR = 0
    ENCRYPTED = 1
    PROVEN = 2  # and the host has shown who it is


WORDS = {
    Level.CLEAR: "in clear",
    Level.ENCRYPTED: "under TLS without proof of who it is",
    Level.PROVEN: "under TLS with proof of who it is",
}


class Remembered(msgspec.Struct, frozen=True):
    """What is known of one domain; times are Unix times."""

    domain: str
    best: Level
    seen_at: float  # when it had that last, to a day
    until: float  # when it is forgotten
    worse: Level | None = None  # the last session that was worse had this
    worse_at: float = 0.0


def remember(notes: Notes, domain: str, level: Level) -> Level:
    """Keep a level if it is as good as what is known; the best one."""
    found = notes.get(_BEST + domain)
    best = Level(found.number) if found is not None else Level.CLEAR
    if level < best:
        notes.put(_WORSE + domain, notes.now, level, KEEP_S)
        return best
    if level is not Level.CLEAR:
        notes.put(_BEST + domain, notes.now, level, KEEP_S)
    return level


def known(notes: Notes) -> list[Remembered]:
    """What is known of all domains, by name."""
    worse = {one.key: one for one in notes.beginning_with(_WORSE)}
    found = []
    for one in notes.beginning_with(_BEST):
        fall = worse.get(one.key)
        if fall is not None and fall.mark < one.mark:
            fall = None  # it was as good as ever afterwards
        found.append(
            Remembered(
                one.key,
                Level(one.number),
                one.mark,
                one.expires,
                None if fall is None else Level(fall.number),
                0.0 if fall is None else fall.mark,
            )
        )
    return found


def forget(notes: Notes, domain: str) -> bool:
    """Forget what a domain had; whether anything was known."""
    notes.drop(_WORSE + domain)
    return notes.drop(_BEST + domain)
