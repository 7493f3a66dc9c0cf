"""Turn what became of recipients into the one report that their sender gets.

Its text is `mail.dsn`'s; who is told what is `queue.outcome`'s; storing it is `queue.manager`'s.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from pillarbox.mail import dsn
from pillarbox.mail.notice import ReportedRecipient, ReportKind
from pillarbox.queue.outcome import Report
from pillarbox.queue.spool import format_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.mail.envelope import Envelope
    from pillarbox.queue.outcome import Verdict
    from pillarbox.queue.spool import Content, Pending, Queued

_KINDS = {
    Report.FAILURE: ReportKind.FAILED,
    Report.DELAY: ReportKind.DELAYED,
    Report.SUCCESS: ReportKind.DELIVERED,
    Report.RELAYED: ReportKind.RELAYED,
}


def tell(pending: Pending, verdict: Verdict, now: float, give_up_at: float) -> ReportedRecipient:
    """What a report says of one recipient of whose outcome its sender is told."""
    kind = _KINDS[verdict.report]
    until = give_up_at if kind is ReportKind.DELAYED else None
    return ReportedRecipient(pending.recipient, kind, verdict.result, now, until)


async def write(
    queued: Queued, told: Sequence[ReportedRecipient], content: Content | None, *, hostname: str, now: float
) -> tuple[Envelope, bytes]:
    """The report's envelope and octets. A message in a file is read in a thread."""

    def build() -> tuple[Envelope, bytes]:
        return dsn.build(
            hostname=hostname,
            postmaster=f"postmaster@{hostname}",
            envelope=queued.envelope,
            queue_id=format_id(queued.id),
            received_at=queued.received_at,
            now=now,
            message_id=f"<{secrets.token_hex(12)}@{hostname}>",
            recipients=told,
            original=content.chunks() if content is not None else (),
        )

    if content is None or content.path is None:
        return build()
    return await asyncio.to_thread(build)
