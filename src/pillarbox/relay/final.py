"""Give a message the form in which it leaves the world of SMTP (final delivery, RFC 5321 4.4), and run one such way out.

Where the octets then go is the business of `maildir`, `pipe`, `webhook` and `handler`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from pillarbox import observe
from pillarbox.mail import message
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Body
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.mail.since import without_fields
from pillarbox.queue.spool import format_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pillarbox.queue.spool import Content, Pending, Queued


class FinalDelivery(Protocol):
    """One way out on this host."""

    async def deliver(self, queued: Queued, pending: Pending) -> Result:
        """Deliver the copy for one recipient. What it raises is a bug."""


def here(reply: Reply, wait_s: float = 0.0) -> Result:
    """The result of a delivery on this host."""
    return Result(reply, Stage.LOCAL, Origin.LOCAL, wait_s=wait_s)


class FinalCourier:
    """Carries messages along one `FinalDelivery`, recipient after recipient."""

    def __init__(self, way: FinalDelivery) -> None:
        self._way = way

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        """Try each pending recipient once; the keys are their numbers. Never raises."""
        if any(one.valid_since is not None for one in queued.envelope.recipients):
            queued = await asyncio.to_thread(_without_demand, queued)
        return {pending.number: await self._attempt(queued, pending) for pending in queued.pending}

    async def close(self) -> None:
        """Nothing is held by a single courier."""

    async def _attempt(self, queued: Queued, pending: Pending) -> Result:
        try:
            return await self._way.deliver(queued, pending)
        except Exception as error:  # noqa: BLE001 - the one place for bugs of an attempt: logged with the message's id
            incident = observe.report_incident(
                error, message=format_id(queued.id), recipient=pending.recipient.address
            )
            return here(delivery.INTERNAL_ERROR.reply(incident=incident))


def _without_demand(queued: Queued) -> Queued:
    """The message without the fields that say since when the sender knows its recipients: they have done their work.

    One that can't be read stays as it is, for the attempt to find out.
    """
    content = content_of(queued)
    try:
        start = content.head(message.MAX_HEAD_OCTETS)
    except OSError:
        return queued
    section = message.scan_head(start).section
    left = without_fields(section)
    if left == section:
        return queued
    moved = len(section) - len(content.prefix)  # octets of the body that are now in front of it
    content = msgspec.structs.replace(
        content,
        prefix=left,
        inline=None if content.inline is None else content.inline[moved:],
        body_octets=content.body_octets - moved,
        skipped=moved,
    )
    return replace(queued, content=content)


def content_of(queued: Queued) -> Content:
    """The octets of a message that is being delivered: the manager has loaded them."""
    assert queued.content is not None
    return queued.content


def is_junk(queued: Queued) -> bool:
    """Whether this server took a message with suspicion: its mark stands among the fields that we put in front."""
    return message.JUNK_FIELD in content_of(queued).prefix


def final_fields(queued: Queued, pending: Pending) -> bytes:
    """The fields in front of a copy: the reverse-path and the address it was for, CRLF line ends."""
    return message.return_path(queued.envelope.sender) + message.delivered_to(pending.recipient.address)


def final_form(queued: Queued, pending: Pending) -> Iterator[bytes]:
    """The copy for one recipient with the line ends of this system, in pieces. Raises OSError.

    Content that was sent as binary keeps every octet (RFC 3030 3).
    """
    fields, content = final_fields(queued, pending), content_of(queued)
    if queued.envelope.body == Body.BINARY:
        yield fields
        yield from content.chunks()
    elif content.path is None:
        yield b"".join((fields, *content.chunks())).replace(b"\r\n", b"\n")
    else:
        yield fields.replace(b"\r\n", b"\n")
        yield from with_bare_newlines(content.chunks())


def with_bare_newlines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Turn CRLF into LF, also where a piece ends between the two."""
    held = b""
    for piece in pieces:
        whole = held + piece
        held = b"\r" if whole.endswith(b"\r") else b""
        yield (whole[:-1] if held else whole).replace(b"\r\n", b"\n")
    if held:
        yield held
