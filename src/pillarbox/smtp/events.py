"""What a client asks for, as values: the events that `smtp.server` hands to its driver.

Whether a request is granted is decided by `policy`; commands that need no decision never become events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from pillarbox.mail.envelope import Body, Notify, Ret

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply


class Signal(Enum):
    """What `next_event` returns when there is no event."""

    NEED_DATA = "need data"
    OWED = "owed"  # the reply to the last event has not been given yet
    CLOSED = "closed"  # send what is left, then close the connection


@dataclass(frozen=True, slots=True)
class Hello:
    """EHLO, HELO or LHLO with a well-formed name. Answer with `ServerSession.welcome()` or a refusal."""

    verb: str
    name: str


@dataclass(frozen=True, slots=True)
class MailParameters:
    """The parameters of MAIL. `size` is 0 when it was not announced."""

    size: int = 0
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str = ""


@dataclass(frozen=True, slots=True)
class MailFrom:
    """MAIL; `sender` is None for the null reverse-path."""

    sender: Address | None
    parameters: MailParameters


@dataclass(frozen=True, slots=True)
class RcptTo:
    """RCPT."""

    recipient: Address
    notify: Notify = Notify.UNSAID
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class BodyStart:
    """A body is about to come. After DATA a reply is owed, after the first BDAT none is."""

    owed: bool


@dataclass(frozen=True, slots=True)
class BodyChunk:
    """A piece of the body, dot-stuffing removed. No reply is owed; a failure is told by `fail_body`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The body is complete. If `fault` is set the message must be refused with it."""

    fault: Reply | None = None


@dataclass(frozen=True, slots=True)
class BodyDropped:
    """The transaction ended before its body did (RSET, EHLO or QUIT between chunks). No reply is owed."""


@dataclass(frozen=True, slots=True)
class Login:
    """AUTH came to its end: check these credentials. `mechanism` is PLAIN or LOGIN."""

    mechanism: str
    authorize_as: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verify:
    """VRFY, or EXPN if `expand` is set."""

    argument: str
    expand: bool


@dataclass(frozen=True, slots=True)
class TlsWanted:
    """STARTTLS was granted: send what is queued, shake hands, then call `tls_started`."""


Event = (
    Hello | MailFrom | RcptTo | BodyStart | BodyChunk | BodyEnd | BodyDropped | Login | Verify | TlsWanted
)
