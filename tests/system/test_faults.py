"""A server whose disk, descriptors or store fail: what clients are told, what the log says, that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import apsw
import pytest

from pillarbox.queue import schema
from pillarbox.queue.spool import parse_id

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
PAGE = 4096  # of a database
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
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", folder]
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
async def test_E452_5_a_full_disk_refuses_for_now_and_loses_nothing(small_disk, serve, call, message):
    server = await serve(KEEPS)
    client = await call(server.port)
    await client.hand_in(message)
    with filled(small_disk):
        while (reply := await client.hand_in(message)).startswith(b"250 "):
            assert len(client.kept) < 1000, "the disk is not full"
        assert reply.startswith(b"452 4.3.1 ")
        assert (await client.hand_in(message)).startswith(b"452 4.3.1 ")
        assert left_in(server)[0] == 0
        await server.logged("reply.refused" if message is LARGE else "spool.trouble")
    assert (await client.hand_in(message)).startswith(b"250 ")
    await server.logged("spool.trouble")
    assert stored(server) == client.kept
    server.kill()
    await server.start()
    assert stored(server) == client.kept
    assert left_in(server) == [0, len(client.kept) if message is LARGE else 0]


async def test_E421_8_nobody_is_greeted_while_the_disk_is_full(small_disk, serve, dial):
    server = await serve(KEEPS + '[emergency]\nmin_disk = "1M"\n')
    with filled(small_disk):
        caller = await dial(server.port)
        assert (await caller.rest()).endswith(b" is short of disk space, try again later\r\n")
    for _ in range(100):  # the disk is looked at once in a second
        greeting = await (await dial(server.port)).reply()
        if greeting.startswith(b"220 "):
            break
        assert greeting.startswith(b"421 ")
        await asyncio.sleep(0.05)
    assert greeting.startswith(b"220 ")
    await server.logged("session.refused", cause="policy.no_resources")


async def test_E452_1_room_is_kept_on_the_disk(small_disk, serve, call):
    server = await serve(KEEPS.replace("min_free = 0", 'min_free = "2M"'))
    client = await call(server.port)
    with filled(small_disk, leave=4 << 20):
        assert (await client.ask("MAIL FROM:<a@example.org> SIZE=3000000")).startswith(b"452 4.3.1 ")
        assert (await client.ask("MAIL FROM:<a@example.org> SIZE=1000")).startswith(b"250 ")
        assert (await client.ask("RSET")).startswith(b"250 ")
    with filled(small_disk, leave=1 << 20):
        await until_mail_gets(client, b"452 4.3.1 ")
    await until_mail_gets(client, b"250 ")
    await server.logged("reply.refused", cause="envelope.no_space", stage="mail")


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
    report = await server.logged("report.queued", cause_message=queue_id)
    assert stored(server) == {report["message"]}


# --- no descriptors left


def cpu_s(server):
    """The processor time that the server has used."""
    times = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def without_busy_loop(server):
    """What is done here takes a second at least, and the server is idle for most of the time."""
    before, began = cpu_s(server), time.monotonic()
    yield
    await asyncio.sleep(max(1 - (time.monotonic() - began), 0))
    assert cpu_s(server) - before < 0.5 * (time.monotonic() - began)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed")
async def test_E421_6_the_limit_of_open_files_bounds_the_connections(serve, call, dial):
    config = f'{KEEPS}[log]\nlevels = {{ session = "debug" }}\n'
    server = await serve(config, prefix=["prlimit", "--nofile=148:148"])  # 128 are kept for other purposes
    clients = [await call(server.port) for _ in range(20)]
    async with without_busy_loop(server):
        for _ in range(20):
            surplus = await dial(server.port)
            assert (await surplus.reply()).startswith(b"421 mx.example.org ")
            assert await surplus.rest() == b""
            await surplus.close()
        for client in clients:
            await client.begin()
            await client.caller.send(LARGE)
        for client in clients:
            assert (await client.end(b"")).startswith(b"250 ")
    full = "session.too_many_connections"
    await server.until(lambda: len(server.events("session.refused", cause=full)) == 20)
    await clients[0].caller.close()
    await server.until(lambda: len(server.events("session.closed")) == 21)
    newcomer = await call(server.port)
    assert (await newcomer.hand_in(SMALL)).startswith(b"250 ")
    assert stored(server) == {kept for client in [*clients, newcomer] for kept in client.kept}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_running_out_of_descriptors_harms_only_those_who_need_one(serve, call, dial, loop):
    """As when the whole system has no more (ENFILE): the server could not know of it when it started."""
    server = await serve(f'event_loop = "{loop}"\n{KEEPS}')
    client = await call(server.port)
    await client.hand_in(LARGE)
    used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used, used + 100))
    async with without_busy_loop(server):
        surplus = [await dial(server.port) for _ in range(5)]
        assert (await client.hand_in(SMALL)).startswith(b"250 ")
        assert (await client.hand_in(LARGE)).startswith(b"451 4.3.0 ")
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 100, used + 100))
    newcomer = await call(server.port)
    assert (await newcomer.hand_in(LARGE)).startswith(b"250 ")
    for caller in surplus:
        assert (await caller.reply())[:4] in (b"220 ", b"")  # it had to wait, or was let go
    await server.logged("reply.refused", cause="content.write_failed", stage="body")
    assert stored(server) == client.kept | newcomer.kept


# --- a disk with errors


@contextlib.asynccontextmanager
async def failing(server, calls, error="EIO"):
    """Let system calls of the server fail for a while."""
    log = server.data.parent / "strace.log"
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        log,
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:error={error}",
    ]
    first = server.process.pid
    writer = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    pids = [first, *writer]
    tracer = subprocess.Popen([*command, *[f"--attach={pid}" for pid in pids]], stderr=subprocess.PIPE)

    def tasks():
        return [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]

    try:
        await server.until(lambda: tracer.poll() is not None or all(map(is_traced, tasks())))
        if tracer.poll() is not None:
            pytest.skip(f"tracing is not allowed here: {tracer.stderr.read().decode().strip()}")
        yield
    finally:
        tracer.terminate()
        tracer.communicate()
    assert f"{error} " in log.read_text()


def is_traced(task):
    return "TracerPid:\t0\n" not in (task / "status").read_text()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("message", "calls"),
    [
        pytest.param(SMALL, "fdatasync,fsync", id="inline-sync"),
        pytest.param(SMALL, "pwrite64", id="inline-write"),
        pytest.param(LARGE, "fdatasync,fsync", id="file-sync"),
        pytest.param(LARGE, "rename,unlink", id="file-rename"),
    ],
)
async def test_E451_3_what_cannot_be_written_is_never_acknowledged(serve, call, message, calls):
    server = await serve(KEEPS)
    clients = [await call(server.port) for _ in range(3)]
    for client in clients:
        await client.hand_in(message)
    async with failing(server, calls):
        for _ in range(2):  # a sync that failed once must not seem to succeed the second time
            replies = await asyncio.gather(*(client.hand_in(message) for client in clients))
            assert {reply[:10] for reply in replies} == {b"451 4.3.0 "}
    incidents = {reply.split()[-1].decode() for reply in replies}
    for one in incidents:
        await server.until(lambda: any(one in event["problem"] for event in server.events("spool.trouble")))  # noqa: B023 - waits here
    for client in clients:
        assert (await client.hand_in(message)).startswith(b"250 ")
    kept = {one for client in clients for one in client.kept}
    assert stored(server) == kept
    server.kill()
    await server.start()
    assert stored(server) == kept
    # what could not be cleared away is swept by the side after the start
    await server.until(lambda: left_in(server) == [0, len(kept) if message is LARGE else 0])


# --- a damaged store


def damage_row(sql):
    """Change the row of a message behind the server's back."""

    def damage(server, message):
        with contextlib.closing(apsw.Connection(str(server.data / schema.FILE))) as connection:
            connection.execute(sql, {"id": parse_id(message)})

    return damage


