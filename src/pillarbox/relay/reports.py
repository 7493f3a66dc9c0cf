"""Read the mail of an address that reports go to, and keep what they say (`reports:`).

What a report looks like is the business of `mailauth.report_mail`. What can't be read is kept as it came: whoever sent
it could do nothing about a bounce.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import apsw

from pillarbox import observe
from pillarbox.mail.catalogue import delivery
from pillarbox.mailauth.aggregate import ReportError
from pillarbox.mailauth.report_mail import read_reports
from pillarbox.policy.report_store import Kept, Reports, received
from pillarbox.policy.shared_file import FileFullError
from pillarbox.queue.spool import format_id
from pillarbox.relay.final import content_of, here

if TYPE_CHECKING:
    from pillarbox.mail.reply import Result
    from pillarbox.policy.report_store import ReportStore
    from pillarbox.queue.spool import Content, Pending, Queued

_MAX_OCTETS = 32 << 20
_KEPT_OCTETS = 262_144  # of a mail that can't be read


class ReportReader:
    """One final delivery that ends in the store of reports."""

    def __init__(self, store: ReportStore) -> None:
        self._store = store

    async def deliver(self, queued: Queued, pending: Pending) -> Result:  # noqa: ARG002 - as final deliveries are called
        """Read and keep; the same mail twice is kept once."""
        sender, queue_id = queued.envelope.sender, format_id(queued.id)
        try:
            found = await asyncio.to_thread(
                _read, content_of(queued), queue_id, f"from <{sender}>, {queue_id}"
            )
            for one in found:
                fresh = await self._store.ask(partial(Reports.keep, report=one))
                if one.kind == "unreadable":
                    observe.REPORT_UNREADABLE.note(message=queue_id, problem=one.note)
                elif fresh:
                    observe.REPORT_READ.note(kind=one.kind, organization=one.organization, domain=one.domain)
        except (OSError, apsw.Error, FileFullError) as error:
            return here(delivery.MAILBOX_FAILED.reply(detail=f"the store of reports: {error}"))
        if found[0].kind == "unreadable":
            return here(delivery.DELIVERED.reply(detail=f"Kept, but it is no report: {found[0].note}"))
        return here(delivery.DELIVERED.reply(detail="Read and kept"))


def _read(content: Content, queue_id: str, note: str) -> list[Kept]:
    """What is to be kept. Raises OSError if the body can't be read."""
    now = time.time()
    if content.octets > _MAX_OCTETS:
        return [_unreadable(content.head(), queue_id, f"{note}: more than {_MAX_OCTETS} octets", now)]
    octets = b"".join(content.chunks())
    try:
        return [received(one, at=now, note=note) for one in read_reports(octets)]
    except ReportError as error:
        return [_unreadable(octets, queue_id, f"{note}: {error}", now)]


def _unreadable(octets: bytes, queue_id: str, note: str, now: float) -> Kept:
    day = int(now)
    return Kept(0, "in", "unreadable", "", "", queue_id, day, day, now, 0, 0, note, octets[:_KEPT_OCTETS])
