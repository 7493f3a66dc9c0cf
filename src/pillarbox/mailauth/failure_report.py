"""Read a report about one message that failed: ARF (RFC 5965) as DMARC and DKIM use it (RFC 6591, RFC 9991).

The message it returns is not kept: of that only what names it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.message import parse_date, scan_head
from pillarbox.mailauth.aggregate import ReportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.mail.mime import Part

FEEDBACK = "message/feedback-report"
_RETURNED = frozenset({"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"})
_MAX_TEXT = 500


class FailureReport(msgspec.Struct, frozen=True, gc=False):
    """What it says of one message."""

    kind: str  # Feedback-Type: auth-failure, or abuse and so on
    failure: str = ""  # Auth-Failure: dmarc, spf, dkim, ...
    domain: str = ""  # Reported-Domain
    source: str = ""  # the client's address
    arrived_at: float | None = None
    mail_from: str = ""
    result: str = ""  # Delivery-Result
    results: str = ""  # Authentication-Results
    alignment: str = ""  # Identity-Alignment
    dkim_domain: str = ""
    dkim_selector: str = ""
    incidents: int = 1
    agent: str = ""
    message_id: str = ""  # of the message it is about
    header_from: str = ""
    subject: str = ""


def parse_report(parts: Sequence[Part]) -> FailureReport:
    """Read the parts of a mail. Raises ReportError if none is a feedback report."""
    fields = next((part for part in parts if part.kind == FEEDBACK), None)
    if fields is None:
        raise ReportError("no part is a feedback report")
    head = scan_head(fields.octets.lstrip(b"\r\n") + b"\r\n\r\n")
    returned = scan_head(next((part.octets for part in parts if part.kind in _RETURNED), b"\r\n"))

    def said(name: str) -> str:
        return head.get(name)[:_MAX_TEXT]

    incidents = said("incidents")
    return FailureReport(
        said("feedback-type").lower() or "abuse",
        said("auth-failure").lower(),
        said("reported-domain").lower(),
        said("source-ip"),
        parse_date(said("arrival-date") or said("received-date")),
        said("original-mail-from").strip("<>"),
        said("delivery-result").lower(),
        said("authentication-results"),
        said("identity-alignment").lower(),
        said("dkim-domain").lower(),
        said("dkim-selector"),
        int(incidents) if incidents.isascii() and incidents.isdigit() and len(incidents) < 12 else 1,
        said("user-agent"),
        returned.get("message-id")[:_MAX_TEXT],
        returned.get("from")[:_MAX_TEXT],
        returned.get("subject")[:_MAX_TEXT],
    )