def damage_file(change):
    """Do something to the body file of a message."""

    def damage(server, message):
        (file,) = server.data.glob(f"bodies/*/{message}")
        change(file)

    return damage


DAMAGES = {
    "garbage envelope": (SMALL, damage_row("UPDATE message SET envelope = x'c1ff00' WHERE id = :id")),
    "empty envelope": (LARGE, damage_row("UPDATE message SET envelope = x'' WHERE id = :id")),
    "garbage destination": (
        SMALL,
        damage_row("UPDATE recipient SET destination = 'nowhere' WHERE message = :id"),
    ),
    "recipient who is in no envelope": (
        SMALL,
        damage_row("UPDATE recipient SET number = 7 WHERE message = :id"),
    ),
    "no inline body": (SMALL, damage_row("DELETE FROM body WHERE message = :id")),
    "inline body of another size": (SMALL, damage_row("UPDATE body SET content = x'00' WHERE message = :id")),
    "no body file": (LARGE, damage_file(Path.unlink)),
    "truncated body file": (LARGE, damage_file(lambda file: os.truncate(file, 70_000))),
}
HARMLESS = {
    "nothing": (SMALL, lambda _server, _message: None),
    "nothing about a file": (LARGE, lambda _server, _message: None),
    "garbage trace": (SMALL, damage_row("UPDATE message SET trace = x'c1ff00' WHERE id = :id")),
    "garbage result": (SMALL, damage_row("UPDATE recipient SET result = x'c1ff00' WHERE message = :id")),
}


