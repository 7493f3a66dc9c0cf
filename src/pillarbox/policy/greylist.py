"""Put a stranger's mail off until it is tried again: a mail server does that, most programs that send spam do not.

What is remembered is the network of the client, the sender and the recipient; it is shared by all workers and outlives
a restart.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import Names, Networks, neighbourhood

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.memory import Memory, Notes

_DIGITS = re.compile(r"\d+")


class GreylistSettings(Settings, frozen=True):
    """Greylisting of strangers' mail: `[greylist]`."""

    action: Literal["off", "warn", "tag", "defer"] = "off"
    """Whether mail that was not seen before is put off (450), or would be."""
    delay_s: Seconds = Seconds(300)
    """How long mail that was not seen before is put off."""
    window_s: Seconds = Seconds(2 * 86400)
    """How long after the first try a later one still counts as the same mail."""
    keep_s: Seconds = Seconds(36 * 86400)
    """How long mail that came through is remembered, from its last time on."""
    trust_after: int = 5
    """After so many mails came through from one network, a /24 of IPv4 or a /64 of IPv6, its mail is put off no more; 0
    for never."""
    allow_networks: tuple[str, ...] = ()
    """Clients in these networks are not put off."""
    allow_senders: tuple[str, ...] = ()
    """Mail of these senders is not put off: addresses, domains such as "example.org", or "*.example.org" for all below it."""
    allow_recipients: tuple[str, ...] = ()
    """Mail for these recipients is not put off; written like `allow_senders`."""


class Greylist:
    """Remember what was seen, and put off what was not."""

    def __init__(self, settings: GreylistSettings, memory: Memory) -> None:
        """Remember it in `memory`. Raises ValueError if a network is not well formed."""
        self.action = Action(settings.action)
        self._settings = settings
        self._memory = memory
        self._networks = Networks(settings.allow_networks)
        self._senders, self._recipients = Names(settings.allow_senders), Names(settings.allow_recipients)

    async def decide_rcpt(self, client: Client, sender: Address | None, recipient: Address) -> Reply | None:
        """Put a recipient off unless this mail is known."""
        to, reverse_path = str(recipient).lower(), "" if sender is None else str(sender).lower()
        if not client.stranger or self._networks.holds(client.address) or self._recipients.holds(to):
            return None
        if reverse_path and self._senders.holds(reverse_path):
            return None
        network = neighbourhood(client.address)
        # lists number their messages in the sender address, and each would be a new one
        mail = f"grey {network} {_DIGITS.sub('#', reverse_path)} {to}"
        wait_s = await self._memory.ask(lambda notes: self._meet(notes, mail, f"grey {network}"))
        return policy.GREYLISTED.reply(seconds=math.ceil(wait_s)) if wait_s else None

    def _meet(self, notes: Notes, mail: str, network: str) -> float:
        """How long this mail still has to wait. A note's mark is its first time, its number how often it came through."""
        settings = self._settings
        trusted, seen = notes.get(network), notes.get(mail)
        passed = trusted.number if trusted is not None else 0
        if settings.trust_after and passed >= settings.trust_after:
            notes.put(network, notes.now, passed, settings.keep_s)
            return 0.0
        if seen is None:
            notes.put(mail, notes.now, 0, settings.window_s)
            return settings.delay_s
        wait_s = seen.mark + settings.delay_s - notes.now
        if not seen.number:
            if wait_s > 0:
                return wait_s
            notes.put(network, notes.now, passed + 1, settings.keep_s)
        notes.put(mail, seen.mark, seen.number + 1, settings.keep_s)
        return 0.0
