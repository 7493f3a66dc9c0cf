"""The few messages of LDAP that finding an entry and checking a password take (RFC 4511), and filters as text (RFC 4515).

A filter is read once, with placeholders; values are put into the octets, not into the text, so that no value can change what
is asked. Connections are the business of `net.ldap`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_OCTETS = 1 << 20  # of one message
_MAX_DEPTH = 20
_INTEGER, _OCTETS, _ENUM, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x0A, 0x01, 0x30
_BIND, _SEARCH, _EXTENDED = 0x60, 0x63, 0x77
BIND_DONE, ENTRY, SEARCH_DONE, REFERENCE, EXTENDED_DONE = 0x61, 0x64, 0x65, 0x73, 0x78
_SIMPLE = 0x80  # the password itself
_START_TLS = b"1.3.6.1.4.1.1466.20037"  # RFC 4511 4.14.1
_SUBTREE, _NEVER_DEREFERENCE = 2, 0
_SETS = {"&": 0xA0, "|": 0xA1}
_NOT, _EQUAL, _SUBSTRINGS, _PRESENT, _EXTENSIBLE = 0xA2, 0xA3, 0xA4, 0x87, 0xA9
_COMPARISONS = {">=": 0xA5, "<=": 0xA6, "~=": 0xA8, "=": _EQUAL}
_ITEM = re.compile(r"([A-Za-z0-9.;-]*)((?::dn)?(?::[A-Za-z0-9.-]+)?:=|[<>~]?=)([^()]*)")
_PIECE = re.compile(r"\{(\w+)\}|\\([0-9A-Fa-f]{2})|([^{}\\]+)")

Piece: TypeAlias = "bytes | str"  # octets, or the name of a placeholder


class Entry(NamedTuple):
    """What a search found. Names of attributes are in lower case."""

    dn: str
    attributes: dict[str, tuple[str, ...]]


class Answer(NamedTuple):
    """One message of the server: its number, kind, and what is in it."""

    number: int
    kind: int
    body: bytes


def _element(tag: int, *contents: bytes) -> bytes:
    octets = b"".join(contents)
    size = len(octets)
    if size < 0x80:
        return bytes((tag, size)) + octets
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + octets


def _integer(value: int, tag: int = _INTEGER) -> bytes:
    return _element(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _message(number: int, operation: bytes) -> bytes:
    return _element(_SEQUENCE, _integer(number), operation)


def bind_request(number: int, dn: str, password: str) -> bytes:
    """Ask whether a password is that of an entry."""
    simple = _element(_SIMPLE, password.encode())
    return _message(number, _element(_BIND, _integer(3), _element(_OCTETS, dn.encode()), simple))


def search_request(
    number: int, base: str, wanted: bytes, attributes: Sequence[str], *, most: int, limit_s: int
) -> bytes:
    """Ask for entries below `base`; `wanted` is an encoded filter."""
    return _message(
        number,
        _element(
            _SEARCH,
            _element(_OCTETS, base.encode()),
            _integer(_SUBTREE, _ENUM),
            _integer(_NEVER_DEREFERENCE, _ENUM),
            _integer(most),
            _integer(limit_s),
            _element(_BOOLEAN, b"\x00"),  # not only the types
            wanted,
            _element(_SEQUENCE, *(_element(_OCTETS, name.encode()) for name in attributes or ("1.1",))),
        ),
    )


def start_tls_request(number: int) -> bytes:
    """Ask to go on with TLS."""
    return _message(number, _element(_EXTENDED, _element(0x80, _START_TLS)))


# ---------------------------------------------------------------------- answers


def length_of(first: int) -> int:
    """How many more octets tell the length that begins with this one; 0 if it is the length itself."""
    return first & 0x7F if first & 0x80 else 0


def _elements(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements in a row. Raises ValueError."""
    at = 0
    while at < len(octets):
        if at + 2 > len(octets):
            raise ValueError("an element without a length")
        tag, size = octets[at], octets[at + 1]
        more = length_of(size)
        at += 2
        if more:
            size = int.from_bytes(octets[at : at + more], "big")
            at += more
        if more > 4 or at + size > len(octets):
            raise ValueError("an element that is longer than its message")
        yield tag, octets[at : at + size]
        at += size


def read_answer(octets: bytes) -> Answer:
    """Read what is in the outermost sequence. Raises ValueError."""
    (_, number), (kind, body), *_controls = _elements(octets)
    return Answer(int.from_bytes(number, "big", signed=True), kind, body)


def read_result(body: bytes) -> tuple[int, str]:
    """The code of a result, and what the server says about it. Raises ValueError."""
    (_, code), _dn, (_, text), *_rest = _elements(body)
    return int.from_bytes(code, "big"), text.decode("utf-8", "replace")


