"""Accept connections that have something to do before their session begins: tell whose they are, shake hands, or both.

Each counts from the moment when it is accepted, and has only so much time. All is looked at on the bare socket: a PROXY
header is read octet for octet, of TLS nothing before the handshake. The form of the header is in `net.proxy_header`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.mail.catalogue import session
from pillarbox.net import proxy_header
from pillarbox.net.handshakes import HANDSHAKE_S, describe_failure
from pillarbox.net.proxy_header import HeaderError
from pillarbox.net.tls import kept_octets
from pillarbox.smtp.wire import TLS_HANDSHAKE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from pillarbox.mail.reply import Cause
    from pillarbox.net.listener import Connections
    from pillarbox.net.proxy_header import Peer
    from pillarbox.policy.proxies import Proxies

_ACCEPTED_AT_ONCE = 100
_REST_S = 1.0  # without files for more connections
_MAX_EXCUSED = 100  # connections for which there is no place, and which may begin all the same to be told so
_EXCUSED_S = 5.0
_NEVER_S = 3600.0  # the loop's own limit of a handshake: ours, which `Connections` watches, comes first
_RECORD_HEAD_OCTETS = 5  # kind, version and length of what follows
_MAX_RECORD_OCTETS = 16_384
_MAX_UNREAD = 65_536
_PEEKED = 107  # the longest line of a PROXY header


class Arrivals:
    """A listening socket whose connections begin with a PROXY header, with TLS, or with both."""

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[Peer | None], asyncio.Protocol],
        connections: Connections,
        *,
        proxies: Callable[[], Proxies] | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        advice: bytes = b"",
    ) -> None:
        """`factory` makes the protocol for a client; None is the other end itself.

        `proxies` and `tls` give what holds when a connection comes. `advice` is for those who do not begin with TLS.
        """
        self.factory = factory
        self.connections = connections
        self.tls = tls
        self.advice = advice
        self.excused = 0
        self._proxies = proxies
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._waiting: set[_Arrival] = set()
        sock.settimeout(0)
        self._listen()

    def _listen(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accept no more; connections whose session has not begun are dropped. A second time nothing happens."""
        if self._sock.fileno() < 0:
            return
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for arrival in list(self._waiting):
            arrival.abort()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more files: let those that are open end
                observe.ACCEPT_FAILED.note(problem=str(error))
                self._loop.remove_reader(self._sock)
                self._rest = self._loop.call_later(_REST_S, self._listen)
                return
            connection.settimeout(0)
            proxies = self._proxies() if self._proxies is not None else None
            if proxies is None or proxies.balances(peer[0]):
                _Arrival(self, connection, peer[0], proxies).begin(self._waiting)
            else:
                connection.close()
                observe.PROXY_REFUSED.note(client=peer[0], problem="it is no balancer of ours")

    def objection(self) -> Cause | None:
        """Why there is no place for one more connection, if so."""
        if self.connections.draining:
            return session.SHUTDOWN
        return session.TOO_MANY_CONNECTIONS if self.connections.full else None

    def objection_to(self, address: str) -> Cause | None:
        """Why there is no place for one more client from an address, if so."""
        return session.TOO_MANY_FROM_ADDRESS if self.connections.crowded(address) else None


