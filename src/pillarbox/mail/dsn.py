"""Build delivery reports and read those of other hosts (RFC 3461 to 3464, RFC 6522, RFC 6533).

Which recipients get a report, and when, is decided by `queue.outcome`; the words for people are in `notice`. Bounces
that keep to no standard are not read here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence

import msgspec

from pillarbox.mail import mime, notice
from pillarbox.mail.address import spell_in_ascii
from pillarbox.mail.envelope import NO_TERMS, Body, Envelope, Notify, Recipient, Ret, Terms
from pillarbox.mail.message import (
    MAX_HEAD_OCTETS,
    Head,
    format_date,
    parse_date,
    scan_head,
    tls_is_optional,
)
from pillarbox.mail.mime import Part
from pillarbox.mail.notice import ReportedRecipient, ReportKind
from pillarbox.mail.reply import Origin, legible, printable

__all__ = [
    "DeliveryReport",
    "RecipientReport",
    "ReportKind",
    "ReportedRecipient",
    "build",
    "of_parts",
    "of_status",
    "parse",
]

MAX_RETURNED_OCTETS = 1 << 20  # a larger message is not returned in full, only its header section
MAX_RETURNED_HEAD_OCTETS = 65536
MAX_PARSED_OCTETS = 1 << 20  # a report is read no further
MAX_PARSED_RECIPIENTS = 1000
_FOLD_AT = 76
_HARD_FOLD = 900  # RFC 5322 2.1.1 allows 998

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_LONG_LINE = re.compile(rb"\n[^\r\n]{999}")
_CUT_LINE = re.compile(rb"[^\r\n]{990}")
_NOT_TOKEN = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>", re.ASCII)
_TYPE = re.compile(r"[A-Za-z0-9_.!-]{1,60}", re.ASCII)
_STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b", re.ASCII)
_HOST = re.compile(r"([^\[\]]*)\[([^\[\]]*)\](?::\d+)?")
_GROUP_END = re.compile(rb"\r?\n[ \t]*\r?\n")
_ESCAPED_POINT = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}", re.ASCII)
_STATUS_TYPES = ("message/delivery-status", "message/global-delivery-status")
RETURNED_TYPES = ("message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers")


def build(  # noqa: PLR0913 - all that a report tells comes from its caller
    *,
    hostname: str,
    postmaster: str,
    envelope: Envelope,
    queue_id: str,
    received_at: float,
    now: float,
    message_id: str,
    recipients: Sequence[ReportedRecipient],
    original: Iterable[bytes],
) -> tuple[Envelope, bytes]:
    """Make a report about some recipients of the message with this envelope: its own envelope, and its octets.

    `original` is the message in pieces and is read only as far as it is needed; `()` if it can't be read.
    `message_id` is the report's own and has to be hard to guess, for the boundary is made from it.
    Raises ValueError for a message with the null reverse-path: a report never answers a report (RFC 3464 2).
    """
    if not envelope.sender:
        raise ValueError("a message with the null reverse-path gets no report")
    if not recipients:
        raise ValueError("a report needs a recipient to tell of")
    failed = any(found.kind is ReportKind.FAILED for found in recipients)
    head, returned = _returned_part(
        envelope,
        original,
        in_full=failed and envelope.ret is not Ret.HEADERS and not envelope.terms.require_tls,
    )
    text = notice.text(
        recipients, about=_reminders(head), hostname=hostname, received_at=received_at, queue_id=queue_id
    )
    status = _status_part(hostname, envelope, queue_id, received_at, recipients)
    boundary = "=_" + _NOT_TOKEN.sub("", message_id)[:60]
    while boundary.encode() in returned:
        boundary += "="
    top = [
        f'From: "Mail delivery at {hostname}" <{_clean(postmaster)}>',
        f"To: <{_clean(envelope.sender)}>",
        f"Subject: {_encoded_words(notice.subject(recipients))}",
        f"Date: {format_date(now)}",
        f"Message-ID: {_clean(message_id)}",
        *_references(head),
        *_same_wish(envelope, head),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
        "",
        "This is a delivery report in MIME format.",
    ]
    divider = f"\r\n--{boundary}\r\n".encode()
    parts = [_text_part(text), status, returned] if returned else [_text_part(text), status]
    octets = divider.join(["\r\n".join(top).encode("utf-8", "surrogateescape"), *parts])
    octets += f"\r\n--{boundary}--\r\n".encode()
    return _report_envelope(envelope, octets), octets


def _report_envelope(envelope: Envelope, octets: bytes) -> Envelope:
    """The envelope of a report: what must not travel without TLS has reports that must not, either (RFC 8689 5)."""
    return Envelope(
        sender="",
        recipients=(Recipient(envelope.sender, Notify.NEVER),),
        body=Body.SEVEN_BIT if octets.isascii() else Body.EIGHT_BIT,
        smtputf8=not envelope.sender.isascii(),
        terms=Terms(require_tls=True) if envelope.terms.require_tls else NO_TERMS,
    )


def _same_wish(envelope: Envelope, head: Head) -> list[str]:
    """Who wants to be read although TLS is broken wants to read the answer, too (RFC 8689 6)."""
    return ["TLS-Required: No"] if tls_is_optional(head) and not envelope.terms.require_tls else []


def _clean(text: str) -> str:
    """An address or name of ours or from the envelope as it may stand in a field of the report."""
    return text if text.isprintable() else legible(text)


def _encoded_words(text: str) -> str:
    """Text for an unstructured field, as encoded words if it is not ASCII (RFC 2047)."""
    if text.isascii():
        return _fold(text)
    pieces = [
        text[start : start + 10] for start in range(0, len(text), 10)
    ]  # at most 40 octets, 54 in base64
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(piece.encode()).decode('ascii')}?=" for piece in pieces)


def _fold(value: str) -> str:
    """Fold a field's value at spaces, and where there is none before a line is too long, by force."""
    if len(value) <= _FOLD_AT:
        return value
    lines, line = [], ""
    for word in value.split(" "):
        if line and len(line) + len(word) >= _FOLD_AT:
            lines.append(line)
            line = f" {word}"
        else:
            line = f"{line} {word}" if line or lines else word
        while len(line) > _HARD_FOLD:
            lines.append(line[:_HARD_FOLD])
            line = f" {line[_HARD_FOLD:]}"
    return "\r\n".join([*lines, line])


