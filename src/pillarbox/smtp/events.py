"""What a client asks for, as values: the events that `smtp.server` hands to its driver.

Whether a request is granted is decided by `policy`; commands that need no decision never become events.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import msgspec

from pillarbox.mail.address import Address
from pillarbox.mail.envelope import Body, ByMode, Notify, Ret, ValidSince
from pillarbox.mail.reply import Reply


class Signal(Enum):
    """What `next_event` returns when there is no event."""

    NEED_DATA = "need data"
    OWED = "owed"  # the reply to the last event has not been given yet
    BUSY = "busy"  # there is more to read, but others should have their turn first
    CLOSED = "closed"  # send what is left, then close the connection

    @property
    def owed(self) -> bool:
        """As an event has it."""
        return False


class _Event(msgspec.Struct, frozen=True, gc=False):
    """Structs, because a dozen of them are made for each message; none can be part of a cycle."""

    owed: ClassVar[bool] = True  # whether the core waits for a reply to it


class Hello(_Event, frozen=True, gc=False):
    """EHLO, HELO or LHLO with a well-formed name. Answer with `ServerSession.welcome()` or a refusal."""

    verb: str
    name: str


class By(msgspec.Struct, frozen=True, gc=False):
    """BY of MAIL: a time to deliver in, from now on (RFC 2852 4)."""

    seconds: int
    mode: ByMode
    trace: bool = False


class Wish(msgspec.Struct, frozen=True, gc=False):
    """What MAIL asks of the way itself, in its own words: times may be counted from now."""

    by: By | None = None
    hold_for: int = 0  # seconds
    hold_until: float = 0.0  # Unix time
    priority: int = 0
    require_tls: bool = False


class MailParameters(msgspec.Struct, frozen=True, gc=False):
    """The parameters of MAIL. `size` is 0 when it was not announced; seldom there is a `wish`."""

    size: int = 0
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str = ""
    wish: Wish | None = None


class MailFrom(_Event, frozen=True, gc=False):
    """MAIL; `sender` is None for the null reverse-path."""

    sender: Address | None
    parameters: MailParameters


class RcptTo(_Event, frozen=True, gc=False):
    """RCPT."""

    recipient: Address
    notify: Notify = Notify.UNSAID
    orcpt: str = ""
    valid_since: ValidSince | None = None


class LocalProtocolError(Exception):
    """The driver broke the rules: it answered what was not owed, or with a reply that can't stand there."""


class BodyStart(_Event, frozen=True, gc=False):
    """A body is about to come. After DATA a reply is owed, after the first BDAT none is."""

    owed: bool  # type: ignore[misc]  # here it depends on the command


class BodyChunk(_Event, frozen=True, gc=False):
    """A piece of the body, dot-stuffing removed. No reply is owed; a failure is told by `fail_body`."""

    owed: ClassVar[bool] = False

    data: bytes


class BodyEnd(_Event, frozen=True, gc=False):
    """The body is complete. If `fault` is set the message must be refused with it."""

    fault: Reply | None = None


class BodyDropped(_Event, frozen=True, gc=False):
    """The transaction ended before its body did (RSET, EHLO or QUIT between chunks). No reply is owed."""

    owed: ClassVar[bool] = False


class Proof(Enum):
    """What stands behind a login."""

    PASSWORD = 0  # to be checked
    TOKEN = 1  # to be checked
    CERTIFICATE = 2  # whose, the driver knows
    PROVEN = 3  # checked by the mechanism, with the secret that was asked for
    DISPROVEN = 4


class SecretWanted(_Event, frozen=True, gc=False):
    """A mechanism needs what is kept of an account. Answer with `give_secret`, or with a refusal."""

    mechanism: str  # a name of `scram.HASHES`, which wants ScramKeys, or CRAM-MD5, which wants the password
    user: str


class Login(_Event, frozen=True, gc=False):
    """AUTH came to its end: decide on it. `password` may be a token, and is empty if there is nothing to check."""

    mechanism: str
    authorize_as: str
    user: str
    password: str = ""
    proof: Proof = Proof.PASSWORD

    def __repr__(self) -> str:
        """Without the password, so that no log can show it."""
        return f"Login({self.mechanism!r}, {self.authorize_as!r}, {self.user!r})"


class StatusWanted(_Event, frozen=True, gc=False):
    """HELP STATUS: who may know it is told how the server is doing."""


class Verify(_Event, frozen=True, gc=False):
    """VRFY, or EXPN if `expand` is set."""

    argument: str
    expand: bool


class StartQueue(_Event, frozen=True, gc=False):
    """ETRN: the client's node is up, mail for it may be sent now (RFC 1985). `below` asks for its subdomains too."""

    node: str
    below: bool = False


class XClient(_Event, frozen=True):
    """XCLIENT: a trusted host tells whom it speaks for. Answer with `ServerSession.restart`, or with a refusal."""

    attributes: dict[str, str]


class XForward(_Event, frozen=True):
    """XFORWARD: a trusted host tells where the next message came from."""

    attributes: dict[str, str]


class TlsWanted(_Event, frozen=True, gc=False):
    """STARTTLS. To grant it, read no more, answer with 220, send that, call `tls_started`, and shake hands."""


Event = (
    Hello
    | MailFrom
    | RcptTo
    | BodyStart
    | BodyChunk
    | BodyEnd
    | BodyDropped
    | Login
    | SecretWanted
    | StatusWanted
    | Verify
    | StartQueue
    | XClient
    | XForward
    | TlsWanted
)
