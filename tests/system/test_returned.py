"""Bounces that come back are found in the trace of the message that they are about."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

import pillarbox
from pillarbox.config import parse
from pillarbox.control import suppressions, trace
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State, format_id
from pillarbox.testing import FakeResolver, ScriptedPeer

LIMIT_S = 20
MESSAGE = b"From: me@here.test\r\nMessage-ID: <unique-%d@here.test>\r\nSubject: hi\r\n\r\nhello\r\n"
GONE = "smtp; 550 5.1.1 <u@there.test>: Recipient address rejected: User unknown"


def bounce(*, envid="", returned=b"", recipient="u@there.test", diagnostic=GONE, text="It failed."):
    """A report of another host, as RFC 3464 has it."""
    parts = [
        "Content-Type: text/plain",
        "",
        text,
        "--b",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; mx.there.test",
        *([f"Original-Envelope-Id: {envid}"] if envid else []),
        "",
        f"Final-Recipient: rfc822; {recipient}",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; inner.there.test",
        f"Diagnostic-Code: {diagnostic}",
        "",
    ]
    head = (
        "From: Mail Delivery System <MAILER-DAEMON@mx.there.test>\r\nSubject: Undelivered Mail Returned to Sender\r\n"
        'MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n--b\r\n'
    )
    tail = (
        b"--b\r\nContent-Type: text/rfc822-headers\r\n\r\n" + returned + b"\r\n--b--\r\n"
        if returned
        else b"--b--\r\n"
    )
    return head.encode() + "\r\n".join(parts).encode() + b"\r\n" + tail


class Desk:
    def __init__(self, server, ledger, peer):
        self.server, self.ledger, self.peer = server, ledger, peer
        self._sent = 0

    def _messages(self):
        return {one.id: one for state in State for one in self.ledger.list_messages(10_000, states=[state])}

    async def send(self, *recipients, envid="", sender="me@here.test"):
        """Send a message to there.test; its number, its octets as they arrived, and the senders that were told."""
        self._sent += 1
        known = set(self._messages())
        options = {"envid": envid} if envid else {}
        body = MESSAGE % self._sent
        before = len(self.peer.messages)
        await send_with(self.server.address, sender, recipients or ("u@there.test",), body, **options)
        async with asyncio.timeout(LIMIT_S):
            while True:
                for number, found in self._messages().items():
                    if number not in known and {one.state for one in found.recipients} == {State.DELIVERED}:
                        return number, self.peer.messages[before]
                await asyncio.sleep(0.01)

    async def come_back(self, octets, to="me@here.test"):
        """Hand a bounce in, as a host outside does."""
        await pillarbox.send(octets, "", [to], self.server.address)

    async def returned(self, number, count=1):
        """The steps of a message's trace that tell what came back."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                steps = [one for one in trace(self.ledger, format_id(number)).steps if one.kind == "returned"]
                if len(steps) >= count:
                    return steps
                await asyncio.sleep(0.01)


async def send_with(address, sender, recipients, body, envid=""):
    reader, writer = await asyncio.open_connection(*address)
    lines = [
        "EHLO client.test",
        f"MAIL FROM:<{sender}>" + (f" ENVID={envid}" if envid else ""),
        *(f"RCPT TO:<{one}>" for one in recipients),
        "DATA",
    ]
    await reader.readline()
    for line in lines:
        writer.write(f"{line}\r\n".encode())
        while (answer := await reader.readline())[3:4] == b"-":
            pass
        assert answer[:1] in b"23", answer
    writer.write(body + b".\r\n")
    assert (await reader.readline()).startswith(b"250")
    writer.close()


@pytest.fixture
async def desk_for(tmp_path: Path, monkeypatch):
    @contextlib.asynccontextmanager
    async def make(more=""):
        dns = FakeResolver(
            mx={"there.test": [(10, "mx.there.test")]}, addresses={"mx.there.test": ["127.0.0.1"]}
        )
        monkeypatch.setattr("pillarbox.service.Resolver", lambda _settings: dns)
        async with ScriptedPeer() as peer:
            monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", peer.port)
            text = (
                f'hostname = "here.test"\ndata = "{tmp_path}"\n[[listen]]\naddress = "127.0.0.1:0"\nrole = "relay"\n'
                f'[domain."here.test"]\ndeliver = "discard"\n{more}'
            )
            async with pillarbox.Server(parse(text, "test")) as server:
                with Ledger(tmp_path) as ledger:
                    yield Desk(server, ledger, peer)

    return make


