"""What one transaction of the store writes: rows for new messages, for outcomes, for claims.

When a transaction runs, and what follows if it fails, is `queue.sqlite`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.route import Transport
from pillarbox.queue.bulk import Bulk
from pillarbox.queue.records import pack_detail, pack_envelope, pack_result, pack_trace
from pillarbox.queue.spool import SLOTS, Pending, Queued, State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import apsw

    from pillarbox.queue.spool import Change, Draft, Entry

_PRUNED_AT_ONCE = 200
_KINDS = {
    State.QUEUED: "deferred",
    State.HELD: "held",
    State.DELIVERED: "delivered",
    State.FAILED: "failed",
    State.REMOVED: "removed",
    State.DAMAGED: "damaged",
}

_MESSAGE = Bulk("INSERT INTO message (id, envelope, prefix, trace, received_at, octets)", 6)
_BODY = Bulk("INSERT INTO body (message, content)", 2)
_RECIPIENT = Bulk("INSERT INTO recipient (message, number, slot, state, claimed, due, destination)", 7)
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
_INSERTS = (_MESSAGE, _BODY, _RECIPIENT, _SETTLE, _EVENT)
_EMPTIED = Bulk(
    "WITH v (message) AS (",
    1,
    ") DELETE FROM body WHERE message IN v"
    " AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.message = body.message AND state < 2)"
    " RETURNING message, content IS NULL",
)
_CLAIM = Bulk(
    "WITH v (message, number) AS (",
    2,
    ") UPDATE recipient SET claimed = 1 FROM v WHERE recipient.message = v.message"
    " AND recipient.number = v.number AND state = 0 AND claimed = 0 RETURNING recipient.message, recipient.number",
)
_RELEASE = Bulk(
    "WITH v (message, number, due) AS (",
    3,
    ") UPDATE recipient SET claimed = 0, due = v.due FROM v WHERE recipient.message = v.message"
    " AND recipient.number = v.number AND claimed = 1",
)


class Work:
    """One thing for the writer to do: rows to write, or a `call`; `answer`, or what it returns, resolves `future`."""

    __slots__ = ("answer", "bodies", "call", "final", "future", "rows")

    def __init__(self, future: asyncio.Future[object], answer: object = None) -> None:
        """Begin with no rows."""
        self.future = future
        self.answer = answer
        self.call: Callable[[apsw.Connection], object] | None = None
        self.rows: tuple[list[object], ...] = ([], [], [], [], [])  # flat, one list for each of _INSERTS
        self.final: list[object] = []  # messages that may have no open recipient any more
        self.bodies: list[tuple[Draft, Path]] = []  # files to bring home before the rows are written

    def add(self, draft: Draft, entry: Entry) -> None:
        """Write a new message; those of its recipients that wait are claimed."""
        message, body, recipient, _settle, _event = self.rows
        number, at = entry.id, entry.received_at
        envelope, trace = pack_envelope(entry.envelope), pack_trace(entry.trace)
        message += (number, envelope, entry.prefix, trace, at, draft.octets)
        body += (number, draft.inline() if draft.file is None else None)
        for index, route in enumerate(entry.routes):
            held = entry.hold or route.transport is Transport.HOLD
            recipient += (
                number,
                index,
                number & SLOTS - 1,
                1 if held else 0,
                0 if held else 1,
                at,
                str(route),
            )

    def change(self, change: Change, at: float) -> None:
        """Write what became of a recipient."""
        result = pack_result(change.result) if change.result is not None else None
        route = str(change.route) if change.route is not None else None
        state, message, number = change.state, change.message, change.number
        _message, _body, _recipient, settle, event = self.rows
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
        if state > State.HELD:
            self.final.append(message)
            detail = None
        else:
            detail = pack_detail({"attempts": change.attempts, "due": change.due})
        event += (message, at, _KINDS[state], number, result, detail)

    def slots(self) -> set[int]:
        """The slots that its rows belong to."""
        message, _body, _recipient, settle, _event = self.rows
        return {int(str(number)) & SLOTS - 1 for number in message[::6] + settle[::8]}


def apply(connection: apsw.Connection, batch: Sequence[Work]) -> list[int]:
    """Write all rows of a batch; the messages whose body files are no longer needed. Raises apsw.Error."""
    for index, insert in enumerate(_INSERTS):
        flat = (
            batch[0].rows[index]
            if len(batch) == 1
            else [value for work in batch for value in work.rows[index]]
        )
        if flat:
            insert.run(connection, flat)
    final = list(dict.fromkeys(message for work in batch for message in work.final))
    return empty(connection, final) if final else []


def empty(connection: apsw.Connection, messages: Sequence[object]) -> list[int]:
    """Delete the bodies of those messages that have no open recipient; which of them lie in files. Raises apsw.Error."""
    return [message for message, filed in _EMPTIED.run(connection, messages) if filed]


def claim(connection: apsw.Connection, found: Sequence[Queued]) -> list[Queued]:
    """Claim recipients; the messages with those that could still be claimed. Raises apsw.Error."""
    flat = [value for queued in found for pending in queued.pending for value in (queued.id, pending.number)]
    claimed = set(_CLAIM.run(connection, flat))
    for queued in found:
        queued.pending = [pending for pending in queued.pending if (queued.id, pending.number) in claimed]
    return [queued for queued in found if queued.pending]


def release(connection: apsw.Connection, pending: Sequence[Pending]) -> None:
    """End the claim on recipients. Raises apsw.Error."""
    _RELEASE.run(connection, [value for one in pending for value in (one.message, one.number, one.due)])


def set_aside(connection: apsw.Connection, message: int, reason: str, at: float) -> None:
    """Mark a message that can't be read as damaged. Raises apsw.Error."""
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
        ("body", "message"),
        ("message", "id"),
    ):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", messages)  # noqa: S608 - our own names
    connection.execute("DELETE FROM verb WHERE at < ?", (before,))
    return len(messages)
