"""The words of a delivery report for people: subject and text, made from the catalogue (RFC 3464 2, RFC 5321 4.2).

The part for programs, and the message around both, is `dsn`'s business; whether a report is sent that of the queue.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from pillarbox.mail.catalogue import registry
from pillarbox.mail.envelope import Recipient
from pillarbox.mail.message import format_date
from pillarbox.mail.reply import Origin, Result, Who, legible
from pillarbox.mail.units import format_duration

MAX_GROUPS = 20  # different outcomes told in full; the part for programs has all of them
MAX_ADDRESSES = 10  # addresses named for each of them
_WIDTH = 72
_UNICODE_NOISE = re.compile(r"[^\S ]")


class ReportKind(StrEnum):
    """What a report says of a recipient: the Action field (RFC 3464 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class Reason(msgspec.Struct, frozen=True):
    """Why a host refused, in plain words, and who can do what about it."""

    meaning: str
    who: Who
    advice: str
    explanation: str = ""


class ReportedRecipient(msgspec.Struct, frozen=True):
    """One recipient in a report. `at` is when it was last tried, `retry_until` when the queue will give up.

    `cause` is the cause id, a peer's words' as they were found to mean it. `reason` is that in words, and `detail` the
    enhanced status, without its class, that goes with a reply that had none; without them the reply's numbers have to do.
    """

    recipient: Recipient
    kind: ReportKind
    result: Result
    at: float
    retry_until: float | None = None
    cause: str = ""
    reason: Reason | None = None
    detail: str = ""

    @property
    def address(self) -> str:
        """The address as the sender knows it; where an alias leads is not the sender's to know (RFC 3464 4.2)."""
        return self.recipient.original or self.recipient.address


# kind -> how the subject begins, how the text begins
_WORDS = {
    ReportKind.FAILED: ("Not delivered", "Your message could not be delivered to {who}."),
    ReportKind.DELAYED: (
        "Delayed",
        "Your message has not reached {who} yet. Do not send it again: this server keeps trying.",
    ),
    ReportKind.DELIVERED: ("Delivered", "Your message was delivered to {who}."),
    ReportKind.RELAYED: (
        "Passed on",
        "Your message for {who} was passed on to a host that sends no delivery reports.",
    ),
    ReportKind.EXPANDED: (
        "Passed on",
        "Your message for {who} was passed on to the addresses it stands for.",
    ),
}
# What to do when time ran out: what the cause advises is for those who still wait.
_GIVEN_UP = (
    "Find out whether the trouble is over before you send it again, or reach the recipient in another way."
)
_MAY_HAVE_COME = "Ask the recipient whether it arrived before you send it again."
_WHOSE_MOVE = {
    Who.NOBODY: "",
    Who.SENDER: "You, the sender",
    Who.SENDER_ADMIN: "The administrator of the sending side; you may have to forward this report",
    Who.RECIPIENT: "The recipient",
    Who.RECIPIENT_ADMIN: "The mail administrator of the recipient",
    Who.OPERATOR: "The operator of this mail server",
}


def subject(recipients: Sequence[ReportedRecipient]) -> str:
    """The subject of a report: what happened, to which address, and to how many more."""
    kind = _worst(recipients)
    addresses = _unique(found.address for found in recipients if found.kind is kind)
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    return f"{_WORDS[kind][0]}: {legible(addresses[0], 320)}{more}"


def _worst(recipients: Sequence[ReportedRecipient]) -> ReportKind:
    kinds = {found.kind for found in recipients}
    return next(kind for kind in ReportKind if kind in kinds)


def _unique(addresses: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(addresses))


def text(
    recipients: Sequence[ReportedRecipient],
    *,
    about: Sequence[tuple[str, str]],
    hostname: str,
    received_at: float,
    queue_id: str,
) -> str:
    """The text of a report, CRLF line ends, wrapped as format=flowed (RFC 3676) so that a phone can rewrap it.

    `about` are lines that remind the sender of the message, such as its subject: pairs of label and foreign text.
    """
    lines: list[str] = []
    groups = _group(recipients)
    for members in groups[:MAX_GROUPS]:
        lines += _outcome(members, received_at)
        lines += ["", ""]
    if len(groups) > MAX_GROUPS:
        lines += _flow(
            f"Further recipients, {len(groups) - MAX_GROUPS} outcomes in all, are listed in the attached report."
        )
        lines += ["", ""]
    lines += ["The message:"]
    for label, value in (*about, ("Received here", format_date(received_at)), ("Queue id", queue_id)):
        lines += _flow(f"{label}: {legible(value, 300)}")
    lines += [
        "",
        *_flow(
            f"This report was made by the mail server {hostname}. Nobody reads replies to it, "
            "but its postmaster can find the message by the queue id."
        ),
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _group(recipients: Sequence[ReportedRecipient]) -> list[list[ReportedRecipient]]:
    """Recipients with the same outcome together, worst outcomes first."""
    groups: dict[tuple[object, ...], list[ReportedRecipient]] = {}
    for found in recipients:
        result = found.result
        key = (found.kind, str(result.reply), result.reply.cause_id, result.origin, result.host)
        groups.setdefault(key, []).append(found)
    order = list(ReportKind)
    return sorted(groups.values(), key=lambda members: order.index(members[0].kind))


def _outcome(members: Sequence[ReportedRecipient], received_at: float) -> list[str]:
    """One outcome: to whom it happened, what it means, who said it, and what to do."""
    first = members[0]
    addresses = [legible(address, 320) for address in _unique(found.address for found in members)]
    lines: list[str] = []
    if len(addresses) == 1:
        lines += _flow(_WORDS[first.kind][1].format(who=addresses[0]))
    else:
        lines += _flow(_WORDS[first.kind][1].format(who=f"these {len(addresses)} addresses"))
        lines += [""]
        lines += [f"* {address}" for address in addresses[:MAX_ADDRESSES]]
        if len(addresses) > MAX_ADDRESSES:
            lines += [f"* and {len(addresses) - MAX_ADDRESSES} more, listed in the attached report"]
    if first.kind in (ReportKind.FAILED, ReportKind.DELAYED):
        lines += _trouble(first, received_at)
    return lines


def _trouble(found: ReportedRecipient, received_at: float) -> list[str]:
    """Why it did not work, in our words and the peer's, and what follows."""
    result = found.result
    known = result.reply.cause or found.reason or registry.of_reply(result.reply)
    lines = ["", *_flow(f"Why: {known.meaning} {known.explanation}")] if known else []
    if result.origin is Origin.PEER:
        lines += ["", *_flow(f"{legible(result.host, 255) or 'The receiving system'} said:")]
        said = f"{result.reply.code} {result.reply.status}".strip()
        lines += _flow(f"{said} {legible(result.reply.text)}", quote="> ")
    else:
        lines += ["", *_flow(f"In detail: {legible(result.reply.text)}")]
    if found.kind is ReportKind.FAILED:
        lines += ["", *_flow(_last_word(found, received_at))]
    elif found.retry_until is not None:
        lines += [
            "",
            *_flow(
                f"What happens next: it is tried again until {format_date(found.retry_until)}. "
                "If that does not help either, you will get a last report."
            ),
        ]
    advice = (
        known.advice if known and (found.kind is ReportKind.FAILED or known.who is not Who.NOBODY) else ""
    )
    if found.kind is ReportKind.FAILED and result.reply.temporary:
        advice = _MAY_HAVE_COME if result.in_doubt else _GIVEN_UP
    if advice:
        lines += ["", *_flow(f"What you can do: {advice}")]
    if known and _WHOSE_MOVE[known.who]:
        lines += ["", *_flow(f"Who has to act: {_WHOSE_MOVE[known.who]}.")]
    return lines


def _last_word(found: ReportedRecipient, received_at: float) -> str:
    """That it is over, and whether time ran out."""
    if found.result.reply.temporary and found.at > received_at:
        waited = format_duration(found.at - received_at)
        return f"What happens next: nothing. It was tried for {waited}, and that is as long as this server tries."
    return "What happens next: nothing. This server will not try again."


def _flow(paragraph: str, quote: str = "") -> list[str]:
    """Wrap a paragraph as format=flowed: a line that goes on ends in a space (RFC 3676 4.2)."""
    width = _WIDTH - len(quote)
    wrapped = textwrap.wrap(
        _UNICODE_NOISE.sub(" ", paragraph), width, break_long_words=False, break_on_hyphens=False
    )
    lines = [line[start : start + 200] for line in wrapped or [""] for start in range(0, len(line) or 1, 200)]
    flowed = [f"{line} " for line in lines[:-1]] + lines[-1:]
    if quote:
        return [f"{quote}{line}" for line in flowed]
    return [f" {line}" if line.startswith((" ", ">", "From ")) else line for line in flowed]
