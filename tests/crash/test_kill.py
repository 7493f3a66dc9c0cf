"""Kill the server under load, again and again: what got its 250 is never lost."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys

import pytest

from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State

KILLS = int(os.environ.get("PILLARBOX_KILLS", "6"))
SESSIONS = 8
LARGE = 40  # of so many messages one is large enough for a file of its own


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Load:
    """Clients that note every message for which they read a 250."""

    def __init__(self, port):
        self.port = port
        self.kept = set()
        self.number = 0

    async def run(self):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self.session()
            await asyncio.sleep(0.01)

    async def session(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await reader.readuntil(b"\r\n")
            writer.write(b"HELO load.example\r\n")
            await reader.readuntil(b"\r\n")
            while True:
                self.number += 1
                await self.send(
                    reader, writer, f"m{self.number}@kept.example", large=self.number % LARGE == 0
                )
        finally:
            writer.close()

    async def send(self, reader, writer, address, *, large):
        body = (b"x" * 70 + b"\r\n") * (2000 if large else 10)
        writer.write(b"MAIL FROM:<load@load.example>\r\nRCPT TO:<%s>\r\nDATA\r\n" % address.encode())
        for _ in range(3):
            await reader.readuntil(b"\r\n")
        writer.write(b"Subject: kept\r\n\r\n" + body + b".\r\n")
        if (await reader.readuntil(b"\r\n")).startswith(b"250"):
            self.kept.add(address)


@contextlib.asynccontextmanager
async def server(config, port):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pillarbox", "serve", "--config", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while True:
            assert process.returncode is None, "the server did not start"
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await reader.readuntil(b"\r\n")
                writer.close()
                break
            await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def stored(data):
    """Every recipient in the store, with its state."""
    with Ledger(data) as ledger:
        return {
            recipient.address: recipient.state
            for state in State
            for message in ledger.list_messages(limit=1_000_000, state=state)
            for recipient in message.recipients
        }


def lost(kept, found):
    """The acknowledged messages that are nowhere, or damaged."""
    return {address for address in kept if found.get(address, State.DAMAGED) is State.DAMAGED}


def test_the_check_sees_a_loss():
    assert lost({"a", "b", "c"}, {"a": State.QUEUED, "c": State.DAMAGED}) == {"b", "c"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("via", ["hold", "discard"])
async def test_what_was_acknowledged_survives_kill_9(tmp_path, via):
    port = free_port()
    config = tmp_path / "pillarbox.toml"
    config.write_text(
        f'hostname = "crash.example"\ndata = "{tmp_path}/data"\n[limits]\nmin_free = 0\n'
        f'[[listen]]\naddress = "127.0.0.1:{port}"\nrole = "relay"\n[[route]]\nmatch = "*"\nvia = "{via}"\n'
    )
    load = Load(port)
    chance = random.Random(KILLS)
    clients = [asyncio.create_task(load.run()) for _ in range(SESSIONS)]
    for _ in range(KILLS // 2):
        async with server(config, port) as process:
            before = len(load.kept)
            while len(load.kept) < before + 10:  # under load for sure
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            await process.wait()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    async with server(config, port):
        pass  # it starts again and takes up what is there
    found = stored(tmp_path / "data")
    assert load.kept
    assert not lost(load.kept, found)
