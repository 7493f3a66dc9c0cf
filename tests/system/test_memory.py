"""What clients can make the server hold in memory: little, whatever they send and whatever they leave unread."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

KEEPS = """
[[listen]]
address = "127.0.0.1:0"
role = "relay"
[[route]]
match = "hop.example"
via = "smtp://127.0.0.1:{port}"
[[route]]
match = "*"
via = "hold"
[domain."local.example"]
deliver = "maildir:{folder}/mail"
[connections]
per_address = 1000
[limits]
min_free = 0
empty_commands = 1000000
"""
MIB = 1 << 20
FEW = 6  # mebibytes
HEAD = b"Subject: large\r\n\r\n"
PIECE = (b"x" * 76 + b"\r\n") * 840  # about 64 KiB of text
PIECES = 750  # of them make nearly 50 MiB, the largest message that is taken
OCTETS = len(HEAD) + PIECES * len(PIECE)


class Memory:
    """The memory of a server process, measured from when this was made."""

    def __init__(self, server):
        self._folder = Path(f"/proc/{server.process.pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew
        self._before = self._octets("VmRSS")

    def _octets(self, name):
        lines = (self._folder / "status").read_text().splitlines()
        (found,) = [line for line in lines if line.startswith(name)]
        return int(found.split()[1]) * 1024

    @property
    def growth(self):
        """The most that there was beyond what was there at first, in mebibytes."""
        return (self._octets("VmHWM") - self._before) / MIB


@pytest.fixture
async def sink():
    """A next hop that takes messages and forgets them; its port."""
    visits = set()

    async def serve(reader, writer):
        visits.add(asyncio.current_task())
        try:
            writer.write(b"220 sink\r\n")
            while line := await reader.readline():
                writer.write(b"354 go\r\n" if line.startswith(b"DATA") else b"250 ok\r\n")
                if line.startswith(b"DATA"):
                    while await reader.readline() != b".\r\n":
                        pass
                    writer.write(b"250 ok\r\n")
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    for visit in visits:
        visit.cancel()
    await asyncio.gather(*visits, return_exceptions=True)


@pytest.fixture
async def server(serve, call, sink, tmp_path):
    """A server that has been at work: what it needs once and for all is there."""
    started = await serve(KEEPS.format(port=sink, folder=tmp_path))
    for _ in range(10):
        caller = await call(started)
        for body in (HEAD, HEAD + PIECE * 2):
            await ask_for_message(caller, "a@there.example")
            await caller.send(body + b".\r\n")
            assert (await caller.reply()).startswith(b"250 ")
    return started


@pytest.fixture
def call(dial):
    async def connect(server):
        caller = await dial(server.port)
        await caller.reply()
        assert (await caller.ask(b"EHLO client.example")).startswith(b"250-")
        return caller

    return connect


async def begin(caller, recipient):
    assert (await caller.ask(b"MAIL FROM:<a@example.org>")).startswith(b"250 ")
    assert (await caller.ask(b"RCPT TO:<%s>" % recipient.encode())).startswith(b"250 ")


async def ask_for_message(caller, recipient):
    await begin(caller, recipient)
    assert (await caller.ask(b"DATA")).startswith(b"354 ")


async def by_data(caller, recipient="b@there.example"):
    await ask_for_message(caller, recipient)
    await caller.send(HEAD)
    for _ in range(PIECES):
        await caller.send(PIECE)
    await caller.send(b".\r\n")
    return await caller.reply()


async def by_one_chunk(caller):
    await begin(caller, "b@there.example")
    await caller.send(b"BDAT %d LAST\r\n" % OCTETS + HEAD)
    for _ in range(PIECES):
        await caller.send(PIECE)
    return await caller.reply()


async def by_many_chunks(caller):
    await begin(caller, "b@there.example")
    await caller.send(b"BDAT %d\r\n" % len(HEAD) + HEAD)
    for _ in range(PIECES):
        await caller.send(b"BDAT %d\r\n" % len(PIECE) + PIECE)
    for _ in range(PIECES + 1):
        assert (await caller.reply()).startswith(b"250 ")
    return await caller.ask(b"BDAT 0 LAST")


@pytest.mark.parametrize("hand_in", [by_data, by_one_chunk, by_many_chunks])
async def test_a_large_message_comes_in(server, call, hand_in):
    caller = await call(server)
    memory = Memory(server)
    reply = await hand_in(caller)
    assert reply.startswith(b"250 ")
    assert memory.growth < FEW
    await server.logged("message.received", octets=OCTETS)


@pytest.mark.parametrize("recipient", ["b@hop.example", "b@local.example"])
async def test_a_large_message_goes_out(server, call, recipient):
    caller = await call(server)
    memory = Memory(server)
    queue_id = (await by_data(caller, recipient)).split()[-1].decode()
    await server.logged("delivery.ok", message=queue_id)
    assert memory.growth < FEW


async def test_idle_sessions_cost_next_to_nothing(server, call):
    memory = Memory(server)
    callers = [await call(server) for _ in range(200)]
    assert memory.growth < FEW
    for caller in callers:
        assert (await caller.ask(b"NOOP")).startswith(b"250 ")


@pytest.mark.parametrize("where", ["command", "login", "text", "header", "chunk", "refused chunk"])
async def test_octets_without_end_are_not_kept(server, call, where):
    caller = await call(server)
    octets = b"x" * 65_536
    if where in ("text", "header"):
        await ask_for_message(caller, "b@there.example")
        octets = b"Subject: one of many\r\n" * 3000 if where == "header" else octets
    if where == "chunk":
        await begin(caller, "b@there.example")
    memory = Memory(server)
    await caller.send({"login": b"AUTH PLAIN ", "text": HEAD}.get(where, b""))
    if where.endswith("chunk"):
        await caller.send(b"BDAT 9999999999 LAST\r\n" + HEAD)
    for _ in range(64 * MIB // len(octets)):
        await caller.send(octets)
    assert memory.growth < FEW
    if not where.endswith("chunk"):
        assert (await caller.ask(b"\r\n." if where in ("text", "header") else b"")).startswith(b"5")
        assert (await caller.ask(b"NOOP")).startswith(b"250 ")


async def test_a_client_that_reads_no_replies_is_read_no_further(server, call):
    caller = await call(server)
    caller.writer.transport.pause_reading()
    memory = Memory(server)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 * MIB:
            await asyncio.wait_for(caller.send(b"NOOP\r\n" * 10_000), 1)
            sent += 60_000
    assert sent < 64 * MIB  # what the kernel takes is less
    assert memory.growth < FEW
    other = await call(server)
    assert (await other.ask(b"NOOP")).startswith(b"250 ")
    caller.cut()


async def test_thousands_of_commands_at_once_are_answered_in_turn(server, call):
    caller = await call(server)
    other = await call(server)
    memory = Memory(server)
    await caller.send(b"NOOP\r\nVRFY a@there.example\r\n" * 2500)
    assert (await other.ask(b"NOOP")).startswith(b"250 ")
    for _ in range(2500):
        assert (await caller.reply()).startswith(b"250 ")
        assert (await caller.reply()).startswith(b"252 ")
    assert memory.growth < FEW
