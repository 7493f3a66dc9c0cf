"""Serve the MTA-STS policies of our own domains by HTTP, to who asks for one (RFC 8461 3.3).

What a policy says stands in the domain's settings; TLS and the listener are the business of `service`.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from pillarbox.mailauth.mta_sts import Mode, StsPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.policy.domains import StsSettings

_PATH = "/.well-known/mta-sts.txt"
_HOST = "mta-sts."
_MAX_HEAD_OCTETS = 8192
_LIMIT_S = 10.0  # for a request to come
_MAX_CONNECTIONS = 200  # at once; a further one is closed
_MAX_AGE_S = 86400  # caches of the web may keep it so long; senders of mail must not ask them


def policy_of(settings: StsSettings, hostname: str) -> StsPolicy | None:
    """The policy that a domain publishes, if it does."""
    if settings.mode == "off":
        return None
    hosts = tuple(host.rstrip(".").lower() for host in settings.mx or (hostname,))
    return StsPolicy(Mode(settings.mode), int(settings.max_age_s), hosts)


class StsHost:
    """What all connections share: the texts by domain, as the present settings have them."""

    def __init__(self, find: Callable[[str], str]) -> None:
        """`find` gives the text of a domain's policy, "" if it has none."""
        self.find = find
        self.connections = 0

    def answer(self, head: bytes) -> bytes:
        """The answer to a request, from its line to the empty one."""
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        method, path, _ = words
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        hosts = [
            line.partition(":")[2].strip().lower() for line in lines[1:] if line.lower().startswith("host:")
        ]
        if len(hosts) != 1:
            return _response(HTTPStatus.BAD_REQUEST)
        host = hosts[0].partition(":")[0].rstrip(".")
        text = self.find(host.removeprefix(_HOST)) if host.startswith(_HOST) and path == _PATH else ""
        if not text:
            return _response(HTTPStatus.NOT_FOUND, with_body=method == "GET")
        return _response(HTTPStatus.OK, text.encode("ascii"), with_body=method == "GET")


def _response(status: HTTPStatus, body: bytes = b"", *, extra: str = "", with_body: bool = True) -> bytes:
    content = body or f"{status.phrase}\n".encode("ascii")
    age = f"Cache-Control: max-age={_MAX_AGE_S}\r\n" if status is HTTPStatus.OK else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n"
        f"{age}{extra}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (content if with_body else b"")


class StsProtocol(asyncio.Protocol):
    """One connection: one request, one answer."""

    def __init__(self, host: StsHost) -> None:
        """Answer from what `host` has."""
        self._host = host
        self._head = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request, but not for long."""
        self._transport = cast("asyncio.Transport", transport)
        self._host.connections += 1
        if self._host.connections > _MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(_LIMIT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once the header section is complete."""
        if self._transport.is_closing():
            return
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if end:
            self._transport.write(self._host.answer(head))
            self._transport.close()
        elif len(self._head) > _MAX_HEAD_OCTETS:
            self._transport.write(_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost makes no difference
        """It is over."""
        self._host.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
