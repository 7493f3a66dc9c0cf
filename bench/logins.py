"""Measure logins: how many a second by each mechanism, and how long other sessions wait while a flood of them goes on.

    .venv/bin/python bench/logins.py [--seconds 5] [--clients 64]

The server runs in a process of its own, without TLS, with the accounts of its data folder and the usual cost of a hash.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pillarbox.smtp import login

CONFIG = """hostname = "mx.example.org"
data = "{folder}/data"
auth.require_tls = false
auth.max_waiting = {waiting}
limits.login_failures = 1000000
limits.errors = 1000000
limits.empty_commands = 1000000
[[listen]]
address = "127.0.0.1:{port}"
role = "submission"
login_in_clear = true
[[route]]
match = "*"
via = "hold"
"""
NAME, PASSWORD = "bob@example.org", "builder"


class Client:
    """One connection."""

    @classmethod
    async def dial(cls, port: int) -> Client:
        """Connect and greet."""
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        await self.reply()
        await self.ask(b"EHLO client.example\r\n")
        return self

    async def reply(self) -> bytes:
        """One reply."""
        while True:
            line = await self.reader.readline()
            if line[3:4] != b"-":
                return line

    async def ask(self, line: bytes) -> bytes:
        """A command and its reply."""
        self.writer.write(line)
        return await self.reply()

    async def log_in(self, mechanism: str, user: str, password: str) -> bytes:
        """The last reply to a login."""
        exchange = login.mechanism(mechanism, user, password, nonce=os.urandom(18))
        reply = await self.ask(login.auth_command(mechanism, exchange.initial))
        while reply[:3] == b"334":
            challenge = base64.b64decode(reply[4:])
            reply = await self.ask(login.answer_line(exchange.step(challenge)))
        return reply


async def wrong_passwords(port: int, until: float, answers: list[bytes], number: int) -> None:
    """Guess passwords until the time is over."""
    client = await Client.dial(port)
    for attempt in itertools.count():
        if time.monotonic() >= until:
            break
        answers.append((await client.log_in("PLAIN", f"user{number}", f"guess{attempt}"))[:3])


async def other_session(port: int, until: float, waits: list[float]) -> None:
    """One session that only wants to be answered."""
    client = await Client.dial(port)
    while time.monotonic() < until:
        asked = time.perf_counter()
        await client.ask(b"NOOP\r\n")
        waits.append(time.perf_counter() - asked)
        await asyncio.sleep(0.005)


async def right_logins(port: int, mechanism: str, until: float) -> int:
    """Log in again and again, each time on a connection of its own."""
    done = 0
    while time.monotonic() < until:
        client = await Client.dial(port)
        assert (await client.log_in(mechanism, NAME, PASSWORD))[:3] == b"235"
        client.writer.close()
        done += 1
    return done


def told(waits: list[float]) -> str:
    """Three figures in milliseconds."""
    waits.sort()
    at = {
        name: waits[min(int(len(waits) * share), len(waits) - 1)]
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return ", ".join(f"{name} {1000 * wait:.1f} ms" for name, wait in [*at.items(), ("max", waits[-1])])


async def measure(port: int, seconds: float, clients: int) -> None:
    """All figures, one line each."""
    quiet: list[float] = []
    await other_session(port, time.monotonic() + seconds, quiet)
    print(f"nobody logs in: an answer to NOOP takes {told(quiet)}")
    answers: list[bytes] = []
    waits: list[float] = []
    until = time.monotonic() + seconds
    await asyncio.gather(
        *(wrong_passwords(port, until, answers, number) for number in range(clients)),
        other_session(port, until, waits),
    )
    refused = answers.count(b"535")
    print(
        f"{clients} clients guess: {refused / seconds:.0f} logins/s checked, {len(answers) - refused} put off"
    )
    print(f"meanwhile: an answer to NOOP takes {told(waits)}")
    for mechanism in ("SCRAM-SHA-256", "PLAIN"):
        done = await right_logins(port, mechanism, time.monotonic() + seconds)
        print(f"{mechanism}: {done / seconds:.0f} right logins/s by one client (each a new connection)")


def main() -> None:
    """Start a server, measure, stop it."""
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--port", type=int, default=5878)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "pillarbox.toml"
        config.write_text(CONFIG.format(folder=folder, port=given.port, waiting=given.clients + 1))
        command = [sys.executable, "-m", "pillarbox"]
        secret = {"PILLARBOX_PASSWORD": PASSWORD}
        subprocess.run(
            [*command, "user", "add", NAME, "--config", config],
            check=True,
            env=os.environ | secret,
            stdout=subprocess.DEVNULL,
        )
        server = subprocess.Popen([*command, "serve", "--config", config], stderr=subprocess.DEVNULL)
        try:
            asyncio.run(started(given.port))
            asyncio.run(measure(given.port, given.seconds, given.clients))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


async def started(port: int) -> None:
    """Wait until the server answers."""
    for _ in range(200):
        try:
            (await Client.dial(port)).writer.close()
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
