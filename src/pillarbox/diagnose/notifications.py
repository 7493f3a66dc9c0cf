"""Read what Amazon SES tells of a message: JSON, that comes as a mail or by other ways.

Its recipients are put into the values of `mail.dsn`; what they mean is left to `bounce`.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from pillarbox.mail.dsn import MAX_PARSED_RECIPIENTS, RecipientReport


class Notification(msgspec.Struct, frozen=True):
    """One notification; the addresses of a complaint have no fault."""

    complaint: bool
    recipients: tuple[RecipientReport, ...]
    message_id: str


def read_notification(text: str) -> Notification | None:
    """Read it; None if it is none. Never raises."""
    text = text.lstrip()
    if not text.startswith("{") or "notificationType" not in text:
        return None
    try:
        said = json.JSONDecoder(strict=False).raw_decode(text)[0]
        if "Message" in said:
            said = json.loads(said["Message"], strict=False)
        kind = said["notificationType"]
        recipients = tuple(_recipient(*one) for one in _entries(kind, said)[:MAX_PARSED_RECIPIENTS])
        return Notification(kind == "Complaint", recipients, str(said["mail"].get("messageId", "")))
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


def _recipient(address: str, entry: dict[str, Any]) -> RecipientReport:
    kind, _, words = str(entry.get("diagnosticCode", "")).partition(";")
    return RecipientReport(
        str(address),
        str(entry.get("action", "failed")).lower(),
        str(entry.get("status", "")),
        diagnostic=(words or kind).strip(),
    )
