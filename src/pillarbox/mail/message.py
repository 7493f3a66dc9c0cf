"""Read a message's header section in one pass and write the fields that a hop puts in front (RFC 5321 4.4, RFC 5322).

The body is never looked at and nothing is rewritten; MIME structure and the meaning of the fields are left to others.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

MAX_HEAD_OCTETS = 262144  # more than any honest header section; the default bound of a scan

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
_DATE = re.compile(
    r"(\d{1,2})[ \t]+([A-Za-z]{3})[ \t]+(\d{2,4})[ \t]+(\d{1,2}):(\d{2})(?::(\d{2}))?(?:[ \t]*([+-])(\d{2})(\d{2}))?",
    re.ASCII,
)
_VALUE_END = re.compile(rb"\r?\n(?![ \t])")
_FOLD = re.compile(r"[\r\n]+")
_PLAIN_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]", re.ASCII)
_NOT_HOST = re.compile(r"[^A-Za-z0-9._:\[\]-]", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN_CIPHER = re.compile(r"[A-Z0-9_]+", re.ASCII)
_OPENSSL_CIPHER = re.compile(
    r"((?:EC)?DHE)-(RSA|ECDSA|DSS)-(?:AES(128|256)(-GCM)?-(SHA[0-9]{0,3})|CHACHA20-POLY1305)"
)


class Head(msgspec.Struct, frozen=True):
    """The header section of one message; field names are looked up without regard to case.

    `section` ends with the line end of the last field, `body_at` is the offset of the first octet of the body.
    `complete` is false if no empty line came within the limit; then `body_at` is where the scan stopped.
    """

    section: bytes
    body_at: int
    complete: bool
    hops: int  # Received fields (RFC 5321 6.3)
    eight_bit: bool  # some octet of the section is not ASCII (RFC 6532)
    _index: bytes  # line feed, then the section in lower case: what names are searched in

    def __contains__(self, name: str) -> bool:
        """Whether a field of this name is there."""
        return self._find(name, 0) >= 0

    def get(self, name: str) -> str:
        """The first field of this name, unfolded and stripped; "" if there is none."""
        at = self._find(name, 0)
        return self._value(at) if at >= 0 else ""

    def get_all(self, name: str, limit: int = 100) -> list[str]:
        """All fields of this name from top to bottom, at most `limit`."""
        values: list[str] = []
        at = self._find(name, 0)
        while at >= 0 and len(values) < limit:
            values.append(self._value(at))
            at = self._find(name, at)
        return values

    def _find(self, name: str, start: int) -> int:
        """Where in the section the value of the next field of this name begins, or -1."""
        begins, pattern = _field_pattern(name)
        at = self._index.find(begins, start)
        while at >= 0:
            found = pattern.match(self._index, at)
            if found is not None:
                return found.end() - 1
            at = self._index.find(begins, at + 1)
        return -1

    def _value(self, at: int) -> str:
        end = _VALUE_END.search(self.section, at)
        raw = self.section[at : end.start() if end is not None else None]
        return _FOLD.sub("", raw.decode("utf-8", "surrogateescape")).strip()


@lru_cache(maxsize=128)
def _field_pattern(name: str) -> tuple[bytes, re.Pattern[bytes]]:
    """How a field of this name begins, to be searched for fast, and what tells it from one whose name is longer."""
    begins = b"\n" + name.lower().encode("ascii")
    return begins, re.compile(re.escape(begins) + rb"[ \t]*:")


def scan_head(message: bytes, limit: int = MAX_HEAD_OCTETS) -> Head:
    """Find the header section in the first octets of a message, looking at no more than `limit` of them.

    Works on CRLF and on bare LF line ends; a message that begins with an empty line has no fields.
    """
    if message.startswith((b"\r\n", b"\n")):
        return Head(
            b"",
            2 if message[0] == 13 else 1,
            complete=True,
            hops=0,
            eight_bit=False,
            _index=b"\n",
        )
    crlf = message.find(b"\n\r\n", 0, limit)
    bare = message.find(b"\n\n", 0, crlf if crlf >= 0 else limit)
    if bare >= 0:
        end, body_at = bare + 1, bare + 2
    elif crlf >= 0:
        end, body_at = crlf + 1, crlf + 3
    else:
        end = body_at = min(len(message), limit)
    section = message[:end]
    index = b"\n" + section.lower()
    return Head(
        section,
        body_at,
        complete=bare >= 0 or crlf >= 0,
        # The second form is obsolete, RFC 5322 4.5.
        hops=index.count(b"\nreceived:") + index.count(b"\nreceived "),
        eight_bit=not section.isascii(),
        _index=index,
    )


def tls_is_optional(head: Head) -> bool:
    """Whether the sender says that the message may travel without TLS (RFC 8689 3)."""
    return any(value.lower() == "no" for value in head.get_all("tls-required"))


@lru_cache(maxsize=16)
def _date_of_second(second: int) -> str:
    at = datetime.fromtimestamp(second, UTC)
    day = f"{_WEEKDAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04}"
    return f"{day} {at.hour:02}:{at.minute:02}:{at.second:02} +0000"


def format_date(now: float) -> str:
    """Unix time as RFC 5322 3.3 writes it, in UTC."""
    return _date_of_second(int(now))


def parse_date(text: str) -> float | None:
    """Read a date as RFC 5322 3.3 and 4.3 write it; Unix time, or None if it is not one."""
    found = _DATE.search(text[:200])
    if found is None:
        return None
    day, month, year, hour, minute, second, sign, zone_hour, zone_minute = found.groups()
    century = 0 if len(year) == 4 else 1900 if len(year) == 3 or int(year) >= 50 else 2000
    try:
        at = datetime(
            int(year) + century,
            _MONTHS.index(month.title()) + 1,
            int(day),
            int(hour),
            int(minute),
            min(int(second or 0), 59),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    offset_s = (int(zone_hour) * 60 + int(zone_minute)) * 60 if sign else 0
    return at.timestamp() - (offset_s if sign == "+" else -offset_s)


def protocol_name(
    *,
    lmtp: bool = False,
    extended: bool = True,
    tls: bool = False,
    login: bool = False,
    smtputf8: bool = False,
) -> str:
    """The word for the `with` clause (RFC 3848, RFC 6531 4.3). `extended` is false after HELO."""
    if not extended and not lmtp:
        return "SMTP"
    if smtputf8:
        name = "UTF8LMTP" if lmtp else "UTF8SMTP"
    else:
        name = "LMTP" if lmtp else "ESMTP"
    return name + ("S" if tls else "") + ("A" if login else "")


@lru_cache(maxsize=64)
def _cipher_name(cipher: str) -> str:
    """The registered name of a cipher suite (RFC 8314 4.3), from that name or the one OpenSSL gives it; "" if unknown."""
    if _PLAIN_CIPHER.fullmatch(cipher):
        return cipher
    found = _OPENSSL_CIPHER.fullmatch(cipher)
    if found is None:
        return ""
    exchange, key, bits, gcm, digest = found.groups()
    cipher = f"AES_{bits}_{'GCM' if gcm else 'CBC'}_{digest}" if bits else "CHACHA20_POLY1305_SHA256"
    return f"TLS_{exchange}_{key}_WITH_{cipher}"


def _literal(client: str) -> str:
    """An IP address as an address literal (RFC 5321 4.1.3)."""
    return f"[IPv6:{client}]" if ":" in client else f"[{client}]"


@lru_cache(maxsize=256)
def _from_clause(helo: str, client: str, client_name: str) -> str:
    literal = _literal(client)
    if not _PLAIN_HOST.fullmatch(helo):
        helo = _NOT_HOST.sub("?", helo) or literal
    name = f"{client_name} " if client_name and _PLAIN_HOST.fullmatch(client_name) else ""
    return f"from {helo[:255]} ({name}{literal})\r\n\t"


def received_field(  # noqa: PLR0913 - one argument for each clause of the field
    *,
    hostname: str,
    protocol: str,
    queue_id: str,
    now: float,
    helo: str = "",
    client: str = "",
    client_name: str = "",
    recipient: str = "",
    tls_cipher: str = "",
    priority: int = 0,
) -> bytes:
    """The trace field of this hop, folded, with its line end (RFC 5321 4.4, RFC 3848, RFC 6710, RFC 8314 4.3).

    `client` is a bare IP address, or "" for mail made on this host; `client_name` its verified host name.
    `recipient` is to be given only if the message has exactly one, lest others learn of it (RFC 5321 7.2).
    What a client could choose freely is reduced to the characters of a host name.
    """
    source = _from_clause(helo, client, client_name) if client else ""
    clauses = ""
    if recipient:
        shown = recipient[:400]
        clauses = f"\r\n\tfor <{shown if shown.isprintable() else _CONTROL.sub('?', shown)}>"
    if tls_cipher and (name := _cipher_name(tls_cipher)):
        clauses += f"\r\n\ttls {name}"
    if priority:
        clauses += f"\r\n\tPRIORITY {priority}"
    text = (
        f"Received: {source}by {hostname} (Pillarbox) with {protocol} id {queue_id}{clauses};"
        f"\r\n\t{_date_of_second(int(now))}\r\n"
    )
    return text.encode("utf-8", "surrogateescape")


JUNK_FIELD = b"X-Spam-Flag: YES\r\n"
"""What stands in front of a message that is taken as junk; sorters behind us know the field."""


def tag_field(hostname: str, cause: str, reply: str) -> bytes:
    """The field that tells of a check which found something and only tags: its cause, and what would have been said."""
    return f"X-Policy-Tag: {hostname}; {cause};\r\n\t{_CONTROL.sub('?', reply[:800])}\r\n".encode(
        "ascii", "replace"
    )


def return_path(sender: str) -> bytes:
    """The field that final delivery puts first (RFC 5321 4.4); `sender` is "" for the null reverse-path."""
    return f"Return-Path: <{_CONTROL.sub('?', sender)}>\r\n".encode("utf-8", "surrogateescape")


def delivered_to(address: str) -> bytes:
    """The field that says for which address a copy was delivered; it also shows alias loops (RFC 9228)."""
    return f"Delivered-To: {_CONTROL.sub('?', address)}\r\n".encode("utf-8", "surrogateescape")


def make_message_id(*, hostname: str, now: float, random: bytes) -> str:
    """A fresh message identifier, angle brackets included (RFC 5322 3.6.4); eight random octets are enough."""
    return f"<{int(now * 1000):x}.{random.hex()}@{hostname}>"


def completing_fields(head: Head, *, hostname: str, now: float, random: bytes, sender: str = "") -> bytes:
    """The fields that a submission server adds because the author left them out (RFC 6409 8.1 to 8.3).

    Date and Message-ID always, From only where `sender` is given; b"" if nothing is missing.
    """
    added = ""
    if "date" not in head:
        added += f"Date: {format_date(now)}\r\n"
    if sender and "from" not in head:
        added += f"From: <{_CONTROL.sub('?', sender)}>\r\n"
    if "message-id" not in head:
        added += f"Message-ID: {make_message_id(hostname=hostname, now=now, random=random)}\r\n"
    return added.encode("utf-8", "surrogateescape")
