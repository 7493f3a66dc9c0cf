"""What travels beside a message: reverse-path, recipients and the parameters given with them (RFC 5321 2.3.1).

How a parameter is spelled on the wire is `smtp.grammar`'s business. What is `array_like` is kept in the store field by
field: a new one stands at the end and has a default, and old records lack it.
"""

from __future__ import annotations

from enum import IntFlag, StrEnum

import msgspec

MAX_ORCPT_OCTETS = 500  # RFC 3461 4.2


class Body(StrEnum):
    """The BODY parameter (RFC 6152, RFC 3030)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"
    BINARY = "BINARYMIME"


class Ret(StrEnum):
    """How much of the message a failure report returns (RFC 3461 4.3)."""

    FULL = "FULL"
    HEADERS = "HDRS"


class Notify(IntFlag):
    """When the sender wants a report (RFC 3461 4.1). `UNSAID` means the parameter was not given."""

    UNSAID = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8

    @property
    def wants_failure(self) -> bool:
        """Failure reports are wanted unless something else was asked for."""
        return self == Notify.UNSAID or bool(self & Notify.FAILURE)

    @property
    def wants_delay(self) -> bool:
        """Delay reports are wanted unless something else was asked for."""
        return self == Notify.UNSAID or bool(self & Notify.DELAY)

    @property
    def wants_success(self) -> bool:
        """Success reports are wanted only if asked for."""
        return bool(self & Notify.SUCCESS)


class ByMode(StrEnum):
    """What follows when the time of DELIVERBY is over (RFC 2852 4)."""

    RETURN = "R"
    NOTIFY = "N"


class Deadline(msgspec.Struct, frozen=True, array_like=True):
    """Until when the message is to be delivered (RFC 2852)."""

    at: float  # Unix time
    mode: ByMode
    trace: bool = False


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """What the sender asked of the way itself; most messages ask for nothing."""

    by: Deadline | None = None
    hold_until: float = 0.0  # Unix time (RFC 4865); 0: go at once
    priority: int = 0  # -9 to 9 (RFC 6710)
    require_tls: bool = False  # RFC 8689


NO_TERMS = Terms()


class ValidSince(msgspec.Struct, frozen=True, array_like=True):
    """Since when the sender knows the recipient (RFC 7293); `refuse`: rather not at all than without this check."""

    at: float  # Unix time
    refuse: bool = True


class Recipient(msgspec.Struct, frozen=True, array_like=True):
    """One forward-path: `address` is where it goes now, `original` what the client named (after RCPT TO)."""

    address: str
    notify: Notify = Notify.UNSAID
    orcpt: str = ""  # "rfc822;user@example.org", xtext already decoded (RFC 3461 4.2)
    original: str = ""  # "" when nothing rewrote the address
    valid_since: ValidSince | None = None


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The envelope of one message. `sender` is "" for the null reverse-path."""

    sender: str
    recipients: tuple[Recipient, ...]
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str = ""  # xtext already decoded (RFC 3461 4.4)
    terms: Terms = NO_TERMS
