"""Find the reply that another program quotes inside a sentence of its own, as logs, bounces and exceptions do.

What the reply means is told by `judge`; whole lines of logs are read by `logs`.
"""

from __future__ import annotations

import re

from pillarbox.mail.reply import Reply, Stage, parse_reply

MAX_CHARACTERS = 8192
_MAX_LINES = 100

_CODE = re.compile(
    r"(?<![\w.:/#@-])(?P<code>[2-5][0-5]\d)(?:(?=[ -]#?[245]\.\d)|(?=- ?\S)|(?= )|(?=[,;:)]|$))", re.ASCII
)
_STATUS = re.compile(r"(?<![\w.])([245]\.\d{1,3}\.\d{1,3})(?![\w.]*\d)", re.ASCII)
_TOLD_STATUS = re.compile(r"\(?#([245]\.\d{1,3}\.\d{1,3})\)?", re.ASCII)
_IN_REPLY = re.compile(r"\s*\(in reply to (?P<command>[^()]{1,60}?)(?: command)?\)?\s*$")
_AFTER = re.compile(
    r"\b(?:in reply to|after|while (?:sending|performing)(?: the)?|during(?: the)?) (?:initial |pipelined )?"
    r"(?P<command>end of DATA|end of data|MAIL|RCPT|DATA|E?HELO|LHLO|AUTH|STARTTLS|connection|message body)",
)
_STAGES = {
    "END OF DATA": Stage.BODY,
    "MESSAGE BODY": Stage.BODY,
    "MAIL": Stage.MAIL,
    "RCPT": Stage.RCPT,
    "DATA": Stage.DATA,
    "HELO": Stage.HELLO,
    "EHLO": Stage.HELLO,
    "LHLO": Stage.HELLO,
    "AUTH": Stage.AUTH,
    "STARTTLS": Stage.STARTTLS,
    "CONNECTION": Stage.GREETING,
}


def reply_in(text: str, *, status: str = "") -> Reply:
    """The reply that stands in a sentence; one with code 0 and all the words if there is none.

    `status` is used if the reply has none of its own. Never raises.
    """
    text = text[:MAX_CHARACTERS].replace("\\n", "\n").strip()
    found = _CODE.search(text)
    if found is None:
        own = _STATUS.search(text)
        words = (text[: own.start()] + text[own.end() :]).strip(" :;-") if own and own.start() < 8 else text
        return Reply(0, own[1] if own else status, (words,))
    told = _IN_REPLY.sub("", text[found.start() :]).strip()
    before = text[found.start() - 1 : found.start()]
    if before in ("'", '"'):  # the reply was quoted
        told = told.partition(before)[0] if told.count(before) == 1 else told.removesuffix(before)
    lines = _split(told, found["code"])
    reply = parse_reply([line.encode("utf-8", "surrogateescape") for line in lines])
    if reply.status:
        return reply
    own = _TOLD_STATUS.search(told)
    return Reply(reply.code, own[1] if own else status, reply.lines)


def stage_in(text: str) -> Stage | None:
    """At which command the sentence says that it happened."""
    text = text[:MAX_CHARACTERS]
    found = _IN_REPLY.search(text) or _AFTER.search(text)
    if found is None:
        return (
            Stage.GREETING if "refused to talk to me" in text or "initial server greeting" in text else None
        )
    return next((stage for word, stage in _STAGES.items() if found["command"].upper().startswith(word)), None)


def _split(told: str, code: str) -> list[str]:
    """The lines of a reply that was written on one: each begins with the code again."""
    if not told.startswith(f"{code}-"):
        lines = told.split("\n")[:1]
    else:
        lines = [line for line in re.split(rf"\s+(?={code}[ -])", told) if line][:_MAX_LINES]
        lines = [line.replace("\n", " ") for line in lines]
    return [line if line[3:4] in (" ", "-", "") else f"{code} {line[3:].lstrip(',;:)- ')}" for line in lines]
