"""The durable store on one machine: SQLite, written by one writer that puts all that waits into one transaction.

The writer is in `queue.writer`, where it works in `queue.workplace`, the tables are in `queue.schema`, what is read in
`queue.reader`, body files in `queue.drafts`, who owns which message in `queue.leases`; operators look and act through
`queue.ledger`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import apsw

from pillarbox import observe
from pillarbox.queue import leases, schema, suppressed, writing
from pillarbox.queue.drafts import Bodies, FileDraft, Trouble, describe, trouble
from pillarbox.queue.reader import Reader
from pillarbox.queue.spool import SLOTS, Content, SpoolError, format_id, parse_id
from pillarbox.queue.workplace import InThread
from pillarbox.queue.writer import Writer, on_connection
from pillarbox.queue.writing import Further, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Any, TypeVar

    from pillarbox.mail.route import Route
    from pillarbox.queue.sent import Sent
    from pillarbox.queue.spool import Change, Draft, Entry, Happening, Pending, Queued, Verb
    from pillarbox.queue.suppression import Lesson, Suppressed
    from pillarbox.queue.workplace import InProcess, Workplace
    from pillarbox.queue.writer import News, Result

    T = TypeVar("T")

_FILE_THREADS = 4
_ENOUGH = 10  # turns of the loop without new work, times works: then what came is written
_MOST_TURNS = 16
_GROUP = 16  # works that the writer gets at once, for the loop to be busy with others while these are written
_NO_FENCE = -1  # of a slot that is not held any more
_CLOSED = RuntimeError("the store is closed")


class SqliteSpool:
    """The contract's `Spool` in a folder of the local file system."""

    def __init__(self, root: Path, process: InProcess | None = None) -> None:
        """Open the store in `root`, make it if it is not there; on the loop that will use it.

        Its writer works in `process`, or else in a thread. Raises as `Writer` does.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._loop = asyncio.get_running_loop()
        self._root = root
        self._bodies = Bodies(root)
        began_at = time.time()
        if process is not None:
            process.open(root, self._loop, self._take)
        self._writer: Workplace = process or InThread(root, self._loop, self._take)
        opened = self._writer.opened
        self._slot, self._fences = opened.held
        self._last_id = opened.last_id
        self._reader = Reader(schema.connect(root / schema.FILE), self._bodies)
        self.waiting_octets = 0  # of bodies in memory, until they are written
        self._drafts = 0
        self._closing: asyncio.Task[None] | None = None
        self._fresh: list[Work] = []  # not yet handed over
        self._waiting: deque[Work] = deque()  # handed over
        self._gathering = False  # whether `_gather` is to be called
        self._turns = self._quiet_turns = self._seen = 0
        self._group = 0  # how many works were handed over last
        self._file_threads = ThreadPoolExecutor(_FILE_THREADS, "pillarbox-files")
        self._reader_thread = ThreadPoolExecutor(1, "pillarbox-reader")
        self._file_threads.submit(self._sweep, [self._slot], self.new_id(time.time()))
        self._show_life()
        if opened.vacant:  # whoever takes one of them meanwhile makes younger ids
            self._file_threads.submit(self._sweep, opened.vacant, int(began_at * 1_000_000) * SLOTS)

    def _show_life(self) -> None:
        """Tell the writer that this loop turns, or else it lets the leases run out."""
        self._writer.put([])
        self._shown = self._loop.call_later(leases.RENEW_S / 2, self._show_life)

    @property
    def slots(self) -> frozenset[int]:
        """The slots that this worker holds now."""
        return frozenset(self._fences)

    @property
    def fences(self) -> Mapping[int, int]:
        """Of each of these slots a number that changes when it changes hands."""
        return self._fences

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
        return self._bodies.draft(f"{self._writer.opened.worker}-{self._drafts}")

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
        happenings: Sequence[Happening] = (),
    ) -> asyncio.Future[list[Queued]]:
        """Store outcomes, the reports that they give rise to, what they teach, and what else happened, in one transaction."""
        future = self._loop.create_future()
        work = Work(future)
        work.further = further = Further()
        now = time.time()
        for change in changes:
            further.change(change, now)
        for happening in happenings:
            further.note(happening)
        further.lessons = lessons
        work.answer = [writing.queued(*self._add(work, draft, entry)) for draft, entry in reports]
        self._submit(work)
        return future

    def _add(self, work: Work, draft: Draft, entry: Entry) -> tuple[Entry, Content, Sequence[bool]]:
        message = entry.id
        if draft.file is None:
            content = Content(entry.prefix, draft.inline(), None, draft.octets)
            work.octets += draft.octets
            self.waiting_octets += draft.octets
        else:
            path = self._bodies.path(message)
            content = Content(entry.prefix, None, path, draft.octets)
            work.bodies = (*work.bodies, (draft, path))
        fence = self._fences.get(message & SLOTS - 1, _NO_FENCE)
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
        return self._call(partial(Writer.note, happenings=happenings, lessons=lessons))

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
            await self._call(on_connection(writing.set_aside, damaged=pick.damaged, at=now))
            for message, reason in pick.damaged:
                observe.MESSAGE_DAMAGED.note(message=format_id(message), problem=reason)
        return await self._claim(pick.queued) if pick.queued else []

    async def _claim(self, found: Sequence[Queued]) -> list[Queued]:
        """Claim recipients; the messages with those that could still be claimed."""
        rows = [(queued.id, pending.number) for queued in found for pending in queued.pending]
        claimed = await self._call(partial(Writer.claim, rows=rows))
        for queued in found:
            queued.pending = [one for one in queued.pending if (queued.id, one.number) in claimed]
        return [queued for queued in found if queued.pending]

    def release(self, pending: Sequence[Pending]) -> asyncio.Future[None]:
        """Give recipients back unattempted, each with its `due`."""
        rows = [(one.message, one.number, one.due) for one in pending]
        return self._call(partial(Writer.release, rows=rows))

    def open_messages(self) -> asyncio.Future[int]:
        """About how many messages are in the queue. Takes some 50 ms for a million."""
        return self._read(self._reader.open_messages)

    def check_writable(self) -> asyncio.Future[None]:
        """Write what changes nothing, to see whether the store can be written now."""
        return self._call(on_connection(writing.touch, slot=self._slot, now=time.time()))

    def adopt(self) -> asyncio.Future[list[int]]:
        """Take over the slots of workers that died; the slots."""
        return self._loop.create_task(self._adopt())

    async def _adopt(self) -> list[int]:
        taken = await self._call(Writer.adopt)
        if taken:
            self._file_threads.submit(self._sweep, taken, int(time.time() * 1_000_000) * SLOTS)
        return taken

    def forget_old(self, now: float, counted_from: float) -> asyncio.Future[None]:
        """Drop what has expired from the suppression list, and refusals before `counted_from`."""
        return self._call(on_connection(suppressed.forget_old, now=now, counted_from=counted_from))

    def prune(self, before: float) -> asyncio.Future[int]:
        """Forget some finished messages received before `before`; how many. Call again until it is 0."""
        return self._call(on_connection(writing.prune, before=before))

    def close(self) -> asyncio.Future[None]:
        """Finish what is begun, give the leases back, and close."""
        if self._closing is None:
            if self._fresh:
                self._hand_over()
            self._shown.cancel()
            self._closing = self._loop.create_task(self._close())
        return asyncio.shield(self._closing)  # it goes on even if nobody waits any more

    async def _close(self) -> None:
        closer = ThreadPoolExecutor(1, "pillarbox-closer")
        for end in (self._reader_thread.shutdown, self._file_threads.shutdown):
            await self._loop.run_in_executor(closer, end)
        self._writer.end()
        await self._loop.run_in_executor(closer, self._writer.join)
        self._writer.finish()
        while self._waiting:  # if the writer has died
            self._resolve(self._waiting.popleft(), describe(_CLOSED))
        self._reader.close()
        closer.shutdown(wait=False)

    # How work reaches the writer.

    def _submit(self, work: Work) -> None:
        if self._closing is not None:
            self._resolve(work, describe(_CLOSED))
        elif work.bodies:
            self._file_threads.submit(self._keep_bodies, work)
            work.foretell()
        else:
            fresh = self._fresh
            fresh.append(work)
            if len(fresh) == _GROUP or (self._group == 1 and not self._waiting):
                self._hand_over()
            elif len(fresh) == 1:
                self._turns = self._quiet_turns = self._seen = 0
                if not self._gathering:
                    self._gathering = True
                    self._loop.call_soon(self._gather)

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
        if self._quiet_turns * count >= _ENOUGH or self._turns > _MOST_TURNS:
            self._gathering = False
            self._hand_over()
        else:
            self._loop.call_soon(self._gather)

    def _hand_over(self) -> None:
        fresh = self._fresh
        self._fresh = []
        self._group = len(fresh)
        self._put(fresh)
        for work in fresh:
            work.foretell()

    def _put(self, works: Sequence[Work]) -> None:
        try:
            self._writer.put([(work.arrivals, work.further, work.call) for work in works])
        except Exception as error:  # noqa: BLE001 - a bug: what can't be sent to another process
            for work in works:
                self._resolve(work, describe(error)._replace(unwritten=True))
        else:
            self._waiting += works

    def _take(self, result: Result) -> None:
        """Let everybody have what the writer says."""
        answers, took_s, news = result
        for answer in answers:
            self._resolve(self._waiting.popleft(), answer)
        if news is not None:
            self._take_news(news)
        for seconds in took_s:
            observe.COMMIT_SECONDS.record(seconds)

    def _take_news(self, news: News) -> None:
        for problem in news.problems:
            observe.SPOOL_TROUBLE.note(problem=problem)
        self._slot, self._fences = news.held
        suppressed.tell(news.learnt)
        if news.emptied:
            self._remove_bodies(news.emptied)

    def _resolve(self, work: Work, answer: object) -> None:
        """Give a work's future what became of it."""
        self.waiting_octets -= work.octets
        if answer is None:
            answer = work.answer
        elif isinstance(answer, Trouble):
            if answer.unwritten and work.bodies:
                self._remove_bodies([parse_id(path.name) for _draft, path in work.bodies])
            answer = answer.error()
        future = work.future
        if work.settle is not None:
            try:
                work.settle(future, answer)
            except Exception as error:  # noqa: BLE001 - a bug must not keep the others from their answers
                observe.report_incident(error)
                if not future.done():
                    future.set_exception(error)
        elif future.done():  # the one who waited has gone
            return
        elif isinstance(answer, SpoolError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _call(self, call: Callable[[Writer], T]) -> asyncio.Future[T]:
        """Have the writer make a call in its next transaction."""
        future = self._loop.create_future()
        self._submit(Work(future, call))
        return future

    def _read(self, call: Callable[[], T]) -> asyncio.Future[T]:
        if self._closing is not None:
            future: asyncio.Future[T] = self._loop.create_future()
            future.set_exception(trouble(_CLOSED))
            return future
        return self._loop.run_in_executor(self._reader_thread, _reading(call))

    # What the threads do.

    def _keep_bodies(self, work: Work) -> None:
        """Bring body files home, then have the rows written."""
        try:
            for draft, path in work.bodies:
                draft.keep(path)
        except SpoolError as error:
            self._loop.call_soon_threadsafe(self._resolve, work, error)
        else:
            self._loop.call_soon_threadsafe(self._put, [work])

    def _remove_bodies(self, messages: Sequence[int]) -> None:
        try:
            self._file_threads.submit(self._bodies.remove, messages)
        except RuntimeError:  # the store is being closed, and these threads have ended
            self._bodies.remove(messages)

    def _sweep(self, slots: Sequence[int], before: int) -> None:
        """Remove what dead workers left half done: drafts, and body files below id `before` without a row."""
        connection = schema.connect(self._root / schema.FILE)
        self._bodies.sweep_drafts(leases.living(self._root))
        sql = "SELECT EXISTS (SELECT 1 FROM body WHERE message = ? AND content IS NULL)"
        for slot in slots:
            strays = self._bodies.strays(slot, before)
            self._bodies.remove(
                [message for message in strays if not connection.execute(sql, (message,)).get]
            )
        connection.close()


def _reading(call: Callable[[], T]) -> Callable[[], T]:
    """The same call, with its errors as the contract has them."""

    def read() -> T:
        try:
            return call()
        except (apsw.Error, OSError) as error:
            raise trouble(error) from error

    return read
