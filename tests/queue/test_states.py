"""Each state of docs/explanation/message-states.md: crash in it, open the store again, look."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import SpoolError, State
from pillarbox.queue.sqlite import SqliteSpool

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "message-states.md"
STATES = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
LARGE = 100_000
FAR = 4e9

# Brings a message into a state and dies there, by `os._exit`, as hard as kill -9. What was acknowledged is printed.
CHILD = textwrap.dedent("""
    import asyncio, os, sys, time
    from pathlib import Path
    from pillarbox.mail.catalogue import delivery
    from pillarbox.mail.envelope import Envelope, Recipient
    from pillarbox.mail.reply import Origin, Result, Stage
    from pillarbox.mail.route import Route, Transport
    from pillarbox.queue import drafts, sqlite, workplace, writing
    from pillarbox.queue.ledger import Ledger
    from pillarbox.queue.spool import Change, Entry, State, Trace, format_id

    def die(*_):
        os._exit(9)

    def die_after(function):
        def called(*values):
            function(*values)
            die()
        return called

    async def main(root, state, octets):
        spool = sqlite.SqliteSpool(root)
        await spool.prune(0)  # all threads are at work
        draft = spool.draft()
        draft.write(b"x" * octets)
        if state.startswith("receiving"):
            die()
        if state == "draft-synced":
            Path.rename = die
        if state == "body-renamed":
            drafts.sync_folder = die
        if state == "body-kept":
            writing.arrive = die
        if state == "rows-written":  # a transaction of several steps, as one is that writes not only new messages
            writing.arrive = lambda *_: False
            writing.apply = die_after(writing.apply)
        if state == "committed":
            workplace.InThread.answer = die
        entry = Entry(spool.new_id(time.time()), Envelope("a@example.org", (Recipient("b@example.net"),)),
                      (Route(Transport.MX, "example.net"),), time.time(), b"", Trace(), state == "held")
        queued = await spool.commit(draft, entry)
        print(format_id(entry.id), flush=True)
        if state in ("claimed", "attempting", "held"):
            die()
        result = Result(delivery.TIMEOUT.reply(host="h", detail="MAIL"), Stage.MAIL, Origin.LOCAL)
        if state == "outcome-written":
            writing.apply = die_after(writing.apply)
        if state == "finished":
            drafts.Bodies.remove = die
        if state in ("deferred", "bouncing"):
            await spool.record([Change(entry.id, 0, State.QUEUED, 2e9, 1, result=result)])
            if state == "bouncing":
                Ledger(root).apply_verb("bounce", message=entry.id)
        elif state == "damaged":
            queued.content.path.unlink() if queued.content.path else None
            await spool.release(queued.pending)
        else:
            await spool.record([Change(entry.id, 0, State.DELIVERED, attempts=1)])
            if state == "finished":
                await asyncio.sleep(30)  # until the file thread dies
        if state == "forgotten":
            await spool.prune(time.time() + 10)
        die()

    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
""")

INCOMING = STATES[: STATES.index("committed")]
DUE_AT_ONCE = ("committed", "claimed", "attempting", "outcome-written", "bouncing")
ONLY_LARGE = ("receiving-large", "draft-synced", "body-renamed", "finished", "damaged")


def cases():
    for state in STATES:
        if state not in ONLY_LARGE:
            yield pytest.param(state, 1000, id=f"{state}-inline")
        if state != "receiving-small":
            yield pytest.param(state, LARGE, id=f"{state}-file")


@pytest.mark.parametrize(("state", "octets"), list(cases()))
async def test_a_crash_in_any_state_is_put_right(tmp_path, state, octets):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path, state, str(octets)],
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert child.returncode == 9
    acknowledged = child.stdout.decode().split()
    assert bool(acknowledged) == (state not in (*INCOMING, "committed"))

    spool = SqliteSpool(tmp_path)
    due_now = await spool.due(time.time(), 9, ())
    due_later = await spool.due(FAR, 9, ())
    assert len(due_now) == (state in DUE_AT_ONCE)
    assert len(due_later) == (state == "deferred")
    for queued in due_now + due_later:
        assert b"".join((await spool.load(queued.id)).chunks()) == b"x" * octets
        assert queued.pending[0].bounce == (state == "bouncing")
    await spool.close()

    with Ledger(tmp_path) as ledger:
        found = [one for wanted in State for one in ledger.list_messages(states=[wanted])]
        assert [one.queue_id for one in found] == acknowledged[: state != "forgotten"] or state == "committed"
        open_ = [one for one in found if one.recipients[0].state <= State.HELD]
        if state == "damaged":
            assert found[0].recipients[0].state == State.DAMAGED
        if state in ("finished", "emptied"):
            with pytest.raises(SpoolError):
                ledger.content(found[0].id)
    files = [
        file for folder in ("drafts", "bodies") for file in (tmp_path / folder).rglob("*") if file.is_file()
    ]
    assert len(files) == (len(open_) if octets == LARGE else 0)