def read_entry(body: bytes) -> Entry:
    """Read an entry that was found. Values that are no text are left out. Raises ValueError."""
    (_, dn), (_, listed) = _elements(body)
    attributes = {}
    for _, attribute in _elements(listed):
        (_, name), (_, values) = _elements(attribute)
        attributes[name.decode().lower()] = tuple(_texts(values))
    return Entry(dn.decode(), attributes)


def _texts(values: bytes) -> Iterator[str]:
    for _, value in _elements(values):
        try:
            yield value.decode()
        except UnicodeDecodeError:
            continue


# ---------------------------------------------------------------------- filters


class Filter(NamedTuple):
    """A filter, or a part of one, whose values may have placeholders."""

    tag: int
    parts: tuple[Filter, ...] = ()  # of and, or, not, substrings and extensible
    octets: bytes = b""  # what stands in front of the value
    value: tuple[Piece, ...] | None = None
    inner: int = _OCTETS  # the tag of the value

    def encode(self, values: Mapping[str, str]) -> bytes:
        """The octets, with the placeholders filled in."""
        if self.value is not None:
            filled = b"".join(
                values[piece].encode() if isinstance(piece, str) else piece for piece in self.value
            )
            return (
                self.octets + _element(self.inner, filled)
                if not self.tag
                else _element(self.tag, self.octets, _element(self.inner, filled))
            )
        return _element(self.tag, self.octets, *(part.encode(values) for part in self.parts))


def parse_filter(text: str, names: Sequence[str]) -> Filter:
    """Read a filter that may have the placeholders `names`. Raises ValueError."""
    found, end = _parse(text.strip(), 0, names, 0)
    if end != len(text.strip()):
        raise ValueError(f'"{text}": nothing may follow the filter')
    return found


def _parse(text: str, at: int, names: Sequence[str], depth: int) -> tuple[Filter, int]:
    if depth > _MAX_DEPTH or text[at : at + 1] != "(":
        raise ValueError(
            f'"{text}": a filter is written (attribute=value), (&(...)(...)), (|(...)(...)) or (!(...))'
        )
    at += 1
    sign = text[at : at + 1]
    if sign in _SETS or sign == "!":
        at += 1
        parts = []
        while text[at : at + 1] == "(":
            part, at = _parse(text, at, names, depth + 1)
            parts.append(part)
        if not parts or (sign == "!" and len(parts) != 1):
            raise ValueError(f'"{text}": "{sign}" needs a filter behind it')
        found = Filter(_SETS.get(sign, _NOT), tuple(parts))
    else:
        item = _ITEM.match(text, at)
        if item is None:
            raise ValueError(f'"{text}": "{text[at:]}" does not begin with attribute=value')
        found, at = _item(item[1], item[2], item[3], names), item.end()
    if text[at : at + 1] != ")":
        raise ValueError(f'"{text}": there is a ")" missing')
    return found, at + 1


def _item(name: str, sign: str, value: str, names: Sequence[str]) -> Filter:
    """One comparison. Raises ValueError."""
    if sign.endswith(":="):
        rule = sign[:-2].removeprefix(":dn").removeprefix(":")
        about = (_element(0x81, rule.encode()) if rule else b"") + (
            _element(0x82, name.encode()) if name else b""
        )
        parts: tuple[Filter, ...] = (Filter(0, octets=about, value=_pieces(value, names), inner=0x83),)
        if sign.startswith(":dn:"):
            parts += (Filter(0, value=(b"\xff",), inner=0x84),)
        return Filter(_EXTENSIBLE, parts)
    if not name:
        raise ValueError(f'"{sign}{value}": there is no attribute in front')
    if sign == "=" and value == "*":
        return Filter(_PRESENT, octets=name.encode())
    attribute = _element(_OCTETS, name.encode())
    if sign != "=" or "*" not in value:
        return Filter(_COMPARISONS[sign], octets=attribute, value=_pieces(value, names))
    first, *middle, last = value.split("*")
    places = [(0x80, first), *((0x81, piece) for piece in middle), (0x82, last)]
    strings = tuple(Filter(0, value=_pieces(piece, names), inner=tag) for tag, piece in places if piece)
    return Filter(_SUBSTRINGS, (Filter(_SEQUENCE, strings),), attribute)


def _pieces(value: str, names: Sequence[str]) -> tuple[Piece, ...]:
    """Octets and placeholders. Raises ValueError."""
    pieces: list[Piece] = []
    at = 0
    for found in _PIECE.finditer(value):
        if found.start() != at:
            break
        at = found.end()
        if found[1] and found[1] not in names:
            break
        pieces.append(found[1] or (bytes.fromhex(found[2]) if found[2] else found[3].encode()))
    else:
        if at == len(value):
            return tuple(pieces)
    shown = ", ".join(f"{{{name}}}" for name in names)
    raise ValueError(
        f'"{value}": the placeholders are {shown}; other braces and backslashes are written \\7b, \\7d, \\5c'
    )
