"""Follow the suppression list for one worker: who is returned untried, and what outcomes teach.

The rules are in `queue.suppression`, the rows in `queue.suppressed`; storing outcomes is `queue.manager`'s business.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pillarbox.diagnose.causes import Suppress
from pillarbox.mail.address import AddressError
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.message import format_date
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.queue.records import pack_result
from pillarbox.queue.spool import State
from pillarbox.queue.suppressed import CLEARED, SUPPRESSED
from pillarbox.queue.suppression import (
    Lesson,
    LessonKind,
    Suppressed,
    SuppressionSettings,
    Watch,
    domain_of,
    entry_of,
    is_met_by_others,
    is_sure,
    lesson,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pillarbox.diagnose.bounce import BouncedRecipient
    from pillarbox.queue.outcome import Verdict
    from pillarbox.queue.schedule import Destination
    from pillarbox.queue.spool import Pending, Queued, Spool, Verb

_AT_ONCE = 400  # entries asked for in one question


class Suppressions:
    """What one worker knows of the list. It is empty until `load`, so call that before anything is sent."""

    def __init__(self, spool: Spool, settings: SuppressionSettings) -> None:
        """Nothing is known yet."""
        self._spool = spool
        self._settings = settings
        self._watch = Watch()
        self._loaded = False

    async def load(self) -> None:
        """Read once what the store knows. Raises SpoolError."""
        if not self._loaded and self._settings.enabled:
            self._watch.add(await self._spool.watched())
        self._loaded = True

    def follow(self, verb: Verb) -> bool:
        """Take note of a change that another worker or an operator made; whether the verb was about the list."""
        if verb.verb == SUPPRESSED:
            self._watch.add([verb.destination])
        elif verb.verb == CLEARED:
            self._watch.drop([verb.destination])
        else:
            return False
        return True

    def may_concern(self, queued: Queued) -> bool:
        """Whether the list may have something about a recipient; false at once while it is empty."""
        return (
            bool(self._watch)
            and self._settings.enabled
            and is_met_by_others(queued.pending[0].route.transport)
            and any(self._watch.may_know(one.recipient.address) for one in queued.pending)
        )

    async def refuse(self, queued: Queued) -> dict[int, Result]:
        """The recipients that are suppressed, by number, each with the result that says why. Raises SpoolError."""
        entries = {one.number: _entries(one) for one in queued.pending}
        wanted = list(dict.fromkeys(entry for both in entries.values() for entry in both))
        found: dict[str, Suppressed] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            for one in await self._spool.suppressed(wanted[start : start + _AT_ONCE], time.time()):
                found[one.entry] = one
        refused = {
            number: next((found[e] for e in both if e in found), None) for number, both in entries.items()
        }
        return {number: _result(one) for number, one in refused.items() if one is not None}

    def learn(
        self, queued: Queued, one: Pending, verdict: Verdict, attempted: Destination, now: float
    ) -> list[Lesson]:
        """What an outcome teaches about a recipient's address."""
        if not self._settings.enabled or not is_met_by_others(one.route.transport):
            return []
        address = one.recipient.address
        if verdict.state is State.DELIVERED:
            if not self._watch.may_know(address):
                return []
            return [Lesson(LessonKind.CLEAR, entry, now, message=queued.id) for entry in _entries(one)]
        if verdict.state is not State.FAILED or now < attempted.distrusted_until:
            return []
        found = lesson(
            self._settings,
            verdict.result,
            verdict.diagnosis,
            address=address,
            message=queued.id,
            number=one.number,
            now=now,
        )
        return [found] if found is not None else []

    def learn_from_bounce(
        self, message: int, number: int, address: str, one: BouncedRecipient, now: float
    ) -> list[Lesson]:
        """What a bounce that came back teaches. Whoever got the message could have written it, so it takes several."""
        verdict = one.verdict
        final = one.action == "failed" and (one.reply.permanent or one.status.startswith("5"))
        if not (self._settings.enabled and final and is_sure(verdict)) or verdict.suppress is Suppress.NEVER:
            return []
        try:
            entry = entry_of(address)
        except AddressError:
            return []
        result = Result(one.reply, one.stage or Stage.BODY, Origin.PEER, one.remote_mta)
        settings = self._settings
        return [
            Lesson(
                LessonKind.STRIKE,
                entry,
                now,
                now + settings.repeated_s,
                verdict.cause.id,
                message,
                number,
                pack_result(result),
                repeats=settings.repeats,
                counted_from=now - settings.repeats_within_s,
                returned=True,
            )
        ]

    def note(self, lessons: Iterable[Lesson]) -> None:
        """These were stored. Whether a success left anything behind, the store tells a moment later, by a verb."""
        self._watch.add([one.entry for one in lessons if one.kind is not LessonKind.CLEAR])

    async def forget_old(self, now: float) -> None:
        """Drop what has expired from the store. Raises SpoolError."""
        if self._settings.enabled and self._watch:
            await self._spool.forget_old(now, now - self._settings.repeats_within_s)


def _entries(one: Pending) -> Sequence[str]:
    """How the list would spell the address, and its domain."""
    try:
        entry = entry_of(one.recipient.address)
    except AddressError:
        return ()
    return entry, domain_of(entry)


def _result(one: Suppressed) -> Result:
    """Why a recipient is not tried, and how that is changed."""
    if one.result is not None:
        why = f"{one.result.host or 'a host'} said: {one.result.reply}"
    else:
        why = one.note or "the operator wants it so"
    reply = delivery.SUPPRESSED.reply(entry=one.entry, since=format_date(one.since), why=why)
    return Result(reply, Stage.LOCAL, Origin.LOCAL)
