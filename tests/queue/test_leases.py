from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import apsw
import pytest

from pillarbox.mail.catalogue import content
from pillarbox.queue import leases, schema, writer
from pillarbox.queue.spool import SLOTS, SpoolError, parse_id
from pillarbox.queue.sqlite import SqliteSpool

FAR = time.time() + 10_000
# Commits messages, small and large, many at a time, and prints the id of each once it is committed.
WRITER = textwrap.dedent("""
    import asyncio, os, sys, time
    from pathlib import Path
    from pillarbox.mail.envelope import Envelope, Recipient
    from pillarbox.mail.route import Route, Transport
    from pillarbox.queue.spool import Entry, Trace, format_id
    from pillarbox.queue.sqlite import SqliteSpool

    async def main(root, count):
        spool = SqliteSpool(Path(root))
        print("slot", *spool.slots, flush=True)
        async def one(octets):
            while True:
                draft = spool.draft()
                draft.write(b"x" * octets)
                entry = Entry(spool.new_id(time.time()), Envelope("a@example.org", (Recipient("b@example.net"),)),
                              (Route(Transport.MX, "example.net"),), time.time(), b"", Trace())
                await spool.commit(draft, entry)
                os.write(1, (format_id(entry.id) + "\\n").encode())
                if count:
                    await asyncio.sleep(3600)
        await asyncio.gather(*[one(100_000 if number % 4 == 0 else 1000) for number in range(count or 20)])

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
""")


def writing(root, count=0):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(root), str(count)], stdout=subprocess.PIPE)


def read_ids(process, count):
    return [parse_id(process.stdout.readline().decode()) for _ in range(count)]


def end(process, sign=signal.SIGKILL):
    process.send_signal(sign)
    with process.stdout as out:
        rest = out.read()
    process.wait()
    return rest


