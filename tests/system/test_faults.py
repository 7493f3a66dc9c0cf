"""A server whose disk, descriptors or store fail: what clients are told, what the log says, that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess

import pytest

KEEPS = """
[[listen]]
address = "127.0.0.1:0"
role = "relay"
[[route]]
match = "*"
via = "hold"
[limits]
min_free = 0
"""
SMALL = b"Subject: small\r\n\r\nbody\r\n"
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 13_000  # about a mebibyte: a file of its own
BOTH_SIZES = pytest.mark.parametrize("message", [SMALL, LARGE], ids=["inline", "file"])


@pytest.fixture
def call(dial):
    """Open a session: `client = await call(server.port)`."""

    async def connect(port):
        client = Client(await dial(port))
        assert (await client.caller.reply()).startswith(b"220 ")
        assert (await client.ask("EHLO client.example")).startswith(b"250")
        return client

    return connect


class Client:
    """A client in one session, which notes what was acknowledged."""

    def __init__(self, caller):
        self.caller = caller
        self.ask_raw = caller.ask
        self.kept = set()

    async def ask(self, command):
        return await self.caller.ask(command.encode())

    async def begin(self, *recipients):
        """Bring a transaction to the point where the message is asked for."""
        assert (await self.ask("MAIL FROM:<from@example.org>")).startswith(b"250 ")
        for recipient in recipients or ("to@example.net",):
            assert (await self.ask(f"RCPT TO:<{recipient}>")).startswith(b"250 ")
        assert (await self.ask("DATA")).startswith(b"354 ")

    async def end(self, message):
        """Send the message: the reply to it."""
        await self.caller.send(message + b".\r\n")
        reply = await self.caller.reply()
        if reply.startswith(b"250 "):
            self.kept.add(reply.split()[-1].decode())
        return reply

    async def hand_in(self, message, *recipients):
        await self.begin(*recipients)
        return await self.end(message)


def left_in(server):
    """The files of messages that are not complete, and of complete ones."""
    return [
        len([one for one in server.data.glob(place) if one.is_file()]) for place in ("drafts/*", "bodies/*/*")
    ]


def stored(server):
    """The ids of all messages that are held, each of them readable."""
    for message in (listed := {one["id"] for one in server.queue("--state", "held")}):
        server.command("queue", "show", message, "--headers")
    return listed


# --- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """The data folder on a file system of 8 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "data"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def filled(folder, *, leave=0):
    """Take up all room on the disk but `leave` octets for a while."""
    filler = folder / "filler"
    disk = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leave)
    try:
        yield
    finally:
        filler.unlink()


@BOTH_SIZES
async def test_a_full_disk_refuses_for_now_and_loses_nothing(small_disk, serve, call, message):
    server = await serve(KEEPS)
    client = await call(server.port)
    await client.hand_in(message)
    with filled(small_disk):
        while (reply := await client.hand_in(message)).startswith(b"250 "):
            assert len(client.kept) < 1000, "the disk is not full"
        assert reply.startswith(b"452 4.3.1 ")
        assert (await client.hand_in(message)).startswith(b"452 4.3.1 ")
        assert left_in(server)[0] == 0
        refused = server.events("reply.refused" if message is LARGE else "spool.trouble")
        assert refused
    assert (await client.hand_in(message)).startswith(b"250 ")
    assert server.events("spool.trouble")
    assert stored(server) == client.kept
    server.kill()
    await server.start()
    assert stored(server) == client.kept
    assert left_in(server) == [0, len(client.kept) if message is LARGE else 0]


async def test_room_is_kept_on_the_disk(small_disk, serve, call):
    server = await serve(KEEPS.replace("min_free = 0", 'min_free = "2M"'))
    client = await call(server.port)
    with filled(small_disk, leave=4 << 20):
        assert (await client.ask("MAIL FROM:<a@example.org> SIZE=3000000")).startswith(b"452 4.3.1 ")
        assert (await client.ask("MAIL FROM:<a@example.org> SIZE=1000")).startswith(b"250 ")
        assert (await client.ask("RSET")).startswith(b"250 ")
    with filled(small_disk, leave=1 << 20):
        await until_mail_gets(client, b"452 4.3.1 ")
    await until_mail_gets(client, b"250 ")
    assert server.events("reply.refused", cause="envelope.no_space", stage="mail")


async def until_mail_gets(client, wanted):
    """Try until MAIL gets this answer; the server looks at the disk once a second."""
    async with asyncio.timeout(30):
        while not (await client.ask("MAIL FROM:<a@example.org>")).startswith(wanted):
            await client.ask("RSET")
            await asyncio.sleep(0.05)


class NextHop:
    """A host that takes mail, but not for no@..., and answers to the message itself only once `go` is set."""

    def __init__(self):
        self.go = asyncio.Event()
        self.asked = asyncio.Event()  # the whole message is here
        self.messages = []
        self.visits = set()

    async def open(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 24)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self):
        self.server.close()
        for visit in self.visits:
            visit.cancel()
        await asyncio.gather(*self.visits, return_exceptions=True)

    async def serve(self, reader, writer):
        self.visits.add(asyncio.current_task())
        try:
            writer.write(b"220 hop\r\n")
            while line := await reader.readline():
                if line.startswith(b"DATA"):
                    writer.write(b"354 go\r\n")
                    self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                    self.asked.set()
                    await self.go.wait()
                writer.write(b"550 5.1.1 unknown\r\n" if b"<no@" in line else b"250 ok\r\n")
        finally:
            writer.close()


@pytest.fixture
async def next_hop():
    hop = NextHop()
    await hop.open()
    yield hop
    await hop.close()


def relaying(hop):
    """Mail for example.net goes to the next hop; what else there is, such as reports, is held."""
    return f'[[route]]\nmatch = "example.net"\nvia = "smtp://127.0.0.1:{hop.port}"\n{KEEPS}'


@BOTH_SIZES
async def test_outcomes_wait_for_room_and_nothing_is_sent_twice(small_disk, serve, call, next_hop, message):
    server = await serve(relaying(next_hop))
    client = await call(server.port)
    await client.hand_in(message, "yes@example.net", "no@example.net")
    await asyncio.wait_for(next_hop.asked.wait(), 30)
    with filled(small_disk):
        next_hop.go.set()
        await server.logged("spool.trouble")
    (queue_id,) = client.kept
    assert (await server.reached("delivered", queue_id, 0))["attempts"] == 1
    assert (await server.reached("failed", queue_id, 1))["attempts"] == 1
    assert len(next_hop.messages) == 1
    (report,) = server.events("report.queued", cause_message=queue_id)
    assert stored(server) == {report["message"]}
