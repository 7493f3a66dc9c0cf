"""Keep the deadlines that senders set: what is over is returned, or told of (RFC 2852).

When something is tried is `queue.schedule`'s business, what comes of it that of `queue.outcome`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import ByMode, Notify
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.queue.outcome import Report, Verdict
from pillarbox.queue.spool import State

if TYPE_CHECKING:
    from pillarbox.mail.reply import Cause
    from pillarbox.queue.outcome import History


def keep(verdict: Verdict, history: History, now: float) -> Verdict:
    """What an attempt comes to if the message has a deadline."""
    by = history.by
    if by is None or verdict.state is not State.QUEUED:
        return verdict
    returns = by.mode is ByMode.RETURN
    if now < by.at:
        told = verdict.report is Report.DELAY and not returns  # once is enough
        return replace(verdict, due=min(verdict.due, by.at), deadline_over=told)
    if returns:
        return _too_late(history)
    if history.delay_notified:
        return replace(verdict, deadline_over=True)
    return replace(_notice(history, verdict.due), maybe_duplicate=verdict.maybe_duplicate)


def overdue(history: History, now: float, due: float) -> Verdict | None:
    """What follows from a deadline that is over, without an attempt; None if there is nothing to do.

    `due` is when the next attempt is.
    """
    by = history.by
    if by is None or now < by.at:
        return None
    if by.mode is ByMode.RETURN:
        return _too_late(history)
    if history.delay_notified and due <= now:
        return None  # it is here to be tried
    return _notice(history, max(due, now))


def _too_late(history: History) -> Verdict:
    """It goes back."""
    wanted = history.sender != "" and history.notify.wants_failure
    report = Report.FAILURE if wanted else Report.NONE
    return Verdict(State.FAILED, 0.0, report, history.delay_notified, _result(delivery.TOO_LATE))


def _notice(history: History, due: float) -> Verdict:
    """Its sender is told, whatever NOTIFY says of delays, unless it is NEVER (RFC 2852 4)."""
    tell = not history.delay_notified and history.sender != "" and history.notify is not Notify.NEVER
    return Verdict(
        State.QUEUED,
        due,
        Report.DELAY if tell else Report.NONE,
        delay_notified=True,  # or it is not to be told at all
        result=_result(delivery.DEADLINE_OVER),
        deadline_over=True,
    )


def _result(cause: Cause) -> Result:
    return Result(cause.reply(), Stage.LOCAL, Origin.LOCAL)
