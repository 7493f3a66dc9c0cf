"""The transfer of a message from its DATA or first BDAT to the verdict on its octets (RFC 5321 4.1.1.4, RFC 3030 2).

What octets may be in a message is `smtp.body`'s, when a transfer may begin the session's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import content, session
from pillarbox.mail.reply import Reply
from pillarbox.smtp.body import BodyReader
from pillarbox.smtp.events import BodyChunk, BodyEnd, Event

if TYPE_CHECKING:
    from pillarbox.smtp.profile import Limits


_FAR_TOO_MUCH = 1 << 20  # octets that may come beyond twice the largest message, before no end is waited for


class Transfer:
    """The message body that a session is taking, if any, and the chunk that is on its way.

    The pieces that come out are appended to the session's events.
    """

    __slots__ = (
        "_began",
        "_events",
        "_last",
        "_left",
        "_max_octets",
        "_reader",
        "_refusal",
        "_thrown",
        "too_slow",
    )

    def __init__(self, events: list[Event]) -> None:
        """Begin without a body."""
        self._events = events
        self._reader: BodyReader | None = None
        self._left = 0  # octets of the chunk that are still to come
        self._last = False  # what comes now is the end of the body
        self._refusal: Reply | None = None  # of the chunk, which is thrown away then
        self._began = 0.0  # when the first octets of the body came; 0 while none has
        self._thrown = 0  # octets of refused chunks
        self._max_octets = 1 << 62  # of a body
        self.too_slow = False  # so that its time is up although octets come

    @property
    def open(self) -> bool:
        """Whether a body is begun and its end not yet answered."""
        return self._reader is not None

    def begin(self, limits: Limits, *, binary: bool, stuffed: bool) -> None:
        """A new body comes; `stuffed` by DATA, otherwise in chunks."""
        self._reader = BodyReader(
            max_octets=limits.message_octets,
            max_line_octets=limits.text_line_octets,
            binary=binary,
            stuffed=stuffed,
        )
        self._last, self._refusal = stuffed, None
        self._began, self._max_octets = 0.0, limits.message_octets

    def end(self) -> bool:
        """Forget the body; whether there was one."""
        begun = self._reader is not None
        self._reader = None
        return begun

    def fail(self, reply: Reply) -> None:
        """Let nothing more of the body come out, and refuse it in the end."""
        if self._reader is not None and self._reader.fault is None:
            self._reader.fault = reply

    def deadline(self, heard: float, limits: Limits) -> float:
        """When the client's time is up if nothing more comes, given when something came last."""
        self.too_slow = False
        silent = heard + limits.data_timeout_s
        reader = self._reader
        if not limits.min_data_octets or reader is None or not self._began:
            return silent
        slow = self._began + limits.data_timeout_s + reader.octets / limits.min_data_octets
        if slow >= silent:
            return silent
        self.too_slow = True
        return slow

    def overflows(self) -> bool:
        """Whether so much came beyond what a message may have that it may never end."""
        taken = self._reader.octets if self._reader is not None else 0
        return taken + self._thrown > 2 * self._max_octets + _FAR_TOO_MUCH

    def take_data(self, data: bytes, now: float) -> bytes | None:
        """Take octets that follow DATA; what follows the end of data, or None if that has not come yet."""
        if data and not self._began:
            self._began = now
        reader = self._reader
        assert reader is not None  # DATA has begun one
        piece = reader.feed_data(data)
        if piece:
            self._events.append(BodyChunk(piece))
        return reader.rest

    def chunk_fault(self) -> Reply | None:
        """A chunk after one that was refused makes no message any more."""
        broken = self._reader is not None and self._reader.fault is not None
        return session.CHUNKS_BROKEN.reply() if broken else None

    def begin_chunk(self, octets: int, *, last: bool, refusal: Reply | None) -> None:
        """A chunk comes. One that is refused is followed by its octets all the same (RFC 3030 2)."""
        self._left, self._last, self._refusal = octets, last, refusal

    def take_chunk(self, data: bytes, now: float) -> bytes | None:
        """Take octets of the chunk; what follows it, or None if more is to come."""
        if data and not self._began:
            self._began = now
        taken, rest = data[: self._left], data[self._left :]
        self._left -= len(taken)
        reader = self._reader if self._refusal is None else None
        if reader is None:
            self._thrown += len(taken)
        elif piece := reader.feed_chunk(taken):
            self._events.append(BodyChunk(piece))
        if self._left:
            return None
        if reader is not None and self._last and (held := reader.finish_chunks()):
            self._events.append(BodyChunk(held))
        return rest

    def verdict(self) -> BodyEnd | Reply:
        """What follows the last octet of a body or chunk, when all before was handed out and stored, or not."""
        reader, refusal = self._reader, self._refusal
        self._refusal = None
        if refusal is not None or reader is None:
            return refusal or session.NEED_MAIL.reply()
        if self._last:
            return BodyEnd(reader.fault)
        return reader.fault or content.CHUNK_OK.reply(octets=reader.octets)
