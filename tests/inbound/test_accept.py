"""The door: what becomes of a letter between its last octet and the queue."""

import asyncio

import pytest

from pillarbox.inbound.accept import Accepted, Letter
from pillarbox.mail.address import parse_address
from pillarbox.mail.catalogue import content
from pillarbox.mail.envelope import Envelope, Notify, Recipient
from pillarbox.mail.route import parse_route
from pillarbox.policy.hooks import Client
from pillarbox.policy.names import Target
from pillarbox.policy.rules import Role
from pillarbox.smtp.events import RcptTo

HEAD = b"Subject: x\r\n\r\n"


@pytest.fixture
async def office(open_office):
    return await open_office()


def letter(office, *recipients, role=Role.MX, login="", body=HEAD + b"body\r\n"):
    """A complete letter; each recipient is an address, or one with the addresses that it stands for."""
    made = Letter(
        Client("s-1", "192.0.2.1", 25, role, "client.example", login=login), "ESMTP", "a@sender.example"
    )
    for recipient in recipients:
        address, *targets = (recipient,) if isinstance(recipient, str) else recipient
        asked = RcptTo(parse_address(address), Notify.DELAY, f"rfc822;{address}")
        found = tuple(Target(target, parse_route("hold")) for target in targets or [address])
        made.recipients.append(Accepted(asked, address, found))
    made.draft = office.door.draft()
    made.draft.write(body)
    made.keep_head(body, 10_000)
    return made


async def test_a_letter_is_kept_before_it_is_acknowledged(office):
    reply = await office.door.admit(letter(office, "alice@example.org"))
    assert reply.cause is content.QUEUED
    (entry,) = office.queued
    octets, found = await office.stored()
    assert octets.startswith(b"Received: from client.example ([192.0.2.1])")
    assert b"for <alice@example.org>" in octets
    assert octets.endswith(HEAD + b"body\r\n")
    assert found.recipients == (Recipient("alice@example.org", Notify.DELAY, "rfc822;alice@example.org"),)
    assert reply.text == f"Queued as {reply.text.split()[-1]}"
    assert entry.envelope == found


async def test_each_address_is_kept_once_in_the_order_of_the_client(office):
    sent = letter(
        office,
        "bob@example.org",
        ("team@example.org", "alice@example.org", "bob@example.org"),
        "alice@example.org",
    )
    await office.door.admit(sent)
    octets, found = await office.stored()
    assert [recipient.address for recipient in found.recipients] == ["bob@example.org", "alice@example.org"]
    assert [recipient.original for recipient in found.recipients] == ["", "team@example.org"]
    assert b"for <" not in octets, "the trace must not tell one recipient of the others"


@pytest.mark.parametrize(
    ("role", "login", "completed"),
    [
        (Role.MX, "", False),
        (Role.RELAY, "", False),
        (Role.SUBMISSION, "alice", True),
        (Role.MX, "alice", True),
    ],
)
async def test_what_users_leave_out_is_added_and_for_others_nothing_is(office, role, login, completed):
    await office.door.admit(letter(office, "x@example.org", role=role, login=login))
    octets, _ = await office.stored()
    assert (b"\r\nDate: " in octets) is completed
    assert (b"\r\nMessage-ID: <" in octets) is completed


async def test_a_body_without_any_header_and_an_empty_one_are_kept(office):
    for body in (b"\r\nbody\r\n", b"no header at all", b"\r\n"):
        assert (await office.door.admit(letter(office, "x@example.org", body=body))).cause is content.QUEUED
    assert (await office.stored(1))[0].endswith(b"no header at all")


async def test_a_queue_manager_with_a_bug_does_not_keep_the_client_waiting(
    office, monkeypatch, expected_incidents
):
    monkeypatch.setattr(office.door, "_offer", lambda _queued: 1 / 0)
    reply = await asyncio.wait_for(office.door.admit(letter(office, "x@example.org")), 20)
    assert reply.cause is content.QUEUED
    (facts,) = expected_incidents()
    assert "ZeroDivisionError" in facts["error"]


async def test_the_client_has_its_answer_before_the_queue_takes_the_letter(office, monkeypatch):
    answered_by_then = []
    monkeypatch.setattr(office.hooks, "wanted", frozenset())  # no hook delays the answer
    monkeypatch.setattr(office.door, "_offer", lambda _queued: answered_by_then.append(answer.done()))
    answer = office.door.admit(letter(office, "x@example.org"))
    await answer
    assert answered_by_then == [True]


async def test_a_report_of_ours_is_made_ready_with_routes_of_its_own(office):
    report = Envelope("", (Recipient("alice@example.org"), Recipient("x@elsewhere.example")))
    draft, entry = office.door.prepare_report(report, HEAD, 1_700_000_000.0)
    assert draft.inline() == HEAD
    assert entry.envelope.sender == ""
    assert [str(route) for route in entry.routes] == ["hold:", "mx:elsewhere.example"]
    assert all(recipient.notify is Notify.NEVER for recipient in entry.envelope.recipients)
    assert entry.prefix.startswith(b"Received: ")


async def test_a_header_that_trickles_in_is_found_wherever_it_is_cut():
    for size in range(1, 20):
        made = Letter(Client("s", "local", 0, Role.MX), "ESMTP", "")
        wire = b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\nmore"
        for at in range(0, len(wire), size):
            if not made.head_complete:
                made.keep_head(wire[at : at + size], 1000)
        assert made.head_complete
        assert bytes(made.head).startswith(b"A: 1\r\nB: 2\r\n\r\n")


async def test_what_is_remembered_of_a_header_is_bounded():
    made = Letter(Client("s", "local", 0, Role.MX), "ESMTP", "")
    while not made.head_complete:
        made.keep_head(b"x" * 700, 1000)
    assert 1000 < len(made.head) <= 1700
