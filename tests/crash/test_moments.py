"""Stop the server in each state of docs/explanation/message-states.md, start it again, and see what becomes of the message."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.queue.leases import LEASE_S
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "message-states.md"
STATES = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE))
SMALL, LARGE = 700, 150_000
REFUSED, LATER, DROP = "550 5.1.1 No such mailbox", "451 4.3.0 Not now", "hang up"
WAITS, CLAIMED = (State.QUEUED, False), (State.QUEUED, True)
HELD, DELIVERED, FAILED, DAMAGED = (
    (state, False) for state in (State.HELD, State.DELIVERED, State.FAILED, State.DAMAGED)
)


class Scene:
    """One message on its way through a server that is about to be stopped."""

    def __init__(self, site, sink, strace, new_body, address):
        self.site = site
        self.sink = sink
        self.strace = strace
        self.address = address
        self.acknowledged = False
        self.body = lambda to: b"Subject: kept\r\n\r\n" + new_body(to) + b".\r\n"
        sink.mood = self._answer
        self._acts = {}  # by step of the sink: what is done when it is reached, once

    def configure(self, **settings):
        self.site.configure(*self.sink.routes, **settings)

    async def _answer(self, step, address):
        if step in self._acts and (step == "mail" or address == self.address):
            return await self._acts.pop(step)()
        return REFUSED if step == "rcpt" and address.endswith("@refused.example") else None

    def at(self, step, act):
        """Have `act` done when the sink is at a step; what it returns is the sink's answer."""
        self._acts[step] = act

    async def begin(self, address):
        """Send a message up to the 354."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.port)
        writer.write(f"HELO a\r\nMAIL FROM:<load@load.example>\r\nRCPT TO:<{address}>\r\nDATA\r\n".encode())
        await reader.readuntil(b"\r\n354 ")
        await reader.readuntil(b"\r\n")
        return reader, writer

    async def end(self, reader, writer, address):
        """Send the rest; whether there was a 250."""
        writer.write(self.body(address))
        reply = b""
        with contextlib.suppress(ConnectionError):
            reply = await reader.readline()
        writer.close()
        return reply.startswith(b"250")

    async def send(self):
        self.acknowledged = await self.end(*await self.begin(self.address), self.address)

    async def before(self, call, nth=1, *, by="either", **options):
        """Stop the server before a system call of its `server` process, of its `writer`, or of either from now on."""
        pids = {"server": self.site.process.pid, "writer": self.site.writer}
        await self.strace.attach([pids[by]] if by in pids else pids.values(), call, nth, **options)

    def row(self, site=None):
        """What the store says of the message: its state and whether a worker has it; None if it knows nothing."""
        return self._find(lambda message, recipient: (recipient.state, recipient.active), site)

    def attempts(self):
        return self._find(lambda message, recipient: recipient.attempts)

    @property
    def number(self):
        return self._find(lambda message, recipient: message.id)

    def _find(self, what, site=None):
        for message in (site or self.site).listed():
            for recipient in message.recipients:
                if recipient.address == self.address:
                    return what(message, recipient)
        return None


# How the server is brought to its end.


def half_sent(octets):
    """A client that is in the middle of its message."""

    async def bring(scene, until):
        _reader, writer = await scene.begin(scene.address)
        writer.write(scene.body(scene.address)[: octets * 2 // 3])
        if octets == LARGE:
            await until(lambda: scene.site.files("drafts"))
        await scene.site.kill()
        writer.close()

    return bring


def before(call, nth=1, **options):
    """Everything that is done after the 354, up to a system call."""

    async def bring(scene, _until):
        reader, writer = await scene.begin(scene.address)
        await scene.before(call, nth, **options)
        scene.acknowledged = await scene.end(reader, writer, scene.address)

    return bring


def when_sink_is_at(step):
    """The next hop has just got this far."""

    async def bring(scene, _until):
        async def kill():
            await scene.site.kill()
            return DROP

        scene.at(step, kill)
        await scene.send()

    return bring


def once_sink_said(answer, step, call, nth=1):
    """The next hop has given its answer; what is done about it, up to a system call."""

    async def bring(scene, _until):
        async def arm():
            await scene.before(call, nth)
            return answer

        scene.at(step, arm)
        await scene.send()

    return bring


async def emptied(scene, until):
    await scene.send()
    await until(lambda: scene.row() == DELIVERED)
    await scene.site.kill()


async def deferred(scene, until):
    async def later():
        return LATER

    scene.at("rcpt", later)
    await scene.send()
    await until(lambda: scene.row() == WAITS and scene.attempts() == 1)


async def deferred_and_killed(scene, until):
    await deferred(scene, until)
    await scene.site.kill()


async def held(scene, _until):
    await scene.send()
    await scene.site.kill()


async def bouncing(scene, until):
    await deferred(scene, until)
    await scene.before("pwrite64")
    with Ledger(scene.site.data) as ledger:
        ledger.apply_verb("bounce", message=scene.number)


async def forgotten(scene, until):
    await emptied(scene, until)
    scene.configure(history="0s")
    await scene.site.start()
    await until(lambda: scene.row() is None)
    await scene.site.kill()


async def damaged(scene, until):
    await deferred_and_killed(scene, until)
    with Ledger(scene.site.data) as ledger:
        ledger.content(scene.number).path.unlink()
        ledger.apply_verb("retry", message=scene.number)
    await scene.site.start()
    await until(lambda: scene.row() == DAMAGED)
    await scene.site.kill()


@dataclass(frozen=True)
class Moment:
    """Where the server is stopped, what is left then, and what becomes of the message in the end."""

    state: str
    name: str
    octets: int
    bring: Callable[..., Awaitable[None]]
    left: tuple[State, bool] | None = None  # in the store
    files: tuple[int, int] = (0, 0)  # drafts, bodies
    acknowledged: bool = True
    taken: int = 1  # by the next hop, in the end
    end: tuple[State, bool] | None = DELIVERED
    domain: str = "kept.example"

    @property
    def address(self):
        return f"{self.name}.{self.octets}@{self.domain}"


def incoming(state, name, octets, bring, files):
    """Nothing was acknowledged, and nothing stays."""
    return Moment(state, name, octets, bring, None, files, acknowledged=False, taken=0, end=None)


def refused(state, name, octets, bring, left, files):
    """The next hop does not want it: in the end there is one report."""
    return Moment(state, name, octets, bring, left, files, taken=0, end=FAILED, domain="refused.example")


MOMENTS = [
    incoming("receiving-small", "half-sent", SMALL, half_sent(SMALL), (0, 0)),
    incoming("receiving-large", "half-sent", LARGE, half_sent(LARGE), (1, 0)),
    incoming("receiving-large", "not-synced", LARGE, before("fsync"), (1, 0)),
    incoming("draft-synced", "not-renamed", LARGE, before("rename"), (1, 0)),
    incoming("body-renamed", "folder-not-synced", LARGE, before("fsync", 2), (0, 1)),
    incoming("body-kept", "nothing-written", LARGE, before("pwrite64"), (0, 1)),
    incoming("rows-written", "some-written", SMALL, before("pwrite64", 4), (0, 0)),
    incoming("rows-written", "some-written", LARGE, before("pwrite64", 4), (0, 1)),
    Moment("rows-written", "not-synced", SMALL, before("fdatasync"), CLAIMED, acknowledged=False),
    Moment("rows-written", "not-synced", LARGE, before("fdatasync"), CLAIMED, (0, 1), acknowledged=False),
    Moment("committed", "loop-not-told", SMALL, before("sendto", by="writer"), CLAIMED, acknowledged=False),
    Moment(
        "committed",
        "not-said",
        SMALL,
        before("write", by="server", all_threads=False),
        WAITS,
        acknowledged=False,
    ),
    Moment("claimed", "said", SMALL, before("connect"), WAITS),
    Moment("claimed", "said", LARGE, before("connect"), WAITS, (0, 1)),
    Moment("attempting", "mail", SMALL, when_sink_is_at("mail"), WAITS),
    Moment("attempting", "half-sent", LARGE, when_sink_is_at("body"), WAITS, (0, 1)),
    Moment("attempting", "all-sent", SMALL, when_sink_is_at("dot"), WAITS, taken=2),
    Moment("attempting", "taken", SMALL, once_sink_said(None, "dot", "pwrite64"), CLAIMED, taken=2),
    Moment(
        "outcome-written", "some", LARGE, once_sink_said(None, "dot", "pwrite64", 4), CLAIMED, (0, 1), taken=2
    ),
    Moment("outcome-written", "not-synced", SMALL, once_sink_said(None, "dot", "fdatasync"), DELIVERED),
    Moment("deferred", "later", SMALL, deferred_and_killed, WAITS),
    Moment("deferred", "later", LARGE, deferred_and_killed, WAITS, (0, 1)),
    Moment("held", "held", SMALL, held, HELD, taken=0, end=HELD, domain="held.example"),
    Moment("bouncing", "bounced", SMALL, bouncing, WAITS, taken=0, end=FAILED),
    refused(
        "outcome-written",
        "report-some",
        SMALL,
        once_sink_said(REFUSED, "rcpt", "pwrite64", 6),
        CLAIMED,
        (0, 0),
    ),
    refused(
        "outcome-written",
        "report-not-synced",
        SMALL,
        once_sink_said(REFUSED, "rcpt", "fdatasync"),
        FAILED,
        (0, 0),
    ),
    refused(
        "draft-synced",
        "report-not-renamed",
        LARGE,
        once_sink_said(REFUSED, "rcpt", "rename"),
        WAITS,
        (1, 1),
    ),
    refused(
        "body-kept", "report-not-written", LARGE, once_sink_said(REFUSED, "rcpt", "pwrite64"), CLAIMED, (0, 2)
    ),
    Moment("finished", "file-not-removed", LARGE, once_sink_said(None, "dot", "unlink"), DELIVERED, (0, 1)),
    Moment("emptied", "done", SMALL, emptied, DELIVERED),
    Moment("forgotten", "forgotten", SMALL, forgotten, None, end=None),
    Moment("damaged", "no-file", LARGE, damaged, DAMAGED, taken=0, end=DAMAGED),
]


def test_every_state_has_its_moment():
    assert {moment.state for moment in MOMENTS} == STATES


@pytest.mark.parametrize(
    "moment", [pytest.param(one, id=f"{one.state}-{one.name}-{one.octets}") for one in MOMENTS]
)
async def test_a_server_that_is_stopped_there_goes_on(site, sink, strace, new_body, until, moment):
    scene = Scene(site, sink, strace, new_body, moment.address)
    patient = moment.state in (
        "bouncing",
        "damaged",
    )  # an operator does what would happen by itself otherwise
    scene.configure(retry="1h" if patient else "200ms")
    await site.start()
    await until(lambda: site.has_whole_log)
    await moment.bring(scene, until)
    await site.ended()

    assert scene.acknowledged == moment.acknowledged
    with site.remains() as left:
        assert scene.row(left) == moment.left
        assert (len(left.files("drafts")), len(left.files("bodies"))) == moment.files

    await site.start()
    other = f"other.{SMALL}@kept.example"
    assert await scene.end(*await scene.begin(other), other)
    await site.settled(LEASE_S - 5)  # so nothing waits for the lease of the dead one to run out
    assert scene.row() == moment.end
    assert sink.taken == {address: n for address, n in ((moment.address, moment.taken), (other, 1)) if n}
    assert site.reports() == ({moment.address: 1} if moment.end == FAILED else {})
    assert not sink.broken
    assert not site.incidents
