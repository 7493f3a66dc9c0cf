"""The whole server as a process of its own: `serve` starts `pillarbox serve --config FILE` and watches over it."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.cli.outcome import Exit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

LIMIT_S = 30  # for whatever a test waits for
_PATH = re.compile(r"(.*?)((?: [A-Z0-9-]+(?:=\S+)?)*)")


class Server:
    """A server process, or a supervisor with its workers, and what it says in its log."""

    def __init__(self, folder: Path, name: str, prefix: Sequence[str] = ()) -> None:
        self._prefix = prefix
        self.data = folder / "data"
        self.config = folder / f"{name}.toml"
        self._log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes]

    def configure(self, text: str, hostname: str = "mx.example.org") -> None:
        """Write the configuration; host name and data folder stand above `text`."""
        self.config.write_text(f'hostname = "{hostname}"\ndata = "{self.data}"\n{text}')

    async def start(self) -> None:
        """Start the process, and wait until every worker listens. The log goes on where it ended."""
        workers = int(tomllib.loads(self.config.read_text()).get("workers", 1))
        before = len(self.events("server.started"))
        with self._log.open("ab") as log:
            command = [
                *self._prefix,
                sys.executable,
                "-m",
                "pillarbox",
                "serve",
                "--config",
                str(self.config),
            ]
            self.process = subprocess.Popen(command, stderr=log)
        await self.until(lambda: not self.running or len(self.events("server.started")) >= before + workers)
        assert self.running, "the server did not start"

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def ports(self) -> list[int]:
        """Where it listens, in the order of the configuration."""
        listeners = self.events("server.started")[-1]["listeners"]
        return [int(address.rpartition(":")[2]) for address in listeners.split(", ")]

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def workers(self) -> dict[int, int]:
        """The process id of each worker, by its number: the last one that was started."""
        return {event["worker"]: event["pid"] for event in self.events("worker.started")}

    @property
    def log_text(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def events(self, name: str, **facts: object) -> list[dict[str, Any]]:
        """The lines of the log about one kind of event, with these facts."""
        lines = [json.loads(line) for line in self.log_text.splitlines(keepends=True) if _complete(line)]
        return [line for line in lines if line["event"] == name and facts.items() <= line.items()]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until `condition` gives something true, and give it back."""
        async with asyncio.timeout(LIMIT_S):
            while not (found := condition()):
                await asyncio.sleep(0.01)
        return found

    async def logged(self, name: str, **facts: object) -> dict[str, Any]:
        """Wait for an event in the log; the first one that fits."""
        found = await self.until(lambda: self.events(name, **facts))
        return found[0]

    def command(self, *arguments: str) -> Any:
        """What `pillarbox ARGUMENTS --json` says of this server's store."""
        done = CliRunner().invoke(cli, [*arguments, "--data", str(self.data), "--json"])
        assert done.exit_code in (Exit.OK, Exit.NOTHING), done.output
        return json.loads(done.stdout)

    def queue(self, *arguments: str) -> list[dict[str, Any]]:
        """The messages in the queue, as `pillarbox queue list` shows them."""
        return list(self.command("queue", "list", *arguments))

    def recipient(self, queue_id: str, number: int = 0) -> dict[str, Any]:
        """How one recipient of a message stands, as `pillarbox queue show` tells it."""
        return dict(self.command("queue", "show", queue_id)["recipients"][number])

    async def reached(self, state: str, queue_id: str, number: int = 0) -> dict[str, Any]:
        """Wait until a recipient is in a state; how it stands then."""
        found = await self.until(
            lambda: (one := self.recipient(queue_id, number))["state"] == state and not one["active"] and one
        )
        return dict(found)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the process to end; its exit status."""
        await self.until(lambda: not self.running)
        return self.process.returncode

    async def stop(self) -> int:
        """End it by SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def kill(self) -> None:
        """End it and its workers at once, by process id."""
        if self.process.poll() is None:
            children = _children(self.process.pid)
            self.process.kill()
            self.process.wait()
            for pid in children:
                _kill(pid)


