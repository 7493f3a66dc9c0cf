"""Refuse clients in the greeting; greet strangers slowly, and refuse those that do not wait for its end.

What has to wait for an answer before a client is greeted is the business of the checks that look at it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy, session
from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.hooks import Action
from pillarbox.policy.rules import Role

if TYPE_CHECKING:
    from pillarbox.inbound.desk import Desk
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client, Hooks
    from pillarbox.smtp.profile import Profile
    from pillarbox.smtp.server import ServerSession


_NO_MAIL = Role.NO_MAIL  # asked about for each client, and to name it costs a call before Python 3.12


class GreetSettings(Settings, frozen=True):
    """How strangers are greeted: `[greet]`."""

    delay_s: Seconds = Seconds(0)
    """How long the last line of the greeting is kept back from strangers; a first line comes at once."""
    early_talker: Action = Action.REJECT
    """What to do with clients that speak before the end of a greeting that is kept back (554)."""
    strict_pipelining: bool = False
    """Refuse clients of `mx` listeners that send on where they have to wait for an answer (554)."""


def refuse_at_once(
    desk: Desk, address: str, transport: asyncio.BaseTransport, *, presented: bool = False
) -> Reply | None:
    """Why a client is not served, as far as that is known without waiting. One presented by XCLIENT needs no place."""
    say, connections = desk.profile.say, desk.connections
    if desk.role is _NO_MAIL:
        return say(session.NO_MAIL_HERE)
    if desk.rules.denies(address):
        return say(session.CLIENT_DENIED)
    if desk.implicit_tls and desk.tls is not None:
        objection = desk.tls.objection(transport.get_extra_info("ssl_object"))
        if objection is not None:
            return objection.reply()
    if connections.draining:
        return say(session.SHUTDOWN)
    if connections.full and not presented:
        return say(session.TOO_MANY_CONNECTIONS)
    if connections.crowded(address):
        return say(session.TOO_MANY_FROM_ADDRESS)
    return None


class SlowGreeting:
    """The greeting of one listener."""

    def __init__(self, settings: GreetSettings, profile: Profile, hooks: Hooks) -> None:
        """Prepare the first line."""
        self._settings = settings
        self._hooks = hooks
        first, end, _ = profile.say(session.SLOW_GREETING).wire.partition(b"\n")
        self._teaser = first + end

    async def give(
        self, transport: asyncio.WriteTransport, current: ServerSession, client: Client, warned: list[str]
    ) -> Reply | None:
        """Send the first line, and look whether the client waits for the last: the refusal if it does not."""
        transport.write(self._teaser)
        await asyncio.sleep(self._settings.delay_s)
        action = self._settings.early_talker
        if not current.waiting_octets or action is Action.OFF:
            return None
        return self._hooks.judge(policy.EARLY_TALKER.reply(), action, "decide_connect", (client,), warned)
