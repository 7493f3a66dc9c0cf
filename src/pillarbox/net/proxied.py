"""Accept connections behind a balancer that tells first who the client is, by the PROXY protocol.

The header is read from the bare socket, octet for octet, and only then does the connection go the ordinary way: TLS, if
it begins with it, and the protocol never see the header. The form of the header is in `net.proxy_header`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.net import proxy_header
from pillarbox.net.proxy_header import HeaderError, Peer

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from pillarbox.policy.proxies import Proxies

_ACCEPTED_AT_ONCE = 100
_MAX_WAITING = 1000  # connections whose header, or handshake, is on its way
_REST_S = 1.0  # without files for more connections
_HANDSHAKE_S = 30.0


class ProxiedListener:
    """A listening socket behind balancers."""

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[Peer | None], asyncio.Protocol],
        proxies: Callable[[], Proxies],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`factory` makes the protocol for a client; None is the balancer itself, which looks whether we live."""
        self._sock = sock
        self._factory = factory
        self._proxies = proxies
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Task[None]] = set()
        self._rest: asyncio.TimerHandle | None = None
        sock.settimeout(0)
        self._listen()

    def _listen(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accept no more; connections whose client is not known yet are dropped."""
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for task in self._waiting:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more files: let those that are open end
                observe.PROXY_REFUSED.note(client="", problem=str(error))
                self._loop.remove_reader(self._sock)
                self._rest = self._loop.call_later(_REST_S, self._listen)
                return
            connection.settimeout(0)
            proxies = self._proxies()
            if not proxies.balances(peer[0]):
                _cut_off(connection, peer[0], "it is no balancer of ours")
            elif len(self._waiting) >= _MAX_WAITING:
                _cut_off(connection, peer[0], "too many connections wait for their header")
            else:
                task = self._loop.create_task(self._serve(connection, peer[0], proxies.header_limit_s))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)

    async def _serve(self, connection: socket.socket, balancer: str, limit_s: float) -> None:
        """Read the header, then hand the connection on."""
        try:
            async with asyncio.timeout(limit_s):
                head = await _read(connection)
            if not head:  # a balancer that only looks whether somebody listens
                connection.close()
                return
            client = proxy_header.parse(head)
        except HeaderError as error:
            _cut_off(connection, balancer, str(error))
        except TimeoutError:
            _cut_off(connection, balancer, "its header took too long")
        except OSError as error:
            _cut_off(connection, balancer, error.strerror or "it was lost")
        except BaseException:
            connection.close()
            raise
        else:
            await self._hand_on(connection, client)

    async def _hand_on(self, connection: socket.socket, client: Peer | None) -> None:
        handshake_s = _HANDSHAKE_S if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._factory(client), connection, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError:  # a handshake that fails is no news, as on other listeners
            pass
        except BaseException:
            connection.close()
            raise


def _cut_off(connection: socket.socket, balancer: str, problem: str) -> None:
    connection.close()
    observe.PROXY_REFUSED.note(client=balancer, problem=problem)


async def _read(connection: socket.socket) -> bytes:
    """The header, and not an octet more; b"" if nothing came at all. Raises HeaderError or OSError."""
    head = b""
    while octets := proxy_header.wanted(head):
        try:
            piece = connection.recv(octets)
        except BlockingIOError:
            await _readable(connection)
            continue
        if not piece:
            if head:
                raise HeaderError("the header is cut short")
            return b""
        head += piece
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
