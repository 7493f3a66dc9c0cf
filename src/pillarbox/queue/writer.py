"""The one who writes to a store: puts all orders that wait into one transaction, and tells what became of each.

What is written is in `queue.writing`, who owns which message in `queue.leases`; where the writer works, and how orders
reach it, is `queue.workplace`'s business, and what follows from its results `queue.sqlite`'s.
"""

from __future__ import annotations

import contextlib
import math
import time
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import apsw

from pillarbox.queue import leases, schema, writing
from pillarbox.queue.drafts import Trouble, describe
from pillarbox.queue.leases import Leases
from pillarbox.queue.spool import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pillarbox.queue.spool import Happening
    from pillarbox.queue.suppression import Lesson
    from pillarbox.queue.writing import Order

T = TypeVar("T")

_SETTLED_S = 0.1  # after that the server has started, most likely, and the log may be lengthened


class Held(NamedTuple):
    """The slots that a worker holds: the one for new messages, and of each the fencing number."""

    slot: int
    fences: dict[int, int]


class Opened(NamedTuple):
    """What is to be known of a store that was opened."""

    worker: str  # the fresh name of this worker
    held: Held
    vacant: list[int]  # slots that were somebody's and are nobody's now
    last_id: int


class News(NamedTuple):
    """What comes of a batch that is not only new messages, or that had trouble."""

    problems: list[str]  # for the log
    emptied: list[int]  # messages whose body files are no longer needed
    learnt: list[Lesson]  # what made an entry of the suppression list
    held: Held  # now


class Result(NamedTuple):
    """What became of the orders of a batch."""

    answers: list[object]  # in turn: what a call returned, None for rows that were written, or a Trouble
    took_s: list[float]  # for each transaction
    news: News | None


class Line(Protocol):
    """By which orders come and results go."""

    def get(self, timeout_s: float) -> list[Order]:
        """All orders that wait, none if the worker only shows that it lives.

        Raises queue.Empty if nothing came, or EOFError if nothing will come any more.
        """

    def answer(self, result: Result) -> None:
        """Send what became of orders, in turn."""


