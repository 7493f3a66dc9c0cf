"""What depends on the store: a message to be held while it can't be written, and a node whose mail is too much to count."""

import time

import apsw
import pytest

from pillarbox.inbound.etrn import MOST_COUNTED, EtrnSettings
from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.policy.rules import Role
from pillarbox.queue.spool import Entry, Trace


class ReadOnlyFile(apsw.VFSFile):
    def xWrite(self, data, offset):
        if ReadOnly.on and self.name.endswith("-wal"):
            raise apsw.ReadOnlyError("the disk can only be read")
        return super().xWrite(data, offset)

    def __init__(self, inherit, name, flags):
        self.name = str(name.filename() if isinstance(name, apsw.URIFilename) else name)
        super().__init__(inherit, name, flags)


class ReadOnly(apsw.VFS):
    on = False

    def __init__(self):
        super().__init__("read-only", "", makedefault=True)

    def xOpen(self, name, flags):
        return ReadOnlyFile("unix", name, flags)


@pytest.fixture
def disk():
    """A disk that can be turned to read-only."""
    vfs = ReadOnly()
    yield vfs
    ReadOnly.on = False
    vfs.unregister()


async def test_E455_2_nothing_is_held_while_the_store_can_only_be_read(disk, open_office, begin):
    office = await open_office(
        role=Role.SUBMISSION, login=True, login_in_clear=True, extensions={"futurerelease": "on"}
    )
    caller, _ = await begin(office)
    await caller.ask(b"AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHdvbmRlcmxhbmQ=")
    command = b"MAIL FROM:<alice@example.org> HOLDFOR=60"
    ReadOnly.on = True
    assert (await caller.ask(command)).startswith(b"455 4.5.4 ")
    ReadOnly.on = False
    assert (await caller.ask(command)).startswith(b"250 ")
    await caller.ask(b"RCPT TO:<bob@example.org>")
    await caller.ask(b"DATA")
    assert (await caller.ask(b"Subject: later\r\n\r\nx\r\n.")).startswith(b"250 ")
    _, envelope = await office.stored()
    assert envelope.terms.hold_until == pytest.approx(time.time() + 60, abs=30)


async def test_E252_3_much_mail_for_a_node_is_not_counted(open_office, begin):
    office = await open_office(etrn=EtrnSettings(allow=("far.example",)))
    spool, route = office.spool, Route(Transport.MX, "far.example")
    stored = []
    for _ in range(MOST_COUNTED + 1):
        draft = spool.draft()
        draft.write(b"Subject: x\r\n\r\n")
        now = time.time()
        envelope = Envelope("a@sender.example", (Recipient("x@far.example"),))
        stored.append(spool.commit(draft, Entry(spool.new_id(now), envelope, (route,), now, b"", Trace())))
    for one in stored:
        await spool.release((await one).pending)
    caller, _ = await begin(office)
    assert (
        await caller.ask(b"ETRN far.example")
        == b"252 2.5.0 OK, pending messages for node far.example started\r\n"
    )
