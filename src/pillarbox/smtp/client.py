"""Speak SMTP and LMTP as the client: write each command, and settle one reply for each recipient.

How to log in is in `smtp.login`. Without input or output: `relay` carries the octets, keeps the time, and chooses the hosts.
"""

from __future__ import annotations

import re
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING

from pillarbox.mail.address import spell_in_ascii
from pillarbox.mail.catalogue.envelope import RECIPIENT_OK
from pillarbox.mail.envelope import MAX_ORCPT_OCTETS, NO_TERMS, Body, ByMode, Notify
from pillarbox.mail.reply import Stage
from pillarbox.smtp.replies import CLOSING_CODE, Extensions, ProtocolError
from pillarbox.smtp.wire import NUL, format_moment, stuff

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pillarbox.mail.envelope import Envelope, Recipient, Terms
    from pillarbox.mail.reply import Reply

STARTTLS = b"STARTTLS\r\n"
QUIT = b"QUIT\r\n"
RSET = b"RSET\r\n"
LONE_DOT = b".\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_STRAY = re.compile(rb"\r(?!\n)|\0")
_NOT_IN_COMMANDS = re.compile(r"[\x00-\x1f\x7f]")
_NOT_XCHAR = re.compile(rb"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")


def command(text: str) -> bytes:
    """One command line. Raises ValueError if `text` could be taken for more than one line."""
    if _NOT_IN_COMMANDS.search(text):
        msg = "control characters in a command"
        raise ValueError(msg)
    return text.encode("utf-8", "surrogateescape") + b"\r\n"


def xtext_encode(text: str) -> str:
    """Encode printable text as xtext (RFC 3461 4); `smtp.grammar` reads it."""
    return _NOT_XCHAR.sub(lambda m: b"+%02X" % m[0][0], text.encode()).decode("ascii")


def mail_command(
    envelope: Envelope, octets: int, extensions: Extensions, *, hints: bool = True, now: float = 0.0
) -> bytes:
    """MAIL with those parameters that the server offers; without `hints`, only with those that can't be left out.

    `now` is Unix time, for a deadline.
    """
    words = [f"MAIL FROM:<{envelope.sender}>"]
    if envelope.smtputf8:
        words.append("SMTPUTF8")  # RFC 6531 3.4
    if envelope.body is Body.BINARY or (envelope.body is Body.EIGHT_BIT and "8BITMIME" in extensions):
        words.append(f"BODY={envelope.body.value}")
    if hints and "SIZE" in extensions:
        words.append(f"SIZE={octets}")
    if hints and "DSN" in extensions:
        if envelope.ret is not None:
            words.append(f"RET={envelope.ret.value}")
        if envelope.envid:
            words.append(f"ENVID={xtext_encode(envelope.envid)}")
    if envelope.terms is not NO_TERMS:
        words += _term_words(envelope.terms, extensions, hints=hints, now=now)
    return command(" ".join(words))


def _term_words(terms: Terms, extensions: Extensions, *, hints: bool, now: float) -> Iterator[str]:
    """The parameters for what the sender asked of the way."""
    by = terms.by
    if by is not None and "DELIVERBY" in extensions and (hints or by.mode is ByMode.RETURN):
        yield f"BY={round(by.at - now)};{by.mode.value}{'T' if by.trace else ''}"
    if hints and terms.priority and "MT-PRIORITY" in extensions:
        yield f"MT-PRIORITY={terms.priority}"
    if terms.require_tls:
        yield "REQUIRETLS"


def rcpt_command(recipient: Recipient, extensions: Extensions, *, hints: bool = True) -> bytes:
    """RCPT, with the parameters of RFC 3461 if the server offers them."""
    text = f"RCPT TO:<{recipient.address}>"
    if hints and "DSN" in extensions:
        if recipient.notify is not Notify.UNSAID:
            names = (flag.name or "" for flag in (Notify.NEVER, Notify.SUCCESS, Notify.FAILURE, Notify.DELAY))
            asked = ",".join(name for name in names if Notify[name] & recipient.notify)
            text += f" NOTIFY={asked}"
        if recipient.orcpt:
            kind, _, address = recipient.orcpt.partition(";")
            encode = spell_in_ascii if kind.lower() == "utf-8" else xtext_encode
            original = f"{kind};{encode(address)}"
            if len(original) <= MAX_ORCPT_OCTETS:
                text += f" ORCPT={original}"
    valid = recipient.valid_since
    if valid is not None and "RRVS" in extensions:
        text += f" RRVS={format_moment(valid.at)};{'R' if valid.refuse else 'C'}"
    return command(text)


