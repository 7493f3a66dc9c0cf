"""Carry the octets of one session with a next host: connect, ask, wait no longer than allowed, encrypt, close.

What is asked and what an answer means is `relay.session`'s and `relay.transaction`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, cast

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.catalogue.content import START_DATA
from pillarbox.net.tls import certificate_hash, peer_chain
from pillarbox.smtp.client import QUIT, STARTTLS
from pillarbox.smtp.replies import CLOSING_CODE, GOODBYE_CODE, ProtocolError, ReplyReader

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.relay.plan import Hop

_HIGH_WATER_OCTETS = 262144
_GOODBYE = "QUIT"  # what is asked then
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS)


class LinkError(Exception):
    """The session can't go on: `reply` says why, `replies` are those that still came of the group waited for.

    `why` is what the TLS library said of a handshake.
    """

    def __init__(self, reply: Reply, replies: list[Reply] | None = None, why: str = "") -> None:
        """Keep them."""
        super().__init__(str(reply))
        self.reply = reply
        self.replies = replies or []
        self.why = why


class Connection(asyncio.Protocol):
    """One connection to a server that answers. Not a stream: whoever asks is woken once, when all answers are there."""

    def __init__(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        """`host` is what reports call the other end."""
        self.host = host
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._replies: list[Reply] = []
        self._wanted = 0
        self._strikes = 0  # of the reader, when the present group was begun
        self._what = ""  # the stage, for reports
        self._waiter: asyncio.Future[None] | None = (
            None  # of the one who waits for replies or for room to write
        )
        self._paused = False
        self._failure: Reply | None = None  # why it is over
        self._limit_s = 0.0
        self._deadline = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._early: Reply | None = None  # to a message that has not begun
        self._tls_next = False  # the next answer decides about TLS
        self._changing = False  # from that answer to the end of the handshake

    # --- asking

    @property
    def usable(self) -> bool:
        """Whether another command can be sent."""
        return self._failure is None and not self._wanted

    @property
    def failure(self) -> Reply | None:
        """Why nothing further can be asked, if that is so."""
        return self._failure

    def take_oddity(self) -> str:
        """What was odd about the answers since the last call, "" if nothing was."""
        found, self._reader.oddity = self._reader.oddity, ""
        return found

    def take_early(self) -> Reply | None:
        """The refusal of a message that came together with the leave to send it, if one did."""
        early, self._early = self._early, None
        return early

    @property
    def answered(self) -> bool:
        """Whether an answer came, or the connection broke, before it was waited for."""
        return bool(self._replies) or self._failure is not None

    async def ask(self, data: bytes, count: int, limit_s: float, what: str) -> list[Reply]:
        """Send commands and return their `count` replies, or fewer of which the last says 421. Raises LinkError.

        Each reply may take `limit_s` seconds.
        """
        self.expect(count, limit_s, what)
        if self._transport is not None and self._failure is None:
            self._transport.write(data)
        return await self.replies()

    def expect(self, count: int, limit_s: float, what: str) -> None:
        """Say how many replies are due from now on, before the octets that earn them are written."""
        self._wanted = count
        self._replies = []
        self._early = None
        self._strikes = self._reader.strikes
        self._what = what
        self._limit_s = limit_s

    async def replies(self) -> list[Reply]:
        """Wait for the replies that are expected. Raises LinkError."""
        while self._failure is None and len(self._replies) < self._wanted:
            await self._wait(self._limit_s)
        replies, self._replies = self._replies, []
        enough = len(replies) >= self._wanted or (replies and replies[-1].code == CLOSING_CODE)
        self._wanted = 0
        if not enough and self._reader.strikes > self._strikes:
            replies = []  # what was passed over may have been one of them, and then the others have shifted
        if not enough:
            raise LinkError(cast("Reply", self._failure), replies)
        return replies

    async def write(self, data: bytes, limit_s: float) -> bool:
        """Send a piece of a message; wait while the other end reads too slowly, until an answer comes early.

        Whether it was sent: not if the connection had broken before.
        """
        if self._transport is None or self._failure is not None:
            return False
        self._transport.write(data)
        if self._paused and not self.answered:
            await self._wait(limit_s)
        return True

    async def _wait(self, limit_s: float) -> None:
        self._waiter = self._loop.create_future()
        self._deadline = self._loop.time() + limit_s
        if self._timer is None or self._timer.when() > self._deadline:
            self._arm()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- time: one timer for the whole connection, moved only when it fires

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._arm()
        else:
            self._fail(delivery.TIMEOUT.reply(host=self.host, detail=self._what))

    # --- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; also called again when TLS has begun."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_OCTETS)

    def data_received(self, data: bytes) -> None:
        """Cut replies; wake who waits only when there is something for them to do."""
        if self._failure is not None or self._changing:
            return
        try:
            new = self._reader.feed_first(data) if self._tls_next else self._reader.feed(data)
        except ProtocolError as error:
            self._fail(delivery.PROTOCOL.reply(host=self.host, detail=error))
            return
        if not new:
            return
        if self._tls_next:
            self._tls_next, self._changing = False, new[0].positive
        if self._what != _GOODBYE and any(reply.code == GOODBYE_CODE for reply in new):
            self._replies += takewhile(lambda reply: reply.code != GOODBYE_CODE, new)
            self._fail(delivery.CONNECTION_LOST.reply(host=self.host, detail=self._what or "anything"))
            return
        self._replies += new
        closing = any(reply.code == CLOSING_CODE for reply in new)
        if len(self._replies) > self._wanted:
            self._unasked(closing=closing)
        elif closing:
            self._cut_after_closing()
        elif len(self._replies) < self._wanted:
            self._deadline = self._loop.time() + self._limit_s
            return
        self._wake()

    def _unasked(self, *, closing: bool) -> None:
        """More replies than commands: only a 421 may come unasked; anything else would shift all that follows.

        Of a group nobody can tell which reply belongs to what then, so none counts. But a 354 answers DATA, and a refusal
        behind it is the answer to the message.
        """
        extra = self._replies[self._wanted]
        go_on = self._wanted and self._replies[self._wanted - 1].code == START_DATA.code
        refused = extra.temporary or extra.permanent
        if go_on and refused and not closing and len(self._replies) == self._wanted + 1:
            self._early = self._replies.pop()
            return
        del self._replies[self._wanted :]
        if closing:
            self._cut_after_closing()
            self._fail(extra)
            return
        if self._wanted > 1:
            self._replies = []
        self._fail(delivery.PROTOCOL.reply(host=self.host, detail=f"unasked reply {extra}"))

    def _cut_after_closing(self) -> None:
        for number, reply in enumerate(self._replies):
            if reply.code == CLOSING_CODE:
                del self._replies[number + 1 :]
                self._fail(reply)
                return

    def eof_received(self) -> bool:
        """The other end sends no more: nothing further can be asked."""
        self._fail(delivery.CONNECTION_LOST.reply(host=self.host, detail=self._what or "anything"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost makes no difference
        """The transport is gone."""
        self._fail(delivery.CONNECTION_LOST.reply(host=self.host, detail=self._what or "anything"))

    def pause_writing(self) -> None:
        """The other end reads more slowly than we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        self._wake()

    # --- the end, and TLS

    def _fail(self, reply: Reply) -> None:
        """Nothing further can be asked; the first reason counts."""
        if self._failure is None:
            self._failure = reply
            self.close()
        self._wake()

    def close(self) -> None:
        """Hang up at once; what was not yet sent is lost."""
        if self._failure is None:
            self._failure = delivery.CONNECTION_LOST.reply(host=self.host, detail="anything")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    async def quit(self, limit_s: float) -> None:
        """Say goodbye and hang up; the answer is waited for, briefly, and makes no difference (RFC 5321 4.1.1.10)."""
        if self.usable:
            with contextlib.suppress(LinkError):
                await self.ask(QUIT, 1, limit_s, _GOODBYE)
        self.close()

    async def greeting(self, limit_s: float) -> Reply:
        """Wait for what the server says first. Raises LinkError."""
        self._what, self._limit_s = "with a greeting", limit_s
        return (await self.replies())[0]

    async def ask_for_tls(self, limit_s: float) -> Reply:
        """Ask for TLS. From a positive answer to the handshake nothing that comes in clear counts (RFC 3207 6).

        Raises LinkError.
        """
        self._tls_next = True
        return (await self.ask(STARTTLS, 1, limit_s, "STARTTLS"))[0]

    def end_point(self) -> bytes:
        """The hash of the host's certificate; none without TLS."""
        shown = self._tls.getpeercert(binary_form=True) if self._tls is not None else None
        return certificate_hash(shown) if shown else b""

    @property
    def own_address(self) -> str:
        """The address that it was opened from; "" if it has none."""
        name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return str(name[0]) if isinstance(name, tuple) and name else ""

    @property
    def _tls(self) -> ssl.SSLObject | None:
        found: ssl.SSLObject | None = (
            self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        )
        return found

    @property
    def tls_version(self) -> str:
        """Such as "TLSv1.3"; "" in clear."""
        return (self._tls.version() or "") if self._tls is not None else ""

    def certificates(self) -> list[bytes]:
        """What the host showed, in DER, its own certificate first; nothing of it need have been checked."""
        return peer_chain(self._tls) if self._tls is not None else []

    async def start_tls(self, context: ssl.SSLContext, server_name: str, limit_s: float) -> None:
        """Encrypt the connection. Raises LinkError, after which it can only be closed."""
        assert self._transport is not None  # there was an answer
        if self._failure is not None:
            raise handshake_failed(self.host, "connection lost")
        try:
            transport = await self._loop.start_tls(
                self._transport, self, context, server_hostname=server_name, ssl_handshake_timeout=limit_s
            )
        except (OSError, ssl.SSLError) as error:
            self.close()
            raise handshake_failed(self.host, error) from error
        finally:
            self._changing = False
        if transport is None or self._failure is not None:
            raise handshake_failed(self.host, "connection lost")
        self._transport = transport


