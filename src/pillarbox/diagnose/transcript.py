"""Read a recording of SMTP or LMTP, in any notation that programs use for it, into lines with a speaker.

Which reply answers which command is told by `exchanges`; what follows from it by `fates` and `lint`.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import msgspec

VERBS = frozenset(
    {"HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP"}
    | {"AUTH", "STARTTLS", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML", "XCLIENT", "XFORWARD", "BURL"}
)
MAX_SESSIONS = 1000  # in one recording; the rest is not looked at
DOT = "."

_REPLY = re.compile(r"[2-5]\d\d(?:[ \t-]|$)", re.ASCII)
_SAID = re.compile(r"[2-5]\d\d(?:[ \t_-].*|$)", re.ASCII)
_BODY_SENT = re.compile(r"\(\d+ octets of message, then|writing message and terminating", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {"r": "\r", "n": "\n", "t": "\t"}
_TOOK = re.compile(r" {2}\[\d{1,9}\.\d ms\]$", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}|\*")


class Side(StrEnum):
    """Who said a line."""

    CLIENT = "client"
    SERVER = "server"
    NOTE = "note"  # nobody: a remark of the program that recorded


class Line(msgspec.Struct, frozen=True):
    """One line of a recording. `end` is how it ended on the wire; most notations don't show that."""

    number: int  # of the line in the text, from 1
    side: Side
    text: str
    end: str = "\r\n"


class Recording(msgspec.Struct, frozen=True):
    """What was said in one session."""

    notation: str
    lines: tuple[Line, ...]
    peer: str = ""  # the other host, if the recording names it
    shows_bodies: bool = True  # the recorder shows the messages themselves too
    is_exact: bool = False  # every octet can be seen, the ends of lines too


class Notation(msgspec.Struct, frozen=True):
    """How a family of programs writes sessions down: `pattern` has the groups mark and text, and may have more."""

    name: str
    pattern: re.Pattern[str]
    client: frozenset[str]  # the marks in front of what the client says, unless the contents tell otherwise
    shows_bodies: bool = True
    is_exact: bool = False
    decode: Callable[[str], str] = str


class _Tally(msgspec.Struct):
    """How well a notation fits, and which way round."""

    matched: int = 0
    replies: list[int] = msgspec.field(
        default_factory=lambda: [0, 0]
    )  # under the client's marks, under the server's
    commands: list[int] = msgspec.field(default_factory=lambda: [0, 0])

    @property
    def is_reversed(self) -> bool:
        """Whether the marks stand for the other side: a server's log writes its own words with "out", too."""
        return self.replies[0] + self.commands[1] > self.replies[1] + self.commands[0]

    @property
    def fits(self) -> bool:
        """Whether this is a session in this notation."""
        replies, commands = max(self.replies), max(self.commands)
        return replies > 1 or (replies == 1 and (commands > 0 or self.matched == 1)) or commands > 1


def _arrows(text: str) -> str:
    """Two spaces stand behind a server's arrow, one behind a client's; our own `send` adds the time it took."""
    return _TOOK.sub("", text.removeprefix(" ").removeprefix(" "))


