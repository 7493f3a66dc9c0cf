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


# --- since when a recipient is known, by a header field (RFC 7293 4.2); carol has her address since June 2024


async def given(caller, recipients, *fields):
    """The reply to a message with these fields."""
    await caller.ask(b"MAIL FROM:<a@sender.example>")
    for recipient in recipients:
        assert (await caller.ask(b"RCPT TO:%s" % recipient)).startswith(b"250 ")
    await caller.ask(b"DATA")
    return await caller.ask(b"".join(b"%s\r\n" % field for field in (*fields, b"Subject: x")) + b"\r\nx\r\n.")


def known(address, year):
    return b"Require-Recipient-Valid-Since: %s;\r\n Sat, 1 Jun %d 09:23:01 -0700" % (address, year)


async def test_E550_5_the_owner_of_the_only_recipient_has_changed(open_office, begin):
    office = await open_office()
    caller, _ = await begin(office)
    assert (await given(caller, [b"<carol@example.org>"], known(b"Carol@example.org", 2023))).startswith(
        b"550 5.7.17 "
    )
    assert (await given(caller, [b"<alice@example.org>"], known(b"alice@example.org", 2013))).startswith(
        b"550 5.7.18 "
    )
    assert not office.queued


@pytest.mark.parametrize(
    "field",
    [
        known(b"carol@example.org", 2025),
        known(b"bob@example.org", 2013),
        known(b"nonsense", 2013),
        b"Require-Recipient-Valid-Since: carol@example.org; long ago",
        b"Require-Recipient-Valid-Since:",
    ],
)
async def test_other_fields_refuse_nobody(open_office, begin, field):
    caller, _ = await begin(await open_office())
    assert (await given(caller, [b"<carol@example.org>"], field)).startswith(b"250 ")


async def test_what_rcpt_says_counts_more_than_the_field(open_office, begin):
    caller, _ = await begin(await open_office(extensions={"rrvs": "on"}))
    recipient = b"<carol@example.org> RRVS=2025-01-01T00:00:00Z"
    assert (await given(caller, [recipient], known(b"carol@example.org", 2013))).startswith(b"250 ")


async def test_one_of_several_recipients_is_another_owner(open_office, begin):
    office = await open_office()
    caller, _ = await begin(office)
    fields = (known(b"carol@example.org", 2023), known(b"bob@example.org", 2023))
    to = [b"<%s@example.org>" % name for name in (b"alice", b"bob", b"carol")]
    assert (await given(caller, to, *fields)).startswith(b"250 ")
    (refused,) = office.queued[0].pending  # the others are held, as configured
    assert refused.recipient.address == "carol@example.org"
    assert refused.route == Route(Transport.REFUSE, "extensions.owner_changed")
    _, envelope = await office.stored()
    assert [one.valid_since is not None for one in envelope.recipients] == [False, True, True]


async def test_of_several_moments_for_one_address_the_first_counts(open_office, begin):
    caller, _ = await begin(await open_office())
    fields = [known(b"carol@example.org", year) for year in (2025, 2023, 2025)]
    assert (await given(caller, [b"<carol@example.org>"], *fields)).startswith(b"550 5.7.17 ")


async def test_the_received_field_tells_the_priority(open_office, begin):
    office = await open_office(extensions={"mt_priority": "on"})
    caller, _ = await begin(office)
    await caller.ask(b"MAIL FROM:<a@sender.example> MT-PRIORITY=-4")
    await caller.ask(b"RCPT TO:<bob@example.org>")
    await caller.ask(b"DATA")
    await caller.ask(b"Subject: x\r\n\r\nx\r\n.")
    octets, _ = await office.stored()
    assert b"\r\n\tPRIORITY -4;\r\n" in octets
