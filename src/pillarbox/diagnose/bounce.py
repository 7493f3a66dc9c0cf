"""Read a message that came back: whether it is a bounce, which recipients it is about, and why each failed.

Reports that keep to RFC 3464 are read by `mail.dsn`, words for people by `notices`, reasons by `classify`; this module
puts their findings together. Feedback reports (RFC 5965) and automatic replies are told apart from bounces.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pillarbox.diagnose.causes import Suppress
from pillarbox.diagnose.classify import Certainty, Verdict, classify
from pillarbox.diagnose.notices import Notice, Told, find_host, find_reply, find_stage, read_notice
from pillarbox.mail import dsn, mime
from pillarbox.mail.dsn import MAX_PARSED_OCTETS, DeliveryReport, RecipientReport
from pillarbox.mail.message import Head, parse_date, scan_head
from pillarbox.mail.mime import Part
from pillarbox.mail.reply import Reply, Stage

MAX_RECIPIENTS = 1000

_ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")
_ALIKE = {
    "deliverable": "delivered",
    "undeliverable": "failed",
    "fail": "failed",
    "failure": "failed",
    "delay": "delayed",
}
_VAGUE = (Certainty.UNKNOWN, Certainty.CODE)
_DONE = ("delivered", "relayed", "expanded")
_SURENESS = {certainty: number for number, certainty in enumerate(Certainty)}
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_TO = re.compile(r"[^\s<>\"'(),:;\[\]]{1,64}@[^\s<>\"'(),:;\[\]]{1,255}")
_BREAK = re.compile(r"/?(?:br|p|div|tr|li|h\d|table)\b", re.IGNORECASE)
_DAEMON = re.compile(
    r"mailer-?daemon|mail delivery|postmaster|mdaemon|mail administrator|mailsystem|mail system|system administrator",
    re.IGNORECASE,
)
_FAILED_SUBJECT = re.compile(
    r"undeliver|deliver(?:y|able|ed)?\b.{0,40}(?:status|fail|problem|error|notif|delay|report|impossible)|failure notice"
    r"|fail(?:ed|ure) .{0,20}deliver|returned mail|returned to sender|mail (?:system )?error|could not be delivered"
    r"|not (?:be )?delivered|mail failure|message you sent|unzustellbar|bounced?\b|warning: (?:could not|message)"
    r"|non recapit|remise|no se (?:ha )?(?:podido|pudo)|devuelto|errors from|nondeliverable|delayed",
    re.IGNORECASE,
)
_SAYS_FAILED = re.compile(
    r"(?:could|can|was|were|has|have|did|do)(?: ?not|n.t)(?: \w+){0,4} (?:deliver|reach|sent|accept)|undeliverable"
    r"|(?:delivery|message|mail)\b.{0,60}\b(?:fail|reject|refus|return|bounc)|unable to deliver|not delivered"
    r"|transcript of session|permanent (?:fatal )?error",
    re.IGNORECASE,
)
_DELAY = re.compile(
    r"\bdelay(?:ed)?\b|warning message only|not yet been delivered|still (?:be )?(?:trying|tried|being)"
    r"|will (?:be|keep|continue)(?: on)? (?:retr|try|tried)|warning: (?:could not|message)|not been delivered (?:yet|for)"
    r"|will be retried",
    re.IGNORECASE,
)
_GIVEN_UP = re.compile(
    r"permanent(?:ly)? |giv(?:en|ing) up|failed permanently|not going to try again|fatal error",
    re.IGNORECASE,
)
_AUTOMATIC_SUBJECT = re.compile(
    r"(?:auto(?:matic)?[- ]?(?:reply|response|matic)?:|auto(?:matic)?[ -]?(?:reply|response)|out of (?:the )?office|away|on vacation|vacation"
    r"|abwesen|automatische antwort|r.ponse automatique|absence)",
    re.IGNORECASE,
)
_REPORTER = re.compile(
    r"(?:program at|mail agent v[\w.]{1,20} at|generating server:|mail system at host|mail delivery (?:agent|system) at|message from)"
    r" {1,3}([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,10})",
    re.IGNORECASE,
)


class BounceKind(StrEnum):
    """What a message that came back is."""

    FAILURE = "bounce"
    DELAY = "delay notice"
    SUCCESS = "report of success"
    FEEDBACK = "feedback report"  # somebody complains or wants no more; no word on the address itself
    AUTO_REPLY = "automatic reply"
    NONE = "none of these"


@dataclass(frozen=True, slots=True)
class BouncedRecipient:
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


@dataclass(frozen=True, slots=True)
class Bounce:
    """A message that came back, read. Texts are foreign and may contain anything; times are Unix time."""

    kind: BounceKind
    recipients: tuple[BouncedRecipient, ...] = ()
    reporting_mta: str = ""
    arrived_at: float | None = None
    envid: str = ""
    queue_id: str = ""  # ours, if the report is ours
    message_id: str = ""  # of the message that failed
    returned: Head | None = None  # its header section
    text: str = ""  # the part for people, without what was returned
    feedback_type: str = ""  # "abuse", "opt-out", ... of a feedback report


def read_bounce(octets: bytes) -> Bounce:
    """Read any message. Never raises; looks at the first mebibyte, in time linear in its length."""
    return _read(octets[:MAX_PARSED_OCTETS], depth=0)


def _read(octets: bytes, depth: int) -> Bounce:
    head = scan_head(octets)
    parts = mime.parts(octets)
    if feedback := _feedback(head, parts):
        return feedback
    if notification := _notification(parts):
        return notification
    notice = read_notice(_text(parts))
    returned = _returned(parts, notice)
    report = dsn.of_parts(parts) or (
        dsn.of_status(notice.fields.encode("utf-8", "surrogateescape")) if notice.fields else None
    )
    if report is not None and report.recipients:
        return _of_report(report, notice, head, returned)
    if depth == 0 and not notice.recipients and notice.returned:
        inner = _read(notice.returned, depth=1)
        if inner.kind in {BounceKind.FAILURE, BounceKind.DELAY} and inner.recipients:
            return inner  # somebody wrote above a bounce that they pass on
    automatic = _is_automatic(head)
    if (not automatic or _is_official(head)) and _is_notice(head, notice, parts):
        return _of_notice(notice, head, returned)
    if automatic:
        return _automatic(head, notice)
    passed_on = next((part.octets for part in parts if part.kind == "message/rfc822"), b"")
    if passed_on and depth == 0 and (forwarded := _read(passed_on, depth=1)).kind is not BounceKind.NONE:
        return forwarded
    return Bounce(BounceKind.NONE, text=notice.text, returned=returned)


# --- reports that keep to the standard --------------------------------------------------------------------------------


def _of_report(report: DeliveryReport, notice: Notice, head: Head, returned: Head | None) -> Bounce:
    told = {one.address.lower(): one for one in notice.recipients}
    alone = notice.recipients[0] if len(notice.recipients) == len(report.recipients) == 1 else None
    found = []
    for one in report.recipients:
        more = told.get(one.address.lower()) or told.get(one.original.lower()) or alone or Told(one.address)
        found.append(_reported(one, more, notice, alone=len(report.recipients) == 1))
    return _whole(
        tuple(found),
        notice,
        head,
        returned,
        reporting_mta=report.reporting_mta,
        arrived_at=report.arrived_at,
        envid=report.envid,
        queue_id=report.queue_id,
    )


def _reported(one: RecipientReport, more: Told, notice: Notice, *, alone: bool) -> BouncedRecipient:
    action = _ALIKE.get(one.action, one.action)
    if action not in _ACTIONS:
        action = "delayed" if one.status.startswith("4") else "failed"
    host = one.remote_mta or more.host or find_host(one.diagnostic) or find_host(more.words)
    stage = find_stage(one.diagnostic) or more.stage or find_stage(more.words)
    own = [one.diagnostic, more.words]
    own = [words for words in (notice.answer, more.words) if _goes_on(one.diagnostic, words)][:1] + own
    reply, verdict = _explain(_sources(own, notice, alone=alone), one.status, action, stage, host)
    return BouncedRecipient(
        address=one.address or one.original,
        original=one.original,
        action=action,
        status=one.status or reply.status,
        diagnostic=one.diagnostic or more.words,
        reply=reply,
        verdict=verdict,
        stage=stage,
        remote_mta=host,
        last_attempt=one.last_attempt,
        retry_until=one.retry_until,
    )


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


# --- notices for people -----------------------------------------------------------------------------------------------


def _is_notice(head: Head, notice: Notice, parts: list[Part]) -> bool:
    """Whether a mail server wrote this about mail that failed."""
    if "x-failed-recipients" in head:
        return True
    subject = mime.decode_words(head.get("subject"))
    official = _is_official(head) or head.get("return-path") == "<>"
    told = bool(notice.recipients) or _SAYS_FAILED.search(notice.text[:4000]) is not None
    failed = _FAILED_SUBJECT.search(subject) is not None
    returns = bool(notice.returned) or any(part.kind in dsn.RETURNED_TYPES for part in parts)
    return told and (failed or (official and (returns or bool(notice.recipients))))


def _is_official(head: Head) -> bool:
    """Whether a server wrote it, by the sender's name."""
    return "x-failed-recipients" in head or _DAEMON.search(head.get("from")) is not None


