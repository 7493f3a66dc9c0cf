"""Measure how fast mail is received with all checks of who sent it, beside the same server without any, and beside others.

    .venv/bin/python bench/receiving.py [--messages N] [--sessions N] [--workers N] [--one] [--beside NAME=HOST:PORT]...

Every message is signed (RSA-2048) and passes SPF, DKIM and DMARC; a name server on loopback answers, and answers are
remembered. Servers take turns, the best round counts. `--beside` measures a server that runs already, such as a Postfix that
holds its mail; it must accept mail for u@dest.test. `--one` makes a connection for each message. The load comes from
`smtp-source` (Debian: postfix), on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
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
workers = {workers}
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
def pillarbox(port: int, workers: int, more: str) -> Iterator[None]:
    """Run a server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="receiving-") as folder:
        config = Path(folder) / "pillarbox.toml"
        config.write_text(SETTINGS.format(folder=folder, port=port, workers=workers) + more)
        command = [sys.executable, "-m", "pillarbox", "serve", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                yield
            finally:
                server.terminate()


def send(port: int, host: str, mail: Path, messages: int, asked: argparse.Namespace) -> None:
    """Send so many messages; a refusal ends the measurement."""
    command = ["smtp-source", "-s", str(min(asked.sessions, messages)), "-m", str(messages), "-F", str(mail)]
    command += ["-M", "mail.src.test", "-f", "s@src.test", "-t", "u@dest.test"]
    command += [] if asked.one else ["-d"]
    subprocess.run([*command, f"inet:{host}:{port}"], check=True, stdin=subprocess.DEVNULL)


def wait_for(host: str, port: int) -> None:
    """Until a server greets."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as made:
            if made.recv(3) == b"220":
                return
        time.sleep(0.05)
    raise SystemExit(f"nobody answers on {host}:{port}")


def load(host: str, port: int, mail: Path, asked: argparse.Namespace) -> float:
    """Messages a second."""
    wait_for(host, port)
    send(port, host, mail, 100 * asked.workers, asked)  # until all is warm and every answer remembered
    start = time.perf_counter()
    send(port, host, mail, asked.messages, asked)
    return float(asked.messages / (time.perf_counter() - start))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=2599)
    parser.add_argument("--one", action="store_true", help="a connection for each message")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=HOST:PORT")
    asked = parser.parse_args()
    best: dict[str, float] = {}
    with name_server() as names, tempfile.TemporaryDirectory(prefix="receiving-") as folder:
        mail = Path(folder) / "mail"
        mail.write_bytes(signed_message().replace(b"\r\n", b"\n"))

        def measure(name: str, host: str, port: int) -> None:
            best[name] = max(best.get(name, 0.0), load(host, port, mail, asked))

        for _ in range(asked.rounds):
            for name, more in (
                ("pillarbox, all checks", CHECKS.format(dns=names)),
                ("pillarbox, no check", ""),
            ):
                with pillarbox(asked.port, asked.workers, more):
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
