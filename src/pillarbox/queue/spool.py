"""The contract of the durable store: what is kept of a message, and the verbs every engine offers.

An engine (`queue.sqlite`) implements it; what is due when is `queue.schedule`'s and what a result means
`queue.outcome`'s business.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import msgspec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from pillarbox.mail.envelope import Envelope, Recipient
    from pillarbox.mail.reply import Reply, Result
    from pillarbox.mail.route import Route
    from pillarbox.queue.sent import Sent
    from pillarbox.queue.suppression import Lesson, Suppressed

T = TypeVar("T")
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_DIGITS = {digit: value for value, digit in enumerate(_ALPHABET)}
SLOTS = 64  # a message id's low six bits name the slot, that is the lease, it belongs to


class State(IntEnum):
    """What has become of one recipient of a stored message. All but the first two are final."""

    QUEUED = 0
    HELD = 1
    DELIVERED = 2
    FAILED = 3
    REMOVED = 4
    DAMAGED = 5


class Trace(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """From where a message came: kept beside it and shown by `pillarbox trace`. A new field stands at the end."""

    session: str = ""
    client: str = ""  # "address:port", or "local" for mail made on this host
    helo: str = ""
    protocol: str = ""  # ESMTPSA and so on (RFC 3848)
    login: str = ""
    warned: str = ""  # what checks that may only warn would have refused
    origin: str = ""  # what was found about who really sent it, and what DNS answered: a line each
    forwarded: str = ""  # what a trusted host told by XFORWARD of where it came from


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One message as it is committed. `routes` runs parallel to `envelope.recipients`."""

    id: int
    envelope: Envelope
    routes: tuple[Route, ...]
    received_at: float  # Unix time, seconds
    prefix: bytes  # the trace fields to put in front of the body, CRLF line ends
    trace: Trace
    hold: bool = False


class Content(msgspec.Struct, frozen=True, gc=False):
    """The octets of a stored message: `prefix`, then the body, inline or in a file."""

    prefix: bytes
    inline: bytes | None
    path: Path | None
    body_octets: int
    skipped: int = 0  # octets at the start of the file that are left out

    @property
    def octets(self) -> int:
        """The whole size, prefix included."""
        return len(self.prefix) + self.body_octets

    def chunks(self, octets: int = 262144) -> Iterator[bytes]:
        """The message in pieces of about `octets`, prefix first. Raises OSError if the file is unreadable."""
        if self.path is None:
            yield self.prefix + (self.inline or b"")
            return
        yield self.prefix
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.skipped)
            while piece := file.read(octets):
                yield piece

    def head(self, limit: int = 65536) -> bytes:
        """The first `limit` octets, enough for the header section."""
        if self.path is None:
            return (self.prefix + (self.inline or b""))[:limit]
        with self.path.open("rb") as file:
            file.seek(self.skipped)
            return (self.prefix + file.read(limit))[:limit]


class Pending(msgspec.Struct):
    """One recipient that still waits: its place in the message and its history so far."""

    message: int
    number: int  # its index in the message's recipient list
    recipient: Recipient
    route: Route
    due: float
    attempts: int = 0
    delay_notified: bool = False
    bounce: bool = False  # an operator wants it returned instead of attempted


class Queued(msgspec.Struct):
    """One message with those of its recipients that are due; `content` is None until it is loaded."""

    id: int
    envelope: Envelope
    received_at: float
    pending: list[Pending]
    content: Content | None = None


class Change(msgspec.Struct, frozen=True):
    """What one attempt or one operator's verb did to one recipient."""

    message: int
    number: int
    state: State
    due: float = 0.0
    attempts: int = 0
    delay_notified: bool = False
    route: Route | None = None  # set when the recipient moves to another destination
    result: Result | None = None
    names: tuple[int, ...] = ()  # by which a bounce may call the message, from now on
    deadline_over: bool = False  # what its deadline asks for is done


class Happening(msgspec.Struct, frozen=True):
    """One line of a message's history."""

    message: int
    at: float
    kind: str  # received, attempted, delivered, deferred, bounced, held, released, ...
    number: int | None = None
    detail: dict[str, object] = msgspec.field(default_factory=dict)


class Verb(msgspec.Struct, frozen=True):
    """What an operator asked for, as the store passes it to running workers: about a message or a destination."""

    id: int
    at: float
    verb: str  # one of queue.ledger's
    message: int | None
    destination: str  # as str(route) spells it


class SpoolError(Exception):
    """The store could not do its work; `reply` is what the peer may be told."""

    def __init__(self, reply: Reply, detail: str = "") -> None:
        """Keep the reply for the peer and the detail for the log."""
        super().__init__(detail or str(reply))
        self.reply = reply


class Draft(Protocol):
    """A body on its way in: written piece by piece, then committed or discarded."""

    octets: int

    @property
    def file(self) -> Path | None:
        """Where the body lies, or None while it is in memory."""

    def inline(self) -> bytes:
        """The whole body of a draft that has no file."""

    def write(self, piece: bytes) -> None:
        """Append. Raises SpoolError when the disk is full or broken; the draft is then void."""

    def overwrite(self, at: int, octets: bytes) -> None:
        """Put other octets in place of as many that were written. Raises SpoolError; the draft is then void."""

    def keep(self, target: Path) -> None:
        """Sync the file of a large body and move it to `target`, durably; blocks. Raises SpoolError; it is then gone."""

    def discard(self) -> None:
        """Give the body up and free what it holds."""


