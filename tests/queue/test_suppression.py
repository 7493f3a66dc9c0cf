"""The suppression list: what brings an address there, what keeps mail from it, and how it leaves again."""

from __future__ import annotations

import time

import apsw
import pytest
from msgspec.structs import replace

from pillarbox.diagnose.causes import PeerCause, Suppress, peer_causes
from pillarbox.diagnose.classify import Certainty, Verdict
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Origin, Result, Stage, parse_reply
from pillarbox.queue import schema
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import Change, State
from pillarbox.queue.sqlite import SqliteSpool
from pillarbox.queue.suppression import (
    Lesson,
    LessonKind,
    SuppressionSettings,
    Watch,
    domain_of,
    entry_of,
    evidence,
    lesson,
)

DAY = 86400.0
NOW = 1_800_000_000.0
UNKNOWN_USER = Result(parse_reply([b"550 5.1.1 User unknown"]), Stage.RCPT, Origin.PEER, "mx.test")
FULL = replace(UNKNOWN_USER, reply=parse_reply([b"552 5.2.2 mailbox full"]))
SETTINGS = SuppressionSettings()


def found(cause: str, certainty: Certainty = Certainty.STATUS) -> Verdict:
    known: PeerCause = peer_causes()[cause]
    return Verdict(known, certainty, known.hard, known.suppress, known.retry)


def learnt(result=UNKNOWN_USER, cause="mailbox.unknown", *, now=NOW, address="User@Example.NET", **settings):
    return lesson(
        SuppressionSettings(**settings), result, found(cause), address=address, message=1, number=0, now=now
    )


# --- the rules


@pytest.mark.parametrize(
    ("result", "cause", "certainty", "weight"),
    [
        (UNKNOWN_USER, "mailbox.unknown", Certainty.STATUS, Suppress.ADDRESS),
        (UNKNOWN_USER, "mailbox.unknown", Certainty.PATTERN, Suppress.ADDRESS),
        (UNKNOWN_USER, "mailbox.unknown", Certainty.CODE, Suppress.NEVER),
        (UNKNOWN_USER, "mailbox.unknown", Certainty.GUESS, Suppress.NEVER),
        (UNKNOWN_USER, "mailbox.disabled", Certainty.STATUS, Suppress.ADDRESS),
        (FULL, "mailbox.full", Certainty.STATUS, Suppress.REPEATED),
        (replace(UNKNOWN_USER, stage=Stage.BODY), "mailbox.unknown", Certainty.STATUS, Suppress.ADDRESS),
        (
            replace(UNKNOWN_USER, stage=Stage.BODY, shared=True),
            "mailbox.unknown",
            Certainty.STATUS,
            Suppress.NEVER,
        ),
        (replace(UNKNOWN_USER, stage=Stage.MAIL), "mailbox.unknown", Certainty.STATUS, Suppress.NEVER),
        (
            replace(UNKNOWN_USER, reply=parse_reply([b"450 4.1.1 unverified"])),
            "mailbox.unknown",
            Certainty.STATUS,
            Suppress.NEVER,
        ),
    ],
)
def test_only_what_is_surely_said_about_one_mailbox_counts(result, cause, certainty, weight):
    assert evidence(result, found(cause, certainty)) is weight


def test_a_null_mx_speaks_against_the_whole_domain_for_as_long_as_dns_says():
    result = Result(delivery.NULL_MX.reply(domain="example.net"), Stage.DNS, Origin.LOCAL, wait_s=3600.0)
    taught = lesson(SETTINGS, result, None, address="u@example.net", message=1, number=0, now=NOW)
    assert (taught.entry, taught.until) == ("@example.net", NOW + 3600)


def test_how_long_an_entry_stays_is_a_setting():
    assert learnt().until == NOW + 365 * DAY
    assert learnt(address_s=10.0).until == NOW + 10
    strike = learnt(FULL, "mailbox.full", repeats=5, repeats_within_s=DAY, repeated_s=2 * DAY)
    assert strike.kind is LessonKind.STRIKE
    assert (strike.until, strike.repeats, strike.counted_from) == (NOW + 2 * DAY, 5, NOW - DAY)


def test_addresses_are_spelt_in_one_way():
    assert entry_of("User@Example.NET") == entry_of("user@example.net") == "user@example.net"
    assert entry_of("u@b\xfccher.example") == "u@xn--bcher-kva.example"
    assert entry_of("@Example.NET") == domain_of("user@example.net") == "@example.net"


