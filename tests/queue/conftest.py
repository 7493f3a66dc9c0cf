from __future__ import annotations

import os
import socket
import sys
import time

import pytest
import pytest_asyncio

from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.queue import workplace
from pillarbox.queue.spool import Entry, Trace
from pillarbox.queue.sqlite import SqliteSpool

WRITER = "import socket; from pillarbox.queue import workplace; workplace.work(socket.socket(fileno={}))"


def in_process(root):
    """A store whose writer has a process of its own: not forked here, where other tests have connections open."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.set_inheritable(True)
        arguments = [sys.executable, "-c", WRITER.format(theirs.fileno())]
        pid = os.posix_spawn(sys.executable, arguments, os.environ)
    return SqliteSpool(root, workplace.InProcess(ours, pid))


ENGINES = {"thread": SqliteSpool, "process": in_process}


@pytest.fixture
def engine(request):
    """How a store is opened: with its writer in a thread, unless a module asks for both."""
    return ENGINES[getattr(request, "param", "thread")]


@pytest_asyncio.fixture
async def spool(engine, tmp_path):
    opened = engine(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def store(spool):
    return Storer(spool)


@pytest.fixture
def storer():
    return Storer


class Storer:
    """Commits messages to a spool with few words."""

    def __init__(self, spool):
        self.spool = spool

    def prepare(
        self, *domains, body=b"Subject: hi\r\n\r\nbody\r\n", sender="from@example.org", hold=False, at=None
    ):
        now = time.time() if at is None else at
        draft = self.spool.draft()
        for start in range(0, len(body), 50_000):
            draft.write(body[start : start + 50_000])
        domains = domains or ("example.net",)
        recipients = tuple(Recipient(f"user{number}@{domain}") for number, domain in enumerate(domains))
        routes = tuple(Route(Transport.MX, domain) for domain in domains)
        trace = Trace("session", "192.0.2.1:1234", "client.example", "ESMTP", "")
        envelope = Envelope(sender, recipients)
        return draft, Entry(self.spool.new_id(now), envelope, routes, now, b"Received: x\r\n", trace, hold)

    async def __call__(self, *domains, **options):
        return await self.spool.commit(*self.prepare(*domains, **options))

    async def waiting(self, *domains, **options):
        """Commit a message and give its claim back, as after a restart."""
        queued = await self(*domains, **options)
        await self.spool.release(queued.pending)
        return queued
