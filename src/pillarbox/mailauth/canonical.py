"""Bring header fields and bodies into the form that is signed: "simple" and "relaxed" (RFC 6376 3.4).

Everything works in C on whole pieces and takes time in proportion to the octets, whatever stands in them; a body may come
in pieces of any size. Signatures are the business of `mailauth.dkim`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from io import IncrementalNewlineDecoder

_LINE_END = re.compile(rb"\r\n(?![ \t])")
_ODD_SPACE = re.compile(rb"[\r\n\x0b\x0c]")
_SPACES = re.compile(rb"[ \t]+")
_COLON = ord(":")  # to ask for an octet by its bytes costs an exception inside of the interpreter
_STEP = (
    65_536  # a body is worked on in pieces no larger than this, so that a run of spaces shrinks in few passes
)


def split_fields(section: bytes) -> list[bytes]:
    """The fields of a header section in order, each without its last line end."""
    return [field for field in _LINE_END.split(section) if _COLON in field]


def relaxed_fields(section: bytes) -> tuple[list[bytes], list[bytes]]:
    """The same fields in two lists: their names as they stand there, and their values in relaxed form.

    The white space of all of them is worked on at once, which takes fewer steps than field by field.
    """
    names, values = [], []
    for field in _collapse_spaces(section.replace(b"\t", b" ").replace(b"\r\n ", b" ")).split(b"\r\n"):
        name, colon, value = field.partition(b":")
        if colon:
            names.append(name)
            values.append(value.strip(b" "))
    return names, values


def relaxed_field(field: bytes) -> bytes:
    """One field in relaxed form, without line end."""
    name, _, value = field.partition(b":")
    return name.strip(b" \t").lower() + b":" + relaxed_value(value)


def relaxed_value(value: bytes) -> bytes:
    """A field's value unfolded, with each run of white space made one space, and none at the ends."""
    value = value.replace(b"\r\n", b"")
    if _ODD_SPACE.search(value):  # these are white space to split(), but not to the standard
        return _SPACES.sub(b" ", value).strip(b" ")
    return b" ".join(value.split())


def canonical_field(field: bytes, form: str) -> bytes:
    """One field as `form` ("simple" or "relaxed") has it, without line end."""
    return relaxed_field(field) if form == "relaxed" else field


