"""Remember small things about clients and senders for a while, shared by all workers: how often, and since when.

All of it may be lost without harm: the last second in a crash, everything if the file is damaged. What to conclude from
a memory is the business of the checks that use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import apsw

from pillarbox.mail.units import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FILE = "policy.db"
_BUSY_MS = 5000
_MAX_ROWS = 1_000_000  # some 150 MB; what would be forgotten soonest goes first
_MAX_WAITING = 20_000  # questions at once; beyond that the store is hopelessly late
_CLEAN_S = 30.0
_CLEANED_AT_ONCE = 2000
_MAX_KEY = 200  # characters; longer keys are kept as a digest
_TABLES = """
CREATE TABLE IF NOT EXISTS note (key TEXT PRIMARY KEY, mark REAL NOT NULL, number INTEGER NOT NULL,
  expires REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS note_expires ON note (expires);
"""


class MemoryFullError(Exception):
    """Too many questions wait for an answer."""


class Note(NamedTuple):
    """What is kept under a key: a time and a number, whatever they mean there."""

    mark: float
    number: int


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


class Memory:
    """The shared notes. Nothing is opened before the first question; all work is done in one thread, many at a time."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Keep the notes in a file in `folder`."""
        self._file = Path(folder) / FILE
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "policy-memory")
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[Notes], Any], asyncio.Future[Any]]] = []
        self._working = False
        self._connection: apsw.Connection | None = None
        self._clean_at = 0.0

    def ask(self, work: Callable[[Notes], T]) -> asyncio.Future[T]:
        """Do something with the notes, in a transaction. Raises MemoryFullError; the future may raise apsw.Error."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING:
                raise MemoryFullError("too many questions wait for the memory of policy")
            self._waiting.append((work, answer))
            begin, self._working = not self._working, True
        if begin:
            self._thread.submit(self._work)
        return answer

    def take(self, key: str, rate: Rate, amount: float = 1.0) -> asyncio.Future[float]:
        """`Notes.take`, for who needs nothing else."""
        return self.ask(lambda notes: notes.take(key, rate, amount))

    async def close(self) -> None:
        """Finish what waits, and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        """Answer everything that waits, each batch in one transaction."""
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                if not batch:
                    self._working = False
                    return
            try:
                answers = self._transact([work for work, _ in batch])
            except (apsw.Error, OSError) as error:
                answers = [error] * len(batch)
                self._close()  # and try it anew with the next question
            for (_, future), answer in zip(batch, answers, strict=True):
                with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                    future.get_loop().call_soon_threadsafe(_tell, future, answer)

    def _transact(self, batch: list[Callable[[Notes], Any]]) -> list[Any]:
        if self._connection is None:
            self._connection = _open(self._file)
        connection, now = self._connection, self._clock()
        notes = Notes(connection, now)
        connection.execute("BEGIN IMMEDIATE")
        try:
            answers = [_attempt(work, notes) for work in batch]
            if now >= self._clean_at:
                self._clean(connection, now)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return answers

    def _clean(self, connection: apsw.Connection, now: float) -> None:
        """Forget what is too old, and what is too much; a little at a time, sooner again if that was not all."""
        connection.execute(
            "DELETE FROM note WHERE key IN (SELECT key FROM note WHERE expires <= ? LIMIT ?)",
            (now, _CLEANED_AT_ONCE),
        )
        busy = connection.changes() == _CLEANED_AT_ONCE
        rows = connection.execute("SELECT count(*) FROM note").get if not busy else 0
        if isinstance(rows, int) and rows > _MAX_ROWS:
            connection.execute(
                "DELETE FROM note WHERE key IN (SELECT key FROM note ORDER BY expires LIMIT ?)",
                (min(rows - _MAX_ROWS, 10 * _CLEANED_AT_ONCE),),
            )
            busy = True
        self._clean_at = now + (1.0 if busy else _CLEAN_S)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close()


def _attempt(work: Callable[[Notes], T], notes: Notes) -> T | Exception:
    """One question's mistake must not cost the others their answers; trouble with the file is everybody's."""
    try:
        return work(notes)
    except (apsw.Error, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - who asked gets it
        return error


def _tell(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _open(file: Path) -> apsw.Connection:
    """Open the file; one that is damaged is made anew, because nothing in it is worth a repair."""
    try:
        return _connect(file)
    except (apsw.CorruptError, apsw.NotADBError):
        for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
            file.with_name(name).unlink(missing_ok=True)
        return _connect(file)


def _connect(file: Path) -> apsw.Connection:
    connection = apsw.Connection(str(file))
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_TABLES)
    except BaseException:
        connection.close()
        raise
    return connection


def _short(key: str) -> str:
    if len(key) <= _MAX_KEY:
        return key
    return f"{key[:100]}#{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"
