"""Pillarbox inside another program: a server for as long as a block runs, and a letter sent in one call.

Both are thin: the server is `service` with the sandbox's configuration unless another is given, sending is a courier of
`relay` used once.
"""

from __future__ import annotations

import copy
import difflib
import re
import tempfile
import time
from contextlib import AsyncExitStack
from email.message import Message
from email.policy import SMTP
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

import msgspec

from pillarbox.config import sandbox
from pillarbox.mail.address import parse_address
from pillarbox.mail.catalogue import CAUSES, envelope, policy
from pillarbox.mail.envelope import Body, Envelope, Recipient
from pillarbox.mail.reply import Reply
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Seconds
from pillarbox.net.resolver import Resolver, ResolverSettings
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import Content, Pending, Queued, State
from pillarbox.relay.destination import Destination
from pillarbox.relay.hosts import Hosts
from pillarbox.relay.protection import Protection
from pillarbox.relay.session import SmtpSettings
from pillarbox.relay.transaction import SmtpCourier
from pillarbox.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pillarbox.config import Config


_FIELD_END = re.compile(r"\n(?![ \t])|\r(?!\n)")


class Received(msgspec.Struct, frozen=True):
    """One message that the server has taken."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes  # the trace fields of this server first


class Server:
    """A mail server for as long as a block runs: `async with pillarbox.Server() as server`.

    Without a configuration it is the sandbox on a free loopback port: it takes every message and sends none away; its
    mail is forgotten at the end. `hooks` are objects with the methods of `pillarbox.policy.hooks.Plugin`. Several may run
    side by side, and each again after its block has ended.
    """

    def __init__(self, config: Config | None = None, *, hooks: Sequence[object] = ()) -> None:
        """Nothing is opened before the block begins."""
        self._config = config
        self._hooks = hooks
        self._service: Service | None = None
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Listen and deliver. Raises what `Service.start` raises; then nothing stays open."""
        async with AsyncExitStack() as opened:
            config = self._config
            if config is None:
                folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="pillarbox-"))
                config = sandbox(data=folder, smtp="127.0.0.1:0", console="")
                config = msgspec.structs.replace(config, drain_s=Seconds(1))
            service = Service(config, plugins=self._hooks)
            await service.start()
            opened.push_async_callback(service.stop)
            self._service = service
            self._open = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and close; a sandbox forgets its mail."""
        self._service = None
        await self._open.aclose()

    @property
    def _running(self) -> Service:
        if self._service is None:
            raise RuntimeError("the server runs only inside its block: async with Server() as server")
        return self._service

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        return self.addresses[0]

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listener, in the order of the configuration."""
        return tuple(self._running.addresses)

    async def messages(self) -> list[Received]:
        """What is held in the queue, oldest first; in a sandbox that is all that was received."""
        service = self._running
        with Ledger(Path(service.config.data)) as ledger:
            held = ledger.list_messages(limit=1_000_000, states=[State.HELD])
        found = []
        for message in sorted(held, key=lambda one: one.id):
            if message.envelope is not None:
                content = await service.spool.load(message.id)
                recipients = tuple(recipient.address for recipient in message.recipients)
                octets = b"".join(content.chunks())
                found.append(Received(message.queue_id, message.envelope.sender, recipients, octets))
        return found


