"""Sockets and the count of what is connected to them."""

import asyncio
import socket
import time

import pytest

from pillarbox import observe
from pillarbox.mail.catalogue import session
from pillarbox.net import listener
from pillarbox.net.listener import ConnectionLimits, Connections, bind, bind_for, comes_here, listen, means_us


class Line:
    """A connection that notes what is asked of it."""

    def __init__(self, connections=None, deadline=float("inf"), *, obedient=True):
        self.asked, self.deadline, self._connections, self._obedient = [], deadline, connections, obedient

    def deadline_within(self, patience_s):
        return min(self.deadline, patience_s)

    def expire(self, now, deadline):
        assert now >= deadline
        self.asked.append("expire")
        self.deadline = float("inf")

    def drain(self):
        self.asked.append("drain")
        if self._obedient:
            self._connections.remove(self, "a")

    def give_way(self, cause):
        self.asked.append(cause)

    def abort(self):
        self.asked.append("abort")
        if self._connections is not None:
            self._connections.remove(self, "a")


def test_connections_are_counted_in_all_and_by_address():
    connections = Connections(ConnectionLimits(total=3, per_address=2))
    lines = [Line() for _ in range(3)]
    for line, address in zip(lines, "aab", strict=True):
        assert not connections.full
        connections.add(line, address)
    assert len(connections) == 3
    assert connections.full
    assert connections.crowded("a")
    assert not connections.crowded("b")
    connections.remove(lines[0], "a")
    connections.remove(lines[0], "a")
    assert (len(connections), connections.full, connections.crowded("a")) == (2, False, False)
    for line, address in zip(lines, "aab", strict=True):
        connections.remove(line, address)
    assert len(connections) == 0
    assert connections._counts == {}, "an address that is gone must not be remembered"


async def test_those_whose_time_is_up_are_told_and_a_bug_in_one_ends_only_that_one(monkeypatch):
    monkeypatch.setattr(listener, "_SWEEP_S", 0.001)
    incidents = []
    monkeypatch.setattr(observe, "report_incident", lambda error, **_facts: incidents.append(error))
    connections = Connections(ConnectionLimits())
    late, later, broken = Line(deadline=0.0), Line(deadline=time.monotonic() + 1000), Line(deadline=0.0)
    broken.expire = lambda _now, _deadline: 1 / 0
    for line in (broken, late, later):
        connections.add(line, "a")
    watch = asyncio.create_task(connections.watch())
    while not (late.asked and broken.asked):
        await asyncio.sleep(0.001)
    watch.cancel()
    assert late.asked == ["expire"]
    assert later.asked == []
    assert set(broken.asked) == {"abort"}
    assert isinstance(incidents[0], ZeroDivisionError)


async def test_draining_asks_all_and_cuts_off_those_that_stay():
    connections = Connections(ConnectionLimits())
    good, stubborn = Line(connections), Line(connections, obedient=False)
    connections.add(good, "a")
    connections.add(stubborn, "a")
    await connections.drain(0.01)
    assert connections.draining
    assert good.asked == ["drain"]
    assert stubborn.asked == ["drain", session.SHUTDOWN, "abort"]
    assert len(connections) == 0


async def test_a_session_that_fails_to_finish_does_not_keep_the_others_from_it(monkeypatch):
    incidents = []
    monkeypatch.setattr(observe, "report_incident", incidents.append)
    connections = Connections(ConnectionLimits())
    broken, good = Line(connections), Line(connections)
    broken.drain = lambda: 1 / 0
    for line in (broken, good):
        connections.add(line, "a")
    await connections.drain(20)
    assert (broken.asked, good.asked) == (["abort"], ["drain"])
    assert isinstance(incidents[0], ZeroDivisionError)


async def test_draining_ends_as_soon_as_the_last_one_goes():
    connections = Connections(ConnectionLimits())
    last = Line(connections, obedient=False)
    connections.add(last, "a")
    draining = asyncio.create_task(connections.drain(1000))
    await asyncio.sleep(0)
    connections.remove(last, "a")
    await asyncio.wait_for(draining, 20)
    assert last.asked == ["drain"]


async def test_draining_nothing_takes_no_time():
    await asyncio.wait_for(Connections(ConnectionLimits()).drain(1000), 20)


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:0", "127.0.0.1"), (":0", "0.0.0.0"), ("[::1]:0", "::1")]
)
def test_addresses(address, host):
    with bind(address) as sock:
        assert sock.getsockname()[0] == host
        assert sock.getblocking() is False


def test_both_families_can_stand_side_by_side():
    with bind("0.0.0.0:0") as first:
        port = first.getsockname()[1]
        with bind(f"[::]:{port}") as second:
            assert second.getsockname()[1] == port


@pytest.mark.parametrize("processes", [1, 2])
def test_an_address_that_another_server_shares_is_in_use(processes):
    with bind("127.0.0.1:0") as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    first, second = bind_for(2, address)
    with first, second:
        assert first.getsockname() == second.getsockname()
        with pytest.raises(OSError, match="in use") as refused:
            bind_for(processes, address)
    assert refused.value.filename == address
    for sock in bind_for(processes, address):  # nothing is left of them
        sock.close()


@pytest.mark.parametrize(
    ("domain", "ours"),
    [
        ("mx.example.org", True), ("example.org", False), ("[127.0.0.1]", True), ("[IPv6:::1]", True),
        ("[192.0.2.1]", False), ("[0.0.0.0]", False), ("[224.0.0.1]", False),
    ],
)  # fmt: skip
def test_what_means_this_host(domain, ours):
    assert means_us(domain, "MX.example.org") is ours


async def test_what_is_listened_to_is_served():
    class Hello(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"hello")
            transport.close()

    sock = bind("127.0.0.1:0")
    address = sock.getsockname()
    server = await listen(sock, Hello)
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
    server.close()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_connections_that_come_together_begin_together():
    begun = []
    turn = 0

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            begun.append(turn)
            transport.close()

    sock = bind("127.0.0.1:0")
    clients = [socket.create_connection(sock.getsockname()) for _ in range(40)]
    server = await listen(sock, Client)
    async with asyncio.timeout(20):
        while len(begun) < len(clients):
            await asyncio.sleep(0)
            turn += 1
    assert max(map(begun.count, begun)) >= 4
    server.close()
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("listener", "address", "ours"),
    [
        ("127.0.0.1:0", "127.0.0.1", True),
        ("127.0.0.1:0", "127.0.0.2", False),
        ("0.0.0.0:0", "127.0.0.2", True),
        ("0.0.0.0:0", "192.0.2.1", False),
        ("0.0.0.0:0", "::1", False),
        ("[::1]:0", "0:0:0:0:0:0:0:1", True),
        ("[::]:0", "::1", True),
        ("[::]:0", "2001:db8::1", False),
        ("[::]:0", "127.0.0.1", False),
    ],
)
def test_a_server_knows_which_addresses_lead_to_it(listener, address, ours):
    with bind(listener) as sock:
        host, port = sock.getsockname()[:2]
        assert comes_here(address, port, [("192.0.2.9", port), (host, port)]) is ours
        assert not comes_here(address, port + 1, [(host, port)])
