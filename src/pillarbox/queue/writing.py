"""What one transaction of the store writes: rows for new messages, for outcomes, for claims.

When a transaction runs, and what follows if it fails, is `queue.writer`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from pillarbox.mail.envelope import NO_TERMS
from pillarbox.mail.route import Transport
from pillarbox.queue import suppressed
from pillarbox.queue.bulk import Bulk
from pillarbox.queue.records import pack_detail, pack_envelope, pack_result, pack_trace
from pillarbox.queue.spool import SLOTS, Pending, Queued, State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pillarbox.mail.envelope import Terms
    from pillarbox.queue.spool import Change, Content, Draft, Entry, Happening
    from pillarbox.queue.suppression import Lesson
    from pillarbox.queue.writer import Writer

_HOLD = Transport.HOLD
_PRUNED_AT_ONCE = 200
_MOST_OF_A_KIND = 100  # events that others can bring about, for each message
_KINDS = {
    State.QUEUED: "deferred",
    State.HELD: "held",
    State.DELIVERED: "delivered",
    State.FAILED: "failed",
    State.REMOVED: "removed",
    State.DAMAGED: "damaged",
}

# One row a recipient, the first with the message itself. By way of this view all new messages of a transaction are
# written, and their slots' fences checked, in one step.
_ARRIVALS = """
CREATE TEMP VIEW arrival AS SELECT NULL AS message, NULL AS number, NULL AS slot, NULL AS fence, NULL AS held,
  NULL AS claimed, NULL AS at, NULL AS destination, NULL AS envelope, NULL AS prefix, NULL AS trace, NULL AS octets,
  NULL AS content;
CREATE TEMP TRIGGER arrive INSTEAD OF INSERT ON arrival BEGIN
  SELECT raise(ABORT, 'slot lost') WHERE NOT EXISTS (SELECT 1 FROM lease WHERE slot = NEW.slot AND fence = NEW.fence);
  INSERT INTO message SELECT NEW.message, NEW.envelope, NEW.prefix, NEW.trace, NEW.at, NEW.octets WHERE NEW.number = 0;
  INSERT INTO body SELECT NEW.message, NEW.content WHERE NEW.number = 0;
  INSERT INTO recipient (message, number, slot, state, claimed, due, destination)
    VALUES (NEW.message, NEW.number, NEW.slot, NEW.held, NEW.claimed, NEW.at, NEW.destination);