def _reminders(head: Head) -> list[tuple[str, str]]:
    """What tells the sender which message this is."""
    found = [(label, head.get(name)) for label, name in (("Subject", "subject"), ("Sent", "date"))]
    return [(label, mime.decode_words(value)) for label, value in found if value]


def _references(head: Head) -> list[str]:
    """Fields that let a mail program show the report beside the message."""
    found = _MESSAGE_ID.fullmatch(head.get("message-id"))
    return [f"In-Reply-To: {found[0]}", f"References: {found[0]}"] if found else []


def _part(kind: str, body: bytes) -> bytes:
    """One part of the report, in 8 bits only where it must be."""
    coding = "" if body.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    return f"Content-Type: {kind}\r\n{coding}\r\n".encode() + body


def _text_part(text: str) -> bytes:
    body = text.encode("utf-8", "backslashreplace")
    charset = "us-ascii" if body.isascii() else "utf-8"
    return _part(f"text/plain; charset={charset}; format=flowed", body)


def _returned_part(envelope: Envelope, original: Iterable[bytes], *, in_full: bool) -> tuple[Head, bytes]:
    """The header section of the message, and the part that returns it or the whole message (RFC 3461 4.3, 6.2)."""
    limit = MAX_RETURNED_OCTETS if in_full else MAX_HEAD_OCTETS
    pieces, octets = [], 0
    for piece in original:
        pieces.append(piece)
        octets += len(piece)
        if octets > limit:
            break
    message = b"".join(pieces)
    head = scan_head(message)
    if not message:
        return head, b""
    if in_full and octets <= limit and _fits_lines(message):
        return head, _part("message/global" if envelope.smtputf8 else "message/rfc822", message)
    section = _CUT_LINE.sub(rb"\g<0>\r\n ", _BARE.sub(b"\r\n", head.section[:MAX_RETURNED_HEAD_OCTETS]))
    return head, _part("message/global-headers" if envelope.smtputf8 else "text/rfc822-headers", section)


