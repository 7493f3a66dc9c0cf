"""What leaves can't be cut short: mail that programs hand over reaches the next host as one message, whatever is in it."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from email.message import EmailMessage, Message

import pytest

import pillarbox
from pillarbox.config import parse
from pillarbox.testing import ScriptedPeer

# What some server somewhere takes for the end of the data: only CRLF.CRLF is.
LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\0\r\n", b"\r\0\n", b"\n\r"]
FALSE_ENDS = [
    one + b"." + other for one, other in itertools.product(LINE_ENDS, LINE_ENDS) if one + other != b"\r\n\r\n"
]
FALSE_ENDS += [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\n\n.\n\n", b"\r\n.\r\n", b"\r\n..\r\n", b"\x85.\x85"]
INNER = (
    b"MAIL FROM:<ceo@bank.example>\r\nRCPT TO:<victim@there.example>\r\nDATA\r\nSubject: inner\r\n\r\npwned"
)
WHOLE = (
    b"From: a@here.example\r\nSubject: outer\r\n\r\nbefore"
    + b"".join(end + INNER for end in FALSE_ENDS)
    + b"\r\n"
    + b"x" * 5000
    + b"\r\n.\r\nQUIT\r\n"
)
SENDER, RECIPIENT = "a@here.example", "b@there.example"
RELAYS = """
hostname = "mx.here.example"
data = "{folder}/data"
[[listen]]
address = "127.0.0.1:0"
role = "relay"
[limits]
min_free = 0
[[route]]
match = "there.example"
via = "smtp://127.0.0.1:{port}"
[domain."here.example"]
deliver = "hold"
"""


def sent_by_data(peer) -> bytes:
    """The octets of the only message, as they were on the wire, with its end."""
    (visit,) = peer.visits
    wire = b"".join(visit.reads)
    return wire[wire.index(b"DATA\r\n") + 6 :].removesuffix(b"QUIT\r\n")


def no_reader_sees_an_end(wire: bytes) -> None:
    """Whoever reads it, strictly or not, finds the end where it is, and nothing like a line end elsewhere."""
    assert wire.endswith(b"\r\n.\r\n")
    assert wire.index(b"\r\n.\r\n") == len(wire) - 5
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert b"\0" not in wire
    assert all(line == b"." or line[:1] != b"." or line[:2] == b".." for line in wire.split(b"\r\n"))


def said(peer) -> list[str]:
    return [command.partition(" ")[0] for command in peer.commands]


@pytest.mark.parametrize("end", FALSE_ENDS, ids=repr)
async def test_what_the_library_sends_ends_where_it_ends(end):
    octets = b"Subject: outer\r\n\r\nbefore" + end.replace(b"\0", b"") + INNER
    async with ScriptedPeer() as peer:
        replies = await pillarbox.send(octets, SENDER, [RECIPIENT], ("127.0.0.1", peer.port))
        assert replies[RECIPIENT].positive
        no_reader_sees_an_end(sent_by_data(peer))
    assert said(peer) == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize("kind", [EmailMessage, Message])
async def test_a_message_object_ends_where_it_ends(kind):
    message = kind()
    message["Subject"] = "outer"
    message.set_payload(WHOLE.replace(b"\0", b"").replace(b"\x85", b"").decode("ascii"))
    async with ScriptedPeer() as peer:
        assert (await pillarbox.send(message, SENDER, [RECIPIENT], ("127.0.0.1", peer.port)))[
            RECIPIENT
        ].positive
        no_reader_sees_an_end(sent_by_data(peer))
    assert said(peer) == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_a_nul_goes_to_servers_that_take_binary_messages_and_to_no_others():
    octets = b"Subject: outer\r\n\r\nbefore\r\n\0.\r\n" + INNER
    async with ScriptedPeer() as peer:
        replies = await pillarbox.send(octets, SENDER, [RECIPIENT], ("127.0.0.1", peer.port))
    assert replies[RECIPIENT].cause_id == "delivery.needs_conversion"
    assert peer.messages == []
    async with ScriptedPeer(extensions=("PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME")) as peer:
        replies = await pillarbox.send(octets, SENDER, [RECIPIENT], ("127.0.0.1", peer.port))
    assert replies[RECIPIENT].positive
    assert peer.messages == [octets]


@pytest.mark.parametrize(
    "address",
    [
        "a@b.example> SIZE=1",
        "a@b.example>,<c@d.example",
        "a@b.example> NOTIFY=NEVER ORCPT=rfc822;x",
        "a b",
        "a@b.example\N{LINE SEPARATOR}",
        "a@b.example\x85",
        "a@b.example\0",
        "<a@b.example>",
    ],
)
async def test_an_address_brings_no_parameters_along(address):
    async with ScriptedPeer() as peer:
        for sender, recipients in ((address, [RECIPIENT]), (SENDER, [RECIPIENT, address])):
            with pytest.raises(ValueError):
                await pillarbox.send(b"\r\n", sender, recipients, ("127.0.0.1", peer.port))
    assert peer.visits == []


@pytest.mark.parametrize("value", ["hi\nBcc: c@there.example", "hi\rBcc: c@there.example", "hi\r\n\r\nbody"])
async def test_a_field_of_a_message_object_stays_one_field(value):
    message = Message()
    message["Subject"] = value
    message.set_payload("text")
    async with ScriptedPeer() as peer:
        with pytest.raises(ValueError, match="Subject"):
            await pillarbox.send(message, SENDER, [RECIPIENT], ("127.0.0.1", peer.port))
    assert peer.visits == []


async def sendmail(server, octets: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a program would."""
    host, port = server.address
    environment = os.environ | {"PILLARBOX_SENDMAIL": f"{host}:{port}"}
    command = [sys.executable, "-m", "pillarbox", "sendmail", "-f", SENDER, *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, input=octets, env=environment, capture_output=True, timeout=30, check=False
    )


