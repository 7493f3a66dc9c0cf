"""What a monitoring system reads from a running server, of one worker and of several."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.request

import pytest

LISTENERS = """
workers = {workers}
[log]
levels = {{ session = "debug" }}
[console]
address = "127.0.0.1:{console}"
[[listen]]
address = "127.0.0.1:{smtp}"
role = "relay"
[[route]]
match = "stuck.example"
via = "hold"
[[route]]
match = "*"
via = "discard"
"""


class Monitor:
    """Reads the metrics of a server."""

    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/metrics"

    async def read(self):
        """All numbers by name and labels."""
        text = await asyncio.to_thread(self._fetch)
        return {
            name: float(value) for name, value in re.findall(r"^(pillarbox_\S+) (\S+)$", text, re.MULTILINE)
        }

    def _fetch(self):
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            return answer.read().decode()

    async def until(self, **expected):
        """Wait until these numbers are there; all numbers."""
        async with asyncio.timeout(20):
            while True:
                numbers = await self.read()
                if all(numbers.get(f"pillarbox_{name}") == value for name, value in expected.items()):
                    return numbers
                await asyncio.sleep(0.05)


@pytest.fixture
async def monitored(serve, free_port):
    """Start a server with a console: `server, monitor = await monitored(workers=2)`."""

    async def start(*, workers):
        console = free_port()
        server = await serve(LISTENERS.format(workers=workers, console=console, smtp=free_port()))
        return server, Monitor(console)

    return start


async def send(caller, domain):
    await caller.reply()
    for command in (b"EHLO client.example", b"MAIL FROM:<a@there.example>", b"RCPT TO:<b@%s>" % domain):
        assert (await caller.ask(command)).startswith(b"250")
    assert (await caller.ask(b"DATA")).startswith(b"354")
    assert (await caller.ask(b"Subject: hi\r\n\r\nhello\r\n.")).startswith(b"250")


@pytest.mark.parametrize("workers", [1, 2])
async def test_open_connections_the_queue_and_the_store_are_measured(monitored, dial, workers):
    server, monitor = await monitored(workers=workers)
    callers = [await dial(server.port) for _ in range(4)]
    for caller in callers:
        await send(caller, b"stuck.example")
    numbers = await monitor.until(sessions_open=4)
    assert numbers["pillarbox_session_opened_total"] == 4
    assert numbers['pillarbox_message_received_total{protocol="ESMTP"}'] == 4
    assert numbers['pillarbox_queue_recipients{state="waiting"}'] == 0
    for _ in range(10):  # whichever worker answers
        assert (await monitor.read())['pillarbox_queue_recipients{state="held"}'] == 4
    assert numbers["pillarbox_commit_seconds_count"] >= 1
    assert numbers["pillarbox_commit_seconds_sum"] > 0
    for caller in callers:
        await caller.close()
    await monitor.until(sessions_open=0, session_closed_total=4)


async def test_each_scrape_tells_of_all_workers(monitored, dial):
    server, monitor = await monitored(workers=2)
    caller = await dial(server.port)
    await send(caller, b"there.example")
    await monitor.until(**{'delivery_ok_total{transport="discard"}': 1})
    for _ in range(10):  # whichever worker answers
        numbers = await monitor.read()
        assert numbers['pillarbox_delivery_ok_total{transport="discard"}'] == 1
        assert numbers['pillarbox_message_received_total{protocol="ESMTP"}'] == 1


async def test_the_log_tells_of_connections_if_asked_to(monitored, dial):
    server, _monitor = await monitored(workers=1)
    caller = await dial(server.port)
    await caller.reply()
    opened = await server.logged("session.opened")
    assert (opened["client"], opened["level"]) == ("127.0.0.1", "debug")
    assert not server.events("session.closed")
    await caller.close()
    await server.logged("session.closed", client="127.0.0.1")


async def test_the_loss_of_a_worker_is_counted(monitored):
    server, monitor = await monitored(workers=2)
    before = server.workers
    os.kill(before[0], signal.SIGKILL)
    await server.until(lambda: server.workers[0] != before[0])
    numbers = await monitor.until(worker_lost_total=1)
    assert numbers["pillarbox_worker_started_total"] == 3


async def test_what_a_killed_parent_left_is_removed_by_the_next(serve, free_port):
    server = await serve(LISTENERS.format(workers=2, console=free_port(), smtp=free_port()))
    folders = server.data / "metrics"
    (killed,) = folders.iterdir()
    server.signal(signal.SIGKILL)
    await server.ended()
    assert killed.exists()
    await server.start()
    (current,) = folders.iterdir()
    assert current.name == str(server.process.pid)
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0
    assert list(folders.iterdir()) == []
