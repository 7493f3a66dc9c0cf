"""Find out which reply answers which command in a recorded session: in order, as RFC 2920 has it.

What a client sent is read as the server reads it: a line is a command, part of a message or of a login depending on
the replies before it. What follows for the recipients is told by `fates`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

import msgspec

from pillarbox.diagnose.transcript import DOT, Line, Recording, Side, verb_of
from pillarbox.mail.reply import Reply, Stage, parse_reply

MAX_LINES = 200  # of one reply; the rest is not looked at
_KEPT_CHARACTERS = 2000  # of a line of a reply
_BAD_SEQUENCE = 503  # the command itself was refused, whoever it is for

_REPLY_LINE = re.compile(r"\d{3}(?:[ \t_-].*)?", re.ASCII | re.DOTALL)
_PATH = re.compile(r"[^:]{0,40}:[ \t]*(?:<([^<>]*)>?|([^\s<>]+))")
_BDAT = re.compile(r"BDAT[ \t]+(\d{1,18})(?:[ \t]+(LAST))?[ \t]*", re.ASCII | re.IGNORECASE)
STAGES = {
    "HELO": Stage.HELLO,
    "EHLO": Stage.HELLO,
    "LHLO": Stage.HELLO,
    "MAIL": Stage.MAIL,
    "RCPT": Stage.RCPT,
    "DATA": Stage.DATA,
    DOT: Stage.BODY,
    "BDAT": Stage.BDAT,
    "RSET": Stage.RSET,
    "NOOP": Stage.NOOP,
    "QUIT": Stage.QUIT,
    "VRFY": Stage.VRFY,
    "EXPN": Stage.EXPN,
    "HELP": Stage.HELP,
    "AUTH": Stage.AUTH,
    "STARTTLS": Stage.STARTTLS,
    "XCLIENT": Stage.XCLIENT,
    "XFORWARD": Stage.XCLIENT,
}


class Exchange(msgspec.Struct, frozen=True):
    """A command, or what stands for one, and its reply.

    `verb` is "" for the greeting and for replies to nothing that was recorded, and "." for the end of a message.
    """

    verb: str
    stage: Stage
    asked: Line | None
    reply: Reply | None  # None: it never came
    said: tuple[Line, ...] = ()  # the lines of the reply
    body: tuple[Line, ...] = ()  # the message, or the chunk, in front of the dot
    complete: bool = True  # the dot, or the last octet, was sent, as far as the recording shows

    @property
    def command(self) -> str:
        """What the client said."""
        return self.asked.text if self.asked is not None else ""

    @property
    def address(self) -> str:
        """The address in the command; "" if there is none."""
        found = _PATH.match(self.command)
        return (found[1] or found[2] or "").strip() if found else ""

    @property
    def line(self) -> int:
        """Where the reply begins, or the command if there is none."""
        if self.said:
            return self.said[0].number
        return self.asked.number if self.asked is not None else 0


class Session(msgspec.Struct):
    """A recorded session, in pairs of command and reply."""

    recording: Recording
    exchanges: list[Exchange] = msgspec.field(default_factory=list)
    strays: list[Line] = msgspec.field(default_factory=list)  # what a server said that is no reply
    is_lmtp: bool = False
    missing_finals: int = 0  # recipients of the last message that LMTP has no answer for

    @property
    def host(self) -> str:
        """The server's name: as the recorder has it, or as the server gives it in its greeting."""
        if self.recording.peer:
            return self.recording.peer
        first = self.exchanges[0] if self.exchanges else None
        if first is None or first.stage is not Stage.GREETING or first.reply is None:
            return ""
        word = first.reply.text.partition(" ")[0]
        return word if "." in word else ""

    @property
    def has_client(self) -> bool:
        """Whether anything was recorded that the client said."""
        return any(exchange.asked is not None for exchange in self.exchanges)


def pair(recording: Recording) -> Session:
    """Read a recording. Never raises."""
    session = Session(recording)
    _Pairing(session).run()
    return session


