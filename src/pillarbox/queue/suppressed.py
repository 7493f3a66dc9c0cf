"""The rows of the suppression list: what is learnt, asked, and changed by operators.

What speaks against an address is decided in `queue.suppression`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw

from pillarbox import observe
from pillarbox.queue.records import DamagedError, pack_detail, unpack_result
from pillarbox.queue.suppression import BY_OPERATOR, Lesson, LessonKind, Suppressed

SUPPRESSED, CLEARED = "suppressed", "cleared"  # the verbs by which workers learn of a change
_COLUMNS = "entry, since, until, cause, message, result, note"
_PUT = f"INSERT OR REPLACE INTO suppressed ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own names
_TELL = "INSERT INTO verb (at, verb, destination) VALUES (?, ?, ?)"


def learn(connection: apsw.Connection, lessons: Iterable[Lesson]) -> list[Lesson]:
    """Write what outcomes taught, and have the workers look at it; what made an entry. Raises apsw.Error."""
    made = []
    for lesson in lessons:
        verb = SUPPRESSED
        if lesson.kind is LessonKind.CLEAR:
            _clear(connection, lesson)
            verb = SUPPRESSED if _is_known(connection, lesson.entry) else CLEARED
        elif lesson.kind is LessonKind.SUPPRESS or _strike(connection, lesson):
            put(connection, lesson)
            made.append(lesson)
        connection.execute(_TELL, (lesson.at, verb, lesson.entry))
    return made


def tell(made: Iterable[Lesson]) -> None:
    """Note entries that were made in the log."""
    for lesson in made:
        until = observe.moment(lesson.until)
        observe.ADDRESS_SUPPRESSED.note(entry=lesson.entry, cause=lesson.cause, until=until)


def _is_known(connection: apsw.Connection, entry: str) -> bool:
    sql = "SELECT EXISTS (SELECT 1 FROM suppressed WHERE entry = ?1) OR EXISTS (SELECT 1 FROM strike WHERE entry = ?1)"
    return bool(connection.execute(sql, (entry,)).get)


def _strike(connection: apsw.Connection, lesson: Lesson) -> bool:
    """Count one more refusal; whether there were enough of them now."""
    connection.execute("DELETE FROM strike WHERE entry = ? AND at < ?", (lesson.entry, lesson.counted_from))
    connection.execute(
        "INSERT OR IGNORE INTO strike VALUES (?, ?, ?)", (lesson.entry, lesson.at, lesson.returned)
    )
    count = connection.execute("SELECT count(*) FROM strike WHERE entry = ?", (lesson.entry,)).get
    return bool(count >= lesson.repeats)


def put(connection: apsw.Connection, lesson: Lesson) -> None:
    """Make an entry, or renew it, and note it in the history of the message that taught it. Raises apsw.Error."""
    connection.execute(
        _PUT,
        (lesson.entry, lesson.at, lesson.until, lesson.cause, lesson.message, lesson.result, lesson.note),
    )
    connection.execute("DELETE FROM strike WHERE entry = ?", (lesson.entry,))
    if lesson.message is not None:
        detail = pack_detail({"entry": lesson.entry, "until": lesson.until, "why": lesson.cause})
        connection.execute(
            "INSERT INTO event (message, at, kind, number, detail) VALUES (?, ?, 'suppressed', ?, ?)",
            (lesson.message, lesson.at, lesson.number, detail),
        )


def _clear(connection: apsw.Connection, lesson: Lesson) -> None:
    """Forget what is held against an entry; after a success, only what that disproves."""
    by_operator = lesson.message is None
    connection.execute(
        "DELETE FROM strike WHERE entry = ? AND (returned = 0 OR ?)", (lesson.entry, by_operator)
    )
    connection.execute(
        "DELETE FROM suppressed WHERE entry = ? AND (cause <> ? OR ?)",
        (lesson.entry, BY_OPERATOR, by_operator),
    )


def forget_old(connection: apsw.Connection, now: float, counted_from: float) -> None:
    """Drop entries that have expired, and refusals that count no more. Raises apsw.Error."""
    connection.execute("DELETE FROM suppressed WHERE until < ?", (now,))
    connection.execute("DELETE FROM strike WHERE at < ?", (counted_from,))


def watched(connection: apsw.Connection) -> list[str]:
    """Every entry that something is known about. Raises apsw.Error."""
    sql = "SELECT entry FROM suppressed UNION SELECT entry FROM strike"
    return [entry for (entry,) in connection.execute(sql)]


def find(connection: apsw.Connection, entries: Sequence[str], now: float) -> list[Suppressed]:
    """Those of the entries that are on the list now. Raises apsw.Error."""
    marks = ",".join("?" * len(entries))
    sql = f"SELECT {_COLUMNS} FROM suppressed WHERE entry IN ({marks}) AND until >= ?"  # noqa: S608 - only marks
    return [_read(row) for row in connection.execute(sql, (*entries, now))]


def listed(connection: apsw.Connection, now: float) -> Iterator[Suppressed]:
    """The list, in order. Raises apsw.Error."""
    sql = f"SELECT {_COLUMNS} FROM suppressed WHERE until >= ? ORDER BY entry"  # noqa: S608 - our own names
    for row in connection.execute(sql, (now,)):
        yield _read(row)


def _read(row: tuple[Any, ...]) -> Suppressed:
    entry, since, until, cause, message, packed, note = row
    result = None
    if packed is not None:
        with contextlib.suppress(DamagedError):
            result = unpack_result(packed)
    return Suppressed(entry, since, until, cause, message, result, note)
