"""Ask an LDAP server: find the entries that a filter is about, and let it check a password. Few connections, never for long.

What is sent and read is in `net.ldap_message`; what an entry means, in `policy.account_ldap`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pillarbox.net import ldap_message as wire
from pillarbox.policy.account import SourceDown
from pillarbox.policy.accounts import LDAP_PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillarbox.policy.accounts import LdapSettings

T = TypeVar("T")
_MAX_CONNECTIONS = 4  # for searching, and as many for checking passwords
_IDLE_S = 30.0
_PORTS = {"ldap": 389, "ldaps": 636}
# What a server says of a password that is wrong, or of an entry that has none or is locked (RFC 4511 A).
_REFUSALS = frozenset({19, 32, 48, 49, 53})


class _Connection:
    """One connection, used for one thing after the other. Raises OSError, EOFError and ValueError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._number = 0

    @classmethod
    async def open(cls, settings: LdapSettings, tls: ssl.SSLContext) -> _Connection:
        """Connect, and encrypt as the settings say."""
        url = urllib.parse.urlsplit(settings.url)
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        at_once = tls if url.scheme == "ldaps" else None
        opened = cls(*await asyncio.open_connection(host, port, ssl=at_once))
        if at_once is None and settings.start_tls:
            try:
                await opened.must(wire.start_tls_request(opened.next()), wire.EXTENDED_DONE)
                await opened._writer.start_tls(tls, server_hostname=host)
            except BaseException:
                opened.close()
                raise
        return opened

    def next(self) -> int:
        """A number for the next message."""
        self._number += 1
        return self._number

    async def ask(
        self, request: bytes, done: int, entries: list[wire.Entry] | None = None
    ) -> tuple[int, str]:
        """Send a request and read until it is done; its result. What is found goes to `entries`."""
        self._writer.write(request)
        await self._writer.drain()
        while True:
            answer = await self._read()
            if answer.number == self._number and answer.kind == done:
                return wire.read_result(answer.body)
            if answer.kind == wire.ENTRY and entries is not None:
                entries.append(wire.read_entry(answer.body))
            elif answer.kind != wire.REFERENCE:  # that another server may know more is not followed
                raise ValueError("an answer that nobody asked for")

    async def must(self, request: bytes, done: int) -> None:
        """The same for what has to go well, before anything else is of use."""
        code, text = await self.ask(request, done)
        if code:
            raise ValueError(f"STARTTLS or the login of the server was refused: {code} {text}")

    async def _read(self) -> wire.Answer:
        tag, size = await self._reader.readexactly(2)
        if more := wire.length_of(size):
            size = int.from_bytes(await self._reader.readexactly(min(more, 8)), "big")
        if tag != 0x30 or size > wire.MAX_OCTETS:
            raise ValueError("no message of LDAP")
        return wire.read_answer(await self._reader.readexactly(size))

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


class _Pool:
    """Connections that are kept for a moment."""

    def __init__(self, open_one: Callable[[], Awaitable[_Connection]]) -> None:
        self._open = open_one
        self._turns = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._idle: dict[_Connection, asyncio.TimerHandle] = {}

    async def use(self, work: Callable[[_Connection], Awaitable[T]]) -> T:
        """Do something with a connection; once more if an idle one was lost meanwhile."""
        async with self._turns:
            while self._idle:
                connection, timer = self._idle.popitem()
                timer.cancel()
                with contextlib.suppress(OSError, EOFError):
                    return await self._work(connection, work)
            return await self._work(await self._open(), work)

    async def _work(self, connection: _Connection, work: Callable[[_Connection], Awaitable[T]]) -> T:
        try:
            result = await work(connection)
        except BaseException:
            connection.close()
            raise
        self._idle[connection] = asyncio.get_running_loop().call_later(_IDLE_S, self._expire, connection)
        return result

    def _expire(self, connection: _Connection) -> None:
        del self._idle[connection]
        connection.close()

    def close(self) -> None:
        """Hang up all that nobody uses."""
        for connection, timer in self._idle.items():
            timer.cancel()
            connection.close()
        self._idle.clear()


class LdapDirectory:
    """One server. Nothing is opened before it is asked."""

    def __init__(self, settings: LdapSettings) -> None:
        """Raises ValueError for settings that can't work."""
        self._settings = settings
        self._filters = {
            text: wire.parse_filter(text, LDAP_PLACEHOLDERS)
            for text in (settings.account_filter, settings.mailbox_filter)
            if text
        }
        try:
            secret = Path(settings.password_file).read_text("utf-8") if settings.password_file else ""
            self._tls = ssl.create_default_context(cafile=settings.ca_file or None)
        except OSError as error:
            raise ValueError(f"ldap: {error.filename or settings.ca_file}: {error.strerror}") from error
        self._secret = secret.rstrip("\r\n")
        self._searching = _Pool(self._open_bound)
        self._checking = _Pool(self._open)

    async def find(
        self, wanted: str, address: str, attributes: Sequence[str], *, most: int
    ) -> list[wire.Entry]:
        """The entries that a filter of the settings finds for an address, not more than `most`. Raises SourceDown."""
        user, at, domain = address.rpartition("@")
        values = {"address": address, "user": user if at else address, "domain": domain if at else ""}
        encoded = self._filters[wanted].encode(values)

        async def search(connection: _Connection) -> list[wire.Entry]:
            found: list[wire.Entry] = []
            request = wire.search_request(
                connection.next(),
                self._settings.base,
                encoded,
                attributes,
                most=most,
                limit_s=max(int(self._settings.limit_s), 1),
            )
            code, text = await connection.ask(request, wire.SEARCH_DONE, found)
            if code and not (code == 4 and found):  # 4: there are more than we want to know of
                raise ValueError(f"the search was refused: {code} {text}")
            return found

        return await self._limited(self._searching.use(search))

    async def verify(self, dn: str, password: str) -> bool:
        """Whether the server lets an entry in with that password. Raises SourceDown."""
        # Either would ask for something else, and be granted (RFC 4513 5.1.1, 5.1.2).
        if not dn or not password:
            return False

        async def bind(connection: _Connection) -> bool:
            code, text = await connection.ask(
                wire.bind_request(connection.next(), dn, password), wire.BIND_DONE
            )
            if code and code not in _REFUSALS:
                raise ValueError(f"the login can't be checked: {code} {text}")
            return not code

        return await self._limited(self._checking.use(bind))

    async def _open(self) -> _Connection:
        return await _Connection.open(self._settings, self._tls)

    async def _open_bound(self) -> _Connection:
        """A connection that may search."""
        connection = await self._open()
        if not self._settings.bind_dn:
            return connection
        try:
            request = wire.bind_request(connection.next(), self._settings.bind_dn, self._secret)
            await connection.must(request, wire.BIND_DONE)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _limited(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._settings.limit_s):
                return await work
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            raise SourceDown(f"ldap: {str(error) or type(error).__name__}") from error

    async def close(self) -> None:
        """Hang up."""
        self._searching.close()
        self._checking.close()
