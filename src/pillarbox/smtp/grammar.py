"""Read the arguments of commands and the parameters of MAIL and RCPT, and write them (RFC 5321 4.1).

What an argument that reads well means is decided by the session and by policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pillarbox.mail.address import Address, AddressError, parse_domain, parse_path
from pillarbox.mail.catalogue import envelope, extensions
from pillarbox.mail.envelope import MAX_ORCPT_OCTETS, Body, ByMode, Notify, Ret, ValidSince
from pillarbox.mail.reply import Reply
from pillarbox.smtp.events import By, MailFrom, MailParameters, RcptTo, StartQueue, Wish

MAX_SIZE_DIGITS = 20  # RFC 1870 3
MAX_SIZE = 10**MAX_SIZE_DIGITS
MAX_ENVID_OCTETS = 100  # RFC 3461 4.4

_BARE_CHARACTERS = 320  # a longer argument is not worth to be remembered
_REMEMBERED = 1024  # arguments of each kind, and what they mean: half a megabyte

_Reader = Callable[[str], Any]

_PATH = re.compile(r'[ \t]*(<(?:[^<>"]|"(?:[^"\\]|\\.)*")*>|[^ \t<>]+)(?:[ \t]+(.*))?', re.DOTALL)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20=\x7f]+))?")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_HELLO_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,255}", re.ASCII)  # or what clients take for one
# Whose addresses may be beyond ASCII; whether they do is looked at with them.
_IN_UTF8 = frozenset({"MAIL", "RCPT"})
_IN_UTF8_IF_SAID = frozenset({"VRFY", "EXPN"})
_BY = re.compile(r"([+-]?[0-9]{1,9});([RN])(T?)", re.IGNORECASE | re.ASCII)
_PRIORITY = re.compile(r"-?[1-9]|0", re.ASCII)
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE | re.ASCII,
)
_UTF8_ORCPT = re.compile(r"\\x\{([0-9A-F]{2,6})\}")


class _BadValue(ValueError):
    """A parameter's value cannot be read; the message is for the peer."""


def xtext_decode(text: str) -> str:
    """Decode xtext (RFC 3461 4). Raises ValueError if it is not xtext or hides control characters."""
    decoded = _xtext(text)
    if not decoded.isascii():
        msg = "hides characters that are not printable ASCII"
        raise _BadValue(msg)
    return decoded


def _xtext(text: str) -> str:
    """Decode xtext that may stand for the octets of UTF-8. Raises ValueError."""
    if not _XTEXT.fullmatch(text):
        msg = "is not xtext"
        raise _BadValue(msg)
    decoded = _HEXCHAR.sub(lambda m: chr(int(m[1], 16)), text).encode("latin-1").decode("utf-8", "replace")
    if not decoded.isprintable() or "\ufffd" in decoded:
        msg = "hides characters that are not printable"
        raise _BadValue(msg)
    return decoded


