"""Post messages to web services by HTTP, signed, to public addresses only unless allowed otherwise.

Trying again is the queue's business; events about deliveries are not sent from here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import msgspec

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.message import scan_head
from pillarbox.mail.reply import printable
from pillarbox.mail.units import Seconds, Settings
from pillarbox.net.public_hosts import RefusedAddressError, pinned_host, send
from pillarbox.queue.spool import format_id
from pillarbox.relay.final import content_of, final_fields, here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import httpx2

    from pillarbox.mail.reply import Reply, Result
    from pillarbox.queue.spool import Pending, Queued

_FOLDING = re.compile(rb"\r?\n(?=[ \t])")
_RESERVED = frozenset({"host", "content-length", "content-type", "transfer-encoding", "idempotency-key"})
_TOKEN = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_AGAIN = frozenset({408, 425, 429})


class WebhookSettings(Settings, frozen=True):
    """One web service that takes mail: `[webhook.NAME]`."""

    url: str
    """Where to post."""
    secret: str = ""
    """Key of the signature; "" sends none."""
    format: Literal["json", "mime"] = "json"
    """`json` has envelope, header fields and the message in base64; `mime` is the message itself."""
    limit_s: Seconds = Seconds(60)
    """How long one post may take, from the look-up of the name to the end of the answer."""
    allow_private: bool = False
    """Allow addresses that are not public: loopback, private networks."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Fields to add to the request, such as Authorization."""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""

    def __post_init__(self) -> None:
        """Refuse what could not be posted to."""
        import httpx2  # noqa: PLC0415 - it costs start-up time, and many have no web service

        url = httpx2.URL(self.url)
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.fragment:
            raise ValueError("url must be https://host/path or http://host/path, without user or fragment")
        for name, value in self.headers.items():
            if (
                not _TOKEN.fullmatch(name)
                or name.lower() in _RESERVED
                or not (value.isascii() and value.isprintable())
            ):
                raise ValueError(f'headers: "{printable(name)}" can\'t be set')


class _Body(msgspec.Struct, frozen=True):
    """What is posted: its size and signature, and its octets again for sending."""

    octets: int
    signature: str
    pieces: Callable[[], Iterator[bytes]]
    in_memory: bool

    async def stream(self) -> AsyncIterator[bytes]:
        """The octets; files are read in a thread."""
        pieces = self.pieces()
        while (
            piece := next(pieces, None) if self.in_memory else await asyncio.to_thread(next, pieces, None)
        ) is not None:
            yield piece


class _Answer(msgspec.Struct, frozen=True):
    """What a web service said; `wait_s` is how long it asks to be left alone."""

    status: int
    detail: str
    wait_s: float


def _new_client(settings: WebhookSettings) -> httpx2.AsyncClient:
    """Raises OSError."""
    import httpx2  # noqa: PLC0415 - as above

    return httpx2.AsyncClient(
        verify=ssl.create_default_context(cafile=settings.ca_file or None),
        timeout=float(settings.limit_s),
        trust_env=False,  # a proxy could reach what must not be reached
        follow_redirects=False,
        limits=httpx2.Limits(max_connections=50, keepalive_expiry=15.0),
    )


