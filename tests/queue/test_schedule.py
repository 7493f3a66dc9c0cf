from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.reply import Origin, Result, Stage, parse_reply
from pillarbox.mail.route import Route, Transport
from pillarbox.queue.schedule import QueueSettings, RetrySettings, Schedule, retry_delay_s
from pillarbox.queue.spool import Content, Pending, Queued

ENVELOPE = Envelope("a@example.org", (Recipient("b@example.net"),))
UNREACHABLE = {
    0: Result(delivery.CONNECT_FAILED.reply(host="h", detail="x"), Stage.CONNECT, Origin.LOCAL, "h")
}
FINE = {0: Result(delivery.DELIVERED.reply(detail="ok"), Stage.BODY, Origin.PEER, "h")}


def message(number, domain="example.net", octets=10):
    pending = Pending(number, 0, ENVELOPE.recipients[0], Route(Transport.MX, domain), 0.0)
    return Queued(number, ENVELOPE, 0.0, [pending], Content(b"", b"x" * octets, None, octets))


def schedule(**settings):
    return Schedule(QueueSettings(**settings))


def fill(plan, count, domain="example.net"):
    """Add so many messages for one destination; the destination."""
    for number in range(count):
        plan.add(message(number, domain))
    return plan.find(Route(Transport.MX, domain))


@given(st.integers(1, 10_000), st.floats(1, 10_000), st.floats(1, 100_000), st.floats(1, 10))
def test_waits_grow_up_to_the_longest(attempts, first_s, max_s, factor):
    retry = RetrySettings(first_s=first_s, max_s=max_s, factor=factor)
    waits = [retry_delay_s(attempts, retry), retry_delay_s(attempts + 1, retry)]
    assert waits == sorted(waits)
    assert min(first_s, max_s) <= waits[0] <= max_s


def test_the_default_waits():
    waits = [retry_delay_s(attempts, RetrySettings()) for attempts in range(1, 9)]
    assert waits == [300, 600, 1200, 2400, 4800, 9600, 14400, 14400]


def test_messages_of_a_destination_leave_in_order():
    plan = schedule()
    destination = fill(plan, 5)
    assert [plan.take(destination).id for _ in range(5)] == [0, 1, 2, 3, 4]
    assert plan.take(destination) is None


def test_a_destination_has_no_more_lanes_than_allowed():
    plan = schedule(first_lanes=2, destination_lanes=3)
    destination = fill(plan, 9)
    assert [plan.open_lane(destination) for _ in range(3)] == [True, True, False]
    plan.learn(destination, FINE, 0.0)
    plan.learn(destination, FINE, 0.0)
    assert [plan.open_lane(destination) for _ in range(2)] == [True, False]


def test_with_all_lanes_in_use_destinations_take_turns():
    plan = schedule(lanes=2)
    busy = fill(plan, 9, "busy.example")
    assert [plan.open_lane(busy), plan.open_lane(busy), plan.open_lane(busy)] == [True, True, False]
    waiting = [plan.add(message(number, f"{number}.example")) for number in range(3)]
    assert [plan.open_lane(one) for one in waiting] == [False, False, False]
    order = []
    for _ in range(4):
        first, *_others = plan.close_lane(busy if not order else order[-1])
        assert plan.open_lane(first) or first is busy
        order.append(first)
        if first is not busy:
            plan.take(first)
    assert [one.route.target for one in order] == ["busy.example", "0.example", "1.example", "2.example"]


def test_a_destination_without_anything_to_do_is_forgotten():
    plan = schedule()
    destination = plan.add(message(1))
    plan.open_lane(destination)
    plan.take(destination)
    plan.done(1, 10)
    plan.close_lane(destination)
    assert plan.find(destination.route) is not destination
    assert (plan.recipients, plan.octets, plan.lanes) == (0, 0, 0)


