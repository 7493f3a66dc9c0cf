"""Refuse mail that a mailbox has no room for, before it is taken: at RCPT, and at the end of a message.

How much a mailbox holds is told by `policy.maildirsize`. Delivery looks again, because the room may be gone by then.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import mailbox
from pillarbox.policy.maildirsize import Room, judge, locked, open_home

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client, Incoming
    from pillarbox.policy.users import Mailbox, Quota

_THREADS = 4


class MailboxRoom:
    """A check for the hooks; it costs nothing for mailboxes without limits."""

    def __init__(self, directory: Directory) -> None:
        """`directory` knows the limits."""
        self._directory = directory
        self._threads = ThreadPoolExecutor(_THREADS, "quota")

    async def decide_rcpt(self, client: Client, sender: Address | None, recipient: Address) -> Reply | None:  # noqa: ARG002 - as hooks are called
        """Whether a message of the announced size fits. Of an alias with several users each one is left to delivery."""
        user = self._directory.sole_mailbox(recipient)
        if user is None or user.quota is None:
            return None
        return await self._ask(user.quota, client.announced_octets)

    async def decide_message(self, message: Incoming) -> Reply | None:
        """Refuse a message that no recipient has room for; if one has, delivery tells what becomes of the others."""
        refusals = []
        for recipient in message.envelope.recipients:
            opinion = await self._opinion(recipient.address, message.octets)
            if opinion is None:
                return None
            refusals.append(opinion)
        return next((refusal for refusal in refusals if refusal.temporary), refusals[0])

    async def _opinion(self, address: str, octets: int) -> Reply | None:
        user = mailbox_of(self._directory, address)
        if user is None:
            return None
        if 0 < user.max_message_octets < octets:
            return mailbox.MESSAGE_TOO_BIG.reply(limit=user.max_message_octets)
        return None if user.quota is None else await self._ask(user.quota, octets)

    async def _ask(self, quota: Quota, octets: int) -> Reply | None:
        room = await asyncio.get_running_loop().run_in_executor(self._threads, _room, quota, octets)
        return refusal(room)


def refusal(room: Room) -> Reply | None:
    """What a sender hears."""
    if room is Room.ENOUGH:
        return None
    return (mailbox.FULL if room is Room.FULL else mailbox.FULL_FOR_NOW).reply()


def mailbox_of(directory: Directory, address: str) -> Mailbox | None:
    """What is known of the mailbox that an address of an envelope, with aliases expanded, stands for."""
    try:
        return directory.sole_mailbox(parse_address(address))
    except AddressError:
        return None


def _room(quota: Quota, octets: int) -> Room:
    """Ask the disk. Raises OSError."""
    now = time.time()
    with open_home(quota) as home:
        if home is not None:
            with locked(home):
                return judge(home, quota, octets, now)
    if not quota.size or octets <= quota.size + quota.slack:
        return Room.ENOUGH  # nothing lies there yet
    return Room.FULL
