"""The whole server as a process of its own: `serve` starts `pillarbox serve --config FILE` and watches over it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

LIMIT_S = 30  # for whatever a test waits for


class Server:
    """A server process, or a supervisor with its workers, and what it says in its log."""

    def __init__(self, folder: Path, name: str) -> None:
        self.data = folder / "data"
        self.config = folder / f"{name}.toml"
        self._log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes]

    def configure(self, text: str) -> None:
        """Write the configuration; host name and data folder stand above `text`."""
        self.config.write_text(f'hostname = "mx.example.org"\ndata = "{self.data}"\n{text}')

    async def start(self) -> None:
        """Start the process, and wait until every worker listens. The log goes on where it ended."""
        workers = int(tomllib.loads(self.config.read_text()).get("workers", 1))
        before = len(self.events("server.started"))
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pillarbox", "serve", "--config", str(self.config)], stderr=log
            )
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
    Servers of one test share a data folder unless `folder` is given. A test fails if a server met a bug of its own.
    """
    started: list[Server] = []

    async def start(text: str, *, folder: Path = tmp_path) -> Server:
        server = Server(folder, f"server{len(started)}")
        started.append(server)
        server.configure(text)
        await server.start()
        return server

    yield start
    for server in started:
        server.kill()
        print(f"--- log of {server.config}\n{server.log_text}")  # pytest shows it if the test failed
    incidents = [event for server in started for event in server.events("incident")]
    assert not incidents