def trace_fields(octets):
    return octets.partition(b"\r\n\r\n")[0] + b"\r\n"


async def test_a_bounce_is_found_by_our_trace_field_in_what_it_returns(desk_for):
    async with desk_for() as desk:
        number, octets = await desk.send()
        await desk.come_back(bounce(returned=trace_fields(octets)))
        (step,) = await desk.returned(number)
    assert step.recipient == "u@there.test"
    assert step.detail["host"] == "inner.there.test"
    assert str(step.detail["reply"]).startswith("550 5.1.1")
    assert step.detail["why"] == "mailbox.unknown"
    assert step.explanation is not None


async def test_a_bounce_is_found_by_the_message_id_alone(desk_for):
    async with desk_for() as desk:
        number, octets = await desk.send()
        only = re.search(rb"Message-ID: [^\r]+\r\n", octets)[0]
        await desk.come_back(bounce(returned=only))
        assert len(await desk.returned(number)) == 1


async def test_a_bounce_is_found_by_the_envelope_id(desk_for):
    async with desk_for() as desk:
        await desk.send()
        number, _ = await desk.send(envid="QQ314159")
        await desk.come_back(bounce(envid="QQ314159"))
        assert len(await desk.returned(number)) == 1


async def test_a_bounce_is_found_by_the_address_that_it_comes_to(desk_for):
    async with desk_for('[relay]\nverp = ["here.test"]\n') as desk:
        number, _ = await desk.send("u@there.test", "v@there.test")
        froms = [one for one in desk.peer.commands if one.startswith("MAIL")]
        tagged = [re.search("<(.*)>", one)[1] for one in froms]
        assert tagged == [f"me+return={format_id(number)}={n}@here.test" for n in (0, 1)]
        await desk.come_back(bounce(recipient="someone.else@inner.test"), tagged[1])
        (step,) = await desk.returned(number)
    assert step.recipient == "v@there.test"


async def test_a_bounce_in_a_dialect_of_its_own_is_read(desk_for):
    async with desk_for() as desk:
        number, octets = await desk.send()
        text = (
            b"From: MAILER-DAEMON@there.test\r\nSubject: failure notice\r\n\r\n"
            b"Hi. This is the qmail-send program at there.test.\r\n"
            b"I'm afraid I wasn't able to deliver your message to the following addresses.\r\n"
            b"This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n"
            b"<u@there.test>:\r\n192.0.2.1 does not like recipient.\r\n"
            b"Remote host said: 550 5.1.1 User unknown\r\nGiving up on 192.0.2.1.\r\n\r\n"
            b"--- Below this line is a copy of the message.\r\n\r\n"
        )
        await desk.come_back(text + octets)
        (step,) = await desk.returned(number)
    assert step.recipient == "u@there.test"


async def test_a_bounce_for_somebody_else_proves_nothing(desk_for):
    async with desk_for() as desk:
        number, octets = await desk.send()
        await desk.come_back(bounce(returned=trace_fields(octets)), "other@here.test")
        await desk.come_back(bounce(returned=trace_fields(octets)), "me@here.test")
        assert len(await desk.returned(number)) == 1


async def test_a_bounce_of_an_unknown_message_is_delivered_all_the_same(desk_for):
    async with desk_for() as desk:
        await desk.come_back(bounce(returned=b"Message-ID: <never@sent.test>\r\n"))
        async with asyncio.timeout(LIMIT_S):
            while not desk.ledger.list_messages(states=[State.DELIVERED]):
                await asyncio.sleep(0.01)


async def test_it_takes_three_bounces_to_suppress_an_address(desk_for):
    async with desk_for() as desk:
        for count in (1, 2, 3):
            assert [one.entry for one in suppressions(desk.ledger, now=0.0)] == []
            number, octets = await desk.send()
            await desk.come_back(bounce(returned=trace_fields(octets)))
            await desk.returned(number)
            assert count <= 3
        async with asyncio.timeout(LIMIT_S):
            while not (found := suppressions(desk.ledger, now=0.0)):
                await asyncio.sleep(0.01)
        assert [one.entry for one in found] == ["u@there.test"]
        assert found[0].message == number


async def test_ordinary_mail_without_a_sender_is_no_bounce(desk_for):
    async with desk_for() as desk:
        number, octets = await desk.send()
        await desk.come_back(
            b"Subject: out of office\r\nAuto-Submitted: auto-replied\r\n\r\nI am away\r\n" + octets
        )
        await desk.come_back(bounce(returned=trace_fields(octets)))
        assert len(await desk.returned(number)) == 1
