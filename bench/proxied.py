"""Measure what a PROXY header costs: the server's processor time for a message, without one and behind one of each version.

    .venv/bin/python bench/proxied.py [--messages 1500]

Twenty clients at once on loopback; all that is stored is held. The kinds take turns, and the median of five is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = """hostname = "mx.example.org"
data = "{folder}/data"
connections.per_address = 1000
limits.min_free = 0
[proxy]
networks = ["127.0.0.0/8"]
[policy]
relay_networks = ["192.0.2.0/24", "127.0.0.0/8"]
[[listen]]
address = "127.0.0.1:25270"
role = "relay"
[[listen]]
address = "127.0.0.1:25271"
role = "relay"
proxy_protocol = true
[[route]]
match = "*"
via = "hold"
"""
ENDS = bytes([192, 0, 2, 7, 127, 0, 0, 1]) + (40000).to_bytes(2, "big") + (25).to_bytes(2, "big")
KINDS = {
    "without": (25270, b""),
    "version 1": (25271, b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 25\r\n"),
    "version 2": (25271, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + ENDS),
}
MESSAGE = b"From: <a@here.example>\r\nSubject: x\r\n\r\n" + b"La de da de da 1.\r\n" * 50 + b".\r\n"
LINES = (b"MAIL FROM:<a@here.example>\r\n", b"RCPT TO:<b@there.example>\r\n", b"DATA\r\n", MESSAGE)


async def session(port: int, header: bytes, messages: int) -> None:
    """One connection that hands in so many messages."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for octets in (header, b"EHLO client.example\r\n", *LINES * messages, b"QUIT\r\n"):
        writer.write(octets)
        while (line := await reader.readline())[3:4] == b"-":
            pass
        if line[:1] not in (b"2", b"3"):
            raise ConnectionError(line)
    writer.close()


async def load(kind: str, messages: int, sessions: int) -> None:
    """So many sessions, twenty at once."""
    left = iter(range(sessions))

    async def client() -> None:
        for _ in left:
            await session(*KINDS[kind], messages)

    await asyncio.gather(*(client() for _ in range(20)))


def worked_s(pid: int) -> float:
    """The processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, total: int) -> None:
    """One line for each kind and each number of messages in a session."""
    found: dict[tuple[int, str], list[float]] = {}
    for turn in range(6):
        for messages in (1, 10):
            for kind in KINDS:
                before = worked_s(pid)
                await load(kind, messages, total // messages)
                if turn:  # the first is for warming up
                    found.setdefault((messages, kind), []).append((worked_s(pid) - before) / total * 1e6)
    for (messages, kind), times in found.items():
        print(f"{messages:2} a session, {kind:9}  {statistics.median(times):5.0f} us for a message")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--messages", type=int, default=1500)
    total = options.parse_args().messages
    with tempfile.TemporaryDirectory(prefix="proxied-") as folder:
        os.chmod(folder, 0o700)  # noqa: PTH101 - the server looks at it
        config = Path(folder) / "x.toml"
        config.write_text(CONFIG.format(folder=folder))
        command = [sys.executable, "-m", "pillarbox", "serve", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as server:
            assert server.stderr is not None
            while b"server.started" not in server.stderr.readline():
                pass
            with subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL):
                try:
                    asyncio.run(measure(server.pid, total))
                finally:
                    server.terminate()


if __name__ == "__main__":
    main()