def _of_notice(notice: Notice, head: Head, returned: Head | None) -> Bounce:
    told = {one.address.lower(): one for one in notice.recipients}
    listed = [one.strip(" <>") for one in head.get("x-failed-recipients")[:8000].split(",")]
    listed = [one for one in listed if "@" in one]
    if listed:
        spare = [
            one for one in notice.recipients if one.address.lower() not in {name.lower() for name in listed}
        ]
        lone = spare[0] if len(spare) == len(listed) == 1 else None
        recipients = [told.get(name.lower()) or _renamed(lone, name) for name in dict.fromkeys(listed)]
    else:
        recipients = notice.recipients or [Told(name) for name in _addressed(notice, returned)]
    subject = mime.decode_words(head.get("subject"))
    warned = _DELAY.search(notice.text[:2000]) and not _GIVEN_UP.search(notice.text[:4000])
    delayed = _DELAY.search(subject) or warned
    action = "delayed" if delayed else "failed"
    found = []
    for one in recipients[:MAX_RECIPIENTS]:
        host = one.host or find_host(one.words)
        stage = one.stage or find_stage(one.words)
        reply, verdict = _explain(
            _sources((one.words,), notice, alone=len(recipients) == 1), "", action, stage, host
        )
        found.append(
            BouncedRecipient(
                one.address, "", action, reply.status, one.words, reply, verdict, stage=stage, remote_mta=host
            )
        )
    reporter = _REPORTER.search(notice.text[:4000])
    return _whole(
        tuple(found), notice, head, returned, reporting_mta=reporter[1].rstrip(".") if reporter else ""
    )


