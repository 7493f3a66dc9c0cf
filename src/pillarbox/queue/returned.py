"""Find the message of ours that a bounce is about, and write into its history what came back.

Bounces are read by `diagnose.bounce`; what they say of addresses counts as `queue.suppression` has it. The bounce
itself is delivered to its recipient like all mail.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import TYPE_CHECKING

import msgspec

from pillarbox import observe
from pillarbox.mail.address import AddressError
from pillarbox.mail.verp import parse_verp
from pillarbox.queue.spool import Happening, SpoolError, State, format_id, parse_id
from pillarbox.queue.suppression import entry_of, is_met_by_others

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.diagnose.bounce import Bounce, BouncedRecipient
    from pillarbox.mail.envelope import Envelope
    from pillarbox.queue.sent import Sent, SentRecipient
    from pillarbox.queue.spool import Content, Queued, Spool
    from pillarbox.queue.suppressing import Suppressions
    from pillarbox.queue.suppression import Lesson

_MAX_OCTETS = 1 << 20
_AT_ONCE = 2  # bounces that are read
_MOST_WAITING = 200  # further ones are only delivered
_HEAD_OCTETS = 16_384
_MAX_SHOWN = 500  # characters of a reply
_MESSAGE_ID = re.compile(rb"(?:^|\n)message-id:[ \t]*(?:\r?\n[ \t]+)?(<[^<>\s]{1,250}>)", re.IGNORECASE)
_OUR_ID = re.compile(r"\bby (\S{1,255}) \(Pillarbox\) with \S{1,40} id ([0-9A-Z]{13})\b")


class Clues(msgspec.Struct, frozen=True):
    """What tells which message a bounce is about, the surest first."""

    messages: tuple[int, ...]
    names: tuple[int, ...]
    number: int | None  # of the recipient, if the address that the bounce came to tells it
    senders: frozenset[str]  # who may have sent it: a bounce goes to nobody else


async def names_of(envelope: Envelope, content: Content) -> tuple[int, ...]:
    """The names by which a bounce may call a message, as numbers: its Message-ID, and the id that its sender gave."""
    if content.path is None:
        head = content.head(_HEAD_OCTETS)
    else:
        head = await asyncio.to_thread(content.head, _HEAD_OCTETS)
    found = _MESSAGE_ID.search(head)
    texts = [found[1].decode("utf-8", "surrogateescape")] if found else []
    if envelope.envid:
        texts.append(f"envid {envelope.sender} {envelope.envid}")
    return tuple(map(_name, texts))


def _name(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def clues(bounce: Bounce, envelope: Envelope, hostname: str) -> Clues:
    """What a bounce, which came in this envelope, tells of the message that it is about."""
    messages: list[int] = []
    number = None
    senders = set()
    for recipient in envelope.recipients:
        for address in (recipient.address, recipient.original):
            tagged = parse_verp(address)
            if tagged is not None:
                own, queue_id, number = tagged
                senders.add(own.lower())
                messages += _ids([queue_id])
            elif address:
                senders.add(address.lower())
    traces = bounce.returned.get_all("received") if bounce.returned is not None else []
    found = [match for one in traces for match in _OUR_ID.finditer(one[:2000])]
    messages += _ids([match[2] for match in found if match[1].lower() == hostname.lower()])
    names = [_name(bounce.message_id)] if bounce.message_id else []
    if bounce.envid:
        names += [_name(f"envid {sender} {bounce.envid}") for sender in senders]
    return Clues(tuple(dict.fromkeys(messages)), tuple(names), number, frozenset(senders))


def _ids(texts: Sequence[str]) -> list[int]:
    found = []
    for text in texts:
        try:
            found.append(parse_id(text))
        except ValueError:
            continue
    return found


class Returns:
    """Looks at bounces after they were taken, a few at a time, and never on the event loop."""

    def __init__(self, spool: Spool, suppressions: Suppressions, *, hostname: str) -> None:
        """`hostname` is the one that our trace fields carry."""
        self._spool = spool
        self._suppressions = suppressions
        self._hostname = hostname
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(_AT_ONCE)

    def look_at(self, queued: Queued) -> None:
        """Take note of a message with the null reverse-path that was just stored; its octets are at hand."""
        if queued.content is None or len(self._tasks) >= _MOST_WAITING:
            return
        task = asyncio.get_running_loop().create_task(
            self._look_at(queued.id, queued.envelope, queued.content)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for those that are being looked at."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_at(self, report: int, envelope: Envelope, content: Content) -> None:
        try:
            async with self._turn:
                bounce, found = await asyncio.to_thread(self._read, envelope, content)
                if bounce.tells_of_delivery:
                    await self._note(report, bounce, found)
        except (OSError, SpoolError) as error:  # the message may be delivered and gone already
            observe.SPOOL_TROUBLE.note(message=format_id(report), problem=f"bounce not read: {error}")
        except Exception as error:  # noqa: BLE001 - a bug here must not touch the mail itself
            observe.report_incident(error, message=format_id(report))

    def _read(self, envelope: Envelope, content: Content) -> tuple[Bounce, Clues]:
        octets = b""
        for piece in content.chunks():
            octets += piece
            if len(octets) >= _MAX_OCTETS:
                break
        from pillarbox.diagnose.bounce import read_bounce  # noqa: PLC0415 - many servers never see a bounce

        bounce = read_bounce(octets[:_MAX_OCTETS])
        return bounce, clues(bounce, envelope, self._hostname)

    async def _note(self, report: int, bounce: Bounce, found: Clues) -> None:
        sent = await self._spool.find_sent(found.messages, found.names)
        if sent is None or sent.sender.lower() not in found.senders:
            observe.BOUNCE_UNKNOWN.note(message=format_id(report), host=bounce.reporting_mta)
            return
        now = time.time()
        happenings: list[Happening] = []
        lessons: list[Lesson] = []
        for one in bounce.recipients:
            who = _recipient(sent, one, found.number)
            happenings.append(_happening(sent.message, report, bounce, one, who, now))
            if who is not None and who.state is State.DELIVERED and is_met_by_others(who.route.transport):
                lessons += self._suppressions.learn_from_bounce(
                    sent.message, who.number, who.address, one, now
                )
            observe.BOUNCE_RETURNED.note(
                message=format_id(sent.message),
                recipient=who.address if who is not None else one.address,
                reply=_reply(one),
                cause=one.verdict.cause.id,
                report=format_id(report),
            )
        await self._spool.note(happenings, lessons)
        self._suppressions.note(lessons)


def _recipient(sent: Sent, one: BouncedRecipient, number: int | None) -> SentRecipient | None:
    """Which recipient of the message is meant; None if nothing tells."""
    if number is not None:
        return next((who for who in sent.recipients if who.number == number), None)
    wanted = {_entry(address) for address in (one.original, one.address) if address} - {""}
    named = [who for who in sent.recipients if _entry(who.address) in wanted]
    if named:
        return named[0]
    return sent.recipients[0] if len(sent.recipients) == 1 else None


def _entry(address: str) -> str:
    try:
        return entry_of(address)
    except AddressError:
        return ""


def _reply(one: BouncedRecipient) -> str:
    return str(one.reply) if one.reply.code else f"{one.status} {one.diagnostic}".strip()


def _happening(
    message: int, report: int, bounce: Bounce, one: BouncedRecipient, who: SentRecipient | None, now: float
) -> Happening:
    """What came back, as it stands in the history of the message."""
    detail: dict[str, object] = {
        "action": one.action,
        "address": one.address,
        "reply": _reply(one)[:_MAX_SHOWN],
        "status": one.status,
        "cause": "peer",
        "why": one.verdict.cause.id,
        "meaning": one.verdict.cause.meaning,
        "origin": "peer",
        "host": (one.remote_mta or bounce.reporting_mta)[:255],
        "report": format_id(report),
    }
    return Happening(message, now, "returned", who.number if who is not None else None, detail)
