"""Decide what becomes of a recipient after an attempt: delivered, again at such a time, failed; and who is told.

What a reply means is the table of `queue.decisions`; the times between attempts are `queue.schedule`'s, the wording of
reports `mail.dsn`'s business, and what speaks against an address `queue.suppression`'s.
"""

from __future__ import annotations

from enum import Enum, auto

import msgspec
from msgspec.structs import replace

from pillarbox.diagnose import causes
from pillarbox.diagnose.classify import Certainty, asked_wait_s
from pillarbox.diagnose.classify import Verdict as Diagnosis
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Deadline, Notify
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.queue.decisions import Pace, Row, Scope, Step, diagnose, find
from pillarbox.queue.schedule import RetrySettings, retry_delay_s
from pillarbox.queue.spool import State

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


class Report(Enum):
    """What the sender is told, by `mail.dsn`."""

    NONE = auto()
    FAILURE = auto()
    DELAY = auto()
    SUCCESS = auto()
    RELAYED = auto()  # handed to a host that does not report by itself (RFC 3461 5.2.2)


class History(msgspec.Struct, frozen=True):
    """What came before the attempt that is settled: `attempts` counts the earlier ones."""

    attempts: int
    received_at: float
    delay_notified: bool
    sender: str
    notify: Notify
    by: Deadline | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a recipient. `due` counts only while the state is QUEUED.

    `suspend_s` asks to leave the whole destination alone for so long; `alarm` is what to tell the operator, when it
    happened `alarm_after` times, and `alarm_key` what makes two alarms the same.
    """

    state: State
    due: float
    report: Report
    delay_notified: bool
    result: Result
    suspend_s: float = 0.0
    alarm: str = ""
    alarm_key: str = ""
    alarm_after: int = 1
    maybe_duplicate: bool = False
    diagnosis: Diagnosis | None = None  # of a peer's refusal
    deadline_over: bool = False  # what the deadline of the message asks for is done

    @property
    def cause_id(self) -> str:
        """The stable cause id: of a peer's refusal what it was found to mean, "peer" if nothing can be told."""
        if self.diagnosis is None or self.diagnosis.certainty is Certainty.UNKNOWN:
            return self.result.reply.cause_id
        return self.diagnosis.cause.id


def settle(result: Result, history: History, retry: RetrySettings, now: float) -> Verdict:
    """What becomes of a recipient after an attempt, or without one, while the hosts are left alone."""
    if result.reply.positive:
        report = _success_report(result, history)
        verdict = Verdict(State.DELIVERED, 0.0, report, history.delay_notified, result)
        if result.reply.status[:1] in ("", "2"):
            return verdict
        doubt = f"{result.host} took it and yet says that it will not deliver it: {result.reply}"
        return replace(verdict, alarm=doubt, alarm_key=f"accepted {result.host}")
    row = find(result.stage, result.reply, host=result.host)
    diagnosis = diagnose(result.stage, result.reply, result.host)
    age_s = now - history.received_at
    softened = row.step is Step.BOUNCE and history.attempts < row.patience
    alarm = f"{result.host or 'a host'} at {result.stage}: {result.reply}" if row.alarm_after else ""
    verdict = Verdict(
        State.FAILED,
        0.0,
        Report.NONE,
        history.delay_notified,
        result,
        alarm=alarm,
        alarm_key=_alarm_key(row, result, diagnosis),
        alarm_after=row.alarm_after,
        diagnosis=diagnosis,
    )
    if (row.step is Step.BOUNCE and not softened) or age_s >= retry.give_up_s:
        wanted = history.sender != "" and history.notify.wants_failure
        return replace(verdict, report=Report.FAILURE if wanted else Report.NONE)
    if result.untried:  # not sooner than others may be tried; the older it is, the less often it is looked at
        wait_s = max(result.wait_s, min(max(age_s, retry.first_s), retry.max_s))
    else:
        paced_s = _wait_s(row.pace, result.reply, diagnosis, history.attempts, retry)
        wait_s = max(paced_s, min(result.wait_s, retry.max_s))
    # the last attempt comes when the time is up, not long before
    due = min(now + wait_s, max(history.received_at + retry.give_up_s, now + retry.first_s))
    late = age_s >= retry.delay_notice_s and not history.delay_notified
    tell = late and history.sender != "" and history.notify.wants_delay
    return replace(
        verdict,
        state=State.QUEUED,
        due=due,
        report=Report.DELAY if tell else Report.NONE,
        delay_notified=history.delay_notified or tell,
        suspend_s=_suspension_s(row, result, diagnosis),
        maybe_duplicate=result.reply.cause in (delivery.IN_DOUBT, delivery.TOO_FEW_REPLIES),
    )


def _suspension_s(row: Row, result: Result, diagnosis: Diagnosis | None) -> float:
    """How long the whole destination is left alone: only for what concerns all that is sent there."""
    if not row.suspend_s or row.scope not in (Scope.DESTINATION, Scope.RELAY):
        return 0.0
    if diagnosis is None:
        return max(row.suspend_s, result.wait_s)
    if diagnosis.scope in (causes.Scope.RECIPIENT, causes.Scope.SENDER, causes.Scope.MESSAGE):
        return 0.0
    return max(row.suspend_s, result.wait_s, diagnosis.wait_s)


def _alarm_key(row: Row, result: Result, diagnosis: Diagnosis | None) -> str:
    """The cause, and where the fault may be one host's, the host: an operator hears once an hour of each."""
    cause = diagnosis.cause.id if diagnosis is not None else result.reply.cause_id
    return f"{cause} {result.host}" if row.scope in (Scope.HOST, Scope.RELAY) else cause


def _success_report(result: Result, history: History) -> Report:
    traced = history.by is not None and history.by.trace and history.notify is not Notify.NEVER
    if not (history.notify.wants_success or traced) or not history.sender or result.reports:
        return Report.NONE
    if result.reply.cause is delivery.FORWARDED:
        return Report.NONE  # those it went to are recipients of their own
    final = result.origin is Origin.LOCAL or result.stage is Stage.LOCAL
    return Report.SUCCESS if final else Report.RELAYED


def _wait_s(
    pace: Pace, reply: Reply, diagnosis: Diagnosis | None, attempts: int, retry: RetrySettings
) -> float:
    if pace is Pace.SLOW:
        return retry.max_s
    if pace is Pace.GREYLIST and attempts == 0:
        return min(asked_wait_s(reply.text), _HOUR_S) or retry.greylist_s
    usual_s = retry_delay_s(attempts + 1, retry)
    if pace is not Pace.CAUSE or diagnosis is None:
        return usual_s
    if diagnosis.retry is causes.Retry.ONCE:
        return max(usual_s, diagnosis.wait_s or _DAY_S)
    return max(usual_s, min(diagnosis.wait_s, _DAY_S))


def implied_status(result: Result) -> str:
    """The enhanced status, without its class, that a report gives a reply that came without one; "" if none is sure."""
    return _IMPLIED.get((result.stage, result.reply.code), "") if not result.reply.status else ""


_IMPLIED = {
    (Stage.GREETING, 521): "3.2",  # RFC 7504 3
    (Stage.RCPT, 556): "1.10",  # RFC 7504 4
    (Stage.MAIL, 555): "5.4",
    (Stage.RCPT, 555): "5.4",
    (Stage.MAIL, 552): "3.4",  # RFC 1870 6
}
