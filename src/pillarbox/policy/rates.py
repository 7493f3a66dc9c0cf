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
    from collections.abc import Iterable

    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.memory import Memory, Notes


class RateSettings(Settings, frozen=True):
    """How much may be sent: `[rate]`. A rate such as "100/h" allows 100 at once, and as many more in each hour."""

    client: Rate | None = None
    """Messages of strangers from one network, a /24 of IPv4 or a /64 of IPv6; more are put off (450)."""
    address: Rate | None = None
    """Messages of strangers from one address; more are put off (450)."""
    connections: Rate | None = None
    """Connections of strangers from one network; more are put off in the greeting (421)."""
    domain: Rate | None = None
    """Recipients of all senders of one domain, of strangers; more are put off (450)."""
    recipient_domain: Rate | None = None
    """Recipients in one domain, from strangers; more are put off (450)."""
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
        return any(rate is not None for rate in (self.client, self.address, self.flood))

    @property
    def limits_senders(self) -> bool:
        """Whether recipients of senders or accounts are counted."""
        return any(
            rate is not None for rate in (self.sender, self.account, self.domain, self.recipient_domain)
        )


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
        return await self._memory.ask(lambda notes: self._count(notes, client.address))

    def _count(self, notes: Notes, address: str) -> Reply | None:
        network = neighbourhood(address)
        flood, rate = self._settings.flood, self._settings.client
        if flood is not None and notes.take(f"flood {network}", flood):
            return policy.FLOOD.reply(network=network, rate=flood)
        return _take(notes, (("client", network, rate), ("address", address, self._settings.address)))


class SenderRate:
    """Count the recipients of each sender, and of each account."""

    def __init__(self, settings: RateSettings, memory: Memory) -> None:
        """Count in `memory`."""
        self.action = settings.action
        self._settings = settings
        self._memory = memory

    async def decide_rcpt(self, client: Client, sender: Address | None, recipient: Address) -> Reply | None:
        """Put a recipient off if there were too many."""
        settings = self._settings
        if client.login:
            budgets = [("account", client.login, settings.account)]
        elif client.stranger:
            budgets = [("recipients of", recipient.dns_domain, settings.recipient_domain)]
            if sender is not None:
                budgets.append(("sender", str(sender).lower(), settings.sender))
                budgets.append(("domain", sender.dns_domain, settings.domain))
        else:
            return None
        if all(rate is None for _, _, rate in budgets):
            return None
        return await self._memory.ask(lambda notes: _take(notes, budgets))


class ConnectionRate:
    """Count the connections of each network of strangers."""

    def __init__(self, settings: RateSettings, memory: Memory, hostname: str) -> None:
        """Count in `memory`."""
        self.action = settings.action
        self._rate = settings.connections
        self._memory = memory
        self._hostname = hostname

    async def decide_connect(self, client: Client) -> Reply | None:
        """Put a client off if its network came too often."""
        if self._rate is None or not client.stranger:
            return None
        network = neighbourhood(client.address)
        wait_s = await self._memory.take(f"connections {network}", self._rate)
        if not wait_s:
            return None
        facts = {"hostname": self._hostname, "network": network, "rate": self._rate}
        return policy.TOO_OFTEN.reply(**facts, seconds=math.ceil(wait_s))


def _take(notes: Notes, budgets: Iterable[tuple[str, str, Rate | None]]) -> Reply | None:
    """Take one of each budget that is limited, until one is used up."""
    for kind, who, rate in budgets:
        wait_s = notes.take(f"{kind} {who}", rate) if rate is not None else 0.0
        if wait_s:
            return policy.TOO_MUCH.reply(who=who, rate=rate, seconds=math.ceil(wait_s))
    return None