class BodyHash:
    """SHA-256 of a body in one canonical form, of all of it or of its first `limit` octets."""

    __slots__ = (
        "_bare",
        "_blank",
        "_digest",
        "_ends",
        "_held",
        "_limit",
        "_relaxed",
        "_sum",
        "_whole",
        "hashed",
        "octets",
    )

    def __init__(self, form: str = "relaxed", limit: int | None = None) -> None:
        """`limit` is the value of `l=`: octets of the canonical body that are signed."""
        self._relaxed = form == "relaxed"
        self._limit = limit
        self._sum = sha256()
        self._whole = (
            b""  # all of the body so far, as long as it came in one small piece: that takes fewer steps
        )
        self._held = b""  # the end of the last piece, which the next one may change: white space and CR
        self._ends: IncrementalNewlineDecoder | None = None  # sees the line ends of a body in pieces
        self._digest = b""  # once it was asked for
        self._blank = 0  # line ends not yet hashed: at the end of a body they don't count
        self._bare: bool | None = None
        self.octets = 0  # of the canonical form
        self.hashed = 0  # of these, what the limit lets be signed

    def update(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        if self._ends is None:
            if not self._whole and len(piece) <= _STEP:
                self._whole = piece
                return
            self._ends = IncrementalNewlineDecoder(None, translate=False)
            self._take(self._whole)
        for at in range(0, len(piece), _STEP):
            self._take(piece[at : at + _STEP])

    def _take(self, piece: bytes) -> None:
        assert self._ends is not None  # the body comes in pieces
        self._ends.decode(piece.decode("latin-1"))
        data = self._held + piece if self._held else piece
        if self._relaxed:
            data = _collapse(data)
        kept = len(data)
        if data.endswith(b"\r"):
            kept -= 1
        if self._relaxed and data.endswith(b" ", 0, kept):
            kept -= 1
        self._held = data[kept:]
        if self._held:
            data = data[:kept]
        content = data.rstrip(b"\r\n")
        ends = data[len(content) :]
        blank = len(ends) >> 1
        if ends != b"\r\n" * blank:  # some are bare, and content
            marked = ends.replace(b"\r\n", b"\0")
            content += marked.rstrip(b"\0").replace(b"\0", b"\r\n")
            blank = len(marked) - len(marked.rstrip(b"\0"))
        if content:
            self._emit_blank()
            self._emit(content)
        self._blank += blank

    def _emit_blank(self) -> None:
        while self._blank:
            count = min(self._blank, _STEP)
            self._emit(b"\r\n" * count)
            self._blank -= count

    def _emit(self, data: bytes) -> None:
        self.octets += len(data)
        if self._limit is not None:
            data = data[: max(self._limit - self.hashed, 0)]
        self.hashed += len(data)
        self._sum.update(data)

    def digest(self) -> bytes:
        """The sum of the whole body; nothing may come after it."""
        if self._digest:
            return self._digest
        if self._ends is None and not self._hash_whole():
            self._ends = IncrementalNewlineDecoder(None, translate=False)
            self._take(self._whole)
        if self._ends is not None:
            self._finish(self._ends)
        self._digest = self._sum.digest()
        return self._digest

    @property
    def bare(self) -> bool:
        """Whether a CR or LF stands alone in it; to be asked for when the sum is known."""
        if self._bare is None:
            self._bare = has_bare_line_end(self._whole) if self._ends is None else _is_odd(self._ends)
        return self._bare

    def _hash_whole(self) -> bool:
        """Hash a body that came in one piece, if it is a usual one; otherwise do nothing."""
        data = None if self._limit is not None else _usual_body(self._whole, relaxed=self._relaxed)
        if data is None:
            return False
        self.octets = self.hashed = len(data)
        self._sum.update(data)
        return True

    def _finish(self, ends: IncrementalNewlineDecoder) -> None:
        ends.decode("", final=True)
        held = self._held.rstrip(b" ") if self._relaxed else self._held
        if held:  # a CR without LF
            self._emit_blank()
            self._emit(self._held)
        if self.octets or not self._relaxed:
            self._blank = 0
            self._emit(b"\r\n")


def relaxed_sum(body: bytes) -> bytes:
    """SHA-256 of a whole body in relaxed form, for those who want to know nothing else about it."""
    data = _usual_body(body, relaxed=True) if len(body) <= _STEP else None
    if data is not None:
        return sha256(data).digest()
    one = BodyHash()
    one.update(body)
    return one.digest()


def _usual_body(data: bytes, *, relaxed: bool) -> bytes | None:
    """The canonical form of a body that is not empty and ends with a line end, if there is no bare one among the last."""
    if relaxed:
        data = _collapse(data)
    content = len(data.rstrip(b"\r\n"))
    ends = len(data) - content
    if not content or not ends or data[content:] != b"\r\n" * (ends >> 1):
        return None
    return data[: content + 2]  # of the line ends at the end of a body one counts


def _collapse(data: bytes) -> bytes:
    """Relaxed white space inside of lines and at their ends."""
    return _collapse_spaces(data.replace(b"\t", b" ")).replace(b" \r\n", b"\r\n")


def _collapse_spaces(data: bytes) -> bytes:
    while data.find(b"  ") >= 0:
        data = data.replace(b"  ", b" ")
    return data


def hash_body(pieces: Iterable[bytes], hashes: Iterable[BodyHash]) -> None:
    """Give a body's pieces to all hashes."""
    hashes = tuple(hashes)
    for piece in pieces:
        for one in hashes:
            one.update(piece)


def has_bare_line_end(data: bytes) -> bool:
    """Whether a CR or LF stands alone: hosts that take it for a line end read another message than the one signed."""
    ends = IncrementalNewlineDecoder(None, translate=False)
    ends.decode(data.decode("latin-1"), final=True)
    return _is_odd(ends)


def _is_odd(ends: IncrementalNewlineDecoder) -> bool:
    """Whether there were others than CRLF; one pass of C finds that out, where counting takes three."""
    return ends.newlines not in {None, "\r\n"}
