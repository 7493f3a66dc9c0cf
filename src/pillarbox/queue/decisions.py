"""The decision table: what follows from a reply, at its stage, given what is known.

The first row that fits counts, and only rows decide. What a peer's reply is about is told by `diagnose.classify`; what
becomes of a recipient in the end is `queue.outcome`'s business.
"""

from __future__ import annotations

import re
from enum import Enum, Flag, StrEnum, auto
from functools import lru_cache

import msgspec

from pillarbox.diagnose.causes import Category, Retry
from pillarbox.diagnose.classify import Verdict, classify
from pillarbox.mail.catalogue import delivery, transport
from pillarbox.mail.reply import Cause, Reply, Stage


class Action(Enum):
    """What the attempt itself can do about a reply."""

    OK = auto()
    RETRY = auto()  # nothing more now: it stays in the queue
    BOUNCE = auto()  # nothing more ever
    NEXT_HOST = auto()  # the next host in the order, at once
    LARGER_HOST = auto()  # the next host that does not announce the same limit of size
    RECONNECT = auto()  # the same host, on a new connection, once
    ENCRYPT = auto()  # the same host, on a new connection and under TLS, once
    SPLIT = auto()  # end this transaction, then the rest of the recipients in another
    SINGLY = auto()  # again to the same host, each recipient in a transaction of its own
    STRIP = auto()  # the same again without the parameters that can be left out
    HELO = auto()  # greet without extensions
    IN_CLEAR = auto()  # go on without TLS
    OTHER_LOGIN = auto()  # another mechanism
    OTHER_FAMILY = auto()  # the same host by its address of the other family, once


class Fact(Flag):
    """What the attempt knows when it asks; a row may need some of these, or that some are absent."""

    NOTHING = 0
    ACCEPTED = auto()  # the host took a recipient before this one in the same transaction
    HINTS = auto()  # parameters were sent that can be left out
    EXTENDED = auto()  # the greeting was EHLO or LHLO
    TLS_REQUIRED = auto()
    IN_CLEAR = auto()  # the session is in clear, although the host offers TLS
    RECONNECTED = auto()  # the connection is already a second try
    OTHER_FAMILY_LEFT = auto()  # connected by IPv6, and the host has IPv4 addresses
    ONE_NAMED = auto()  # the reply to the message of several recipients names one of them


class Step(Enum):
    """What the queue does when the attempt can do nothing more."""

    DELIVERED = auto()
    RETRY = auto()
    BOUNCE = auto()