class _Arrival(asyncio.Protocol):
    """A connection until its session begins: then the session's protocol takes this one's place."""

    def __init__(
        self, host: Arrivals, connection: socket.socket, address: str, proxies: Proxies | None
    ) -> None:
        self._host = host
        self._connection = connection
        self._other_end = address
        self._proxies = proxies
        self._client: Peer | None = None  # as the balancer told
        self._counts_as = ""  # its address, once it is known
        self._excused = False
        self._stage = "header"  # then "hello", then "handshake", then "session"
        self._begun = time.monotonic()
        self.deadline = self._begun + (HANDSHAKE_S if proxies is None else proxies.header_limit_s)
        self._late = False

    def begin(self, waiting: set[_Arrival]) -> None:
        """Go on by itself, if there is a place for it; it is among those that wait until it has one for good."""
        host, address = self._host, self._other_end if self._proxies is None else ""
        if not self._finds_place(host.objection() or host.objection_to(address)):
            self._connection.close()
            return
        self._counts_as = address
        host.connections.expect(self, address)
        waiting.add(self)
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(lambda _done: waiting.discard(self))
        self._task.add_done_callback(self._ended)

    def _finds_place(self, objection: Cause | None) -> bool:
        """Whether it may go on, be it only to be told that there is no place."""
        if objection is None or self._excused:
            return True
        if self._host.excused >= _MAX_EXCUSED:
            client = self._client[0] if self._client is not None else self._other_end
            observe.SESSION_REFUSED.note(cause=objection.id, client=client)
            return False
        self._host.excused += 1
        self._excused = True
        self.deadline = min(self.deadline, self._begun + _EXCUSED_S)
        return True

    # ------------------------------------------------------------------ what `Connections` asks of it

    def deadline_within(self, patience_s: float) -> float:
        """When it has taken so long."""
        return min(self.deadline, self._begun + patience_s)

    def expire(self, _now: float, _deadline: float) -> None:
        """It takes too long."""
        self._late = True
        self._task.cancel()

    @property
    def held_octets(self) -> int:
        """What TLS takes, if it begins with it."""
        return 0 if self._host.tls is None else kept_octets(0)

    def give_way(self, _cause: Cause) -> None:
        """Nothing was promised yet."""
        self._task.cancel()

    def drain(self) -> None:
        """Nothing was promised yet."""
        self._task.cancel()

    def abort(self) -> None:
        """Close now."""
        self._task.cancel()

    # ------------------------------------------------------------------ on its way

    async def _run(self) -> None:
        try:
            await self._arrive()
        except asyncio.CancelledError:
            if not self._late:
                raise
            self._fail("nothing came" if self._stage == "hello" else f"the {self._stage} took too long")
        except HeaderError as error:
            self._fail(str(error))
        except OSError as error:
            if self._stage != "hello":  # who goes before saying anything only looked whether somebody listens
                self._fail(describe_failure(error))

    async def _arrive(self) -> None:
        """Do what stands before the session. Raises HeaderError or OSError."""
        host, connection = self._host, self._connection
        if self._proxies is not None and not await self._read_header():
            return
        tls = None
        if host.tls is not None:
            self._stage = "hello"
            self.deadline = time.monotonic() + (_EXCUSED_S if self._excused else HANDSHAKE_S)
            first = await _receive(connection, 1, socket.MSG_PEEK)
            if first != TLS_HANDSHAKE:
                if first:
                    self._fail("it does not begin with TLS")
                return
            self._stage = "handshake"
            await _whole_record(connection)
            tls = host.tls()
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: self, connection, ssl=tls, ssl_handshake_timeout=None if tls is None else _NEVER_S
        )

    async def _read_header(self) -> bool:
        """Learn who the client is; whether it goes on. A balancer may only look whether somebody listens."""
        head = await _read(self._connection)
        if not head:
            return False
        self._client = proxy_header.parse(head)
        address = self._client[0] if self._client is not None else self._other_end
        if not self._finds_place(self._host.objection_to(address)):
            return False
        self._host.connections.rename(self, self._counts_as, address)
        self._counts_as = address
        return True

    def _fail(self, problem: str) -> None:
        """Note why no session begins; who should have begun with TLS is told so."""
        if self._stage == "header":
            observe.PROXY_REFUSED.note(client=self._other_end, problem=problem)
            return
        observe.TLS_FAILED.note(client=self._counts_as, problem=problem)
        if self._stage == "hello":
            with contextlib.suppress(OSError):
                self._connection.recv(
                    _MAX_UNREAD
                )  # closed on unread octets it would be reset, and the advice lost
            with contextlib.suppress(OSError):
                self._connection.send(self._host.advice)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """All is done that stands before the session."""
        self._stage = "session"
        self._give_place_back()
        protocol = self._host.factory(self._client)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _ended(self, done: asyncio.Task[None]) -> None:
        self._give_place_back()
        if self._stage != "session":
            self._connection.close()
        if not done.cancelled() and (error := done.exception()) is not None:
            observe.report_incident(error)

    def _give_place_back(self) -> None:
        """The session counts for itself; and who is gone counts no more."""
        self._host.connections.forget(self, self._counts_as)
        if self._excused:
            self._excused = False
            self._host.excused -= 1


async def _read(connection: socket.socket) -> bytes:
    """The PROXY header, and not an octet more; b"" if nothing came at all. Raises HeaderError or OSError."""
    head = ahead = b""
    while octets := proxy_header.wanted(head, ahead):
        piece = await _receive(connection, octets)
        if not piece:
            if head:
                raise HeaderError("the header is cut short")
            return b""
        head += piece
        if head.startswith(b"PROXY ") and not head.endswith(b"\n"):
            ahead = await _receive(connection, _PEEKED, socket.MSG_PEEK)
    return head


async def _receive(connection: socket.socket, octets: int, flags: int = 0) -> bytes:
    """Up to so many octets, at least one unless the other end has closed. Raises OSError."""
    while True:
        try:
            return connection.recv(octets, flags)
        except BlockingIOError:
            await _readable(connection)


async def _whole_record(connection: socket.socket) -> None:
    """Wait until the first record of TLS is there, or the other end has closed: before that nothing is worth a TLS state."""
    head = await _whole(connection, _RECORD_HEAD_OCTETS)
    length = int.from_bytes(head[3:])
    if length <= _MAX_RECORD_OCTETS:
        await _whole(connection, _RECORD_HEAD_OCTETS + length)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


async def _whole(connection: socket.socket, octets: int) -> bytes:
    """So many octets, fewer if the other end has closed. They stay to be read; the kernel wakes us when all are there."""
    head = await _receive(connection, octets, socket.MSG_PEEK)
    if len(head) < octets:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, octets)
        await _readable(connection)
        head = await _receive(connection, octets, socket.MSG_PEEK)
    return head


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(connection, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
