"""A server to be killed: `site` starts it again and again, `sink` takes what it sends on, `strace` stops it at a system call.

Every loop of kills ends with the same audit: what clients, sink and store know of each message must agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pillarbox.queue import schema
from pillarbox.queue.drafts import INLINE_OCTETS
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State

LIMIT_S = 120  # for whatever a test waits for
SENDER = "load@load.example"  # reports to it are held, to be looked at
LANES = (
    3  # deliveries at the same time on each of two routes: so many messages at most are in doubt after a kill
)
DROP = "hang up"
SMALL, LARGE = 700, 150_000  # octets; a large message has a file of its own
FLAWS = {
    "mail": ["421 4.3.2 Going down"],
    "rcpt": ["451 4.3.0 Not now"],
    "body": [DROP],
    "dot": ["451 4.3.0 Not now", DROP],  # a host that is full would rest for a quarter of an hour
}
_RECIPIENT = re.compile(rb"^Final-Recipient: rfc822; *(\S+)\r$", re.MULTILINE)
_CUT_SHORT = re.compile(r"^\d+ +(\w+)\((.*) = \?$", re.MULTILINE)


def text(address):
    """The one right body of a message to an address, whose local part says how large it is: `m1.700`."""
    local = address.partition("@")[0]
    line = hashlib.sha256(local.encode()).hexdigest().encode() + b"\r\n"
    return line * (int(local.rpartition(".")[2]) // len(line) + 1)


def is_whole(address, message):
    """Whether a message came through as it was sent."""
    return message.partition(b"\r\n\r\n")[2] == text(address)


async def until(condition, pause_s=0.01, limit_s=LIMIT_S):
    """Wait until `condition` gives something true, and give it back."""
    async with asyncio.timeout(limit_s):
        while not (found := condition()):
            await asyncio.sleep(pause_s)
    return found


class Load:
    """Clients that send one message after another and note every one for which they read a 250."""

    def __init__(self, port, choose):
        """`choose` makes the recipients of a message from its number, all with the same local part."""
        self.port = port
        self.choose = choose
        self.kept = set()
        self.sent = 0

    @contextlib.asynccontextmanager
    async def run(self, sessions=8):
        """Send until the block ends."""
        clients = [asyncio.create_task(self._client()) for _ in range(sessions)]
        try:
            yield
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def more(self, count=10):
        """Wait until the server has taken so many more messages: it is under load for sure."""
        enough = len(self.kept) + count
        await until(lambda: len(self.kept) >= enough)

    async def _client(self):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._session()
            await asyncio.sleep(0.01)

    async def _session(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await reader.readuntil(b"\r\n")
            writer.write(b"HELO load.example\r\n")
            await reader.readuntil(b"\r\n")
            while True:
                self.sent += 1
                await self._send(reader, writer, self.choose(self.sent))
        finally:
            writer.close()

    async def _send(self, reader, writer, addresses):
        recipients = "".join(f"RCPT TO:<{address}>\r\n" for address in addresses)
        writer.write(f"MAIL FROM:<{SENDER}>\r\n{recipients}DATA\r\n".encode())
        for _ in ("MAIL", *addresses, "DATA"):
            await reader.readuntil(b"\r\n")
        writer.write(b"Subject: kept\r\n\r\n" + text(addresses[0]) + b".\r\n")
        if (await reader.readuntil(b"\r\n")).startswith(b"250"):
            self.kept.update(addresses)


async def _content(step, address):
    """The mood of a sink that behaves."""


class Sink:
    """A mail server, reached by two routes, that notes what it takes, as often as it takes it.

    At each step, "mail", "rcpt", "body" (it begins to come) and "dot" (all of it has come), it asks its `mood`: None lets
    things go on, DROP hangs up, anything else is its answer. After the dot, only an answer means that it was not taken.
    """

    def __init__(self):
        self.mood = _content
        self.taken = Counter()
        self.broken = []  # messages that did not come through as they were sent
        self.doubts = Counter()  # messages that it took, telling nobody
        self.routes = ()

    @contextlib.asynccontextmanager
    async def listen(self):
        """Listen until the block ends."""
        servers = [await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20) for _ in range(2)]
        self.routes = tuple(f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers)
        try:
            yield self
        finally:
            for server in servers:
                server.close()

    async def _serve(self, reader, writer):
        visit = _Visit(self, reader, writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await visit.answer_next():
                pass
        writer.close()

    def take(self, address, message):
        """Note a message."""
        self.taken[address] += 1
        if not is_whole(address, message):
            self.broken.append(address)


class _Visit:
    """One connection to a sink. A message has one recipient on each route."""

    def __init__(self, sink, reader, writer):
        self._sink = sink
        self._reader = reader
        self._writer = writer
        self._address = ""  # the recipient that was accepted
        self._say("220 sink.example ESMTP")

    def _say(self, reply):
        self._writer.write(f"{reply}\r\n".encode())

    async def answer_next(self):
        """Answer one command; whether to go on."""
        line = (await self._reader.readuntil(b"\r\n")).decode()
        verb = line[:4].upper()
        if verb == "DATA":
            return await self._take_message()
        address = line.partition("<")[2].partition(">")[0]
        reply = await self._sink.mood(verb.lower(), address) if verb in ("MAIL", "RCPT") else None
        if verb == "RCPT":
            self._address = "" if reply else address
        if reply == DROP:
            return False
        self._say(reply or _REPLIES[verb])
        return verb != "QUIT" and not (reply or "").startswith("421")

    async def _take_message(self):
        if not self._address:
            self._say("554 5.5.1 No valid recipients")
            return True
        self._say("354 Go ahead")
        message = await self._reader.readexactly(1)
        if await self._sink.mood("body", self._address) == DROP:
            return False
        message += await self._reader.readuntil(b"\r\n.\r\n")
        reply = await self._sink.mood("dot", self._address)
        if reply in (None, DROP):
            self._sink.take(self._address, message[:-3])
        if reply == DROP:
            self._sink.doubts[self._address] += 1
            return False
        self._say(reply or "250 2.0.0 Taken")
        return True


_REPLIES = {
    "EHLO": "250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME",
    "HELO": "250 sink.example",
    "MAIL": "250 2.1.0 Sender OK",
    "RCPT": "250 2.1.5 Recipient OK",
    "RSET": "250 2.0.0 OK",
    "QUIT": "221 2.0.0 Bye",
}


def children(pid):
    """The processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return []