class Spool(Protocol):
    """The durable store. Futures resolve on the loop that opened it; all may raise SpoolError.

    A recipient that a worker has in memory is *claimed*: by `commit`, `record` (of a report) and `due`. `record` and
    `release` end that, and so does the death of the worker.
    """

    @property
    def slots(self) -> frozenset[int]:
        """The slots that this worker holds now; whatever else it has in memory is no longer its own."""

    @property
    def fences(self) -> Mapping[int, int]:
        """Of each of these slots a number that changes when it changes hands."""

    @property
    def waiting_octets(self) -> int:
        """How much of messages is in memory until it is written."""

    def new_id(self, now: float) -> int:
        """A fresh message id in the slot of this worker."""

    def free_octets(self) -> int:
        """The free space where the store lies."""

    def draft(self) -> Draft:
        """Begin to store a body."""

    @overload
    def commit(self, draft: Draft, entry: Entry) -> asyncio.Future[Queued]: ...

    @overload
    def commit(
        self, draft: Draft, entry: Entry, settle: Callable[[asyncio.Future[T], Queued | SpoolError], None]
    ) -> asyncio.Future[T]: ...

    def commit(
        self, draft: Draft, entry: Entry, settle: Callable[[asyncio.Future[Any], Any], None] | None = None
    ) -> asyncio.Future[Any]:
        """Make the message durable; when the future is done, it is on stable storage (250 may be said).

        `settle` is called with the future and what became of the message, and gives the one a result made of the other. It
        is called even if nobody waits any more, and the future is done.
        """

    def open_messages(self) -> asyncio.Future[int]:
        """About how many messages are in the queue. Takes some 50 ms for a million."""

    def check_writable(self) -> asyncio.Future[None]:
        """Write what changes nothing, to see whether the store can be written now. Fails as all others do."""

    def load(self, message: int) -> asyncio.Future[Content]:
        """Read the octets of a message."""

    def record(
        self,
        changes: Sequence[Change],
        reports: Sequence[tuple[Draft, Entry]] = (),
        lessons: Sequence[Lesson] = (),
        happenings: Sequence[Happening] = (),
    ) -> asyncio.Future[list[Queued]]:
        """Store outcomes, the reports that they give rise to, what they teach, and what else happened, in one transaction.

        Gives the reports back queued.
        """

    def release(self, pending: Sequence[Pending]) -> asyncio.Future[None]:
        """Give recipients back unattempted, each with its `due`; another `due` call may claim them."""

    def due(self, now: float, limit: int, full: Collection[Route]) -> asyncio.Future[list[Queued]]:
        """Claim recipients due by `now`, fair between destinations, none of a destination in `full`."""

    def next_due(self) -> asyncio.Future[float | None]:
        """When the next unclaimed recipient is due, in Unix time; None if nothing waits."""

    def find_sent(self, messages: Sequence[int], names: Sequence[int]) -> asyncio.Future[Sent | None]:
        """The first of these messages that is known, else one that has one of these names."""

    def note(self, happenings: Sequence[Happening], lessons: Sequence[Lesson] = ()) -> asyncio.Future[None]:
        """Add to the history of messages, and store what it teaches about addresses."""

    def watched(self) -> asyncio.Future[list[str]]:
        """Every address and domain that the suppression list knows something about."""

    def suppressed(self, entries: Sequence[str], now: float) -> asyncio.Future[list[Suppressed]]:
        """Those of these addresses and domains that are suppressed now."""

    def verbs(self) -> asyncio.Future[list[Verb]]:
        """What operators asked for since the last call; the first call tells which destinations are suspended."""

    def adopt(self) -> asyncio.Future[list[int]]:
        """Take over the slots of workers that died; the slots."""

    def forget_old(self, now: float, counted_from: float) -> asyncio.Future[None]:
        """Drop what has expired from the suppression list, and refusals before `counted_from`."""

    def prune(self, before: float) -> asyncio.Future[int]:
        """Forget some finished messages received before `before`; how many. Call again until it is 0."""

    def close(self) -> asyncio.Future[None]:
        """Finish what is begun, give the leases back, and close."""


def format_id(message: int) -> str:
    """Write a message id as the queue id that people see: 13 characters without I, L, O, U."""
    last = f"{_PAIRS[message >> 20 & 1023]}{_PAIRS[message >> 10 & 1023]}{_PAIRS[message & 1023]}"
    return _first_characters(message >> 30) + last


@lru_cache(maxsize=16)
def _first_characters(high: int) -> str:
    """The first seven characters of a queue id, which are the same for all messages of 16 seconds."""
    pairs = "".join(_PAIRS[high >> shift & 1023] for shift in (20, 10, 0))
    return _ALPHABET[high >> 30 & 31] + pairs


def parse_id(text: str) -> int:
    """Read a queue id, in either case. Raises ValueError."""
    value = 0
    for letter in text.strip().upper():
        if letter not in _DIGITS:
            msg = f"not a queue id: {text!r}"
            raise ValueError(msg)
        value = value * 32 + _DIGITS[letter]
    if not 0 < value < 1 << 63:
        msg = f"not a queue id: {text!r}"
        raise ValueError(msg)
    return value
