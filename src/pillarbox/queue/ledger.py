"""What operators see of the store and do to it, from any process, whether the server runs or not.

Workers learn of a verb from its row; who may use these functions is the caller's business.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from pillarbox.mail.route import parse_route
from pillarbox.queue import schema, suppressed, writing
from pillarbox.queue.drafts import Bodies
from pillarbox.queue.reader import Reader
from pillarbox.queue.records import DamagedError, unpack_detail, unpack_envelope, unpack_result, unpack_trace
from pillarbox.queue.spool import Content, Happening, State, Trace, format_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.reply import Result
    from pillarbox.mail.route import Route
    from pillarbox.queue.suppression import Lesson, Suppressed

# What each verb does to the rows of one message, of some of its recipients, or of one destination. A claim is its worker's to end; the worker does
# that when it sees the verb. Only removal ends it here: what an attempt brings that is under way changes nothing then.
_CHANGES = {
    "hold": ("held", "UPDATE recipient SET state = 1 WHERE state = 0 AND {which}"),
    "release": ("released", "UPDATE recipient SET state = 0, due = :now WHERE state IN (1, 5) AND {which}"),
    "retry": ("retried", "UPDATE recipient SET due = :now WHERE state = 0 AND due > :now AND {which}"),
    "remove": (
        "removed",
        "UPDATE recipient SET state = 4, claimed = 0 WHERE (state < 2 OR state = 5) AND {which}",
    ),
    "bounce": (
        "bounced",
        "UPDATE recipient SET state = 0, due = 0, bounce = 1 WHERE state < 2 AND bounce = 0 AND {which}",
    ),
}
_STARTED = (
    "UPDATE recipient SET due = min(due, ?) WHERE state = 0 AND claimed = 0 AND (destination = ? OR destination LIKE ?)"
    " AND (attempts > 0 OR result IS NOT NULL OR due <= ?) RETURNING message, destination"
)
VERBS = (*_CHANGES, "suspend", "resume")  # the last two are about destinations only
_OF_MESSAGE = "message = :message"
_OF_RECIPIENTS = "message = :message AND number IN (SELECT value FROM json_each(:numbers))"
_OF_DESTINATION = "destination = :destination"
# How open messages are found, in the order in which they are listed.
_OPEN = (
    (State.DAMAGED, "WHERE state = 5", ""),
    (State.QUEUED, "INDEXED BY claimed_slot WHERE claimed = 1 AND state = 0", ""),
    (State.QUEUED, "WHERE state = 0 AND claimed = 0", " ORDER BY due"),
    (State.HELD, "INDEXED BY held WHERE state = 1", " ORDER BY message"),
)
_NEWEST = " ORDER BY message DESC"
_FINISHED = frozenset(State) - {state for state, _, _ in _OPEN}
_LISTED = "SELECT message, number, state, claimed, due, destination, attempts, result FROM recipient"


class ListedRecipient(msgspec.Struct, frozen=True):
    """One recipient as operators see it. `active` means that a worker has it in memory now."""

    number: int
    address: str
    original: str
    state: State
    active: bool
    due: float
    destination: str
    attempts: int
    result: Result | None


class ListedMessage(msgspec.Struct, frozen=True):
    """One message as operators see it. `envelope` and `trace` are None if they can't be read."""

    id: int
    received_at: float
    octets: int  # of the body, without the fields that this server put in front
    envelope: Envelope | None
    trace: Trace | None
    recipients: tuple[ListedRecipient, ...]

    @property
    def queue_id(self) -> str:
        """The id as people write it."""
        return format_id(self.id)


class Depth(msgspec.Struct, frozen=True):
    """How many recipients of one destination are in one state, and when the first of them is due."""

    destination: str
    state: State
    recipients: int
    oldest_due: float