class Site:
    """A server and its data folder, which outlives the process again and again."""

    lanes = 2 * LANES

    def __init__(self, folder, port):
        self.port = port
        self.data = folder / "data"
        self.process = None
        self.relays = False
        self._folder = folder
        self._config = folder / "pillarbox.toml"
        self._log = folder / "pillarbox.log"
        self._below = []  # descriptors of the processes below the first one, when it greeted
        self._orphans = []  # of those whose parent was killed

    def configure(self, via, other="", *, workers=1, retry="200ms", history="30d"):
        """Send by `via`, what is for `other.example` and `refused.example` by `other`; try again after `retry`.

        What is for `load.example` and `held.example` is held.
        """
        self.relays = via.startswith("smtp:")
        ways = {"load": "hold", "held": "hold", "other": other or via, "refused": other or via}
        routes = [f'[[route]]\nmatch = "{name}.example"\nvia = "{way}"\n' for name, way in ways.items()]
        self._config.write_text(f"""
            hostname = "crash.example"
            data = "{self.data}"
            workers = {workers}
            drain = "2s"
            log.level = "error"
            limits.min_free = 0
            queue.destination_lanes = {LANES}
            queue.unreachable_after = 1000000
            queue.history = "{history}"
            queue.retry = {{ first = "{retry}", max = "{retry}" }}
            relay.dead = "10ms"
            [[listen]]
            address = "127.0.0.1:{self.port}"
            role = "relay"
            {"".join(routes)}
            [[route]]
            match = "*"
            via = "{via}"
        """)

    async def start(self, *wrapper):
        """Start the server, under the program `wrapper` if there is one; whether it got as far as to greet.

        A parent that is killed leaves a folder in TMPDIR.
        """
        environment = {**os.environ, "TMPDIR": str(self._folder)}
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *wrapper,
                *(sys.executable, "-m", "pillarbox", "serve", "--config", self._config),
                stderr=log,
                env=environment,
            )
        while self.running:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    if await reader.readuntil(b"\r\n"):
                        self._leave_below()
                        self._below = self._open_below()
                        return True
                finally:
                    writer.close()
            await asyncio.sleep(0.02)
        assert wrapper, "the server did not start"
        return False

    @property
    def running(self):
        return self.process is not None and self.process.returncode is None

    @property
    def workers(self):
        """The process ids of the workers below the parent, if there is one."""
        return children(self.process.pid)

    @property
    def writer(self):
        """The process id of the only worker's writer."""
        (pid,) = children(self.process.pid)
        return pid

    def _open_below(self):
        """Descriptors of all processes below the first one."""
        found, below = list(self.workers), []
        for pid in found:
            found += children(pid)
            with contextlib.suppress(ProcessLookupError):
                below.append(os.pidfd_open(pid))
        return below

    async def kill(self):
        """Kill the server's first process; those below it end by themselves, after a while."""
        self._orphans += self._open_below()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self, chance):
        """End the server: by kill -9, by SIGTERM, or by kill -9 while it drains; whether it was killed."""
        way = chance.choice(["kill", "kill", "terminate", "both"])
        if way != "kill":
            self.process.terminate()
        if way == "terminate":
            await self.ended()
            assert self.process.returncode == 0
            return False
        if way == "both":
            await asyncio.sleep(chance.uniform(0, 0.05))
        await self.kill()
        return self.process.returncode == -signal.SIGKILL

    async def kill_worker(self, chance):
        """Kill one of the workers, and wait until the parent has taken note."""
        worker = chance.choice(await until(lambda: self.workers))
        os.kill(worker, signal.SIGKILL)
        await until(lambda: worker not in self.workers)

    async def ended(self):
        """Wait for all its processes to end."""
        await asyncio.wait_for(self.process.wait(), LIMIT_S)
        self._leave_below()
        await self.orphans_ended()

    def _leave_below(self):
        self._orphans += self._below
        self._below = []

    async def orphans_ended(self):
        """Wait for the processes that outlived their parent."""
        while self._orphans:
            await until(lambda: select.select(self._orphans[-1:], [], [], 0)[0])
            os.close(self._orphans.pop())

    async def close(self):
        """Leave no process behind; show the log of a test that failed."""
        if self.running:
            await self.kill()
        self._leave_below()
        for orphan in self._orphans:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(orphan, signal.SIGKILL)
        await self.orphans_ended()
        print(self._log.read_text() if self._log.exists() else "no log")

    @property
    def incidents(self):
        """What the server takes for bugs of its own."""
        return [line for line in self._log.read_text().splitlines() if '"incident"' in line]

    def listed(self):
        """Every message in the store."""
        with Ledger(self.data) as ledger:
            found = [one for state in State for one in ledger.list_messages(limit=10**9, states=[state])]
        return list({message.id: message for message in found}.values())

    def reports(self):
        """How many reports of failure there are about each address."""
        found = Counter()
        with Ledger(self.data) as ledger:
            for message in ledger.list_messages(limit=10**9, states=[State.HELD]):
                if message.envelope.sender == "":
                    octets = b"".join(ledger.content(message.id).chunks())
                    found.update(one.decode() for one in _RECIPIENT.findall(octets))
        return found

    async def settled(self, limit_s=LIMIT_S):
        """Wait until nothing waits to be delivered, and no file is left that no message needs."""
        await until(self._is_settled, 0.05, limit_s)

    def _is_settled(self):
        assert self.running, "the server has ended"
        with Ledger(self.data) as ledger:
            if any(depth.state is State.QUEUED for depth in ledger.depth()):
                return False
        return not self.files("drafts") and self.files("bodies") == self._needed()

    def _needed(self):
        """The names of the body files that belong to open messages."""
        return {
            message.queue_id
            for message in self.listed()
            if message.octets > INLINE_OCTETS
            and any(recipient.state <= State.HELD for recipient in message.recipients)
        }

    @property
    def has_whole_log(self):
        """Whether the log of the store has its full length, so that nothing is written any more while no mail comes."""
        return (self.data / f"{schema.FILE}-wal").stat().st_size >= schema.LOG_OCTETS

    def files(self, folder):
        """The names of all files below a folder of the store."""
        return {file.name for file in (self.data / folder).rglob("*") if file.is_file()}

    @contextlib.contextmanager
    def remains(self):
        """A copy of what a dead server left, which may be opened without helping it: a site of its own."""
        copy = Site(self._folder / "remains", self.port)
        shutil.copytree(self.data, copy.data)
        yield copy
        shutil.rmtree(copy.data)


