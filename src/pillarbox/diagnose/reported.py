"""Find out about one recipient of a report: what was said, by whom, and why, from the report's fields and words.

What kind of report it is, and whom it is about, is told by `bounce`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from pillarbox.diagnose.causes import Suppress
from pillarbox.diagnose.classify import Certainty, Verdict, classify
from pillarbox.diagnose.notices import Notice, Told, find_host, find_reply, find_stage
from pillarbox.mail.dsn import RecipientReport
from pillarbox.mail.reply import Reply, Stage

_ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")
_ALIKE = {
    "deliverable": "delivered",
    "undeliverable": "failed",
    "fail": "failed",
    "failure": "failed",
    "delay": "delayed",
}
_MAX_DIAGNOSTIC = 4000
_DONE = ("delivered", "relayed", "expanded")
_VAGUE = (Certainty.UNKNOWN, Certainty.CODE)
_SURENESS = {certainty: number for number, certainty in enumerate(Certainty)}
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


class BouncedRecipient(msgspec.Struct, frozen=True):
    """What a report tells of one recipient; "" or None for what it does not tell."""

    address: str  # that failed in the end
    original: str  # that the sender used, if the report tells it
    action: str  # "failed", "delayed", "delivered", "relayed", "expanded"; "feedback" or "replied" where it is no bounce
    status: str
    diagnostic: str  # the words, as the report has them
    reply: Reply  # read from the words; code 0 if they have none
    verdict: Verdict
    stage: Stage | None = None
    remote_mta: str = ""
    last_attempt: float | None = None
    retry_until: float | None = None


def of_report(one: RecipientReport, more: Told, notice: Notice, *, alone: bool) -> BouncedRecipient:
    """The recipient of a report that keeps to the standard; `more` is what its words tell of the same one."""
    action = _ALIKE.get(one.action, one.action)
    if action not in _ACTIONS:
        action = "delayed" if one.status.startswith("4") else "failed"
    diagnostic = one.diagnostic[:_MAX_DIAGNOSTIC]
    host = one.remote_mta or more.host or find_host(diagnostic) or find_host(more.words)
    stage = find_stage(diagnostic) or more.stage or find_stage(more.words)
    own = [diagnostic, more.words]
    own = [words for words in (notice.answer, more.words) if _goes_on(diagnostic, words)][:1] + own
    reply, verdict = _explain(_sources(own, notice, alone=alone), one.status, action, stage, host)
    return BouncedRecipient(
        address=one.address or one.original,
        original=one.original,
        action=action,
        status=one.status or reply.status,
        diagnostic=diagnostic or more.words,
        reply=reply,
        verdict=verdict,
        stage=stage,
        remote_mta=host,
        last_attempt=one.last_attempt,
        retry_until=one.retry_until,
    )


def of_words(one: Told, notice: Notice, action: str, *, alone: bool) -> BouncedRecipient:
    """The recipient of a notice in words only."""
    host = one.host or find_host(one.words)
    stage = one.stage or find_stage(one.words)
    reply, verdict = _explain(_sources((one.words,), notice, alone=alone), "", action, stage, host)
    return BouncedRecipient(
        one.address, "", action, reply.status, one.words, reply, verdict, stage=stage, remote_mta=host
    )


def without_fault(address: str, action: str) -> BouncedRecipient:
    """Somebody whose address works: they complain, or a machine answers for them."""
    fine = Reply(250, "", ("",))
    return BouncedRecipient(address, "", action, "", "", fine, classify(fine))


def _goes_on(diagnostic: str, words: str) -> bool:
    """Whether the words for people have the whole of a reply of which the report has the first line only."""
    short, long = find_reply(diagnostic), find_reply(words)
    return (
        short is not None
        and long is not None
        and short.code == long.code
        and len(long.text) > len(short.text)
        and long.text.startswith(short.text)
    )


def _explain(
    sources: Sequence[str], status: str, action: str, stage: Stage | None, host: str
) -> tuple[Reply, Verdict]:
    """The reply in the words, and its cause: from the first source that tells it."""
    best: tuple[Reply, Verdict] | None = None
    for words in [one for one in sources if one.strip()] or [""]:
        reply = _heard(words, status, action)
        verdict = classify(reply, stage=stage, host=host)
        if best is None or _SURENESS[verdict.certainty] < _SURENESS[best[1].certainty]:
            best = (best[0] if best is not None and best[0].code else reply, verdict)
        if verdict.certainty not in _VAGUE:
            break
    assert best is not None  # there is always a source, if an empty one
    reply, verdict = best
    if action != "failed" and verdict.suppress is not Suppress.NEVER:
        verdict = replace(verdict, hard=False, suppress=Suppress.NEVER)
    return reply, verdict


def _sources(own: Sequence[str], notice: Notice, *, alone: bool) -> list[str]:
    """Where a recipient's reason may stand. All of the text counts only if it speaks of nobody else and no server."""
    found = [one for one in own if one.strip()]
    if not found and notice.answer:
        found.append(notice.answer)
    spoken = any(
        (reply := find_reply(one)) is not None and reply.code and len(reply.text) > 3 for one in found
    )
    return found if spoken or not alone else [*found, notice.text]


def _heard(words: str, status: str, action: str) -> Reply:
    reply = find_reply(words) or Reply(0, "", (" ".join(words.split()),))
    if reply.code == 0 and action in _DONE:
        return Reply(250, "", reply.lines)
    known = reply.status
    if (not known or known.endswith(".0.0")) and _STATUS.fullmatch(status):
        known = status
    if not reply.code and not known:
        known = "4.0.0" if action == "delayed" else "5.0.0"
    return replace(reply, status=known)