class Writer:
    """The connection that writes. It may be made in another thread than it works in."""

    def __init__(self, root: Path) -> None:
        """Open the store in the folder `root`, and take a slot. Raises schema.StoreError, apsw.Error, OSError or RuntimeError."""
        self._file = root / schema.FILE
        self.connection = schema.connect(self._file, cache_kib=schema.WRITER_CACHE_KIB)
        writing.prepare(self.connection)
        self._leases = Leases(root)
        try:
            with schema.transaction(self.connection):
                self._slot = self._leases.acquire(self.connection)
                vacant = self._leases.vacant(self.connection)
        except BaseException:
            self._leases.close()
            raise
        last_id = self.connection.execute("SELECT coalesce(max(id), 0) FROM message").get
        self.opened = Opened(self._leases.worker, self._held(), vacant, int(last_id))
        self._lost = False  # whether a slot was ever taken from this worker
        self._took_s: list[float] = []
        self._begin_news()

    def _begin_news(self) -> None:
        self._has_news = False
        self._problems: list[str] = []
        self._emptied: list[int] = []
        self._learnt: list[Lesson] = []

    def _held(self) -> Held:
        return Held(self._slot, dict(self._leases.fences))

    def run(self, line: Line) -> None:
        """Write whatever waits, all in one transaction, until nothing comes any more; then give the slots back and close."""
        heard_at = opened = time.monotonic()
        renew_at, lengthen_at = opened + leases.RENEW_S, opened + _SETTLED_S
        while True:
            now = time.monotonic()
            if now >= renew_at:
                renew_at = now + leases.RENEW_S
                if now - heard_at < leases.RENEW_S:  # a worker whose loop stands still is as good as dead
                    self._renew(line)
            try:
                batch = line.get(max(min(renew_at, lengthen_at) - now, 0.0))
            except Empty:
                if now >= lengthen_at:
                    lengthen_at = now if self._lengthen_log() else math.inf
            except EOFError:
                break
            else:
                heard_at = time.monotonic()
                if batch:
                    line.answer(self.write(batch))
        self._close()

    def write(self, batch: Sequence[Order]) -> Result:
        """Write a batch in one transaction; if that fails for a reason of one member's, each in its own."""
        answers = self._write(batch)
        news = None
        if self._has_news:
            news = News(self._problems, self._emptied, self._learnt, self._held())
            self._begin_news()
        result = Result(answers, self._took_s, news)
        self._took_s = []
        return result

    def _write(self, batch: Sequence[Order]) -> list[object]:
        began = time.perf_counter()
        try:
            answers = self._transact(batch)
        except (apsw.IOError, apsw.BusyError, OSError) as error:
            # A sync may have failed, so nobody may be told that it went well; body files stay until the next sweep.
            return self._fail(batch, describe(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the writer
            if len(batch) > 1:
                return [self._write([order])[0] for order in batch]
            return self._fail(batch, describe(error)._replace(unwritten=True))
        self._took_s.append(time.perf_counter() - began)
        return answers

    def _fail(self, batch: Sequence[Order], trouble: Trouble) -> list[object]:
        self._has_news = True
        self._problems.append(trouble.problem)
        return [trouble] * len(batch)

    def _transact(self, batch: Sequence[Order]) -> list[object]:
        """Write a batch; the answers. Raises apsw.Error."""
        if writing.arrive(self.connection, batch):
            return [None] * len(batch)
        self._has_news = True
        self._learning: list[Lesson] = []
        with self._held_only_if_written(), schema.transaction(self.connection):
            lost = self._fence(batch)
            emptied, learnt = writing.apply(self.connection, [order for order in batch if order not in lost])
            refused = describe(RuntimeError("another worker has taken over the message")) if lost else None
            answers = [refused if order in lost else self._answer(order) for order in batch]
        self._emptied += emptied
        self._learnt += learnt + self._learning
        return answers

    def _answer(self, order: Order) -> object:
        call = order[2]
        return call(self) if call is not None else None

    def _fence(self, batch: Sequence[Order]) -> Sequence[Order]:
        """The orders for slots that another worker has taken."""
        gone = self._leases.lost(self.connection)
        if gone:
            self._lost = True
            self._problems.append(f"slots {sorted(gone)} were taken over by another worker")
        if not self._lost:
            return ()
        orders = [order for order in batch if not writing.slots(order) <= self._leases.fences.keys()]
        if self._slot in gone:  # only now: it may be the same one, and these orders are of the time before
            self._slot = self._leases.acquire(self.connection)
        return orders

    @contextlib.contextmanager
    def _held_only_if_written(self) -> Iterator[None]:
        """Forget what slots were taken in a transaction that failed."""
        slot, fences = self._slot, dict(self._leases.fences)
        try:
            yield
        except BaseException:
            self._slot, self._leases.fences = slot, fences
            raise

    def claim(self, rows: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Claim recipients whose slot is held, by message and number; those that were. Inside a transaction."""
        return writing.claim(self.connection, [row for row in rows if self._holds(row[0])])

    def release(self, rows: Sequence[tuple[int, int, float]]) -> None:
        """End the claim on recipients whose slot is held, by message, number and when due. Inside a transaction."""
        writing.release(self.connection, [row for row in rows if self._holds(row[0])])

    def _holds(self, message: int) -> bool:
        return message % SLOTS in self._leases.fences

    def adopt(self) -> list[int]:
        """Take over the slots of workers that died; the slots. Inside a transaction."""
        return self._leases.adopt(self.connection)

    def note(self, happenings: Sequence[Happening], lessons: Sequence[Lesson]) -> None:
        """Add to the history of messages, and learn. Inside a transaction."""
        self._learning += writing.note(self.connection, happenings, lessons)

    def _renew(self, line: Line) -> None:
        """Say that this worker lives."""
        try:
            with schema.transaction(self.connection):
                self._leases.renew(self.connection)
            self._leases.renewed()
        except apsw.Error as error:
            line.answer(Result([], [], News([f"lease not renewed: {error}"], [], [], self._held())))

    def _lengthen_log(self) -> bool:
        """Make the log longer while nothing else is to do; whether more of that is wanted."""
        try:
            return schema.lengthen_log(self.connection, self._file)
        except (apsw.Error, OSError):  # it will grow by and by, then
            return False

    def _close(self) -> None:
        with contextlib.suppress(apsw.Error), schema.transaction(self.connection):
            self._leases.forget(self.connection)
        self.connection.close()
        self._leases.close()


def on_connection(function: Callable[..., T], **facts: object) -> Callable[[Writer], T]:
    """A call that the writer makes with its connection and these facts; all of it may go to another process."""
    return partial(_call, function, facts)


def _call(function: Callable[..., T], facts: dict[str, object], writer: Writer) -> T:
    return function(writer.connection, **facts)