class Next(Enum):
    """What a transaction waits for."""

    COMMANDS = auto()  # send `commands()`, give the replies to `take()`
    BODY = auto()  # send the message and its end, give the replies to `take_final()`
    LONE_DOT = auto()  # nobody is to get the message, but the server wants one: end it at once
    NOTHING = auto()  # all is settled


class Mode(Flag):
    """How a transaction differs from the plain one."""

    NOTHING = 0
    LMTP = auto()  # one reply for each accepted recipient at the end
    CHUNKED = auto()  # the message follows by BDAT, not by DATA
    RESET = auto()  # RSET in front, because the transaction before was left open
    WITHOUT_HINTS = auto()  # only those parameters that can't be left out


class Transaction:
    """One message to one server, from MAIL to the answer at its end (RFC 5321 3.3, RFC 2033 4.2).

    `settled` gives, for the index of each recipient, the reply that decides and the stage at which it came.
    """

    __slots__ = (
        "_accepted",
        "_answered",
        "_asked",
        "_chunked",
        "_lmtp",
        "_pipelining",
        "_steps",
        "_waiting",
        "dirty",
        "remarks",
        "settled",
    )

    def __init__(
        self,
        envelope: Envelope,
        octets: int,
        extensions: Extensions,
        mode: Mode = Mode.NOTHING,
        *,
        now: float = 0.0,
    ) -> None:
        """Plan the commands for a message of so many octets; `now` is Unix time."""
        hints = Mode.WITHOUT_HINTS not in mode
        steps = [(Stage.RSET, -1, RSET)] if Mode.RESET in mode else []
        steps.append((Stage.MAIL, -1, mail_command(envelope, octets, extensions, hints=hints, now=now)))
        for index, recipient in enumerate(envelope.recipients):
            steps.append((Stage.RCPT, index, rcpt_command(recipient, extensions, hints=hints)))
        if Mode.CHUNKED not in mode:
            steps.append((Stage.DATA, -1, b"DATA\r\n"))
        self._steps = steps
        self._asked = 0  # so many commands were sent
        self._answered = 0  # and so many have their reply
        self._pipelining = "PIPELINING" in extensions
        self._lmtp = Mode.LMTP in mode
        self._chunked = Mode.CHUNKED in mode
        self._accepted: list[int] = []
        self._waiting = Next.COMMANDS
        self.dirty = False  # the server keeps an open transaction
        self.settled: dict[int, tuple[Stage, Reply]] = {}
        self.remarks: dict[int, Reply] = {}  # of recipients that were taken with more than a plain yes

    @property
    def next(self) -> Next:
        """What is to be done now."""
        return self._waiting

    @property
    def stage(self) -> Stage:
        """The stage of the reply that is waited for."""
        return self._steps[self._answered][0] if self._answered < len(self._steps) else Stage.BODY

    @property
    def accepted(self) -> int:
        """How many recipients the server took."""
        return len(self._accepted)

    def accepted_before(self, index: int) -> bool:
        """Whether the server took a recipient that came before this one."""
        return bool(self._accepted) and self._accepted[0] < index

    @property
    def final_replies(self) -> int:
        """How many replies the end of the message earns: LMTP gives one for each recipient (RFC 2033 4.2)."""
        return len(self._accepted) if self._lmtp else 1

    def commands(self) -> tuple[bytes, int]:
        """The octets to send now, and how many replies they earn (RFC 2920 3.1)."""
        first = self._asked
        self._asked = len(self._steps) if self._pipelining else first + 1
        group = self._steps[first : self._asked]
        return b"".join([wire for _, _, wire in group]), len(group)

    def take(self, replies: Sequence[Reply]) -> None:
        """Take the replies to a group of commands, fewer only if the last one closes.

        Raises ProtocolError if one can't be the answer to its command; then none is taken: they may have shifted.
        """
        self._check(replies)
        for reply in replies:
            stage, index, _ = self._steps[self._answered]
            self._answered += 1
            if reply.code == CLOSING_CODE:
                self._settle_rest(stage, reply)
                return
            self._take_one(stage, index, reply)
            if self._waiting is Next.NOTHING and not self._pipelining:
                return
        if self._waiting is Next.COMMANDS and self._answered == len(self._steps):
            self._after_last_command()
        elif (
            self._waiting is Next.COMMANDS
            and self._steps[self._answered][0] is Stage.DATA
            and not self._accepted
        ):
            self._waiting = Next.NOTHING

    def _check(self, replies: Sequence[Reply]) -> None:
        for (stage, _, _), reply in zip(self._steps[self._answered :], replies, strict=False):
            if reply.code == CLOSING_CODE:
                return
            if reply.intermediate is not (stage is Stage.DATA) and (reply.intermediate or reply.positive):
                msg = f"{reply} in answer to {stage.value.upper()}"
                raise ProtocolError(msg)

    def _take_one(self, stage: Stage, index: int, reply: Reply) -> None:
        if stage is Stage.MAIL:
            self.dirty = reply.positive
            if not reply.positive:
                self._settle_rest(stage, reply)  # what the server says to the rest of the group is an echo
        elif stage is Stage.RCPT:
            if reply.positive and self.dirty:
                self._accepted.append(index)
                if reply.code != RECIPIENT_OK.code:
                    self.remarks[index] = reply
            else:
                self.settled.setdefault(index, (stage, reply))
        elif stage is Stage.DATA:
            if reply.intermediate:
                self._waiting = Next.BODY if self._accepted else Next.LONE_DOT
            else:
                self._settle_rest(stage, reply)

    def _after_last_command(self) -> None:
        """Without DATA the body may follow once the recipients are known (RFC 3030 2)."""
        self._waiting = Next.BODY if self._accepted else Next.NOTHING

    def take_final(self, replies: Sequence[Reply]) -> None:
        """Take what the server says at the end of the message; fewer replies than due settle fewer recipients.

        Raises ProtocolError.
        """
        taken = bool(replies) and replies[-1].positive
        self.dirty = self._chunked and not taken  # a refused chunk leaves the server in between (RFC 3030 2)
        for index, reply in zip(self._accepted if self._lmtp else self._accepted[:1], replies, strict=False):
            if reply.intermediate:
                msg = f"{reply} in answer to the message"
                raise ProtocolError(msg)
            self.settled[index] = (Stage.BODY, reply)
        if replies and (
            not self._lmtp or replies[-1].code == CLOSING_CODE or len(replies) == len(self._accepted)
        ):
            self._settle_rest(Stage.BODY, replies[-1])

    def nobody_got_it(self) -> None:
        """The lone dot was answered; whatever was said, it concerns nobody."""
        self.dirty = False
        self._waiting = Next.NOTHING

    def broken_off(self, reply: Reply) -> None:
        """The session ended: `reply` settles all that have no answer yet, accepted or not."""
        self._settle_rest(self.stage, reply)

    def _settle_rest(self, stage: Stage, reply: Reply) -> None:
        for step_stage, index, _ in self._steps:
            if step_stage is Stage.RCPT:
                self.settled.setdefault(index, (stage, reply))
        self._waiting = Next.NOTHING


