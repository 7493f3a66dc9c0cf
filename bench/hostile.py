"""Measure what attacks cost: the places they hold, the server's memory at its peak, and how long others wait meanwhile.

    .venv/bin/python bench/hostile.py [--clients 2000] [--seconds 20] [ATTACK ...]

All on loopback, bounded in number and time. The server runs in a process of its own with its usual limits, but for the
connections from one address. The bystander hands in a small message again and again; each is synced before its 250.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

CONFIG = """hostname = "mx.example.org"
data = "{folder}/data"
connections.total = {total}
connections.per_address = {total}
connections.memory = "{memory}"
limits.min_free = 0
attachments.deny = ["exe"]
[[listen]]
address = "127.0.0.1:{port}"
role = "relay"
[[route]]
match = "*"
via = "hold"
"""
HELLO = b"EHLO client.example\r\n"
OPENED = HELLO + b"MAIL FROM:<a@here.example>\r\nRCPT TO:<b@there.example>\r\n"
MIB = 1 << 20
LINE = b"x" * 76 + b"\r\n"


class Server:
    """The server's process."""

    def __init__(self, folder: str, clients: int, memory: str) -> None:
        self.port = 25250
        config = Path(folder) / "x.toml"
        config.write_text(CONFIG.format(folder=folder, port=self.port, total=clients + 10, memory=memory))
        command = [sys.executable, "-m", "pillarbox", "serve", "--config", str(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def memory(self, name: str) -> float:
        """A figure of its memory, in mebibytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = [line for line in status if line.startswith(name)]
        return int(found[0].split()[1]) / 1024 if found else 0.0  # it has ended

    @property
    def places(self) -> int:
        """Connections and files that it holds."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Attacker(asyncio.Protocol):
    """One connection that reads nothing of interest and notices its end."""

    def __init__(self) -> None:
        self.gone = False
        self.said = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.said = (self.said + data)[-200:]

    def eof_received(self) -> None:
        self.gone = True

    def connection_lost(self, _error: Exception | None) -> None:
        self.gone = True

    async def room(self) -> None:
        """Wait until most of what was written is on its way."""
        while not self.gone and self.transport.get_write_buffer_size() > MIB:
            await asyncio.sleep(0.001)


async def call(port: int, octets: bytes = b"") -> Attacker:
    _, attacker = await asyncio.get_running_loop().create_connection(Attacker, "127.0.0.1", port)
    attacker.transport.write(octets)
    return attacker


async def crowd(port: int, count: int, octets: bytes) -> list[Attacker]:
    """So many connections, fifty at a time."""
    found: list[Attacker] = []
    for start in range(0, count, 50):
        found += await asyncio.gather(*(call(port, octets) for _ in range(min(50, count - start))))
    return found


async def drip(attackers: list[Attacker], octet: bytes, seconds: float) -> list[Attacker]:
    """Each sends an octet in every second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for one in attackers:
            if not one.gone:
                one.transport.write(octet)
        await asyncio.sleep(1)
    return attackers


async def slow_commands(port: int, clients: int, seconds: float) -> list[Attacker]:
    """A command that never ends, an octet each second."""
    return await drip(await crowd(port, clients, HELLO), b"N", seconds)


async def slow_bodies(port: int, clients: int, seconds: float) -> list[Attacker]:
    """A message that never ends, an octet each second."""
    return await drip(await crowd(port, clients, OPENED + b"DATA\r\n"), b"x", seconds)


async def silence(port: int, clients: int, seconds: float) -> list[Attacker]:
    """Nothing at all."""
    attackers = await crowd(port, clients, b"")
    await asyncio.sleep(seconds)
    return attackers


async def slow_readers(port: int, clients: int, seconds: float) -> list[Attacker]:
    """Many questions, and no answer is read."""
    attackers = await crowd(port, clients, HELLO)
    for one in attackers:
        one.transport.pause_reading()
        one.transport.write((b"HELP\r\n" * 40 + b"VRFY a@there.example\r\n") * 800)
    await asyncio.sleep(seconds)
    return attackers


async def noops(port: int, clients: int, seconds: float) -> list[Attacker]:
    """Fifty clients send NOOP as fast as they can, each again and again."""
    until = time.monotonic() + seconds
    sent = 0

    async def one() -> None:
        nonlocal sent
        while time.monotonic() < until:
            attacker = await call(port, HELLO)
            while not attacker.gone and time.monotonic() < until:
                attacker.transport.write(b"NOOP\r\n" * 100)
                sent += 100
                await attacker.room()
                await asyncio.sleep(0.001)
            attacker.transport.abort()

    await asyncio.gather(*(one() for _ in range(min(50, clients))))
    return []


async def pour(port: int, opening: bytes, piece: bytes, octets: int) -> list[Attacker]:
    """So many octets in pieces, as fast as they are taken."""
    attacker = await call(port, opening)
    for _ in range(octets // len(piece)):
        if attacker.gone or attacker.transport.is_closing():
            break
        attacker.transport.write(piece)
        await attacker.room()
        await asyncio.sleep(0)
    if not attacker.transport.is_closing():
        attacker.transport.write(b"\r\nNOOP\r\n")
    until = time.monotonic() + 20  # the answer to the last one shows that all was read
    while not attacker.gone and b"250 2.0.0" not in attacker.said and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return [attacker]


async def recipients(port: int, _clients: int, _seconds: float) -> list[Attacker]:
    """100,000 RCPT for one message."""
    return await pour(
        port, HELLO + b"MAIL FROM:<a@here.example>\r\n", b"RCPT TO:<b@there.example>\r\n" * 1000, 2_700_000
    )


async def endless_line(port: int, _clients: int, _seconds: float) -> list[Attacker]:
    """A command line of 256 MiB."""
    return await pour(port, HELLO, b"x" * 65_536, 256 * MIB)


async def endless_header(port: int, _clients: int, _seconds: float) -> list[Attacker]:
    """A header section of up to 256 MiB."""
    return await pour(port, OPENED + b"DATA\r\n", b"Subject: one of many\r\n" * 3000, 256 * MIB)


async def held_headers(port: int, clients: int, seconds: float) -> list[Attacker]:
    """A header section of 250 KiB from each of 500, and then nothing."""
    attackers = await crowd(port, min(500, clients), OPENED + b"DATA\r\n" + b"X: " + b"y" * 900 + b"\r\n")
    for one in attackers:
        one.transport.write((b"X: " + b"y" * 900 + b"\r\n") * 280)
    await asyncio.sleep(seconds)
    return attackers


async def held_bodies(port: int, clients: int, seconds: float) -> list[Attacker]:
    """A message of 60 KiB, which stays in memory, from each; its end never comes."""
    attackers = await crowd(port, clients, OPENED + b"DATA\r\nSubject: x\r\n\r\n" + LINE * 780)
    await asyncio.sleep(seconds)
    return attackers


async def held_recipients(port: int, clients: int, seconds: float) -> list[Attacker]:
    """1,000 recipients from each, and then nothing."""
    attackers = await crowd(port, clients, OPENED)
    for number in range(999):
        for one in attackers:
            if not one.gone:
                one.transport.write(b"RCPT TO:<someone-%d@somewhere-%d.example>\r\n" % (number, number))
        await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    return attackers


def message(head: bytes, body: bytes) -> bytes:
    return OPENED + b"DATA\r\nFrom: a@here.example\r\n" + head + b"\r\n" + body + b"\r\n.\r\nQUIT\r\n"


NESTED = b"".join(
    b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(10_000)
)
MESSAGES = {
    "nested_mime": message(b"", NESTED),
    "encoded_words": message(b"Subject:" + b" =?x?q?a?=\r\n" * 20_000, b"x"),
    "encoded_names": message(b"", b'Content-Type: x/y; name="=?utf-8?q?a?="\r\n' * 20_000),
    "spaces": message(b"", (b" " * 3998 + b"\r\n") * 50 + b" " * 3990 + b"x"),
}


async def one_message(port: int, octets: bytes) -> list[Attacker]:
    """One message that is hard to read, a hundred times."""
    for _ in range(100):
        attacker = await call(port, octets)
        while not attacker.gone:
            await asyncio.sleep(0.001)
        attacker.transport.abort()
    return []


Attack = Callable[[int, int, float], Awaitable[list[Attacker]]]
ATTACKS: dict[str, Attack] = {
    one.__name__: one
    for one in (
        silence,
        slow_commands,
        slow_bodies,
        slow_readers,
        noops,
        recipients,
        endless_line,
        endless_header,
        held_headers,
        held_bodies,
        held_recipients,
    )
} | {
    name: (lambda port, _clients, _seconds, octets=octets: one_message(port, octets))
    for name, octets in MESSAGES.items()
}


async def bystander(port: int) -> None:
    """Hand in a message on a new connection, again and again, and write down how long each took up to its 250."""
    while True:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for octets in (
                    b"",
                    *(line + b"\r\n" for line in OPENED.split(b"\r\n")[:-1]),
                    b"DATA\r\n",
                    b"Subject: x\r\n\r\n.\r\n",
                ):
                    writer.write(octets)
                    while (line := await reader.readline())[3:4] == b"-":
                        pass
                    if line[:1] not in (b"2", b"3"):
                        raise ConnectionError(line)
            print(time.perf_counter() - began, flush=True)
            writer.close()
        except (OSError, TimeoutError):
            print("inf", flush=True)
        await asyncio.sleep(0.01)


class Bystander:
    """One in a process of its own, so that the attackers' work does not count as the server's."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--bystander", str(port)], stdout=subprocess.PIPE, text=True
        )

    def stop(self) -> str:
        """End it; what it has seen."""
        self._process.terminate()
        waits = [float(line) for line in self._process.communicate()[0].splitlines()]
        served = sorted(wait for wait in waits if wait < 10)
        p50, p99 = (served[int(len(served) * share)] * 1000 for share in (0.5, 0.99)) if served else (0, 0)
        return (
            f"{len(served)} messages, {len(waits) - len(served)} refused, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )


async def measure(server: Server, name: str, clients: int, seconds: float) -> None:
    """One attack: one line."""
    before, places = server.memory("VmRSS"), server.places
    server.forget_peak()
    watching = Bystander(server.port)
    await asyncio.sleep(1)  # it has to start
    began = time.monotonic()
    attackers = await ATTACKS[name](server.port, clients, seconds)
    took_s = time.monotonic() - began
    seen = watching.stop()
    held = max(server.places - places, 0)
    grown = server.memory("VmHWM") - before
    print(
        f"{name:15} {took_s:5.1f} s  {held:5} of {len(attackers):5} places held  {grown:6.1f} MiB more  others: {seen}",
        flush=True,
    )
    for one in attackers:
        one.transport.abort()
    await asyncio.sleep(3)


async def run(name: str, given: argparse.Namespace) -> None:
    """One attack, on a server of its own: what an attack has taken is not always given back to the system."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        os.chmod(folder, 0o700)  # noqa: PTH101 - the server looks at it
        server = Server(folder, given.clients, given.memory)
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    (await call(server.port)).transport.abort()
                    break
                await asyncio.sleep(0.1)
            watching = Bystander(server.port)
            await asyncio.sleep(2)
            print(f"{'nobody yet':15} {server.memory('VmRSS'):.1f} MiB  {watching.stop()}")
            await measure(server, name, given.clients, given.seconds)
        finally:
            server.stop()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--clients", type=int, default=2000)
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument(
        "--memory", default="256M", help="what the clients may have the server keep; 0 for no bound"
    )
    options.add_argument("--bystander", type=int, help=argparse.SUPPRESS)
    options.add_argument("attacks", nargs="*", choices=[*ATTACKS, []])
    given = options.parse_args()
    if given.bystander:
        asyncio.run(bystander(given.bystander))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for name in given.attacks or list(ATTACKS):
        asyncio.run(run(name, given))


if __name__ == "__main__":
    main()
