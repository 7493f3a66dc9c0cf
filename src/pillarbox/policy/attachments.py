"""Refuse messages with attachments whose names end in what the operator listed.

The names are found in the fields that may carry them, wherever these stand; the structure of the message is not built.
What is inside of an attachment is a scanner's business.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Settings
from pillarbox.policy.hooks import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Incoming

_MAX_FIELD_OCTETS = 8192  # of a field that are looked at
_FIELD = re.compile(rb"^content-(?:disposition|type)[ \t]*:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb'name(\*\d{0,3}\*?|)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s;"]+)', re.IGNORECASE)
_FOLD = re.compile(rb"\r?\n")
_QUOTED_PAIR = re.compile(rb"\\(.)")
_CHARSET = re.compile(rb"^[^']{0,40}'[^']{0,40}'")
_MAX_LOOKED_AT = 10_000  # fields and names of one message; more are there only to hide one
_MAX_WORDS_OCTETS = 1000  # of encoded words that are decoded


class AttachmentSettings(Settings, frozen=True):
    """Attachments that are not accepted: `[attachments]`."""

    deny: tuple[str, ...] = ()
    """Endings of file names, such as "exe" or "js"."""
    action: Action = Action.REJECT
    """What to do with a message that has an attachment with such a name (554)."""


class Attachments:
    """Look for the names of attachments. A plain function, because a large message is read from the disk."""

    def __init__(self, settings: AttachmentSettings) -> None:
        """Refuse the endings that are listed, in upper or lower case."""
        self.action = settings.action
        self._endings = tuple(f".{ending.lower().lstrip('.')}" for ending in settings.deny)

    def decide_message(self, message: Incoming) -> Reply | None:
        """Refuse a message with such an attachment."""
        looked_at = 0
        for field in find_fields(message.chunks()):
            names = list(names_in(field))
            looked_at += 1 + len(names)
            if looked_at > _MAX_LOOKED_AT:
                return policy.ATTACHMENT_DENIED.reply(name="these, too many to look at,")
            for name in names:
                if name.lower().rstrip(". \t").endswith(self._endings):
                    return policy.ATTACHMENT_DENIED.reply(name=name[-60:])
        return None


def find_fields(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The values of the fields of a message and its parts that may name an attachment."""
    text = b"\n"
    for piece in pieces:
        text += piece
        keep = text.rfind(b"\n")  # what follows is the beginning of a line
        for found in _FIELD.finditer(text):
            if found.end() >= len(text) - 1 and len(found[0]) < _MAX_FIELD_OCTETS:
                keep = found.start()  # it may go on in the next piece
                break
            yield found[1][:_MAX_FIELD_OCTETS]
        # a line that is long already is no such field
        text = text[keep:] if keep >= 0 and len(text) - keep < _MAX_FIELD_OCTETS else b"-"
    for found in _FIELD.finditer(text):
        yield found[1]


def names_in(field: bytes) -> Iterator[str]:
    """The names in one field's value, in any of the three ways in which they are written (RFC 2231, RFC 2047, plain)."""
    pieces: list[bytes] = []
    for mark, raw in _NAME.findall(_FOLD.sub(b"", field)):
        value = _QUOTED_PAIR.sub(rb"\1", raw[1:-1]) if raw.startswith(b'"') else raw
        if mark.endswith(b"*"):
            value = unquote_to_bytes(_CHARSET.sub(b"", value))
        if mark.strip(b"*"):
            pieces.append(value)
        else:
            yield _decode_words(value)
    if pieces:
        yield b"".join(pieces).decode("utf-8", "replace")


def _decode_words(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    if "=?" not in text or len(text) > _MAX_WORDS_OCTETS:
        return text
    from email.errors import HeaderParseError  # noqa: PLC0415 - few names need it, and a start would have to wait
    from email.header import decode_header  # noqa: PLC0415 - as above

    try:
        words = decode_header(text)
    except (HeaderParseError, ValueError):
        return text
    return "".join(
        word if isinstance(word, str) else word.decode("utf-8" if charset is None else "latin-1", "replace")
        for word, charset in words
    )
