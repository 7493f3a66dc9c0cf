"""Say what became of a command or a letter: causes, the replies they earn, and results of deliveries.

The list of causes is in `mail.catalogue`; who sends which reply when is decided elsewhere.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import force_setattr

if TYPE_CHECKING:
    from collections.abc import Sequence

POSITIVE = range(200, 300)  # codes; to look here is faster than to ask a reply, before Python 3.12
MAX_REPLY_LINE_OCTETS = 512  # RFC 5321 4.5.3.1.5, CRLF included
_ROOMY_LINE = 480  # text that fits beside any code and status
_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s+|$)", re.ASCII)
_LINE_END = re.compile(r"\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_FIELD = re.compile(r"\{([a-z_]+)\}")


class Stage(StrEnum):
    """Where in a session, or on the way to one, a reply belongs."""

    DNS = "dns"
    CONNECT = "connect"
    GREETING = "greeting"
    HELLO = "hello"
    STARTTLS = "starttls"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"  # the end of data: the answer to the final dot, or to BDAT LAST
    BDAT = "bdat"
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"
    VRFY = "vrfy"
    EXPN = "expn"
    HELP = "help"
    ETRN = "etrn"
    XCLIENT = "xclient"  # and XFORWARD
    ANY = "any"
    LOCAL = "local"  # local delivery, or a decision of the queue itself


class Who(StrEnum):
    """Whose move it is after a reply."""

    NOBODY = "nobody"
    SENDER = "sender"
    SENDER_ADMIN = "sender's administrator"
    RECIPIENT = "recipient"
    RECIPIENT_ADMIN = "recipient's administrator"
    OPERATOR = "operator of this server"


class Origin(StrEnum):
    """Who said it: the remote host, or this server about it."""

    PEER = "peer"
    LOCAL = "local"


def escaped(letter: str) -> str:
    """A character as a backslash escape; an octet that was not UTF-8, as `surrogateescape` keeps it, is told as such."""
    octet = ord(letter) - 0xDC00
    return f"\\x{octet:02x}" if 0x80 <= octet <= 0xFF else letter.encode("unicode_escape").decode("ascii")


def legible(text: str | bytes, limit: int = 1000) -> str:
    """Foreign text for people, at most `limit` characters: letters of all scripts are kept, line ends become spaces.

    What moves, hides or splits text, and octets that are no UTF-8, become backslash escapes.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else escaped(c) for c in _LINE_END.sub(" ", text)])


def printable(text: str | bytes, limit: int = 200) -> str:
    """Make foreign text safe for replies, logs and headers: printable ASCII only, at most `limit` characters.

    Everything else becomes a backslash escape, so no reply, log line or header can be split (RFC 5321 4.2).
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if not (text.isascii() and text.isprintable()):
        text = _UNPRINTABLE.sub(lambda m: escaped(m[0]), text[:limit])
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Reply(msgspec.Struct, frozen=True):
    """One SMTP reply: `lines` are the texts without code and enhanced status (RFC 5321 4.2, RFC 2034).

    A reply of ours carries its `cause` and is checked when built; a peer's has none and is kept as it came.
    """

    code: int
    status: str  # enhanced status such as the one of RFC 3463, or "" where none is allowed or given
    lines: tuple[str, ...]
    cause: Cause | None = None
    wire: bytes = b""  # the octets, made from the rest

    def __post_init__(self) -> None:
        if self.wire:  # made by a cause, from what it has checked
            return
        if self.cause is not None:
            _check_ours(self)
        force_setattr(self, "wire", self._encode(self.status))

    def _encode(self, status: str) -> bytes:
        prefix = f"{status} " if status else ""
        if len(self.lines) == 1:
            return f"{self.code} {prefix}{self.lines[0]}\r\n".encode("utf-8", "surrogateescape")
        last = len(self.lines) - 1
        text = "".join(
            f"{self.code}{' ' if number == last else '-'}{prefix}{line}\r\n"
            for number, line in enumerate(self.lines)
        )
        return text.encode("utf-8", "surrogateescape")

    @property
    def bare_wire(self) -> bytes:
        """The octets without the enhanced status: for greetings and answers to EHLO, HELO, LHLO (RFC 2034 4)."""
        return self._encode("") if self.status else self.wire

    @property
    def positive(self) -> bool:
        """2xx: done."""
        return self.code in POSITIVE

    @property
    def intermediate(self) -> bool:
        """3xx: go on."""
        return 300 <= self.code < 400

    @property
    def temporary(self) -> bool:
        """4xx: try again."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5xx: never."""
        return self.code >= 500

    @property
    def cause_id(self) -> str:
        """The stable cause id, or "peer" for a reply that came from outside."""
        return self.cause.id if self.cause is not None else "peer"

    @property
    def text(self) -> str:
        """All lines joined by spaces, without code and status."""
        return " ".join(self.lines)

    def __str__(self) -> str:
        """The reply on one line, as logs and reports show it."""
        return f"{self.code} {self.status} {self.text}" if self.status else f"{self.code} {self.text}"

    def __repr__(self) -> str:
        """What it says and why, without the octets."""
        return f"<Reply {printable(str(self))}{f' ({self.cause.id})' if self.cause is not None else ''}>"


