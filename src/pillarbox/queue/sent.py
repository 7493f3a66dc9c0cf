"""What the store tells of a message that was sent, to whom a bounce about it is compared.

Finding it is `queue.reader`'s, what follows `queue.returned`'s business.
"""

from __future__ import annotations

import msgspec

from pillarbox.mail.route import Route
from pillarbox.queue.spool import State


class SentRecipient(msgspec.Struct, frozen=True):
    """One recipient of a message that was sent."""

    number: int
    address: str
    state: State
    route: Route


class Sent(msgspec.Struct, frozen=True):
    """A message that was sent, as far as a bounce can be about it."""

    message: int
    sender: str
    recipients: tuple[SentRecipient, ...]
