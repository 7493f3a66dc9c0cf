"""Take a message apart into its parts and undo their codings (RFC 2045, RFC 2046), as far as reading reports needs it.

Never raises, whatever the octets are. What the parts mean is left to `dsn` and to readers of other reports; returned
messages stay whole.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

import msgspec

from pillarbox.mail.message import Head, scan_head

MAX_DEPTH = 3  # of multiparts within multiparts
MAX_PARTS = 100  # of one multipart

_BOUNDARY_LINE = re.compile(rb"(?m)^--([!-~][ -~]{0,68}[!-~])\r?\nContent-", re.IGNORECASE)
_PARAMETER = re.compile(r';[ \t]*([A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.ASCII)
# Only codecs that can't fail or take more than linear time.
_CHARSET = re.compile(
    r"utf-?8|(?:us-)?ascii|iso-?8859-\d{1,2}|windows-\d{3,4}|cp\d{3,4}|iso-2022-(?:jp|kr)|euc-(?:jp|kr)|shift[_-]jis"
    r"|sjis|gb2312|gbk|gb18030|big5|koi8-[ru]|tis-620"
)
_WORD = re.compile(
    r"=\?([A-Za-z0-9_.:-]{1,40})(?:\*[A-Za-z-]{0,20})?\?([BbQq])\?([^? ]{0,500})\?=(?:\s+(?==\?))?", re.ASCII
)


class Part(msgspec.Struct, frozen=True):
    """One leaf of a message, its transfer coding undone; `kind` in lower case: "text/plain"."""

    kind: str
    parameters: dict[str, str]
    octets: bytes

    @property
    def text(self) -> str:
        """The octets as text; what does not fit its charset is replaced."""
        return decode(self.octets, self.parameters.get("charset", ""))


def parts(entity: bytes) -> list[Part]:
    """The leaves of a message, depth first; no part of a returned message."""
    return list(_parts(entity, scan_head(entity), 0))


def content_type(head: Head) -> tuple[str, dict[str, str]]:
    """Type and parameters, in lower case but for the parameters' values."""
    value = head.get("content-type")[:2000]
    kind = value.partition(";")[0].strip().lower() or "text/plain"
    return kind, {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(value)}


def decode(octets: bytes, charset: str) -> str:
    """Text in a charset; an unknown one is taken for UTF-8."""
    name = charset.strip().lower()
    if not _CHARSET.fullmatch(name):
        name = "utf-8"
    try:
        return octets.decode(name, "replace")
    except (ValueError, LookupError):
        return octets.decode("utf-8", "replace")


def decode_words(value: str) -> str:
    """Read encoded words (RFC 2047) in the first 2,000 characters; what can't be read stays as it is."""

    def one(found: re.Match[str]) -> str:
        charset, coding, data = found.groups()
        try:
            raw = base64.b64decode(data) if coding in "Bb" else binascii.a2b_qp(data, header=True)
        except ValueError:
            return found[0]
        return decode(raw, charset)

    return _WORD.sub(one, value[:2000])


def _parts(entity: bytes, head: Head, depth: int) -> Iterator[Part]:
    kind, parameters = content_type(head)
    body = entity[head.body_at :]
    if kind.startswith("multipart/") and depth < MAX_DEPTH and "boundary" in parameters:
        pieces = _split(body, parameters["boundary"]) or _split(body, _guessed_boundary(body))
        for piece in pieces:
            yield from _parts(piece, scan_head(piece), depth + 1)
        if not pieces:
            yield Part("text/plain", {}, body)
    else:
        yield Part(kind, parameters, _undo_coding(body, head.get("content-transfer-encoding").lower()))


def _split(body: bytes, boundary: str) -> list[bytes]:
    """The parts between the boundary lines; a missing end line is forgiven."""
    mark = b"\n--" + boundary.encode("utf-8", "surrogateescape")
    pieces = (b"\n" + body).split(mark, MAX_PARTS)[1:]
    found = []
    for piece in pieces:
        rest, line_feed, part = piece.partition(b"\n")
        if rest.startswith(b"--"):
            break
        if line_feed and not rest.strip():
            found.append(part.removesuffix(b"\r"))
    return found


def _guessed_boundary(body: bytes) -> str:
    """What separates the parts if it is not what the head says: the first line that looks like it."""
    found = _BOUNDARY_LINE.search(body)
    return found[1].decode("ascii") if found else "-" * 80


def _undo_coding(body: bytes, coding: str) -> bytes:
    """Undo the content transfer encoding (RFC 2045 6); what can't be undone stays as it is."""
    try:
        if coding == "base64":
            return base64.b64decode(body)
        return binascii.a2b_qp(body) if coding == "quoted-printable" else body
    except ValueError:
        return body
