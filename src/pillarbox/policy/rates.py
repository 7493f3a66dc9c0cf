"""Limit how much one network of strangers, one sender, or one account may send, over all workers together.

What a mailbox may get is not its business, nor how many sessions and messages at a time `smtp` and `net` allow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Rate, Settings
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import neighbourhood

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.memory import Memory, Notes


class RateSettings(Settings, frozen=True):
    """How much may be sent: `[rate]`. A rate such as "100/h" allows 100 at once, and as many more in each hour."""

    client: Rate | None = None
    """Messages of strangers from one network, a /24 of IPv4 or a /64 of IPv6; more are put off (450)."""
    sender: Rate | None = None
    """Recipients of one sender address of strangers; more are put off (450)."""
    account: Rate | None = None
    """Recipients of one account that logged in; more are put off (450)."""
    flood: Rate | None = None
    """Messages of strangers from one network, those that `client` puts off included; more are refused (550)."""
    action: Action = Action.REJECT
    """What to do with what is over these rates."""

    @property
    def limits_clients(self) -> bool:
        """Whether messages of networks are counted."""
        return self.client is not None or self.flood is not None

    @property
    def limits_senders(self) -> bool:
        """Whether recipients of senders or accounts are counted."""
        return self.sender is not None or self.account is not None


class ClientRate:
    """Count the messages of each network of strangers."""

    def __init__(self, settings: RateSettings, memory: Memory) -> None:
        """Count in `memory`."""
        self.action = settings.action
        self._settings = settings
        self._memory = memory

    async def decide_mail(self, client: Client, _sender: Address | None) -> Reply | None:
        """Put a message off, or refuse it, if there were too many."""
        if not client.stranger:
            return None
        return await self._memory.ask(lambda notes: self._count(notes, neighbourhood(client.address)))

    def _count(self, notes: Notes, network: str) -> Reply | None:
        flood, rate = self._settings.flood, self._settings.client
        if flood is not None and notes.take(f"flood {network}", flood):
            return policy.FLOOD.reply(network=network, rate=flood)
        wait_s = notes.take(f"client {network}", rate) if rate is not None else 0.0
        if wait_s and rate is not None:
            return policy.TOO_MUCH.reply(who=network, rate=rate, seconds=math.ceil(wait_s))
        return None


class SenderRate:
    """Count the recipients of each sender, and of each account."""

    def __init__(self, settings: RateSettings, memory: Memory) -> None:
        """Count in `memory`."""
        self.action = settings.action
        self._sender, self._account = settings.sender, settings.account
        self._memory = memory

    async def decide_rcpt(self, client: Client, sender: Address | None, _to: Address) -> Reply | None:
        """Put a recipient off if there were too many."""
        if client.login:
            who, rate = client.login, self._account
        elif client.stranger and sender is not None:
            who, rate = str(sender).lower(), self._sender
        else:
            return None
        if rate is None:
            return None
        wait_s = await self._memory.take(f"{'account' if client.login else 'sender'} {who}", rate)
        return policy.TOO_MUCH.reply(who=who, rate=rate, seconds=math.ceil(wait_s)) if wait_s else None