END;
"""
_ARRIVAL = Bulk("INSERT INTO arrival", 13)
# An operator may have held, removed or bounced it meanwhile: holding outlives a deferral, what is final stays.
_SETTLE = Bulk(
    "WITH v (message, number, state, due, attempts, delay_notified, destination, result) AS (",
    8,
    ") UPDATE recipient SET claimed = 0, attempts = v.attempts, delay_notified = v.delay_notified,"
    " state = CASE WHEN recipient.state = 1 AND v.state = 0 THEN 1 ELSE v.state END,"
    " due = CASE WHEN bounce THEN 0 ELSE v.due END,"
    " destination = coalesce(v.destination, recipient.destination), result = coalesce(v.result, recipient.result)"
    " FROM v WHERE recipient.message = v.message AND recipient.number = v.number AND recipient.state < 2",
)
_EVENT = Bulk("INSERT INTO event (message, at, kind, number, result, detail)", 6)
# Seldom asked for: another turn than the usual one, a deadline, a time before which nothing is sent.
_TERMS = Bulk(
    "WITH v (message, rank, deadline, due) AS (",
    4,
    ") UPDATE recipient SET rank = v.rank, deadline = v.deadline, due = max(recipient.due, v.due)"
    " FROM v WHERE recipient.message = v.message",
)
_DEADLINE_OVER = Bulk(
    "WITH v (message, number) AS (",
    2,
    ") UPDATE recipient SET deadline = NULL FROM v WHERE recipient.message = v.message"
    " AND recipient.number = v.number",
)
_NAME = Bulk("INSERT OR IGNORE INTO name", 2)  # by which bounces may call a message
_INSERTS = (_SETTLE, _EVENT, _TERMS, _DEADLINE_OVER, _NAME)
_NO_MORE = (None,) * 5  # what is said with the first recipient only
_EMPTIED = Bulk(
    "WITH v (message) AS (",
    1,
    ") DELETE FROM body WHERE message IN v"
    " AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.message = body.message AND state IN (0, 1, 5))"
    " RETURNING message, content IS NULL",
)
_CLAIM = Bulk(
    "WITH v (message, number) AS (",
    2,
    ") UPDATE recipient SET claimed = 1 FROM v WHERE recipient.message = v.message AND recipient.number = v.number"
    " AND state = 0 AND claimed = 0 RETURNING recipient.message, recipient.number",
)
_RELEASE = Bulk(
    "WITH v (message, number, due) AS (",
    3,
    ") UPDATE recipient SET claimed = 0, due = v.due FROM v WHERE recipient.message = v.message"
    " AND recipient.number = v.number AND claimed = 1",
)


class Further:
    """Rows that few works have: what became of recipients, terms of new messages."""

    __slots__ = ("final", "lessons", "rows")

    def __init__(self) -> None:
        """Begin with no rows."""
        self.rows: tuple[list[object], ...] = ([], [], [], [], [])  # flat, one list for each of _INSERTS
        self.final: list[object] = []  # messages that may have no open recipient any more
        self.lessons: Sequence[Lesson] = ()  # they come with outcomes

    def change(self, change: Change, at: float) -> None:
        """Write what became of a recipient."""
        result = pack_result(change.result) if change.result is not None else None
        route = str(change.route) if change.route is not None else None
        state, message, number = change.state, change.message, change.number
        settle, event, _terms, deadline_over, names = self.rows
        for name in change.names:
            names += (message, name)
        settle += (
            message,
            number,
            int(state),
            change.due,
            change.attempts,
            change.delay_notified,
            route,
            result,
        )
        if change.deadline_over:
            deadline_over += (message, number)
        if state > State.HELD:
            self.final.append(message)
            detail = None
        else:
            detail = pack_detail({"attempts": change.attempts, "due": change.due})
        if change.result is not None:
            for other in change.result.others:
                event += (message, at, "tried", number, pack_result(other), None)
        event += (message, at, _KINDS[state], number, result, detail)

    def note(self, one: Happening) -> None:
        """Add to the history of a message."""
        self.rows[1].extend((one.message, one.at, one.kind, one.number, None, pack_detail(one.detail)))

    def agree(self, message: int, terms: Terms) -> None:
        """Write what the sender of a new message asked for."""
        by = terms.by.at if terms.by is not None else None
        self.rows[2].extend((message, -terms.priority, by, terms.hold_until))


# One thing for the writer to do: rows of `arrival`, flat; other rows; what else is to be done in the transaction.
Order = tuple[list[object], Further | None, "Callable[[Writer], object] | None"]


class Work:
    """The parts of an order and what is to follow from it: `answer`, or what the call returns, resolves `future`."""

    __slots__ = ("added", "answer", "arrivals", "bodies", "call", "further", "future", "octets", "settle")

    def __init__(
        self, future: asyncio.Future[object], call: Callable[[Writer], object] | None = None
    ) -> None:
        """Begin with no rows."""
        self.future = future
        self.answer: object = None
        self.call = call
        self.settle: Callable[[asyncio.Future[Any], Any], None] | None = None  # gives the future its result
        self.arrivals: list[object] = []  # flat
        # Of which the answer is still to be made.
        self.added: tuple[Entry, Content, Sequence[bool]] | None = None
        self.further: Further | None = None
        self.octets = 0  # of bodies in memory
        self.bodies: Sequence[tuple[Draft, Path]] = ()  # files to bring home before the rows are written

    def add(self, entry: Entry, content: Content, fence: int) -> list[bool]:
        """Write a new message while its slot has this fence; those of its recipients that wait are claimed.

        Tells of each recipient whether it waits.
        """
        message, at, envelope = entry.id, entry.received_at, entry.envelope
        hold, slot = entry.hold, message & SLOTS - 1
        later = False
        if envelope.terms is not NO_TERMS:
            later = envelope.terms.hold_until > at
            if self.further is None:
                self.further = Further()
            self.further.agree(message, envelope.terms)
        whole: tuple[object, ...] = (
            pack_envelope(envelope),
            entry.prefix,
            pack_trace(entry.trace),
            content.body_octets,
            content.inline,
        )
        rows, waiting = self.arrivals, []
        for number, route in enumerate(entry.routes):
            held = hold or route.transport is _HOLD
            waits = not (held or later)
            waiting.append(waits)
            rows += (message, number, slot, fence, held, waits, at, str(route))
            rows += whole
            whole = _NO_MORE
        return waiting

    def foretell(self) -> None:
        """Make the answer, once the work is on its way to the writer: nobody has to wait for that."""
        if self.added is not None:
            self.answer = queued(*self.added)


def slots(order: Order) -> set[int]:
    """The slots that the rows of an order belong to."""
    arrivals, further, _call = order
    numbers = arrivals[::13]
    if further is not None:
        numbers += further.rows[0][::8]
    return {int(str(number)) & SLOTS - 1 for number in numbers}


def queued(entry: Entry, content: Content, waiting: Sequence[bool]) -> Queued:
    """A new message as the queue's manager takes it, with those of its recipients that wait."""
    message, at, envelope = entry.id, entry.received_at, entry.envelope
    pending = [
        Pending(message, number, envelope.recipients[number], entry.routes[number], at)
        for number, waits in enumerate(waiting)
        if waits
    ]
    return Queued(message, envelope, at, pending, content)


