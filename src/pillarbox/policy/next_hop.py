"""Ask the host that has the mailboxes of a domain about each recipient, before mail for it is taken.

So mail for unknown users is refused at the door, not returned to forged senders later. How the host is asked is told by
whoever makes the check.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from pillarbox.mail.catalogue import envelope, mailbox
from pillarbox.mail.reply import Stage
from pillarbox.mail.route import Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply, Result
    from pillarbox.mail.route import Route
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client

    Probe: TypeAlias = Callable[[Route, str], Awaitable[Result]]

_LIMIT_S = 20.0  # less than a hook may take
_GOOD_S = 3600.0
_BAD_S = 300.0
_MAX_KNOWN = 10_000
_ASKABLE = frozenset({Transport.SMTP, Transport.LMTP})


class NextHop:
    """A check for the hooks; what a host said is remembered for a while."""

    def __init__(self, directory: Directory, probe: Probe) -> None:
        """`probe` asks the hosts of a route about an address."""
        self._directory = directory
        self._probe = probe
        self._known: OrderedDict[tuple[Route, str], tuple[float, Reply | None]] = OrderedDict()

    async def decide_rcpt(self, _client: Client, _sender: Address | None, recipient: Address) -> Reply | None:
        """Refuse whom the host does not know; put mail off while it does not say."""
        if not self._directory.verifies(recipient):
            return None
        targets = self._directory.resolve(recipient)
        if not isinstance(targets, tuple) or len(targets) != 1 or targets[0].route.transport not in _ASKABLE:
            return None
        route, address = targets[0].route, targets[0].address
        now = asyncio.get_running_loop().time()
        known = self._known.get((route, address))
        if known is not None and now < known[0]:
            return known[1]
        try:
            async with asyncio.timeout(_LIMIT_S):
                result = await self._probe(route, address)
        except TimeoutError:
            return mailbox.NEXT_HOP_SILENT.reply(detail="no answer in time")
        if result.reply.positive:
            opinion = None
        elif result.reply.permanent and result.stage is Stage.RCPT:
            opinion = envelope.RECIPIENT_UNKNOWN.reply()
        else:
            return mailbox.NEXT_HOP_SILENT.reply(detail=result.reply)
        self._known[route, address] = (now + (_GOOD_S if opinion is None else _BAD_S), opinion)
        self._known.move_to_end((route, address))
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return opinion
