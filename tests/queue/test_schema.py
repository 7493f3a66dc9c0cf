"""Opening the store: workers that start together make it together."""

import asyncio
import shutil
import threading
import time

import apsw
import msgspec
import pytest

from pillarbox.mail.envelope import NO_TERMS, ByMode, Deadline, Envelope, Recipient, Terms, ValidSince
from pillarbox.mail.route import Route, Transport
from pillarbox.queue import schema
from pillarbox.queue.spool import SLOTS, Entry, Trace
from pillarbox.queue.sqlite import SqliteSpool


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_store_that_another_worker_is_just_making_is_waited_for(tmp_path, begin):
    file = tmp_path / schema.FILE
    other = apsw.Connection(str(file))
    other.execute(begin)
    done = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    done.start()
    connection = schema.connect(file)
    done.join()
    assert connection.execute("PRAGMA journal_mode").get == "wal"
    assert connection.execute("SELECT count(*) FROM message").get == 0
    connection.close()
    other.close()


def test_a_store_that_stays_locked_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_MS", 50)
    other = apsw.Connection(str(tmp_path / schema.FILE))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(apsw.BusyError):
        schema.connect(tmp_path / schema.FILE)
    other.close()


def write(connection, entry, *entries):
    for one in (entry, *entries):
        connection.execute("INSERT INTO suspended VALUES (?, 0)", (one,))


def written(folder):
    with schema.connect(folder / schema.FILE) as connection:
        return [entry for (entry,) in connection.execute("SELECT destination FROM suspended ORDER BY 1")]


def test_a_log_made_long_beforehand_keeps_all_that_two_workers_write(tmp_path):
    """Before the log begins anew and after; also what a loss of power leaves, that is a copy of the files as they are."""
    file, lost = tmp_path / schema.FILE, tmp_path / "lost"
    one, two = schema.connect(file), schema.connect(file)
    write(one, "a")
    lengthening = [schema.lengthen_log(worker, file) for worker in [one, two] * 99]
    assert not lengthening[-1]
    log = file.with_name(f"{file.name}-wal")
    assert log.stat().st_size == schema.LOG_OCTETS
    write(two, "b")
    lost.mkdir()
    for left in (file, log):
        shutil.copy(left, lost)
    assert written(lost) == written(tmp_path) == ["a", "b"]
    one.execute("PRAGMA wal_checkpoint(RESTART)")
    write(one, *"cde")
    for left in (file, log):
        shutil.copy(left, lost)
    assert written(lost) == ["a", "b", "c", "d", "e"]
    assert log.stat().st_size == schema.LOG_OCTETS
    one.close()
    two.close()
    assert written(tmp_path) == ["a", "b", "c", "d", "e"]
    assert not log.exists()


async def test_a_worker_with_nothing_else_to_do_makes_the_log_long(tmp_path):
    spool = SqliteSpool(tmp_path)
    log = tmp_path / f"{schema.FILE}-wal"
    async with asyncio.timeout(20):
        while log.stat().st_size < schema.LOG_OCTETS:
            await asyncio.sleep(0.01)
    await spool.close()


def test_a_log_stays_short_where_there_is_little_room_and_where_the_lock_is_not_free(tmp_path, monkeypatch):
    file = tmp_path / schema.FILE
    connection, other = schema.connect(file), schema.connect(file)
    log = file.with_name(f"{file.name}-wal")
    before = log.stat().st_size
    connection.set_busy_handler(None)
    with schema.transaction(other), pytest.raises(apsw.BusyError):
        schema.lengthen_log(connection, file)
    monkeypatch.setattr(schema, "_LOG_SHARE", 1 << 40)
    assert not schema.lengthen_log(connection, file)
    assert log.stat().st_size == before
    connection.close()
    other.close()


TERMS = [
    Terms(Deadline(4e9, ByMode.NOTIFY, trace=True)),
    Terms(hold_until=1.5),
    Terms(priority=-9),
    Terms(require_tls=True),
    Terms(Deadline(4e9, ByMode.RETURN), 1.5, 9, require_tls=True),
]


@pytest.mark.parametrize("terms", TERMS)
async def test_what_the_sender_asked_for_survives_a_restart(tmp_path, terms):
    recipients = (
        Recipient("a@far.example", valid_since=ValidSince(1e9)),
        Recipient("b@far.example", valid_since=ValidSince(2e9, refuse=False)),
        Recipient("c@far.example"),
    )
    envelope = Envelope("a@sender.example", recipients, terms=terms)
    spool, now = SqliteSpool(tmp_path), time.time()
    draft = spool.draft()
    draft.write(b"Subject: x\r\n\r\n")
    routes = (Route(Transport.MX, "far.example"),) * 3
    await spool.commit(draft, Entry(spool.new_id(now), envelope, routes, now, b"", Trace()))
    await spool.close()
    again = SqliteSpool(tmp_path)
    (found,) = await again.due(time.time() + 1, 10, ())
    assert found.envelope == envelope
    await again.close()


@pytest.mark.parametrize("version", range(1, schema.VERSION))
async def test_a_store_of_each_older_version_opens_with_its_mail(tmp_path, version):
    """Records of the first version end before what was added later."""
    old = apsw.Connection(str(tmp_path / schema.FILE))
    for statements in schema._VERSIONS[:version]:
        old.execute(statements)
    old.execute(f"PRAGMA user_version = {version}")
    number, now = 7 << 16, time.time()
    envelope = (b"a@sender.example", [(b"x@far.example", 0, b"", b"")], "7BIT", False, None, b"")
    trace = [b"session", b"192.0.2.1:25", b"client.example", b"ESMTP", b""]
    pack = msgspec.msgpack.encode
    prefix, body = b"Received: x\r\n", b"Subject: old\r\n\r\nmail\r\n"
    old.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
        (number, pack(envelope), prefix, pack(trace), now - 60, len(body)),
    )
    old.execute("INSERT INTO body VALUES (?, ?)", (number, body))
    old.execute(
        "INSERT INTO recipient (message, number, slot, state, claimed, due, destination, attempts)"
        " VALUES (?, 0, ?, 0, 0, ?, 'mx:far.example', 2)",
        (number, number % SLOTS, now - 1),
    )
    old.close()
    spool = SqliteSpool(tmp_path)
    (found,) = await spool.due(time.time(), 10, ())
    assert found.envelope == Envelope("a@sender.example", (Recipient("x@far.example"),))
    assert found.envelope.terms is NO_TERMS
    (pending,) = found.pending
    assert (pending.route, pending.attempts) == (Route(Transport.MX, "far.example"), 2)
    content = await spool.load(found.id)
    assert b"".join(content.chunks()) == prefix + body
    await spool.close()
    assert schema._version(schema.connect(tmp_path / schema.FILE)) == schema.VERSION
