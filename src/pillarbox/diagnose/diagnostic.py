"""Find the reply that another program quotes inside a sentence of its own, as logs, bounces and exceptions do.

Refusals are found by `notices`; here successes are found as well, and what cannot be found is kept as words.
"""

from __future__ import annotations

import re

from pillarbox.diagnose.notices import find_reply, find_stage
from pillarbox.mail.reply import Reply, Stage

MAX_CHARACTERS = 8192

_SUCCESS = re.compile(r"(?:^|[\s(\"':])(2[0-5]\d)[ -](?:([2]\.\d{1,3}\.\d{1,3}) )?([^\"]*)")
_STATUS = re.compile(r"\(?#?([245]\.\d{1,3}\.\d{1,3})\)?[ :;-]*", re.ASCII)
_IN_REPLY = re.compile(r"\s*\(in reply to [^()]{1,60}\)*\s*$")


def reply_in(text: str, *, status: str = "") -> Reply:
    """The reply that stands in a sentence; one with code 0 and all the words if there is none.

    `status` is used if the reply has none of its own. Never raises.
    """
    text = _IN_REPLY.sub("", text[:MAX_CHARACTERS].replace("\\n", "\n").strip())
    found = find_reply(text)
    if found is not None and found.code:
        return found if found.status else Reply(found.code, status, found.lines)
    if (success := _SUCCESS.search(text)) is not None:
        return Reply(int(success[1]), success[2] or "", (success[3].strip(" )"),))
    words = _STATUS.sub("", text, count=1) if _STATUS.match(text) else text
    return Reply(0, found.status if found is not None else status, (words,))


def stage_in(text: str) -> Stage | None:
    """At which command the sentence says that it happened."""
    return find_stage(text[:MAX_CHARACTERS])
