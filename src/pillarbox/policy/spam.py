"""Refuse messages to which hooks and scanners gave too high a score, all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.policy.hooks import Action

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Incoming


class SpamSettings(Settings, frozen=True):
    """What follows from the scores that hooks and scanners give: `[spam]`."""

    reject_at: float | None = None
    """The sum of scores from which a message is refused (550)."""
    action: Action = Action.REJECT
    """What to do with a message that reaches it."""


class SpamLimit:
    """Add the scores up. It is asked last, when all have given theirs."""

    def __init__(self, limit: float, action: Action) -> None:
        """Refuse from `limit` on."""
        self.action = action
        self._limit = limit

    async def decide_message(self, message: Incoming) -> Reply | None:
        """Refuse a message with too high a score."""
        points = sum(score.points for score in message.scores)
        if not message.scores or points < self._limit:
            return None
        worst = max(message.scores, key=lambda score: score.points)
        return policy.SPAM.reply(
            points=f"{points:.1f}", limit=f"{self._limit:.1f}", reason=worst.reason or "no reason given"
        )