class DataWriter:
    """Writes a message as DATA wants it: dots doubled, nothing but CRLF at line ends (RFC 5321 4.5.2, 2.3.8).

    What is kept has only CRLF already; that is looked at again here, because a bare CR or LF, or a NUL that the next
    host drops, would let it see another end of the message than this one. A bare LF is made a line end, as programs
    mean it; a CR or NUL where none belongs becomes a space, so that it makes no line of what was none.
    """

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        """Begin at the start of a message."""
        self._at_line_start = True
        self._held = False  # a CR at the end of a piece waits for its LF

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for one piece."""
        if self._held:
            piece = b"\r" + piece
        self._held = piece[-1:] == b"\r"
        if self._held:
            piece = piece[:-1]
        if not piece:
            return b""
        ends = piece.count(b"\n")
        if ends != piece.count(b"\r\n") or ends != piece.count(b"\r") or NUL in piece:
            piece = _STRAY.sub(b" ", _BARE_LF.sub(b"\r\n", piece))
        encoded = stuff(piece, at_line_start=self._at_line_start)
        self._at_line_start = piece[-1:] == b"\n"
        return encoded

    def finish(self) -> bytes:
        """The octets that end the message."""
        return LONE_DOT if self._at_line_start and not self._held else b"\r\n.\r\n"


class ChunkWriter:
    """Writes a message as BDAT wants it: unchanged, in one chunk of known size (RFC 3030 2)."""

    __slots__ = ("_head",)

    def __init__(self, octets: int) -> None:
        """`octets` is the size of the whole message."""
        self._head = b"BDAT %d LAST\r\n" % octets

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for one piece."""
        head, self._head = self._head, b""
        return head + piece

    def finish(self) -> bytes:
        """Nothing more, but the command if there was no piece at all."""
        return self.encode(b"")
