"""The state table of a session: which command is refused in which state (RFC 5321 4.1.4).

What an accepted command does, and the state it leads to, is in `smtp.server`.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from functools import cache

from pillarbox.mail.catalogue import auth, extensions, peers, session
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
PEER_VERBS = ("XCLIENT", "XFORWARD")  # of hosts that speak for others; where there are none they are unknown
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
# XCLIENT may also follow another one directly, which tells the rest: so it may come before EHLO.
_OF_PEERS: dict[State, tuple[Cause | None, Cause | None]] = {
    State.CONNECTED: (None, session.NEED_HELLO),
    State.GREETED: (None, None),
    State.LOGIN_NEEDED: (None, None),
    State.MAIL: (peers.PEER_NOT_NOW, peers.PEER_NOT_NOW),
    State.RCPT: (peers.PEER_NOT_NOW, peers.PEER_NOT_NOW),
    State.CHUNKS: (session.IN_CHUNKS, session.IN_CHUNKS),
    State.REFUSED: (session.REFUSED, session.REFUSED),
    State.WEAK: (auth.TLS_TOO_WEAK, auth.TLS_TOO_WEAK),
}


# What of the table needs no more than a look: octets of a verb, and the verb.
Fitting = dict[State, dict[bytes, str]]
NOTHING_FITS: Fitting = {state: {} for state in State}


@cache
def transitions(peer_verbs: frozenset[str], *, etrn: bool) -> dict[State, dict[str, Cause | None]]:
    """The table where hosts may use these of the `PEER_VERBS`, and where there is an ETRN or none."""
    table = {}
    for state, column in TRANSITIONS.items():
        cells = zip(PEER_VERBS, _OF_PEERS[state], strict=True)
        table[state] = column | {verb: cell for verb, cell in cells if verb in peer_verbs}
        if not etrn and state not in (State.REFUSED, State.WEAK):
            table[state]["ETRN"] = session.NOT_IMPLEMENTED
    return table


@cache
def fitting(peer_verbs: frozenset[str], *, etrn: bool) -> Fitting:
    """The verbs that a state lets through without a further question, as clients write them; for the same table."""
    return {
        state: {
            octets: verb
            for verb, refusal in column.items()
            if refusal is None
            and not (state is State.MAIL and verb in ("DATA", "BDAT"))  # recipients are asked for
            for octets in (verb.encode(), verb.lower().encode())
        }
        for state, column in transitions(peer_verbs, etrn=etrn).items()
    }
