"""ETRN: a node that was away asks for the mail that waits for it (RFC 1985).

How the command reads is `smtp.grammar`'s, the deliveries that follow the queue's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.address import Address
from pillarbox.mail.catalogue import auth, extensions
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.mail.reply import Reply
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client
    from pillarbox.smtp.events import StartQueue

MOST_COUNTED = 1000  # more are only said to be there


class EtrnSettings(Settings, frozen=True):
    """Who may have mail sent that waits for a domain: the command ETRN, offered if `allow` names any domain."""

    allow: tuple[str, ...] = ()
    """Domains whose mail may be asked for: "example.org", "*.example.org" for all below it, or "*"."""
    login: bool = False
    """Only users who log in may ask (530)."""


class Etrn:
    """Answers ETRN."""

    def __init__(
        self,
        settings: EtrnSettings,
        directory: Directory,
        *,
        busy: Callable[[], bool],
        start: Callable[[Route, bool], Awaitable[int]],
    ) -> None:
        """`busy` tells whether no more deliveries can begin; `start` begins those of a route, and counts the messages.

        With its second argument those to the exchangers of all domains below are meant, too.
        """
        self._settings = settings
        self._directory = directory
        self._busy = busy
        self._start = start

    async def start(self, client: Client, event: StartQueue) -> Reply:
        """Begin to deliver what waits for a node, if the client may ask for it."""
        node = event.node
        if self._settings.login and not client.login:
            return auth.LOGIN_REQUIRED.reply()
        if not self._allows(node):
            return extensions.NODE_NOT_ALLOWED.reply(node=node)
        if self._busy():
            return extensions.QUEUE_BUSY.reply(node=node)
        address = Address("postmaster", node)
        route = Route(Transport.MX, address.dns_domain) if event.below else self._directory.route(address)
        count = await self._start(route, event.below)
        if event.below:
            return extensions.NODE_STARTED.reply(node=node)
        if not count:
            return extensions.NOTHING_PENDING.reply(node=node)
        if count > MOST_COUNTED:
            return extensions.PENDING_STARTED.reply(node=node)
        return extensions.MESSAGES_STARTED.reply(count=count, node=node)

    def _allows(self, node: str) -> bool:
        for pattern in self._settings.allow:
            wild, domain = pattern.startswith("*"), pattern.lower().removeprefix("*")
            if node == domain or (wild and node.endswith(domain)):
                return True
        return False
