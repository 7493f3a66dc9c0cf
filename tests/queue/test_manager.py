from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter

import apsw
import pytest
from msgspec.structs import replace

from pillarbox import observe
from pillarbox.mail.catalogue import content, delivery
from pillarbox.mail.reply import Origin, Result, Stage, parse_reply
from pillarbox.mail.route import Route, Transport
from pillarbox.queue import schema
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.manager import Manager
from pillarbox.queue.schedule import QueueSettings, RetrySettings, left_alone
from pillarbox.queue.spool import Entry, SpoolError, State, Trace, format_id
from pillarbox.queue.suppressing import Suppressions
from pillarbox.queue.suppression import SuppressionSettings

OK = Result(delivery.DELIVERED.reply(detail="ok"), Stage.BODY, Origin.PEER, "host.example")
BUSY = Result(delivery.TIMEOUT.reply(host="h", detail="RCPT"), Stage.RCPT, Origin.LOCAL, "h")
NO_HOST = Result(delivery.CONNECT_FAILED.reply(host="h", detail="refused"), Stage.CONNECT, Origin.LOCAL, "h")
BLOCKED = Result(parse_reply([b"554 5.7.1 blocked using dnsbl.test"]), Stage.RCPT, Origin.PEER, "h")
NEVER = Result(delivery.NO_DOMAIN.reply(domain="example.net"), Stage.DNS, Origin.LOCAL)


class Couriers:
    """Couriers that answer what `plan` says: results by domain, or a function of the message."""

    def __init__(self):
        self.plan = {}
        self.delivered = []
        self.running = {}
        self.most = {}
        self.open = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def __call__(self, route):
        return ScriptedCourier(self, route)


class ScriptedCourier:
    def __init__(self, owner, route):
        if route.target == "unreadable.example":
            raise ValueError("no such target")
        self.owner = owner
        self.route = route
        owner.open += 1

    async def deliver(self, queued):
        owner, name = self.owner, self.route.target
        owner.running[name] = owner.running.get(name, 0) + 1
        owner.most[name] = max(owner.most.get(name, 0), owner.running[name])
        try:
            await owner.gate.wait()
        finally:
            owner.running[name] -= 1
        planned = owner.plan.get(name, OK)
        if isinstance(planned, Exception):
            raise planned
        if isinstance(planned, list):
            planned = planned.pop(0) if len(planned) > 1 else planned[0]
        assert queued.content is not None
        owner.delivered.append((name, b"".join(queued.content.chunks())))
        return {one.number: planned for one in queued.pending}

    async def close(self):
        self.owner.open -= 1


@pytest.fixture
def couriers():
    return Couriers()


@pytest.fixture
def routes():
    """Ways that changed since the mail was received, by address."""
    return {}


class Desk:
    """A manager at work, and the means to look at what it did."""

    def __init__(self, manager, spool, store, ledger):
        self.manager, self.spool, self.store, self.ledger = manager, spool, store, ledger

    async def receive(self, *domains, **options):
        queued = await self.store(*domains, **options)
        self.manager.offer(queued)
        return queued.id

    async def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            await asyncio.sleep(0.005)

    def states(self, message):
        return [one.state for one in self.ledger.show(message).recipients]

    async def suspend(self, verb):
        """Give an operator's verb for example.net and wait until the manager follows it."""
        self.ledger.apply_verb(verb, destination="mx:example.net")
        route = Route(Transport.MX, "example.net")
        await self.until(lambda: (route in self.manager._schedule.full()) is (verb == "suspend"))

    async def settled(self, message, *states):
        await self.until(lambda: self.states(message) == list(states))


@pytest.fixture
def settings():
    return {}


@pytest.fixture
def ways():
    """The ways of reports: by MX, or none."""
    return lambda address: (Route(Transport.MX, address.rpartition("@")[2]),)


