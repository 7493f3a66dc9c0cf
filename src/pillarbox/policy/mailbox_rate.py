"""Limit how many messages one mailbox gets, over all senders and workers together.

How much one sender may send is the business of `policy.rates`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import mailbox

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.memory import Memory


class MailboxRate:
    """A check for the hooks; it counts the recipients that nothing else has refused."""

    def __init__(self, directory: Directory, memory: Memory) -> None:
        """Count in `memory`."""
        self._directory = directory
        self._memory = memory

    async def decide_rcpt(self, _client: Client, _sender: Address | None, recipient: Address) -> Reply | None:
        """Put a message off if there were too many."""
        user = self._directory.sole_mailbox(recipient)
        if user is None or user.rate is None:
            return None
        wait_s = await self._memory.take(f"mailbox {user.address}", user.rate)
        return mailbox.TOO_FREQUENT.reply(seconds=math.ceil(wait_s)) if wait_s else None
