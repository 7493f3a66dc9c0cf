"""Deliver what is queued: open lanes, hand them messages, store what became of each recipient.

Who is next is `queue.schedule`'s decision, what a result means `queue.outcome`'s; how a message travels is the
courier's business, and the store's rows are `queue.spool`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import NO_TERMS
from pillarbox.mail.reply import Result
from pillarbox.mail.route import Transport, parse_route
from pillarbox.queue import deadline
from pillarbox.queue.alarms import Alarms
from pillarbox.queue.attempt import Carrier, Courier, local_results
from pillarbox.queue.delay import Delay
from pillarbox.queue.outcome import History, Report, settle
from pillarbox.queue.returned import names_of
from pillarbox.queue.schedule import Destination, QueueSettings, Schedule, inline_octets, left_alone
from pillarbox.queue.spool import SLOTS, Change, Happening, Pending, Queued, SpoolError, State, format_id
from pillarbox.queue.suppression import DISTRUST_S, doubts_sender, is_met_by_others

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.notice import ReportedRecipient
    from pillarbox.mail.route import Route
    from pillarbox.queue.outcome import Verdict
    from pillarbox.queue.spool import Draft, Entry, Spool, Verb
    from pillarbox.queue.suppressing import Suppressions
    from pillarbox.queue.suppression import Lesson

_TICK_S = 1.0
_ADOPT_S = 5.0
_PRUNE_S = 60.0
_TURN = 20  # messages that a lane may deliver while others wait for a lane
_PICK = 500  # recipients claimed at once
_RELEASED_AT_ONCE = 500
_LONGEST_PAUSE_S = 30.0  # between tries to store an outcome


class Manager:
    """The deliveries of one worker. All on one loop."""

    def __init__(  # noqa: PLR0913 - one argument for each part that it works with
        self,
        spool: Spool,
        *,
        settings: QueueSettings,
        suppressions: Suppressions,
        couriers: Callable[[Route], Courier],
        route: Callable[[str], Route | None],
        prepare_report: Callable[[Envelope, bytes, float], tuple[Draft, Entry]],
        revive: Callable[[], None],
        hostname: str,
    ) -> None:
        """`suppressions` is what is known of addresses that are not tried. `route` tells the present way to an address; `prepare_report` makes a report of ours ready to be stored.

        `revive` has the couriers try what they leave alone: an operator wants it tried now.
        """
        self._spool = spool
        self._settings = settings
        self._couriers = couriers
        self._route = route
        self._prepare_report = prepare_report
        self._revive = revive
        self._hostname = hostname
        self._schedule = Schedule(settings)
        self._suppressions = suppressions
        self._alarms = Alarms()
        self._lanes: set[asyncio.Task[None]] = set()
        self._idle: dict[Route, list[asyncio.Future[None]]] = {}
        self._surplus: list[Pending] = []  # claimed, but there is no room for them
        self._fences = spool.fences  # of the slots whose messages are in memory
        self._next_due = 0.0
        self._wake = asyncio.Event()
        self._draining = False
        self._deadlines: list[tuple[float, int]] = []  # a heap, of messages in memory
        self._delay = Delay()
        self._since = time.time()  # what waited before is no measure

    @property
    def busy(self) -> bool:
        """Whether no more deliveries can be begun now."""
        return self._draining or self._schedule.lanes >= self._settings.lanes

    def delay_s(self) -> float:
        """How long mail waits for its turn at present."""
        now = time.time()
        return self._delay.estimate(now, self._schedule.waiting_since(now))

    def offer(self, queued: Queued) -> None:
        """Take a message that was just stored. What finds no room in memory goes back to the store."""
        pending = queued.pending
        terms = queued.envelope.terms
        if terms is not NO_TERMS:
            self._next_due = min(self._next_due, terms.hold_until or math.inf)
            if terms.by is not None:
                heapq.heappush(self._deadlines, (terms.by.at, queued.id))
        if not pending or self._draining:  # closing the store gives back what is claimed
            return
        if self._schedule.is_full:
            self._give_back(pending)
            return
        if len(pending) == 1 or all(one.route == pending[0].route for one in pending):
            self._enqueue(queued)
            return
        by_route: dict[Route, list[Pending]] = {}
        for one in pending:
            by_route.setdefault(one.route, []).append(one)
        for part in by_route.values():
            self._enqueue(Queued(queued.id, queued.envelope, queued.received_at, part, queued.content))

    def reroute(self) -> None:
        """The ways may have changed: what waits for a lane of another one than its own is claimed anew for the right one."""

        def strays(queued: Queued) -> bool:
            return any(
                (self._route(one.recipient.address) or one.route) != one.route for one in queued.pending
            )

        self._give_back(self._schedule.withdraw(strays))
        self._wake.set()

    def _enqueue(self, queued: Queued) -> None:
        destination = self._schedule.add(queued)
        if destination.barred:
            self._give_back(self._schedule.withdraw(lambda one: one is queued))
        elif idle := self._idle.get(destination.route):
            woken = idle.pop()
            if woken.done():  # its time is just over
                self._open_lane(destination)
            else:
                woken.set_result(None)
        else:
            self._open_lane(destination)

    def _give_back(self, pending: list[Pending]) -> None:
        self._surplus += pending
        if len(self._surplus) >= _RELEASED_AT_ONCE:
            self._wake.set()

    # Lanes.

    def _open_lane(self, destination: Destination) -> None:
        if not self._draining and self._schedule.open_lane(destination):
            lane = asyncio.get_running_loop().create_task(self._run_lane(destination))
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _run_lane(self, destination: Destination) -> None:
        """Deliver one message of the destination after another, then wait a while for more."""
        carrier = Carrier(self._couriers, destination.route)
        try:
            turn = 0
            while not self._draining and not (turn >= _TURN and self._schedule.should_yield(destination)):
                turn += 1
                queued = self._schedule.take(destination)
                if queued is not None:
                    await self._handle(queued, destination, carrier)
                elif not await self._linger(destination):
                    break
        finally:
            for other in self._schedule.close_lane(destination):
                self._open_lane(other)
            await carrier.close()

    async def _linger(self, destination: Destination) -> bool:
        """Wait for a message; whether one may have come."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        idle = self._idle.setdefault(destination.route, [])
        idle.append(woken)
        timer = loop.call_later(self._settings.idle_s, woken.cancel)
        try:
            await woken
        except asyncio.CancelledError:
            if woken in idle:
                idle.remove(woken)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return False
        finally:
            timer.cancel()
            if not idle:
                self._idle.pop(destination.route, None)
        return True

    # One message.

    async def _handle(self, queued: Queued, destination: Destination, carrier: Carrier) -> None:
        """Attempt a message and store what became of its recipients."""
        octets, recipients = inline_octets(queued), len(queued.pending)
        began = time.time()
        self._delay.note(began - max(queued.pending[0].due, self._since), began)
        if self._schedule.runs_low(destination):
            self._wake.set()
        try:
            if self._suppressions.may_concern(queued):
                await self._return_suppressed(queued)
            put_off_with = destination.put_off_with
            if not queued.pending:
                return
            if destination.put_off_until > began and put_off_with is not None:
                who = put_off_with.host or destination.route.target
                rest = left_alone(who, put_off_with, destination.put_off_until - began, began)
                await self._settle(queued, {one.number: rest for one in queued.pending})
            elif queued.content is not None or await self._load(queued):
                # Now: nothing may come between a success and its record.
                names = await self._names(queued, destination)
                results = await self._attempt(queued, destination, carrier)
                await self._settle(queued, results, destination, names=names)
                await self._note_remarks(queued, results)
        except Exception as error:  # noqa: BLE001 - a bug may cost a message its turn, but not its place in the queue
            self._set_back(queued, queued.pending, error)
        finally:
            self._schedule.done(recipients, octets)

    def _set_back(self, queued: Queued, pending: list[Pending], error: Exception) -> None:
        """Report a bug, and give recipients back that it kept from their turn."""
        observe.report_incident(error, message=format_id(queued.id))
        for one in pending:
            one.due = time.time() + self._settings.retry.max_s
        self._give_back(pending)

    async def _return_suppressed(self, queued: Queued) -> None:
        """Settle those recipients that are not to be tried; the others stay."""
        refused = await self._suppressions.refuse(queued)
        if refused:
            part = [one for one in queued.pending if one.number in refused]
            queued.pending = [one for one in queued.pending if one.number not in refused]
            await self._settle(
                Queued(queued.id, queued.envelope, queued.received_at, part, queued.content), refused
            )

    async def _attempt(
        self, queued: Queued, destination: Destination, carrier: Carrier
    ) -> Mapping[int, Result]:
        began = time.time()
        try:
            results = await carrier.deliver(queued)
        except asyncio.CancelledError:
            self._abandon(queued)
            raise
        ended = time.time()
        observe.DELIVERY_SECONDS.record(ended - began, destination.route.transport.value)
        self._schedule.learn(destination, results, ended)
        if destination.ready:
            self._open_lane(destination)  # it may be allowed one more now
        return results

    async def _load(self, queued: Queued) -> bool:
        """Read the octets of a message; if they are damaged it is set aside, and False."""
        try:
            queued.content = await self._spool.load(queued.id)
        except SpoolError as error:
            if error.reply.cause is delivery.DAMAGED:
                observe.MESSAGE_DAMAGED.note(message=format_id(queued.id), problem=str(error))
                result = local_results(queued, delivery.DAMAGED, detail=error.reply.text)
                state, due = State.DAMAGED, 0.0
            else:
                result = local_results(queued, delivery.INTERNAL_ERROR, incident=error.reply.text)
                state, due = State.QUEUED, time.time() + self._settings.retry.first_s
            changes = [
                Change(
                    queued.id,
                    one.number,
                    state,
                    due,
                    one.attempts,
                    one.delay_notified,
                    result=result[one.number],
                )
                for one in queued.pending
            ]
            await self._record(queued, changes, ())
            return False
        return True

    def _abandon(self, queued: Queued) -> None:
        """The attempt was broken off by a shutdown: due again at once. Closing the store waits for this."""
        results = local_results(queued, delivery.ABANDONED)
        now = time.time()
        changes = [
            Change(
                queued.id,
                one.number,
                State.QUEUED,
                now,
                one.attempts,
                one.delay_notified,
                None,
                results[one.number],
            )
            for one in queued.pending
        ]
        self._spool.record(changes).add_done_callback(_look_at)

    async def _settle(
        self,
        queued: Queued,
        results: Mapping[int, Result],
        attempted: Destination | None = None,
        *,
        names: tuple[int, ...] = (),
    ) -> None:
        """Decide what follows from results, and store it together with the report that it calls for.

        `attempted` is the destination if a courier had the message. `names` are those by which a bounce may call the message, once it has left.
        """
        now = time.time()
        retry = self._settings.retry
        verdicts = []
        for one in queued.pending:
            history = _history(queued, one)
            verdict = settle(results[one.number], history, retry, now)
            verdicts.append((one, deadline.keep(verdict, history, now)))
        await self._carry_out(queued, verdicts, now, attempted, names)

    async def _carry_out(
        self,
        queued: Queued,
        verdicts: Sequence[tuple[Pending, Verdict]],
        now: float,
        attempted: Destination | None = None,
        names: tuple[int, ...] = (),
    ) -> None:
        """Store what was decided of recipients, together with the report that it calls for.

        `names` are those by which a bounce may call the message.
        """
        changes: list[Change] = []
        told: list[ReportedRecipient] = []
        lessons: list[Lesson] = []
        give_up_at = _begun_at(queued) + self._settings.retry.give_up_s
        for one, verdict in verdicts:
            changes.append(
                Change(
                    queued.id,
                    one.number,
                    verdict.state,
                    verdict.due,
                    one.attempts if attempted is None or verdict.result.untried else one.attempts + 1,
                    verdict.delay_notified,
                    one.route,
                    verdict.result,
                    names if verdict.state is State.DELIVERED else (),
                    verdict.deadline_over,
                )
            )
            if verdict.report is not Report.NONE:
                from pillarbox.queue import reports  # noqa: PLC0415 - it costs start-up time

                told.append(reports.tell(one, verdict, now, give_up_at))
            if verdict.suspend_s and attempted is not None:
                self._schedule.put_off(attempted, verdict.result, now + verdict.suspend_s)
            if attempted is not None:
                if doubts_sender(verdict.diagnosis):
                    self._schedule.distrust(attempted, now + DISTRUST_S)
                lessons += self._suppressions.learn(queued, one, verdict, attempted, now)
            _note(queued, one, verdict)
            if verdict.alarm and self._alarms.is_due(verdict.alarm_key, verdict.alarm_after, now):
                cause = verdict.alarm_key.partition(" ")[0]
                observe.ALARM.note(problem=verdict.alarm, message=format_id(queued.id), cause=cause)
        await self._record(queued, changes, told, lessons)

    async def _note_remarks(self, queued: Queued, results: Mapping[int, Result]) -> None:
        """Keep what hosts said besides when they took a recipient, and what was done with its copy."""
        now = time.time()
        said = [
            Happening(
                queued.id, now, "remarked", number, {"reply": one.remark, "host": one.host, "origin": "peer"}
            )
            for number, one in results.items()
            if one.remark
        ]
        said += [
            Happening(queued.id, now, "remarked", number, {"note": one.note})
            for number, one in results.items()
            if one.note
        ]
        if said:
            with contextlib.suppress(SpoolError):  # what counts is stored already
                await self._spool.note(said)

    async def _names(self, queued: Queued, destination: Destination) -> tuple[int, ...]:
        """The names by which a bounce of this message may call it, if bounces for its sender come here."""
        sender, content = queued.envelope.sender, queued.content
        if content is None or not sender or not is_met_by_others(destination.route.transport):
            return ()
        way = self._route(sender)
        if way is None or is_met_by_others(way.transport):
            return ()
        try:
            return await names_of(queued.envelope, content)
        except OSError:
            return ()  # the attempt will say so

    async def _record(
        self,
        queued: Queued,
        changes: Sequence[Change],
        told: Sequence[ReportedRecipient],
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Store outcomes, and try again until they are stored: what was delivered must not be sent twice."""
        pause_s = _TICK_S
        while True:
            try:
                drafts, said = await self._prepare(queued, told) if told else ([], [])
                queued_reports = await self._spool.record(changes, drafts, lessons, said)
            except SpoolError as error:
                observe.SPOOL_TROUBLE.note(message=format_id(queued.id), problem=str(error))
                if queued.id % SLOTS not in self._spool.slots:
                    return  # another worker has it now
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if lessons:
                    self._suppressions.note(lessons)
                waiting = [change.due for change in changes if change.state is State.QUEUED]
                self._next_due = min([self._next_due, *waiting])  # not before: it would be looked for in vain
                for report in queued_reports:
                    observe.REPORT_QUEUED.note(
                        message=format_id(report.id),
                        kind=told[0].kind.value,
                        cause_message=format_id(queued.id),
                    )
                    self.offer(report)
                return

    async def _prepare(
        self, queued: Queued, told: Sequence[ReportedRecipient]
    ) -> tuple[list[tuple[Draft, Entry]], list[Happening]]:
        """The report, ready to be stored, none if there is no way to its recipient; and what the histories say of it."""
        from pillarbox.queue import reports  # noqa: PLC0415 - as above

        if queued.content is None:
            with contextlib.suppress(SpoolError):  # then it tells of the message without showing it
                queued.content = await self._spool.load(queued.id)
        now = time.time()
        envelope, octets = await reports.write(queued, told, queued.content, hostname=self._hostname, now=now)
        draft, entry = self._prepare_report(envelope, octets, now)
        if entry.routes:
            return [(draft, entry)], reports.made(queued, told, entry.id, now)
        draft.discard()
        observe.ALARM.note(
            problem=f"no way to report to <{queued.envelope.sender}>", message=format_id(queued.id)
        )
        return [], reports.not_made(queued, told, now)

    # The store, and what others do to it.

    async def run(self) -> None:
        """Claim what is due from the store, and follow operators and other workers; until cancelled."""
        adopt_at = prune_at = 0.0
        while True:
            wait_s = _TICK_S
            try:
                self._forget_lost()
                self._withdraw_overdue()
                self._follow_verbs(await self._spool.verbs())
                await self._return_surplus()
                await self._suppressions.load()  # behind the verbs, so that no change is missed
                if (clock := time.monotonic()) >= adopt_at:
                    adopt_at = clock + _ADOPT_S
                    await self._adopt()
                if clock >= prune_at:
                    prune_at = clock + _PRUNE_S
                    self._schedule.forget(time.time())
                    await self._suppressions.forget_old(time.time())
                    while await self._spool.prune(time.time() - self._settings.history_s):
                        pass
                wait_s = await self._claim()
            except SpoolError as error:
                observe.SPOOL_TROUBLE.note(problem=str(error))
                self._next_due = 0.0
            except Exception as error:  # noqa: BLE001 - a bug here must not stop all deliveries
                observe.report_incident(error)
                self._next_due = 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()

    def _withdraw_overdue(self) -> None:
        """Messages that wait in memory while their deadline passes: claimed again, they meet what it asks for."""
        late: set[int] = set()
        while self._deadlines and self._deadlines[0][0] <= time.time():
            late.add(heapq.heappop(self._deadlines)[1])
        if late:
            self._surplus += self._schedule.withdraw(lambda queued: queued.id in late)

    async def _return_surplus(self) -> None:
        """Give back what there is no room for; what the store does not take now stays to be given back later."""
        if self._surplus:
            surplus, self._surplus = self._surplus, []
            self._next_due = min(self._next_due, *(one.due for one in surplus))
            try:
                await self._spool.release(surplus)
            except BaseException:
                self._surplus += surplus
                raise

    def _forget_lost(self) -> None:
        """Let go of what other workers have taken over, even if it is ours again: it is claimed again as it is now."""
        held, self._fences = self._fences, self._spool.fences
        if held != self._fences:
            lost = {slot for slot, fence in held.items() if self._fences.get(slot) != fence}
            self._surplus += self._schedule.withdraw(lambda queued: queued.id % SLOTS in lost)

    async def _adopt(self) -> None:
        """Take over what dead workers left."""
        adopted = await self._spool.adopt()
        if adopted:
            observe.WORKER_LOST.note(worker=adopted, reason="its lease ran out; its mail is delivered here")
            self._next_due = 0.0

    async def _claim(self) -> float:
        """Bring what is due into memory, as far as there is room; in how many seconds to look again at the latest."""
        while not self._draining:
            now = time.time()
            if now < self._next_due:
                return min(self._next_due - now, _TICK_S)
            if not self._schedule.has_room:
                break
            self._next_due = math.inf  # others may lower it while this waits
            claimed = await self._spool.due(now, _PICK, self._schedule.full())
            if claimed:
                self._next_due = 0.0
                for queued in claimed:
                    await self._begin(queued)
                continue
            next_due = await self._spool.next_due()
            self._next_due = min(self._next_due, math.inf if next_due is None else next_due)
            if self._next_due <= now:  # it belongs to destinations that have enough in memory
                break
        return _TICK_S

    async def _begin(self, queued: Queued) -> None:
        """Send a claimed message on its way."""
        claimed = queued.pending
        try:
            await self._find_way(queued)
        except Exception as error:  # noqa: BLE001 - as in `_handle`
            self._set_back(queued, claimed, error)

    async def _find_way(self, queued: Queued) -> None:
        """Do with a claimed message what is to be done, which may have changed since it was received."""
        bounced = [one for one in queued.pending if one.bounce]
        queued.pending = [one for one in queued.pending if not one.bounce]
        if queued.envelope.terms.by is not None:
            await self._meet_deadline(queued)
        for one in queued.pending:
            one.route = self._route(one.recipient.address) or one.route
        held = [one for one in queued.pending if one.route.transport is Transport.HOLD]
        queued.pending = [one for one in queued.pending if one.route.transport is not Transport.HOLD]
        if held:
            changes = [
                Change(
                    queued.id, one.number, State.HELD, one.due, one.attempts, one.delay_notified, one.route
                )
                for one in held
            ]
            await self._record(queued, changes, ())
        if bounced:
            part = Queued(queued.id, queued.envelope, queued.received_at, bounced, queued.content)
            results = local_results(part, delivery.BOUNCED_BY_OPERATOR)
            await self._settle(part, results)
        self.offer(queued)

    async def _meet_deadline(self, queued: Queued) -> None:
        """Do what the deadline of a message asks for, if it is over; those that are done with it no longer wait."""
        now = time.time()
        met = [
            (one, verdict)
            for one in queued.pending
            if (verdict := deadline.overdue(_history(queued, one), now, one.due)) is not None
        ]
        if met:
            done = {one.number for one, _ in met}
            part = Queued(
                queued.id, queued.envelope, queued.received_at, [one for one, _ in met], queued.content
            )
            queued.pending = [one for one in queued.pending if one.number not in done]
            await self._carry_out(part, met, now)

    def _follow_verbs(self, verbs: Sequence[Verb]) -> None:
        """Let go of what operators changed in the store; what is due of it is claimed again as it is now."""
        for verb in verbs:
            if self._suppressions.follow(verb):
                continue
            self._next_due = 0.0
            if verb.verb in ("suspend", "resume"):
                self._schedule.find(parse_route(verb.destination)).barred = verb.verb == "suspend"
            elif verb.verb == "retry":
                self._schedule.revive()
                self._revive()
            self._surplus += self._schedule.withdraw(partial(_is_meant, verb))

    async def drain(self, limit_s: float) -> None:
        """Begin no more attempts; those that run may finish within `limit_s`, then they are broken off."""
        self._draining = True
        for idle in self._idle.values():
            for woken in idle:
                woken.cancel()
        if self._lanes:
            _done, late = await asyncio.wait(self._lanes, timeout=limit_s)
            for lane in late:
                lane.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _is_meant(verb: Verb, queued: Queued) -> bool:
    """Whether an operator's verb is about this message."""
    if verb.message is not None:
        return queued.id == verb.message
    return str(queued.pending[0].route) == verb.destination


def _begun_at(queued: Queued) -> float:
    """From when a message was on its way: not while it was held at its sender's wish (RFC 4865)."""
    return max(queued.received_at, queued.envelope.terms.hold_until)


def _history(queued: Queued, one: Pending) -> History:
    """What came before, of one recipient."""
    return History(
        one.attempts,
        _begun_at(queued),
        one.delay_notified,
        queued.envelope.sender,
        one.recipient.notify,
        queued.envelope.terms.by,
    )


def _look_at(done: asyncio.Future[list[Queued]]) -> None:
    """Take note of a failed future that nobody waits for."""
    if not done.cancelled() and (error := done.exception()) is not None:
        observe.SPOOL_TROUBLE.note(problem=str(error))


def _note(queued: Queued, pending: Pending, verdict: Verdict) -> None:
    """Log what became of a recipient."""
    result = verdict.result
    facts = {
        "message": format_id(queued.id),
        "recipient": pending.recipient.address,
        "transport": pending.route.transport.value,
        "host": result.host,
        "stage": result.stage.value,
        "reply": str(result.reply),
        "cause": verdict.cause_id,
    }
    if verdict.state is State.DELIVERED:
        observe.DELIVERY_OK.note(**facts)
    elif verdict.maybe_duplicate:
        observe.DELIVERY_IN_DOUBT.note(**facts)
    elif verdict.state is State.QUEUED:
        observe.DELIVERY_DEFERRED.note(**facts, due=observe.moment(verdict.due))
    else:
        observe.DELIVERY_FAILED.note(**facts)