async def test_what_was_acknowledged_survives_kill_at_full_rate(tmp_path):
    for _round in range(4):
        process = writing(tmp_path)
        process.stdout.readline()
        acknowledged = read_ids(process, 50)
        await asyncio.sleep(0.05 * _round)
        acknowledged += [parse_id(line.decode()) for line in end(process).splitlines() if len(line) == 13]
        spool = SqliteSpool(tmp_path)
        assert len(spool.slots) == 1
        found = []
        while some := await spool.due(FAR, 500, ()):
            found += some
        assert set(acknowledged) <= {one.id for one in found}
        for one in found[:: max(len(found) // 20, 1)]:
            assert sum(map(len, (await spool.load(one.id)).chunks())) in (1000, 100_000)
        await spool.close()
        names = {file.name for file in (tmp_path / "drafts").iterdir()}
        assert names == set()


async def test_a_new_worker_takes_the_slot_of_a_dead_one_at_once(tmp_path):
    process = writing(tmp_path, 1)
    process.stdout.readline()
    (number,) = read_ids(process, 1)
    end(process)
    spool = SqliteSpool(tmp_path)
    assert number % SLOTS in spool.slots
    assert [one.id for one in await spool.due(FAR, 9, ())] == [number]
    await spool.close()


async def test_two_workers_share_a_store_and_one_adopts_what_the_other_left(tmp_path):
    spool = SqliteSpool(tmp_path)
    process = writing(tmp_path, 5)
    slot = int(process.stdout.readline().split()[1])
    assert slot not in spool.slots
    ids = read_ids(process, 5)
    assert await spool.adopt() == []
    assert await spool.due(FAR, 9, ()) == []
    end(process)
    assert await spool.adopt() == [slot]
    assert {one.id for one in await spool.due(FAR, 9, ())} == set(ids)
    assert await spool.adopt() == []
    await spool.close()


async def test_a_worker_that_stood_still_loses_its_slot_and_cannot_write_to_it(
    tmp_path, store, spool, monkeypatch
):
    mine = await store()
    (slot,) = spool.slots
    other = SqliteSpool(tmp_path)
    assert await other.adopt() == []  # it lives, and now the lease is watched
    monkeypatch.setattr(leases, "LEASE_S", -1.0)
    assert await other.adopt() == [slot]
    monkeypatch.undo()
    late = spool.commit(*store.prepare())
    with pytest.raises(SpoolError) as caught:
        await late
    assert caught.value.reply.cause is content.WRITE_FAILED
    assert slot not in spool.slots
    await spool.release(mine.pending)  # stale, so it changes nothing
    assert [one.id for one in await other.due(FAR, 9, ())] == [mine.id]
    fresh = await store()  # in a slot that is its own again
    assert fresh.id % SLOTS in spool.slots
    await other.close()


# Holds two slots, leaves a body without a row in the second one, and dies.
LITTERER = textwrap.dedent("""
    import asyncio, os, sys, time
    from pathlib import Path
    from pillarbox.queue.sqlite import SqliteSpool

    async def main(root):
        spools = [SqliteSpool(root), SqliteSpool(root)]
        stray = spools[1]._bodies.path(spools[1].new_id(time.time()))
        stray.write_bytes(b"x")
        print(stray, flush=True)
        os._exit(9)

    asyncio.run(main(Path(sys.argv[1])))
""")


async def test_a_stray_body_is_swept_even_if_nobody_takes_its_slot(tmp_path, until):
    died = subprocess.run([sys.executable, "-c", LITTERER, tmp_path], stdout=subprocess.PIPE, check=False)
    assert died.returncode == 9
    stray = Path(died.stdout.decode().strip())
    assert stray.exists()
    spool = SqliteSpool(tmp_path)
    assert parse_id(stray.name) % SLOTS not in spool.slots
    await until(lambda: not stray.exists())
    await spool.close()


async def test_a_lease_is_kept_by_renewing_it(tmp_path, until, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.01)
    spool = SqliteSpool(tmp_path)
    connection = apsw.Connection(str(tmp_path / schema.FILE))
    sql = "SELECT renewed_at FROM lease"
    for _ in range(3):
        before = connection.execute(sql).get
        await until(lambda before=before: connection.execute(sql).get > before)
    connection.close()
    await spool.close()


async def test_all_slots_in_use_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "SLOTS", 2)
    held = [SqliteSpool(tmp_path), SqliteSpool(tmp_path)]
    with pytest.raises(RuntimeError, match="all 2 slots"):
        SqliteSpool(tmp_path)
    await held.pop().close()
    held.append(SqliteSpool(tmp_path))
    for spool in held:
        await spool.close()
    assert list((tmp_path / "workers").iterdir()) == []


def test_what_was_adopted_in_a_transaction_that_failed_is_not_held(tmp_path):
    one, other, third = (writer.Writer(tmp_path) for _ in range(3))
    message = 1000 * SLOTS + other.opened.held.slot
    rows = [message, 0, other.opened.held.slot, other.opened.held.fences[other.opened.held.slot]]
    arrival = [*rows, False, False, 1.0, "hold:", b"", b"", b"", 1, b"x"]
    assert other.write([(arrival, None, None)]).answers == [None]
    other._close()

    def fail(adopting):
        assert adopting.adopt() == [message % SLOTS]
        raise RuntimeError

    (trouble,) = one.write([([], None, fail)]).answers
    assert trouble.unwritten
    assert third.write([([], None, writer.Writer.adopt)]).answers == [[message % SLOTS]]
    claim = partial(writer.Writer.claim, rows=[(message, 0)])
    assert one.write([([], None, claim)]).answers == [set()]
    assert third.write([([], None, claim)]).answers == [{(message, 0)}]
    one._close()
    third._close()


async def test_a_worker_whose_loop_stands_still_does_not_say_that_it_lives(tmp_path, until, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    spool = SqliteSpool(tmp_path)
    connection = apsw.Connection(str(tmp_path / schema.FILE))
    sql = "SELECT renewed_at FROM lease"
    before = connection.execute(sql).get
    await until(lambda: connection.execute(sql).get > before)
    began = time.time()
    time.sleep(2)  # the loop stands still
    assert connection.execute(sql).get < began + 1
    await until(lambda: connection.execute(sql).get > began + 2)
    connection.close()
    await spool.close()


def test_who_could_not_write_for_a_while_takes_nobody_for_dead(tmp_path, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    one, other = writer.Writer(tmp_path), writer.Writer(tmp_path)
    slot = other.opened.held.slot
    rows = [1000 * SLOTS + slot, 0, slot, other.opened.held.fences[slot]]
    assert other.write(
        [([*rows, False, False, 1.0, "hold:", b"", b"", b"", 1, b"x"], None, None)]
    ).answers == [None]

    def adopted():
        return one.write([([], None, writer.Writer.adopt)]).answers[0]

    def renew():
        with schema.transaction(one.connection):
            one._leases.renew(one.connection)
        one._leases.renewed()

    assert adopted() == []
    now += leases.LEASE_S + 1  # in which nobody could write
    assert adopted() == []
    for _ in range(4):
        now += leases.RENEW_S
        renew()
        assert adopted() == []
    now += 1
    assert adopted() == [slot]
    one._close()
    other._close()