def _size(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        msg = "must be a number of octets"
        raise _BadValue(msg)
    if len(value) > MAX_SIZE_DIGITS:
        msg = f"must have at most {MAX_SIZE_DIGITS} digits"
        raise _BadValue(msg)
    return int(value)


def _one_of(kind: type[StrEnum]) -> _Reader:
    """A reader for one of a few words."""
    *others, last = kind
    msg = f"must be {', '.join(others)} or {last}"

    def read(value: str) -> StrEnum:
        try:
            return kind(value.upper())
        except ValueError:
            raise _BadValue(msg) from None

    return read


def _envid(value: str) -> str:
    if len(value) > MAX_ENVID_OCTETS:
        msg = f"must have at most {MAX_ENVID_OCTETS} characters"
        raise _BadValue(msg)
    return xtext_decode(value)


def _notify(value: str) -> Notify:
    wanted = Notify.UNSAID
    for word in value.upper().split(","):
        flag = Notify.__members__.get(word)
        if not flag or wanted & flag:
            msg = "must be NEVER, or a list of SUCCESS, FAILURE and DELAY"
            raise _BadValue(msg)
        wanted |= flag
    if wanted & Notify.NEVER and wanted != Notify.NEVER:
        msg = "NEVER must stand alone"
        raise _BadValue(msg)
    return wanted


def _orcpt(value: str) -> str:
    kind, colon, address = value.partition(";")
    if (
        not colon
        or not kind.replace("-", "").isalnum()
        or not kind.isascii()
        or len(value) > MAX_ORCPT_OCTETS
    ):
        msg = "must be TYPE;ADDRESS"
        raise _BadValue(msg)
    if kind.lower() == "utf-8":  # RFC 6533 3: may stand raw or with \x{...} escapes
        if not address.isprintable():
            msg = "hides characters that are not printable"
            raise _BadValue(msg)
        return f"{kind};{_UTF8_ORCPT.sub(_unescape, address)}"
    if kind.lower() == "rfc822" and not (decoded := _xtext(address)).isascii():
        return f"utf-8;{decoded}"  # Postfix writes UTF-8 so; reports need the type that RFC 6533 gives it
    return f"{kind};{xtext_decode(address)}"


def _unescape(found: re.Match[str]) -> str:
    point = int(found[1], 16)
    character = chr(point) if point < 0x110000 and not 0xD800 <= point < 0xE000 else ""
    if not character.isprintable() or not character:
        msg = "hides characters that are not printable"
        raise _BadValue(msg)
    return character


def _by(value: str) -> By:
    found = _BY.fullmatch(value)
    if found is None:
        msg = "must be seconds;R or seconds;N"
        raise _BadValue(msg)
    by = By(int(found[1]), ByMode(found[2].upper()), bool(found[3]))
    if by.seconds <= 0 and by.mode is ByMode.RETURN:  # RFC 2852 4
        msg = "must leave time to deliver in"
        raise _BadValue(msg)
    return by


def _hold_for(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 9:  # RFC 4865 4
        msg = "must be a number of seconds"
        raise _BadValue(msg)
    return int(value)


def _moment(value: str) -> float:
    """A date and time of the Internet (RFC 3339 5.6) as Unix time."""
    if _DATE_TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).timestamp()
        except ValueError:  # the 31st of June
            pass
    msg = "must be a date and time such as 2030-01-31T08:00:00Z"
    raise _BadValue(msg)


def _priority(value: str) -> int:
    if not _PRIORITY.fullmatch(value):
        msg = "must be a number from -9 to 9"
        raise _BadValue(msg)
    return int(value)


def _valid_since(value: str) -> ValidSince:
    moment, _, action = value.partition(";")
    if action.upper() not in ("", "C", "R") or (not action and value.endswith(";")):
        msg = "must be a date and time, then ;C or ;R"
        raise _BadValue(msg)
    return ValidSince(_moment(moment), action.upper() != "C")  # RFC 7293 5.1: to refuse is the default


def _flag(value: str) -> bool:  # noqa: ARG001 - the table calls every reader alike; a flag has no value
    return True


def _ignored(value: str) -> None:  # noqa: ARG001 - AUTH= of RFC 4954 5 is accepted and not acted upon
    return None


# keyword -> (extension that must be offered, name of the value, reader, whether a value must follow)
_MAIL: dict[str, tuple[str, str, _Reader, bool]] = {
    "SIZE": ("SIZE", "size", _size, True),
    "BODY": ("8BITMIME", "body", _one_of(Body), True),
    "SMTPUTF8": ("SMTPUTF8", "smtputf8", _flag, False),
    "RET": ("DSN", "ret", _one_of(Ret), True),
    "ENVID": ("DSN", "envid", _envid, True),
    "AUTH": ("AUTH", "", _ignored, True),
    "BY": ("DELIVERBY", "by", _by, True),
    "HOLDFOR": ("FUTURERELEASE", "hold_for", _hold_for, True),
    "HOLDUNTIL": ("FUTURERELEASE", "hold_until", _moment, True),
    "MT-PRIORITY": ("MT-PRIORITY", "priority", _priority, True),
    "REQUIRETLS": ("REQUIRETLS", "require_tls", _flag, False),
}
_WISHES = frozenset(Wish.__struct_fields__)
_RCPT: dict[str, tuple[str, str, _Reader, bool]] = {
    "NOTIFY": ("DSN", "notify", _notify, True),
    "ORCPT": ("DSN", "orcpt", _orcpt, True),
    "RRVS": ("RRVS", "valid_since", _valid_since, True),
}
NOTHING: AbstractSet[str] = frozenset()
_NO_PARAMETERS = MailParameters()


def parse_mail(
    argument: str,
    offered: frozenset[str],
    suspended: AbstractSet[str] = NOTHING,
    max_octets: int = MAX_SIZE,
) -> MailFrom | Reply:
    """Read what follows MAIL: `FROM:<path> [parameters]`, given the extensions on offer and the largest message.

    One that is offered and yet `suspended` can't be used just now.
    """
    if _is_bare(argument):
        return _bare_mail(argument)
    return _read_mail(argument, offered, suspended, max_octets)


def _is_bare(argument: str) -> bool:
    """Whether it is a path without parameters: the same ones come again and again."""
    return len(argument) <= _BARE_CHARACTERS and " " not in argument and "\t" not in argument


@lru_cache(maxsize=_REMEMBERED)
def _bare_mail(argument: str) -> MailFrom | Reply:
    return _read_mail(argument, NOTHING, NOTHING, MAX_SIZE)


def _read_mail(
    argument: str, offered: AbstractSet[str], suspended: AbstractSet[str], max_octets: int
) -> MailFrom | Reply:
    split = _split(argument, "FROM:")
    if split is None:
        return envelope.SENDER_SYNTAX.reply(detail="write MAIL FROM:<address>")
    path, rest = split
    try:
        sender = parse_path(path)
    except AddressError as error:
        return envelope.SENDER_SYNTAX.reply(detail=error)
    if not rest:
        parameters = _NO_PARAMETERS
    else:
        values = _parameters(rest, _MAIL, offered, suspended)
        if isinstance(values, Reply):
            return values
        if values.get("body") is Body.BINARY and "BINARYMIME" not in offered:
            return envelope.PARAMETER_UNKNOWN.reply(detail="BODY=BINARYMIME")
        if values.get("body") is Body.BINARY and "BINARYMIME" in suspended:
            return extensions.SUSPENDED.reply(detail="BODY=BINARYMIME")
        if not _WISHES.isdisjoint(values):
            if "hold_for" in values and "hold_until" in values:  # RFC 4865 4
                return envelope.PARAMETER_VALUE.reply(detail="HOLDUNTIL does not go with HOLDFOR")
            values["wish"] = Wish(**{name: values.pop(name) for name in _WISHES & values.keys()})
        parameters = MailParameters(**values)
    if sender is not None and not sender.domain:
        return envelope.SENDER_SYNTAX.reply(detail="domain missing")
    if sender is not None and sender.needs_smtputf8 and not parameters.smtputf8:
        return envelope.NEEDS_SMTPUTF8.reply()
    if parameters.size > max_octets:
        return envelope.SIZE_TOO_BIG.reply(size=parameters.size, limit=max_octets)
    return MailFrom(sender, parameters)


def parse_rcpt(
    argument: str, offered: frozenset[str], suspended: AbstractSet[str] = NOTHING, *, smtputf8: bool
) -> RcptTo | Reply:
    """Read what follows RCPT: `TO:<path> [parameters]`; `smtputf8` tells whether MAIL had that parameter."""
    if _is_bare(argument):
        return _bare_rcpt(argument, smtputf8)
    return _read_rcpt(argument, offered, suspended, smtputf8=smtputf8)


@lru_cache(maxsize=_REMEMBERED)
def _bare_rcpt(argument: str, smtputf8: bool) -> RcptTo | Reply:  # noqa: FBT001 - a cache takes names for other keys
    return _read_rcpt(argument, NOTHING, NOTHING, smtputf8=smtputf8)


def _read_rcpt(
    argument: str, offered: AbstractSet[str], suspended: AbstractSet[str], *, smtputf8: bool
) -> RcptTo | Reply:
    split = _split(argument, "TO:")
    if split is None:
        return envelope.RECIPIENT_SYNTAX.reply(detail="write RCPT TO:<address>")
    path, rest = split
    try:
        recipient = parse_path(path)
    except AddressError as error:
        return envelope.RECIPIENT_SYNTAX.reply(detail=error)
    if recipient is None:
        return envelope.RECIPIENT_SYNTAX.reply(detail="the null path can't be a recipient")
    if recipient.needs_smtputf8 and not smtputf8:
        return envelope.NEEDS_SMTPUTF8.reply()
    if not rest:
        return RcptTo(recipient)
    values = _parameters(rest, _RCPT, offered, suspended)
    return values if isinstance(values, Reply) else RcptTo(recipient, **values)


def _split(argument: str, keyword: str) -> tuple[str, str] | None:
    """The path and the parameters behind `FROM:` or `TO:`; None if they are not there."""
    if argument[: len(keyword)].upper() != keyword:
        return None
    found = _PATH.fullmatch(argument, len(keyword))
    return (found[1], found[2] or "") if found else None


def _parameters(
    text: str,
    table: dict[str, tuple[str, str, _Reader, bool]],
    offered: AbstractSet[str],
    suspended: AbstractSet[str],
) -> dict[str, Any] | Reply:
    """Read parameters by their table; each may come once."""
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for word in _words(text):
        found = _PARAMETER.fullmatch(word)
        if found is None:
            return envelope.PARAMETER_VALUE.reply(detail=f"{word} is not well formed")
        keyword, value = found[1].upper(), found[2]
        extension, name, reader, wants_value = table.get(keyword, ("", "", _ignored, False))
        if extension not in offered:
            return envelope.PARAMETER_UNKNOWN.reply(detail=keyword)
        if extension in suspended:
            return extensions.SUSPENDED.reply(detail=keyword)
        if keyword in seen:
            return envelope.PARAMETER_VALUE.reply(detail=f"{keyword} came twice")
        if (value is not None) != wants_value:
            return envelope.PARAMETER_VALUE.reply(
                detail=f"{keyword} {'needs a' if wants_value else 'takes no'} value"
            )
        seen.add(keyword)
        try:
            read = reader(value or "")
        except _BadValue as error:
            return envelope.PARAMETER_VALUE.reply(detail=f"{keyword} {error}")
        if name:
            values[name] = read
    return values


def _words(text: str) -> list[str]:
    """Split at spaces and tabs only: `str.split` knows more kinds of white space than SMTP does."""
    return [word for word in text.replace("\t", " ").split(" ") if word]


def parse_bdat(argument: str) -> tuple[int, bool] | None:
    """Read `octets [LAST]` (RFC 3030 2); None if it can't be read."""
    words = _words(argument)
    if (
        not 1 <= len(words) <= 2
        or not (words[0].isascii() and words[0].isdigit())
        or len(words[0]) > MAX_SIZE_DIGITS
    ):
        return None
    if len(words) == 2 and words[1].upper() != "LAST":
        return None
    return int(words[0]), len(words) == 2


def parse_etrn(argument: str) -> StartQueue | None:
    """Read the argument of ETRN: a domain, or "@" and a domain for all below it as well; None if it is neither.

    The names of queues that RFC 1985 5.3 allows, "#name", are of no use here: there are none.
    """
    name = argument.removeprefix("@")
    try:
        return StartQueue(parse_domain(name), name != argument) if name else None
    except AddressError:
        return None


def parse_verify(argument: str) -> Address | None:
    """Read the argument of VRFY: an address with or without brackets, or a bare user name; None if unreadable.

    The parameter SMTPUTF8 may follow it (RFC 6531 3.7.4.2).
    """
    text = argument.removesuffix(" SMTPUTF8").strip(" \t")
    try:
        if "@" in text or text.startswith("<"):
            return parse_path(text, strict=False)
        return parse_path(f"<{text}@[127.0.0.1]>")
    except AddressError:
        return None


def split_line(line: bytes) -> tuple[str, str] | None:
    """Verb and argument of a command; None if it has octets that are not allowed there (RFC 6531 3.4, 3.7.4.2)."""
    word, _, rest = line.partition(b" ")
    try:
        verb, argument = word.decode("ascii").upper(), rest.decode("utf-8").strip(" \t")
    except UnicodeDecodeError:
        return None
    may_be_utf8 = verb in _IN_UTF8 or (verb in _IN_UTF8_IF_SAID and argument.upper().endswith(" SMTPUTF8"))
    return (verb, argument) if may_be_utf8 or argument.isascii() else None


@lru_cache(maxsize=_REMEMBERED)
def parse_hello(argument: str) -> str | None:
    """The client's name or address literal, or None if it is missing or not well formed (RFC 5321 4.1.3)."""
    name = argument.strip(" \t")
    if not name.startswith("["):
        return name if _HELLO_NAME.fullmatch(name) else None
    tagged = ":" not in name or name[1:6].upper() == "IPV6:"
    try:
        parse_domain(name if tagged else f"[IPv6:{name[1:]}")  # clients forget the tag
    except AddressError:
        return None
    return name
