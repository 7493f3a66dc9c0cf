"""Read from the store, in a thread of its own: the octets of a message, and who is due.

It changes nothing; rows that cannot be read are reported as damage to `queue.sqlite`, which sets them aside.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.route import parse_route
from pillarbox.queue import suppressed
from pillarbox.queue.bulk import Bulk
from pillarbox.queue.records import DamagedError, unpack_envelope
from pillarbox.queue.sent import Sent, SentRecipient
from pillarbox.queue.spool import Content, Pending, Queued, SpoolError, State, Verb, format_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from pillarbox.mail.route import Route
    from pillarbox.queue.drafts import Bodies
    from pillarbox.queue.suppression import Suppressed

_EAGER_OCTETS = (
    8_388_608  # inline bodies read along with one pick; later ones are loaded when their turn comes
)
_PROBES = 256  # destinations looked at in one pick, beyond the oldest recipients
_BEFORE_ALL = -10  # lower than any rank
_SHARES = 4  # no destination gets more than a quarter of a pick while others want it
_PENDING = "message, number, due, destination, attempts, delay_notified, bounce"
_OLDEST = (
    f"SELECT {_PENDING} FROM recipient INDEXED BY waiting_due"  # noqa: S608 - only constants
    " WHERE slot = ? AND rank = ? AND state = 0 AND claimed = 0 AND due <= ? ORDER BY due LIMIT ?"
)
_OVERDUE = (
    f"SELECT {_PENDING} FROM recipient INDEXED BY waiting_deadline"  # noqa: S608
    " WHERE slot = ? AND deadline <= ? AND state = 0 AND claimed = 0 ORDER BY deadline LIMIT ?"
)
_NEXT_RANK = (
    "SELECT min(rank) FROM recipient INDEXED BY waiting_due"
    " WHERE slot = ? AND state = 0 AND claimed = 0 AND rank > ?"
)
_OLDEST_OF_DESTINATION = (
    f"SELECT {_PENDING} FROM recipient INDEXED BY waiting_destination"  # noqa: S608
    " WHERE slot = ? AND destination = ? AND rank = ? AND state = 0 AND claimed = 0 AND due <= ?"
    " ORDER BY due LIMIT ?"
)
_NEXT_DESTINATION = (
    "SELECT min(destination) FROM recipient INDEXED BY waiting_destination"
    " WHERE slot = ? AND state = 0 AND claimed = 0 AND destination > ?"
)
_NEXT_DUE = (
    "SELECT min(due) FROM recipient INDEXED BY waiting_due"
    " WHERE slot = ? AND rank = ? AND state = 0 AND claimed = 0"
)
_NEXT_DEADLINE = (
    "SELECT min(deadline) FROM recipient INDEXED BY waiting_deadline"
    " WHERE slot = ? AND deadline IS NOT NULL AND state = 0 AND claimed = 0"
)
_BODY = "FROM message LEFT JOIN body ON body.message = message.id WHERE message.id"
_CONTENT = f"SELECT prefix, octets, body.message, content {_BODY} = ?"
_ENVELOPE = "SELECT envelope, received_at FROM message WHERE id = ?"
_LETTER = f"SELECT envelope, received_at, prefix, octets, body.message, content {_BODY} = ?"
_ENVELOPES = Bulk("WITH v (id) AS (", 1, ") SELECT id, envelope, received_at FROM message WHERE id IN v")
_LETTERS = Bulk(
    "WITH v (id) AS (",
    1,
    f") SELECT message.id, envelope, received_at, prefix, octets, body.message, content {_BODY} IN v",
)
_READ_TOGETHER = 50  # messages

_OPEN = (
    ("waiting_due", "state = 0 AND claimed = 0"),
    ("claimed_slot", "claimed = 1"),
    ("held", "state = 1 AND claimed = 0"),
)
_Row = tuple[int, int, float, str, int, int, int]  # the columns of _PENDING


class Pick(msgspec.Struct):
    """What is due: messages with their recipients, and those that can't be read, each with the reason."""

    queued: list[Queued] = msgspec.field(default_factory=list)
    damaged: list[tuple[int, str]] = msgspec.field(default_factory=list)