def _fits_lines(message: bytes) -> bool:
    """Whether it consists of lines that end in CRLF and are not too long, so that DATA can carry it as it is."""
    line_ends = message.count(b"\r\n")
    return (
        message.count(b"\r") == message.count(b"\n") == line_ends
        and b"\0" not in message
        and _LONG_LINE.search(b"\n" + message) is None
    )


# --- the part for programs --------------------------------------------------------------------------------------------


def _status_part(
    hostname: str,
    envelope: Envelope,
    queue_id: str,
    received_at: float,
    recipients: Sequence[ReportedRecipient],
) -> bytes:
    """The message/delivery-status part, or its international twin if an address needs it (RFC 3464 2, RFC 6533 3)."""
    wide = envelope.smtputf8
    groups = [
        [
            f"Reporting-MTA: dns; {hostname}",
            *([f"Original-Envelope-Id: {printable(envelope.envid)}"] if envelope.envid else []),
            f"Arrival-Date: {format_date(received_at)}",
            f"X-Pillarbox-Queue-ID: {queue_id}",
        ],
        *(_recipient_fields(found, wide=wide) for found in recipients),
    ]
    body = "\r\n".join("".join(f"{field}\r\n" for field in group) for group in groups).encode()
    return _part(_STATUS_TYPES[0 if body.isascii() else 1], body)


def _recipient_fields(found: ReportedRecipient, *, wide: bool) -> list[str]:
    result, reply = found.result, found.result.reply
    kind, _, original = found.recipient.orcpt.partition(";")
    fields = [
        _fold(f"Original-Recipient: {_typed_address(original, kind, wide=wide)}") if original else "",
        f"Final-Recipient: {_typed_address(found.address, 'rfc822', wide=wide)}",
        f"Action: {found.kind}",
        f"Status: {_status(found)}",
        _remote_mta(result.host),
        _diagnostic(result.origin, str(reply)),
        "" if result.untried else f"Last-Attempt-Date: {format_date(found.at)}",
        (
            f"Will-Retry-Until: {format_date(found.retry_until)}"
            if found.kind is ReportKind.DELAYED and found.retry_until is not None
            else ""
        ),
        f"X-Pillarbox-Cause: {found.cause or reply.cause_id}",
    ]
    return [field for field in fields if field]


def _remote_mta(host: str) -> str:
    """The host as a domain name or address literal, the only forms that the type dns has (RFC 3464 2.1.2).

    "mx.example.org[192.0.2.1]:2525" says more than that; a socket on this machine is no name at all.
    """
    found = _HOST.fullmatch(host)
    name = host if found is None else found[1] or _literal(found[2])
    return f"Remote-MTA: dns; {printable(name, 255)}" if name else ""


def _literal(address: str) -> str:
    if "/" in address:
        return ""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _diagnostic(origin: Origin, text: str) -> str:
    """The words of the peer, or ours if no peer spoke (RFC 3464 2.3.6)."""
    kind = "smtp" if origin is Origin.PEER else "x-pillarbox"
    return _fold(f"Diagnostic-Code: {kind}; {' '.join(printable(text, 2000).split())}")


def _status(found: ReportedRecipient) -> str:
    """The enhanced status. Its class follows the code and the kind of report, whatever class the peer gave it."""
    reply = found.result.reply
    if found.kind is ReportKind.FAILED:
        first = 4 if reply.temporary else 5  # given up after temporary refusals (RFC 3464 2.3.4)
    else:
        first = 4 if found.kind is ReportKind.DELAYED else 2
    return f"{first}.{reply.status[2:] or found.detail or '0.0'}"


def _typed_address(address: str, kind: str, *, wide: bool) -> str:
    """An address with its type; beyond ASCII the type is utf-8, spelled in ASCII unless `wide` (RFC 6533 3)."""
    if address.isascii():
        return f"{printable(kind, 40)}; {printable(address, 600)}"
    if wide:
        return f"utf-8; {legible(address, 600)}"
    return f"utf-8; {spell_in_ascii(address[:300])}"


# --- reading ----------------------------------------------------------------------------------------------------------