@pytest.fixture
async def desk(spool, store, couriers, routes, settings, ways, tmp_path):
    def prepare_report(envelope, octets, now):
        draft = spool.draft()
        draft.write(octets)
        found = ways(envelope.recipients[0].address)
        return draft, Entry(spool.new_id(now), envelope, found, now, b"", Trace(client="local"))

    manager = Manager(
        spool,
        settings=QueueSettings(**{"idle_s": 0.05, **settings}),
        suppressions=Suppressions(spool, SuppressionSettings()),
        couriers=couriers,
        route=routes.get,
        prepare_report=prepare_report,
        revive=lambda: None,
        hostname="mx.example",
    )
    running = asyncio.create_task(manager.run())
    with Ledger(tmp_path) as ledger:
        yield Desk(manager, spool, store, ledger)
    await manager.drain(1)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_message_is_delivered_at_once(desk, couriers):
    message = await desk.receive()
    await desk.settled(message, State.DELIVERED)
    assert couriers.delivered == [("example.net", b"Received: x\r\nSubject: hi\r\n\r\nbody\r\n")]
    history = desk.ledger.history(message)
    assert [(one.kind, one.detail.get("host")) for one in history] == [
        ("received", None),
        ("delivered", "host.example"),
    ]


async def test_each_destination_gets_its_own_attempt(desk, couriers):
    message = await desk.receive("a.example", "b.example", "a.example")
    await desk.settled(message, *[State.DELIVERED] * 3)
    assert sorted(name for name, _ in couriers.delivered) == ["a.example", "b.example"]


async def test_a_large_message_is_handed_over_as_a_file(desk, couriers):
    message = await desk.receive(body=b"x" * 200_000)
    await desk.settled(message, State.DELIVERED)
    assert len(couriers.delivered[0][1]) == 200_013


async def test_an_idle_lane_keeps_its_courier_for_a_while_and_then_closes_it(desk, couriers):
    await desk.settled(await desk.receive(), State.DELIVERED)
    assert couriers.open == 1
    await desk.until(lambda: couriers.open == 0)


@pytest.mark.parametrize("settings", [{"retry": RetrySettings(first_s=0.05)}])
async def test_a_deferred_message_is_tried_again(desk, couriers):
    couriers.plan["example.net"] = [BUSY, BUSY, OK]
    message = await desk.receive()
    await desk.settled(message, State.DELIVERED)
    assert [one.kind for one in desk.ledger.history(message)] == [
        "received",
        "deferred",
        "deferred",
        "delivered",
    ]
    assert len(couriers.delivered) == 3


@pytest.mark.parametrize("settings", [{"retry": RetrySettings(first_s=0.01)}])
async def test_a_message_is_tried_again_even_if_its_time_comes_before_its_outcome_is_stored(desk, couriers):
    couriers.plan["example.net"] = [BUSY, OK]
    record = desk.spool.record

    async def record_late(*what):
        await desk.until(lambda: desk.manager._next_due == math.inf)  # nothing was found that is due
        return await record(*what)

    desk.spool.record = record_late
    message = await desk.receive()
    await desk.settled(message, State.DELIVERED)


async def test_a_failure_is_reported_to_the_sender_in_the_same_step(desk, couriers):
    couriers.plan["example.net"] = NEVER
    message = await desk.receive()
    await desk.settled(message, State.FAILED)
    await desk.until(lambda: couriers.delivered and couriers.delivered[-1][0] == "example.org")
    report = couriers.delivered[-1][1]
    assert b"report-type=delivery-status" in report
    assert b"user0@example.net" in report
    last = desk.ledger.history(message)[-1]
    await desk.until(lambda: desk.ledger.list_messages(states=[State.DELIVERED]))
    (made,) = [one.id for one in desk.ledger.list_messages(states=[State.DELIVERED])]
    assert (last.kind, last.detail["report"]) == ("reported", format_id(made))
    assert format_id(made) in last.detail["note"]
    about = desk.ledger.history(made)[1]
    assert (about.kind, about.detail["about"]) == ("reports", format_id(message))


@pytest.mark.parametrize("ways", [lambda _address: ()])
async def test_the_history_says_when_a_sender_cannot_be_told(desk, couriers):
    couriers.plan["example.net"] = NEVER
    message = await desk.receive()
    await desk.settled(message, State.FAILED)
    last = desk.ledger.history(message)[-1]
    assert last.kind == "unreported"
    assert "<from@example.org>" in last.detail["note"]


async def test_a_report_that_fails_is_not_reported(desk, couriers):
    couriers.plan["example.net"] = NEVER
    message = await desk.receive(sender="")
    await desk.settled(message, State.FAILED)
    await asyncio.sleep(0.05)
    assert [name for name, _ in couriers.delivered] == ["example.net"]


