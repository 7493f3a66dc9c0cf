"""Refuse strangers whose address has no name in DNS, or one that does not lead back to it (RFC 8601 2.7.3, RFC 7372 3.3).

It is done at RCPT, so that the log shows whose mail it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.mailauth.dns import Query, follow
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import parse_ip

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup, Plan
    from pillarbox.policy.hooks import Client

_MAX_NAMES = 10  # of one address that are looked up


class ReverseSettings(Settings, frozen=True):
    """The names that DNS gives to the addresses of strangers: `[reverse_dns]`."""

    action: Action = Action.OFF
    """What to do with mail from an address that has no name, or a wrong one (550). If DNS gives no answer the mail is put
    off (450)."""
    confirm: bool = True
    """Whether one of its names must lead back to the address."""


class ReverseName:
    """Demand a name for the client's address."""

    def __init__(self, settings: ReverseSettings, lookup: Lookup) -> None:
        """Do what `action` says, asking DNS by `lookup`."""
        self.action = settings.action
        self._confirm = settings.confirm
        self._lookup = lookup

    async def decide_client(self, client: Client, _sender: Address | None, _to: Address) -> Reply | None:
        """Refuse a client without a name."""
        if not client.stranger:
            return None
        return await follow(has_name(client.address, confirm=self._confirm), self._lookup)


def has_name(address: str, *, confirm: bool) -> Plan[Reply | None]:
    """Ask for the names of an address, and whether one of them leads back."""
    ip = parse_ip(address)
    if ip is None:
        return None
    names = yield Query(ip.reverse_pointer, "PTR")
    if names.failed:
        return policy.REVERSE_NAME_UNCLEAR.reply(address=address, detail=names.detail)
    if not names.records:
        return policy.REVERSE_NAME_MISSING.reply(address=address, detail="there is none")
    if not confirm:
        return None
    unclear = ""
    for name in names.records[:_MAX_NAMES]:
        back = yield Query(name, "A" if ip.version == 4 else "AAAA")
        if any(parse_ip(one) == ip for one in back.records):
            return None
        unclear = unclear or (back.detail if back.failed else "")
    if unclear:
        return policy.REVERSE_NAME_UNCLEAR.reply(address=address, detail=unclear)
    return policy.REVERSE_NAME_MISSING.reply(
        address=address, detail=f"{names.records[0]} does not lead back to it"
    )
