"""Read a message that came back: whether it is a bounce, which recipients it is about, and why each failed.

Reports that keep to RFC 3464 are read by `mail.dsn`, words for people by `notices`, the reason of each recipient by
`reported`; this module puts their findings together. Feedback reports (RFC 5965) and automatic replies are told apart from bounces.
"""

from __future__ import annotations

import html
import re
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from pillarbox.diagnose.notices import Notice, Told, read_notice
from pillarbox.diagnose.notifications import Notification, read_notification
from pillarbox.diagnose.reported import BouncedRecipient, of_report, of_words, without_fault
from pillarbox.mail import dsn, mime
from pillarbox.mail.dsn import MAX_PARSED_OCTETS, DeliveryReport
from pillarbox.mail.message import Head, parse_date, scan_head
from pillarbox.mail.mime import Part

__all__ = ["Bounce", "BounceKind", "BouncedRecipient", "read_bounce"]

MAX_RECIPIENTS = 1000

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
_COMPLAINT = re.compile(
    r"complaint about message|(?:email|e-mail|abuse|spam) (?:feedback )?report\b", re.IGNORECASE
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


class Bounce(msgspec.Struct, frozen=True):
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

    @property
    def tells_of_delivery(self) -> bool:
        """Whether it tells of mail that could not be delivered, for good or yet."""
        return self.kind in (BounceKind.FAILURE, BounceKind.DELAY)


def read_bounce(octets: bytes) -> Bounce:
    """Read any message. Never raises; looks at the first mebibyte, in time linear in its length."""
    return _read(octets[:MAX_PARSED_OCTETS], depth=0)


def _read(octets: bytes, depth: int) -> Bounce:
    head = scan_head(octets)
    parts = mime.parts(octets)
    if feedback := _feedback(head, parts):
        return feedback
    if parts and (notification := read_notification(parts[0].text)):
        return _of_notification(notification, parts[0].text)
    notice = read_notice(_text(parts))
    returned = _returned(parts, notice)
    report = dsn.of_parts(parts) or (
        dsn.of_status(notice.fields.encode("utf-8", "surrogateescape")) if notice.fields else None
    )
    if report is not None and report.recipients:
        return _of_report(report, notice, head, returned)
    if depth == 0 and not notice.recipients and notice.returned:
        inner = _read(notice.returned, depth=1)
        if inner.tells_of_delivery and inner.recipients:
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
        found.append(of_report(one, more, notice, alone=len(report.recipients) == 1))
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
    alone = len(recipients) == 1
    found = [of_words(one, notice, action, alone=alone) for one in recipients[:MAX_RECIPIENTS]]
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
            tuple(without_fault(one, "feedback") for one in dict.fromkeys(named))[:MAX_RECIPIENTS],
            reporting_mta=fields.get("reporting-mta").partition(";")[2].strip(),
            arrived_at=parse_date(fields.get("arrival-date") or fields.get("received-date")),
            envid=fields.get("original-envelope-id"),
            message_id=returned.get("message-id") if returned else "",
            returned=returned,
            text=_text(parts),
            feedback_type=fields.get("feedback-type").lower() or "abuse",
        )
    if returned is not None and _COMPLAINT.search(mime.decode_words(head.get("subject"))):
        # older feedback loops send the message alone, the recipient in a field of their own
        named = _TO.findall(returned.get("x-hmxmroriginalrecipient") or returned.get("to")[:4000])
        return Bounce(
            BounceKind.FEEDBACK,
            tuple(without_fault(one, "feedback") for one in named[:1]),
            message_id=returned.get("message-id"),
            returned=returned,
            text=_text(parts),
            feedback_type="abuse",
        )
    if head.get("subject").strip().lower() == "unsubscribe" and "auto-submitted" in head:
        senders = _TO.findall(head.get("from")[:1000])
        return Bounce(
            BounceKind.FEEDBACK,
            tuple(without_fault(one, "feedback") for one in senders[:1]),
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
        tuple(without_fault(one, "replied") for one in senders[:1]),
        message_id=head.get("in-reply-to"),
        text=notice.text,
    )


def _of_notification(notification: Notification, text: str) -> Bounce:
    if notification.complaint:
        people = tuple(without_fault(one.address, "feedback") for one in notification.recipients)
        return Bounce(
            BounceKind.FEEDBACK, people, message_id=notification.message_id, text=text, feedback_type="abuse"
        )
    nothing = Notice("", [])
    found = [of_report(one, Told(one.address), nothing, alone=False) for one in notification.recipients]
    whole = _whole(tuple(found), nothing, scan_head(b"\r\n"), None)
    return replace(whole, message_id=notification.message_id, text=text)


# --- in common --------------------------------------------------------------------------------------------------------


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