def _check_ours(reply: Reply) -> None:
    """Refuse what must never leave: a wrong class, a status on 3xx, a line that could be split or is too long."""
    if not 200 <= reply.code < 600:
        msg = f"{reply.code} is no reply code"
        raise ValueError(msg)
    if reply.status and (reply.intermediate or not reply.status.startswith(f"{reply.code // 100}.")):
        msg = f"status {reply.status} does not belong to {reply.code}"
        raise ValueError(msg)
    room = MAX_REPLY_LINE_OCTETS - 6 - (len(reply.status) + 1 if reply.status else 0)
    if not reply.lines:
        msg = "a reply has at least one line"
        raise ValueError(msg)
    for line in reply.lines:
        if len(line) <= room and line.isascii() and line.isprintable():
            continue
        if (
            len(line.encode("utf-8", "surrogateescape")) > room
            or "\r" in line
            or "\n" in line
            or "\0" in line
        ):
            msg = f"line not fit for a reply: {line!r}"
            raise ValueError(msg)


class Cause(msgspec.Struct, frozen=True, eq=False):
    """A reason for a reply: one entry of the catalogue.

    `text` is the default text; `{name}` in it is filled by `reply(name=...)`. `scenarios` are the ids of the
    situations that earn it; `setting` is the configuration key that governs it ("" if none does).
    """

    id: str  # stable, dotted: "recipient.unknown"
    code: int
    status: str
    text: str
    stages: tuple[Stage, ...]
    clause: str  # where the standard speaks of it: "RFC 5321 4.2.2"
    meaning: str  # one line, plain words
    explanation: str = ""  # a paragraph for people
    who: Who = Who.NOBODY
    advice: str = ""  # what to do next
    setting: str = ""
    scenarios: tuple[str, ...] = ()
    _plain: Reply | None = None  # made once, if nothing is to be filled in
    _start: bytes = b""  # of the reply, if its text is one line in which something is filled in
    _around: tuple[str, str, str] | None = (
        None  # the text before and behind that, and its name, if it is only one
    )

    def __post_init__(self) -> None:
        if not _FIELD.search(self.text):
            force_setattr(self, "_plain", Reply(self.code, self.status, tuple(self.text.split("\n")), self))
        elif "\n" not in self.text:
            force_setattr(self, "_start", Reply(self.code, self.status, ("",), self).wire[:-2])
            around = _FIELD.split(self.text)
            if len(around) == 3:
                before, name, behind = around
                force_setattr(self, "_around", (before, behind, name))

    def __repr__(self) -> str:
        """Its id, under which all the rest is found, and the code that it earns."""
        return f"<Cause {self.id} {self.code}>"

    def reply(self, **fields: object) -> Reply:
        """Build the reply, with foreign text in `fields` made printable."""
        if self._plain is not None:
            return self._plain
        if self._around is not None:
            before, behind, name = self._around
            text = f"{before}{printable(str(fields[name]))}{behind}"
        else:
            text = self.text.format(**{name: printable(str(value)) for name, value in fields.items()})
        if self._start and len(text) <= _ROOMY_LINE:
            return Reply(self.code, self.status, (text,), self, self._start + text.encode("ascii") + b"\r\n")
        lines = tuple(printable(line, _ROOMY_LINE) for line in text.split("\n"))
        return Reply(self.code, self.status, lines, self)

    def noted(self, **fields: object) -> Reply:
        """Build the reply for traces and reports only, no peer will see it: `fields` may have letters of all scripts."""
        text = self.text.format(**{name: legible(str(value), _ROOMY_LINE) for name, value in fields.items()})
        line = text.encode("utf-8")[:_ROOMY_LINE].decode("utf-8", "ignore")
        return Reply(self.code, self.status, (line,), self)

    def because(self, *lines: str) -> Reply:
        """Build the reply with other text than the default, for instance a hook's own words."""
        return Reply(self.code, self.status, tuple(printable(line, _ROOMY_LINE) for line in lines), self)


