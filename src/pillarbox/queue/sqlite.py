"""The durable store on one machine: SQLite, written by one thread that puts all that waits into one transaction.

The tables are in `queue.schema`, what is written in `queue.writing`, what is read in `queue.reader`, body files in
`queue.drafts`, who owns which message in `queue.leases`; operators look and act through `queue.ledger`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import apsw

from pillarbox import observe
from pillarbox.queue import schema, suppressed, writing
from pillarbox.queue.drafts import Bodies, FileDraft, trouble
from pillarbox.queue.leases import RENEW_S, Leases
from pillarbox.queue.reader import Reader
from pillarbox.queue.spool import SLOTS, Content, SpoolError, format_id, parse_id
from pillarbox.queue.writing import Further, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path
    from typing import Any, TypeVar

    from pillarbox.mail.route import Route
    from pillarbox.queue.sent import Sent
    from pillarbox.queue.spool import Change, Draft, Entry, Happening, Pending, Queued, Verb
    from pillarbox.queue.suppression import Lesson, Suppressed

    T = TypeVar("T")

_FILE_THREADS = 4
_MOST_WORKS = 256  # in one transaction
_ENOUGH = 10  # turns of the loop without new work, times works: then what came is written
_MOST_TURNS = 16
_GROUP = 16  # works that the writer gets at once, for the loop to be busy with others while these are written
_SETTLED_S = 0.1  # after that the server has started, most likely, and the log may be lengthened
_NO_FENCE = -1  # of a slot that is not held any more
_Answers = list[tuple[Work, SpoolError | None]]  # with what went wrong


class SqliteSpool:
    """The contract's `Spool` in a folder of the local file system."""

    def __init__(self, root: Path) -> None:
        """Open the store in `root`, make it if it is not there; on the loop that will use it.

        Raises schema.StoreError, apsw.Error or OSError.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._loop = asyncio.get_running_loop()
        self._connection = schema.connect(root / schema.FILE, cache_kib=schema.WRITER_CACHE_KIB)
        self._bodies = Bodies(root)
        self._leases = Leases(root)
        writing.prepare(self._connection)
        began_at = time.time()
        try:
            with schema.transaction(self._connection):
                self._slot = self._leases.acquire(self._connection)
                vacant = self._leases.vacant(self._connection)
        except BaseException:
            self._leases.close()
            raise
        self._last_id = int(self._connection.execute("SELECT coalesce(max(id), 0) FROM message").get)
        self._reader = Reader(schema.connect(root / schema.FILE), self._bodies)
        self._root = root
        self._drafts = 0
        self._lost = False  # whether a slot was ever taken from this worker
        self._closing: asyncio.Future[None] | None = None
        self._fresh: list[Work] = []  # not yet handed over
        self._gathering = False  # whether `_gather` is to be called
        self._turns = self._quiet_turns = self._enough = self._seen = 0
        self._group = 0  # how many works were handed over last
        self._unanswered = 0  # how many works were submitted and wait
        self._work: SimpleQueue[list[Work] | None] = SimpleQueue()
        self._file_threads = ThreadPoolExecutor(_FILE_THREADS, "pillarbox-files")
        self._reader_thread = ThreadPoolExecutor(1, "pillarbox-reader")
        self._writer = threading.Thread(target=self._write_until_closed, name="pillarbox-writer", daemon=True)
        self._writer.start()
        self._file_threads.submit(self._sweep, [self._slot], self.new_id(time.time()))
        if vacant:  # whoever takes one of them meanwhile makes younger ids
            self._file_threads.submit(self._sweep, vacant, int(began_at * 1_000_000) * SLOTS)

    @property
    def slots(self) -> frozenset[int]:
        """The slots that this worker holds now."""
        return frozenset(self._leases.fences)

    def new_id(self, now: float) -> int:
        """A fresh message id: microseconds of Unix time, then the slot. It never falls, even if the clock does."""
        fresh = int(now * 1_000_000) * SLOTS | self._slot
        if fresh <= self._last_id:
            fresh = (self._last_id // SLOTS + 1) * SLOTS | self._slot
        self._last_id = fresh
        return fresh

    def free_octets(self) -> int:
        """The free space where the store lies. Raises OSError."""
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def draft(self) -> FileDraft:
        """Begin to store a body."""
        self._drafts += 1
        return self._bodies.draft(f"{self._leases.worker}-{self._drafts}")

    def commit(
        self, draft: Draft, entry: Entry, settle: Callable[[asyncio.Future[Any], Any], None] | None = None
    ) -> asyncio.Future[Any]:
        """Make the message durable; the future gives it as the queue's manager takes it, or what `settle` makes of it."""
        future = self._loop.create_future()
        work = Work(future)
        work.settle = settle
        work.added = self._add(work, draft, entry)
        self._submit(work)
        return future

    def record(
        self,
        changes: Sequence[Change],
        reports: Sequence[tuple[Draft, Entry]] = (),
        lessons: Sequence[Lesson] = (),
    ) -> asyncio.Future[list[Queued]]:
        """Store outcomes, the reports that they give rise to and what they teach about addresses, in one transaction."""
        future = self._loop.create_future()
        work = Work(future)
        work.further = further = Further()
        now = time.time()
        for change in changes:
            further.change(change, now)
        further.lessons = lessons
        work.answer = [writing.queued(*self._add(work, draft, entry)) for draft, entry in reports]
        self._submit(work)
        return future

    def _add(self, work: Work, draft: Draft, entry: Entry) -> tuple[Entry, Content, Sequence[bool]]:
        message = entry.id
        if draft.file is None:
            content = Content(entry.prefix, draft.inline(), None, draft.octets)
        else:
            path = self._bodies.path(message)
            content = Content(entry.prefix, None, path, draft.octets)
            work.bodies = (*work.bodies, (draft, path))
        fence = self._leases.fences.get(message & SLOTS - 1, _NO_FENCE)
        return entry, content, work.add(entry, content, fence)

    def load(self, message: int) -> asyncio.Future[Content]:
        """Read the octets of a message. A damaged one gives SpoolError with cause `delivery.DAMAGED`."""
        return self._read(partial(self._reader.load, message))

    def next_due(self) -> asyncio.Future[float | None]:
        """When the next unclaimed recipient is due, in Unix time; None if nothing waits."""
        return self._read(partial(self._reader.next_due, self.slots))

    def find_sent(self, messages: Sequence[int], names: Sequence[int]) -> asyncio.Future[Sent | None]:
        """The first of these messages that is known, else one that has one of these names."""
        return self._read(partial(self._reader.find_sent, messages, names))

    def note(self, happenings: Sequence[Happening], lessons: Sequence[Lesson] = ()) -> asyncio.Future[None]:
        """Add to the history of messages, and store what it teaches about addresses."""
        return self._call(partial(writing.note, happenings=happenings, lessons=lessons))

    def watched(self) -> asyncio.Future[list[str]]:
        """Every address and domain that the suppression list knows something about."""
        return self._read(self._reader.watched)

    def suppressed(self, entries: Sequence[str], now: float) -> asyncio.Future[list[Suppressed]]:
        """Those of these addresses and domains that are suppressed now."""
        return self._read(partial(self._reader.suppressed, entries, now))

    def verbs(self) -> asyncio.Future[list[Verb]]:
        """What operators asked for since the last call; the first call tells which destinations are suspended."""
        return self._read(self._reader.verbs)

    def due(self, now: float, limit: int, full: Collection[Route]) -> asyncio.Future[list[Queued]]:
        """Claim recipients due by `now`, fair between destinations, none of a destination in `full`."""
        return self._loop.create_task(self._due(now, limit, full))

    async def _due(self, now: float, limit: int, full: Collection[Route]) -> list[Queued]:
        pick = await self._read(partial(self._reader.pick, self.slots, now, limit, full))
        if pick.damaged:
            await self._call(partial(_set_aside, damaged=pick.damaged, at=now))
            for message, reason in pick.damaged:
                observe.MESSAGE_DAMAGED.note(message=format_id(message), problem=reason)
        if not pick.queued:
            return []
        return await self._call(partial(self._claim, found=pick.queued))

    def release(self, pending: Sequence[Pending]) -> asyncio.Future[None]:
        """Give recipients back unattempted, each with its `due`."""
        return self._call(partial(self._release, pending=pending))

    def open_messages(self) -> asyncio.Future[int]:
        """About how many messages are in the queue. Takes some 50 ms for a million."""
        return self._read(self._reader.open_messages)

    def check_writable(self) -> asyncio.Future[None]:
        """Write what changes nothing, to see whether the store can be written now."""
        return self._call(partial(writing.touch, slot=self._slot, now=time.time()))

    def adopt(self) -> asyncio.Future[list[int]]:
        """Take over the slots of workers that died; the slots."""
        return self._call(self._adopt)

    def forget_old(self, now: float, counted_from: float) -> asyncio.Future[None]:
        """Drop what has expired from the suppression list, and refusals before `counted_from`."""
        return self._call(partial(suppressed.forget_old, now=now, counted_from=counted_from))

    def prune(self, before: float) -> asyncio.Future[int]:
        """Forget some finished messages received before `before`; how many. Call again until it is 0."""
        return self._call(partial(writing.prune, before=before))

    def close(self) -> asyncio.Future[None]:
        """Finish what is begun, give the leases back, and close."""
        if self._closing is None:
            self._hand_over()
            self._closing = self._loop.create_future()
            threading.Thread(target=self._close, args=(self._closing,), name="pillarbox-closer").start()
        return self._closing

    # How work reaches the threads.

    def _submit(self, work: Work) -> None:
        self._unanswered += 1
        if self._closing is not None:
            self._resolve([(work, trouble(RuntimeError("the store is closed")))])
        elif work.bodies:
            self._file_threads.submit(self._keep_bodies, work)
            work.foretell()
        else:
            fresh = self._fresh
            fresh.append(work)
            if len(fresh) == 1:
                self._turns = self._quiet_turns = self._seen = 0
                self._enough = 0 if self._unanswered == self._group == 1 else _ENOUGH
                if not self._gathering:
                    self._gathering = True
                    self._loop.call_soon(self._gather)
            elif len(fresh) == _GROUP:
                self._hand_over()

    def _gather(self) -> None:
        """Let works pile up while the loop's turns bring more, for the writer to be woken once and sync once for all.

        The fewer there are the more quiet turns they wait for others, since a sync costs as much for one as for many. A loop
        with little to do turns fast, so few clients hardly wait; a busy one makes large groups. A work that comes alone,
        after another that did, is handed over at once. So is a group that is large enough: if all clients came to wait for
        the same sync, they would go on in step, and the loop be idle at each.
        """
        count = len(self._fresh)
        if not count:
            self._gathering = False
            return
        if count > self._seen:
            self._seen, self._quiet_turns = count, 0
        else:
            self._quiet_turns += 1
        self._turns += 1
        if self._quiet_turns * count >= self._enough or self._turns > _MOST_TURNS:
            self._gathering = False
            self._hand_over()
        else:
            self._loop.call_soon(self._gather)

    def _hand_over(self) -> None:
        fresh = self._fresh
        self._fresh = []
        self._group = len(fresh)
        self._work.put(fresh)
        for work in fresh:
            work.foretell()

    def _resolve(self, answers: _Answers) -> None:
        self._unanswered -= len(answers)
        for work, failure in answers:
            future = work.future
            if work.settle is not None:
                try:
                    work.settle(future, failure or work.answer)
                except Exception as error:  # noqa: BLE001 - a bug must not keep the others from their answers
                    observe.report_incident(error)
                    if not future.done():
                        future.set_exception(error)
            elif future.done():  # the one who waited has gone
                continue
            elif failure is None:
                future.set_result(work.answer)
            else:
                future.set_exception(failure)

    def _call(self, call: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Run `call` in the writer's next transaction."""
        future = self._loop.create_future()
        self._submit(Work(future, call))
        return future

    def _read(self, call: Callable[[], T]) -> asyncio.Future[T]:
        if self._closing is not None:
            future: asyncio.Future[T] = self._loop.create_future()
            future.set_exception(trouble(RuntimeError("the store is closed")))
            return future
        return self._loop.run_in_executor(self._reader_thread, _reading(call))

    # What the threads do.

    def _keep_bodies(self, work: Work) -> None:
        """Bring body files home, then have the rows written."""
        try:
            for draft, path in work.bodies:
                draft.keep(path)
        except SpoolError as error:
            self._answer([(work, error)])
        else:
            self._work.put([work])

    def _sweep(self, slots: Sequence[int], before: int) -> None:
        """Remove what dead workers left half done: drafts, and body files below id `before` without a row."""
        connection = schema.connect(self._root / schema.FILE)
        self._bodies.sweep_drafts(self._leases.living())
        sql = "SELECT EXISTS (SELECT 1 FROM body WHERE message = ? AND content IS NULL)"
        for slot in slots:
            strays = self._bodies.strays(slot, before)
            self._bodies.remove(
                [message for message in strays if not connection.execute(sql, (message,)).get]
            )
        connection.close()

    def _write_until_closed(self) -> None:
        """Write whatever waits, all in one transaction, until None comes."""
        opened = time.monotonic()
        renew_at, lengthen_at, going = opened + RENEW_S, opened + _SETTLED_S, True
        while going:
            now = time.monotonic()
            if now >= renew_at:
                renew_at = now + RENEW_S
                self._renew()
            if now >= lengthen_at and self._work.empty():
                lengthen_at = now if self._lengthen_log() else math.inf
                continue
            try:
                works = self._work.get(timeout=max(min(renew_at, lengthen_at) - now, 0))
            except Empty:
                continue
            batch: list[Work] = []
            while works is not None:
                batch += works
                if len(batch) >= _MOST_WORKS or self._work.empty():
                    break
                works = self._work.get()
            going = works is not None
            if batch:
                self._write(batch)

    def _write(self, batch: Sequence[Work]) -> None:
        """Write a batch in one transaction and answer; if that fails for a reason of one member's, each in its own."""
        began = time.perf_counter()
        try:
            answers, emptied = self._transact(batch)
        except (apsw.IOError, apsw.BusyError, OSError) as error:
            # A sync may have failed, so nobody may be told that it went well; body files stay until the next sweep.
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the thread
            if len(batch) > 1:
                for work in batch:
                    self._write([work])
                return
            self._bodies.remove([parse_id(path.name) for _draft, path in batch[0].bodies])
            self._fail(batch, error)
        else:
            took_s = time.perf_counter() - began
            self._answer(answers)
            observe.COMMIT_SECONDS.record(took_s)
            if emptied:
                self._remove_bodies(emptied)

    def _remove_bodies(self, messages: list[int]) -> None:
        try:
            self._file_threads.submit(self._bodies.remove, messages)
        except RuntimeError:  # the store is being closed, and these threads have ended
            self._bodies.remove(messages)

    def _transact(self, batch: Sequence[Work]) -> tuple[_Answers, list[int]]:
        """Write a batch; the answers, and the messages whose body files are no longer needed. Raises apsw.Error."""
        if writing.arrive(self._connection, batch):
            return [(work, None) for work in batch], []
        with schema.transaction(self._connection):
            good, answers = self._fence(batch)
            emptied = writing.apply(self._connection, good)
            for work in good:
                if work.call is not None:
                    work.answer = work.call(self._connection)
                answers.append((work, None))
        return answers, emptied

    def _fence(self, batch: Sequence[Work]) -> tuple[Sequence[Work], _Answers]:
        """Keep out works for slots that another worker has taken; the rest, and the answers to those."""
        lost = self._leases.lost(self._connection)
        if lost:
            self._lost = True
            observe.SPOOL_TROUBLE.note(problem=f"slots {sorted(lost)} were taken over by another worker")
            if self._slot in lost:
                self._slot = self._leases.acquire(self._connection)
        if not self._lost:
            return batch, []
        held = self._leases.fences.keys()
        refused = [work for work in batch if not work.slots() <= held]
        failure = trouble(RuntimeError("another worker has taken over the message"))
        return [work for work in batch if work not in refused], [(work, failure) for work in refused]

    def _fail(self, batch: Sequence[Work], error: BaseException) -> None:
        failure = trouble(error)
        observe.SPOOL_TROUBLE.note(problem=str(failure))
        self._answer([(work, failure) for work in batch])

    def _claim(self, connection: apsw.Connection, found: Sequence[Queued]) -> list[Queued]:
        return writing.claim(
            connection, [queued for queued in found if queued.id % SLOTS in self._leases.fences]
        )

    def _release(self, connection: apsw.Connection, pending: Sequence[Pending]) -> None:
        writing.release(connection, [one for one in pending if one.message % SLOTS in self._leases.fences])

    def _adopt(self, connection: apsw.Connection) -> list[int]:
        taken = self._leases.adopt(connection)
        if taken:
            self._file_threads.submit(self._sweep, taken, int(time.time() * 1_000_000) * SLOTS)
        return taken

    def _renew(self) -> None:
        try:
            with schema.transaction(self._connection):
                self._leases.renew(self._connection)
        except apsw.Error as error:
            observe.SPOOL_TROUBLE.note(problem=f"lease not renewed: {error}")

    def _lengthen_log(self) -> bool:
        """Make the log longer while nothing else is to do; whether more of that is wanted."""
        try:
            return schema.lengthen_log(self._connection, self._root / schema.FILE)
        except (apsw.Error, OSError):  # it will grow by and by, then
            return False

    def _answer(self, answers: _Answers) -> None:
        try:
            self._loop.call_soon_threadsafe(self._resolve, answers)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    def _close(self, closing: asyncio.Future[None]) -> None:
        self._reader_thread.shutdown()
        self._file_threads.shutdown()
        self._work.put(None)
        self._writer.join()
        with contextlib.suppress(apsw.Error), schema.transaction(self._connection):
            self._leases.forget(self._connection)
        self._reader.close()
        self._connection.close()
        self._leases.close()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(closing.set_result, None)


def _reading(call: Callable[[], T]) -> Callable[[], T]:
    """The same call, with its errors as the contract has them."""

    def read() -> T:
        try:
            return call()
        except (apsw.Error, OSError) as error:
            raise trouble(error) from error

    return read


def _set_aside(connection: apsw.Connection, damaged: Sequence[tuple[int, str]], at: float) -> None:
    for message, reason in damaged:
        writing.set_aside(connection, message, reason, at)