def _renamed(one: Told | None, address: str) -> Told:
    return Told(address, one.words, one.host, one.stage) if one else Told(address)


def _addressed(notice: Notice, returned: Head | None) -> list[str]:
    """Whom the message was for, if the notice itself does not say: from its words, else from what came back."""
    field = returned.get("to") if returned else ""
    found = _TO.findall(field[:4000])
    if found:
        return (
            [found[0]] if len(found) == 1 else [one for one in found if one in notice.mentioned] or found[:1]
        )
    return notice.mentioned[:1]


# --- what else may come back ------------------------------------------------------------------------------------------


def _feedback(head: Head, parts: list[Part]) -> Bounce | None:
    """A feedback report (RFC 5965), or a wish to get no more."""
    fields = next(
        (
            scan_head(part.octets.lstrip(b"\r\n") + b"\r\n\r\n")
            for part in parts
            if part.kind == "message/feedback-report"
        ),
        None,
    )
    returned = next((scan_head(part.octets) for part in parts if part.kind in dsn.RETURNED_TYPES), None)
    if fields is not None:
        named = [*fields.get_all("original-rcpt-to"), *fields.get_all("removal-recipient")]
        named = [one.strip(" <>").removeprefix("mailto:") for one in named] or _TO.findall(
            (returned.get("to") if returned else "")[:4000]
        )
        return Bounce(
            BounceKind.FEEDBACK,
            tuple(_without_fault(one, "feedback") for one in dict.fromkeys(named))[:MAX_RECIPIENTS],
            reporting_mta=fields.get("reporting-mta").partition(";")[2].strip(),
            arrived_at=parse_date(fields.get("arrival-date") or fields.get("received-date")),
            envid=fields.get("original-envelope-id"),
            message_id=returned.get("message-id") if returned else "",
            returned=returned,
            text=_text(parts),
            feedback_type=fields.get("feedback-type").lower() or "abuse",
        )
    if head.get("subject").strip().lower() == "unsubscribe" and "auto-submitted" in head:
        senders = _TO.findall(head.get("from")[:1000])
        return Bounce(
            BounceKind.FEEDBACK,
            tuple(_without_fault(one, "feedback") for one in senders[:1]),
            text=_text(parts),
            feedback_type="opt-out",
        )
    return None


def _is_automatic(head: Head) -> bool:
    return (
        head.get("auto-submitted").lower().startswith(("auto-replied", "auto-generated"))
        or head.get("precedence").lower() in {"auto_reply", "auto-reply"}
        or any(
            name in head
            for name in ("x-autoreply", "x-autorespond", "x-auto-response", "x-auto-reply", "x-autogenerated")
        )
        or _AUTOMATIC_SUBJECT.match(mime.decode_words(head.get("subject"))) is not None
    )


