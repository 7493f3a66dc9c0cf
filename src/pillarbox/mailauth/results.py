"""Write and read what checks found: Authentication-Results (RFC 8601) and Received-SPF (RFC 7208 9.1).

Reading takes time in proportion to the text, whatever stands in it. Whether a field is to be trusted is for others to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

MAX_VALUE = 16_384  # characters of one field that are read; more is not believed
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`{|}~0-9A-Za-z]+")
_ADDRESS = re.compile(
    r"[!#$%&'*+\-./=?^_`{|}~0-9A-Za-z]*@[A-Za-z0-9.-]+"
)  # a pvalue without quotes (RFC 8601 2.2)
_PIECE = re.compile(r"[ \t\r\n]+|\"(?:[^\"\\]|\\.)*\"|[;=/]|[^ \t\r\n\"();=/]+|.", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_DOT_ATOM = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_MAX_WIDTH = 990  # octets of a value that may not be folded


class Finding(NamedTuple):
    """The result of one method; `properties` are pairs such as ("smtp.mailfrom", "example.org")."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    comment: str = ""


class Results(NamedTuple):
    """One Authentication-Results field: who says so, and what was found."""

    server: str  # the authserv-id
    findings: tuple[Finding, ...]


def format_results(server: str, findings: list[Finding], name: str = "Authentication-Results") -> bytes:
    """The whole field, one finding a line, with its line end; without findings it says "none"."""
    return f"{name}: {format_value(server, findings)}\r\n".encode("utf-8", "surrogateescape")


def format_value(server: str, findings: list[Finding]) -> str:
    """What stands behind the colon."""
    return join_findings(server, [format_finding(one) for one in findings])


def join_findings(server: str, formatted: list[str]) -> str:
    """The same of findings that are formatted already."""
    return quoted(server) + ("".join(f";\r\n\t{one}" for one in formatted) or "; none")


@lru_cache(maxsize=1024)
def format_finding(finding: Finding) -> str:
    """One result as it stands in the field, in one line unless it is long. Most are found again and again."""
    text = f"{finding.method}={finding.result}"
    if finding.comment:
        text += f" ({_comment(finding.comment)})"
    if finding.reason:
        text += f" reason={quoted(finding.reason)}"
    return text + "".join(
        f"{_fold(text, place)}{place}={quoted(value)}" for place, value in finding.properties if value
    )


def _fold(text: str, place: str) -> str:
    return "\r\n\t" if place.startswith("policy.") or len(text) > 200 else " "


