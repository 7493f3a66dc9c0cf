"""Refuse messages whose form is against RFC 5322: no author, two of them, lines that are too long.

Line ends and NUL octets are looked at for every message, in `smtp.body`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.policy.hooks import Action

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Incoming

MAX_LINE_OCTETS = 998  # RFC 5322 2.1.1
_LONG_LINE = re.compile(rb"[^\r\n]{999}")


class MessageSettings(Settings, frozen=True):
    """What a message must be like: `[message]`."""

    strict: Action = Action.OFF
    """What to do with a message that has no From field or several, or a line of more than 998 octets (554)."""


class Form:
    """Look at header and lines. A plain function, because a large message is read from the disk."""

    def __init__(self, settings: MessageSettings) -> None:
        """Do what `strict` says."""
        self.action = settings.strict

    def decide_message(self, message: Incoming) -> Reply | None:
        """Refuse a message with a fault."""
        authors = len(message.head.get_all("from", 2))
        if authors != 1:
            return policy.MALFORMED.reply(
                detail="it has more than one From field" if authors else "it has no From field"
            )
        rest = b""
        for piece in message.chunks():
            text = rest + piece
            if _LONG_LINE.search(text):
                return policy.MALFORMED.reply(detail=f"it has a line of more than {MAX_LINE_OCTETS} octets")
            rest = text[-MAX_LINE_OCTETS:]
        return None