@pytest.mark.parametrize("settings", [{"retry": RetrySettings(give_up_s=0.0)}])
async def test_what_is_too_old_is_given_up(desk, couriers):
    couriers.plan["example.net"] = BUSY
    await desk.settled(await desk.receive(), State.FAILED)


async def test_a_bug_in_a_courier_costs_no_lane_and_no_message(desk, couriers):
    couriers.plan["example.net"] = ZeroDivisionError("bug")
    message = await desk.receive()
    await desk.until(lambda: desk.ledger.history(message)[-1].kind == "deferred")
    assert desk.ledger.history(message)[-1].detail["cause"] == "delivery.internal_error"
    del couriers.plan["example.net"]
    await desk.settled(await desk.receive(), State.DELIVERED)


async def test_a_route_that_cannot_be_read_defers(desk):
    message = await desk.receive("unreadable.example")
    await desk.until(lambda: desk.ledger.history(message)[-1].kind == "deferred")


@pytest.mark.parametrize("settings", [{"first_lanes": 2, "destination_lanes": 3}])
async def test_a_destination_has_no_more_lanes_than_allowed(desk, couriers):
    couriers.gate.clear()
    messages = [await desk.receive() for _ in range(20)]
    await desk.until(lambda: couriers.running.get("example.net") == 2)
    couriers.gate.set()
    for message in messages:
        await desk.settled(message, State.DELIVERED)
    assert 2 <= couriers.most["example.net"] <= 3


@pytest.mark.parametrize("settings", [{"lanes": 2}])
async def test_a_stuck_destination_does_not_stop_the_others(desk, couriers):
    for number in range(10):
        await desk.receive(f"d{number}.example")
    await desk.until(lambda: len(couriers.delivered) == 10)


@pytest.mark.parametrize("settings", [{"active_recipients": 4}])
async def test_what_has_no_room_in_memory_is_delivered_from_the_store(desk, couriers):
    couriers.gate.clear()
    messages = [await desk.receive() for _ in range(30)]
    couriers.gate.set()
    for message in messages:
        await desk.settled(message, State.DELIVERED)
    assert len(couriers.delivered) == 30


@pytest.mark.parametrize("settings", [{"active_octets": 10}])
async def test_bodies_beyond_the_budget_are_read_again(desk, couriers):
    messages = [await desk.receive() for _ in range(5)]
    for message in messages:
        await desk.settled(message, State.DELIVERED)


@pytest.mark.parametrize("settings", [{"unreachable_after": 2, "first_lanes": 1}])
async def test_mail_for_an_unreachable_destination_is_put_off_without_attempts(desk, couriers):
    couriers.plan["example.net"] = NO_HOST
    messages = [await desk.receive() for _ in range(10)]
    for message in messages:
        await desk.until(lambda m=message: desk.ledger.history(m)[-1].kind == "deferred")
    assert len(couriers.delivered) == 2
    last = desk.ledger.history(messages[-1])[-1].detail
    assert last["cause"] == "delivery.left_alone"
    assert last["reply"].endswith("; the last try: 451 4.4.1 Connecting to h failed: refused")
    assert (last["origin"], last["attempts"]) == ("local", 0)


async def test_a_courier_that_left_its_hosts_alone_made_no_attempt(desk, couriers):
    busy = Result(parse_reply([b"421 busy"]), Stage.GREETING, Origin.PEER, "h")
    couriers.plan["example.net"] = left_alone("h", busy, 900.0, time.time())
    message = await desk.receive()
    await desk.until(lambda: desk.ledger.history(message)[-1].kind == "deferred")
    (one,) = desk.ledger.show(message).recipients
    assert (one.state, one.attempts) == (State.QUEUED, 0)
    assert one.due > time.time() + 890
    again = await desk.receive()
    await desk.until(lambda: desk.ledger.history(again)[-1].kind == "deferred")
    assert len(couriers.delivered) == 2  # it says nothing of other messages' ways