class Result(msgspec.Struct, frozen=True):
    """What happened to one recipient in one delivery attempt (compare RFC 3464 2.3).

    `origin` tells whether `host` said `reply` or this server did about it; every failure to reach a host is a
    result too, so the retry table has one kind of input.
    """

    reply: Reply
    stage: Stage
    origin: Origin
    host: str = ""
    reports: bool = False  # the host took over the duty to report success to the sender (RFC 3461 5.2.1)
    remark: str = (
        ""  # what the host said besides when it took the recipient: that it is going to be forwarded
    )
    tls: str = ""  # how the session was protected, and what spoke for the host
    # Those below are not kept beyond the decision what follows.
    wait_s: float = 0.0  # the host asked not to be tried sooner, or what it says holds for so long
    shared: bool = False  # the reply answered for several recipients together
    note: str = ""  # what this server did with the copy, for its trace
    others: tuple[Result, ...] = ()  # what other hosts said in the same attempt, for the trace

    @property
    def untried(self) -> bool:
        """Nothing was asked: the host is left alone for `wait_s` because of what it said before."""
        return self.reply.cause is not None and self.reply.cause.id == "delivery.left_alone"

    @property
    def in_doubt(self) -> bool:
        """The connection was lost after the final dot: the host may or may not have taken the message."""
        return self.reply.cause is not None and self.reply.cause.id == "delivery.in_doubt"


def parse_reply(lines: Sequence[bytes]) -> Reply:
    """Read a peer's complete reply from its lines without CRLF (RFC 5321 4.2, RFC 2034 3).

    The last line's code counts, unless any line says 421. Oddities such as a status of another class, missing text or
    non-ASCII octets are kept; raises ValueError if there is no line, or one does not begin with three digits.
    """
    if not lines:
        msg = "not a reply: no lines"
        raise ValueError(msg)
    code, texts = 0, []
    for line in lines:
        digits = line[:3]
        if len(digits) != 3 or not digits.isdigit():
            msg = f"not a reply: {printable(line)}"
            raise ValueError(msg)
        code = int(digits)
        texts.append(line[4:].decode("utf-8", "surrogateescape"))
    if any(line.startswith(b"421") for line in lines):
        code = 421
    found = _STATUS.match(texts[0])
    status = found[0].rstrip() if found else ""
    if status:
        texts = [_without_status(text, status) for text in texts]
    return Reply(code, status, tuple(texts))


def _without_status(text: str, status: str) -> str:
    """The text behind the status; a line that has another one, or none, is kept whole."""
    found = _STATUS.match(text)
    return text[found.end() :] if found and found[0].rstrip() == status else text