def _automatic(head: Head, notice: Notice) -> Bounce:
    senders = _TO.findall((head.get("from") or head.get("reply-to"))[:1000])
    return Bounce(
        BounceKind.AUTO_REPLY,
        tuple(_without_fault(one, "replied") for one in senders[:1]),
        message_id=head.get("in-reply-to"),
        text=notice.text,
    )


def _notification(parts: list[Part]) -> Bounce | None:
    """What Amazon SES tells of a message, as JSON in the body of a mail."""
    body = parts[0].text.lstrip() if parts and parts[0].kind in {"text/plain", "application/json"} else ""
    if not body.startswith("{") or "notificationType" not in body:
        return None
    try:
        said = json.JSONDecoder(strict=False).raw_decode(body)[0]
        if "Message" in said:
            said = json.loads(said["Message"], strict=False)
        kind, mail = said["notificationType"], said["mail"]
        entries = _entries(kind, said)
        return _of_notification(kind, entries[:MAX_RECIPIENTS], mail, body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _entries(kind: str, said: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The recipients, each with what is told of it."""
    if kind == "Delivery":
        told = {"action": "delivered", "diagnosticCode": f"smtp; {said['delivery'].get('smtpResponse', '')}"}
        return [(one, told) for one in said["delivery"]["recipients"]]
    if kind == "Complaint":
        return [(one["emailAddress"], {}) for one in said["complaint"]["complainedRecipients"]]
    return [(one["emailAddress"], one) for one in said["bounce"]["bouncedRecipients"]]


def _of_notification(
    kind: str, entries: list[tuple[str, dict[str, Any]]], mail: dict[str, Any], text: str
) -> Bounce:
    message_id = str(mail.get("messageId", ""))
    if kind == "Complaint":
        people = tuple(_without_fault(str(address), "feedback") for address, _ in entries)
        return Bounce(BounceKind.FEEDBACK, people, message_id=message_id, text=text, feedback_type="abuse")
    empty = Notice("", [])
    found = []
    for address, entry in entries:
        diagnostic = str(entry.get("diagnosticCode", "")).partition(";")
        one = RecipientReport(
            str(address),
            str(entry.get("action", "failed")).lower(),
            str(entry.get("status", "")),
            diagnostic=(diagnostic[2] or diagnostic[0]).strip(),
        )
        found.append(_reported(one, Told(str(address)), empty, alone=False))
    return replace(_whole(tuple(found), empty, scan_head(b"\r\n"), None), message_id=message_id, text=text)


# --- in common --------------------------------------------------------------------------------------------------------


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


def _without_fault(address: str, action: str) -> BouncedRecipient:
    fine = Reply(250, "", ("",))
    return BouncedRecipient(address, "", action, "", "", fine, classify(fine))


def _whole(
    recipients: tuple[BouncedRecipient, ...], notice: Notice, head: Head, returned: Head | None, **about: Any
) -> Bounce:
    actions = {one.action for one in recipients}
    kind = (
        BounceKind.FAILURE
        if "failed" in actions
        else BounceKind.DELAY
        if "delayed" in actions
        else BounceKind.SUCCESS
        if actions
        else BounceKind.FAILURE
    )
    message_id = returned.get("message-id") if returned else ""
    about["reporting_mta"] = about.get("reporting_mta") or _domain(head)
    return Bounce(
        kind,
        recipients,
        message_id=message_id or head.get("in-reply-to"),
        returned=returned,
        text=notice.text,
        **about,
    )


def _domain(head: Head) -> str:
    sender = _TO.findall(head.get("from")[:1000])
    return sender[0].rpartition("@")[2] if sender and _DAEMON.search(sender[0]) else ""


def _text(parts: list[Part]) -> str:
    """The words for people: all plain text before what was returned, else HTML without its marks."""
    plain, rich = [], ""
    for part in parts:
        if part.kind in dsn.RETURNED_TYPES:
            break
        if part.kind == "text/plain":
            plain.append(part.text)
        elif part.kind == "text/html" and not rich:
            rich = _without_marks(part.text)
    text = "\n".join(plain)
    return (text if text.strip() else rich).replace("\r\n", "\n").replace("\r", "\n")


def _without_marks(text: str) -> str:
    pieces = text.split("<")
    kept = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition(">")
        kept.append(("\n" if _BREAK.match(name) else " ") + rest)
    return html.unescape("".join(kept))


def _returned(parts: list[Part], notice: Notice) -> Head | None:
    for part in parts:
        if part.kind in dsn.RETURNED_TYPES:
            return scan_head(part.octets)
    return scan_head(notice.returned) if notice.returned else None
