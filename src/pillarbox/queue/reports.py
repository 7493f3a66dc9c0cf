"""Turn what became of recipients into the one report that their sender gets.

Its text is `mail.dsn`'s; who is told what is `queue.outcome`'s; storing it is `queue.manager`'s.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.diagnose.classify import Certainty
from pillarbox.mail import dsn
from pillarbox.mail.notice import Reason, ReportedRecipient, ReportKind
from pillarbox.mail.reply import Who
from pillarbox.queue.outcome import Report, implied_status
from pillarbox.queue.spool import Happening, format_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pillarbox.diagnose.classify import Verdict as Diagnosis
    from pillarbox.mail.envelope import Envelope
    from pillarbox.queue.outcome import Verdict
    from pillarbox.queue.spool import Content, Pending, Queued

_MANY = 100  # recipients; so many take about half a millisecond
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
    return ReportedRecipient(
        pending.recipient,
        kind,
        verdict.result,
        now,
        until,
        cause=verdict.cause_id,
        reason=_reason(verdict.diagnosis),
        detail=implied_status(verdict.result),
    )


def _reason(diagnosis: Diagnosis | None) -> Reason | None:
    """What a peer's refusal means, if its words or its status say so; a guess only if it lays no blame on anybody."""
    if diagnosis is None:
        return None
    cause, certainty = diagnosis.cause, diagnosis.certainty
    harmless = certainty is Certainty.GUESS and cause.who is Who.NOBODY
    if not harmless and certainty not in (Certainty.PATTERN, Certainty.STATUS):
        return None
    return Reason(cause.meaning, cause.who, cause.advice)


def made(queued: Queued, told: Sequence[ReportedRecipient], report: int, now: float) -> list[Happening]:
    """What the histories of a message and of the report about it say of each other."""
    about, name, kind = format_id(queued.id), format_id(report), told[0].kind.value
    sent: dict[str, object] = {"note": f"The sender is told ({kind}) by {name}.", "report": name}
    source: dict[str, object] = {"note": f"It reports ({kind}) of {about}.", "about": about}
    return [
        Happening(queued.id, now, "reported", None, sent),
        Happening(report, now, "reports", None, source),
    ]


def not_made(queued: Queued, told: Sequence[ReportedRecipient], now: float) -> list[Happening]:
    """What the history of a message says when its sender can't be told."""
    note = f"The sender can't be told ({told[0].kind.value}): there is no way to <{queued.envelope.sender}>."
    return [Happening(queued.id, now, "unreported", None, {"note": note})]


async def write(
    queued: Queued, told: Sequence[ReportedRecipient], content: Content | None, *, hostname: str, now: float
) -> tuple[Envelope, bytes]:
    """The report's envelope and octets. A message that can't be read is told of without being shown.

    What takes long, a message in a file or very many recipients, is done in a thread.
    """

    def build(original: Iterable[bytes]) -> tuple[Envelope, bytes]:
        return dsn.build(
            hostname=hostname,
            postmaster=f"postmaster@{hostname}",
            envelope=queued.envelope,
            queue_id=format_id(queued.id),
            received_at=queued.received_at,
            now=now,
            message_id=f"<{secrets.token_hex(12)}@{hostname}>",
            recipients=told,
            original=original,
        )

    def build_with_what_is_there() -> tuple[Envelope, bytes]:
        if content is not None:
            try:
                return build(content.chunks())
            except OSError as error:
                problem = f"the message cannot be read, its report goes out without it: {error}"
                observe.SPOOL_TROUBLE.note(message=format_id(queued.id), problem=problem)
        return build(())

    if len(told) > _MANY or (content is not None and content.path is not None):
        return await asyncio.to_thread(build_with_what_is_there)
    return build_with_what_is_there()
