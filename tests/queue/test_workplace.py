"""A store whose writer has a process of its own: what differs from a thread."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.queue.conftest import in_process

from pillarbox.queue.spool import SpoolError

FAR = time.time() + 10_000


@pytest.fixture
def engine():
    return in_process


def stop(spool):
    os.kill(spool._writer._pid, signal.SIGSTOP)


def go_on(spool):
    os.kill(spool._writer._pid, signal.SIGCONT)


async def test_what_the_writer_does_not_take_yet_waits_and_is_written(spool, store):
    stop(spool)
    commits = [
        asyncio.ensure_future(store(body=b"x" * 60_000)) for _ in range(100)
    ]  # more than a socket holds
    while spool._fresh or len(spool._waiting) < 100:
        await asyncio.sleep(0)
    assert spool._writer._unsent
    assert spool.waiting_octets == 100 * 60_000
    go_on(spool)
    queued = await asyncio.gather(*commits)
    assert spool.waiting_octets == 0
    for one in queued:
        assert (await spool.load(one.id)).body_octets == 60_000


async def test_what_has_come_is_written_together_even_if_it_is_large(spool, store, monkeypatch):
    await store()
    results = []
    take = spool._writer._take
    monkeypatch.setattr(spool._writer, "_take", lambda result: (results.append(result), take(result)))
    stop(spool)
    commits = [asyncio.ensure_future(store(body=b"x" * 60_000)) for _ in range(64)]
    while spool._fresh or len(spool._waiting) < 64:
        await asyncio.sleep(0)
    go_on(spool)
    await asyncio.gather(*commits)
    assert sum(len(result.answers) for result in results) == 64
    assert len(results) <= 8


async def test_a_store_is_closed_only_when_all_that_waits_is_written(spool, store):
    stop(spool)
    commits = [asyncio.ensure_future(store(body=b"x" * 60_000)) for _ in range(100)]
    while spool._fresh or len(spool._waiting) < 100:
        await asyncio.sleep(0)
    closed = asyncio.ensure_future(spool.close())
    await asyncio.sleep(0)
    go_on(spool)
    await closed
    assert all(commit.done() for commit in commits)
    assert len({(await commit).id for commit in commits}) == 100


async def test_when_the_writer_dies_while_the_store_is_closed_nothing_is_promised(spool, store):
    stop(spool)
    late = asyncio.ensure_future(store())
    while not spool._waiting:
        await asyncio.sleep(0)
    closed = spool.close()
    while not spool._writer._ending:
        await asyncio.sleep(0.001)
    os.kill(spool._writer._pid, signal.SIGKILL)
    await closed
    with pytest.raises(SpoolError):
        await late


async def test_what_cannot_be_sent_to_the_writer_fails_and_nothing_else(spool, store):
    with pytest.raises(SpoolError):
        await spool._call(lambda writer: writer)
    queued = await store()
    assert (await spool.load(queued.id)).body_octets


# Commits a message by a writer's process that it has forked, tells both process ids, and waits.
SERVER = textwrap.dedent("""
    import asyncio, os, sys, time
    from pathlib import Path
    from pillarbox.mail.envelope import Envelope, Recipient
    from pillarbox.mail.route import Route, Transport
    from pillarbox.queue import workplace
    from pillarbox.queue.spool import Entry, Trace
    from pillarbox.queue.sqlite import SqliteSpool

    async def main(process):
        spool = SqliteSpool(Path(sys.argv[1]), process)
        draft = spool.draft()
        draft.write(b"x")
        entry = Entry(spool.new_id(time.time()), Envelope("a@example.org", (Recipient("b@example.net"),)),
                      (Route(Transport.MX, "example.net"),), time.time(), b"", Trace())
        await spool.commit(draft, entry)
        print(process._pid, flush=True)
        await asyncio.sleep(3600)

    asyncio.run(main(workplace.fork()))
""")


async def test_when_the_writer_dies_its_server_ends(tmp_path, engine, until):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.kill(int(server.stdout.readline()), signal.SIGKILL)
    _, said = server.communicate()
    assert server.returncode == os.EX_SOFTWARE
    assert b"the process that writes to the store has died" in said
    spool = engine(tmp_path)
    assert len(await spool.due(FAR, 9, ())) == 1
    await spool.close()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("prefix", [[], ["sh", "-c", 'exec "$@" <&-', "sh"]], ids=["", "no-input"])
async def test_the_process_ends_with_its_server_but_not_by_a_signal_to_it(
    tmp_path, until, engine, sign, prefix
):
    server = subprocess.Popen([*prefix, sys.executable, "-c", SERVER, tmp_path], stdout=subprocess.PIPE)
    pid = int(server.stdout.readline())
    (ignored,) = re.findall(r"^SigIgn:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert all(
        int(ignored, 16) >> number - 1 & 1 for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    )
    server.send_signal(sign)
    server.wait()
    assert server.stdout.read() == b""  # both have let go of it
    server.stdout.close()
    await until(lambda: not (tmp_path / "workers").exists() or not list((tmp_path / "workers").iterdir()))
    spool = engine(tmp_path)
    assert len(await spool.due(FAR, 9, ())) == 1
    await spool.close()
