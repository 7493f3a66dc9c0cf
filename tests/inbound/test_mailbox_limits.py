"""Mailboxes that are full, or take no message as big as this, at the door."""

import os
import time

import pytest

from pillarbox.mail.units import Octets, Seconds
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.users import Overflow, QuotaSettings, UserSettings


@pytest.fixture
def limited(tmp_path, open_office):
    """An office whose mailboxes take 1,000 octets, and a function that fills one of them."""

    def fill(user, octets):
        new = tmp_path / "mail" / user / "new"
        for folder in (new, new.parent / "tmp", new.parent / "cur"):
            folder.mkdir(parents=True)
        (new / "1.old").write_bytes(b"x" * octets)

    async def make(**options):
        (tmp_path / "mail").mkdir()
        quota = {"size_octets": Octets(1000), "grace_s": Seconds(3600), **options}
        domain = DomainSettings(
            deliver=f"maildir:{tmp_path}/mail/{{user}}/.{{tag}}",
            users=["ann", "bob", "postmaster"],
            user={"tim": UserSettings(max_message_octets=Octets(500))},
            quota=QuotaSettings(**quota),
        )
        return await open_office(domains={"example.org": domain}), fill

    return make


MAIL = b"MAIL FROM:<a@sender.example>"
BODY = b"Subject: x\r\n\r\n" + b"x" * 400 + b"\r\n."


async def test_E452_4_a_full_mailbox_within_its_time_of_grace(limited, begin):
    office, fill = await limited()
    fill("ann", 900)
    caller, _ = await begin(office, MAIL + b" SIZE=101")
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"452 4.2.2 ")
    assert (await caller.ask(b"RCPT TO:<ann+tag@example.org>")).startswith(b"452 4.2.2 ")
    assert (await caller.ask(b"RCPT TO:<bob@example.org>")).startswith(b"250 ")
    await caller.ask(b"RSET")
    await caller.ask(MAIL + b" SIZE=100")
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"250 ")


async def test_E552_5_a_full_mailbox_whose_time_of_grace_is_over(limited, begin, tmp_path):
    office, fill = await limited()
    fill("ann", 1000)
    caller, _ = await begin(office, MAIL)
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"452 4.2.2 ")
    long_ago = time.time() - 3601
    os.utime(tmp_path / "mail/ann/pillarbox-over-quota", (long_ago, long_ago))
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"552 5.2.2 ")
    (tmp_path / "mail/ann/new/1.old").unlink()
    (tmp_path / "mail/ann/maildirsize").unlink()
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"250 ")


async def test_E552_5_a_full_mailbox_where_the_sender_shall_know_at_once(limited, begin):
    office, fill = await limited(overflow=Overflow.REJECT)
    fill("ann", 1000)
    caller, _ = await begin(office, MAIL)
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"552 5.2.2 ")


async def test_E452_4_E552_5_a_size_that_was_not_told_counts_at_the_end(limited, begin):
    office, fill = await limited()
    fill("ann", 900)
    caller, _ = await begin(office, MAIL)
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"250 ")
    assert (await caller.ask(b"DATA")).startswith(b"354")
    assert (await caller.ask(BODY)).startswith(b"452 4.2.2 ")
    # one recipient has room: delivery will tell what becomes of the other
    await caller.ask(MAIL)
    for name in (b"ann", b"bob"):
        assert (await caller.ask(b"RCPT TO:<%s@example.org>" % name)).startswith(b"250 ")
    await caller.ask(b"DATA")
    assert (await caller.ask(BODY)).startswith(b"250 ")


async def test_E552_4_a_message_too_big_for_its_only_recipient_at_the_end(limited, begin):
    office, _ = await limited()
    caller, _ = await begin(office, MAIL, b"RCPT TO:<tim@example.org>")
    await caller.ask(b"DATA")
    assert (await caller.ask(BODY)).startswith(b"250 ")
    await caller.ask(MAIL)
    await caller.ask(b"RCPT TO:<tim@example.org>")
    await caller.ask(b"DATA")
    assert (await caller.ask(BODY[:-1] + b"x" * 100 + b"\r\n.")).startswith(b"552 5.2.3 ")


async def test_a_mailbox_that_does_not_exist_yet_has_room_for_what_fits(limited, begin):
    office, _ = await limited()
    caller, _ = await begin(office, MAIL + b" SIZE=1000")
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"250 ")
    await caller.ask(b"RSET")
    await caller.ask(MAIL + b" SIZE=1001")
    assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"552 5.2.2 ")
