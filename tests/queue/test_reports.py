"""Writing the report about a message: whatever the message is like, its sender is told, and others are not held up."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.diagnose.causes import peer_causes
from pillarbox.mail import dsn
from pillarbox.mail.envelope import Envelope, Notify, Recipient
from pillarbox.mail.notice import ReportedRecipient, ReportKind
from pillarbox.mail.reply import Origin, Result, Stage, parse_reply
from pillarbox.mail.route import Route, Transport
from pillarbox.queue import reports
from pillarbox.queue.outcome import History, settle
from pillarbox.queue.schedule import RetrySettings
from pillarbox.queue.spool import Content, Pending, Queued

NOW = 1_764_000_000.0
UNKNOWN = Result(parse_reply([b"550 5.1.1 No such user"]), Stage.RCPT, Origin.PEER, "mx.example.net")


def told_of(count):
    return [
        ReportedRecipient(Recipient(f"user{number}@example.net"), ReportKind.FAILED, UNKNOWN, NOW)
        for number in range(count)
    ]


def about(told, content):
    envelope = Envelope("alice@example.org", tuple(one.recipient for one in told))
    return Queued(1234567890, envelope, NOW, [], content)


async def written(told, content):
    return await reports.write(about(told, content), told, content, hostname="mx.example.org", now=NOW)


@pytest.mark.parametrize("readable", [True, False])
async def test_a_message_that_cannot_be_read_any_more_is_reported_without_showing_it(tmp_path, readable):
    path = tmp_path / "body"
    if readable:
        path.write_bytes(b"Subject: large\r\n\r\nbody\r\n")
    envelope, octets = await written(told_of(1), Content(b"Received: here\r\n", None, path, 100_000))
    assert envelope.recipients == (Recipient("alice@example.org", Notify.NEVER),)
    found = dsn.parse(octets)
    assert [one.address for one in found.recipients] == ["user0@example.net"]
    assert (found.original is not None) == readable


async def test_a_report_on_thousands_of_recipients_holds_up_nobody():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    told = told_of(10_000)
    at_work = asyncio.create_task(others())
    _, octets = await written(told, Content(b"", b"Subject: hi\r\n\r\nbody\r\n", None, 22))
    at_work.cancel()
    assert turns > 0
    assert octets.count(b"Final-Recipient:") == 10_000


def told_by(text: str, stage: Stage = Stage.RCPT):
    """What the sender is told of a recipient after this reply, tried often enough."""
    history = History(9, NOW, delay_notified=False, sender="alice@example.org", notify=Notify.UNSAID)
    result = Result(parse_reply([text.encode()]), stage, Origin.PEER, "mx.example.net")
    verdict = settle(result, history, RetrySettings(), NOW + 5 * 86400)
    pending = Pending(1, 0, Recipient("user0@example.net"), Route(Transport.MX, "example.net"), NOW)
    return reports.tell(pending, verdict, NOW, NOW)


async def test_T11_who_may_try_later_is_told_so(tmp_path):
    text = "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages"
    told = told_by(f"{text} from being delivered. - gsmtp")
    assert told.kind is ReportKind.FAILED
    _, octets = await written([told], Content(b"", b"Subject: hi\r\n\r\nbody\r\n", None, 22))
    words = b" ".join(octets.split())
    cause = peer_causes()["mailbox.busy"]
    assert cause.meaning.encode() in words
    assert cause.advice.encode() in words


async def test_a_guess_is_not_told_as_if_it_were_known():
    assert told_by("550 no thanks, maybe blocked").reason is None


async def test_a_guess_that_blames_nobody_is_told():
    told = told_by("450 4.7.1 greylisted, try later")
    _, octets = await written([told], Content(b"", b"Subject: hi\r\n\r\nbody\r\n", None, 22))
    words = b" ".join(octets.split())
    assert peer_causes()["greylisted"].meaning.encode() in words
    assert b"block list" not in words


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("550 5.1.1 No such user", "mailbox.unknown"),
        ("450 4.7.1 greylisted", "greylisted"),
        ("599 \x07", "peer"),
    ],
)
async def test_a_report_says_the_cause_that_was_found(text, cause):
    _, octets = await written([told_by(text)], Content(b"", b"Subject: hi\r\n\r\nbody\r\n", None, 22))
    assert [one.cause for one in dsn.parse(octets).recipients] == [cause]


@pytest.mark.parametrize(
    ("text", "stage", "status"),
    [
        ("521 no mail here", Stage.GREETING, "5.3.2"),
        ("556 domain takes no mail", Stage.RCPT, "5.1.10"),
        ("555 SIZE?", Stage.MAIL, "5.5.4"),
        ("550 no", Stage.RCPT, "5.0.0"),
        ("550 5.1.1 no", Stage.RCPT, "5.1.1"),
    ],
)
async def test_a_reply_without_status_gets_the_one_that_its_standard_pairs_it_with(text, stage, status):
    _, octets = await written([told_by(text, stage)], Content(b"", b"Subject: hi\r\n\r\nbody\r\n", None, 22))
    assert [one.status for one in dsn.parse(octets).recipients] == [status]
