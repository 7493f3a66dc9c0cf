"""Ask DNS, with a cache and time limits; equal questions are asked once.

How a question is put to name servers is `net.nameservers`' business. What follows from an answer is the business of who asked: `relay.plan`, the checks of `policy` and `mailauth`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, Literal

from pillarbox.mail.units import Seconds, Settings
from pillarbox.mailauth.dns import Answer, Query

if TYPE_CHECKING:
    from pillarbox.net.nameservers import NameServers

_DNS_PORT = 53
_MAX_REMEMBERED_CHARACTERS = 4096  # of the strings of one answer; a longer one is asked for again each time


class ResolverSettings(Settings, frozen=True):
    """How DNS is asked. Without `nameservers` those of the system are used."""

    nameservers: tuple[str, ...] = ()
    """Name servers as "address", "address:port" or "[address]:port"; none: those of the system. The one that answered last is asked first."""
    dnssec: Literal["loopback", "trusted", "off"] = "loopback"
    """Whose word counts that DNSSEC vouches for an answer (the AD flag), which DANE needs: that of name servers on this
    machine, of all that are asked (only if nobody can touch the way to them), or nobody's."""
    timeout_s: Seconds = Seconds(10)
    """How long one question may take, all tries together."""
    max_ttl_s: Seconds = Seconds(86400)
    """How long an answer is remembered at most."""
    negative_ttl_s: Seconds = Seconds(300)
    """How long "not there" is remembered at most (RFC 2308 5)."""
    failure_ttl_s: Seconds = Seconds(20)
    """How long "no answer" is remembered (RFC 2308 7)."""
    cache_size: int = 20_000
    """Answers remembered."""
    max_questions: int = 200
    """Questions asked at the same time."""


class Resolver:
    """Asks, and remembers the answers for their time to live. Equal questions asked at the same time are asked once."""

    def __init__(self, settings: ResolverSettings | None = None) -> None:
        """Nothing is asked yet. Raises ValueError for a name server that can't be read."""
        self._settings = settings or ResolverSettings()
        self._addresses = [_server(text) for text in self._settings.nameservers]
        self._servers: NameServers | None = None  # until something is asked
        self._cache: OrderedDict[Query, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[Query, asyncio.Task[Answer]] = {}
        self._slots = asyncio.Semaphore(self._settings.max_questions)

    @property
    def first_server(self) -> str:
        """The address of the name server that is asked first; "" for those of the system."""
        return self._addresses[0][0] if self._addresses else ""

    async def mx(self, domain: str) -> Answer:
        """The MX records of a domain, in A-labels, as (preference, host) pairs; a null MX is (0, "")."""
        return await self.lookup(Query(domain, "MX"))

    async def addresses(self, host: str) -> Answer:
        """The IPv6 and IPv4 addresses of a host. If one kind failed and there is none of the other: failed.

        "localhost" is this machine, and no name server is asked (RFC 6761 6.3). Few services listen on ::1, and that it
        is refused there would hide what is said on 127.0.0.1.
        """
        if host.rstrip(".").lower() == "localhost":
            return Answer(("127.0.0.1",))
        six, four = await asyncio.gather(self.lookup(Query(host, "AAAA")), self.lookup(Query(host, "A")))
        records = six.records + four.records
        if records:
            return Answer(records)
        return next((answer for answer in (four, six) if answer.failed), four)

    def recall(self, query: Query) -> Answer | None:
        """The answer to a question if it is remembered: for those who would rather not wait."""
        found = self._cache.get(query) or self._cache.get(_key(query))  # most names come as they are kept
        if found is None or found[0] < monotonic():
            return None
        return found[1]

    async def lookup(self, query: Query) -> Answer:
        """The answer to one question, from memory if it is still good."""
        answer = self.recall(query)
        if answer is not None:
            return answer
        key = _key(query)
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._question(key))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)  # others may wait for the same answer when we no longer do

    async def _question(self, key: Query) -> Answer:
        async with self._slots:
            if self._servers is None:
                self._servers = await asyncio.to_thread(_find, self._settings, self._addresses)
            answer = await self._servers.ask(*key)
        if key.kind in ("TXT", "TLSA") and _size(answer) > _MAX_REMEMBERED_CHARACTERS:
            return answer
        self._cache[key] = (monotonic() + answer.ttl_s, answer)
        self._cache.move_to_end(key)
        while len(self._cache) > self._settings.cache_size:
            self._cache.popitem(last=False)
        return answer


def _key(query: Query) -> Query:
    return Query(query.name.rstrip(".").lower(), query.kind)


def _size(answer: Answer) -> int:
    return sum(len(record if isinstance(record, str) else record[-1]) for record in answer.records)


def _find(settings: ResolverSettings, addresses: list[tuple[str, int]]) -> NameServers:
    """Those who are asked. To import what asks them takes longer than a loop may stand still, or a start may take."""
    from pillarbox.net.nameservers import NameServers  # noqa: PLC0415 - as said

    return NameServers(settings, addresses)


def _server(text: str) -> tuple[str, int]:
    """Read `address`, `address:port` or `[address]:port`. Raises ValueError."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"not a name server: {text}")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        msg = f"not a name server: {text}"
        raise ValueError(msg)
    return str(ipaddress.ip_address(address)), int(port or _DNS_PORT)
