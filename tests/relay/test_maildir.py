import asyncio
import os
import stat
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from pillarbox.mail.envelope import Body, Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.policy.users import Mailbox, Overflow, Quota
from pillarbox.queue.spool import Content, Pending, Queued, format_id
from pillarbox.relay.local import LocalCouriers, LocalSettings


def make_queued(route, body=b"Subject: hi\r\n\r\nbody\r\n", *, number=0, path=None, **changes):
    facts = {"received_at": time.time() + 60, "attempts": 0, "message": 0x123456789, **changes}
    recipient = Recipient("alice+tag@example.org")
    envelope = Envelope("bob@example.net", (recipient,), facts.get("kind", Body.SEVEN_BIT))
    pending = Pending(facts["message"], number, recipient, route, 0.0, facts["attempts"])
    content = Content(b"Received: x\r\n", None if path else body, path, len(body))
    return Queued(facts["message"], envelope, facts["received_at"], [pending], content)


@pytest.fixture
async def couriers():
    made = LocalCouriers(LocalSettings(), hostname="mx/1:x.example.org")
    yield made
    await made.close()


@pytest.fixture
def route(tmp_path):
    return Route(Transport.MAILDIR, f"{tmp_path}/./alice")


async def deliver(couriers, queued):
    results = await couriers(queued.pending[0].route).deliver(queued)
    assert list(results) == [queued.pending[0].number]
    return results[queued.pending[0].number].reply


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


