"""Measure how fast mail is received with all checks of who sent it, beside the same server without any, and beside others.

    .venv/bin/python bench/receiving.py [--messages N] [--sessions N] [--beside NAME=HOST:PORT]...

Every message is signed (RSA-2048) and passes SPF, DKIM and DMARC; a name server on loopback answers, and answers are
remembered. Servers take turns, the best of three rounds counts. `--beside` measures a server that runs already, such as
a Postfix that holds its mail; it must accept mail for u@dest.test. The client runs on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rrset

from pillarbox.mailauth import dkim, keys

RSA = keys.new_key("rsa")
ZONE = {
    ("src.test.", "TXT"): '"v=spf1 ip4:127.0.0.0/8 -all"',
    ("_dmarc.src.test.", "TXT"): '"v=DMARC1; p=reject; rua=mailto:d@src.test"',
    ("1.0.0.127.in-addr.arpa.", "PTR"): "mail.src.test.",
    ("mail.src.test.", "A"): "127.0.0.1",
}
SETTINGS = """hostname = "bench.test"
data = "{folder}/data"
[[listen]]
address = "127.0.0.1:{port}"
role = "mx"
[policy]
relay_networks = []
[limits]
messages = 1000000
min_free = 0
[connections]
per_address = 10000
[domain."dest.test"]
deliver = "hold"
users = ["u"]
"""
CHECKS = """[dns]
nameservers = ["127.0.0.1:{dns}"]
[reverse_dns]
check = true
[spf]
check = true
[dkim]
check = true
[dmarc]
check = true
[arc]
check = true
[reports]
dmarc = true
"""


def signed_message() -> bytes:
    """A message of about 1 KiB."""
    line = b"Some text as people write it, in lines of a common length, word by word.\r\n"
    mail = (
        b"From: Alice <s@src.test>\r\nTo: Bob <u@dest.test>\r\nSubject: what people write\r\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1234567890@src.test>\r\n\r\n" + line * 5
    )
    header, body_hash = dkim.message_hash(mail)
    return dkim.sign(header, body_hash, [dkim.Signer("src.test", "s", RSA)], now=time.time()) + mail


class Names(asyncio.DatagramProtocol):
    """Answers from the zone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        asked = question.question[0]
        kind = asked.rdtype.name
        found = ZONE.get((asked.name.to_text().lower(), kind))
        if found is not None:
            answer.answer.append(dns.rrset.from_text(asked.name, 3600, "IN", kind, found))
        else:
            answer.set_rcode(3)
            answer.authority.append(
                dns.rrset.from_text("test.", 3600, "IN", "SOA", "ns.test. h.test. 1 1 1 1 3600")
            )
        self._transport.sendto(answer.to_wire(), addr)  # type: ignore[attr-defined]


@contextlib.contextmanager
def name_server() -> Iterator[int]:
    """Run it in a thread; its port."""
    record = keys.format_record(RSA)
    pieces = " ".join(f'"{record[at : at + 250]}"' for at in range(0, len(record), 250))
    ZONE["s._domainkey.src.test.", "TXT"] = pieces
    loop = asyncio.new_event_loop()
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0)))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield transport.get_extra_info("sockname")[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@contextlib.contextmanager
def pillarbox(port: int, more: str) -> Iterator[None]:
    """Run a server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="receiving-") as folder:
        config = Path(folder) / "pillarbox.toml"
        config.write_text(SETTINGS.format(folder=folder, port=port) + more)
        command = [sys.executable, "-m", "pillarbox", "serve", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                yield
            finally:
                server.terminate()


async def session(host: str, port: int, mail: bytes, count: int) -> None:
    """Send so many messages on one connection; a refusal ends the measurement."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            break
        await asyncio.sleep(0.05)

    async def say(octets: bytes, expected: bytes) -> None:
        writer.write(octets)
        while True:
            line = await reader.readline()
            if line[3:4] == b" ":
                break
        if not line.startswith(expected):
            raise SystemExit(f"{octets[:40]!r} was answered {line!r}")

    await say(b"", b"220")
    await say(b"EHLO mail.src.test\r\n", b"250")
    for _ in range(count):
        await say(b"MAIL FROM:<s@src.test>\r\n", b"250")
        await say(b"RCPT TO:<u@dest.test>\r\n", b"250")
        await say(b"DATA\r\n", b"354")
        await say(mail + b".\r\n", b"250")
    writer.close()


async def load(host: str, port: int, mail: bytes, messages: int, sessions: int) -> float:
    """Messages a second."""
    await session(host, port, mail, 20)  # until all is warm and every answer remembered
    start = time.perf_counter()
    await asyncio.gather(*(session(host, port, mail, messages // sessions) for _ in range(sessions)))
    return messages // sessions * sessions / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=2599)
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=HOST:PORT")
    asked = parser.parse_args()
    mail = signed_message()
    best: dict[str, float] = {}

    def measure(name: str, host: str, port: int) -> None:
        rate = asyncio.run(load(host, port, mail, asked.messages, asked.sessions))
        best[name] = max(best.get(name, 0.0), rate)

    with name_server() as names:
        for _ in range(asked.rounds):
            for name, more in (
                ("pillarbox, all checks", CHECKS.format(dns=names)),
                ("pillarbox, no check", ""),
            ):
                with pillarbox(asked.port, more):
                    measure(name, "127.0.0.1", asked.port)
            for other in asked.beside:
                name, _, address = other.partition("=")
                host, _, port = address.rpartition(":")
                measure(name, host, int(port))
    for name, rate in best.items():
        print(f"{name:28} {rate:8,.0f} messages/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
