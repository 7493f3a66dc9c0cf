from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import apsw
import pytest

from pillarbox.mail.catalogue import content, delivery
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.mail.route import Route, Transport
from pillarbox.queue import schema
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import SLOTS, Change, SpoolError, State, format_id
from pillarbox.queue.sqlite import SqliteSpool

BIG = bytes(range(256)) * 800  # 200 KiB: goes to a file
FAR = time.time() + 10_000


def pytest_generate_tests(metafunc):
    """The contract holds wherever the writer works."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ["thread", "process"], indirect=True)


def deferred(queued, due, number=0):
    result = Result(delivery.TIMEOUT.reply(host="h", detail="x"), Stage.CONNECT, Origin.LOCAL, "h")
    return Change(queued.id, number, State.QUEUED, due, 1, result=result)


def delivered(queued, number=0):
    result = Result(delivery.DELIVERED.reply(detail="ok"), Stage.BODY, Origin.PEER, "host.example")
    return Change(queued.id, number, State.DELIVERED, attempts=1, result=result)


def rows(root, sql):
    with apsw_open(root) as connection:
        return connection.execute(sql).fetchall()


def file_name(fd):
    return str(Path(f"/proc/self/fd/{fd}").readlink())


class apsw_open:  # noqa: N801 - reads like a call
    def __init__(self, root):
        self.connection = apsw.Connection(str(root / schema.FILE))
        self.connection.set_busy_timeout(5000)

    def __enter__(self):
        return self.connection

    def __exit__(self, *_error):
        self.connection.close()


async def test_ids_rise_even_if_the_clock_falls(spool):
    ids = [spool.new_id(now) for now in (1000.0, 2000.0, 1500.0, 2000.0)]
    assert ids == sorted(set(ids))
    assert {number % SLOTS for number in ids} == set(spool.slots)


@pytest.mark.parametrize("body", [b"small\r\n", BIG], ids=["inline", "file"])
async def test_what_is_committed_can_be_loaded_and_offered(spool, store, body):
    queued = await store(body=body)
    assert b"".join(queued.content.chunks()) == b"Received: x\r\n" + body
    loaded = await spool.load(queued.id)
    assert b"".join(loaded.chunks()) == b"Received: x\r\n" + body
    assert (loaded.path is None) == (len(body) < 65536)
    assert [one.route for one in queued.pending] == [Route(Transport.MX, "example.net")]


async def test_a_discarded_draft_leaves_nothing(spool, tmp_path):
    draft = spool.draft()
    draft.write(BIG)
    assert list((tmp_path / "drafts").iterdir())
    draft.discard()
    assert not list((tmp_path / "drafts").iterdir())


async def test_claimed_recipients_are_not_due_until_released(spool, store):
    queued = await store()
    assert await spool.due(FAR, 10, ()) == []
    assert await spool.next_due() is None
    await spool.release(queued.pending)
    assert await spool.next_due() == queued.received_at
    again = (await spool.due(FAR, 10, ()))[0]
    assert (again.id, again.envelope, again.content.inline) == (
        queued.id,
        queued.envelope,
        queued.content.inline,
    )
    assert await spool.due(FAR, 10, ()) == []


async def test_a_deferred_recipient_is_due_later_with_its_history(spool, store):
    queued = await store()
    await spool.record([deferred(queued, 5e9)])
    assert await spool.due(FAR, 10, ()) == []
    assert await spool.next_due() == 5e9
    pending = (await spool.due(6e9, 10, ()))[0].pending[0]
    assert (pending.attempts, pending.delay_notified, pending.due) == (1, False, 5e9)


@pytest.mark.parametrize("body", [b"small\r\n", BIG], ids=["inline", "file"])
async def test_the_body_goes_when_no_recipient_is_open(spool, store, tmp_path, body):
    queued = await store("example.net", "example.com", body=body)
    await spool.record([delivered(queued, 0)])
    await spool.load(queued.id)
    await spool.record([delivered(queued, 1)])
    with pytest.raises(SpoolError):
        await spool.load(queued.id)
    await spool.close()
    assert [file for file in (tmp_path / "bodies").rglob("*") if file.is_file()] == []
    assert rows(tmp_path, "SELECT state FROM recipient") == [(2,), (2,)]


async def test_a_store_that_is_closed_in_the_middle_of_a_write_finishes_it(storer, tmp_path, until):
    spool = SqliteSpool(tmp_path)
    queued = await storer(spool)(body=BIG)
    other = apsw.Connection(str(tmp_path / schema.FILE))
    other.execute("BEGIN IMMEDIATE")
    recorded = spool.record([delivered(queued)])
    await until(spool._writer._orders.empty)  # the writer has taken it, and waits for the other connection
    closed = spool.close()
    await until(lambda: spool._file_threads._shutdown)
    other.execute("ROLLBACK")
    other.close()
    await closed
    assert await recorded == []
    assert [file for file in (tmp_path / "bodies").rglob("*") if file.is_file()] == []


async def test_a_store_goes_on_closing_when_the_one_who_waited_gives_up(spool, store, tmp_path):
    await store()
    waiting = spool.close()
    await asyncio.sleep(0)
    waiting.cancel()
    await spool.close()
    assert list((tmp_path / "workers").iterdir()) == []


async def test_a_final_state_is_never_undone(spool, store):
    queued = await store()
    await spool.record([delivered(queued)])
    await spool.record([deferred(queued, 1.0)])
    assert await spool.due(FAR, 10, ()) == []


async def test_reports_are_stored_with_the_outcome(spool, store):
    queued = await store()
    draft, entry = store.prepare("example.org", sender="")
    reports = await spool.record([delivered(queued)], [(draft, entry)])
    assert [report.id for report in reports] == [entry.id]
    assert b"".join((await spool.load(entry.id)).chunks()).endswith(b"body\r\n")


async def test_many_commits_share_transactions_and_all_are_kept(spool, store, tmp_path):
    queued = await asyncio.gather(*[store() for _ in range(500)])
    assert len({one.id for one in queued}) == 500
    await spool.close()
    assert rows(tmp_path, "SELECT count(*) FROM message") == [(500,)]


@pytest.mark.parametrize("count", [15, 16, 17, 32, 33])
async def test_groups_of_any_size_are_written_again_and_again(spool, store, count):
    for _ in range(3):
        together = asyncio.gather(*[store() for _ in range(count)])
        assert len({one.id for one in await asyncio.wait_for(together, 10)}) == count
        assert (await asyncio.wait_for(store(), 10)).pending


async def test_one_bad_member_does_not_fail_its_group(spool, store):
    await store()
    draft, entry = store.prepare()
    commits = [
        spool.commit(draft, entry),
        spool.commit(draft, entry),
        *[spool.commit(*store.prepare()) for _ in range(20)],
    ]
    done = await asyncio.gather(*commits, return_exceptions=True)
    assert [isinstance(one, SpoolError) for one in done] == [False, True] + [False] * 20
    assert done[1].reply.cause is content.WRITE_FAILED


async def test_holding(spool, store):
    queued = await store(hold=True)
    assert queued.pending == []
    assert await spool.due(FAR, 10, ()) == []


async def test_reopening_gives_all_that_was_claimed(engine, tmp_path, spool, store):
    queued = await store()
    await spool.close()
    again = engine(tmp_path)
    try:
        assert [one.id for one in await again.due(FAR, 10, ())] == [queued.id]
        assert again.new_id(0.0) > queued.id
    finally:
        await again.close()


async def test_calls_after_close_are_refused(spool, store):
    await spool.close()
    for call in (store(), spool.load(1), spool.record([]), spool.due(FAR, 1, ())):
        with pytest.raises(SpoolError):
            await call


# Fairness.


async def test_a_full_destination_hides_no_other(spool, store):
    for _ in range(60):
        await store.waiting("busy.example")
    others = {(await store.waiting(f"{letter}.example")).id for letter in "abcdefgh"}
    found = await spool.due(FAR, 20, [Route(Transport.MX, "busy.example")])
    assert {one.id for one in found} == others


async def test_one_destination_gets_no_more_than_its_share_while_others_wait(spool, store):
    for _ in range(30):
        await store.waiting("busy.example")
    for letter in "abcde":
        await store.waiting(f"{letter}.example")
    targets = [one.pending[0].route.target for one in await spool.due(FAR, 20, ())]
    assert len(targets) == 20
    assert set("abcde") == {target[0] for target in targets if target != "busy.example"}


async def test_turns_go_round_all_destinations(spool, store):
    for _ in range(200):
        await store.waiting("aaa.example")
    names = [f"d{number:03}.example" for number in range(60)]
    for name in names:
        await store.waiting(name)
    seen = set()
    for _ in range(10):
        for one in await spool.due(FAR, 8, [Route(Transport.MX, "aaa.example")]):
            seen.add(one.pending[0].route.target)
    assert seen == set(names)


async def test_recipients_of_one_message_come_together(spool, store):
    queued = await store.waiting("a.example", "b.example", "a.example")
    (found,) = await spool.due(FAR, 10, ())
    assert [one.number for one in found.pending] == [0, 1, 2]
    assert found.id == queued.id


# Damage.


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE message SET envelope = x'00ff'",
        "UPDATE message SET octets = octets + 1",
        "DELETE FROM body",
        "DELETE FROM message",
        "UPDATE recipient SET destination = 'no such thing'",
        "UPDATE recipient SET number = 7",
    ],
)
async def test_a_damaged_message_is_set_aside_and_blocks_nothing(spool, store, tmp_path, damage):
    await store.waiting()
    with apsw_open(tmp_path) as connection:
        connection.execute(damage)
    good = await store.waiting()
    assert [one.id for one in await spool.due(FAR, 10, ())] == [good.id]
    assert sorted(rows(tmp_path, "SELECT state FROM recipient")) == [(0,), (5,)]
    assert rows(tmp_path, "SELECT kind FROM event") == [("damaged",)]


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
async def test_a_damaged_body_file_is_set_aside(spool, store, damage):
    queued = await store.waiting(body=BIG)
    path = queued.content.path
    if damage == "missing":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(100 if damage == "short" else len(BIG) + 1)
    with pytest.raises(SpoolError) as caught:
        await spool.load(queued.id)
    assert caught.value.reply.cause is delivery.DAMAGED
    good = await store.waiting(body=BIG)
    assert [one.id for one in await spool.due(FAR, 10, ())] == [good.id]


async def test_a_body_file_that_cannot_be_read_now_damages_nothing(spool, store):
    queued = await store.waiting(body=BIG)
    path = queued.content.path
    octets = path.read_bytes()
    path.unlink()
    path.symlink_to(path)  # too many levels of symbolic links: a passing error, as an I/O error may be
    with pytest.raises(SpoolError) as caught:
        await spool.load(queued.id)
    assert caught.value.reply.cause is not delivery.DAMAGED
    (due,) = await spool.due(FAR, 10, ())
    assert due.content is None
    path.unlink()
    path.write_bytes(octets)
    assert (await spool.load(queued.id)).body_octets == len(BIG)


async def test_bodies_without_a_database_are_not_swept_away(spool, store, tmp_path, engine):
    queued = await store.waiting(body=BIG)
    await spool.close()
    for file in tmp_path.glob(f"{schema.FILE}*"):
        file.rename(tmp_path / f"aside-{file.name}")
    for _ in range(2):
        with pytest.raises(schema.StoreError, match=r"is missing or empty, but .*/bodies is not"):
            engine(tmp_path)
    (tmp_path / f"aside-{schema.FILE}").rename(tmp_path / schema.FILE)
    again = engine(tmp_path)
    assert (await again.load(queued.id)).body_octets == len(BIG)
    await again.close()


async def test_a_foreign_database_is_refused(spool, tmp_path, engine):
    await spool.close()
    with apsw_open(tmp_path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(schema.StoreError, match="version 99"):
        engine(tmp_path)


def test_an_old_library_is_refused():
    with pytest.raises(schema.StoreError, match=r"3\.51\.3 or newer"):
        schema.check_library("3.40.1")
    schema.check_library("3.51.3")
    schema.check_library("3.54.1")


# Sweeping, pruning.


async def test_orphans_are_swept_at_open(engine, tmp_path, spool, store):
    queued = await store(body=BIG)
    spool.draft().write(BIG)  # a draft of a living worker
    (living,) = (tmp_path / "drafts").iterdir()
    dead = tmp_path / "drafts" / "000000000000-1"
    dead.write_bytes(b"x")
    slot = queued.id % SLOTS
    await spool.close()
    stray = tmp_path / "bodies" / f"{slot:02}" / format_id(queued.id - SLOTS)
    stray.write_bytes(b"x")
    foreign = stray.with_name("README")
    foreign.write_bytes(b"x")
    again = engine(tmp_path)
    await again.close()
    assert not dead.exists()
    assert not living.exists()
    assert not stray.exists()
    assert foreign.exists()
    assert queued.content.path.exists()


async def test_drafts_of_living_workers_are_not_swept(engine, tmp_path, spool):
    draft = spool.draft()
    draft.write(BIG)
    other = engine(tmp_path)
    await other.close()
    assert draft.file.exists()


async def test_finished_messages_are_forgotten_after_their_time(spool, store, tmp_path):
    start = time.time() + 100
    old, open_, new = await store(at=start), await store(at=start + 1), await store(at=start + 50)
    await spool.record([delivered(old), delivered(new)])
    assert await spool.prune(start + 10) == 1
    assert await spool.prune(start + 10) == 0
    with Ledger(tmp_path) as ledger:
        assert ledger.show(old.id) is None
        assert ledger.history(old.id) == []
        assert ledger.show(open_.id) is not None
        assert ledger.show(new.id) is not None


# Faults.


async def test_a_failed_sync_of_a_body_fails_its_message_only(spool, store, monkeypatch, tmp_path):
    good_sync = os.fsync

    def bad_sync(fd):
        if "drafts" in file_name(fd):
            raise OSError(5, "Input/output error")
        good_sync(fd)

    monkeypatch.setattr(os, "fsync", bad_sync)
    bad = spool.commit(*store.prepare(body=BIG))
    small = spool.commit(*store.prepare())
    with pytest.raises(SpoolError) as caught:
        await bad
    assert caught.value.reply.cause is content.WRITE_FAILED
    await small
    assert rows(tmp_path, "SELECT count(*) FROM message") == [(1,)]
    assert [file for file in (tmp_path / "bodies").rglob("*") if file.is_file()] == []


async def test_a_full_disk_while_writing_a_draft(spool, monkeypatch, tmp_path):
    def full(_fd, _piece):
        raise OSError(28, "No space left on device")

    draft = spool.draft()
    draft.write(BIG)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpoolError) as caught:
        draft.write(b"more")
    monkeypatch.undo()
    assert caught.value.reply.cause is content.DISK_FULL
    assert not list((tmp_path / "drafts").iterdir())


async def test_files_come_home_before_their_rows(spool, store, monkeypatch, tmp_path):
    order = []
    good_sync = os.fsync

    def watched(fd):
        order.append(file_name(fd).removeprefix(str(tmp_path)).split("/")[1])
        assert rows(tmp_path, "SELECT count(*) FROM message") == [(0,)]
        good_sync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    await store(body=BIG)
    assert order == ["drafts", "bodies"]
