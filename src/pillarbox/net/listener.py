"""Listening sockets: bind them, count the connections on them, and watch their deadlines.

What is said on a connection is the business of the protocol that the factory makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Protocol

from pillarbox import observe
from pillarbox.mail.catalogue import bounds, session
from pillarbox.mail.units import AtLeast, Octets, Seconds, Settings
from pillarbox.net.cohort import Cohort
from pillarbox.net.turns import Turns
from pillarbox.policy.lists import neighbourhood

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pillarbox.mail.reply import Cause

_SWEEP_S = 1.0  # how often deadlines are looked at; one sweep for all costs less than a timer each
_BACKLOG = 1024
# A server of uvloop accepts one connection in a turn of the loop. Sessions that begin together go on together, so that
# `Cohort` has something to put in order; but for a connection that comes alone each server too many looks in vain.
_SERVERS = 8
_FAREWELL_S = 0.5  # for those that are cut off to read why
_MOST_OCTETS = 1 << 20  # that one connection can have us keep, about


class ConnectionLimits(Settings, frozen=True):
    """How many connections may be open at once, over all listeners of a worker."""

    total: Annotated[int, AtLeast(1)] = 10_000
    """In all."""
    per_address: Annotated[int, AtLeast(1)] = 100
    """From one client address."""
    hurry_s: Seconds = Seconds(10)
    """How long a client may be silent while more than three quarters of all connections are in use; 0 for as long as ever."""
    per_network: int = 0
    """From one network, a /24 of IPv4 or a /64 of IPv6; 0 for any number."""
    per_account: int = 0
    """Sessions that are logged in as one account; 0 for any number (454)."""

    memory_octets: Octets = Octets(256 << 20)
    """How much all clients of a worker may have it keep in memory, about: messages up to 64 KiB and header sections on their
    way, recipients, commands that wait, answers that nobody reads, TLS. Beyond it those that hold most are sent away (421);
    0 for no bound."""


class Watched(Protocol):
    """What the listener asks of a connection."""

    @property
    def deadline(self) -> float:
        """When the other side has been silent for too long, on the monotonic clock."""

    def deadline_within(self, patience_s: float) -> float:
        """When the other side has been silent for so long, if that comes sooner."""

    def expire(self, now: float, deadline: float) -> None:
        """The deadline has passed."""

    @property
    def held_octets(self) -> int:
        """How much memory it takes, about."""

    def give_way(self, cause: Cause) -> None:
        """Finish now, whatever is on its way, and say why if that can be done."""

    def drain(self) -> None:
        """Finish soon."""

    def abort(self) -> None:
        """Finish now."""


class Connections:
    """All connections of a worker: their number, their number per address, their deadlines."""

    def __init__(self, limits: ConnectionLimits, *, most: int = 1 << 30) -> None:
        """Begin with none; there will never be more than `most`, whatever the limits say."""
        self._limits = limits
        self._most = min(limits.total, most)
        self._open: set[Watched] = set()
        self._counts: dict[str, int] = {}  # by address, network ("192.0.2.0/24") and account ("account NAME")
        self._accounts: dict[
            Watched, str
        ] = {}  # what those that are logged in count as, if accounts are counted
        self._emptied = asyncio.Event()  # set when the last one closes
        self.draining = False
        self._turns = Turns()
        self.cohort = Cohort(self._open)
        self._put_aside = 0  # octets since memory was last looked at
        self.lingering = (
            0  # connections that we have hung up on, which are read until their clients have, too
        )

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self._open) >= self._most

    def crowded(self, address: str) -> bool:
        """Whether one address, or its network, has as many as it may."""
        most = self._limits.per_network
        return self._counts.get(address, 0) >= self._limits.per_address or (
            most > 0 and self._counts.get(neighbourhood(address), 0) >= most
        )

    def add(self, connection: Watched, address: str) -> None:
        """A session has begun."""
        observe.SESSION_OPENED.note(client=address)
        self.expect(connection, address)

    def expect(self, connection: Watched, address: str) -> None:
        """A connection was opened whose session has not begun; "" is an address that is not known yet."""
        self._open.add(connection)
        self._count(address)

    def remove(self, connection: Watched, address: str) -> None:
        """A session was closed; without effect if it was never added."""
        if self.forget(connection, address):
            observe.SESSION_CLOSED.note(client=address)
            if self._accounts:
                self._leave_account(connection)

    def forget(self, connection: Watched, address: str) -> bool:
        """A connection that was expected has become a session, or is gone. Whether it was expected."""
        if connection not in self._open:
            return False
        self._open.remove(connection)
        self._uncount(address)
        if not self._open:
            self._emptied.set()
        return True

    def rename(self, connection: Watched, old: str, new: str) -> None:
        """A connection turned out to be of another address."""
        if connection in self._open:
            self._uncount(old)
            self._count(new)

    def take_account(self, connection: Watched, name: str) -> bool:
        """Whether a connection may be logged in as an account; it is counted until it closes."""
        most = self._limits.per_account
        if most <= 0:
            return True
        self._leave_account(connection)
        key = f"account {name}"
        if self._counts.get(key, 0) >= most:
            return False
        self._accounts[connection] = key
        self._counts[key] = self._counts.get(key, 0) + 1
        return True

    def _leave_account(self, connection: Watched) -> None:
        key = self._accounts.pop(connection, None)
        if key is not None:
            self._drop(key)

    def _count(self, address: str) -> None:
        if not address:
            return
        self._counts[address] = self._counts.get(address, 0) + 1
        if self._limits.per_network:
            network = neighbourhood(address)
            self._counts[network] = self._counts.get(network, 0) + 1

    def _uncount(self, address: str) -> None:
        if not address:
            return
        self._drop(address)
        if self._limits.per_network:
            self._drop(neighbourhood(address))

    def _drop(self, key: str) -> None:
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]

    def wait_for_turn(self, connection: Watched, octets: int) -> asyncio.Future[None]:
        """Let others go first; meanwhile so much of what the client sent waits."""
        self.put_aside(connection, octets)
        return self._turns.wait()

    def put_aside(self, connection: Watched, octets: int) -> None:
        """Note that a connection keeps so much more in memory; if it may have become too much, make room at once.

        One turn of the loop may bring what a thousand clients send, so it can't wait for the next.
        """
        self._put_aside += octets
        if self._put_aside > self._limits.memory_octets >> 3:
            self._put_aside = 0
            self.make_room(besides=connection)

    def make_room(self, *, besides: Watched | None = None) -> None:
        """Send away those that hold most if all together hold too much, until a quarter is free again.

        One that is at work just now is left for the next time.
        """
        most = self._limits.memory_octets
        if not most or len(self._open) * _MOST_OCTETS <= most:
            return
        holders = [(one.held_octets, one) for one in self._open if one is not besides]
        held = left = sum(octets for octets, _ in holders)
        if held <= most:
            return
        cut = 0
        for octets, connection in sorted(holders, key=itemgetter(0), reverse=True):
            if left <= most - (most >> 2):
                break
            left, cut = left - octets, cut + 1
            with _one_only(connection):
                connection.give_way(bounds.NO_MEMORY)
        observe.MEMORY_SHORT.note(held=held, sessions=cut)

    async def watch(self) -> None:
        """Expire connections whose deadline has passed, and tell how many there are, for ever."""
        while True:
            observe.SESSIONS_OPEN.set(len(self._open))
            await asyncio.sleep(_SWEEP_S)
            with _going_on():
                self.make_room()
            now = time.monotonic()
            for connection, deadline in self._late(now):
                with _one_only(connection):
                    connection.expire(now, deadline)

    def _late(self, now: float) -> list[tuple[Watched, float]]:
        """Those whose time is up, and since when. While places are scarce nobody may keep one and say nothing."""
        patience_s = self._limits.hurry_s
        if patience_s and len(self._open) * 4 > self._most * 3:
            due = ((one, one.deadline_within(patience_s)) for one in self._open)
        else:
            due = ((one, one.deadline) for one in self._open)
        return [(one, deadline) for one, deadline in due if deadline <= now]

    async def drain(self, limit_s: float) -> None:
        """Ask all to finish; after `limit_s` those that are left are told and cut off (RFC 5321 3.8)."""
        self.draining = True
        self._emptied.clear()
        for connection in list(self._open):
            with _one_only(connection):
                connection.drain()
        await self._be_empty(limit_s)
        for connection in list(self._open):
            with _one_only(connection):
                connection.give_way(session.SHUTDOWN)
        await self._be_empty(_FAREWELL_S)
        for connection in list(self._open):
            connection.abort()

    async def _be_empty(self, limit_s: float) -> None:
        """Wait until the last one is gone, if that does not take too long."""
        if self._open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), limit_s)


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """A bug here must not stop the watch over deadlines."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - as below
        observe.report_incident(error)