class RecipientReport(msgspec.Struct, frozen=True):
    """What a report says of one recipient; "" or None for what it does not say (RFC 3464 2.3)."""

    address: str  # Final-Recipient without its type
    action: str  # in lower case; mostly the value of a ReportKind
    status: str
    original: str = ""  # Original-Recipient without its type
    remote_mta: str = ""
    diagnostic_type: str = ""  # in lower case: "smtp" if the rest is a peer's reply
    diagnostic: str = ""
    last_attempt: float | None = None
    retry_until: float | None = None
    cause: str = ""  # the cause id, if the report is one of ours


class DeliveryReport(msgspec.Struct, frozen=True):
    """A delivery report as values. Times are Unix time, texts are foreign and may contain anything."""

    reporting_mta: str
    recipients: tuple[RecipientReport, ...]
    envid: str = ""
    arrived_at: float | None = None
    queue_id: str = ""  # ours, if the report is one of ours
    text: str = ""  # the part for people
    original: Head | None = None  # the header section that came back


def parse(message: bytes) -> DeliveryReport | None:
    """Read a delivery report of any host; None if the message has no part that RFC 3464 defines.

    Never raises; looks at the first mebibyte, at a thousand recipients and at three levels of multiparts.
    """
    return of_parts(mime.parts(message[:MAX_PARSED_OCTETS]))


def of_parts(parts: Sequence[Part]) -> DeliveryReport | None:
    """The same from a message already taken apart."""
    status = next((part.octets for part in parts if part.kind in _STATUS_TYPES), None)
    if status is None:
        return None
    text = next((part.octets for part in parts if part.kind == "text/plain"), b"")
    returned = next((part.octets for part in parts if part.kind in RETURNED_TYPES), None)
    return of_status(status, text=_decode(text), original=None if returned is None else scan_head(returned))


def of_status(status: bytes, *, text: str = "", original: Head | None = None) -> DeliveryReport | None:
    """The same from the part for programs alone; None if it is empty."""
    groups = [scan_head(group.strip(b"\r\n") + b"\r\n\r\n") for group in _groups(status)]
    if not groups:
        return None
    top = groups[0]
    recipients = tuple(
        _read_recipient(group)
        for group in groups
        if "final-recipient" in group or "original-recipient" in group
    )
    return DeliveryReport(
        reporting_mta=_untyped(top.get("reporting-mta"))[1],
        recipients=recipients[:MAX_PARSED_RECIPIENTS],
        envid=top.get("original-envelope-id"),
        arrived_at=parse_date(top.get("arrival-date")),
        queue_id=top.get("x-pillarbox-queue-id"),
        text=text,
        original=original,
    )


def _read_recipient(group: Head) -> RecipientReport:
    diagnostic_type, diagnostic = _untyped(group.get("diagnostic-code"))
    status = _STATUS.search(group.get("status")[:200])
    return RecipientReport(
        address=_read_address(group.get("final-recipient")),
        action=group.get("action").partition(" ")[0].lower(),
        status=status[1] if status else "",
        original=_read_address(group.get("original-recipient")),
        remote_mta=_untyped(group.get("remote-mta"))[1],
        diagnostic_type=diagnostic_type.lower(),
        diagnostic=diagnostic,
        last_attempt=parse_date(group.get("last-attempt-date")),
        retry_until=parse_date(group.get("will-retry-until")),
        cause=group.get("x-pillarbox-cause"),
    )


def _groups(status: bytes) -> list[bytes]:
    """The groups of fields, separated by empty lines."""
    return [group for group in _GROUP_END.split(status, MAX_PARSED_RECIPIENTS + 1) if group.strip()]


def _decode(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _untyped(value: str) -> tuple[str, str]:
    """Split `type; text`; a value without a type is all text."""
    kind, semicolon, rest = value.partition(";")
    typed = semicolon and _TYPE.fullmatch(kind.strip())
    return (kind.strip(), rest.strip()) if typed else ("", value.strip())


def _read_address(value: str) -> str:
    """An address without type, comment and brackets; ASCII spelling of other letters is undone (RFC 6533 3)."""
    kind, text = _untyped(value)
    if kind.lower() == "utf-8":
        text = _ESCAPED_POINT.sub(_unescape, text)
    return text[1:-1] if text.startswith("<") and text.endswith(">") else text


def _unescape(found: re.Match[str]) -> str:
    point = int(found[1], 16)
    return chr(point) if point < 0x110000 and not 0xD800 <= point < 0xE000 else found[0]
