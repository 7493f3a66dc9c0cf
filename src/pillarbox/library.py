"""Pillarbox inside another program: a server for as long as a block runs, and a letter sent in one call.

Both are thin: the server is `service` with the sandbox's configuration unless another is given, sending is a courier of
`relay` used once.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from pillarbox.config import Config, sandbox
from pillarbox.mail.catalogue import CAUSES, envelope
from pillarbox.mail.envelope import Body, Envelope, Recipient
from pillarbox.mail.reply import Reply
from pillarbox.mail.route import Route, Transport
from pillarbox.net.resolver import Resolver, ResolverSettings
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import Content, Pending, Queued, State
from pillarbox.relay.destination import Destination
from pillarbox.relay.hosts import Hosts
from pillarbox.relay.session import SmtpSettings
from pillarbox.relay.transaction import SmtpCourier
from pillarbox.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Received:
    """One message that the server has taken."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes  # the trace fields of this server first


class Server:
    """A mail server for as long as a block runs: `async with pillarbox.Server() as server`.

    Without a configuration it is the sandbox on a free loopback port: it takes every message and sends none away; its
    mail is forgotten at the end. `hooks` are objects with the methods of `pillarbox.policy.hooks.Plugin`.
    """

    def __init__(self, config: Config | None = None, *, hooks: Sequence[object] = ()) -> None:
        """Nothing is opened before the block begins."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if config is None:
            self._folder = tempfile.TemporaryDirectory(prefix="pillarbox-")
            config = msgspec.structs.replace(
                sandbox(data=self._folder.name, smtp="127.0.0.1:0", console=""), drain_s=1.0
            )
        self.config = config
        self._service = Service(config, plugins=hooks)

    async def __aenter__(self) -> Self:
        """Listen and deliver. Raises what `Service.start` raises."""
        await self._service.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and close; a sandbox forgets its mail."""
        await self._service.stop()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        return self._service.addresses[0]

    async def messages(self) -> list[Received]:
        """What is held in the queue, oldest first; in a sandbox that is all that was received."""
        with Ledger(Path(self.config.data)) as ledger:
            held = ledger.list_messages(limit=1_000_000, state=State.HELD)
        found = []
        for message in sorted(held, key=lambda one: one.id):
            if message.envelope is not None:
                content = await self._service.spool.load(message.id)
                recipients = tuple(recipient.address for recipient in message.recipients)
                octets = b"".join(content.chunks())
                found.append(Received(message.queue_id, message.envelope.sender, recipients, octets))
        return found


async def send(
    message: bytes,
    sender: str,
    recipients: Sequence[str],
    to: tuple[str, int],
    *,
    tls: str = "opportunistic",
    hostname: str = "localhost",
) -> dict[str, Reply]:
    """Send one message to a server and tell what it said for each recipient. Never raises for what a server does.

    `message` has CRLF line ends; `tls` is none, opportunistic, required or implicit. A reply with a `cause` is our own
    word about a failure, such as a connection that was refused; one without came from the server.
    """
    host, port = to
    route = Route(Transport.SMTP, f"//{f'[{host}]' if ':' in host else host}:{port}?tls={tls}")
    settings = SmtpSettings()
    destination = Destination(
        route, settings=settings, resolver=Resolver(ResolverSettings()), hostname=hostname
    )
    courier = SmtpCourier(destination, settings, Hosts())
    addressed = Envelope(
        sender,
        tuple(Recipient(address) for address in recipients),
        Body.SEVEN_BIT if message.isascii() else Body.EIGHT_BIT,
        not "".join((sender, *recipients)).isascii(),
    )
    now = time.time()
    pending = [Pending(0, number, one, route, now) for number, one in enumerate(addressed.recipients)]
    try:
        results = await courier.deliver(
            Queued(0, addressed, now, pending, Content(b"", message, None, len(message)))
        )
    finally:
        await courier.close()
    return {address: results[number].reply for number, address in enumerate(recipients)}


def refuse(cause: str = envelope.REFUSED_BY_HOOK.id, *lines: str) -> Reply:
    """The reply of a cause of the catalogue, with other words if `lines` are given. Raises KeyError."""
    found = CAUSES[cause]
    return found.because(*lines) if lines else found.reply()
