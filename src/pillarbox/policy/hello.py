"""Refuse clients by the name that they give in EHLO or HELO.

Whether the name is well formed at all is `smtp.grammar`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import Names

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client


class HelloSettings(Settings, frozen=True):
    """The names that strangers give in EHLO or HELO: `[helo]`."""

    require_fqdn: Action = Action.OFF
    """What to do with a client whose name is neither a full host name nor an address literal (504)."""
    deny: tuple[str, ...] = ()
    """Names that are refused, such as "mx.example.org"; "*.example.org" for all below it (550)."""
    deny_action: Action = Action.REJECT
    """What to do with a client whose name is among `deny`."""


class QualifiedHello:
    """Demand a name with a dot, or an address literal (RFC 5321 2.3.5)."""

    def __init__(self, settings: HelloSettings) -> None:
        """Do what `require_fqdn` says."""
        self.action = settings.require_fqdn

    async def decide_hello(self, client: Client) -> Reply | None:
        """Refuse a bare name."""
        if not client.stranger or client.helo.startswith("[") or "." in client.helo.rstrip("."):
            return None
        return policy.HELLO_NOT_QUALIFIED.reply()


class DeniedHello:
    """Refuse the names that the operator listed."""

    def __init__(self, settings: HelloSettings) -> None:
        """Do what `deny_action` says."""
        self.action = settings.deny_action
        self._deny = Names(settings.deny)

    async def decide_hello(self, client: Client) -> Reply | None:
        """Refuse a name on the list."""
        if client.stranger and self._deny.holds(client.helo):
            return policy.HELLO_DENIED.reply(name=client.helo)
        return None