class Scope(StrEnum):
    """What a decision is about: what else would fare the same, and what a suspension leaves alone."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    DESTINATION = "destination"
    RELAY = "relay"  # a host that is logged in to: its whole route


class Pace(Enum):
    """How soon the next attempt is due."""

    NORMAL = auto()
    GREYLIST = auto()  # soon, or when the text says
    SLOW = auto()  # at the longest interval at once
    CAUSE = auto()  # as the list of causes says, if that is later


class Row(msgspec.Struct, frozen=True):
    """One line of the table. In `codes` and `statuses`, x is any digit or number and - is "no status"; "" is all.

    `ours` are causes of replies that this server noted itself. `causes`, `about` and `advised` are what the classifier
    says of a peer's reply: its cause, that one's category, and what to do with the message.
    """

    stages: tuple[Stage, ...]
    codes: str
    action: Action
    step: Step
    statuses: str = ""
    ours: tuple[Cause, ...] = ()
    causes: tuple[str, ...] = ()
    about: tuple[Category, ...] = ()
    advised: tuple[Retry, ...] = ()
    words: re.Pattern[str] | None = None
    needs: Fact = Fact.NOTHING
    lacks: Fact = Fact.NOTHING
    scope: Scope = Scope.RECIPIENT
    pace: Pace = Pace.NORMAL
    patience: int = 0  # so many attempts are still retried although the step is BOUNCE
    suspend_s: float = 0.0  # at least; what the list of causes says may be longer
    alarm_after: int = 0  # times within an hour; 0: never


_ABOUT_IPV6 = re.compile(r"ipv6|\bptr\b|reverse dns", re.IGNORECASE)

_HOUR_S = 3600.0
_RELAY_HOLD_S = 600.0
_FULL_HOST_S = 900.0
_STOPS_EARLY = 5  # attempts, some three hours, for what will not pass although its code says so
_SETUP = (Stage.GREETING, Stage.HELLO)
_ENVELOPE = (Stage.MAIL, Stage.RCPT)
_COMMANDS = (Stage.MAIL, Stage.RCPT, Stage.DATA)
_CONTENT = (Stage.DATA, Stage.BODY, Stage.BDAT)
_TALK = (*_SETUP, *_ENVELOPE, *_CONTENT)
_BEFORE_BODY = (*_SETUP, Stage.STARTTLS, Stage.AUTH, *_COMMANDS, Stage.RSET)
_ALL = tuple(Stage)
_T, _A, _S, _F, _W, _P, _R, _C = Stage, Action, Step, Fact, Scope, Pace, Retry, Category
_PASSING = (_R.SCHEDULE, _R.SOON, _R.SLOWLY, _R.LATER)  # it is worth trying again, whatever the code says
_OURS = (_C.REPUTATION, _C.AUTHENTICITY)  # about this server and its senders, not about the recipient

# fmt: off
ROWS: tuple[Row, ...] = (
    Row(_ALL, "2xx", _A.OK, _S.DELIVERED),
    # DNS and the connection
    Row((_T.DNS,), "4xx", _A.NEXT_HOST, _S.RETRY, scope=_W.DESTINATION),
    Row((_T.DNS,), "5xx", _A.NEXT_HOST, _S.BOUNCE, scope=_W.DESTINATION),
    Row((_T.CONNECT,), "", _A.NEXT_HOST, _S.RETRY, scope=_W.HOST),
    # A host that breaks the protocol. Behind the message nothing is sure any more, so no other host may be tried.
    Row(_BEFORE_BODY, "4xx", _A.NEXT_HOST, _S.RETRY, ours=(delivery.PROTOCOL,), scope=_W.HOST, alarm_after=3),
    Row((_T.BODY, _T.BDAT), "4xx", _A.RETRY, _S.RETRY, ours=(delivery.PROTOCOL,), scope=_W.HOST, alarm_after=3),
    Row((_T.BODY, _T.BDAT), "4xx", _A.RETRY, _S.RETRY, ours=(delivery.IN_DOUBT, delivery.TOO_FEW_REPLIES), scope=_W.HOST),
    # The receiver's own look-up in a block list is refused: not our fault, and it will be repaired.
    Row(_TALK, "5xx", _A.NEXT_HOST, _S.RETRY, causes=("system.resolver_refused",), scope=_W.HOST, pace=_P.CAUSE),
    # Words against class: it will not pass although the code says so
    Row(_SETUP, "4xx", _A.NEXT_HOST, _S.BOUNCE, advised=(_R.NO,), scope=_W.DESTINATION, patience=_STOPS_EARLY, alarm_after=1),
    Row((*_ENVELOPE, *_CONTENT), "4xx", _A.RETRY, _S.BOUNCE, about=_OURS, advised=(_R.NO,), scope=_W.DESTINATION, patience=_STOPS_EARLY, suspend_s=_HOUR_S, alarm_after=1),
    Row((*_ENVELOPE, *_CONTENT), "4xx", _A.RETRY, _S.BOUNCE, advised=(_R.NO,), scope=_W.MESSAGE, patience=_STOPS_EARLY),
    # Greeting
    Row((_T.GREETING,), "5xx", _A.BOUNCE, _S.BOUNCE, ours=(delivery.LOOP_TO_SELF,), scope=_W.DESTINATION),
    Row(_SETUP, "4xx", _A.NEXT_HOST, _S.RETRY, about=(_C.REPUTATION,), scope=_W.DESTINATION, pace=_P.CAUSE, suspend_s=_HOUR_S, alarm_after=1),
    Row((_T.GREETING,), "4xx", _A.NEXT_HOST, _S.RETRY, scope=_W.HOST),
    Row(_SETUP, "5xx", _A.NEXT_HOST, _S.BOUNCE, about=(_C.REPUTATION,), scope=_W.DESTINATION, patience=2, suspend_s=2 * _HOUR_S, alarm_after=1),
    Row((_T.GREETING,), "521", _A.NEXT_HOST, _S.BOUNCE, statuses="- x.0.0 x.3.x", scope=_W.HOST),
    Row((_T.GREETING,), "5xx", _A.NEXT_HOST, _S.BOUNCE, scope=_W.HOST, patience=2),
    # EHLO, HELO, LHLO
    # A name that is refused is ours to put right, although HELO may do for now.
    Row((_T.HELLO,), "501 504", _A.HELO, _S.BOUNCE, needs=_F.EXTENDED, lacks=_F.TLS_REQUIRED, scope=_W.HOST, alarm_after=1),
    Row((_T.HELLO,), "500 502 550", _A.HELO, _S.BOUNCE, needs=_F.EXTENDED, lacks=_F.TLS_REQUIRED, scope=_W.HOST),
    Row((_T.HELLO,), "4xx", _A.NEXT_HOST, _S.RETRY, scope=_W.HOST),
    Row((_T.HELLO,), "5xx", _A.NEXT_HOST, _S.RETRY, needs=_F.TLS_REQUIRED, scope=_W.HOST),
    Row((_T.HELLO,), "5xx", _A.NEXT_HOST, _S.BOUNCE, scope=_W.HOST, patience=2, alarm_after=1),
    # TLS
    # A sender who insists on it is told within hours: a certificate may be mended till then (RFC 8689 4.2.1).
    Row((_T.TLS,), "5xx", _A.NEXT_HOST, _S.BOUNCE, ours=(transport.NEEDS_ENCRYPTION,), scope=_W.HOST, patience=_STOPS_EARLY),
    Row((_T.STARTTLS, _T.TLS), "", _A.NEXT_HOST, _S.RETRY, needs=_F.TLS_REQUIRED, scope=_W.HOST),
    Row((_T.STARTTLS,), "421", _A.NEXT_HOST, _S.RETRY, scope=_W.HOST),
    Row((_T.STARTTLS,), "", _A.IN_CLEAR, _S.RETRY, scope=_W.HOST),
    Row((_T.TLS,), "", _A.RECONNECT, _S.RETRY, scope=_W.HOST),
    # AUTH: the fault is ours or the relay's, never the message's
    Row((_T.AUTH,), "432", _A.OTHER_LOGIN, _S.RETRY, scope=_W.RELAY, suspend_s=_RELAY_HOLD_S, alarm_after=1),
    Row((_T.AUTH,), "4xx", _A.NEXT_HOST, _S.RETRY, advised=(_R.LATER,), scope=_W.RELAY, pace=_P.CAUSE, suspend_s=_RELAY_HOLD_S),
    Row((_T.AUTH,), "4xx", _A.NEXT_HOST, _S.RETRY, scope=_W.RELAY),
    Row((_T.AUTH,), "5xx", _A.OTHER_LOGIN, _S.RETRY, scope=_W.RELAY, suspend_s=_RELAY_HOLD_S, alarm_after=1),
    # It is about this server, its address or its senders. The other family of addresses may be looked on otherwise.
    Row((*_ENVELOPE, *_CONTENT), "456", _A.OTHER_FAMILY, _S.RETRY, needs=_F.OTHER_FAMILY_LEFT, scope=_W.MESSAGE),
    Row(_CONTENT, "5xx", _A.OTHER_FAMILY, _S.BOUNCE, about=(_C.AUTHENTICITY,), words=_ABOUT_IPV6, needs=_F.OTHER_FAMILY_LEFT, scope=_W.MESSAGE),
    Row(_ENVELOPE, "5xx", _A.OTHER_FAMILY, _S.BOUNCE, about=_OURS, needs=_F.OTHER_FAMILY_LEFT, scope=_W.MESSAGE),
    Row(_ENVELOPE, "5xx", _A.OTHER_FAMILY, _S.BOUNCE, statuses="x.7.x", needs=_F.OTHER_FAMILY_LEFT, scope=_W.MESSAGE),
    Row((_T.MAIL,), "4xx", _A.NEXT_HOST, _S.RETRY, about=(_C.REPUTATION,), scope=_W.DESTINATION, pace=_P.CAUSE, suspend_s=_HOUR_S, alarm_after=1),
    Row((_T.RCPT, *_CONTENT), "4xx", _A.RETRY, _S.RETRY, about=(_C.REPUTATION,), scope=_W.DESTINATION, pace=_P.CAUSE, suspend_s=_HOUR_S, alarm_after=1),
    Row((_T.MAIL,), "5xx", _A.NEXT_HOST, _S.BOUNCE, about=(_C.REPUTATION,), advised=_PASSING, scope=_W.DESTINATION, pace=_P.CAUSE, patience=2, suspend_s=2 * _HOUR_S, alarm_after=1),
    Row((_T.RCPT, *_CONTENT), "5xx", _A.RETRY, _S.BOUNCE, about=(_C.REPUTATION,), advised=_PASSING, scope=_W.DESTINATION, pace=_P.CAUSE, patience=2, suspend_s=2 * _HOUR_S, alarm_after=1),
    Row((_T.MAIL,), "5xx", _A.NEXT_HOST, _S.BOUNCE, about=_OURS, scope=_W.MESSAGE, alarm_after=1),
    Row((_T.RCPT, *_CONTENT), "5xx", _A.BOUNCE, _S.BOUNCE, about=_OURS, scope=_W.MESSAGE, alarm_after=1),
    Row((_T.RCPT, *_CONTENT), "4xx", _A.RETRY, _S.RETRY, about=_OURS, scope=_W.MESSAGE, alarm_after=1),
    # Too much at a time: the whole destination is left alone for as long as the list of causes says
    Row(_COMMANDS, "421", _A.NEXT_HOST, _S.RETRY, about=(_C.RATE,), advised=(_R.LATER,), scope=_W.DESTINATION, pace=_P.CAUSE, suspend_s=_FULL_HOST_S),
    Row((*_ENVELOPE, *_CONTENT), "4xx", _A.RETRY, _S.RETRY, about=(_C.RATE,), advised=(_R.LATER,), scope=_W.DESTINATION, pace=_P.CAUSE, suspend_s=_FULL_HOST_S),
    # 421, or a connection lost, ends the session and all that is open in it
    Row((*_COMMANDS, _T.RSET), "421", _A.NEXT_HOST, _S.RETRY, scope=_W.HOST),
    Row((*_COMMANDS, _T.RSET), "4xx", _A.NEXT_HOST, _S.RETRY, statuses="x.4.2", scope=_W.HOST),
    Row(_COMMANDS, "4xx", _A.NEXT_HOST, _S.RETRY, statuses="x.3.1", scope=_W.HOST, suspend_s=_FULL_HOST_S),
    # Parameters
    Row(_ENVELOPE, "455 555", _A.STRIP, _S.RETRY, needs=_F.HINTS, scope=_W.MESSAGE),
    Row(_ENVELOPE, "501", _A.STRIP, _S.RETRY, statuses="x.5.4", needs=_F.HINTS, scope=_W.MESSAGE),
    Row(_ENVELOPE, "555", _A.BOUNCE, _S.BOUNCE, scope=_W.MESSAGE),
    Row(_ENVELOPE, "455", _A.RETRY, _S.RETRY, scope=_W.MESSAGE),
    # We do not do what the host demands of us
    Row((*_ENVELOPE, *_CONTENT), "4xx 5xx", _A.ENCRYPT, _S.RETRY, about=(_C.TLS,), needs=_F.IN_CLEAR, lacks=_F.RECONNECTED, scope=_W.HOST),
    Row(_ENVELOPE, "530", _A.NEXT_HOST, _S.RETRY, scope=_W.RELAY, alarm_after=1),
    Row(_COMMANDS, "500 503", _A.RECONNECT, _S.BOUNCE, lacks=_F.RECONNECTED, scope=_W.MESSAGE, alarm_after=1),
    Row((_T.DATA,), "554", _A.RECONNECT, _S.BOUNCE, statuses="x.5.1", lacks=_F.RECONNECTED, scope=_W.MESSAGE, alarm_after=1),
    # MAIL
    Row((_T.MAIL,), "552", _A.LARGER_HOST, _S.BOUNCE, scope=_W.MESSAGE),
    Row((_T.MAIL,), "5xx", _A.LARGER_HOST, _S.BOUNCE, statuses="x.3.4", scope=_W.MESSAGE),
    Row((_T.MAIL,), "4xx", _A.NEXT_HOST, _S.RETRY, scope=_W.MESSAGE),
    Row((_T.MAIL,), "5xx", _A.NEXT_HOST, _S.BOUNCE, advised=_PASSING, scope=_W.MESSAGE, pace=_P.CAUSE, patience=2),
    Row((_T.MAIL,), "5xx", _A.NEXT_HOST, _S.BOUNCE, scope=_W.MESSAGE),
    # RCPT: too many of them
    Row((_T.RCPT,), "452 552", _A.SPLIT, _S.RETRY, statuses="-", needs=_F.ACCEPTED),
    Row((_T.RCPT,), "", _A.SPLIT, _S.RETRY, statuses="x.5.3", needs=_F.ACCEPTED),
    Row((_T.RCPT,), "", _A.RETRY, _S.RETRY, statuses="x.5.3"),
    Row((_T.RCPT,), "552", _A.RETRY, _S.BOUNCE, statuses="-", about=(_C.UNKNOWN, _C.PROTOCOL), patience=1),
    # _T.RCPT, and the answer to the message, for which one recipient may be to blame
    Row(_CONTENT, "5xx", _A.SINGLY, _S.BOUNCE, needs=_F.ONE_NAMED),
    Row((_T.RCPT, *_CONTENT), "4xx", _A.RETRY, _S.RETRY, about=(_C.QUOTA,), pace=_P.SLOW),
    Row((_T.RCPT, *_CONTENT), "4xx", _A.RETRY, _S.RETRY, about=(_C.GREYLIST,), pace=_P.GREYLIST),
    Row((_T.RCPT,), "4xx", _A.RETRY, _S.RETRY, statuses="x.7.1", pace=_P.GREYLIST),
    Row((_T.RCPT, *_CONTENT), "4xx", _A.RETRY, _S.RETRY, advised=_PASSING, pace=_P.CAUSE),
    # Temporary by nature, although the code says that it is for good
    Row((_T.RCPT, *_CONTENT), "5xx", _A.RETRY, _S.BOUNCE, advised=_PASSING, pace=_P.CAUSE, patience=2),
    Row((_T.RCPT, *_CONTENT), "5xx", _A.RETRY, _S.BOUNCE, advised=(_R.ONCE,), pace=_P.CAUSE, patience=1),
    Row((_T.RCPT,), "5xx", _A.BOUNCE, _S.BOUNCE),
    # Anything else, by its first digit
    Row(_CONTENT, "4xx", _A.RETRY, _S.RETRY, scope=_W.MESSAGE),
    Row(_CONTENT, "5xx", _A.BOUNCE, _S.BOUNCE, scope=_W.MESSAGE),
    Row(_ALL, "4xx", _A.RETRY, _S.RETRY),
    Row(_ALL, "5xx", _A.BOUNCE, _S.BOUNCE),
    Row(_ALL, "", _A.RETRY, _S.RETRY, scope=_W.HOST, alarm_after=3),
)
# fmt: on


def find(stage: Stage, reply: Reply, facts: Fact = Fact.NOTHING, host: str = "") -> Row:
    """The first row of the table that fits."""
    diagnosis = diagnose(stage, reply, host)
    for row in _candidates(stage, reply.code, reply.status):
        if row.needs in facts and not row.lacks & facts and _is_about(row, reply, diagnosis):
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


def _is_about(row: Row, reply: Reply, diagnosis: Verdict | None) -> bool:
    """Whether what is known of the cause is what the row speaks of."""
    if row.ours:
        return reply.cause in row.ours
    if row.words is not None and not row.words.search(reply.text):
        return False
    if not (row.about or row.advised or row.causes):
        return True
    if diagnosis is None:
        return False
    return (
        (not row.causes or diagnosis.cause.id in row.causes)
        and (not row.about or diagnosis.cause.category in row.about)
        and (not row.advised or diagnosis.retry in row.advised)
    )


@lru_cache(maxsize=1024)
def diagnose(stage: Stage, reply: Reply, host: str = "") -> Verdict | None:
    """What a peer's refusal is about; None for a success, and for what this server noted itself."""
    if reply.cause is not None or reply.positive or reply.intermediate:
        return None
    return classify(reply, stage=stage, host=host)


def action(stage: Stage, reply: Reply, facts: Fact = Fact.NOTHING, host: str = "") -> Action:
    """What the attempt does next about a reply."""
    return Action.OK if reply.positive else find(stage, reply, facts, host).action
