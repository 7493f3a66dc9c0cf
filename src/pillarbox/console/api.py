"""Answer by HTTP: metrics, whether this server lives and takes mail, and the reference of replies.

What is counted is declared in `observe`; the reference is written by `console.site`; which address is listened on is the business of `service`.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING

import apsw
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pillarbox import observe
from pillarbox.console import SITE
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.schema import StoreError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.routing import BaseRoute

_MAX_CONNECTIONS = 100
_STOP_S = 2
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def create_app(ready: Callable[[], bool], data: Path) -> Starlette:
    """The application; `ready` tells whether the server takes mail now, the store lies in `data`."""

    async def metrics(_request: Request) -> Response:
        return Response(await asyncio.to_thread(_measure, data), media_type=_METRICS_TYPE)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        return (
            PlainTextResponse("ready\n")
            if ready()
            else PlainTextResponse("not ready\n", status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        )

    async def home(_request: Request) -> Response:
        return RedirectResponse("/reference/")

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/", home),
            _reference(),
        ]
    )


def _reference() -> BaseRoute:
    """The pages about replies; a source tree has them only when they were built."""
    if SITE.is_dir():
        return Mount("/reference", StaticFiles(directory=SITE, html=True))

    async def missing(_request: Request) -> Response:
        return PlainTextResponse(
            "The pages are not built here; use: make docs\n", status_code=HTTPStatus.NOT_FOUND
        )

    return Route("/reference/{page:path}", missing)


def _measure(data: Path) -> bytes:
    """All metrics. The queue is counted when somebody asks; if it can't be, what it was before stands."""
    try:
        with Ledger(data) as ledger:
            for state, recipients in ledger.count().items():
                observe.QUEUE_RECIPIENTS.set(recipients, state)
    except (apsw.Error, OSError, StoreError) as error:
        observe.SPOOL_TROUBLE.note(problem=f"the queue was not counted: {error}")
    return observe.exposition()


class Console:
    """The HTTP server of one worker, on the loop that starts it."""

    def __init__(self, app: Starlette) -> None:
        """Nothing runs before `start`."""
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_STOP_S,
            )
        )
        self._task: asyncio.Task[None] | None = None

    def start(self, sock: socket.socket) -> None:
        """Serve on a socket that listens already; it is closed when serving ends."""
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]))

    async def stop(self) -> None:
        """Finish the answers that are being given, then close."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task


class _Server(uvicorn.Server):
    """Leaves the signals alone: they belong to the whole process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
