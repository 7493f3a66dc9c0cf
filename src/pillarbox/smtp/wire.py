"""Turn octets into lines and bodies, and bodies into octets, as strictly as RFC 5321 2.3.8 and 4.1.1.4 ask.

Only CRLF ends a line and only CRLF.CRLF ends the data, so nothing can be smuggled; what a line means is
`smtp.grammar`'s business.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import Enum

END_OF_DATA = b"\r\n.\r\n"
_BEGINNING = 5  # octets of a line: they tell its verb
TLS_HANDSHAKE = b"\x16"  # what a client that begins with TLS sends first (RFC 8446 5.1)
# One octet is looked for by its number: given as bytes, `in` costs an exception inside the interpreter each time.
CR, LF, NUL, DOT = b"\r\n\0."
_COMMAND = re.compile(rb"([A-Za-z]+)(?: ([\x01-\x09\x0b\x0c\x0e-\x7f]*))?\r\n")
_UNCLEAN = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")
_SHORT_OCTETS = 320  # a longer line is not worth to be remembered
_MOST_REMEMBERED = 2048  # lines: a megabyte
# How they begin; AUTH, which holds passwords, is not among them.
_USUAL = frozenset(b"EMRDQemrdq")


# What command lines said: the same come again and again.
_remembered: dict[bytes, tuple[bytes, str]] = {}


def _split_command(line: bytes) -> tuple[bytes, str] | None:
    """Verb and argument of a line, if it is a verb alone or a space and printable ASCII follow it; most are remembered."""
    found = _COMMAND.fullmatch(line)
    if found is None:
        return None
    command = found[1], (found[2] or b"").decode("ascii").strip(" \t")
    if len(line) <= _SHORT_OCTETS and line[0] in _USUAL:
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[line] = command
    return command


class LineFault(Enum):
    """Why a command line is refused."""

    TOO_LONG = "too long"
    NOT_CLEAN = "bare CR or LF, or NUL"


class BodyFault(Enum):
    """Why a body is refused."""

    BARE_LINE_ENDING = "a CR or LF that is not part of CRLF"
    NUL = "a NUL octet"
    LINE_TOO_LONG = "a line longer than allowed"


class LineReader:
    """Cuts a stream of octets into lines of at most `max_octets`, CRLF included."""

    __slots__ = ("_position", "_skipping", "buffer", "long_line")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.buffer = b""  # what was fed, as long as any of it is to be handed out
        # lines are not cut off the buffer one by one: that would cost the square of its size
        self._position = 0
        self._skipping = False
        self.long_line = b""  # the beginning of the last line that was too long

    def feed(self, data: bytes) -> None:
        """Take what the peer sent."""
        if self.buffer:
            self.buffer = self.buffer[self._position :] + data
            self._position = 0
        else:
            self.buffer = data

    @property
    def waiting_octets(self) -> int:
        """How much was fed and not yet handed out."""
        return len(self.buffer) - self._position

    def begins_with(self, word: bytes) -> bool:
        """Whether the next line begins with a word, in capitals or not."""
        return self.buffer[self._position : self._position + len(word)].upper() == word

    def forget(self) -> None:
        """Throw away everything that was not yet handed out."""
        self.buffer, self._position = b"", 0

    def take(self, octets: int) -> bytes:
        """Hand out the next octets as they are, at most so many."""
        piece = self.buffer[self._position : self._position + octets]
        self._cut(self._position + len(piece))
        return piece

    def take_body(self) -> bytes:
        """Hand out what followed a DATA command: to the end of data, or all if that has not come yet."""
        start = self._position
        if self.buffer.startswith(END_OF_DATA[2:], start):  # the CRLF of the command itself is the first
            return self.take(3)
        end = self.buffer.find(END_OF_DATA, start)
        return self.take(self.waiting_octets if end < 0 else end + 5 - start)

    def next_command(self, max_octets: int) -> tuple[bytes, str] | None:
        """Verb and argument of the next line, if it is a plain command in ASCII; if it is not, `next_line` gives it."""
        line = self.buffer
        found = _remembered.get(line)
        if found is None or self._position or self._skipping or len(line) > max_octets:
            return self._next_of_many(max_octets)
        self.buffer = b""  # it came alone, as most do
        return found

    def _next_of_many(self, max_octets: int) -> tuple[bytes, str] | None:
        """The same where the line is perhaps a part of what was fed, or can't be handed out."""
        start = self._position
        end = self.buffer.find(b"\n", start) + 1
        if not end or self._skipping or end - start > max_octets:
            return None
        line = self.buffer[start:end]
        found = _remembered.get(line) or _split_command(line)
        if found is not None:
            self._cut(end)
        return found

    def _cut(self, end: int) -> None:
        """Hand out everything before `end`."""
        if end == len(self.buffer):  # an idle session must not hold on to what it once read
            self.forget()
        else:
            self._position = end

    def next_line(self, max_octets: int) -> bytes | LineFault | None:
        """The next line without its CRLF, a fault (the line is thrown away), or None if more is needed.

        A bare LF ends a line too, but only to find the next one: the line itself is refused.
        """
        buffer, start = self.buffer, self._position
        if not buffer:
            return None
        end = buffer.find(b"\n", start)
        if end < 0:
            if len(buffer) - start > max_octets:
                self._skipping, self.long_line = True, buffer[start : start + _BEGINNING]
                self.forget()
            return None
        following = end + 1
        self._cut(following)
        if self._skipping:
            self._skipping = False
            return LineFault.TOO_LONG
        if following - start > max_octets:
            self.long_line = buffer[start : start + _BEGINNING]
            return LineFault.TOO_LONG
        text = buffer[start : end - 1]
        if end == start or buffer[end - 1] != CR or CR in text or NUL in text:
            return LineFault.NOT_CLEAN
        return text