class Webhook:
    """One web service. Connections are kept open for a while and shared by all its couriers."""

    def __init__(self, settings: WebhookSettings) -> None:
        import httpx2  # noqa: PLC0415 - as above

        self._settings = settings
        self._failures = (httpx2.HTTPError, OSError)
        self._url = httpx2.URL(settings.url)
        self._client: httpx2.AsyncClient | None = None
        self._making = asyncio.Lock()

    async def deliver(self, queued: Queued, pending: Pending) -> Result:
        """Post the message for one recipient."""
        try:
            async with asyncio.timeout(self._settings.limit_s):
                answer = await self._post(queued, pending)
        except TimeoutError:
            late = f"no answer within {self._settings.limit_s:g} seconds"
            return here(delivery.WEBHOOK_DEFERRED.reply(detail=late))
        except RefusedAddressError as error:
            return here(delivery.WEBHOOK_DEFERRED.reply(detail=f"{error}, and allow_private is off"))
        except self._failures as error:
            return here(delivery.WEBHOOK_DEFERRED.reply(detail=str(error) or type(error).__name__))
        return here(judge(answer.status, answer.detail), answer.wait_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _open(self) -> httpx2.AsyncClient:
        """What holds the connections. The first time it takes a fifth of a second to make, so a thread does it.

        Raises OSError if the certificates can't be read.
        """
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(_new_client, self._settings)
        return self._client

    async def _post(self, queued: Queued, pending: Pending) -> _Answer:
        """Send, and read no more of the answer than needed. Raises httpx2.HTTPError and OSError."""
        host = await pinned_host(self._url, allow_private=self._settings.allow_private)
        at = f"{time.time():.0f}"
        in_memory = content_of(queued).path is None
        if in_memory:
            body = self._prepare(queued, pending, at)
        else:
            body = await asyncio.to_thread(self._prepare, queued, pending, at)
        client = await self._open()
        request = client.build_request(
            "POST",
            self._url.copy_with(host=host),
            headers=self._headers(queued, pending, at, body),
            content=body.stream(),
            extensions={"sni_hostname": self._url.host},  # the certificate must still be the name's
        )
        answer, detail = await send(client, request)
        wait_s = retry_after(answer.headers.get("Retry-After", ""), time.time())
        return _Answer(answer.status_code, detail, wait_s)

    def _prepare(self, queued: Queued, pending: Pending, at: str) -> _Body:
        """Make the body once to measure and sign it; large ones are made again for sending, so memory stays flat."""
        in_memory = content_of(queued).path is None
        make = _json_pieces if self._settings.format == "json" else _mime_pieces
        kept = [b"".join(make(queued, pending))] if in_memory else None

        def pieces() -> Iterator[bytes]:
            return iter(kept) if kept is not None else make(queued, pending)

        signing = hmac.new(self._settings.secret.encode(), f"{at}.".encode(), hashlib.sha256)
        octets = 0
        for piece in pieces():
            octets += len(piece)
            signing.update(piece)
        return _Body(
            octets, f"sha256={signing.hexdigest()}" if self._settings.secret else "", pieces, in_memory
        )

    def _headers(self, queued: Queued, pending: Pending, at: str, body: _Body) -> dict[str, str]:
        port = f":{self._url.port}" if self._url.port else ""
        host = f"[{self._url.host}]" if ":" in self._url.host else self._url.raw_host.decode("ascii")
        headers = {
            "Host": host + port,
            "User-Agent": "Pillarbox",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json" if self._settings.format == "json" else "message/rfc822",
            "Content-Length": str(body.octets),
            "Idempotency-Key": f"{format_id(queued.id)}-{pending.number}",
            "X-Pillarbox-Timestamp": at,
            "X-Pillarbox-Sender": _field_value(queued.envelope.sender),
            "X-Pillarbox-Recipient": _field_value(pending.recipient.address),
            **self._settings.headers,
        }
        if body.signature:
            headers["X-Pillarbox-Signature"] = body.signature
        return headers


def judge(status: int, detail: str) -> Reply:
    """What an HTTP status means for a message; a redirect is for the operator to follow."""
    if 200 <= status < 300:
        return delivery.DELIVERED.reply(detail=f"Taken by the web service ({status})")
    if 400 <= status < 500 and status not in _AGAIN:
        return delivery.WEBHOOK_REFUSED.noted(detail=detail)
    return delivery.WEBHOOK_DEFERRED.noted(detail=detail)


def _json_pieces(queued: Queued, pending: Pending) -> Iterator[bytes]:
    """The JSON object; the message in base64 is its last member."""
    envelope, recipient = queued.envelope, pending.recipient
    facts = {
        "queue_id": format_id(queued.id),
        "recipient_number": pending.number,
        "attempt": pending.attempts + 1,
        "received_at": datetime.fromtimestamp(queued.received_at, UTC),
        "octets": content_of(queued).octets,
        "envelope": {
            "sender": _text(envelope.sender),
            "recipient": _text(recipient.address),
            "original_recipient": _text(recipient.original or recipient.address),
            "body": envelope.body.value,
            "smtputf8": envelope.smtputf8,
        },
        "headers": list(_header_fields(scan_head(content_of(queued).head()).section)),
    }
    yield msgspec.json.encode(facts)[:-1] + b',"message":"'
    held = b""
    for piece in content_of(queued).chunks():
        whole = held + piece
        end = len(whole) - len(whole) % 3
        held = whole[end:]
        yield base64.b64encode(whole[:end])
    yield base64.b64encode(held) + b'"}'


def _mime_pieces(queued: Queued, pending: Pending) -> Iterator[bytes]:
    """The message, with the envelope in front as the fields of final delivery, so that the signature covers it."""
    yield final_fields(queued, pending)
    yield from content_of(queued).chunks()


def _header_fields(section: bytes) -> Iterator[tuple[str, str]]:
    """Name and unfolded value of each field in order; encoded words stay as they are."""
    for line in _FOLDING.sub(b"", section).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            yield name.decode("ascii", "replace").rstrip(), value.decode("utf-8", "replace").strip()


def _text(text: str) -> str:
    """Without lone surrogates, which JSON can't carry."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _field_value(address: str) -> str:
    """An address for an HTTP field: octets that are not printable ASCII are written as %XX."""
    return quote(address.encode("utf-8", "surrogateescape"), safe="!#$&'*+/=?^_`{|}~.@\"[]:;<>(), \\-")


def retry_after(value: str, now: float, limit_s: float = 86400.0) -> float:
    """How long a Retry-After field asks to wait, in seconds, at most `limit_s`; 0 if it can't be read."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), limit_s)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - rarely needed, and a start would have to wait

    with suppress(ValueError, TypeError, OverflowError):
        return min(max(parsedate_to_datetime(value[:64]).timestamp() - now, 0.0), limit_s)
    return 0.0