async def test_a_message_lands_in_new_with_the_fields_of_final_delivery(couriers, route, tmp_path):
    queued = make_queued(route)
    reply = await deliver(couriers, queued)
    assert reply.cause_id == "delivery.delivered"
    (file,) = files(tmp_path)
    assert file.parent == tmp_path / "alice" / "new"
    assert file.name == f"{int(queued.received_at)}.Q{format_id(queued.id)}R0.mx\\0571\\072x.example.org"
    assert file.read_bytes() == (
        b"Return-Path: <bob@example.net>\nDelivered-To: alice+tag@example.org\n"
        b"Received: x\nSubject: hi\n\nbody\n"
    )
    for name in ("", "tmp", "new", "cur"):
        assert stat.S_IMODE((tmp_path / "alice" / name).stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_nested_folders_are_made_but_the_root_must_exist(couriers, tmp_path):
    deep = Route(Transport.MAILDIR, f"{tmp_path}/./example.org/alice/.work")
    assert (await deliver(couriers, make_queued(deep))).positive
    assert len(files(tmp_path / "example.org" / "alice" / ".work" / "new")) == 1
    missing = Route(Transport.MAILDIR, f"{tmp_path}/gone/./alice")
    reply = await deliver(couriers, make_queued(missing))
    assert reply.cause_id == "delivery.mailbox_failed"
    assert not (tmp_path / "gone").exists()


JUNK = b"Authentication-Results: mx.test; dmarc=fail\r\nX-Spam-Flag: YES\r\n"


@pytest.mark.parametrize("below", ["alice", "alice/.lists"])
async def test_junk_goes_into_a_folder_of_the_mailbox(tmp_path, below):
    couriers = LocalCouriers(LocalSettings(), hostname="mx.test", junk_folder=".Junk")
    route = Route(Transport.MAILDIR, f"{tmp_path}/./{below}")
    queued = make_queued(route)
    queued.content = msgspec.structs.replace(queued.content, prefix=JUNK)
    assert (await deliver(couriers, queued)).positive
    (file,) = (tmp_path / "alice" / ".Junk" / "new").iterdir()
    assert b"X-Spam-Flag: YES\n" in file.read_bytes()
    said_by_others = make_queued(route, b"X-Spam-Flag: YES\r\n\r\nbody\r\n", number=1)
    assert (await deliver(couriers, said_by_others)).positive
    assert len(list((tmp_path / below / "new").iterdir())) == 1
    await couriers.close()


async def test_large_and_binary_content(couriers, route, tmp_path):
    body = b"x" * 262142 + b"\r\n\r\r\n" + b"y\r" * 10
    file = tmp_path / "body"
    file.write_bytes(body)
    assert (await deliver(couriers, make_queued(route, body, path=file))).positive
    (stored,) = files(tmp_path / "alice")
    assert stored.read_bytes().partition(b"Received: x\n")[2] == body.replace(b"\r\n", b"\n")
    queued = make_queued(route, body, path=file, kind=Body.BINARY, message=77)
    assert (await deliver(couriers, queued)).positive
    assert any(
        stored.read_bytes().endswith(b"Received: x\r\n" + body) for stored in files(tmp_path / "alice")
    )


@pytest.mark.parametrize("folder", ["new", "cur"])
async def test_a_second_attempt_makes_no_second_copy(couriers, route, tmp_path, folder):
    first = make_queued(route, received_at=1000.0)  # before this process began, as after a crash
    assert (await deliver(couriers, first)).positive
    (file,) = files(tmp_path)
    if folder == "cur":
        file = file.rename(tmp_path / "alice" / "cur" / f"{file.name}:2,S")
    before = file.read_bytes()
    assert (await deliver(couriers, make_queued(route, received_at=1000.0, attempts=1))).positive
    assert (await deliver(couriers, make_queued(route, received_at=1000.0))).positive
    assert files(tmp_path) == [file]
    assert file.read_bytes() == before
    other = make_queued(route, received_at=1000.0, number=1)  # another recipient of the same message
    assert (await deliver(couriers, other)).positive
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("link", ["alice", "alice/tmp", "alice/new"])
async def test_symbolic_links_lead_nowhere(couriers, route, tmp_path, link):
    outside = tmp_path / "outside"
    for name in ("tmp", "new", "cur"):
        (outside / name).mkdir(parents=True)
        if link != "alice":
            (tmp_path / "alice" / name).mkdir(parents=True)
    place = tmp_path / link
    if place.exists():
        place.rmdir()
    place.symlink_to(outside if link == "alice" else outside / place.name)
    reply = await deliver(couriers, make_queued(route))
    assert reply.cause_id == "delivery.mailbox_failed"
    assert files(tmp_path) == []


async def test_a_link_above_the_root_is_the_operators_own(couriers, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "mail").symlink_to(tmp_path / "real")
    assert (
        await deliver(couriers, make_queued(Route(Transport.MAILDIR, f"{tmp_path}/mail/./alice")))
    ).positive
    assert len(files(tmp_path / "real" / "alice")) == 1


async def test_a_planted_final_name_is_replaced_not_followed(couriers, route, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    queued = make_queued(route)
    assert (await deliver(couriers, queued)).positive
    (file,) = files(tmp_path / "alice")
    file.unlink()
    file.symlink_to(victim)
    assert (await deliver(couriers, queued)).positive
    assert victim.read_text() == "untouched"
    assert not file.is_symlink()


async def test_a_folder_that_was_replaced_is_noticed(couriers, route, tmp_path):
    courier = couriers(route)
    await courier.deliver(make_queued(route, message=1 << 7))
    (tmp_path / "alice").rename(tmp_path / "alice.old")
    await courier.deliver(make_queued(route, message=2 << 7))
    assert len(files(tmp_path / "alice")) == 1


async def test_many_at_once_share_a_new_folder(couriers, route, tmp_path):
    many = [couriers(route).deliver(make_queued(route, message=number << 7)) for number in range(1, 101)]
    results = [result for answer in await asyncio.gather(*many) for result in answer.values()]
    assert {result.reply.cause_id for result in results} == {"delivery.delivered"}
    assert len(list((tmp_path / "alice" / "new").iterdir())) == 100
    assert list((tmp_path / "alice" / "tmp").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_defers_and_leaves_nothing_behind(couriers, small_disk):
    route = Route(Transport.MAILDIR, f"{small_disk}/./alice")
    assert (await deliver(couriers, make_queued(route, message=5 << 7))).positive
    reply = await deliver(couriers, make_queued(route, b"x" * 300_000, message=6 << 7))
    assert reply.cause_id == "delivery.mailbox_disk_full"
    assert reply.temporary
    assert len(files(small_disk)) == 1
    assert (await deliver(couriers, make_queued(route, message=6 << 7))).positive


async def test_a_damaged_body_file_is_a_failure_not_a_message(couriers, route, tmp_path):
    reply = await deliver(couriers, make_queued(route, path=tmp_path / "missing"))
    assert reply.cause_id == "delivery.mailbox_failed"
    assert files(tmp_path) == []


async def test_discard_and_unknown_routes(couriers):
    queued = make_queued(Route(Transport.DISCARD))
    assert (await deliver(couriers, queued)).positive
    for route in (
        Route(Transport.PIPE, "none"),
        Route(Transport.WEBHOOK, "none"),
        Route(Transport.MX, "a.example"),
    ):
        with pytest.raises(ValueError, match="nothing on this host"):
            couriers(route)


async def test_a_bug_becomes_a_temporary_result(couriers, route):
    queued = make_queued(route)
    queued.content = None
    reply = await deliver(couriers, queued)
    assert reply.cause_id == "delivery.internal_error"


@pytest.fixture
async def limited(tmp_path):
    """Couriers to a mailbox with a quota; `limited.append` sets another one."""
    quotas = [Quota(f"{tmp_path}/./alice", 1000, 0, 0, Overflow.TEMP, 3600.0)]
    made = LocalCouriers(
        LocalSettings(),
        hostname="mx.example.org",
        mailbox_of=lambda address: Mailbox(address, max_message_octets=800, quota=quotas[-1]),
    )
    yield made, quotas
    await made.close()


async def test_deliveries_are_counted_and_names_tell_the_size(limited, route, tmp_path):
    couriers, _ = limited
    assert (await deliver(couriers, make_queued(route))).positive
    (file,) = (tmp_path / "alice" / "new").iterdir()
    octets = file.stat().st_size
    assert file.name.endswith(f",S={octets}")
    assert (tmp_path / "alice" / "maildirsize").read_text() == f"1000S\n0 0\n{octets} 1\n"
    tagged = Route(Transport.MAILDIR, f"{tmp_path}/./alice/.work")
    assert (await deliver(couriers, make_queued(tagged, message=7))).positive
    assert (tmp_path / "alice" / "maildirsize").read_text() == f"1000S\n0 0\n{octets} 1\n{octets} 1\n"
    assert not (tmp_path / "alice" / ".work" / "maildirsize").exists()


async def test_a_copy_that_does_not_fit_is_put_off_and_leaves_nothing(limited, route, tmp_path):
    couriers, quotas = limited
    body = b"Subject: hi\r\n\r\n" + b"x" * 700
    assert (await deliver(couriers, make_queued(route, body))).positive
    again = make_queued(route, body, message=8)
    assert (await deliver(couriers, again)).cause_id == "mailbox.full_for_now"
    quotas.append(Quota(f"{tmp_path}/./alice", 1000, 0, 0, Overflow.REJECT, 3600.0))
    assert (await deliver(couriers, again)).cause_id == "mailbox.full"
    assert len(list((tmp_path / "alice" / "new").iterdir())) == 1
    assert not list((tmp_path / "alice" / "tmp").iterdir())


async def test_a_copy_bigger_than_the_mailbox_takes(limited, route, tmp_path):
    couriers, _ = limited
    reply = await deliver(couriers, make_queued(route, b"Subject: hi\r\n\r\n" + b"x" * 800))
    assert (reply.cause_id, reply.status) == ("mailbox.message_too_big", "5.2.3")
    assert not (tmp_path / "alice").exists()


async def test_a_second_attempt_is_not_counted_twice(limited, route, tmp_path):
    couriers, _ = limited
    at = time.time() + 60  # of the message, which becomes part of its name
    assert (await deliver(couriers, make_queued(route, received_at=at))).positive
    assert (await deliver(couriers, make_queued(route, received_at=at, attempts=1))).positive
    (file,) = (tmp_path / "alice" / "new").iterdir()
    assert (await deliver(couriers, make_queued(route, message=9))).positive
    octets = file.stat().st_size
    assert (tmp_path / "alice" / "maildirsize").read_text() == f"1000S\n{octets} 1\n{octets} 1\n"
    file.rename(tmp_path / "alice" / "cur" / f"{file.name}:2,S")
    assert (
        await deliver(couriers, make_queued(route, received_at=at, attempts=1))
    ).text == "Already in the mailbox"