class BodyChecker:
    """Looks for what a text body must not have, piece by piece, in linear time."""

    __slots__ = ("_line_octets", "_max_line_octets")

    def __init__(self, max_line_octets: int) -> None:
        """Allow lines of at most `max_line_octets`, CRLF not counted."""
        self._max_line_octets = max_line_octets
        self._line_octets = 0  # of the line that is still open

    def check(self, piece: bytes) -> BodyFault | None:
        """Look at one piece, which must not end between CR and LF."""
        text = piece.replace(b"\r\n", b"")  # faster than to count CR, LF and their pairs
        if LF in text or CR in text or NUL in text:
            return self._first_fault(piece)
        if self._line_octets + len(piece) <= self._max_line_octets and piece[-1:] == b"\n":
            self._line_octets = 0
            return None
        return self._check_lines(piece)

    def _first_fault(self, piece: bytes) -> BodyFault:
        """What is wrong first in an unclean piece, so that it does not depend on how the octets came."""
        found = _UNCLEAN.search(piece)
        assert found is not None  # that is why we are here
        unclean = BodyFault.NUL if found[0] == b"\0" else BodyFault.BARE_LINE_ENDING
        return self._check_lines(piece[: found.start()]) or unclean

    def _check_lines(self, piece: bytes) -> BodyFault | None:
        """Jump from line end to line end in strides of the longest line allowed."""
        limit = self._max_line_octets + 2
        position = -self._line_octets  # where the open line began
        while len(piece) - position > limit:
            end = piece.rfind(b"\n", max(position, 0), position + limit)
            if end < 0:
                return BodyFault.LINE_TOO_LONG
            position = end + 1
        last = piece.rfind(b"\n")
        self._line_octets = len(piece) - last - 1 if last >= 0 else self._line_octets + len(piece)
        return None


_START = b"\r\n"  # stands for the CRLF of the DATA command, so that a first dot is at a line start


class DataReader:
    """Finds the end of a DATA body and removes the dot-stuffing (RFC 5321 4.5.2)."""

    __slots__ = ("_first", "_tail", "rest")

    def __init__(self) -> None:
        """Begin at the start of a body."""
        self._tail = _START
        self._first = True
        self.rest: bytes | None = None  # what came after the end of data; None until it is found

    def feed(self, data: bytes) -> bytes:
        """Take octets, return the body octets that are sure; when the end was found `rest` is set."""
        at_once = self._tail is _START and data.endswith(END_OF_DATA)
        # Most have no dot to remove.
        if at_once and data[0] != DOT and data.find(b"\r\n.") == len(data) - 5:
            self.rest = b""
            return data[:-3]
        data = self._tail + data if self._tail else data
        dot = data.find(b"\r\n.")  # most bodies have none, and one search then answers both questions
        end = data.find(END_OF_DATA, dot) if dot >= 0 else -1
        if end >= 0:
            self.rest = data[end + 5 :]
            piece = data[: end + 2]
            self._tail = b""
        else:
            keep = _held_back(data)
            piece, self._tail = (data[:-keep], data[-keep:]) if keep else (data, b"")
        if dot >= 0 and dot != end:
            piece = piece.replace(b"\r\n.", b"\r\n")
        if self._first and piece:
            self._first = False
            return piece[2:]
        return piece


def _held_back(data: bytes) -> int:
    """How many octets at the end may be the beginning of the end of data."""
    tail = data[-4:]
    for length in range(len(tail), 0, -1):
        if END_OF_DATA.startswith(tail[-length:]):
            return length
    return 0


def stuff(piece: bytes, *, at_line_start: bool) -> bytes:
    """Double the dot at each line start of a body that has only CRLF line ends (RFC 5321 4.5.2)."""
    stuffed = piece.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if at_line_start and piece[:1] == b"." else stuffed


def format_moment(at: float) -> str:
    """Write Unix time as a date and time of the Internet (RFC 3339), as parameters and keywords have it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
