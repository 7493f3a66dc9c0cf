"""Shake hands on a listener: what it shows, what it asks for, and what is not good enough.

Reading certificates and choosing among them is the business of `net.certificates`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.mail.catalogue import auth
from pillarbox.net.certificates import LOOK_S
from pillarbox.net.chains import ChainError, read_authorities
from pillarbox.net.tls import is_certified, new_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pillarbox.mail.reply import Cause
    from pillarbox.net.certificates import Certificates
    from pillarbox.net.tls import ListenerContext, TlsManner

HANDSHAKE_S = 30.0  # for one, from the moment when it may begin


class Handshakes:
    """Counts the handshakes that go on after STARTTLS."""

    def __init__(self, most: int) -> None:
        """There should be at most `most`, and of one address at most a quarter of them."""
        self._most = most
        self._share = max(most // 4, 1)
        self._by_address: dict[str, int] = {}
        self._going_on = 0

    @property
    def full(self) -> bool:
        """Whether there are as many as there should be."""
        return self._going_on >= self._most

    def is_full_for(self, address: str) -> bool:
        """Whether there are as many as there should be, in all or of one address: who is silent holds its place for long."""
        return self.full or self._by_address.get(address, 0) >= self._share

    @contextlib.contextmanager
    def counted(self, address: str) -> Iterator[None]:
        """One goes on meanwhile."""
        self._going_on += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1
        try:
            yield
        finally:
            self._going_on -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


async def start_tls(
    plain: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext, **facts: object
) -> asyncio.Transport | None:
    """Shake hands on an open connection, within a time. None if that came to nothing: it is noted with `facts`."""
    loop = asyncio.get_running_loop()
    try:
        encrypted = await loop.start_tls(
            plain, protocol, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
        )
    except OSError as error:
        observe.TLS_FAILED.note(problem=describe_failure(error), **facts)
        plain.abort()
        return None
    # without any if the client went away during the handshake
    return None if encrypted is None or encrypted.is_closing() else encrypted


def new_contexts(manners: Iterable[TlsManner | None], client_ca: str) -> list[ListenerContext | None]:
    """What the handshakes of each listener begin with, when `client_ca` is trusted about clients."""
    trusted = None
    with contextlib.suppress(ChainError):  # who reads it to use it tells of that
        trusted = read_authorities(client_ca) if client_ca else None
    return [_begin_with(one, trusted) if one is not None else None for one in manners]


def _begin_with(manner: TlsManner, trusted: bytes | None) -> ListenerContext:
    context = new_context(asks=manner.asks, binds=manner.binds)
    context.trusted = trusted if manner.asks else None
    return context


class ListenerTls:
    """The TLS of one listener. Its context lives as long as the listener: the keys of session tickets are the context's.

    A context that was made before the workers were forked gives them the same keys, so that each resumes the others' sessions.
    """

    def __init__(
        self, certificates: Certificates, manner: TlsManner, context: ListenerContext | None = None
    ) -> None:
        """The context asks for a client's certificate as the manner says."""
        self._certificates = certificates
        self.manner = manner
        self._use(context or _begin_with(manner, certificates.authorities))

    def _use(self, context: ListenerContext) -> None:
        context.sni_callback = self._choose  # it is called for clients that name no host, too
        self._context = context

    @property
    def context(self) -> ListenerContext:
        """What a handshake begins with now. What clients have proved by other authorities must not be resumed."""
        if self.manner.asks:
            self._certificates.load_first()  # the very first client may come before they were read
            trusted = self._certificates.authorities
            if trusted != self._context.trusted:
                self._use(_begin_with(self.manner, trusted))
        return self._context

    def renewed(self, certificates: Certificates, manner: TlsManner) -> ListenerTls:
        """The same with other settings."""
        same = (manner.asks, manner.binds) == (self.manner.asks, self.manner.binds)
        return ListenerTls(certificates, manner, self._context if same else None)

    @property
    def ready(self) -> bool:
        """Whether a handshake can begin at once."""
        return self._certificates.usable

    async def prepare(self) -> bool:
        """Read the certificates if that was not done yet; whether a handshake can begin."""
        return await self._certificates.prepare()

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        """Take the certificate for the name that the client asks for.

        A new chain is never loaded into an old context: it would keep the old one beside it if their keys are of two kinds.
        """
        self._certificates.load_first()  # as above
        chosen = self._certificates.context_for(name, asks=self.manner.asks)
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = chosen
        return None

    def objection(self, connection: ssl.SSLObject) -> Cause | None:
        """What is not good enough about a session that has shaken hands."""
        if self.manner.is_too_weak(connection.version() or ""):
            return auth.TLS_TOO_WEAK
        if self.manner.demands and not is_certified(connection):
            return auth.CERTIFICATE_REQUIRED
        return None


class ListenersTls:
    """The TLS of all listeners, in the order of the configuration."""

    def __init__(
        self,
        certificates: Certificates,
        manners: Sequence[TlsManner | None],
        contexts: Sequence[ListenerContext | None],
    ) -> None:
        """None is a listener that offers no TLS."""
        self._certificates = certificates
        self._all = [
            ListenerTls(certificates, manner, context) if manner is not None else None
            for manner, context in zip(manners, contexts, strict=True)
        ]

    def one(self, number: int) -> ListenerTls | None:
        """The TLS of a listener."""
        return self._all[number]

    def renew(self, certificates: Certificates, manners: Sequence[TlsManner | None]) -> None:
        """Shake hands in another manner from now on."""
        self._certificates = certificates
        for number, (before, manner) in enumerate(zip(self._all, manners, strict=True)):
            if manner is None or before is None:
                self._all[number] = ListenerTls(certificates, manner) if manner is not None else None
            else:
                self._all[number] = before.renewed(certificates, manner)

    async def watch(self) -> None:
        """Read the certificates, and look at their files for ever."""
        while True:
            if not self._certificates.lazy:
                await self._certificates.prepare()
            await asyncio.sleep(LOOK_S)
            if self._certificates.loaded:
                await asyncio.to_thread(self._certificates.look)


def describe_failure(error: OSError) -> str:
    """Why a handshake failed, in words; of OpenSSL's own those are kept that tell what the other end found fault with."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "the handshake took too long"
    return (error.strerror or "the connection was lost").lower()
