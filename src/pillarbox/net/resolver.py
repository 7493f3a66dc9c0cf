"""Ask DNS, with a cache, time limits, and "not there" told from "no answer".

What follows from an answer is the business of who asked: `relay.plan`, the checks of `policy` and `mailauth`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.nameserver
import dns.rdatatype
import dns.resolver

from pillarbox.mail.units import Seconds, Settings
from pillarbox.mailauth.dns import Answer, Query

if TYPE_CHECKING:
    from collections.abc import Callable

    import dns.rdata

_DNS_PORT = 53
_MAX_RECORDS = 100  # of one answer that are kept
_MAX_REMEMBERED_CHARACTERS = 4096  # of the strings of one answer; a longer one is asked for again each time


class ResolverSettings(Settings, frozen=True):
    """How DNS is asked. Without `nameservers` those of the system are used."""

    nameservers: tuple[str, ...] = ()
    """Name servers as "address", "address:port" or "[address]:port"; none: those of the system. The one that answered last is asked first."""
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
        self._servers = _servers(self._settings)
        self._dns = _make_resolver(self._settings, self._servers)
        self._cache: OrderedDict[Query, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[Query, asyncio.Task[Answer]] = {}
        self._slots = asyncio.Semaphore(self._settings.max_questions)

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

    def _remembered(self, key: Query) -> Answer | None:
        found = self._cache.get(key)
        if found is None or found[0] < asyncio.get_running_loop().time():
            return None
        return found[1]

    def recall(self, query: Query) -> Answer | None:
        """The answer to a question if it is remembered: for those who would rather not wait."""
        return self._remembered(Query(query.name.rstrip(".").lower(), query.kind))

    async def lookup(self, query: Query) -> Answer:
        """The answer to one question, from memory if it is still good."""
        key = Query(query.name.rstrip(".").lower(), query.kind)
        answer = self._remembered(key)
        if answer is not None:
            return answer
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._question(key))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)  # others may wait for the same answer when we no longer do

    async def _question(self, key: Query) -> Answer:
        async with self._slots:
            answer = await self._query(*key)
        if key.kind == "TXT" and sum(map(len, answer.records)) > _MAX_REMEMBERED_CHARACTERS:
            return answer
        self._cache[key] = (asyncio.get_running_loop().time() + answer.ttl_s, answer)
        self._cache.move_to_end(key)
        while len(self._cache) > self._settings.cache_size:
            self._cache.popitem(last=False)
        return answer

    async def _query(self, name: str, kind: str) -> Answer:
        """One question to DNS."""
        settings = self._settings
        try:
            found = await self._dns.resolve(
                f"{name}.", kind, search=False, raise_on_no_answer=False, lifetime=settings.timeout_s
            )
        except dns.resolver.NXDOMAIN:
            return Answer(no_domain=True, ttl_s=settings.negative_ttl_s)
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.BadEscape):
            return Answer(no_domain=True, ttl_s=settings.negative_ttl_s)  # a name that can't exist
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            return Answer(failed=True, detail=_failure(error), ttl_s=settings.failure_ttl_s)
        self._prefer(found)
        if found.rrset is None:
            ttl_s = min(settings.negative_ttl_s, _negative_ttl(found))
            return Answer(ttl_s=ttl_s, secure=_is_secure(found))
        records = tuple(sorted(_READERS[kind](record) for record in found.rrset)[:_MAX_RECORDS])
        return Answer(records, ttl_s=min(settings.max_ttl_s, found.rrset.ttl), secure=_is_secure(found))

    def _prefer(self, found: dns.resolver.Answer) -> None:
        """Ask the server first that answered: a dead one in front of it would cost every question a wait."""
        who = (found.nameserver, found.port)
        self._servers = sorted(self._servers, key=lambda one: (one.address, one.port) != who)
        self._dns.nameservers = self._servers


def _is_secure(found: dns.resolver.Answer) -> bool:
    """Whether the flag "authentic data" can be believed: nobody stands between us and the server that set it."""
    return (
        bool(found.response.flags & dns.flags.AD)
        and ipaddress.ip_address(found.nameserver or "0.0.0.0").is_loopback
    )


def _failure(error: Exception) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "no answer in time"
    if isinstance(error, dns.resolver.NoNameservers):
        return "the name servers gave no usable answer"
    return str(error) or type(error).__name__


def _negative_ttl(found: dns.resolver.Answer) -> float:
    """The TTL of "nothing of this kind": the lesser of the SOA's own and its minimum (RFC 2308 5)."""
    for rrset in found.response.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return float(min(rrset.ttl, rrset[0].minimum))
    return 60.0


_READERS: dict[str, Callable[[Any], Any]] = {
    "MX": lambda record: (record.preference, record.exchange.to_text(omit_final_dot=True).rstrip(".")),
    "A": lambda record: record.address,
    "AAAA": lambda record: record.address,
    "PTR": lambda record: record.target.to_text(omit_final_dot=True),
    # the strings of one record belong together (RFC 7208 3.3); what is not ASCII stays recognisable as such
    "TXT": lambda record: b"".join(record.strings).decode("utf-8", "replace"),
}


def _servers(settings: ResolverSettings) -> list[dns.nameserver.Do53Nameserver]:
    found = [_server(text) for text in settings.nameservers]
    if not found:
        with contextlib.suppress(dns.resolver.NoResolverConfiguration):
            found = [(str(address), _DNS_PORT) for address in dns.resolver.Resolver().nameservers]
    return [dns.nameserver.Do53Nameserver(*server) for server in found or [("127.0.0.1", _DNS_PORT)]]


def _make_resolver(
    settings: ResolverSettings, servers: list[dns.nameserver.Do53Nameserver]
) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = servers
    resolver.timeout = min(max(1.0, settings.timeout_s / 4), settings.timeout_s / 2)  # for one try
    resolver.use_edns(0, 0, 1232)
    resolver.set_flags(dns.flags.RD | dns.flags.AD)  # tell whether it was checked (RFC 6840 5.7)
    return resolver


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
