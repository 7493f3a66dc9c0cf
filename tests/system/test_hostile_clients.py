"""Clients that go away in the middle, stop halfway or dawdle: each session ends, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
import trustme
from argon2 import PasswordHasher

KEEPS = """
[log]
levels = {{ session = "debug" }}
[[listen]]
address = "127.0.0.1:0"
role = "relay"
login_in_clear = true
[[route]]
match = "*"
via = "hold"
[tls]
certificate = "{folder}/certificate.pem"
key = "{folder}/key.pem"
[account."alice@example.org"]
password = "{password}"
[limits]
min_free = 0
empty_commands = 1000000
command_timeout = "{patience_s}s"
data_timeout = "{patience_s}s"
"""
HELLO = b"EHLO client.example\r\n"
SENDER = HELLO + b"MAIL FROM:<a@example.org>\r\n"
RECIPIENT = SENDER + b"RCPT TO:<b@there.example>\r\n"
BODY = b"Subject: hi\r\n\r\n" + b"x" * 70 + b"\r\n"
LARGE = b"Subject: hi\r\n\r\n" + (b"x" * 76 + b"\r\n") * 2000
# How far a client gets: what it sends, how many replies it reads, what else it sends, whether a file is open then.
STAGES = {
    "before the greeting": (b"", 0, b"", False),
    "after the greeting": (b"", 1, b"", False),
    "in a command": (HELLO, 2, b"MAIL FROM:<a@exa", False),
    "in a login": (HELLO + b"AUTH PLAIN\r\n", 3, b"AGFsa", False),
    "while a login is checked": (HELLO, 2, b"AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHdyb25n\r\n", False),
    "in a handshake": (HELLO + b"STARTTLS\r\n", 3, b"\x16\x03\x01\x02\x00\x01\x00", False),
    "after MAIL": (SENDER, 3, b"", False),
    "after RCPT": (RECIPIENT, 4, b"", False),
    "at the start of the message": (RECIPIENT + b"DATA\r\n", 5, b"", False),
    "in a small message": (RECIPIENT + b"DATA\r\n", 5, BODY, False),
    "in the end of a message": (RECIPIENT + b"DATA\r\n", 5, BODY + b".\r", False),
    "in a large message": (RECIPIENT + b"DATA\r\n", 5, LARGE, True),
    "in a chunk": (RECIPIENT, 4, b"BDAT 1000000\r\n" + LARGE, True),
    "between chunks": (RECIPIENT + b"BDAT %d\r\n" % len(LARGE) + LARGE, 5, b"", True),
    "in a refused chunk": (HELLO, 2, b"BDAT 1000000\r\n" + LARGE, False),
}
CLIENTS = 5  # at each stage


@pytest.fixture
async def start(serve, tmp_path):
    identity = trustme.CA().issue_cert("mx.example.org")
    identity.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    identity.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    password = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("right")

    async def begin(patience_s=300):
        return await serve(KEEPS.format(folder=tmp_path, password=password, patience_s=patience_s))

    return begin


async def call(dial, server, replies=2):
    caller = await dial(server.port)
    if replies:
        await caller.reply()
        assert (await caller.ask(HELLO.rstrip())).startswith(b"250-")
    return caller


def drafts(server):
    return len(list(server.data.glob("drafts/*")))


def descriptors(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def all_gone(server, usual_descriptors):
    """Wait until nothing is left of any session."""
    await server.until(lambda: len(server.events("session.opened")) == len(server.events("session.closed")))
    await server.until(lambda: descriptors(server) <= usual_descriptors and not drafts(server))


async def hang_up(caller):
    await caller.close()


async def reset(caller):
    caller.cut()


async def half_close(caller):
    """Say that nothing more will come: the server answers what it has and hangs up too."""
    caller.writer.write_eof()
    await caller.rest()


@pytest.mark.parametrize("leave", [reset, hang_up, half_close])
async def test_whoever_leaves_leaves_nothing_behind(start, dial, leave):
    server = await start()
    await (await call(dial, server)).close()
    await all_gone(server, 1000)
    usual = descriptors(server)
    for stage, (commands, replies, more, is_filed) in STAGES.items():
        callers = [await dial(server.port) for _ in range(CLIENTS)]
        for caller in callers:
            await caller.send(commands)
            for _ in range(replies):
                assert (await caller.reply())[:1] in b"23", stage
            await caller.send(more)
        if is_filed:
            await server.until(lambda: drafts(server) == CLIENTS)
        for caller in callers:
            await leave(caller)
        try:
            await all_gone(server, usual)
        except TimeoutError:
            pytest.fail(f"something is left of clients that left {stage}")
    assert not server.queue()
    caller = await call(dial, server)
    assert await hand_in(caller)
    assert len(server.queue()) == 1


async def hand_in(caller):
    await caller.send(RECIPIENT.removeprefix(HELLO) + b"DATA\r\n")
    for _ in range(3):
        await caller.reply()
    await caller.send(BODY + b".\r\n")
    return (await caller.reply()).startswith(b"250 ")


async def test_a_message_whose_client_does_not_wait_for_the_answer_is_kept_or_not_but_whole(start, dial):
    server = await start()
    for _ in range(20):
        caller = await dial(server.port)
        await caller.send(RECIPIENT + b"BDAT %d LAST\r\n" % len(LARGE) + LARGE)
        caller.cut()
    await all_gone(server, 1000)
    caller = await call(dial, server)
    assert await hand_in(caller)
    queued = {one["id"] for one in server.queue()}
    await server.until(lambda: {event["message"] for event in server.events("message.received")} == queued)
    for one in server.queue():
        assert one["octets"] in (len(LARGE), len(BODY))


async def test_all_that_was_asked_before_a_half_close_is_answered(start, dial):
    server = await start()
    caller = await dial(server.port)
    await caller.send(RECIPIENT + b"BDAT %d LAST\r\n" % len(LARGE) + LARGE + b"NOOP\r\n")
    caller.writer.write_eof()
    said = await caller.rest()
    assert len(server.queue()) == 1
    assert said.endswith(b"250 2.0.0 OK\r\n")


async def test_dawdlers_are_sent_away_and_hold_up_nobody(start, dial):
    server = await start(patience_s=1)
    dribbling, silent, in_message, in_chunk, unreading = [await call(dial, server) for _ in range(5)]
    await in_message.send(RECIPIENT.removeprefix(HELLO) + b"DATA\r\n" + LARGE)
    await in_chunk.send(RECIPIENT.removeprefix(HELLO) + b"BDAT 1000000\r\n" + LARGE)
    unreading.writer.transport.pause_reading()
    with contextlib.suppress(TimeoutError):
        while True:
            await asyncio.wait_for(unreading.send(b"NOOP\r\n" * 10_000), 0.2)
    dribble = asyncio.create_task(drip(dribbling))
    assert await hand_in(await call(dial, server))
    for caller in (dribbling, silent, in_message, in_chunk):
        assert (await caller.rest()).splitlines()[-1].startswith(b"421 4.4.2 ")
    dribble.cancel()
    await all_gone(server, 1000)  # the one that reads nothing too
    unreading.cut()
    assert len(server.queue()) == 1


async def drip(caller):
    """Send a command that never ends, octet by octet."""
    with contextlib.suppress(ConnectionError):
        while True:
            await caller.send(b"N")
            await asyncio.sleep(0.05)
