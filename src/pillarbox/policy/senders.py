"""Refuse strangers' mail by its sender: addresses that the operator listed, and domains to which no report could be sent.

Whether a domain allows the client to use its name is the business of `mailauth`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.mailauth.dns import Query
from pillarbox.policy.evidence import ask
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import Names

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup, Plan
    from pillarbox.policy.evidence import Proven
    from pillarbox.policy.hooks import Client

# Domains that nobody can own (RFC 2606, RFC 6761, RFC 7686, RFC 9476). Not "test": laboratories use it, with DNS.
_RESERVED = frozenset({"invalid", "localhost", "example", "onion", "alt"})


class SenderSettings(Settings, frozen=True):
    """The senders of strangers: `[sender]`."""

    deny: tuple[str, ...] = ()
    """Senders that are refused: addresses, domains such as "example.org", or "*.example.org" for all below it (550)."""
    deny_action: Action = Action.REJECT
    """What to do with mail whose sender is among `deny`."""
    domain: Action = Action.OFF
    """What to do with mail whose sender's domain cannot take a reply: it is reserved or has no dot (553), does not exist,
    or takes no mail (550). If DNS gives no answer the mail is put off (450)."""


class DeniedSender:
    """Refuse the senders that the operator listed."""

    def __init__(self, settings: SenderSettings) -> None:
        """Do what `deny_action` says."""
        self.action = settings.deny_action
        self._deny = Names(settings.deny)

    async def decide_mail(self, client: Client, sender: Address | None) -> Reply | None:
        """Refuse a sender on the list."""
        if sender is not None and client.stranger and self._deny.holds(str(sender)):
            return policy.SENDER_DENIED.reply()
        return None


class SenderDomain:
    """Refuse senders to whom no report could be sent."""

    def __init__(self, settings: SenderSettings, lookup: Lookup) -> None:
        """Do what `domain` says, asking DNS by `lookup`."""
        self.action = settings.domain
        self._lookup = lookup

    async def decide_mail(self, client: Client, sender: Address | None) -> Reply | Proven | None:
        """Refuse a domain that cannot take mail."""
        if sender is None or not client.stranger or sender.domain.startswith("["):
            return None
        domain = sender.dns_domain
        if "." not in domain or domain.rpartition(".")[2] in _RESERVED:
            return policy.SENDER_DOMAIN_RESERVED.reply(domain=domain)
        return await ask(takes_mail(domain), self._lookup)


def takes_mail(domain: str) -> Plan[Reply | None]:
    """Ask whether a domain can take mail: by exchangers, or by addresses of its own (RFC 5321 5.1, RFC 7505)."""
    answer = yield Query(domain, "MX")
    if answer.records:
        null = not any(host for _, host in answer.records)
        return policy.SENDER_TAKES_NO_MAIL.reply(domain=domain) if null else None
    for kind in ("A", "AAAA"):
        if answer.no_domain or answer.failed:
            break
        answer = yield Query(domain, kind)
        if answer.records:
            return None
    if answer.failed:
        return policy.SENDER_DOMAIN_UNCLEAR.reply(domain=domain, detail=answer.detail)
    return policy.SENDER_DOMAIN_MISSING.reply(domain=domain)