def test_the_quick_look_knows_addresses_and_domains():
    watch = Watch()
    assert not watch.may_know("user@example.net")
    watch.add(["user@example.net", "@example.org"])
    assert watch.may_know("USER@example.net")
    assert watch.may_know("anybody@example.org")
    assert not watch.may_know("other@example.net")
    watch.drop(["user@example.net"])
    assert not watch.may_know("user@example.net")


# --- the rows


@pytest.fixture
def ledger(spool, tmp_path):
    with Ledger(tmp_path) as opened:
        yield opened


async def teach(spool, queued, *lessons):
    change = Change(queued.id, 0, State.FAILED, result=UNKNOWN_USER)
    await spool.record([change], (), lessons)


async def test_an_entry_is_stored_with_its_outcome_and_stands_in_the_history_of_the_message(
    spool, store, ledger
):
    queued = await store()
    now = time.time()
    await teach(spool, queued, replace(learnt(now=now), message=queued.id))
    (entry,) = await spool.suppressed(["user@example.net", "other@example.net"], now)
    assert (entry.cause, entry.message) == ("mailbox.unknown", queued.id)
    assert str(entry.result.reply) == "550 5.1.1 User unknown"
    assert [one.kind for one in ledger.history(queued.id)] == ["received", "failed", "suppressed"]
    assert await spool.watched() == ["user@example.net"]


async def test_three_refusals_within_thirty_days_make_an_entry(spool, store):
    queued = await store()
    for number, at in enumerate((NOW - 40 * DAY, NOW - 10 * DAY, NOW - 5 * DAY, NOW)):
        await teach(spool, queued, learnt(FULL, "mailbox.full", now=at))
        listed = await spool.suppressed(["user@example.net"], at)
        assert bool(listed) is (number == 3)
    assert await spool.suppressed(["user@example.net"], NOW + 89 * DAY)
    assert not await spool.suppressed(["user@example.net"], NOW + 91 * DAY)


async def test_what_has_expired_is_dropped(spool, store):
    queued = await store()
    await teach(spool, queued, learnt(now=NOW), learnt(FULL, "mailbox.full", address="full@x.test"))
    await spool.forget_old(NOW + DAY, NOW - DAY)
    assert len(await spool.watched()) == 2
    await spool.forget_old(NOW + 366 * DAY, NOW + 30 * DAY)
    assert await spool.watched() == []


async def test_a_success_clears_what_was_learnt_but_not_what_an_operator_wants(spool, store):
    queued = await store()
    await spool.verbs()  # from now on
    wanted = Lesson(LessonKind.SUPPRESS, "wanted@example.net", NOW, NOW + DAY, "operator")
    await teach(spool, queued, learnt(), wanted)
    for address in ("user@example.net", "wanted@example.net"):
        await teach(spool, queued, Lesson(LessonKind.CLEAR, address, NOW, message=queued.id))
    entries = await spool.suppressed(["user@example.net", "wanted@example.net"], NOW)
    assert [one.entry for one in entries] == ["wanted@example.net"]
    told = [(one.verb, one.destination) for one in await spool.verbs()]
    assert told[-2:] == [("cleared", "user@example.net"), ("suppressed", "wanted@example.net")]


async def test_workers_learn_of_changes_by_a_row(spool, store, ledger):
    assert await spool.verbs() == []
    ledger.teach(Lesson(LessonKind.SUPPRESS, "a@b.test", NOW, NOW + DAY, "operator"))
    ledger.teach(Lesson(LessonKind.CLEAR, "a@b.test", NOW))
    assert [(one.verb, one.destination) for one in await spool.verbs()] == [
        ("suppressed", "a@b.test"),
        ("cleared", "a@b.test"),
    ]


async def test_a_store_of_an_older_release_gets_the_tables_that_it_lacks(tmp_path):
    old = apsw.Connection(str(tmp_path / schema.FILE))
    old.execute(schema._TABLES)
    old.execute("PRAGMA user_version = 1")
    old.close()
    spool = SqliteSpool(tmp_path)
    assert await spool.watched() == []
    await spool.close()


def test_a_store_of_a_newer_release_is_left_alone(tmp_path):
    schema.connect(tmp_path / schema.FILE).execute("PRAGMA user_version = 99")
    with pytest.raises(schema.StoreError, match="version 99"):
        schema.connect(tmp_path / schema.FILE)