@pytest.fixture
async def relaying(tmp_path):
    """A server whose mail for there.example goes to a peer that records it."""
    async with ScriptedPeer() as peer:
        config = parse(RELAYS.format(folder=tmp_path, port=peer.port), file="x.toml")
        async with pillarbox.Server(config) as server:
            yield server, peer


async def test_what_sendmail_takes_ends_where_it_ends(relaying):
    server, peer = relaying
    octets = WHOLE.replace(b"x" * 5000, b"x" * 3990)
    ran = await sendmail(server, octets, "-i", RECIPIENT)
    assert (ran.returncode, ran.stderr) == (0, b"")
    async with asyncio.timeout(20):
        await peer.until(lambda: bool(peer.messages))
    (message,) = peer.messages
    assert b"pwned" in message
    assert message.count(b"Received: ") == 1
    (visit,) = peer.visits
    wire = b"".join(visit.reads)
    no_reader_sees_an_end(wire[wire.index(b"DATA\r\n") + 6 :])
    assert said(peer) == ["EHLO", "MAIL", "RCPT", "DATA"]


async def test_a_line_that_is_too_long_is_refused_where_the_program_can_still_be_told(relaying):
    server, peer = relaying
    ran = await sendmail(server, b"Subject: x\n\n" + b"x" * 5000 + b"\n", "-i", RECIPIENT)
    assert ran.returncode == 69  # EX_UNAVAILABLE
    assert b"554 5.6.0 " in ran.stderr
    assert await server.messages() == []
    assert peer.visits == []


async def test_a_carriage_return_makes_no_field_of_what_sendmail_takes(relaying):
    server, peer = relaying
    ran = await sendmail(
        server, b"To: b@there.example\nSubject: hi\rBcc: c@there.example\r\rbody\n\ntext\n", "-t"
    )
    assert ran.returncode == 0
    async with asyncio.timeout(20):
        await peer.until(lambda: bool(peer.messages))
    (message,) = peer.messages
    assert b"\r\nSubject: hi Bcc: c@there.example  body\r\n" in message
    assert [command for command in peer.commands if command.startswith("RCPT")] == [
        "RCPT TO:<b@there.example>"
    ]


async def test_a_binary_message_goes_to_no_host_that_reads_lines(relaying, dial):
    """It came in by BDAT, so such octets are stored; only a host that counts them may get them."""
    server, peer = relaying
    caller = await dial(server.address[1])
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    for command in (b"MAIL FROM:<a@here.example> BODY=BINARYMIME", b"RCPT TO:<b@there.example>"):
        assert (await caller.ask(command)).startswith(b"250 ")
    assert (await caller.ask(b"BDAT %d LAST\r\n%s" % (len(WHOLE), WHOLE[:-2]))).startswith(b"250 ")
    async with asyncio.timeout(20):
        while not await server.messages():  # the report to the sender, whose mailbox is held
            await asyncio.sleep(0.01)
    assert peer.messages == []
    (report,) = await server.messages()
    assert b"pwned" not in report.content
    no_reader_sees_an_end(report.content + b".\r\n")