async def send(  # noqa: PLR0913 - what to send to whom, and how; the last four have defaults that are right for most
    message: bytes | Message,
    sender: str,
    recipients: Sequence[str],
    to: tuple[str, int],
    *,
    tls: Literal["none", "opportunistic", "required", "implicit"] | None = None,
    login: tuple[str, str] | None = None,
    ca_file: str = "",
    hostname: str = "localhost",
) -> dict[str, Reply]:
    """Send one message to a server and tell what it said for each recipient. Never raises for what a server does.

    A reply with a `cause` is our own word about a failure, such as a connection that was refused; one without came from
    the server. `message` is an `email.message.EmailMessage`, whose Bcc fields stay here, or octets. `login` is a user and
    a password; without `tls` it is "required" then, else "opportunistic". Where TLS is required the certificate must be
    one for the name in `to`, and trusted by the system or by `ca_file`.

    Raises TypeError or ValueError for arguments that can't be meant, such as no recipient, an address with parameters
    behind it, or a header field with a line end in it.

    Octets may have bare LF at line ends: they are made CRLF. A NUL needs a server that takes binary messages.
    """
    if isinstance(recipients, str):
        raise TypeError("recipients is a list of addresses, not one address")
    if not recipients:
        raise ValueError("there are no recipients: a message needs one at least")
    host, port = _host_and_port(to)
    for address in (sender, *recipients):
        _check_address(address)
    octets = _octets(message)
    user, password = login or ("", "")
    route = _route(host, port, user, tls or ("required" if login else "opportunistic"))
    settings = SmtpSettings(ca_file=ca_file, passwords={f"{user}@{host}": password})
    resolver = Resolver(ResolverSettings())
    destination = Destination(
        route,
        settings=settings,
        resolver=resolver,
        hostname=hostname,
        protection=Protection(resolver.lookup),
    )
    courier = SmtpCourier(destination, settings, Hosts())
    addressed = Envelope(
        sender,
        tuple(Recipient(address) for address in recipients),
        _body(octets),
        not "".join((sender, *recipients)).isascii(),
    )
    now = time.time()
    pending = [Pending(0, number, one, route, now) for number, one in enumerate(addressed.recipients)]
    content = Content(b"", octets, None, len(octets))
    try:
        results = await courier.deliver(Queued(0, addressed, now, pending, content))
    finally:
        await courier.close()
    return {address: results[number].reply for number, address in enumerate(recipients)}


def _host_and_port(to: object) -> tuple[str, int]:
    match to:
        case (str(host), int(port)):
            return host.lower(), port
    raise TypeError(f'to is a host and a port, such as ("127.0.0.1", 2525), not {to!r}')


def _check_address(text: str) -> None:
    """Raise ValueError for what is not one address and nothing else; the name of a user of the server's own will do."""
    if text:  # nobody is the sender of reports
        parse_address(text if "@" in text else f"{text}@localhost")


def _body(octets: bytes) -> Body:
    """What the octets ask of a server: with DATA no NUL may be sent, because some hosts drop it (RFC 3030 3)."""
    if b"\0" in octets:
        return Body.BINARY
    return Body.SEVEN_BIT if octets.isascii() else Body.EIGHT_BIT


def _octets(message: bytes | Message) -> bytes:
    """The message as it is sent. Raises TypeError, or ValueError for a field that would become two."""
    if isinstance(message, Message):
        for name, value in message.items():
            if _FIELD_END.search(str(value)):
                raise ValueError(f"the field {name} has a line end in it")
        sent = copy.copy(message)
        for field in ("Bcc", "Resent-Bcc"):  # RFC 5322 3.6.3: the copies must not tell of each other
            del sent[field]
        return sent.as_bytes(policy=SMTP)
    if isinstance(message, bytes):
        return message
    raise TypeError(f"a message is an EmailMessage or bytes, not {type(message).__name__}")


def _route(host: str, port: int, user: str, tls: str) -> Route:
    place = f"[{host}]" if ":" in host else host
    who = f"{quote(user, safe='')}@" if user else ""
    return Route(Transport.SMTP, f"//{who}{place}:{port}?tls={tls}")


def disconnect(*lines: str) -> Reply:
    """What a hook returns to end the session at once (421)."""
    return policy.DISCONNECTED.because(*lines) if lines else policy.DISCONNECTED.reply()


def refuse(cause: str = envelope.REFUSED_BY_HOOK.id, *lines: str) -> Reply:
    """The reply of a cause of the catalogue, with other words if `lines` are given: what a hook returns to refuse.

    Raises KeyError if there is no such cause, ValueError if it is none for refusing, or needs `lines`.
    """
    found = CAUSES.get(cause)
    if found is None:
        near = difflib.get_close_matches(cause, CAUSES, n=1)
        raise KeyError(f"no cause is called {cause!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        reply = found.because(*lines) if lines else found.reply()
    except KeyError as error:
        raise ValueError(f"{cause} needs words of your own: refuse({cause!r}, ...)") from error
    if reply.positive or reply.intermediate:
        raise ValueError(f"{cause} is no refusal but {reply}")
    return reply