@dataclass
class Audit:
    """What became of all mail; `by_kills` are the duplicates that are not the sink's own doing."""

    acknowledged: int
    duplicates: int
    by_kills: int
    broken: set
    reported_twice: set
    incidents: list
    lost: set = field(default_factory=set)

    @property
    def wrong(self):
        """What no crash can excuse."""
        return [*self.lost, *self.broken, *self.reported_twice, *self.incidents]


def look(site, sink, load):
    """Ask clients, sink and store about every message. The server must have settled."""
    states = {
        recipient.address: (recipient.state, message.id)
        for message in site.listed()
        for recipient in message.recipients
        if recipient.address != SENDER
    }
    reports = site.reports()
    found = Audit(
        len(load.kept),
        sink.taken.total() - len(sink.taken),
        sum(max(0, times - 1 - sink.doubts[address]) for address, times in sink.taken.items()),
        set(sink.broken),
        {address for address, count in reports.items() if count > 1},
        site.incidents,
    )
    with Ledger(site.data) as ledger:
        for address in load.kept | states.keys():
            state, message = states.get(address, (State.DAMAGED, 0))
            if state is State.HELD and not is_whole(address, b"".join(ledger.content(message).chunks())):
                found.broken.add(address)
            delivered = state is State.DELIVERED and (sink.taken[address] or not site.relays)
            returned = state is State.FAILED and reports[address]
            if not (delivered or returned or state is State.HELD):
                found.lost.add(address)
    return found