def quoted(text: str) -> str:
    """A value (RFC 2045 5.1), in quotes where it needs them; control characters become question marks."""
    if _TOKEN.fullmatch(text) or _ADDRESS.fullmatch(text):
        return text[:_MAX_WIDTH]
    text = _UNSAFE.sub("?", text[: _MAX_WIDTH // 2])
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(text: str) -> str:
    return _UNSAFE.sub("?", text[: _MAX_WIDTH // 2]).replace("\\", "/").replace("(", "[").replace(")", "]")


def _pieces(text: str) -> list[str] | None:
    """Tokens without comments; white space is " ". None if a comment or a quoted string has no end."""
    found: list[str] = []
    depth = 0
    at = 0
    while at < len(text):
        character = text[at]
        if depth or character == "(":
            if character == "\\":
                at += 1
            depth += (character == "(") - (character == ")")
            at += 1
            if depth == 0:
                found.append(" ")
            continue
        piece = _PIECE.match(text, at)
        assert piece is not None  # its last choice takes anything
        token = piece[0]
        if token in ('"', ")"):
            return None
        found.append(" " if token[0] in " \t\r\n" else token)
        at = piece.end()
    return None if depth else found


def _unquote(token: str) -> str:
    return _ESCAPED.sub(r"\1", token[1:-1]) if token.startswith('"') else token


def server_of(value: str) -> str:
    """Who a field claims to be from, in lower case; "" if that can't be told."""
    pieces = _pieces(value[:MAX_VALUE])
    if pieces is None:
        head, _, _ = value[:MAX_VALUE].partition(";")
        pieces = _pieces(head) or []
    return next((_unquote(piece).lower() for piece in pieces if piece != " "), "")


def parse_results(value: str) -> Results | None:
    """Read what stands behind the colon; None if it breaks the grammar or is over the limit."""
    if len(value) > MAX_VALUE:
        return None
    pieces = _pieces(value)
    if pieces is None:
        return None
    sections: list[list[str]] = [[]]
    for piece in pieces:
        if piece == ";":
            sections.append([])
        else:
            sections[-1].append(piece)
    head = [piece for piece in sections[0] if piece != " "]
    if not head or len(head) > 2 or (len(head) == 2 and head[1] != "1"):
        return None
    findings: list[Finding] = []
    for section in sections[1:]:
        if not any(piece not in {" ", "none"} for piece in section):
            continue
        finding = _parse_finding(section)
        if finding is None:
            return None
        findings.append(finding)
    return Results(_unquote(head[0]), tuple(findings))


def _parse_finding(pieces: list[str]) -> Finding | None:
    """`method[/version]=result [reason=value] *(ptype.property=value)`."""
    pairs: list[tuple[str, str]] = []
    words = iter(pieces)
    for word in words:
        if word == " ":
            continue
        follower = _next_word(words)
        if follower == "/":  # a version of the method
            _next_word(words)
            follower = _next_word(words)
        if follower != "=":
            return None
        value = _unquote(_next_word(words))
        for more in words:  # a value without quotes may have "=" or "/" inside
            if more == " ":
                break
            value += _unquote(more)
        pairs.append((word.lower(), value))
    if not pairs or not _METHOD.fullmatch(pairs[0][0]) or not pairs[0][1]:
        return None
    rest = pairs[1:]
    properties = tuple(pair for pair in rest if "." in pair[0])
    reason = next((value for place, value in rest if place == "reason"), "")
    return Finding(pairs[0][0], pairs[0][1].lower(), properties, reason)


def _next_word(words: Iterator[str]) -> str:
    return next((word for word in words if word != " "), "")


_SPF_SAYS = {
    "pass": "domain of {who} designates {ip} as permitted sender",
    "fail": "domain of {who} does not designate {ip} as permitted sender",
    "softfail": "domain of {who} discourages use of {ip}",
    "neutral": "domain of {who} says neither yes nor no about {ip}",
    "none": "domain of {who} says nothing about its senders",
    "temperror": "the look-up for {who} failed for now",
    "permerror": "the record of {who} can't be used",
}


@lru_cache(maxsize=1024)
def format_received_spf(  # noqa: PLR0913, PLR0917 - one argument for each key of the field
    result: str, identity: str, client: str, sender: str, helo: str, receiver: str, detail: str = ""
) -> bytes:
    """The Received-SPF field with its line end."""
    who = helo if identity == "helo" else sender
    comment = _comment(f"{receiver}: " + _SPF_SAYS[result].format(who=who, ip=client))
    pairs = [("client-ip", client), ("envelope-from", sender), ("helo", helo), ("receiver", receiver)]
    pairs += [("identity", identity), ("problem" if result.endswith("error") else "mechanism", detail)]
    said = ";\r\n\t".join(f"{key}={_key_value(value)}" for key, value in pairs if value)
    return f"Received-SPF: {result} ({comment})\r\n\t{said}\r\n".encode("utf-8", "surrogateescape")


def _key_value(text: str) -> str:
    """A dot-atom, or a quoted string (RFC 7208 9.1)."""
    if _DOT_ATOM.fullmatch(text[:_MAX_WIDTH]):
        return text
    text = _UNSAFE.sub("?", text[: _MAX_WIDTH // 2])
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_received_spf(value: str) -> tuple[str, dict[str, str]] | None:
    """Read what stands behind the colon: the result and its keys; None if it breaks the grammar."""
    pieces = _pieces(value[:MAX_VALUE])
    words = [piece for piece in pieces or () if piece != " "]
    if not words or words[0].lower() not in _SPF_SAYS:
        return None
    said: dict[str, str] = {}
    at = 1
    while at < len(words):
        if words[at] == ";":
            at += 1
            continue
        end = words.index(";", at) if ";" in words[at : at + 64] else len(words)
        if end - at < 3 or words[at + 1] != "=":
            return None
        said[words[at].lower()] = "".join(_unquote(word) for word in words[at + 2 : end])
        at = end
    return words[0].lower(), said