@contextlib.contextmanager
def _one_only(connection: Watched) -> Iterator[None]:
    """A bug in one session must not stop the work on all of them."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        observe.report_incident(error)
        connection.abort()


def bind(address: str) -> socket.socket:
    """A listening socket on `host:port` (`[v6]:port`). Raises OSError, which names the address."""
    return bind_for(1, address)[0]


def bind_for(processes: int, address: str) -> list[socket.socket]:
    """The same for each of several processes, which share the connections that come (SO_REUSEPORT).

    The first is bound like any other, so that it fails where somebody listens already, another server that shares its own
    address included; only then are others let in beside it.
    """
    bound: list[socket.socket] = []
    try:
        for number in range(processes):
            bound.append(_bound(address, beside=number > 0))
            if processes > 1:
                bound[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for sock in bound:
            sock.listen(_BACKLOG)
    except BaseException as error:
        for sock in bound:
            sock.close()
        if isinstance(error, OSError):
            error.filename = address
        raise
    return bound


def _bound(address: str, *, beside: bool) -> socket.socket:
    """A socket on an address, perhaps beside others that share it. Raises OSError."""
    host, port = _place(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # so that 0.0.0.0 and [::] can stand side by side
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, beside)
        sock.bind((host, port))
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def claim(passed: Iterable[socket.socket], addresses: Iterable[str]) -> dict[str, socket.socket]:
    """Which of the sockets that somebody else has bound is meant by which address. Raises ValueError for one too many."""
    wanted = {_place(address): address for address in addresses if address}
    found = {}
    for sock in passed:
        host, port = sock.getsockname()[:2]
        if (host, port) not in wanted:
            raise ValueError(
                f"listen: a socket for {host}:{port} was passed, and no [[listen]] has that address"
            )
        found[wanted[host, port]] = sock
    return found


def _place(address: str) -> tuple[str, int]:
    """Host and port of "host:port" as a socket tells them."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or "0.0.0.0", int(port)


