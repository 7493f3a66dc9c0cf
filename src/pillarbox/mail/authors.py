"""Read the addresses out of a field such as From or To, in one pass (RFC 5322 3.4, 3.6.2, 3.6.3).

Whether a sender may claim to be the author that From names is decided by `policy`.
"""

from __future__ import annotations

import re

_MAX_CHARACTERS = 8192
# A quoted string, a comment's parenthesis, an angle or comma that separates, or a run of anything else.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\\.|[()<>,:;]|[^"()<>,:;\\]+|["\\]')


def addresses(value: str) -> list[str]:
    """The addresses of a From field in lower case; what can't be read as one is given back as it is."""
    if len(value) > _MAX_CHARACTERS:
        return [value[:_MAX_CHARACTERS]]
    return mailboxes(value.lower())


def mailboxes(value: str) -> list[str]:
    """The addresses of a field as they are written; what can't be read as one is given back as it is."""
    found: list[str] = []
    words, in_angles, depth = "", None, 0
    for part in [*_TOKEN.findall(value), ","]:
        if part == "(":
            depth += 1
        elif part == ")" and depth:
            depth -= 1
        elif depth:
            continue
        elif part == "<":
            in_angles, words = "", ""
        elif part == ">":
            words, in_angles = in_angles or "", None
        elif part in (",", ":", ";"):
            if part != ":" and (address := (words if in_angles is None else in_angles).strip()):
                found.append(address)
            words, in_angles = "", None
        elif in_angles is not None:
            in_angles += part
        else:
            words += part
    return found
