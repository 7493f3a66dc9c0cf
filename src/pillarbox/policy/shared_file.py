"""Work on a small SQLite file that all workers share and that may lose its last second: in one thread, many at a time.

What the file holds, and what is forgotten when, is the business of the view that works on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

_BUSY_MS = 5000
_MAX_WAITING = 20_000  # questions at once; beyond that the file is hopelessly late


class FileFullError(Exception):
    """Too many questions wait for an answer."""


class View(Protocol):
    """What one transaction sees of a file."""

    def clean(self) -> float:
        """Forget what is too old, and what is too much; in how many seconds to do so again."""


V = TypeVar("V", bound=View)


class SharedFile(Generic[V]):
    """A file of `tables`. Nothing is opened before the first question; each batch of them is one transaction."""

    def __init__(
        self,
        file: Path,
        tables: str,
        view: Callable[[apsw.Connection, float], V],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`view` is made anew for each transaction, with its time."""
        self._file = file
        self._tables = tables
        self._view = view
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, file.stem)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[V], Any], asyncio.Future[Any]]] = []
        self._working = False
        self._connection: apsw.Connection | None = None
        self._clean_at = 0.0

    def ask(self, work: Callable[[V], T]) -> asyncio.Future[T]:
        """Do something in a transaction. Raises FileFullError; the future may raise apsw.Error or OSError."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING:
                raise FileFullError(f"too many questions wait for {self._file.name}")
            self._waiting.append((work, answer))
            begin, self._working = not self._working, True
        if begin:
            self._thread.submit(self._work)
        return answer

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

    def _transact(self, batch: list[Callable[[V], Any]]) -> list[Any]:
        if self._connection is None:
            self._connection = open_shared(self._file, self._tables)
        connection, now = self._connection, self._clock()
        view = self._view(connection, now)
        connection.execute("BEGIN IMMEDIATE")
        try:
            answers = [_attempt(work, view) for work in batch]
            if now >= self._clean_at:
                self._clean_at = now + view.clean()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return answers

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close()


def _attempt(work: Callable[[V], T], view: V) -> T | Exception:
    """One question's mistake must not cost the others their answers; trouble with the file is everybody's."""
    try:
        return work(view)
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


def open_shared(file: Path, tables: str) -> apsw.Connection:
    """Open the file; one that is damaged is put aside and made anew, because nothing in it is worth a repair.

    Raises apsw.Error or OSError.
    """
    try:
        return _connect(file, tables)
    except (apsw.CorruptError, apsw.NotADBError):
        for name in (f"{file.name}-wal", f"{file.name}-shm"):
            file.with_name(name).unlink(missing_ok=True)
        file.replace(file.with_name(f"{file.name}.damaged"))
        return _connect(file, tables)


def _connect(file: Path, tables: str) -> apsw.Connection:
    connection = apsw.Connection(str(file))
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(tables)
    except BaseException:
        connection.close()
        raise
    return connection
