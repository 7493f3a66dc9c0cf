"""Receive one message body, by DATA or by BDAT, and find out whether it may be taken.

It looks at octets only: sizes, line ends, line lengths. Headers are `mail.message`'s, the verdict on the message the
policy's business.
"""

from __future__ import annotations

from pillarbox.mail.catalogue import content
from pillarbox.mail.reply import Reply
from pillarbox.smtp.wire import BodyChecker, BodyFault, DataReader

_CAUSES = {
    BodyFault.BARE_LINE_ENDING: content.BARE_LINE_ENDING,
    BodyFault.NUL: content.NUL_OCTET,
    BodyFault.LINE_TOO_LONG: content.LINE_TOO_LONG,
}


class BodyReader:
    """One body. Pieces that come out are checked; after a fault nothing more comes out, but all is still consumed."""

    __slots__ = (
        "_checker",
        "_held",
        "_max_line_octets",
        "_max_octets",
        "_stuffed",
        "fault",
        "octets",
        "rest",
    )

    def __init__(self, *, max_octets: int, max_line_octets: int, binary: bool, stuffed: bool) -> None:
        """`stuffed` for DATA; `binary` allows any octet (RFC 3030 3)."""
        self._max_octets = max_octets
        self._max_line_octets = max_line_octets
        self._checker = None if binary else BodyChecker(max_line_octets)
        self._stuffed = DataReader() if stuffed else None
        self._held = b""  # a CR at the end of a chunk whose LF may come with the next
        self.octets = 0
        self.fault: Reply | None = None
        self.rest: bytes | None = None  # what followed the end of a DATA body

    def feed_data(self, data: bytes) -> bytes:
        """Take octets of a DATA body; when its end was found, `rest` holds what follows."""
        assert self._stuffed is not None  # the session calls this for DATA bodies alone
        piece = self._stuffed.feed(data)
        self.rest = self._stuffed.rest
        self.octets += len(piece)
        return self._accept(piece)

    def feed_chunk(self, data: bytes) -> bytes:
        """Take octets of a BDAT chunk."""
        self.octets += len(data)
        if self._checker is None:
            return self._accept(data)
        data = self._held + data
        self._held = data[-1:] if data.endswith(b"\r") else b""
        return self._accept(data[:-1] if self._held else data)

    def finish_chunks(self) -> bytes:
        """The last chunk has come: give what was held back."""
        held, self._held = self._held, b""
        return self._accept(held)

    def _accept(self, piece: bytes) -> bytes:
        """The piece, or nothing if the body has a fault."""
        if self.fault is not None or not piece:
            return b""
        if self.octets > self._max_octets:
            self.fault = content.TOO_BIG.reply(limit=self._max_octets)
            return b""
        found = self._checker.check(piece) if self._checker is not None else None
        if found is None:
            return piece
        self.fault = _CAUSES[found].reply(limit=self._max_line_octets)
        return b""