class Reader:
    """A connection that only reads. Used by one thread at a time."""

    def __init__(self, connection: apsw.Connection, bodies: Bodies) -> None:
        """Read through `connection`, which nobody else uses."""
        self._connection = connection
        self._bodies = bodies
        self._turn: dict[int, str] = {}  # by slot: the destination that had the last turn
        self._last_verb = -1

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def load(self, message: int) -> Content:
        """The octets of a message. Raises SpoolError if they are missing or damaged."""
        try:
            return self._content(message)
        except DamagedError as error:
            detail = f"{format_id(message)}: {error}"
            raise SpoolError(delivery.DAMAGED.reply(detail=str(error)), detail) from error

    def _content(self, message: int) -> Content:
        row = self._row(_CONTENT, message)
        if row is None:
            raise DamagedError("no body in the store")
        return self._check_content(message, *row)

    def _row(self, sql: str, message: int) -> tuple[Any, ...] | None:
        """The row of a message; a bad page of the database costs the messages that lie there, not all others."""
        try:
            row: tuple[Any, ...] | None = self._connection.execute(sql, (message,)).fetchone()
        except apsw.CorruptError as error:
            raise DamagedError(str(error)) from error
        return row

    def _check_content(
        self, message: int, prefix: bytes, octets: int, kept: int | None, inline: bytes | None
    ) -> Content:
        if kept is None:
            raise DamagedError("no body in the store")
        path = None
        if inline is None:
            path = self._bodies.path(message)
            try:
                found = path.stat().st_size
            except FileNotFoundError as error:  # another error may pass
                raise DamagedError(f"body file not readable: {error}") from error
        else:
            found = len(inline)
        if found != octets:
            raise DamagedError(f"body has {found} octets instead of {octets}")
        return Content(prefix, inline, path, octets)

    def next_due(self, slots: Iterable[int]) -> float | None:
        """When the next unclaimed recipient of these slots is due."""
        read = self._connection.execute
        found = [read(_NEXT_DUE, (slot, rank)).get for slot in slots for rank in self._ranks(slot)]
        found += [read(_NEXT_DEADLINE, (slot,)).get for slot in slots]
        return min((due for due in found if due is not None), default=None)

    def find_sent(self, messages: Sequence[int], names: Sequence[int]) -> Sent | None:
        """The first of these messages that is known, else the youngest that has one of these names."""
        for message in messages:
            if (sent := self._sent(message)) is not None:
                return sent
        for name in names:
            message = self._connection.execute("SELECT max(message) FROM name WHERE name = ?", (name,)).get
            if message is not None and (sent := self._sent(message)) is not None:
                return sent
        return None

    def _sent(self, message: int) -> Sent | None:
        row = self._row(_ENVELOPE, message)
        if row is None:
            return None
        envelope = unpack_envelope(row[0])
        sql = "SELECT number, state, destination FROM recipient WHERE message = ? ORDER BY number"
        rows = self._connection.execute(sql, (message,))
        recipients = tuple(
            SentRecipient(number, envelope.recipients[number].address, State(state), parse_route(destination))
            for number, state, destination in rows
            if number < len(envelope.recipients)
        )
        return Sent(message, envelope.sender, recipients)

    def watched(self) -> list[str]:
        """Every entry that the suppression list knows something about."""
        return suppressed.watched(self._connection)

    def suppressed(self, entries: Sequence[str], now: float) -> list[Suppressed]:
        """Those of the entries that are suppressed now."""
        return suppressed.find(self._connection, entries, now)

    def open_messages(self) -> int:
        """How many messages are waiting, in work or held; one of which this is true of different recipients counts for each."""
        return sum(
            self._connection.execute(
                f"SELECT count(DISTINCT message) FROM recipient INDEXED BY {index} WHERE {where}"  # noqa: S608
            ).get
            for index, where in _OPEN
        )

    def _ranks(self, slot: int) -> list[int]:
        """The ranks of what waits, the first to have its turn first; nearly always there is one."""
        found: list[int] = []
        rank = self._connection.execute(_NEXT_RANK, (slot, _BEFORE_ALL)).get
        while rank is not None:
            found.append(rank)
            rank = self._connection.execute(_NEXT_RANK, (slot, rank)).get
        return found

    def verbs(self) -> list[Verb]:
        """Operators' verbs since the last call; at first, one `suspend` for each destination that is suspended."""
        first = self._last_verb < 0
        if first:
            last = self._connection.execute("SELECT coalesce(max(id), 0) FROM verb").get
            sql = "SELECT 0, since, 'suspend', NULL, destination FROM suspended"
            suspended = [Verb(*row) for row in self._connection.execute(sql)]
            self._last_verb = last
            return suspended
        sql = "SELECT id, at, verb, message, destination FROM verb WHERE id > ? ORDER BY id"
        found = [Verb(*row) for row in self._connection.execute(sql, (self._last_verb,))]
        if found:
            self._last_verb = found[-1].id
        return found

    def pick(self, slots: Collection[int], now: float, limit: int, full: Collection[Route]) -> Pick:
        """Choose at most `limit` recipients that are due: the oldest first, but fair between destinations."""
        barred = {str(route) for route in full}
        chosen: list[_Row] = []
        for slot in slots:
            chosen += self._choose(slot, now, limit - len(chosen), barred)
        by_message: dict[int, list[_Row]] = defaultdict(list)
        for row in chosen:
            by_message[row[0]].append(row)
        pick, octets = Pick(), 0
        for messages in _batches(list(by_message), _READ_TOGETHER):
            kept = self._kept(_LETTERS if octets < _EAGER_OCTETS else _ENVELOPES, messages)
            for message in messages:
                try:
                    queued = self._queued(message, by_message[message], kept.get(message))
                except DamagedError as error:
                    pick.damaged.append((message, str(error)))
                else:
                    pick.queued.append(queued)
                    octets += queued.content.octets if queued.content and queued.content.inline else 0
        return pick

    def _kept(self, read: Bulk, messages: list[int]) -> dict[int, tuple[Any, ...]]:
        """The rows of messages; none at all if some lie on a bad page, so that they have to be read one by one."""
        try:
            return {row[0]: row[1:] for row in read.run(self._connection, messages)}
        except apsw.CorruptError:
            return {}

    def _choose(self, slot: int, now: float, limit: int, barred: set[str]) -> list[_Row]:
        """The rows of one slot, no destination over its share while others wait."""
        share = max(limit // _SHARES, 1)
        # what has a deadline that is over is not tried, so it matters not where it would go
        chosen: list[_Row] = list(self._connection.execute(_OVERDUE, (slot, now, limit)))
        overdue = {row[:2] for row in chosen}
        ranks = self._ranks(slot)
        oldest: list[_Row] = []
        for rank in ranks:
            oldest += self._connection.execute(_OLDEST, (slot, rank, now, 2 * limit - len(oldest)))
        counts: dict[str, int] = defaultdict(int)
        spare: list[_Row] = []
        for row in oldest:
            if (row[3] not in barred or row[6]) and row[
                :2
            ] not in overdue:  # what is to be returned needs no destination
                counts[row[3]] += 1
                (chosen if counts[row[3]] <= share else spare).append(row)
        if len(chosen) < limit and len(oldest) == 2 * limit:  # a few destinations stand before all others
            chosen += self._choose_by_turn(slot, ranks, now, limit - len(chosen), barred | set(counts))
        return (chosen + spare)[:limit]

    def _choose_by_turn(
        self, slot: int, ranks: list[int], now: float, limit: int, barred: set[str]
    ) -> list[_Row]:
        """Go round the destinations from where the last pick stopped, taking a share of each."""
        chosen: list[_Row] = []
        share = max(limit // _SHARES, 1)
        name = start = self._turn.get(slot, "")
        wrapped = False
        for _ in range(_PROBES):
            found = self._connection.execute(_NEXT_DESTINATION, (slot, name)).get
            if found is None or (wrapped and found > start):
                if wrapped or not start:
                    break
                name, wrapped = "", True
                continue
            name = found
            if name not in barred:
                end = len(chosen) + share
                for rank in ranks:
                    key = (slot, name, rank, now, end - len(chosen))
                    chosen += self._connection.execute(_OLDEST_OF_DESTINATION, key)
            if len(chosen) >= limit:
                break
        self._turn[slot] = name
        return chosen[:limit]

    def _queued(self, message: int, rows: list[_Row], found: tuple[Any, ...] | None) -> Queued:
        found = found or self._row(_LETTER, message)
        if found is None:
            raise DamagedError("no envelope in the store")
        envelope, received_at, *kept = found
        envelope = unpack_envelope(envelope)
        pending = []
        for _message, number, due, destination, attempts, delay_notified, bounce in rows:
            if number >= len(envelope.recipients):
                raise DamagedError(f"no recipient {number} in the envelope")
            try:
                route = parse_route(destination)
            except ValueError as error:
                raise DamagedError(f"destination not readable: {error}") from error
            recipient = envelope.recipients[number]
            pending.append(
                Pending(message, number, recipient, route, due, attempts, bool(delay_notified), bool(bounce))
            )
        content = None
        if kept:
            with contextlib.suppress(OSError):  # read again when it is the message's turn
                content = self._check_content(message, *kept)
        return Queued(message, envelope, received_at, pending, content)


def _batches(messages: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(messages), size):
        yield messages[start : start + size]
