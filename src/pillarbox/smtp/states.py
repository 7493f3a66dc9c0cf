"""The state table of a session: which command is refused in which state (RFC 5321 4.1.4).

What an accepted command does, and the state it leads to, is in `smtp.server`.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from pillarbox.mail.catalogue import auth, extensions, session
from pillarbox.mail.reply import Cause


class Mode(Enum):
    """How the next octets are to be read."""

    COMMAND = 0
    SASL = 1
    DATA = 2
    CHUNK = 3
    ENDED = 4  # a body or chunk is complete, and not yet answered
    HANDSHAKE = 5
    CLOSED = 6


class State(IntEnum):
    """Where a session stands: the columns of the state table."""

    CONNECTED = 0  # before EHLO, or just after the TLS handshake
    GREETED = 1
    LOGIN_NEEDED = 2
    MAIL = 3  # MAIL accepted, no recipient yet
    RCPT = 4  # at least one recipient accepted
    CHUNKS = 5  # between BDAT chunks
    REFUSED = 6  # the greeting said no; only QUIT is left
    WEAK = 7  # TLS that is too weak; only QUIT is left


ALWAYS = ("HELO", "EHLO", "LHLO", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP")
ORDERED = ("MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS", "ETRN")
WITHOUT_TLS = frozenset({"HELO", "EHLO", "LHLO", "NOOP", "STARTTLS", "QUIT"})  # RFC 3207 4
HTTP = frozenset({"GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "DELETE", "TRACE", "PATCH", "PRI"})
_NOT_OFFERED = ("ATRN", "TURN", "SEND", "SOML", "SAML")


def _column(**refusals: Cause) -> dict[str, Cause | None]:
    """One state: the refusal for each verb that does not fit it, None for each that does."""
    return (
        dict.fromkeys((*ALWAYS, *ORDERED))
        | dict.fromkeys(_NOT_OFFERED, session.NOT_IMPLEMENTED)
        | dict(refusals)
    )


_IN_TRANSACTION = {
    "MAIL": session.NESTED_MAIL,
    "AUTH": session.AUTH_NOT_NOW,
    "STARTTLS": session.TLS_NOT_NOW,
    "ETRN": extensions.ETRN_NOT_NOW,
}
# Which command is refused in which state, before anything else about it is looked at (RFC 5321 4.1.4).
TRANSITIONS: dict[State, dict[str, Cause | None]] = {
    State.CONNECTED: _column(**dict.fromkeys(ORDERED, session.NEED_HELLO)),
    State.GREETED: _column(RCPT=session.NEED_MAIL, DATA=session.NEED_MAIL, BDAT=session.NEED_MAIL),
    State.LOGIN_NEEDED: _column(
        **dict.fromkeys(("MAIL", "RCPT", "DATA", "BDAT", "VRFY", "EXPN", "ETRN"), auth.LOGIN_REQUIRED)
    ),
    State.MAIL: _column(**_IN_TRANSACTION),
    State.RCPT: _column(**_IN_TRANSACTION),
    State.CHUNKS: _column(
        **dict.fromkeys(("MAIL", "RCPT", "DATA", "AUTH", "STARTTLS", "ETRN"), session.IN_CHUNKS)
    ),
    State.REFUSED: _column(**dict.fromkeys((*ALWAYS, *ORDERED, *_NOT_OFFERED), session.REFUSED))
    | {"QUIT": None},
    State.WEAK: _column(**dict.fromkeys((*ALWAYS, *ORDERED, *_NOT_OFFERED), auth.TLS_TOO_WEAK))
    | {"QUIT": None},
}
