"""Refuse strangers whose address has no name in DNS, or one that does not lead back to it (RFC 8601 2.7.3, RFC 7372 3.3).

It is done at RCPT, so that the log shows whose mail it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.mailauth import iprev
from pillarbox.policy.evidence import ask
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import parse_ip
from pillarbox.smtp.attributes import TEMPUNAVAIL, UNAVAILABLE

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup, Plan
    from pillarbox.policy.evidence import Proven
    from pillarbox.policy.hooks import Client


class ReverseSettings(Settings, frozen=True):
    """The names that DNS gives to the addresses of strangers: `[reverse_dns]`."""

    action: Action = Action.OFF
    """What to do with mail from an address that has no name, or a wrong one (550). If DNS gives no answer the mail is put
    off (450)."""
    confirm: bool = True
    """Whether one of its names must lead back to the address."""
    check: bool = False
    """Look the name up at the end of each message, and write what was found (iprev) into Authentication-Results; a name
    that leads back stands in Received too."""


class ReverseName:
    """Demand a name for the client's address."""

    def __init__(self, settings: ReverseSettings, lookup: Lookup) -> None:
        """Do what `action` says, asking DNS by `lookup`."""
        self.action = settings.action
        self._confirm = settings.confirm
        self._lookup = lookup

    async def decide_client(
        self, client: Client, _sender: Address | None, _to: Address
    ) -> Reply | Proven | None:
        """Refuse a client without a name."""
        if not client.stranger:
            return None
        if client.name:  # a trusted host has asked already
            return _told(client)
        return await ask(has_name(client.address, confirm=self._confirm), self._lookup)


def _told(client: Client) -> Reply | None:
    """What follows from the name that a trusted host told."""
    if client.name == TEMPUNAVAIL:
        return policy.REVERSE_NAME_UNCLEAR.reply(address=client.address, detail="no answer")
    if client.name == UNAVAILABLE:
        return policy.REVERSE_NAME_MISSING.reply(address=client.address, detail="there is none")
    return None


def has_name(address: str, *, confirm: bool) -> Plan[Reply | None]:
    """Whether an address has a name, and if `confirm` one that leads back."""
    if parse_ip(address) is None:
        return None
    found = yield from iprev.check(address)
    if found.result == "pass" or (found.name and not confirm):
        return None
    cause = policy.REVERSE_NAME_UNCLEAR if found.result == "temperror" else policy.REVERSE_NAME_MISSING
    return cause.reply(address=address, detail=found.detail)
