"""What a monitoring system sees, over real HTTP."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.console import api, site
from pillarbox.console.api import Console, create_app
from pillarbox.net.listener import bind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@asynccontextmanager
async def serving(data: Path, ready: Callable[[], bool] = lambda: True) -> AsyncIterator[int]:
    sock = bind("127.0.0.1:0")
    console = Console(create_app(ready, data))
    console.start(sock)
    try:
        yield sock.getsockname()[1]
    finally:
        await console.stop()


async def get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


async def test_metrics_are_given_in_the_text_format_even_if_the_queue_cannot_be_counted(tmp_path) -> None:
    observe.start_counting()
    observe.MESSAGE_RECEIVED.note(protocol="ESMTP")
    async with serving(tmp_path / "no store") as port:
        status, text = await get(port, "/metrics")
        again, later = await get(port, "/metrics")
    assert (status, again) == (200, 200)
    assert 'pillarbox_message_received_total{protocol="ESMTP"}' in text
    assert "pillarbox_spool_trouble_total" in later


async def test_health_and_readiness(tmp_path) -> None:
    states = iter([True, False])
    async with serving(tmp_path, lambda: next(states)) as port:
        assert await get(port, "/healthz") == (200, "ok\n")
        assert await get(port, "/readyz") == (200, "ready\n")
        assert await get(port, "/readyz") == (503, "not ready\n")
        assert (await get(port, "/other"))[0] == 404


async def test_a_source_tree_without_the_pages_says_how_to_make_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(api, "SITE", tmp_path / "no site")
    async with serving(tmp_path) as port:
        assert (await get(port, "/"))[0] == 307
        status, text = await get(port, "/reference/")
    assert (status, "make docs" in text) == (404, True)


async def test_the_reference_of_replies_is_shown(tmp_path, monkeypatch) -> None:
    site.build(tmp_path / "no transcripts", tmp_path / "site")
    monkeypatch.setattr(api, "SITE", tmp_path / "site")
    async with serving(tmp_path) as port:
        status, text = await get(port, "/reference/code/550.html")
        assert (status, "No such user here" in text) == (200, True)
        assert (await get(port, "/reference/"))[0] == 200
        assert (await get(port, "/reference/../../api.py"))[0] == 404


async def test_the_signals_of_the_process_are_left_alone(tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with serving(tmp_path) as port:
        await get(port, "/healthz")
        assert signal.getsignal(signal.SIGTERM) is before