def _complete(line: str) -> bool:
    """Whether it is a line of the log, all of it; a crash of the interpreter may leave others."""
    return line.startswith("{") and line.endswith("\n")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Find a port that stays free for a server until the test ends: `port = free_port()`.

    A socket that is bound and never listens keeps the system from giving it away; a server can share it (SO_REUSEADDR).
    """
    reserved = []

    def reserve() -> int:
        sock = socket.socket()
        reserved.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])

    yield reserve
    for sock in reserved:
        sock.close()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start a server with a configuration: `server = await serve('[[listen]]\\naddress = "127.0.0.1:0"\\n...')`.

    Port 0 is any free one, see `Server.ports`; with workers, or to start again on the same one, use `free_port`.
    Servers of one test share a data folder unless `folder` is given. `prefix` is a command that becomes the server, such
    as `prlimit`. A test fails if a server met a bug of its own.
    """
    started: list[Server] = []

    async def start(
        text: str,
        *,
        folder: Path = tmp_path,
        hostname: str = "mx.example.org",
        prefix: Sequence[str] = (),
    ) -> Server:
        folder.mkdir(exist_ok=True)
        server = Server(folder, f"server{len(started)}", prefix)
        started.append(server)
        server.configure(text, hostname)
        await server.start()
        return server

    yield start
    for server in started:
        server.kill()
        print(f"--- log of {server.config}\n{server.log_text}")  # pytest shows it if the test failed
    incidents = [event for server in started for event in server.events("incident") if "handler" not in event]
    assert not incidents


class Mailbox:
    """A Maildir, as a mail program would read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "new").glob("*"))

    @property
    def raw(self) -> list[bytes]:
        return [file.read_bytes() for file in self.files]

    @property
    def messages(self) -> list[email.message.EmailMessage]:
        policy = email.policy.default.clone(utf8=True)
        return [email.message_from_bytes(octets, policy=policy) for octets in self.raw]

    async def filled(self, count: int = 1) -> list[email.message.EmailMessage]:
        """Wait until so many messages are there; all of them."""
        async with asyncio.timeout(LIMIT_S):
            while len(self.files) < count:
                await asyncio.sleep(0.01)
        return self.messages


@pytest.fixture
def mailbox(tmp_path: Path) -> Callable[[str], Mailbox]:
    """The Maildir of a user in the folder `mail` beside the configuration: `mailbox("alice")`."""
    (tmp_path / "mail").mkdir()
    return lambda user: Mailbox(tmp_path / "mail" / user)


@dataclass(frozen=True)
class Sent:
    """One message as its client saw it go: the replies to RCPT, those to the end of the data, its id in the queue."""

    recipients: list[bytes]
    replies: list[bytes]

    @property
    def id(self) -> str:
        assert self.replies[0].startswith(b"250 "), (self.recipients, self.replies)
        return self.replies[0].split()[-1].decode()


LETTER = b"From: a@sender.example\r\nSubject: hello\r\nMessage-ID: <1@sender.example>\r\n\r\nHow are you?\r\n"


@pytest.fixture
def send(dial: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Sent]]:
    """Hand a message to a port: `sent = await send(port, "alice@example.org", "bob@example.org NOTIFY=NEVER")`.

    `sender` and recipients may carry parameters; `lmtp` says LHLO and reads a reply for each accepted recipient.
    """

    async def hand_in(
        port: int,
        *recipients: str,
        sender: str = "a@sender.example",
        message: bytes = LETTER,
        lmtp: bool = False,
    ) -> Sent:
        caller = await dial(port)
        await caller.reply()
        await caller.ask(b"LHLO client.example" if lmtp else b"EHLO client.example")
        answer = await caller.ask(b"MAIL FROM:" + _path(sender))
        assert answer.startswith(b"250"), answer
        answers = [await caller.ask(b"RCPT TO:" + _path(recipient)) for recipient in recipients]
        if (go := await caller.ask(b"DATA")).startswith(b"354"):
            await caller.send((b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
            accepted = sum(answer.startswith(b"250") for answer in answers)
            replies = [await caller.reply() for _ in range(accepted if lmtp else 1)]
        else:
            replies = [go]
        await caller.send(b"QUIT\r\n")
        await caller.rest()
        return Sent(answers, replies)

    return hand_in


def _path(text: str) -> bytes:
    """An address in angle brackets, and its parameters behind it; a quoted local part may have spaces."""
    found = _PATH.fullmatch(text)
    assert found is not None
    return f"<{found[1]}>{found[2]}".encode("utf-8", "surrogateescape")
