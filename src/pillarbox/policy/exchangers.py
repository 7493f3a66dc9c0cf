"""Refuse recipients of other domains that say in DNS that they take no mail, while the sender still listens.

Finding the hosts that take mail is the business of delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import mailbox
from pillarbox.mail.route import Transport
from pillarbox.mail.units import Settings
from pillarbox.mailauth.dns import Query
from pillarbox.policy.evidence import ask
from pillarbox.policy.hooks import Action

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup, Plan
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.evidence import Proven
    from pillarbox.policy.hooks import Client


class RecipientSettings(Settings, frozen=True):
    """What is looked up about recipients: `[recipient]`."""

    check_domains: bool = False
    """Ask DNS about domains that are not ours at RCPT already, and refuse those that take no mail (556)."""
    action: Action = Action.REJECT
    """What to do with recipients in such domains; while DNS does not answer they are put off, or only tagged or noted."""


class NullMx:
    """A check for the hooks."""

    def __init__(self, settings: RecipientSettings, directory: Directory, lookup: Lookup) -> None:
        """`directory` knows which domains are found by their exchangers."""
        self.action = settings.action
        self._directory = directory
        self._lookup = lookup

    async def decide_rcpt(
        self, _client: Client, _sender: Address | None, recipient: Address
    ) -> Reply | Proven | None:
        """Refuse a domain with a null MX (RFC 7505 3); put mail off while DNS does not answer."""
        if (
            not recipient.domain
            or recipient.domain.startswith("[")
            or self._directory.serves(recipient.domain)
        ):
            return None
        route = self._directory.route(recipient)
        if route.transport is not Transport.MX:
            return None
        return await ask(_takes_mail(route.target), self._lookup)


def _takes_mail(domain: str) -> Plan[Reply | None]:
    answer = yield Query(domain, "MX")
    if answer.failed:
        return mailbox.DOMAIN_LOOKUP_FAILED.reply(domain=domain)
    if answer.records and not any(host for _, host in answer.records):
        return mailbox.NULL_MX.reply(domain=domain)
    return None