def _quoted(text: str) -> str:
    """The octets of a string as Python shows it."""
    body = text.removeprefix("b")[1:-1]
    if "\\" not in body:
        return body

    def plain(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        return chr(int(found[2], 8) & 255) if found[2] else _LETTERS.get(found[3], found[3])

    return _ESCAPE.sub(plain, body)


def _cell(text: str) -> str:
    """The first cell of the rest of a CSV row."""
    return next(csv.reader([text.replace("\0", "")]), [""])[0]


# What follows a mark is taken as it is; marks are tried against each line, so none may need more than one pass.
NOTATIONS = (
    Notation(  # Python's smtplib with set_debuglevel
        "smtplib",
        re.compile(r"(?:[\d:.]{8,15} )?(?P<mark>send|reply): (?P<text>b?(?:'.*'|\".*\"))"),
        frozenset({"send"}),
        is_exact=True,
        decode=_quoted,
    ),
    Notation(  # smtp_... or smtpd_... with -v or debug_peer_list
        "postfix verbose",
        re.compile(
            r"[^\[]{0,200}(?:smtp|lmtp|smtpd|postscreen)\[(?P<session>\d{1,10})\]: "
            r"(?P<mark>[<>]) (?P<peer>[^\s\[]{1,255}\[[^\]]{1,100}\])(?::\d{1,5})?: (?P<text>.*)"
        ),
        frozenset({">"}),
        shows_bodies=False,
    ),
    Notation(
        "exim -v",
        re.compile(
            r"\s{0,16}(?:[\d:. -]{1,30} )?SMTP(?:\([^)]{0,40}\))?(?P<mark><<|>>|>\||\|>|\+>) ?(?P<text>.*)"
        ),
        frozenset({">>", ">|", "|>", "+>"}),
        shows_bodies=False,
    ),
    Notation(
        "exchange protocol log",
        re.compile(
            r"\d{4}-\d\d-\d\dT[\d:.]{8,16}Z,[^,]{0,200},(?P<session>[0-9A-Fa-f]{1,40}),\d{1,9},[^,]{0,60},"
            r"(?P<peer>[^,]{0,60}),(?P<mark>[<>]),(?P<text>.*)"
        ),
        frozenset({">"}),
        shows_bodies=False,
        decode=_cell,
    ),
    Notation(  # swaks, msmtp --debug, pillarbox send
        "arrows",
        re.compile(r"\s{0,16}(?P<mark>-{1,2}>|~>|\*>|<--?|<~\*?|<\*{1,2})(?P<text>.*)"),
        frozenset({"->", "-->", "~>", "*>"}),
        decode=_arrows,
    ),
    Notation(  # by hand, documents, many libraries; In and Out in Postfix's reports to the postmaster
        "C: and S:",
        re.compile(
            r"\s{0,16}(?:[\[(]?[\w:.,+/ -]{1,40}[\])]?\s{1,4})?"
            r"(?P<mark>CLIENT -> SERVER|SERVER -> CLIENT|[Cc]lient|[Ss]erver|In|Out|C|S|c|s): {0,2}(?P<text>.*)"
        ),
        frozenset({"CLIENT -> SERVER", "Client", "client", "In", "C", "c"}),
    ),
    Notation(  # curl -v, sendmail -v, mutt; also what a bounce of Sendmail quotes
        "angle brackets",
        re.compile(r"(?:[\d:.]{8,15} )?\s{0,8}\d{0,3}(?P<mark>>{1,3}|<{1,3})(?=[ \d]|$) ?(?P<text>.*)"),
        frozenset({">", ">>", ">>>"}),
        shows_bodies=False,
    ),
)
_ANGLES, _EXIM = NOTATIONS[-1], NOTATIONS[2]


def read_recordings(text: str) -> list[Recording]:
    """The sessions in a text, in order of their first lines; none if it is no recording. Never raises."""
    rows = [row.removesuffix("\r") for row in text.split("\n")]
    notation, tally = _choose(rows)
    if notation is None:
        lines = _read_bare(rows)
        return (
            [Recording("no marks", tuple(lines))] if any(line.side is not Side.NOTE for line in lines) else []
        )
    return _read_marked(rows, notation, is_reversed=tally.is_reversed)


def verb_of(command: str) -> str:
    """The verb of a command line in capitals, "" if there is none."""
    return command[:40].replace("\t", " ").lstrip(" ").partition(" ")[0].upper()


def _choose(rows: Sequence[str]) -> tuple[Notation | None, _Tally]:
    """The notation that explains the most lines; None if the lines have no marks."""
    tallies = [_Tally() for _ in NOTATIONS]
    for row in rows:
        for notation, tally in zip(NOTATIONS, tallies, strict=True):
            found = notation.pattern.fullmatch(row)
            if found is None:
                continue
            said = notation.decode(found["text"])
            side = found["mark"] not in notation.client
            tally.matched += 1
            tally.replies[side] += bool(_REPLY.match(said))
            tally.commands[side] += verb_of(said.partition("\n")[0].rstrip("\r")) in VERBS
    best = max(range(len(NOTATIONS)), key=lambda number: (tallies[number].fits, tallies[number].matched))
    return (NOTATIONS[best] if tallies[best].fits else None), tallies[best]


def _read_marked(rows: Sequence[str], notation: Notation, *, is_reversed: bool) -> list[Recording]:
    """Cut marked lines into sessions, and each line into what was said."""
    sessions: dict[str, list[Line]] = {}
    peers: dict[str, str] = {}
    has_replies = any(
        (found := notation.pattern.fullmatch(row)) and _REPLY.match(notation.decode(found["text"]))
        for row in rows
    )
    key, side = "", Side.NOTE
    for number, row in enumerate(rows, 1):
        found = notation.pattern.fullmatch(row)
        if found is None:
            lines = sessions.setdefault(key, [])
            lines.append(_unmarked(number, row, side, notation, has_replies=has_replies))
            continue
        marks = found.groupdict()
        key = marks.get("session") or ""
        if key not in sessions and len(sessions) >= MAX_SESSIONS:
            continue
        peers.setdefault(key, marks.get("peer") or "")
        side = Side.CLIENT if (found["mark"] in notation.client) is not is_reversed else Side.SERVER
        text = notation.decode(found["text"])
        lines = sessions.setdefault(key, [])
        if text or notation is not _EXIM:  # which marks the end of a connection so, too
            lines += _said(number, side, text, is_exact=notation.is_exact)
    return [
        Recording(
            notation.name, tuple(lines), _host(peers.get(key, "")), notation.shows_bodies, notation.is_exact
        )
        for key, lines in sessions.items()
        if any(line.side is not Side.NOTE for line in lines)
    ]


def _said(number: int, side: Side, text: str, *, is_exact: bool) -> Iterable[Line]:
    if side is Side.CLIENT and _BODY_SENT.match(text):
        return [Line(number, side, DOT)]
    if not is_exact:
        return [Line(number, side, text)]
    pieces = text.split("\n")
    lines = [
        Line(number, side, piece.removesuffix("\r"), "\r\n" if piece.endswith("\r") else "\n")
        for piece in pieces[:-1]
    ]
    return [*lines, Line(number, side, pieces[-1], "")] if pieces[-1] else lines


def _unmarked(number: int, row: str, side: Side, notation: Notation, *, has_replies: bool) -> Line:
    """A line without a mark: mostly a remark, but some programs mark the first line of a reply only, or none."""
    if notation is _EXIM and side is Side.SERVER and row[:2].isspace() and _SAID.fullmatch(row.strip()):
        return Line(number, Side.SERVER, row.strip())
    if notation is _ANGLES and not has_replies and _SAID.fullmatch(row):
        return Line(number, Side.SERVER, row)
    return Line(number, Side.NOTE, row)


def _host(peer: str) -> str:
    """The name in `name[address]`, or the address in `address:port`."""
    name, bracket, _rest = peer.partition("[")
    if bracket:
        return name if name != "unknown" else ""
    return peer.rpartition(":")[0]


def _read_bare(rows: Sequence[str]) -> list[Line]:
    """Tell by the words who said what, as in a paste from telnet or openssl s_client."""
    dots = [number for number, row in enumerate(rows) if row.strip() == DOT]
    lines: list[Line] = []
    body_until, last_code = -1, ""
    for number, row in enumerate(rows):
        text = row.strip(" \t")
        if number <= body_until:
            side, text = Side.CLIENT, row
        elif _SAID.fullmatch(text):
            side, last_code = Side.SERVER, text[:4]
            if last_code.rstrip() == "354":
                following = bisect_left(dots, number)
                body_until = dots[following] if following < len(dots) else -1
        elif verb_of(text) in VERBS or text == DOT or (last_code == "334 " and _BASE64.fullmatch(text)):
            side, last_code = Side.CLIENT, ""
        else:
            refused = number + 1 < len(rows) and rows[number + 1].startswith(("500 ", "502 ", "501 "))
            side = Side.CLIENT if refused and text else Side.NOTE
        lines.append(Line(number + 1, side, text))
    return lines
