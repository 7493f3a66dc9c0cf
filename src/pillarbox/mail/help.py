"""The words of the HELP command: the syntax of each verb and the replies it may earn (RFC 5321 4.1.1.8).

The replies come from the catalogue; which verbs a session may use is the session's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import CAUSES

if TYPE_CHECKING:
    from collections.abc import Iterable

SYNTAX = {
    "EHLO": "EHLO name",
    "HELO": "HELO name",
    "LHLO": "LHLO name",
    "MAIL": "MAIL FROM:<address> [SIZE=octets] [BODY=7BIT|8BITMIME|BINARYMIME] [SMTPUTF8] [RET=FULL|HDRS] [ENVID=id]",
    "RCPT": "RCPT TO:<address> [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=type;address]",
    "DATA": "DATA",
    "BDAT": "BDAT octets [LAST]",
    "RSET": "RSET",
    "NOOP": "NOOP [anything]",
    "QUIT": "QUIT",
    "VRFY": "VRFY address",
    "EXPN": "EXPN list",
    "HELP": "HELP [verb]",
    "AUTH": "AUTH mechanism [initial-response]",
    "STARTTLS": "STARTTLS",
}


def help_lines(topic: str, usable: Iterable[str]) -> tuple[str, ...] | None:
    """The lines of a 214 reply: all `usable` verbs, or one verb's syntax and replies; None for an unknown topic."""
    verb = topic.strip().upper()
    if not verb:
        return ("Commands: " + " ".join(usable), "HELP VERB tells more about one of them")
    if verb not in SYNTAX:
        return None
    stages = {verb.lower(), "hello" if verb in ("EHLO", "HELO", "LHLO") else "", "body" if verb == "DATA" else ""}
    replies = sorted({cause.code for cause in CAUSES.values() if stages & set(cause.stages)})
    return (SYNTAX[verb], "Replies: " + " ".join(map(str, replies)))
