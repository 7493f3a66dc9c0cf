"""The written list of what can be behind another host's refusal, with what each means for a queue and for people.

Which reply has which of these causes is told by `classify`; the words by which it is recognised are in
`dialects.toml`. Causes of this server's own replies are in `mail.catalogue`.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pillarbox.mail.reply import Who


class Category(StrEnum):
    """What kind of trouble a cause is."""

    OK = "ok"  # not refused
    MAILBOX = "no such mailbox"
    INACTIVE = "mailbox out of use"
    QUOTA = "mailbox full"
    RATE = "too much at a time"
    REPUTATION = "reputation"  # of an IP address or a domain of the sender
    AUTHENTICITY = "authenticity"  # SPF, DKIM, DMARC, reverse DNS
    CONTENT = "content"
    POLICY = "policy"
    GREYLIST = "greylisting"
    ROUTE = "routing"  # DNS, routes, loops
    PROTOCOL = "protocol"
    TLS = "encryption"
    SIZE = "size"
    LOGIN = "login"
    SENDER = "sender's address"
    SYSTEM = "system"  # trouble at the other side
    UNKNOWN = "unknown"


class Scope(StrEnum):
    """What else the same refusal would hit."""

    RECIPIENT = "recipient"
    SENDER = "sender"
    MESSAGE = "message"
    HOST = "host"  # everything from this IP address
    DOMAIN = "domain"  # everything to the recipient's domain
    SYSTEM = "system"  # everything to the host that answered
    UNKNOWN = "unknown"


class Suppress(StrEnum):
    """Whether mail to the address should stop before it is sent."""

    NEVER = "never"
    ADDRESS = "address"  # at once
    REPEATED = "address, if it happens again and again"
    DOMAIN = "domain"  # every address in it


class Retry(StrEnum):
    """What to do with the message."""

    NO = "no"
    SCHEDULE = "by schedule"
    SOON = "soon, from the same address"  # greylisting: the wait is short and the envelope has to be the same
    SLOWLY = "slowly"  # in steps of hours
    LATER = "later"  # leave the destination alone for a while
    ONCE = "once more, a day later"
    SPLIT = "at once, with fewer recipients"
    REPAIRED = "when it is repaired"  # by the sender's side
    ELSEWHERE = "at another host"


class PeerCause(msgspec.Struct, frozen=True):
    """One entry of the list: the reason for which a host refuses, and what follows from it."""

    id: str  # stable, dotted: "mailbox.unknown"
    category: Category
    scope: Scope
    who: Who
    meaning: str  # one line, plain words
    advice: str  # what whoever has the move should do
    hard: bool = False  # the address as such is bad; other mail to it fails as well
    suppress: Suppress = Suppress.NEVER
    retry: Retry = Retry.NO
    wait_s: float = 0.0  # how long `retry` should wait at least; 0 leaves it to the schedule
    insist: bool = False  # temporary by nature: `retry` holds although the reply says that it is for good


@cache
def peer_causes() -> dict[str, PeerCause]:
    """All causes by id, in order. The data is read once, at the first question."""
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    return {key: _cause(key, entry) for key, entry in tomllib.loads(text)["cause"].items()}


def _cause(key: str, entry: dict[str, Any]) -> PeerCause:
    values = entry | {
        "category": Category[entry["category"]],
        "scope": Scope[entry["scope"]],
        "who": Who[entry["who"]],
        "suppress": Suppress[entry.get("suppress", "NEVER")],
        "retry": Retry[entry.get("retry", "NO")],
    }
    return PeerCause(key, **values)