class Ledger:
    """A connection to the store for operators. Calls block for milliseconds: use a thread on an event loop."""

    def __init__(self, root: Path) -> None:
        """Open the store in `root`. Raises schema.StoreError, FileNotFoundError or apsw.Error."""
        file = root / schema.FILE
        if not file.exists():
            raise FileNotFoundError(f"there is no mail store in {root}")
        self._connection = schema.connect(file)
        self._bodies = Bodies(root)
        self._reader = Reader(self._connection, self._bodies)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def list_messages(
        self,
        limit: int = 100,
        *,
        states: Collection[State] = (),
        destination: str = "",
        wanted: Callable[[ListedMessage], bool] | None = None,
    ) -> list[ListedMessage]:
        """Damaged messages, which need somebody, then open ones: those in work, then by when they are due, then held ones.

        With `states`, messages that have recipients in one of them: open ones in that order, then finished ones, the newest
        first. `wanted` filters further.
        """
        found: list[ListedMessage] = []
        seen: set[int] = set()
        for message in self._candidates(states, destination):
            if len(found) >= limit:
                break
            if message not in seen:
                seen.add(message)
                listed = self.show(message)
                if listed is not None and (wanted is None or wanted(listed)):
                    found.append(listed)
        return found

    def _candidates(self, states: Collection[State], destination: str) -> Iterator[int]:
        filtered = " AND destination = ?" if destination else ""
        values = (destination,) if destination else ()
        queries = [
            f"{where}{filtered}{order}" for state, where, order in _OPEN if not states or state in states
        ]
        if finished := sorted({*states} & _FINISHED):
            queries.append(
                f"WHERE state IN ({','.join(f'{state:d}' for state in finished)}){filtered}{_NEWEST}"
            )
        for query in queries:
            sql = f"SELECT message FROM recipient {query}"  # noqa: S608 - our own words
            for (message,) in self._connection.execute(sql, values):
                yield message

    def show(self, message: int) -> ListedMessage | None:
        """All about one message; None if there is none of this id."""
        sql = "SELECT received_at, octets, envelope, trace FROM message WHERE id = ?"
        row = self._connection.execute(sql, (message,)).fetchone()
        if row is None:
            return None
        received_at, octets, packed_envelope, packed_trace = row
        envelope = trace = None
        with contextlib.suppress(DamagedError):
            envelope = unpack_envelope(packed_envelope)
            trace = unpack_trace(packed_trace)
        recipients = self._connection.execute(f"{_LISTED} WHERE message = ? ORDER BY number", (message,))
        listed = tuple(_listed(row, envelope) for row in recipients)
        return ListedMessage(message, received_at, octets, envelope, trace, listed)

    def content(self, message: int) -> Content:
        """The octets of a message that is not finished. Raises SpoolError if they are gone or damaged."""
        return self._reader.load(message)

    def history(self, message: int) -> list[Happening]:
        """What happened to a message, the oldest first; empty if there is none of this id."""
        row = self._connection.execute("SELECT received_at FROM message WHERE id = ?", (message,)).fetchone()
        if row is None:
            return []
        sql = "SELECT message, at, kind, number, result, detail FROM event WHERE message = ? ORDER BY id"
        events = [_happening(*event) for event in self._connection.execute(sql, (message,))]
        return [Happening(message, row[0], "received"), *events]

    def depth(self) -> list[Depth]:
        """How many recipients are open, by destination and state. Takes about 50 ms for a million."""
        sql = (
            "SELECT destination, 0, count(*), min(due) FROM recipient WHERE state = 0 AND claimed = 0 GROUP BY destination"
            " UNION ALL SELECT destination, state, count(*), min(due) FROM recipient INDEXED BY claimed_slot"
            " WHERE claimed = 1 GROUP BY destination, state"
            " UNION ALL SELECT destination, 1, count(*), min(due) FROM recipient INDEXED BY held"
            " WHERE state = 1 AND claimed = 0 GROUP BY destination"
        )
        found: dict[tuple[str, int], Depth] = {}
        for destination, state, count, due in self._connection.execute(sql):
            old = found.get((destination, state))
            if old is not None:
                count, due = count + old.recipients, min(due, old.oldest_due)  # noqa: PLW2901 - summed up
            found[destination, state] = Depth(destination, State(state), count, due)
        return sorted(found.values(), key=lambda depth: -depth.recipients)

    def count(self) -> dict[str, int]:
        """How many recipients are open: waiting, active (a worker has them in memory), held. 20 ms for a million."""
        found = {}
        for name, index, where in (
            ("waiting", "waiting_due", "state = 0 AND claimed = 0"),
            ("active", "claimed_slot", "claimed = 1"),
            ("held", "held", "state = 1 AND claimed = 0"),
        ):
            sql = f"SELECT count(*) FROM recipient INDEXED BY {index} WHERE {where}"  # noqa: S608 - our own names
            found[name] = self._connection.execute(sql).get
        return found

    def suspended(self) -> list[str]:
        """The destinations to which nothing is sent until an operator resumes them."""
        return [name for (name,) in self._connection.execute("SELECT destination FROM suspended")]

    def apply_verb(
        self,
        verb: str,
        *,
        message: int | None = None,
        recipients: Collection[int] | None = None,
        destination: str = "",
        now: float | None = None,
    ) -> int:
        """Do what an operator asks with one message or all mail of one destination; how many recipients it changed.

        With `recipients` only those of the message are meant, by their places in the envelope. Of a destination that is
        suspended or resumed it is 1 if that was not so before. A bounce is carried out by the next worker that sees it.
        Raises ValueError for an unknown verb or destination.
        """
        at = time.time() if now is None else now
        if verb not in VERBS:
            raise ValueError(f"{verb!r} is no verb; there are {', '.join(VERBS)}")
        if (message is None) == (not destination) or (message is not None and verb not in _CHANGES):
            raise ValueError(f"{verb!r} needs {'a message or ' if verb in _CHANGES else ''}a destination")
        if destination:
            parse_route(destination)
        emptied: list[int] = []
        with schema.transaction(self._connection):
            if verb in _CHANGES:
                messages = self._change(verb, message, recipients, destination, at)
                changed = len(messages)
                if verb == "remove":
                    emptied = writing.empty(self._connection, messages)
            else:
                changed = self._suspend(verb, destination, at)
            self._connection.execute(
                "INSERT INTO verb (at, verb, message, destination) VALUES (?, ?, ?, ?)",
                (at, verb, message, destination),
            )
        self._bodies.remove(emptied)
        return changed

    def suppressions(self, now: float) -> Iterator[Suppressed]:
        """The suppression list, in order."""
        return suppressed.listed(self._connection, now)

    def find_suppressions(self, entries: Sequence[str], now: float) -> list[Suppressed]:
        """Those of the addresses and domains that are suppressed now."""
        return suppressed.find(self._connection, entries, now)

    def teach(self, lesson: Lesson) -> bool:
        """Put an entry on the suppression list, or take it off; whether it was there."""
        with schema.transaction(self._connection):
            found = suppressed.find(self._connection, [lesson.entry], 0.0)
            made = suppressed.learn(self._connection, [lesson])
        suppressed.tell(made)
        return bool(found)

    def start(self, route: Route, *, below: bool) -> int:
        """Have what waits for a route tried now; how many messages. With `below`, also the domains below that of the route.

        What its sender wants held is not touched.
        """
        at = time.time()
        pattern = f"{route.transport}:%.{route.target}" if below else ""
        with schema.transaction(self._connection):
            found = list(self._connection.execute(_STARTED, (at, str(route), pattern, at)))
            for destination in {destination for _, destination in found}:
                self._connection.execute(
                    "INSERT INTO verb (at, verb, destination) VALUES (?, 'retry', ?)", (at, destination)
                )
        return len({message for message, _ in found})

    def _suspend(self, verb: str, destination: str, at: float) -> int:
        if verb == "suspend":
            self._connection.execute("INSERT OR IGNORE INTO suspended VALUES (?, ?)", (destination, at))
        else:
            self._connection.execute("DELETE FROM suspended WHERE destination = ?", (destination,))
        return self._connection.changes()

    def _change(
        self,
        verb: str,
        message: int | None,
        recipients: Collection[int] | None,
        destination: str,
        at: float,
    ) -> list[int]:
        """Change the rows that are meant, and note it in the history; the message of each of them."""
        kind, sql = _CHANGES[verb]
        if message is None:
            which = _OF_DESTINATION
        else:
            which = _OF_MESSAGE if recipients is None else _OF_RECIPIENTS
        numbers = str(list(recipients or ()))  # which is JSON too
        values = {"message": message, "numbers": numbers, "destination": destination, "now": at}
        changed = list(
            self._connection.execute(sql.format(which=which) + " RETURNING message, number", values)
        )
        self._connection.executemany(
            "INSERT INTO event (message, at, kind, number) VALUES (?, ?, ?, ?)",
            [(row[0], at, kind, row[1]) for row in changed],
        )
        return [row[0] for row in changed]


def _listed(row: tuple[Any, ...], envelope: Envelope | None) -> ListedRecipient:
    _message, number, state, claimed, due, destination, attempts, packed = row
    address = original = ""
    if envelope is not None and number < len(envelope.recipients):
        address, original = envelope.recipients[number].address, envelope.recipients[number].original
    result = None
    if packed is not None:
        with contextlib.suppress(DamagedError):
            result = unpack_result(packed)
    return ListedRecipient(
        number, address, original, State(state), bool(claimed), due, destination, attempts, result
    )


def _happening(
    message: int, at: float, kind: str, number: int | None, result: bytes | None, detail: bytes | None
) -> Happening:
    facts: dict[str, object] = {}
    with contextlib.suppress(DamagedError):
        if detail is not None:
            facts |= unpack_detail(detail)
        if result is not None:
            found = unpack_result(result)
            facts |= {
                "reply": str(found.reply),
                "code": found.reply.code,
                "status": found.reply.status,
                "cause": found.reply.cause_id,
                "stage": found.stage.value,
                "origin": found.origin.value,
                "host": found.host,
            } | ({"tls": found.tls} if found.tls else {})
    return Happening(message, at, kind, number, facts)