class Strace:
    """Stops a process exactly before a system call: kill -9 when a thread is about to make its nth such call."""

    def __init__(self, folder):
        self._trace = folder / "strace"
        self._tracers = []

    def _command(self, call, nth):
        self._trace.unlink(missing_ok=True)
        kill = f"inject={call}:signal=KILL:when={nth}"
        return ["strace", "-o", self._trace, "-y", "-e", f"trace={call}", "-e", "signal=none", "-e", kill]

    def wrapper(self, call, nth):
        """The program to start a server under, for kills while it starts."""
        return (*self._command(call, nth), "-f", "-D")

    async def attach(self, pids, call, nth=1, *, all_threads=True):
        """Count from now on: in each thread of these processes by itself, or in the first one of each only."""
        tracer = await asyncio.create_subprocess_exec(
            *self._command(call, nth),
            *(["-f"] if all_threads else []),
            *[f"--attach={pid}" for pid in pids],
            stderr=asyncio.subprocess.PIPE,
        )
        self._tracers.append(tracer)
        for _ in pids:
            said = await asyncio.wait_for(tracer.stderr.readline(), LIMIT_S)
            assert b"attached" in said, said

    async def close(self):
        """Wait for the tracers, which end with the processes that they trace."""
        for tracer in self._tracers:
            await asyncio.wait_for(tracer.wait(), LIMIT_S)

    @property
    def met(self):
        """The call before which the process was stopped, and what it was about: `fsync drafts`."""
        found = _CUT_SHORT.search(self._trace.read_text()) if self._trace.exists() else None
        if found is None:
            return "none"
        about = [name for name in ("drafts", "bodies", "db-wal", "db-shm", "workers") if name in found[2]]
        return " ".join([found[1], *about[:1]])


@pytest.fixture(scope="session")
def may_trace(tmp_path_factory):
    """Skip where processes can't be traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        command = ["strace", "-o", os.devnull, "-e", "trace=none", "-p", str(sleeper.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = tracer.stderr.readline()
    finally:
        sleeper.kill()
        sleeper.wait()
    tracer.communicate()
    if "attached" not in said:
        pytest.skip(f"strace may not trace here: {said.strip()}")


@pytest.fixture
async def strace(may_trace, tmp_path, site):
    made = Strace(tmp_path)
    yield made
    await site.close()
    await made.close()


@pytest.fixture
async def sink():
    async with Sink().listen() as listening:
        yield listening


@pytest.fixture
async def site(tmp_path):
    # A socket that is bound and never listens keeps the system from giving the port away.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        made = Site(tmp_path, reserved.getsockname()[1])
        yield made
        await made.close()


@pytest.fixture
def new_body():
    """The one right body of a message to an address: `new_body("m1.700@kept.example")`."""
    return text


@pytest.fixture(name="until")
def provide_until():
    """Wait for a condition: `await until(lambda: site.files("drafts"))`."""
    return until


@pytest.fixture
def load(site):
    """Clients of the site: `mail = load(choose)`, where `choose` makes an address from a number."""
    made = []

    def make(choose):
        made.append(Load(site.port, choose))
        return made[-1]

    make.made = made
    return make


@pytest.fixture
def mixed():
    """Recipients: some messages are large, some have a second one, which may be refused for good: `load(mixed())`."""

    def make(large=40):
        def recipients(number):
            local = f"m{number}.{SMALL if number % large else LARGE}"
            second = "refused" if number % 3 == 0 else "other"
            return [f"{local}@{domain}.example" for domain in ("kept", second)[: 1 + (number % 4 == 0)]]

        return recipients

    return make


@pytest.fixture
def flaky():
    """A mood of the sink that spoils one message in ten, and refuses some for good: `flaky(chance)`."""

    def make(chance):
        async def mood(step, address):
            if step == "rcpt" and address.endswith("@refused.example"):
                return "550 5.1.1 No such mailbox"
            return next((flaw for flaw in FLAWS[step] if chance.random() < 0.1 / 5), None)

        return mood

    return make


@pytest.fixture
def audit(site, sink, load):
    """Look what became of all mail of the latest load: `found = audit()`."""
    return lambda: look(site, sink, load.made[-1])


@pytest.fixture
def figures(record_property):
    """Have the figures of a loop shown at the end of the run: `figures(kills, audit())`."""

    def record(kills, found, **more):
        told = {
            "kills": kills,
            "acknowledged": found.acknowledged,
            "lost": len(found.lost),
            "broken": len(found.broken),
            "duplicates": found.duplicates,
            "by kills": found.by_kills,
        }
        record_property("figures", ", ".join(f"{name} {value}" for name, value in (told | more).items()))

    return record


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "figures" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")
