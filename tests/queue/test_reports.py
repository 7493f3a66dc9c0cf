"""Writing the report about a message: whatever the message is like, its sender is told, and others are not held up."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.mail import dsn
from pillarbox.mail.envelope import Envelope, Notify, Recipient
from pillarbox.mail.notice import ReportedRecipient, ReportKind
from pillarbox.mail.reply import Origin, Result, Stage, parse_reply
from pillarbox.queue import reports
from pillarbox.queue.spool import Content, Queued

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
