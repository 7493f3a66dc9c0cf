"""The catalogue: every cause for which this server sends a reply or records an outcome, once.

The causes are grouped by the part of a letter's way that earns them; this module finds them again.
"""

from __future__ import annotations

from pillarbox.mail.catalogue import (
    auth,
    bounds,
    content,
    delivery,
    envelope,
    extensions,
    mailbox,
    origin,
    peers,
    policy,
    session,
    transport,
)
from pillarbox.mail.reply import Cause

MODULES = (
    session,
    bounds,
    auth,
    envelope,
    mailbox,
    extensions,
    peers,
    policy,
    content,
    origin,
    delivery,
    transport,
)

CAUSES: dict[str, Cause] = {
    cause.id: cause for module in MODULES for cause in vars(module).values() if isinstance(cause, Cause)
}


def is_outward(cause: Cause) -> bool:
    """Whether only the sending side notes it, about other hosts: no client ever hears it."""
    return cause.id.startswith(("delivery.", "transport."))


def with_code(code: int) -> list[Cause]:
    """All causes that earn `code`, in the order of the catalogue."""
    return [cause for cause in CAUSES.values() if cause.code == code]


def with_status(status: str) -> list[Cause]:
    """All causes that carry the enhanced status, in the order of the catalogue."""
    return [cause for cause in CAUSES.values() if cause.status == status]