def prepare(connection: apsw.Connection) -> None:
    """Make a connection ready to write. Raises apsw.Error."""
    connection.execute(_ARRIVALS)


def arrive(connection: apsw.Connection, batch: Sequence[Order]) -> bool:
    """Write a batch that is nothing but new messages as a transaction of one step; whether it could be done.

    It can't if there is too much of it, or if the slot of a message was lost; nothing is written then. Raises apsw.Error.
    """
    flat: list[object] = []
    for arrivals, further, call in batch:
        if call is not None or further is not None:
            return False
        flat += arrivals
    if len(flat) > _ARRIVAL.most_values:
        return False
    try:
        _ARRIVAL.step(connection, flat)
    except apsw.ConstraintError:
        return False
    return True


def apply(connection: apsw.Connection, batch: Sequence[Order]) -> tuple[list[int], list[Lesson]]:
    """Write all rows of a batch; the messages whose body files are no longer needed, and what was learnt. Raises apsw.Error."""
    if flat := [value for arrivals, _, _ in batch for value in arrivals]:
        _ARRIVAL.run(connection, flat)
    further = [one for _, one, _ in batch if one is not None]
    for index, insert in enumerate(_INSERTS):
        if flat := [value for one in further for value in one.rows[index]]:
            insert.run(connection, flat)
    learnt = suppressed.learn(connection, [lesson for one in further for lesson in one.lessons])
    final = list(dict.fromkeys(message for one in further for message in one.final))
    return empty(connection, final) if final else [], learnt


def empty(connection: apsw.Connection, messages: Sequence[object]) -> list[int]:
    """Delete the bodies of those messages that have no open recipient; which of them lie in files. Raises apsw.Error."""
    return [message for message, filed in _EMPTIED.run(connection, messages) if filed]


def claim(connection: apsw.Connection, rows: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Claim recipients, by message and number; those that could still be claimed. Raises apsw.Error."""
    return set(_CLAIM.run(connection, [value for row in rows for value in row]))


def release(connection: apsw.Connection, rows: Sequence[tuple[int, int, float]]) -> None:
    """End the claim on recipients, by message, number and when they are due. Raises apsw.Error."""
    _RELEASE.run(connection, [value for row in rows for value in row])


def note(
    connection: apsw.Connection, happenings: Sequence[Happening], lessons: Sequence[Lesson]
) -> list[Lesson]:
    """Add to the history of messages, as long as there is little of the kind, and learn; what was learnt. Raises apsw.Error."""
    for one in happenings:
        sql = "SELECT count(*) FROM event WHERE message = ? AND kind = ?"
        if connection.execute(sql, (one.message, one.kind)).get < _MOST_OF_A_KIND:
            detail = pack_detail(one.detail)
            _EVENT.run(connection, (one.message, one.at, one.kind, one.number, None, detail))
    return suppressed.learn(connection, lessons)


def touch(connection: apsw.Connection, slot: int, now: float) -> None:
    """Renew a lease: a write that is due anyhow. Raises apsw.Error."""
    connection.execute("UPDATE lease SET renewed_at = ? WHERE slot = ?", (now, slot))


def set_aside(connection: apsw.Connection, damaged: Sequence[tuple[int, str]], at: float) -> None:
    """Mark messages that can't be read as damaged, each for a reason. Raises apsw.Error."""
    for message, reason in damaged:
        connection.execute(
            "UPDATE recipient SET state = 5, claimed = 0 WHERE message = ? AND state < 2", (message,)
        )
        _EVENT.run(connection, (message, at, "damaged", None, None, pack_detail({"problem": reason})))


def prune(connection: apsw.Connection, before: float) -> int:
    """Forget some finished messages received before `before`; how many. Raises apsw.Error."""
    sql = (
        "SELECT id FROM message WHERE id < ?"
        " AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.message = id AND state IN (0, 1, 5)) LIMIT ?"
    )
    below = int(before * 1_000_000) * SLOTS
    messages = list(connection.execute(sql, (below, _PRUNED_AT_ONCE)))
    for table, column in (
        ("recipient", "message"),
        ("event", "message"),
        ("name", "message"),
        ("body", "message"),
        ("message", "id"),
    ):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", messages)  # noqa: S608 - our own names
    connection.execute("DELETE FROM verb WHERE at < ?", (before,))
    return len(messages)
