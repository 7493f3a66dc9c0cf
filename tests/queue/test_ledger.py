from __future__ import annotations

import time

import pytest

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.mail.route import Route, Transport
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import Change, SpoolError, State

FAR = time.time() + 10_000


@pytest.fixture
def ledger(spool, tmp_path):
    with Ledger(tmp_path) as opened:
        yield opened


def deferral(queued, due=FAR):
    result = Result(
        delivery.TIMEOUT.reply(host="mx.example", detail="MAIL"), Stage.MAIL, Origin.LOCAL, "mx.example"
    )
    return Change(queued.id, 0, State.QUEUED, due, 1, result=result)


def states(ledger, queued):
    return [one.state for one in ledger.show(queued.id).recipients]


def test_a_folder_without_a_store_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no mail store"):
        Ledger(tmp_path)


async def test_a_message_is_shown_with_all_that_is_known(spool, store, ledger):
    queued = await store()
    await spool.record([deferral(queued)])
    shown = ledger.show(queued.id)
    assert (shown.envelope, shown.trace.helo, shown.octets) == (queued.envelope, "client.example", 21)
    (one,) = shown.recipients
    assert (one.address, one.state, one.active, one.attempts) == ("user0@example.net", State.QUEUED, False, 1)
    assert one.result.reply.cause is delivery.TIMEOUT
    assert ledger.show(1) is None
    assert b"".join(ledger.content(queued.id).chunks()).endswith(b"body\r\n")


async def test_history_tells_each_step(spool, store, ledger):
    queued = await store()
    await spool.record([deferral(queued)])
    ledger.apply_verb("hold", message=queued.id)
    history = ledger.history(queued.id)
    assert [one.kind for one in history] == ["received", "deferred", "held"]
    assert history[1].detail["cause"] == "delivery.timeout"
    assert history[1].detail["host"] == "mx.example"


async def test_listing_shows_what_is_open_and_filters(spool, store, ledger):
    active, waiting, held = await store("a.example"), await store.waiting("b.example"), await store(hold=True)
    done = await store()
    await spool.record([Change(done.id, 0, State.DELIVERED)])
    assert [one.id for one in ledger.list_messages()] == [active.id, waiting.id, held.id]
    assert [one.id for one in ledger.list_messages(1)] == [active.id]
    assert [one.id for one in ledger.list_messages(destination="mx:b.example")] == [waiting.id]
    assert [one.id for one in ledger.list_messages(states=[State.DELIVERED])] == [done.id]
    assert [one.id for one in ledger.list_messages(wanted=lambda one: one.id == held.id)] == [held.id]


async def test_depth_counts_by_destination_and_state(spool, store, ledger):
    for _ in range(3):
        await store.waiting("a.example")
    await store("a.example")
    await store("b.example", hold=True)
    found = {(one.destination, one.state): one.recipients for one in ledger.depth()}
    assert found == {("mx:a.example", State.QUEUED): 4, ("mx:b.example", State.HELD): 1}
    assert ledger.count() == {"waiting": 3, "active": 1, "held": 1}


async def test_hold_and_release(spool, store, ledger):
    queued = await store.waiting()
    assert ledger.apply_verb("hold", message=queued.id) == 1
    assert states(ledger, queued) == [State.HELD]
    assert await spool.due(FAR, 9, ()) == []
    assert ledger.apply_verb("release", message=queued.id) == 1
    assert [one.id for one in await spool.due(FAR, 9, ())] == [queued.id]


async def test_a_hold_during_an_attempt_outlives_a_deferral(spool, store, ledger):
    queued = await store()
    ledger.apply_verb("hold", message=queued.id)
    await spool.record([deferral(queued)])
    assert states(ledger, queued) == [State.HELD]


async def test_a_hold_during_an_attempt_does_not_undo_a_delivery(spool, store, ledger):
    queued = await store()
    ledger.apply_verb("hold", message=queued.id)
    await spool.record([Change(queued.id, 0, State.DELIVERED)])
    assert states(ledger, queued) == [State.DELIVERED]


async def test_a_damaged_message_is_listed_until_it_is_repaired_or_removed(spool, store, ledger):
    repaired, removed = [await store.waiting(body=b"x" * 100_000) for _ in range(2)]
    for queued in (repaired, removed):
        queued.content.path.rename(queued.content.path.with_suffix(".lost"))
    assert await spool.due(FAR, 9, ()) == []
    assert {one.id for one in ledger.list_messages()} == {repaired.id, removed.id}
    repaired.content.path.with_suffix(".lost").rename(repaired.content.path)
    assert ledger.apply_verb("release", message=repaired.id) == 1
    assert [one.id for one in await spool.due(FAR, 9, ())] == [repaired.id]
    assert ledger.apply_verb("remove", message=removed.id) == 1
    assert [one.id for one in ledger.list_messages()] == [repaired.id]