class _Pairing:
    """The state of the reading: what the client said and no reply was found for yet."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shows_bodies = session.recording.shows_bodies
        self._pending: deque[Line] = deque()
        self._said: list[Line] = []
        self._await = ""  # what the next line of the client is, if no command: "body", "secret" or "chunk"
        self._accepted = 0  # recipients of this transaction; LMTP has a reply for each (RFC 2033 4.2)
        self._finals = 0  # replies still to come for a message that was sent
        self._final: Exchange | None = None

    def run(self) -> None:
        for line in self._session.recording.lines:
            if line.side is Side.CLIENT:
                self._pending.append(line)
            elif line.side is Side.SERVER:
                self._take(line)
        if self._said:
            self._finish_reply()
        self._session.missing_finals = max(self._finals, 0)
        self._rest()

    def _take(self, line: Line) -> None:
        if not _REPLY_LINE.fullmatch(line.text):
            self._session.strays.append(line)
            return
        if len(self._said) < MAX_LINES:
            self._said.append(line)
        else:
            self._said[-1] = line
        if line.text[3:4] not in ("-", "_"):
            self._finish_reply()

    def _finish_reply(self) -> None:
        said, self._said = tuple(self._said), []
        octets = [line.text[:_KEPT_CHARACTERS].encode("utf-8", "surrogateescape") for line in said]
        reply = parse_reply(octets)
        exchange = self._answered(reply, said)
        self._session.exchanges.append(exchange)
        self._follow(exchange, reply)

    def _answered(self, reply: Reply, said: tuple[Line, ...]) -> Exchange:
        """Find what a reply answers."""
        exchanges = self._session.exchanges
        if not exchanges and self._is_greeting(reply):
            return Exchange("", Stage.GREETING, None, reply, said)
        if self._finals and self._final is not None:
            self._finals -= 1
            final = self._final
            return Exchange(final.verb, final.stage, final.asked, reply, said)
        if self._await == "body":
            return self._ended(reply, said)
        if not self._pending:
            return Exchange("", _stage_of(reply, exchanges), None, reply, said)
        return self._command(reply, said)

    def _is_greeting(self, reply: Reply) -> bool:
        """The first reply is the greeting, unless the recording begins later: then it answers a command."""
        if not self._pending:
            return reply.code in (220, 421, 554, 521) or not reply.positive
        return reply.code == 220 and verb_of(self._pending[0].text) != "STARTTLS"

    def _ended(self, reply: Reply | None, said: tuple[Line, ...]) -> Exchange:
        """The end of a message: all lines up to the dot, or all there are if it was not recorded."""
        self._await = ""
        body: list[Line] = []
        dot = None
        while self._pending:
            line = self._pending.popleft()
            if line.text == DOT and line.end == "\r\n":
                dot = line
                break
            body.append(line)
        asked = dot or (Line(body[-1].number, Side.CLIENT, DOT) if body else None)
        complete = dot is not None or reply is not None or not (body or self._shows_bodies)
        exchange = Exchange(DOT, Stage.BODY, asked, reply, said, tuple(body), complete)
        self._final = Exchange(DOT, Stage.BODY, asked, None)
        self._finals = self._accepted - 1 if self._session.is_lmtp and reply is not None else 0
        self._accepted = 0
        return exchange

    def _command(self, reply: Reply | None, said: tuple[Line, ...]) -> Exchange:
        """The next line of the client as the server takes it: part of a login, or a command with what belongs to it."""
        line = self._pending.popleft()
        if self._await == "secret":
            self._await = ""
            return Exchange("AUTH", Stage.AUTH, line, reply, said)
        verb = verb_of(line.text)
        if verb != "BDAT" or (found := _BDAT.fullmatch(line.text)) is None:
            return Exchange(verb, STAGES.get(verb, Stage.ANY), line, reply, said)
        octets, last = int(found[1]), bool(found[2])
        chunk = tuple(self._chunk_lines(octets))
        stage = Stage.BODY if last else Stage.BDAT
        exchange = Exchange("BDAT", stage, line, reply, said, chunk)
        if last:
            self._final = Exchange("BDAT", stage, line, None)
            is_refused = reply is None or reply.code == _BAD_SEQUENCE
            self._finals = self._accepted - 1 if self._session.is_lmtp and not is_refused else 0
            self._accepted = 0
        return exchange

    def _chunk_lines(self, octets: int) -> Iterator[Line]:
        """The lines of a chunk, if the recording has them: as many as fit its size."""
        is_exact = self._session.recording.is_exact
        while self._pending and octets > 0:
            line = self._pending.popleft()
            size = len(line.text if is_exact else line.text.encode("utf-8", "surrogateescape")) + len(
                line.end
            )
            if is_exact and size > octets:  # the next command stands on the same line
                yield Line(line.number, line.side, line.text[:octets], "")
                self._pending.appendleft(Line(line.number, line.side, line.text[octets:], line.end))
                return
            is_command = verb_of(line.text) in ("BDAT", "QUIT", "RSET", "MAIL") and size != octets
            if size > octets or (is_command and not is_exact):
                self._pending.appendleft(line)
                return
            octets -= size
            yield line

    def _follow(self, exchange: Exchange, reply: Reply) -> None:
        """What the reply makes of the client's next line."""
        if exchange.verb == "LHLO":
            self._session.is_lmtp = True
        if exchange.verb in ("MAIL", "EHLO", "HELO", "LHLO", "RSET") and reply.positive:
            self._accepted = 0
        if exchange.verb == "RCPT" and reply.positive:
            self._accepted += 1
        if exchange.verb == "AUTH" and reply.code == 334:
            self._await = "secret"
        if reply.code == 354 and exchange.verb != "AUTH":
            self._await = "body"

    def _rest(self) -> None:
        """What the client said and got no reply to any more."""
        exchanges = self._session.exchanges
        if self._await == "body":
            exchanges.append(self._ended(None, ()))
        has_dot = True
        while self._pending:
            exchanges.append(self._command(None, ()))
            if exchanges[-1].verb == "DATA" and has_dot:
                # Behind a DATA without an answer nothing can be told apart: all up to a dot counts as a message.
                has_dot = any(line.text == DOT for line in self._pending)
                if has_dot:
                    exchanges.append(self._ended(None, ()))


def _stage_of(reply: Reply, before: list[Exchange]) -> Stage:
    """Where a reply belongs whose command was not recorded, as far as it can be told."""
    if reply.code in (220, 521) and not before:
        return Stage.GREETING
    last = before[-1] if before else None
    if (
        last is not None
        and last.reply is not None
        and last.reply.code == 354
        and last.stage is not Stage.BODY
    ):
        return Stage.BODY
    by_code = {
        221: Stage.QUIT,
        354: Stage.DATA,
        334: Stage.AUTH,
        235: Stage.AUTH,
        535: Stage.AUTH,
        214: Stage.HELP,
    }
    if reply.code in by_code:
        return by_code[reply.code]
    if last is not None and last.stage is Stage.GREETING and reply.positive:
        return Stage.HELLO
    by_status = {
        "1.0": Stage.MAIL,
        "1.7": Stage.MAIL,
        "1.8": Stage.MAIL,
        "1.5": Stage.RCPT,
        "1.1": Stage.RCPT,
    }
    return by_status.get(reply.status.partition(".")[2], Stage.ANY)
