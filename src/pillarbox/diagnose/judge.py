"""Say about one recipient, in plain words, what a reply means: what happened, whose move it is, and what comes next.

Why the host said it is found by `classify`; where the replies are found is the business of `explain`.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec.structs import replace

from pillarbox.diagnose.causes import Category, Retry, Suppress
from pillarbox.diagnose.classify import Certainty, Verdict, classify
from pillarbox.diagnose.diagnosis import Account, Outcome
from pillarbox.diagnose.meaning import Basis, look_up_reply
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Cause, Reply, Stage, Who, printable
from pillarbox.mail.units import format_duration

_UNKNOWN_CAUSE = "unknown"
# What was refused, by stage; the host's name goes in front.
_REFUSED = {
    Stage.DNS: "The domain could not be looked up",
    Stage.CONNECT: "{host} could not be reached",
    Stage.GREETING: "{host} refused to talk to the sending host",
    Stage.HELLO: "{host} refused the sending host's greeting",
    Stage.STARTTLS: "{host} refused to encrypt",
    Stage.TLS: "The encryption with {host} failed",
    Stage.AUTH: "{host} refused the login",
    Stage.MAIL: "{host} refused the sender",
    Stage.RCPT: "{host} refused this recipient",
    Stage.DATA: "{host} refused to take the message",
    Stage.BODY: "{host} refused the message after reading it",
    Stage.BDAT: "{host} refused a part of the message",
    Stage.VRFY: "{host} refused to tell whether the address exists",
    Stage.LOCAL: "The mail system gave up",
}
_LOST = "The connection to {host} was lost before the message was delivered."
_UNANSWERED = {
    delivery.IN_DOUBT.id: "The connection to {host} was lost after the whole message had been sent.",
    delivery.PROTOCOL.id: "What {host} said is no answer to what it was asked.",
}
_REFUSED_SOMEWHERE = "{host} refused the mail"
_NO_REFUSAL = (Stage.DNS, Stage.CONNECT, Stage.TLS, Stage.LOCAL)  # nobody said no
_NEXT_STEP = {
    Retry.NO: "No. It goes back to the sender.",
    Retry.SCHEDULE: "Yes, by itself: within minutes at first, then ever more seldom, for up to five days.",
    Retry.SOON: "Yes, by itself: after {wait}, from the same address and with the same envelope.",
    Retry.SLOWLY: "Yes, by itself, but slowly: {wait} between the tries.",
    Retry.LATER: "Yes, by itself, after a pause: {wait} without mail to this destination.",
    Retry.ONCE: "Once more, a day later; then it goes back to the sender.",
    Retry.SPLIT: "Yes, at once, with fewer recipients at a time.",
    Retry.REPAIRED: "Yes, by itself, but it helps only when the cause is repaired.",
    Retry.ELSEWHERE: "Yes, at once, at another mail server of the domain, if it has one.",
}
_BY_ITSELF = frozenset(Retry) - {Retry.NO, Retry.REPAIRED}
_USUAL_WAIT = {Retry.SOON: "5 to 15 minutes", Retry.SLOWLY: "hours", Retry.LATER: "an hour or more"}


class _Opinion(msgspec.Struct, frozen=True):
    """All that the words and numbers of a reply tell, apart from whom they hit."""

    cause: str
    meaning: str
    who: Who
    advice: str
    retry: Retry
    wait_s: float
    suppress: Suppress
    certainty: Certainty
    dialect: str = ""
    ours: str = ""


def judge(
    reply: Reply,
    *,
    outcome: Outcome,
    stage: Stage | None = None,
    host: str = "",
    address: str = "",
    is_settled: bool = False,
) -> Account:
    """What a reply means for a recipient; `reply.code` may be 0, for words without a number.

    `is_settled`: the queue that was told so has already acted upon it, as its log or its bounce shows.
    """
    opinion = _opinion(reply, stage, host)
    if outcome is Outcome.ACCEPTED:
        return _accepted(reply, stage, host, address)
    retry = opinion.retry
    if outcome is Outcome.PERMANENT and not reply.code and retry in _BY_ITSELF:
        retry = Retry.NO  # words alone don't tell for how long they hold; who wrote them down knew
    return Account(
        address=address,
        outcome=outcome,
        happened=_happened(outcome, stage, host),
        cause=opinion.cause,
        meaning=opinion.meaning,
        who=opinion.who,
        advice=opinion.advice,
        retry=retry,
        will_retry=_will_retry(outcome, retry) and not (is_settled and outcome is Outcome.PERMANENT),
        wait_s=opinion.wait_s,
        next_step=_next_step(outcome, retry, opinion.wait_s, is_settled=is_settled),
        suppress=opinion.suppress,
        certainty=opinion.certainty,
        stage=stage,
        host=host,
        dialect=opinion.dialect,
        ours=opinion.ours,
    )


def by_verdict(account: Account, verdict: Verdict) -> Account:
    """The same account, with a verdict that rests on more than the reply: the whole text of a bounce."""
    if verdict.certainty is Certainty.UNKNOWN:
        return account
    cause, retry = verdict.cause, verdict.retry
    return replace(
        account,
        cause=cause.id,
        meaning=cause.meaning,
        who=cause.who,
        advice=cause.advice,
        retry=retry,
        wait_s=verdict.wait_s,
        next_step=_next_step(account.outcome, retry, verdict.wait_s, is_settled=True),
        suppress=verdict.suppress,
        certainty=verdict.certainty,
        dialect=verdict.dialect,
    )


def unanswered(cause: Cause, *, outcome: Outcome, stage: Stage, host: str, address: str) -> Account:
    """What it means that no reply came, or none that makes sense; `cause` is the catalogue's."""
    return Account(
        address=address,
        outcome=outcome,
        happened=_UNANSWERED.get(cause.id, _LOST).replace("{host}", _named(host)),
        cause=cause.id,
        meaning=cause.meaning,
        who=cause.who,
        advice=cause.advice,
        retry=Retry.SCHEDULE,
        will_retry=True,
        wait_s=0.0,
        next_step=_next_step(outcome, Retry.SCHEDULE, 0.0),
        suppress=Suppress.NEVER,
        certainty=Certainty.PATTERN,
        stage=stage,
        host=host,
    )


