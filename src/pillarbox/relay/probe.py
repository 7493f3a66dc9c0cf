"""Ask a host whether it would take mail for an address, without sending any.

What follows from the answer is the business of `policy.next_hop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.relay.connection import LinkError
from pillarbox.relay.session import Opener
from pillarbox.smtp.client import mail_command, rcpt_command

if TYPE_CHECKING:
    from pillarbox.relay.destination import Destination
    from pillarbox.relay.hosts import Hosts
    from pillarbox.relay.session import Session, SmtpSettings


async def probe(destination: Destination, settings: SmtpSettings, hosts: Hosts, address: str) -> Result:
    """What the first host that can be reached says about `address`, or why none could be asked."""
    opener = Opener(destination.manner, settings, hosts)
    last = Result(delivery.NO_ROUTE.reply(domain=destination.name), Stage.DNS, Origin.LOCAL)
    async for target in destination.targets():
        found = target if isinstance(target, Result) else await opener.open(*target)
        if isinstance(found, Result):
            last = found
            continue
        try:
            return await _ask(found, settings, address)
        except LinkError as error:
            last = Result(error.reply, Stage.RCPT, Origin.LOCAL, found.hop.name)
        finally:
            await found.connection.quit(settings.patience.quit_s)
    return last


async def _ask(session: Session, settings: SmtpSettings, address: str) -> Result:
    """MAIL with the null reverse-path, as a report would have it, and RCPT. Raises LinkError."""
    envelope = Envelope("", (Recipient(address),))
    commands = (
        (Stage.MAIL, mail_command(envelope, 0, session.extensions)),
        (Stage.RCPT, rcpt_command(envelope.recipients[0], session.extensions)),
    )
    result = None
    for stage, command in commands:
        replies = await session.connection.ask(command, 1, settings.patience.command_s, stage.value.upper())
        result = Result(replies[0], stage, Origin.PEER, session.hop.name)
        if not result.reply.positive:
            break
    assert result is not None  # there are commands
    return result