async def test_the_history_names_each_host_that_was_tried(desk, couriers):
    others = tuple(
        Result(parse_reply([f"421 {name}".encode()]), Stage.GREETING, Origin.PEER, name) for name in "ab"
    )
    couriers.plan["example.net"] = replace(OK, others=others)
    message = await desk.receive()
    await desk.settled(message, State.DELIVERED)
    told = [(one.kind, one.detail["host"], one.detail["reply"]) for one in desk.ledger.history(message)[1:]]
    assert told == [
        ("tried", "a", "421 a"),
        ("tried", "b", "421 b"),
        ("delivered", "host.example", "250 2.0.0 ok"),
    ]


@pytest.mark.parametrize("settings", [{"retry": RetrySettings(first_s=0.02, max_s=0.05), "first_lanes": 1}])
async def test_mail_that_was_put_off_is_not_given_up_untried_and_waits_until_it_may_be_tried(desk, couriers):
    couriers.plan["example.net"] = BLOCKED
    first = await desk.receive()
    await desk.until(lambda: desk.ledger.history(first)[-1].kind == "deferred")
    others = [await desk.receive() for _ in range(3)]
    for message in others:
        await desk.until(lambda m=message: desk.ledger.history(m)[-1].kind == "deferred")
        (one,) = desk.ledger.show(message).recipients
        assert (one.state, one.attempts) == (State.QUEUED, 0)
        assert one.due > time.time() + 7000  # the two hours that such an answer asks for
    assert len(couriers.delivered) == 1


async def test_an_operator_hears_once_of_what_many_messages_have(desk, couriers, monkeypatch):
    told = []
    monkeypatch.setattr(observe.ALARM, "note", lambda **facts: told.append(facts["cause"]))
    couriers.plan = {f"{name}.example": BLOCKED for name in "abc"}
    for name in "abc":
        message = await desk.receive(f"{name}.example")
        await desk.until(lambda m=message: desk.ledger.history(m)[-1].kind == "deferred")
    assert told == ["client.blocklisted"]


async def test_what_a_host_remarks_stands_in_the_history(desk, couriers):
    couriers.plan["example.net"] = replace(OK, remark="251 will forward to <new@y.test>")
    message = await desk.receive()
    await desk.until(lambda: desk.ledger.history(message)[-1].kind == "remarked")
    assert desk.ledger.history(message)[-1].detail["reply"] == "251 will forward to <new@y.test>"


async def test_mail_left_from_before_is_delivered(desk, couriers):
    queued = await desk.store.waiting()
    await desk.settled(queued.id, State.DELIVERED)


async def test_mail_follows_a_route_that_changed(desk, couriers, routes):
    routes["user0@example.net"] = Route(Transport.SMTP, "//new.example")
    queued = await desk.store.waiting()
    await desk.settled(queued.id, State.DELIVERED)
    assert couriers.delivered[0][0] == "//new.example"


async def test_mail_whose_route_became_hold_is_held(desk, routes):
    routes["user0@example.net"] = Route(Transport.HOLD)
    queued = await desk.store.waiting()
    await desk.settled(queued.id, State.HELD)


async def test_a_body_file_that_is_gone_sets_the_message_aside(desk, couriers):
    couriers.gate.clear()
    await desk.receive()
    queued = await desk.store(body=b"x" * 100_000)
    queued.content.path.unlink()
    queued.content = None
    desk.manager.offer(queued)
    couriers.gate.set()
    await desk.settled(queued.id, State.DAMAGED)


# Operators.


async def test_hold_takes_a_message_out_and_release_brings_it_back(desk, couriers):
    await desk.suspend("suspend")
    message = await desk.receive()
    desk.ledger.apply_verb("hold", message=message)
    await desk.suspend("resume")
    assert desk.states(message) == [State.HELD]
    desk.ledger.apply_verb("release", message=message)
    await desk.settled(message, State.DELIVERED)


async def test_a_suspended_destination_gets_nothing_until_it_is_resumed(desk, couriers):
    await desk.suspend("suspend")
    message, other = await desk.receive(), await desk.receive("b.example")
    await desk.settled(other, State.DELIVERED)
    assert desk.states(message) == [State.QUEUED]
    desk.ledger.apply_verb("resume", destination="mx:example.net")
    await desk.settled(message, State.DELIVERED)


