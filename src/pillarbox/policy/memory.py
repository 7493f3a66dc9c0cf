"""Remember small things about clients and senders for a while, shared by all workers: how often, and since when.

All of it may be lost without harm: the last second in a crash, everything if the file is damaged. What to conclude from
a memory is the business of the checks that use it.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pillarbox.mail.units import Rate
from pillarbox.policy.shared_file import SharedFile, open_shared

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    import apsw

FILE = "policy.db"
_MAX_ROWS = 1_000_000  # some 150 MB; what would be forgotten soonest goes first
_CLEAN_S = 30.0
_CLEANED_AT_ONCE = 2000
_MAX_KEY = 200  # characters; longer keys are kept as a digest
_TABLES = """
CREATE TABLE IF NOT EXISTS note (key TEXT PRIMARY KEY, mark REAL NOT NULL, number INTEGER NOT NULL,
  expires REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS note_expires ON note (expires);
"""


class Note(NamedTuple):
    """What is kept under a key: a time and a number, whatever they mean there."""

    mark: float
    number: int


class KeptNote(NamedTuple):
    """A note as it lies in the file; `key` is without the beginning that was asked for."""

    key: str
    mark: float
    number: int
    expires: float


class Notes:
    """The notes, inside one transaction; `now` is the time of all of it."""

    def __init__(self, connection: apsw.Connection, now: float) -> None:
        """Read and write through a connection on which a transaction is open."""
        self._connection = connection
        self.now = now

    def get(self, key: str) -> Note | None:
        """What is known, or None if it is nothing or too old."""
        row = self._connection.execute(
            "SELECT mark, number FROM note WHERE key = ? AND expires > ?", (_short(key), self.now)
        ).fetchone()
        return None if row is None else Note(*row)

    def put(self, key: str, mark: float, number: int, keep_s: float) -> None:
        """Keep a note for so long from now."""
        self._connection.execute(
            "INSERT INTO note VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT (key) DO UPDATE SET mark = ?2, number = ?3, expires = ?4",
            (_short(key), mark, number, self.now + keep_s),
        )

    def drop(self, key: str) -> bool:
        """Forget a note; whether there was one."""
        self._connection.execute("DELETE FROM note WHERE key = ?", (_short(key),))
        return bool(self._connection.changes())

    def beginning_with(self, start: str) -> list[KeptNote]:
        """The notes whose keys begin so, by the rest of the key."""
        end = start[:-1] + chr(ord(start[-1]) + 1)
        rows = self._connection.execute(
            "SELECT key, mark, number, expires FROM note WHERE key >= ? AND key < ? AND expires > ? ORDER BY key",
            (start, end, self.now),
        )
        return [KeptNote(key.removeprefix(start), *rest) for key, *rest in rows]

    def take(self, key: str, rate: Rate, amount: float = 1.0) -> float:
        """Take something from a budget that refills evenly: 0, or in how many seconds there will be enough.

        `mark` is when the budget will be full again. A refusal takes nothing.
        """
        found = self.get(key)
        full_at = (
            max(found.mark if found is not None else 0.0, self.now) + amount * rate.period_s / rate.count
        )
        wait_s = full_at - self.now - rate.period_s
        if wait_s > 1e-6:  # an even division may leave a trace
            return wait_s
        self.put(key, full_at, 0, full_at - self.now)
        return 0.0

    def clean(self) -> float:
        """Forget what is too old, and what is too much; a little at a time, sooner again if that was not all."""
        connection = self._connection
        connection.execute(
            "DELETE FROM note WHERE key IN (SELECT key FROM note WHERE expires <= ? LIMIT ?)",
            (self.now, _CLEANED_AT_ONCE),
        )
        busy = connection.changes() == _CLEANED_AT_ONCE
        rows = connection.execute("SELECT count(*) FROM note").get if not busy else 0
        if isinstance(rows, int) and rows > _MAX_ROWS:
            connection.execute(
                "DELETE FROM note WHERE key IN (SELECT key FROM note ORDER BY expires LIMIT ?)",
                (min(rows - _MAX_ROWS, 10 * _CLEANED_AT_ONCE),),
            )
            busy = True
        return 1.0 if busy else _CLEAN_S


class Memory(SharedFile[Notes]):
    """The shared notes."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Keep the notes in a file in `folder`."""
        super().__init__(Path(folder) / FILE, _TABLES, Notes, clock=clock)

    def take(self, key: str, rate: Rate, amount: float = 1.0) -> asyncio.Future[float]:
        """`Notes.take`, for who needs nothing else."""
        return self.ask(lambda notes: notes.take(key, rate, amount))


@contextmanager
def open_notes(file: Path, *, now: float) -> Iterator[Notes]:
    """The notes in a file, for a command: in one transaction, beside a server that may use it. Raises apsw.Error or OSError."""
    connection = open_shared(file, _TABLES)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield Notes(connection, now)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _short(key: str) -> str:
    if len(key) <= _MAX_KEY:
        return key
    return f"{key[:100]}#{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"
