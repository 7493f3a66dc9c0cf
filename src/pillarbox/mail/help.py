"""The words of the HELP command: what each verb is for, its syntax and the replies it may earn (RFC 5321 4.1.1.8).

The replies come from the catalogue; which verbs a session may use is the session's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import msgspec

from pillarbox.mail.catalogue import CAUSES, is_outward
from pillarbox.mail.reply import Stage


class _Verb(msgspec.Struct, frozen=True):
    syntax: str
    purpose: str
    stages: tuple[Stage, ...]  # whose causes it can earn
    parameters: tuple[tuple[str, str], ...] = ()  # the extension that offers each, and its syntax


_VERBS = {
    "EHLO": _Verb("EHLO name", "Begins the session and asks for the extensions.", (Stage.HELLO,)),
    "HELO": _Verb("HELO name", "Begins a session without extensions.", (Stage.HELLO,)),
    "LHLO": _Verb("LHLO name", "Begins an LMTP session.", (Stage.HELLO,)),
    "MAIL": _Verb(
        "MAIL FROM:<address> [parameters]",
        "Begins a message and says where reports about it go; <> for none.",
        (Stage.MAIL,),
        (
            ("SIZE", "SIZE=octets"),
            ("8BITMIME", "BODY=7BIT|8BITMIME"),
            ("BINARYMIME", "BODY=BINARYMIME"),
            ("SMTPUTF8", "SMTPUTF8"),
            ("DSN", "RET=FULL|HDRS ENVID=id"),
            ("DELIVERBY", "BY=seconds;R|N[T]"),
            ("FUTURERELEASE", "HOLDFOR=seconds or HOLDUNTIL=date-time"),
            ("MT-PRIORITY", "MT-PRIORITY=-9 to 9"),
            ("REQUIRETLS", "REQUIRETLS"),
        ),
    ),
    "RCPT": _Verb(
        "RCPT TO:<address> [parameters]",
        "Names a recipient; may be repeated.",
        (Stage.RCPT,),
        (
            ("DSN", "NOTIFY=NEVER or a list of SUCCESS,FAILURE,DELAY; ORCPT=type;address"),
            ("RRVS", "RRVS=date-time[;C|R]"),
        ),
    ),
    "DATA": _Verb(
        "DATA",
        "Sends the message; it ends with a dot on a line of its own.",
        (Stage.DATA, Stage.BODY),
    ),
    "BDAT": _Verb(
        "BDAT octets [LAST]",
        "Sends a piece of the message, counted instead of ended by a dot.",
        (Stage.BDAT, Stage.BODY),
    ),
    "RSET": _Verb("RSET", "Gives up the open transaction.", (Stage.RSET,)),
    "NOOP": _Verb("NOOP [anything]", "Does nothing.", (Stage.NOOP,)),
    "QUIT": _Verb("QUIT", "Ends the session.", (Stage.QUIT,)),
    "VRFY": _Verb("VRFY address", "Asks whether an address exists.", (Stage.VRFY,)),
    "EXPN": _Verb("EXPN list", "Asks who is on a list.", (Stage.EXPN,)),
    "HELP": _Verb(
        "HELP [verb|STATUS]",
        "Tells about the commands, or, to those who may know, how the server is doing.",
        (Stage.HELP,),
    ),
    "AUTH": _Verb("AUTH mechanism [initial-answer]", "Logs in.", (Stage.AUTH,)),
    "STARTTLS": _Verb("STARTTLS", "Encrypts the connection from here on.", (Stage.STARTTLS,)),
    "ETRN": _Verb("ETRN [@]domain", "Has the mail sent that waits for a domain.", (Stage.ETRN,)),
    "XCLIENT": _Verb(
        "XCLIENT attribute=value ...",
        "Tells whom a trusted host speaks for; the session begins anew.",
        (Stage.XCLIENT,),
    ),
    "XFORWARD": _Verb(
        "XFORWARD attribute=value ...", "Tells where the next message came from.", (Stage.XCLIENT,)
    ),
}


def help_lines(
    topic: str, usable: Iterable[str], offered: AbstractSet[str] = frozenset()
) -> tuple[str, ...] | None:
    """The lines of a 214 reply: all `usable` verbs, or one verb's syntax and replies; None for an unknown topic.

    Parameters are named if their extension is among those `offered`.
    """
    name = topic.strip().upper()
    if not name:
        return ("Commands: " + " ".join(usable), "HELP VERB tells more about one of them")
    verb = _VERBS.get(name)
    if verb is None:
        return None
    replies = [
        f"{cause.code} {cause.status}".strip() + f" - {cause.meaning}"
        for cause in sorted(CAUSES.values(), key=lambda cause: cause.code)
        if not is_outward(cause) and not set(verb.stages).isdisjoint(cause.stages)
    ]
    parameters = (syntax for extension, syntax in verb.parameters if extension in offered)
    return (
        verb.syntax,
        *parameters,
        verb.purpose,
        "Replies, beside those that any command may get:",
        *replies,
    )
