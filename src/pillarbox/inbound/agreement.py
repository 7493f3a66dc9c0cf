"""Agree with a client on what it asks for a message beyond carrying it: a deadline, a priority, a time to hold it until.

What may be asked for, and by whom, is decided in `policy.terms`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.mail.catalogue import extensions
from pillarbox.mail.reply import Reply
from pillarbox.queue.spool import SpoolError

if TYPE_CHECKING:
    from pillarbox.inbound.desk import Desk
    from pillarbox.mail.envelope import Terms
    from pillarbox.policy.hooks import Client
    from pillarbox.smtp.events import MailParameters


async def agree(desk: Desk, client: Client, parameters: MailParameters) -> Terms | Reply:
    """The terms for a message, or the refusal. A message is held only if the store can be written now (RFC 4865 4)."""
    terms = desk.terms.decide(client, parameters, time.time())
    if isinstance(terms, Reply) or not terms.hold_until:
        return terms
    try:
        await desk.door.check_writable()
    except SpoolError as error:
        observe.SPOOL_TROUBLE.note(session=client.session, problem=str(error))
        return extensions.HOLD_NOT_NOW.reply()
    return terms