def unsent(*, host: str, address: str) -> Account:
    """The server had accepted the recipient, but the client stopped before it sent the message."""
    return Account(
        address=address,
        outcome=Outcome.UNSENT,
        happened=f"{_subject(host)} accepted this recipient, but no message was sent.",
        cause="",
        meaning="The sending side ended the transaction, so nothing reached this recipient.",
        who=Who.SENDER,
        advice="Send the message again; leave out recipients that were refused if the program stops at them.",
        retry=Retry.NO,
        will_retry=False,
        wait_s=0.0,
        next_step="Not by itself; it can be sent again at any time.",
        suppress=Suppress.NEVER,
        certainty=Certainty.CODE,
        stage=Stage.RCPT,
        host=host,
    )


def _accepted(reply: Reply, stage: Stage | None, host: str, address: str) -> Account:
    told = printable(reply.text, 120)
    is_message = stage in (Stage.BODY, Stage.LOCAL, None)
    happened = f"{_subject(host)} took the message" if is_message else f"{_subject(host)} said yes"
    if stage is Stage.LOCAL:
        happened = "The message was delivered"
    return Account(
        address=address,
        outcome=Outcome.ACCEPTED,
        happened=f'{happened}: "{told}".' if told else f"{happened}.",
        cause="",
        meaning="It is now the duty of that host to deliver it, or to report that it can't."
        if is_message
        else "",
        who=Who.NOBODY,
        advice="If it does not arrive, ask that host's administrator with the words above."
        if is_message
        else "",
        retry=Retry.NO,
        will_retry=False,
        wait_s=0.0,
        next_step="Not needed.",
        suppress=Suppress.NEVER,
        certainty=Certainty.CODE,
        stage=stage,
        host=host,
    )


@lru_cache(maxsize=1024)
def _opinion(reply: Reply, stage: Stage | None, host: str) -> _Opinion:
    """The classifier's verdict, in the catalogue's words if the reply is this server's own."""
    verdict = classify(reply, stage=stage, host=host)
    found = look_up_reply(reply)
    cause = verdict.cause
    meaning, who, advice, certainty = cause.meaning, cause.who, cause.advice, verdict.certainty
    ours = found.causes[0].id if found.basis is Basis.CAUSE else ""
    is_unknown = cause.id == _UNKNOWN_CAUSE or cause.category in (Category.UNKNOWN, Category.OK)
    if (ours or is_unknown) and found.known:
        meaning, who, advice = found.meaning, found.who, found.advice
    if ours:
        certainty = Certainty.PATTERN
    elif is_unknown and found.known:
        certainty = Certainty.STATUS if found.basis is Basis.STATUS else Certainty.CODE
    return _Opinion(
        _UNKNOWN_CAUSE if is_unknown else cause.id,
        meaning,
        who,
        advice,
        verdict.retry,
        verdict.wait_s,
        verdict.suppress,
        certainty,
        verdict.dialect,
        ours,
    )


def _named(host: str) -> str:
    return printable(host) or "the server"


def _subject(host: str) -> str:
    return printable(host) or "The server"


def _happened(outcome: Outcome, stage: Stage | None, host: str) -> str:
    pattern = _REFUSED.get(stage, _REFUSED_SOMEWHERE) if stage is not None else _REFUSED_SOMEWHERE
    said = pattern.replace("{host}", _subject(host) if pattern.startswith("{") else _named(host))
    if stage in _NO_REFUSAL:
        return f"{said}."
    return said + {Outcome.TEMPORARY: " for now.", Outcome.PERMANENT: " for good."}.get(outcome, ".")


def _will_retry(outcome: Outcome, retry: Retry) -> bool:
    if outcome is Outcome.PERMANENT:
        return retry in _BY_ITSELF
    return outcome in (Outcome.TEMPORARY, Outcome.IN_DOUBT)


def _next_step(outcome: Outcome, retry: Retry, wait_s: float, *, is_settled: bool = False) -> str:
    """Whether and when it is tried again."""
    wait = format_duration(wait_s) if wait_s else _USUAL_WAIT.get(retry, "some hours")
    if outcome is Outcome.IN_DOUBT:
        return "Yes, by itself: a second copy is better than none."
    if outcome is Outcome.TEMPORARY and retry is Retry.NO:
        return "Yes, for up to five days, but it will hardly help."
    if outcome is Outcome.PERMANENT and retry is Retry.REPAIRED:
        return "Not by itself. When the cause is repaired, send it again."
    if outcome is Outcome.PERMANENT and is_settled and retry in _BY_ITSELF:
        return f"No, it was given up. Sent once more after {wait}, it may pass."
    if outcome is Outcome.PERMANENT and retry in (Retry.SCHEDULE, Retry.SOON, Retry.SLOWLY, Retry.LATER):
        return (
            f"The code says never, the cause passes: a careful server tries again after {wait}, most give up."
        )
    return _NEXT_STEP[retry].replace("{wait}", wait)
