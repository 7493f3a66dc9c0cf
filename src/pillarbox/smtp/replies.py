"""Read what an SMTP or LMTP server says: cut its octets into replies, and its EHLO answer into extensions.

A server may be hostile or broken, so everything is bounded; what a reply means is `smtp.client`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.catalogue import session
from pillarbox.mail.reply import Reply, parse_reply, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_OCTETS = 8192  # RFC 5321 4.5.3.1.5 says 512; more is read, so that a talkative server is no error
MAX_LINES = 100
MAX_KEPT_OCTETS = 510  # of each line
MAX_STRIKES = 2
CLOSING_CODE = session.SHUTDOWN.code  # the one code that may come at any moment, and ends the session
GOODBYE_CODE = session.CLOSING.code  # the answer to QUIT; to anything else it means that the session is over
_MAX_NUMBER_DIGITS = 18
_MAX_REMEMBERED = 32
_MAX_REMEMBERED_OCTETS = 100


class ProtocolError(Exception):
    """The server said something that makes no sense; the message says what, fit for logs and reports."""


class ReplyReader:
    """Cuts what a server sends into replies.

    Tolerated: bare LF, a code without text, lines longer than allowed (cut). A line that can't be read is passed
    over once for each connection; the second one is a ProtocolError, as is anything without end.
    """

    __slots__ = ("_buffer", "_lines", "_remembered", "oddity", "strikes")

    def __init__(self) -> None:
        """Begin with nothing."""
        self._buffer = b""
        self._lines: list[bytes] = []  # of the reply that is not yet complete
        self._remembered: dict[bytes, Reply] = {}  # a server says the same few lines again and again
        self.strikes = 0  # lines that were passed over
        self.oddity = ""  # what was tolerated last, for the operator: it tells of a fault on the other side

    def feed(self, data: bytes) -> list[Reply]:
        """Take octets and return the replies that are now complete. Raises ProtocolError."""
        if self._buffer:
            data = self._buffer + data
        lines = data.split(b"\n")
        self._buffer = lines.pop()
        if len(self._buffer) > MAX_LINE_OCTETS:
            msg = "a reply line without end"
            raise ProtocolError(msg)
        replies = []
        for line in lines:
            reply = self._remembered.get(line) if not self._lines else None
            if reply is None:
                reply = self._take_line(line)
            if reply is not None:
                replies.append(reply)
        return replies

    def feed_first(self, data: bytes) -> list[Reply]:
        """Like `feed`, but drop whatever follows the first reply.

        Nothing said in clear behind the answer to STARTTLS may count after it (RFC 3207 6).
        """
        *lines, rest = (self._buffer + data).split(b"\n")
        self._buffer = b""
        for line in lines:
            reply = self._take_line(line)
            if reply is not None:
                return [reply]
        return self.feed(rest)

    def _take_line(self, raw: bytes) -> Reply | None:
        line = raw.removesuffix(b"\r")
        if len(line) > MAX_LINE_OCTETS:
            msg = "a reply line without end"
            raise ProtocolError(msg)
        digits, separator = line[:3], line[3:4]
        if len(digits) < 3 or not digits.isdigit() or separator not in (b"", b" ", b"-", b"\t"):
            self._strike(line)
            return None
        if digits[:1] not in b"2345":
            msg = f"a reply that is none: {printable(line, 80)}"
            raise ProtocolError(msg)
        self._lines.append(line[:MAX_KEPT_OCTETS])
        if separator == b"-":
            if len(self._lines) >= MAX_LINES:
                msg = "a reply without end"
                raise ProtocolError(msg)
            return None
        reply = parse_reply(self._lines)
        if len(self._lines) > 1 and len({one[:3] for one in self._lines}) > 1:
            self.oddity = f"the codes of one reply differ: {printable(b' / '.join(self._lines))}"
        if (
            len(self._lines) == 1
            and len(raw) <= _MAX_REMEMBERED_OCTETS
            and len(self._remembered) < _MAX_REMEMBERED
        ):
            self._remembered[raw] = reply
        self._lines = []
        return reply

    def _strike(self, line: bytes) -> None:
        self.strikes += 1
        self.oddity = f"a line that is no reply: {printable(line, 80)}"
        if self.strikes >= MAX_STRIKES:
            msg = f"no reply: {printable(line, 80)}"
            raise ProtocolError(msg)


class Extensions(msgspec.Struct, frozen=True):
    """What a server offers, from its answer to EHLO or LHLO (RFC 5321 4.1.1.1). After HELO: nothing."""

    keywords: frozenset[str] = frozenset()
    max_octets: int = 0  # RFC 1870 3; 0: no limit is known
    mechanisms: frozenset[str] = frozenset()  # RFC 4954 3
    max_recipients: int = 0  # LIMITS RCPTMAX (RFC 9422 4.2); 0: not said
    max_messages: int = 0  # LIMITS MAILMAX (RFC 9422 4.1); 0: not said
    max_domains: int = 0  # LIMITS RCPTDOMAINMAX (RFC 9422 4.3); 0: not said
    min_by_s: int = 0  # DELIVERBY (RFC 2852 3)

    def __contains__(self, keyword: str) -> bool:
        """Whether the server offers it; `keyword` in upper case."""
        return keyword in self.keywords


def parse_extensions(reply: Reply) -> Extensions:
    """Read a positive answer to EHLO or LHLO; what can't be read is not offered."""
    offered = {words[0]: words[1:] for words in _keyword_lines(reply)}
    limits = dict(word.partition("=")[::2] for word in offered.get("LIMITS", ()))
    sizes = offered.get("SIZE", ())
    return Extensions(
        keywords=frozenset(offered),
        max_octets=_number(sizes[0]) if sizes else 0,
        mechanisms=frozenset(offered.get("AUTH", ())),
        max_recipients=_number(limits.get("RCPTMAX", "")),
        max_messages=_number(limits.get("MAILMAX", "")),
        max_domains=_number(limits.get("RCPTDOMAINMAX", "")),
        min_by_s=_number(next(iter(offered.get("DELIVERBY", ())), "")),
    )


def _keyword_lines(reply: Reply) -> Iterator[list[str]]:
    for line in reply.lines[1:]:
        words = line.upper().replace("AUTH=", "AUTH ", 1).split()  # some old servers write AUTH=LOGIN
        if words and words[0].isascii():
            yield words


def _number(text: str) -> int:
    """A number that a server announces, 0 if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_NUMBER_DIGITS else 0
