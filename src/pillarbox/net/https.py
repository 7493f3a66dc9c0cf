"""Get one small document by HTTPS, from hosts that nobody here chose: no redirects, little patience, little room.

What is in it is the business of who asked. Web services that the operator chose are posted to by `relay.webhook`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from collections.abc import Sequence

HTTPS_PORT = 443
_PIECE_OCTETS = 16384
_MAX_HEAD_OCTETS = 16384
_ROOM = 4  # times the octets of a document for how it is sent: chunks, fields behind it


class FetchError(Exception):
    """There is no such document; the text says why. `certificate` tells whether the host could not prove who it is."""

    def __init__(self, text: str, *, certificate: bool = False) -> None:
        """Keep both."""
        super().__init__(text)
        self.certificate = certificate


class _Answer:
    """What the server said; `httptools` calls its methods by name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.fields: dict[str, str] = {}
        self.body = b""
        self.begun = False
        self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        self.fields.setdefault(key, value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, body: bytes) -> None:
        self.body += body
        if len(self.body) > self._most:
            raise FetchError(f"it has over {self._most} octets")

    def on_message_complete(self) -> None:
        self.done = True


async def fetch(  # noqa: PLR0913 - each of them is a bound, or where to go
    host: str,
    path: str,
    addresses: Sequence[str],
    context: ssl.SSLContext,
    *,
    limit_s: float,
    max_octets: int,
    port: int = HTTPS_PORT,
    media_type: str = "text/plain",
) -> bytes:
    """The document at a path of a host, at the first of its addresses that takes a connection. Raises FetchError."""
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await _connect(host, addresses, context, port)
            try:
                writer.write(_request(host, path))
                return await _read(reader, max_octets, media_type)
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise FetchError(f"{host}: no answer in time") from error
    except FetchError as error:
        raise FetchError(f"{host}: {error}", certificate=error.certificate) from error
    except (OSError, httptools.HttpParserError) as error:
        raise FetchError(f"{host}: {str(error) or type(error).__name__}") from error


async def _connect(
    host: str, addresses: Sequence[str], context: ssl.SSLContext, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure = FetchError("it has no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise FetchError(f"certificate: {error.verify_message or error}", certificate=True) from error
        except OSError as error:
            failure = FetchError(error.strerror or str(error) or type(error).__name__)
    raise failure


def _request(host: str, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Pillarbox\r\nAccept: text/plain\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


async def _read(reader: asyncio.StreamReader, max_octets: int, media_type: str) -> bytes:
    """Raises FetchError, OSError or httptools.HttpParserError."""
    answer = _Answer(max_octets)
    parser = httptools.HttpResponseParser(answer)
    total = 0
    while not answer.done:
        piece = await reader.read(_PIECE_OCTETS)
        if not piece:
            # without Content-Length the end of the connection is the end of the document
            if (
                answer.begun
                and "content-length" not in answer.fields
                and "transfer-encoding" not in answer.fields
            ):
                break
            raise FetchError("it broke off")
        total += len(piece)
        if total > _MAX_HEAD_OCTETS + (_ROOM * max_octets if answer.begun else 0):
            raise FetchError("its header section is too long" if not answer.begun else "it goes on and on")
        try:
            parser.feed_data(piece)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, FetchError) else error from error
        if answer.begun:
            _check(parser.get_status_code(), answer.fields.get("content-type", ""), media_type)
    return answer.body


def _check(status: int, content_type: str, media_type: str) -> None:
    if status != 200:  # a redirect must not be followed (RFC 8461 3.3)
        raise FetchError(f"HTTP status {status}")
    if content_type.partition(";")[0].strip().lower() != media_type:
        raise FetchError(f"it is {content_type[:60] or 'of no known type'}, not {media_type}")