async def test_damaged_messages_are_set_aside_and_the_others_delivered(serve, call):
    server = await serve(KEEPS)
    client = await call(server.port)
    ids = {}
    for name, (message, _damage) in (DAMAGES | HARMLESS).items():
        ids[name] = (await client.hand_in(message)).split()[-1].decode()
    assert await server.stop() == 0
    for name, (_message, damage) in (DAMAGES | HARMLESS).items():
        damage(server, ids[name])
    assert {one["id"] for one in server.queue()} == set(ids.values())  # whatever is in their rows
    server.configure(KEEPS.replace('"hold"', '"discard"'))
    await server.start()
    server.command("queue", "release", "--all")
    for name in HARMLESS:
        await server.logged("delivery.ok", message=ids[name])
    for name in DAMAGES:
        assert (await server.logged("message.damaged", message=ids[name]))["problem"], name
    await server.until(lambda: {one["id"] for one in server.queue()} == {ids[name] for name in DAMAGES})
    for one in server.queue():
        assert {recipient["state"] for recipient in one["recipients"]} == {"damaged"}
        assert server.command("trace", one["id"])["steps"][-1]["kind"] == "damaged"
    assert server.command("queue", "remove", "--all")["messages"] == len(DAMAGES)
    assert server.queue() == []
    caller = await call(server.port)
    await server.logged("delivery.ok", message=(await caller.hand_in(LARGE)).split()[-1].decode())
    assert left_in(server)[0] == 0


def overwrite(file, *, page_of=b"", page=0):
    """Put garbage into one page of a database, the one that holds these octets."""
    octets = file.read_bytes()
    if page_of:
        assert page_of in octets
        page = octets.index(page_of) // PAGE
    with file.open("r+b") as opened:
        opened.seek(page * PAGE)
        opened.write(random.Random(1).randbytes(PAGE))


async def test_a_bad_page_costs_the_message_that_lies_there_and_no_other(serve, call):
    server = await serve(KEEPS)
    client = await call(server.port)
    bodies = [b"Subject: small\r\n\r\n" + b"%06d\r\n" % number * 5000 for number in range(5)]
    ids = [(await client.hand_in(body)).split()[-1].decode() for body in bodies]
    assert await server.stop() == 0
    overwrite(server.data / schema.FILE, page_of=b"000002\r\n" * 500)
    server.configure(KEEPS.replace('"hold"', '"discard"'))
    await server.start()
    server.command("queue", "release", "--all")
    for queue_id in ids[:2] + ids[3:]:
        await server.logged("delivery.ok", message=queue_id)
    assert "malformed" in (await server.logged("message.damaged", message=ids[2]))["problem"]
    await server.until(lambda: [one["id"] for one in server.queue()] == [ids[2]])


@pytest.mark.parametrize(
    ("table", "problem"), [("", "not a database"), ("lease", "malformed"), ("message", "malformed")]
)
async def test_a_store_that_is_beyond_use_says_so(serve, call, table, problem):
    server = await serve(KEEPS)
    await (await call(server.port)).hand_in(SMALL)
    assert await server.stop() == 0
    page = 0
    if table:
        with contextlib.closing(apsw.Connection(str(server.data / schema.FILE))) as connection:
            page = connection.execute("SELECT rootpage - 1 FROM sqlite_schema WHERE name = ?", (table,)).get
    overwrite(server.data / schema.FILE, page=page)
    for command, status in (
        (["serve", "--config", server.config], 75),
        (["queue", "list", "--data", server.data], 66),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pillarbox", *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        said = done.stderr.splitlines()[-1]
        for word in (str(server.data / schema.FILE), "damaged", problem, ".recover"):
            assert word in said


async def test_a_message_lost_during_its_last_attempt_is_reported_all_the_same(serve, call, next_hop):
    server = await serve(relaying(next_hop))
    client = await call(server.port)
    await client.hand_in(LARGE, "yes@example.net", "no@example.net")
    await asyncio.wait_for(next_hop.asked.wait(), 30)
    (queue_id,) = client.kept
    (body,) = server.data.glob(f"bodies/*/{queue_id}")
    body.unlink()
    next_hop.go.set()
    assert (await server.reached("delivered", queue_id, 0))["attempts"] == 1
    assert (await server.reached("failed", queue_id, 1))["attempts"] == 1
    report = await server.logged("report.queued", cause_message=queue_id)
    shown = server.command("queue", "show", report["message"])
    assert [one["address"] for one in shown["recipients"]] == ["from@example.org"]
    await server.logged("spool.trouble", message=queue_id)
