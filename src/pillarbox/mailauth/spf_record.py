"""Read an SPF record and expand its macros (RFC 7208 4.6.1, 5 to 7, 12).

What the terms mean for a client is `mailauth.spf`'s business. Parsing and expanding take time in proportion to the text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote

import msgspec

_MACRO = re.compile(r"%(?:\{([A-Za-z])([0-9]{0,6})([rR]?)([.\-+,/_=]*)\}|([%_-]))")
_LITERAL = re.compile(r"[\x21-\x24\x26-\x7e]*")
_SPOKEN = re.compile(r"[\x20-\x24\x26-\x7e]*")  # explanations may have spaces (RFC 7208 6.2)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=")
_PREFIX_LENGTHS = re.compile(r"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_ONE_LENGTH = re.compile(r"/(0|[1-9][0-9]{0,2})\Z")
_SIMPLE = {"%": "%", "_": " ", "-": "%20"}
_IN_TERMS = frozenset("slodiphv")
_IN_EXPLANATIONS = frozenset("slodiphvcrt")
_MAX_NAME = 253
_MAX_REMEMBERED = 1024  # characters of a record that is kept parsed
_RESULTS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


class RecordError(ValueError):
    """A record that breaks the grammar; the text names the term."""


class Macro(NamedTuple):
    """One `%{...}`: which value, and how it is cut."""

    letter: str  # in lower case
    keep: int  # right-hand parts that are kept; 0 for all
    reverse: bool
    delimiters: str
    escape: bool  # an upper-case letter: the value is escaped as in a URL


MacroString = tuple[str | Macro, ...]


class Term(msgspec.Struct, frozen=True):
    """One directive; `target` is None where the current domain is meant."""

    text: str
    result: str  # what it gives when it matches
    kind: str  # all, include, a, mx, ptr, ip4, ip6, exists
    target: MacroString | None = None
    network: int = 0  # ip4, ip6: the address, shifted right by 32 or 128 minus its prefix length
    shift4: int = 0  # 32 minus the prefix length
    shift6: int = 0  # 128 minus the prefix length


class Record(msgspec.Struct, frozen=True):
    """A record whose every term is well-formed."""

    terms: tuple[Term, ...]
    redirect: MacroString | None = None  # None also if there is `all`, which comes first (RFC 7208 6.1)
    explanation: MacroString | None = None


def parse_record(text: str) -> Record:
    """Read one record, which begins with "v=spf1". Raises RecordError naming the first term that is wrong."""
    return _remembered(text) if len(text) <= _MAX_REMEMBERED else _parse(text)


def _parse(text: str) -> Record:
    if not text.isascii():
        raise RecordError("the record has characters outside of ASCII")
    terms: list[Term] = []
    once: dict[str, MacroString] = {}
    for word in text.split(" ")[1:]:
        if not word:
            continue
        found = _MODIFIER.match(word)
        if found is None:
            terms.append(_term(word))
            continue
        name, value = found[1].lower(), word[found.end() :]
        if name not in ("redirect", "exp"):
            _macro_string(value, word)
        elif name in once:
            raise RecordError(f"{name}= stands there twice")
        else:
            once[name] = _domain_spec(value, word)
    redirect = None if any(term.kind == "all" for term in terms) else once.get("redirect")
    return Record(tuple(terms), redirect, once.get("exp"))


_remembered = lru_cache(maxsize=2048)(_parse)


def is_spf(text: str) -> bool:
    """Whether a TXT record is one of SPF version 1 (RFC 7208 4.5)."""
    return text[:6].lower() == "v=spf1" and text[6:7] in ("", " ")


def parse_explanation(text: str) -> MacroString:
    """Read what an `exp=` domain publishes. Raises RecordError."""
    return _parts(text, text, _SPOKEN, _IN_EXPLANATIONS)


def _term(word: str) -> Term:
    result = _RESULTS.get(word[0])
    body = word if result is None else word[1:]
    result = result or "pass"
    kind, colon, argument = body.partition(":")
    kind = kind.lower()
    if kind in ("ip4", "ip6") and colon:
        return _network(word, result, kind, argument)
    if kind == "all" and not colon:
        return Term(word, result, "all")
    if kind in ("include", "exists") and colon:
        return Term(word, result, kind, _domain_spec(argument, word))
    if kind == "ptr":
        return Term(word, result, kind, _domain_spec(argument, word) if colon else None)
    return _host_term(word, result, body)


def _host_term(word: str, result: str, body: str) -> Term:
    """`a` or `mx`, with or without domain and prefix lengths."""
    lengths = _PREFIX_LENGTHS.search(body)
    assert lengths is not None  # it also matches nothing
    kind, colon, argument = body[: lengths.start()].partition(":")
    kind = kind.lower()
    if kind not in ("a", "mx"):
        raise RecordError(f"unknown mechanism: {word}")
    four, six = int(lengths[1] or 32), int(lengths[2] or 128)
    if four > 32 or six > 128:
        raise RecordError(f"prefix too long: {word}")
    target = _domain_spec(argument, word) if colon else None
    return Term(word, result, kind, target, shift4=32 - four, shift6=128 - six)


def _network(word: str, result: str, kind: str, argument: str) -> Term:
    bits = 32 if kind == "ip4" else 128
    length = _ONE_LENGTH.search(argument)
    address = argument[: length.start()] if length else argument
    prefix = int(length[1]) if length else bits
    try:
        number = int(IPv4Address(address)) if bits == 32 else int(IPv6Address(address))
    except AddressValueError:
        raise RecordError(f"not an address: {word}") from None
    if prefix > bits or "%" in address:
        raise RecordError(f"not a network: {word}")
    shift = bits - prefix
    return Term(word, result, kind, network=number >> shift, shift4=shift, shift6=shift)


def _macro_string(text: str, word: str) -> MacroString:
    return _parts(text, word, _LITERAL, _IN_TERMS)


def _parts(text: str, word: str, literal: re.Pattern[str], letters: frozenset[str]) -> MacroString:
    """Cut a macro-string into literals and macros (RFC 7208 7.1)."""
    parts: list[str | Macro] = []
    at = 0
    while at < len(text):
        plain = literal.match(text, at)
        assert plain is not None  # it also matches nothing
        if plain.end() > at:
            parts.append(plain[0])
            at = plain.end()
            continue
        found = _MACRO.match(text, at)
        if found is None:
            raise RecordError(f"not a macro at character {at + 1}: {word}")
        at = found.end()
        if found[5]:
            parts.append(_SIMPLE[found[5]])
            continue
        letter = found[1].lower()
        keep = int(found[2]) if found[2] else 0
        if letter not in letters or (found[2] and not keep):
            raise RecordError(f"not a macro: {found[0]} in {word}")
        parts.append(Macro(letter, keep, bool(found[3]), found[4] or ".", found[1] != letter))
    return tuple(parts)


def _domain_spec(text: str, word: str) -> MacroString:
    """A macro-string that ends in a macro or in a top label (RFC 7208 7.1)."""
    parts = _macro_string(text, word)
    if not parts:
        raise RecordError(f"no domain: {word}")
    last = parts[-1]
    if isinstance(last, str) and not (text.endswith("}") or text[-2:] in ("%%", "%_", "%-")):
        head, dot, top = last.removesuffix(".").rpartition(".")
        if not dot or (not head and len(parts) == 1) or not _is_top_label(top):
            raise RecordError(f"not a full domain name: {word}")
    return parts


def _is_top_label(label: str) -> bool:
    plain = label.replace("-", "")
    if not plain.isalnum() or label[0] == "-" or label[-1] == "-":
        return False
    return not label.isdigit()


def expand(parts: MacroString, values: dict[str, str]) -> str:
    """Put the values into a macro-string."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return "".join(part if isinstance(part, str) else _value(part, values[part.letter]) for part in parts)


def needs(parts: MacroString, letters: str) -> bool:
    """Whether a macro-string uses one of these values."""
    return any(isinstance(part, Macro) and part.letter in letters for part in parts)


def _value(macro: Macro, value: str) -> str:
    if macro.keep or macro.reverse or macro.delimiters != ".":
        delimiters = macro.delimiters
        for other in delimiters[1:]:
            value = value.replace(other, delimiters[0])
        pieces = value.split(delimiters[0])
        if macro.reverse:
            pieces.reverse()
        value = ".".join(pieces[-macro.keep :] if macro.keep else pieces)
    return quote(value, safe="", errors="surrogatepass") if macro.escape else value


def shorten(name: str) -> str:
    """Cut a name to what DNS can ask by leaving out labels on the left (RFC 7208 7.3)."""
    name = name.removesuffix(".")
    while len(name) > _MAX_NAME:
        excess = len(name) - _MAX_NAME
        dot = name.find(".", excess - 1)
        if dot < 0:
            return ""
        name = name[dot + 1 :]
    return name