def test_what_was_learned_about_a_destination_without_mail_is_forgotten_in_time():
    plan = schedule(unreachable_s=300)
    found = [plan.find(Route(Transport.MX, f"{number}.example")) for number in range(5)]
    failing, busy, barred, put_off, _idle = found
    plan.learn(failing, UNREACHABLE, 0.0)
    plan.put_off(put_off, UNREACHABLE[0], 7200.0)
    plan.add(message(1, "1.example"))
    barred.barred = True
    for now, kept in ((299.0, [failing, busy, barred, put_off]), (300.0, [busy, barred, put_off])):
        plan.forget(now)
        assert list(plan._destinations.values()) == kept


def test_what_cannot_be_reached_is_put_off_and_has_fewer_lanes():
    plan = schedule(first_lanes=8, unreachable_after=3, unreachable_s=300)
    destination = plan.add(message(1))
    for expected in (4, 2, 1):
        assert destination.put_off_until == 0.0
        plan.learn(destination, UNREACHABLE, 1000.0)
        assert destination.limit == expected
    assert destination.put_off_until == 1300.0
    assert destination.put_off_with == UNREACHABLE[0]
    plan.learn(destination, FINE, 1300.0)
    assert (destination.put_off_until, destination.failures) == (0.0, 0)


@pytest.mark.parametrize(
    ("stage", "wire", "rest"),
    [
        (Stage.DNS, b"451 4.4.3 no answer", True),
        (Stage.CONNECT, b"451 4.4.1 refused", True),
        (Stage.GREETING, b"450 not now", True),
        (Stage.GREETING, b"554 not you", False),
        (Stage.MAIL, b"421 4.7.0 slow down", True),
        (Stage.BODY, b"421 bye", True),
        (Stage.RCPT, b"452 4.3.1 no space", True),
        (Stage.RCPT, b"452 4.2.2 mailbox full", False),
        (Stage.RCPT, b"452 4.5.3 too many", False),
        (Stage.RCPT, b"552 5.3.1 no space ever", False),
        (Stage.BODY, b"451 4.3.0 trouble", False),
        (Stage.BODY, b"250 ok", False),
    ],
)
def test_who_asks_for_less_gets_less_and_who_minds_a_message_does_not(stage, wire, rest):
    plan = schedule(first_lanes=8)
    destination = plan.add(message(1))
    plan.learn(destination, {0: Result(parse_reply([wire]), stage, Origin.PEER, "h")}, 0.0)
    assert (destination.limit, destination.failures) == ((4, 1) if rest else (9, 0))


def test_one_recipient_that_fares_well_speaks_for_the_host():
    plan = schedule(first_lanes=8)
    destination = plan.add(message(1))
    full = Result(parse_reply([b"452 4.3.1 no space"]), Stage.RCPT, Origin.PEER, "h")
    plan.learn(destination, {0: full, 1: FINE[0]}, 0.0)
    assert destination.limit == 9


def test_bodies_beyond_the_budget_are_left_to_the_store():
    plan = schedule(active_octets=25)
    messages = [message(number) for number in range(3)]
    for one in messages:
        plan.add(one)
    assert [one.content is None for one in messages] == [False, False, True]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
def test_counts_return_to_nothing(steps):
    plan = schedule()
    kept = []
    for number, (domain, withdraw) in enumerate(steps):
        destination = plan.add(message(number, domain))
        kept.append(destination)
        if withdraw:
            assert [one.message for one in plan.withdraw(lambda queued, n=number: queued.id == n)] == [number]
    for destination in kept:
        while (queued := plan.take(destination)) is not None:
            plan.done(1, queued.content.body_octets)
    assert (plan.recipients, plan.octets) == (0, 0)
    assert {destination.recipients for destination in kept} <= {0}


@pytest.mark.parametrize("barred", [True, False])
def test_barred_destinations_give_nothing(barred):
    plan = schedule()
    destination = plan.add(message(1))
    destination.barred = barred
    assert plan.open_lane(destination) is not barred
    assert (plan.take(destination) is None) is barred
    assert (destination.route in plan.full()) is barred


def test_a_destination_with_its_share_in_memory_is_full():
    plan = schedule(active_recipients=8)
    destination = fill(plan, 2)
    assert plan.full() == [destination.route]
