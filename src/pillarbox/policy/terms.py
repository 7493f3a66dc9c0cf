"""Decide about what a sender asks of the way of a message: deadlines, holding, priorities, owners of addresses.

How the parameters are read is `smtp.grammar`'s, keeping what was granted the queue's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import extensions
from pillarbox.mail.envelope import ByMode, Deadline, Terms
from pillarbox.mail.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.mail.address import Address
    from pillarbox.mail.envelope import ValidSince
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.rules import Rules
    from pillarbox.smtp.events import By, MailParameters, Wish
    from pillarbox.smtp.extensions import ExtensionSettings


class TermRules:
    """Decides about one command at a time; no look-up here waits."""

    def __init__(
        self,
        settings: ExtensionSettings,
        rules: Rules,
        directory: Directory,
        *,
        delay_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`delay_s` tells how long mail waits for its turn at present."""
        self._settings = settings
        self._rules = rules
        self._directory = directory
        self._delay_s = delay_s

    def decide(self, client: Client, parameters: MailParameters, now: float) -> Terms | Reply:
        """What the sender's wishes come to at this Unix time, or why they can't be met."""
        wish = parameters.wish
        assert wish is not None  # nobody asks for other messages
        priority = self._priority(client, wish.priority)
        refusal = self._priority_refusal(priority, parameters.size)
        if refusal is None and wish.by is not None:
            refusal = self._deadline_refusal(wish.by)
        if refusal is None:
            refusal = self._hold_refusal(wish, now)
        if refusal is not None:
            return refusal
        asked = wish.by
        by = None if asked is None else Deadline(now + asked.seconds, asked.mode, asked.trace)
        hold_until = now + wish.hold_for if wish.hold_for else wish.hold_until
        return Terms(by, hold_until if hold_until > now else 0.0, priority, wish.require_tls)

    def max_octets(self, priority: int) -> int:
        """The largest message of a priority; 0 if it has no limit of its own."""
        return self._settings.urgent_octets if priority > 0 else 0

    def _priority(self, client: Client, wanted: int) -> int:
        if wanted <= 0:
            return wanted
        who = self._settings.raise_priority
        known = bool(client.login) or (who == "trusted" and self._rules.trusts(client.address))
        return wanted if known and who != "nobody" else 0

    def _priority_refusal(self, priority: int, octets: int) -> Reply | None:
        settings = self._settings
        if priority < settings.busy_priority and self._delay_s() > settings.busy_after_s:
            return extensions.PRIORITY_TOO_LOW.reply(lowest=settings.busy_priority)
        limit = self.max_octets(priority)
        return extensions.TOO_BIG_FOR_PRIORITY.reply(limit=limit) if 0 < limit < octets else None

    def _deadline_refusal(self, by: By) -> Reply | None:
        if by.mode is not ByMode.RETURN:
            return None
        minimum = int(self._settings.deliverby_min_s)
        if by.seconds < minimum:
            return extensions.BELOW_MINIMUM.reply(seconds=by.seconds, minimum=minimum)
        delay = int(self._delay_s())
        if delay > by.seconds:
            return extensions.TOO_BUSY_FOR_DEADLINE.reply(seconds=by.seconds, delay=delay)
        return None

    def _hold_refusal(self, wish: Wish, now: float) -> Reply | None:
        limit = self._settings.futurerelease_max_s
        for name, wait_s in ("HOLDFOR", wish.hold_for), ("HOLDUNTIL", wish.hold_until - now):
            if wait_s > limit:
                return extensions.HOLD_TOO_LONG.reply(detail=name, limit=int(limit))
        return None

    def decide_since(self, recipient: Address, valid: ValidSince) -> Reply | None:
        """Refuse a recipient of ours who has had the address for too short a time; one of whom nothing is known may stay."""
        mailbox, domain = self._directory.since(recipient)
        if domain > valid.at:
            return extensions.DOMAIN_CHANGED.reply()
        return extensions.OWNER_CHANGED.reply() if mailbox > valid.at else None
