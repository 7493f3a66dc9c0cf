"""The words of the HELP command: what each verb is for, its syntax and the replies it may earn (RFC 5321 4.1.1.8).

The replies come from the catalogue; which verbs a session may use is the session's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pillarbox.mail.catalogue import CAUSES
from pillarbox.mail.reply import Stage


@dataclass(frozen=True, slots=True)
class _Verb:
    syntax: tuple[str, ...]  # further lines are the parameters
    purpose: str
    stages: tuple[Stage, ...]  # whose causes it can earn


_VERBS = {
    "EHLO": _Verb(("EHLO name",), "Begins the session and asks for the extensions.", (Stage.HELLO,)),
    "HELO": _Verb(("HELO name",), "Begins a session without extensions.", (Stage.HELLO,)),
    "LHLO": _Verb(("LHLO name",), "Begins an LMTP session.", (Stage.HELLO,)),
    "MAIL": _Verb(
        (
            "MAIL FROM:<address> [parameters]",
            "SIZE=octets BODY=7BIT|8BITMIME|BINARYMIME SMTPUTF8 RET=FULL|HDRS ENVID=id",
        ),
        "Begins a message and says where reports about it go; <> for none.",
        (Stage.MAIL,),
    ),
    "RCPT": _Verb(
        (
            "RCPT TO:<address> [parameters]",
            "NOTIFY=NEVER or a list of SUCCESS,FAILURE,DELAY; ORCPT=type;address",
        ),
        "Names a recipient; may be repeated.",
        (Stage.RCPT,),
    ),
    "DATA": _Verb(
        ("DATA",),
        "Sends the message; it ends with a dot on a line of its own.",
        (Stage.DATA, Stage.BODY),
    ),
    "BDAT": _Verb(
        ("BDAT octets [LAST]",),
        "Sends a piece of the message, counted instead of ended by a dot.",
        (Stage.BDAT, Stage.BODY),
    ),
    "RSET": _Verb(("RSET",), "Gives up the open transaction.", (Stage.RSET,)),
    "NOOP": _Verb(("NOOP [anything]",), "Does nothing.", (Stage.NOOP,)),
    "QUIT": _Verb(("QUIT",), "Ends the session.", (Stage.QUIT,)),
    "VRFY": _Verb(("VRFY address",), "Asks whether an address exists.", (Stage.VRFY,)),
    "EXPN": _Verb(("EXPN list",), "Asks who is on a list.", (Stage.EXPN,)),
    "HELP": _Verb(
        ("HELP [verb]", "HELP STATUS"),
        "Tells about the commands, or, to those who may know, how the server is doing.",
        (Stage.HELP,),
    ),
    "AUTH": _Verb(("AUTH mechanism [initial-answer]",), "Logs in.", (Stage.AUTH,)),
    "STARTTLS": _Verb(("STARTTLS",), "Encrypts the connection from here on.", (Stage.STARTTLS,)),
}


def help_lines(topic: str, usable: Iterable[str]) -> tuple[str, ...] | None:
    """The lines of a 214 reply: all `usable` verbs, or one verb's syntax and replies; None for an unknown topic."""
    name = topic.strip().upper()
    if not name:
        return ("Commands: " + " ".join(usable), "HELP VERB tells more about one of them")
    verb = _VERBS.get(name)
    if verb is None:
        return None
    replies = [
        f"{cause.code} {cause.status}".strip() + f" - {cause.meaning}"
        for cause in sorted(CAUSES.values(), key=lambda cause: cause.code)
        if not cause.id.startswith("delivery.") and not set(verb.stages).isdisjoint(cause.stages)
    ]
    return (*verb.syntax, verb.purpose, "Replies, beside those that any command may get:", *replies)