def comes_here(address: str, port: int, listeners: Iterable[tuple[str, int]]) -> bool:
    """Whether a connection to `address` and `port` would come to one of `listeners`, host and port each."""
    wanted = ipaddress.ip_address(address)
    for host, listening in listeners:
        if listening == port:
            own = ipaddress.ip_address(host)
            if own == wanted or (own.is_unspecified and own.version == wanted.version and _is_local(address)):
                return True
    return False


def means_us(domain: str, hostname: str) -> bool:
    """Whether a domain or address literal means this machine (RFC 5321 4.1.3)."""
    if not domain.startswith("["):
        return domain == hostname.lower()
    own = ipaddress.ip_address(domain[1:-1].removeprefix("IPv6:"))
    return not (own.is_unspecified or own.is_multicast) and _is_local(str(own))


def _is_local(address: str) -> bool:
    """Whether an address belongs to this machine: no other can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class Listener:
    """A bound socket whose connections are served."""

    def __init__(self, servers: Iterable[asyncio.Server]) -> None:
        """`servers` accept connections from the one queue of the socket."""
        self._servers = servers

    def close(self) -> None:
        """Accept no more; the connections that are open go on."""
        for server in self._servers:
            server.close()


async def listen(sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> Listener:
    """Serve the connections of a bound socket. Those that begin with TLS or a PROXY header are for `net.arrivals`."""
    loop = asyncio.get_running_loop()
    accepts_all = isinstance(loop, asyncio.BaseEventLoop)  # that wait, in one turn: asyncio's own loop
    sockets = [sock] if accepts_all else [sock, *(sock.dup() for _ in range(_SERVERS - 1))]
    return Listener([await loop.create_server(factory, sock=one, backlog=_BACKLOG) for one in sockets])