@pytest.mark.parametrize("body", [b"small\r\n", b"x" * 100_000], ids=["inline", "file"])
async def test_remove_frees_the_body(spool, store, ledger, tmp_path, body):
    queued = await store.waiting(body=body)
    assert ledger.apply_verb("remove", message=queued.id) == 1
    assert states(ledger, queued) == [State.REMOVED]
    with pytest.raises(SpoolError):
        ledger.content(queued.id)
    assert [file for file in (tmp_path / "bodies").rglob("*") if file.is_file()] == []
    assert ledger.apply_verb("remove", message=queued.id) == 0


async def test_retry_makes_it_due_now(spool, store, ledger):
    queued = await store()
    await spool.record([deferral(queued)])
    assert await spool.due(time.time(), 9, ()) == []
    ledger.apply_verb("retry", message=queued.id)
    assert [one.id for one in await spool.due(time.time() + 1, 9, ())] == [queued.id]


async def test_bounce_comes_back_marked_even_from_a_full_destination(spool, store, ledger):
    queued = await store.waiting()
    ledger.apply_verb("bounce", message=queued.id)
    (found,) = await spool.due(time.time(), 9, [Route(Transport.MX, "example.net")])
    assert found.pending[0].bounce


async def test_verbs_for_a_destination_reach_all_its_mail(spool, store, ledger):
    mine = [await store.waiting("a.example") for _ in range(3)]
    other = await store.waiting("b.example")
    assert ledger.apply_verb("hold", destination="mx:a.example") == 3
    assert [states(ledger, one) for one in (*mine, other)] == [[State.HELD]] * 3 + [[State.QUEUED]]


async def test_workers_learn_of_verbs_once_and_of_suspensions_at_start(
    spool, store, ledger, engine, tmp_path
):
    assert await spool.verbs() == []
    ledger.apply_verb("suspend", destination="mx:a.example")
    ledger.apply_verb("hold", message=5)
    found = await spool.verbs()
    assert [(one.verb, one.message, one.destination) for one in found] == [
        ("suspend", None, "mx:a.example"),
        ("hold", 5, ""),
    ]
    assert await spool.verbs() == []
    assert ledger.suspended() == ["mx:a.example"]
    late = engine(tmp_path)
    assert [(one.verb, one.destination) for one in await late.verbs()] == [("suspend", "mx:a.example")]
    await late.close()
    assert ledger.apply_verb("resume", destination="mx:a.example") == 1
    assert ledger.suspended() == []
    assert ledger.apply_verb("resume", destination="mx:a.example") == 0


@pytest.mark.parametrize(
    ("verb", "target"),
    [
        ("explode", {"message": 1}),
        ("hold", {}),
        ("hold", {"message": 1, "destination": "mx:a"}),
        ("suspend", {"message": 1}),
        ("hold", {"destination": "nonsense"}),
    ],
)
async def test_nonsense_is_refused(ledger, verb, target):
    with pytest.raises(ValueError):
        ledger.apply_verb(verb, **target)


async def test_it_works_while_no_server_runs(spool, store, tmp_path):
    queued = await store()
    await spool.close()
    with Ledger(tmp_path) as ledger:
        assert [one.id for one in ledger.list_messages()] == [queued.id]
        assert ledger.apply_verb("remove", message=queued.id) == 1


@pytest.mark.parametrize(
    ("verb", "state"), [("hold", State.HELD), ("remove", State.REMOVED), ("bounce", State.QUEUED)]
)
async def test_a_verb_for_one_recipient_leaves_the_others_as_they_are(spool, store, ledger, verb, state):
    queued = await store.waiting("a.example", "b.example", "c.example")
    assert ledger.apply_verb(verb, message=queued.id, recipients=[1]) == 1
    assert states(ledger, queued) == [State.QUEUED, state, State.QUEUED]
    assert ledger.content(queued.id)
    found = [one for batch in await spool.due(FAR, 9, ()) for one in batch.pending]
    assert {one.number for one in found if not one.bounce} == {0, 2}
    assert {one.number for one in found if one.bounce} == ({1} if verb == "bounce" else set())
    assert ledger.apply_verb(verb, message=queued.id, recipients=[]) == 0


async def test_removing_a_recipient_of_a_damaged_message_keeps_its_body(spool, store, ledger):
    queued = await store.waiting("a.example", "b.example", body=b"x" * 100_000)
    aside = queued.content.path.with_suffix(".lost")
    queued.content.path.rename(aside)
    assert await spool.due(FAR, 9, ()) == []
    aside.rename(queued.content.path)
    assert ledger.apply_verb("remove", message=queued.id, recipients=[0]) == 1
    assert states(ledger, queued) == [State.REMOVED, State.DAMAGED]
    assert ledger.content(queued.id)


async def test_messages_in_several_states_are_listed_open_ones_first(spool, store, ledger):
    done, first, second, waiting = [
        await store(),
        await store(hold=True),
        await store(hold=True),
        await store.waiting(),
    ]
    await spool.record([Change(done.id, 0, State.DELIVERED)])
    wanted = [State.DELIVERED, State.HELD]
    assert [one.id for one in ledger.list_messages(states=wanted)] == [first.id, second.id, done.id]
    assert [one.id for one in ledger.list_messages(states=[State.QUEUED])] == [waiting.id]