async def test_what_cannot_be_given_back_now_is_given_back_later(desk, couriers, monkeypatch):
    await desk.suspend("suspend")
    failed = []

    def fail(pending):
        failed.append(pending)
        monkeypatch.undo()
        future = asyncio.get_running_loop().create_future()
        future.set_exception(SpoolError(content.WRITE_FAILED.reply(incident="1"), "disk I/O error"))
        return future

    monkeypatch.setattr(desk.spool, "release", fail)
    message = await desk.receive()
    await desk.until(lambda: failed)
    desk.ledger.apply_verb("resume", destination="mx:example.net")
    await desk.settled(message, State.DELIVERED)


async def test_a_slot_that_was_lost_and_won_back_sends_nothing_that_waited_twice(desk, couriers, tmp_path):
    couriers.gate.clear()
    messages = [await desk.receive(body=b"%d" % number) for number in range(30)]
    await desk.until(lambda: couriers.running)
    begun = couriers.running["example.net"]
    with contextlib.closing(apsw.Connection(str(tmp_path / schema.FILE))) as connection:
        connection.set_busy_timeout(5000)
        connection.execute("UPDATE lease SET worker = 'dead', fence = fence + 1")
        connection.execute("UPDATE recipient SET claimed = 0")
    held = desk.spool.fences
    with pytest.raises(SpoolError):
        await desk.receive("b.example")  # it learns by this that the slot was taken
    assert desk.spool.fences != held
    assert desk.spool.fences.keys() == held.keys()
    await desk.until(lambda: desk.manager._fences == desk.spool.fences)
    couriers.gate.set()
    await desk.until(lambda: all(desk.states(message) == [State.DELIVERED] for message in messages))
    sent = Counter(body for _domain, body in couriers.delivered)
    assert len(sent) == 30
    assert sent.total() <= 30 + begun


@pytest.mark.parametrize("settings", [{"lanes": 1}])
async def test_what_waits_for_a_lane_takes_another_way_as_soon_as_there_is_one(desk, couriers, routes):
    couriers.gate.clear()
    under_way = await desk.receive()
    await desk.until(lambda: couriers.running)
    waiting, other = await desk.receive(), await desk.receive("b.example")
    routes["user0@example.net"] = Route(Transport.MX, "new.example")
    desk.manager.reroute()
    couriers.gate.set()
    for message in (under_way, waiting, other):
        await desk.settled(message, State.DELIVERED)
    assert sorted(name for name, _ in couriers.delivered) == ["b.example", "example.net", "new.example"]


async def test_bounce_returns_a_message_to_its_sender(desk, couriers):
    couriers.plan["example.net"] = BUSY
    message = await desk.receive()
    await desk.until(lambda: desk.ledger.history(message)[-1].kind == "deferred")
    desk.ledger.apply_verb("bounce", message=message)
    await desk.settled(message, State.FAILED)
    await desk.until(lambda: couriers.delivered[-1][0] == "example.org")
    assert len(couriers.delivered) == 2


async def test_retry_does_not_wait(desk, couriers):
    couriers.plan["example.net"] = [NO_HOST, OK]
    message = await desk.receive()
    await desk.until(lambda: desk.ledger.history(message)[-1].kind == "deferred")
    desk.ledger.apply_verb("retry", message=message)
    await desk.settled(message, State.DELIVERED)


# Stopping.


async def test_drain_waits_for_running_attempts(desk, couriers):
    couriers.gate.clear()
    message = await desk.receive()
    await desk.until(lambda: couriers.running.get("example.net") == 1)
    draining = asyncio.create_task(desk.manager.drain(10))
    await asyncio.sleep(0)
    couriers.gate.set()
    await draining
    assert desk.states(message) == [State.DELIVERED]


async def test_drain_releases_what_takes_too_long(desk, couriers, engine, tmp_path):
    couriers.gate.clear()
    message = await desk.receive()
    await desk.until(lambda: couriers.running.get("example.net") == 1)
    await desk.manager.drain(0.01)
    late = await desk.receive()
    await desk.spool.close()
    assert desk.ledger.history(message)[-1].detail["cause"] == "delivery.abandoned"
    again = engine(tmp_path)
    assert {one.id for one in await again.due(time.time() + 1, 9, ())} == {message, late}
    await again.close()
