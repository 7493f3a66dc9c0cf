"""Decide what follows from a reply: at once, within the attempt (`action`), and for the queue (`settle`).

The decisions are the table `ROWS`: the first row that fits counts, and only rows decide. The times between attempts are
`queue.schedule`'s, the wording of reports `mail.dsn`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, Flag, auto
from functools import lru_cache

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Notify
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.queue.schedule import RetrySettings, retry_delay_s
from pillarbox.queue.spool import State


class Action(Enum):
    """What the attempt itself can do about a reply."""

    OK = auto()
    RETRY = auto()  # nothing more now: it stays in the queue
    BOUNCE = auto()  # nothing more ever
    NEXT_HOST = auto()  # the next host in the order, at once
    RECONNECT = auto()  # the same host, on a new connection, once
    SPLIT = auto()  # end this transaction, then the rest of the recipients in another
    STRIP = auto()  # the same again without the parameters that can be left out
    HELO = auto()  # greet without extensions
    IN_CLEAR = auto()  # go on without TLS
    OTHER_LOGIN = auto()  # another mechanism
    OTHER_FAMILY = auto()  # the same host by its address of the other family, once


class Fact(Flag):
    """What the attempt knows when it asks; a row may need some of these, or that some are absent."""

    NOTHING = 0
    ACCEPTED = auto()  # the host took another recipient in this transaction
    HINTS = auto()  # parameters were sent that can be left out
    EXTENDED = auto()  # the greeting was EHLO or LHLO
    TLS_REQUIRED = auto()
    RECONNECTED = auto()  # the connection is already a second try
    OTHER_FAMILY_LEFT = auto()  # connected by IPv6, and the host has IPv4 addresses


class Step(Enum):
    """What the queue does when the attempt can do nothing more."""

    DELIVERED = auto()
    RETRY = auto()
    BOUNCE = auto()


class Pace(Enum):
    """How soon the next attempt is due."""

    NORMAL = auto()
    GREYLIST = auto()  # soon, or when the text says
    SLOW = auto()  # at the longest interval at once


class Report(Enum):
    """What the sender is told, by `mail.dsn`."""

    NONE = auto()
    FAILURE = auto()
    DELAY = auto()
    SUCCESS = auto()
    RELAYED = auto()  # handed to a host that does not report by itself (RFC 3461 5.2.2)


@dataclass(frozen=True, slots=True)
class History:
    """What came before the attempt that is settled: `attempts` counts the earlier ones."""

    attempts: int
    received_at: float
    delay_notified: bool
    sender: str
    notify: Notify


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a recipient. `due` counts only while the state is QUEUED.

    `suspend_s` asks to leave the whole destination alone for so long, `alarm` to tell the operator.
    """

    state: State
    due: float
    report: Report
    delay_notified: bool
    result: Result
    suspend_s: float = 0.0
    alarm: str = ""
    maybe_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. In `codes` and `statuses`, x is any digit or number and - is "no status"; "" is all."""

    stages: tuple[Stage, ...]
    codes: str
    action: Action
    step: Step
    statuses: str = ""
    words: re.Pattern[str] | None = None
    needs: Fact = Fact.NOTHING
    lacks: Fact = Fact.NOTHING
    pace: Pace = Pace.NORMAL
    patience: int = 0  # so many attempts are still retried although the step is BOUNCE
    suspend_s: float = 0.0
    alarm: bool = False


GREYLISTED = re.compile(r"gr[ae]y-?list|try (?:again )?(?:later )?in \d|come back later", re.IGNORECASE)
BLOCKLISTED = re.compile(
    r"spamhaus|spamcop|barracudacentral|dnsbl|\brbl\b|block[ -]?list|black[ -]?list|blocked using|poor reputation"
    r"|reputation of the sending|banned sending",
    re.IGNORECASE,
)
OPEN_RESOLVER = re.compile(r"error: open resolver", re.IGNORECASE)
ABOUT_IPV6 = re.compile(r"ipv6|\bptr\b|reverse dns", re.IGNORECASE)
_WAIT = re.compile(r"(?:in|for|after) (\d{1,5}) ?(s|m|h)", re.IGNORECASE)

_HOUR_S = 3600.0
_RELAY_HOLD_S = 600.0
_ENVELOPE = (Stage.MAIL, Stage.RCPT)
_HOST = (Stage.GREETING, Stage.HELLO)
_COMMANDS = (Stage.MAIL, Stage.RCPT, Stage.DATA)
_CONTENT = (Stage.DATA, Stage.BODY, Stage.BDAT)
_ALL = tuple(Stage)
_A, _S, _F = Action, Step, Fact

ROWS: tuple[Row, ...] = (
    Row(_ALL, "2xx", _A.OK, _S.DELIVERED),
    # DNS and the connection
    Row((Stage.DNS,), "4xx", _A.NEXT_HOST, _S.RETRY),
    Row((Stage.DNS,), "5xx", _A.NEXT_HOST, _S.BOUNCE),
    Row((Stage.CONNECT,), "", _A.NEXT_HOST, _S.RETRY),
    # The receiver's own look-up in a block list is refused: not our fault, and it will be repaired.
    Row((*_HOST, *_ENVELOPE, *_CONTENT), "5xx", _A.NEXT_HOST, _S.RETRY, words=OPEN_RESOLVER),
    # Greeting
    Row((Stage.GREETING,), "5xx", _A.BOUNCE, _S.BOUNCE, statuses="x.4.6"),
    Row((Stage.GREETING,), "4xx", _A.NEXT_HOST, _S.RETRY),
    Row(
        _HOST,
        "5xx",
        _A.NEXT_HOST,
        _S.BOUNCE,
        words=BLOCKLISTED,
        patience=2,
        suspend_s=2 * _HOUR_S,
        alarm=True,
    ),
    Row((Stage.GREETING,), "521", _A.NEXT_HOST, _S.BOUNCE, statuses="- x.0.0 x.3.x"),
    Row((Stage.GREETING,), "5xx", _A.NEXT_HOST, _S.BOUNCE, patience=2),
    # EHLO, HELO, LHLO
    Row((Stage.HELLO,), "500 501 502 504 550", _A.HELO, _S.BOUNCE, needs=_F.EXTENDED, lacks=_F.TLS_REQUIRED),
    Row((Stage.HELLO,), "4xx", _A.NEXT_HOST, _S.RETRY),
    Row((Stage.HELLO,), "5xx", _A.NEXT_HOST, _S.RETRY, needs=_F.TLS_REQUIRED),
    Row((Stage.HELLO,), "5xx", _A.NEXT_HOST, _S.BOUNCE, patience=2),
    # TLS
    Row((Stage.STARTTLS, Stage.TLS), "", _A.NEXT_HOST, _S.RETRY, needs=_F.TLS_REQUIRED),
    Row((Stage.STARTTLS,), "421", _A.NEXT_HOST, _S.RETRY),
    Row((Stage.STARTTLS,), "", _A.IN_CLEAR, _S.RETRY),
    Row((Stage.TLS,), "", _A.RECONNECT, _S.RETRY),
    # AUTH: the fault is ours or the relay's, never the message's
    Row((Stage.AUTH,), "4xx", _A.NEXT_HOST, _S.RETRY),
    Row((Stage.AUTH,), "5xx", _A.OTHER_LOGIN, _S.RETRY, suspend_s=_RELAY_HOLD_S, alarm=True),
    # 421, or a connection lost, ends the session and all that is open in it
    Row(_COMMANDS, "421", _A.NEXT_HOST, _S.RETRY),
    Row(_COMMANDS, "4xx", _A.NEXT_HOST, _S.RETRY, statuses="x.4.2"),
    Row(_COMMANDS, "4xx", _A.NEXT_HOST, _S.RETRY, statuses="x.3.1"),
    # Parameters
    Row(_ENVELOPE, "455 555", _A.STRIP, _S.RETRY, needs=_F.HINTS),
    Row(_ENVELOPE, "501", _A.STRIP, _S.RETRY, statuses="x.5.4", needs=_F.HINTS),
    Row(_ENVELOPE, "555", _A.BOUNCE, _S.BOUNCE),
    Row(_ENVELOPE, "455", _A.RETRY, _S.RETRY),
    # We do not do what the host demands of us
    Row(_ENVELOPE, "530", _A.NEXT_HOST, _S.RETRY, alarm=True),
    Row((*_ENVELOPE, Stage.DATA), "500 503", _A.RECONNECT, _S.BOUNCE, lacks=_F.RECONNECTED, alarm=True),
    Row((Stage.DATA,), "554", _A.RECONNECT, _S.BOUNCE, statuses="x.5.1", lacks=_F.RECONNECTED, alarm=True),
    # Block lists and demands on IPv6 senders: about this server, not about the recipient
    Row(
        (*_ENVELOPE, Stage.DATA),
        "5xx",
        _A.NEXT_HOST,
        _S.BOUNCE,
        words=BLOCKLISTED,
        patience=2,
        suspend_s=2 * _HOUR_S,
        alarm=True,
    ),
    Row(_ENVELOPE, "5xx", _A.OTHER_FAMILY, _S.BOUNCE, statuses="x.7.x", needs=_F.OTHER_FAMILY_LEFT),
    Row(
        _CONTENT,
        "5xx",
        _A.OTHER_FAMILY,
        _S.BOUNCE,
        statuses="x.7.x",
        words=ABOUT_IPV6,
        needs=_F.OTHER_FAMILY_LEFT,
    ),
    # MAIL
    Row((Stage.MAIL,), "4xx", _A.NEXT_HOST, _S.RETRY),
    Row((Stage.MAIL,), "5xx", _A.NEXT_HOST, _S.BOUNCE),
    # RCPT
    Row((Stage.RCPT,), "452 552", _A.SPLIT, _S.RETRY, statuses="-", needs=_F.ACCEPTED),
    Row((Stage.RCPT,), "", _A.SPLIT, _S.RETRY, statuses="x.5.3", needs=_F.ACCEPTED),
    Row((Stage.RCPT,), "4xx", _A.RETRY, _S.RETRY, statuses="x.2.2", pace=Pace.SLOW),
    Row((Stage.RCPT,), "4xx", _A.RETRY, _S.RETRY, statuses="x.7.1", pace=Pace.GREYLIST),
    Row((Stage.RCPT,), "4xx", _A.RETRY, _S.RETRY, words=GREYLISTED, pace=Pace.GREYLIST),
    Row((Stage.RCPT,), "4xx", _A.RETRY, _S.RETRY),
    Row((Stage.RCPT,), "5xx", _A.BOUNCE, _S.BOUNCE),
    # DATA, BDAT, the end of the message
    Row(_CONTENT, "4xx", _A.RETRY, _S.RETRY, statuses="x.2.2", pace=Pace.SLOW),
    Row(_CONTENT, "4xx", _A.RETRY, _S.RETRY, words=GREYLISTED, pace=Pace.GREYLIST),
    # Anything else, by its first digit
    Row(_ALL, "4xx", _A.RETRY, _S.RETRY),
    Row(_ALL, "5xx", _A.BOUNCE, _S.BOUNCE),
    Row(_ALL, "", _A.RETRY, _S.RETRY, alarm=True),
)


def find(stage: Stage, reply: Reply, facts: Fact = Fact.NOTHING) -> Row:
    """The first row of the table that fits."""
    for row in _candidates(stage, reply.code, reply.status):
        if (
            row.needs in facts
            and not row.lacks & facts
            and (row.words is None or row.words.search(reply.text))
        ):
            return row
    raise AssertionError  # the last row fits everything


@lru_cache(maxsize=512)
def _candidates(stage: Stage, code: int, status: str) -> tuple[Row, ...]:
    """The rows that fit by stage, code and status."""
    return tuple(
        row
        for row in ROWS
        if stage in row.stages and _fits(row.codes, str(code)) and _fits(row.statuses, status or "-")
    )


def _fits(patterns: str, value: str) -> bool:
    if not patterns:
        return True
    expressions = (
        re.escape(one).replace("x", "[0-9]" if "." not in one else "[0-9]+") for one in patterns.split()
    )
    return any(re.fullmatch(expression, value) for expression in expressions)


def action(stage: Stage, reply: Reply, facts: Fact = Fact.NOTHING) -> Action:
    """What the attempt does next about a reply."""
    return Action.OK if reply.positive else find(stage, reply, facts).action


def settle(
    result: Result, history: History, retry: RetrySettings, now: float, *, put_off_until: float = 0.0
) -> Verdict:
    """What becomes of a recipient after an attempt.

    Or without one: its destination is left alone until `put_off_until`, because of `result` that another one had.
    """
    if result.reply.positive:
        report = _success_report(result, history)
        return Verdict(State.DELIVERED, 0.0, report, history.delay_notified, result)
    row = find(result.stage, result.reply)
    age_s = now - history.received_at
    untried = put_off_until > 0
    softened = row.step is Step.BOUNCE and (untried or history.attempts < row.patience)
    if (row.step is Step.BOUNCE and not softened) or age_s >= retry.give_up_s:
        wanted = history.sender != "" and history.notify.wants_failure
        report = Report.FAILURE if wanted else Report.NONE
        return Verdict(State.FAILED, 0.0, report, history.delay_notified, result, alarm=_alarm(row, result))
    if untried:  # not sooner than others may be tried; the older it is, the less often it is looked at
        wait_s = max(put_off_until - now, min(max(age_s, retry.first_s), retry.max_s))
    else:
        wait_s = max(
            _wait_s(row.pace, result.reply, history.attempts, retry), min(result.wait_s, retry.max_s)
        )
    # the last attempt comes when the time is up, not long before
    due = min(now + wait_s, max(history.received_at + retry.give_up_s, now + retry.first_s))
    late = age_s >= retry.delay_notice_s and not history.delay_notified
    tell = late and history.sender != "" and history.notify.wants_delay
    return Verdict(
        state=State.QUEUED,
        due=due,
        report=Report.DELAY if tell else Report.NONE,
        delay_notified=history.delay_notified or tell,
        result=result,
        suspend_s=0.0 if untried else row.suspend_s,
        alarm="" if untried else _alarm(row, result),
        maybe_duplicate=result.reply.cause is delivery.IN_DOUBT
        or result.reply.cause is delivery.TOO_FEW_REPLIES,
    )


def _success_report(result: Result, history: History) -> Report:
    if not history.notify.wants_success or not history.sender or result.reports:
        return Report.NONE
    if result.reply.cause is delivery.FORWARDED:
        return Report.NONE  # those it went to are recipients of their own
    final = result.origin is Origin.LOCAL or result.stage is Stage.LOCAL
    return Report.SUCCESS if final else Report.RELAYED


def _wait_s(pace: Pace, reply: Reply, attempts: int, retry: RetrySettings) -> float:
    if pace is Pace.SLOW:
        return retry.max_s
    if pace is Pace.GREYLIST and attempts == 0:
        return _asked_wait_s(reply) or retry.greylist_s
    return retry_delay_s(attempts + 1, retry)


def _asked_wait_s(reply: Reply) -> float:
    """The time that a greylisting host asks for, between one minute and an hour; 0 if it names none."""
    found = _WAIT.search(reply.text)
    if found is None:
        return 0.0
    seconds = int(found[1]) * {"s": 1.0, "m": 60.0, "h": _HOUR_S}[found[2].lower()]
    return min(max(seconds, 60.0), _HOUR_S)


def _alarm(row: Row, result: Result) -> str:
    return f"{result.host or 'a host'} at {result.stage.value}: {result.reply}" if row.alarm else ""