def handshake_failed(host: str, why: Exception | str) -> LinkError:
    """What is raised for a handshake that failed."""
    if isinstance(why, ssl.SSLCertVerificationError) and why.verify_message:
        why = f"certificate verify failed: {why.verify_message.rstrip('.').lower()}"
    elif isinstance(why, ssl.SSLError) and why.reason:
        why = why.reason.replace("_", " ").lower()
    text = str(why) or type(why).__name__
    return LinkError(delivery.TLS_FAILED.reply(host=host, detail=text), why=text)


async def connect(hop: Hop, limit_s: float, context: ssl.SSLContext | None = None) -> Connection:
    """Open a connection, with `context` under TLS from the first octet (RFC 8314 3). Raises LinkError."""
    loop = asyncio.get_running_loop()
    connection = Connection(hop.name, loop)
    connection.expect(1, limit_s, "the connection")
    try:
        async with asyncio.timeout(limit_s):
            if hop.port:
                await loop.create_connection(
                    lambda: connection,
                    hop.address,
                    hop.port,
                    ssl=context,
                    server_hostname=hop.host if context else None,
                )
            else:
                await loop.create_unix_connection(lambda: connection, hop.address)
    except ssl.SSLError as error:
        raise handshake_failed(hop.name, error) from error
    except TimeoutError as error:
        raise LinkError(delivery.CONNECT_FAILED.reply(host=hop.name, detail="no answer in time")) from error
    except OSError as error:
        if error.errno in _OUT_OF_FILES:
            raise LinkError(delivery.TOO_BUSY.reply()) from error
        detail = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        raise LinkError(delivery.CONNECT_FAILED.reply(host=hop.name, detail=detail)) from error
    return connection


async def client_context(*, verify: bool, ca_file: str = "", min_version: str = "1.2") -> ssl.SSLContext:
    """TLS settings for sending; without `verify` any certificate will do: better than clear text (RFC 7435).

    They are made in a thread: to read all authorities that are trusted takes a tenth of a second.
    """
    return await asyncio.to_thread(_client_context, verify, ca_file, min_version)


@lru_cache(maxsize=16)
def _client_context(verify: bool, ca_file: str, min_version: str) -> ssl.SSLContext:  # noqa: FBT001 - for the cache
    context = ssl.create_default_context(cafile=ca_file or None)
    if min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
