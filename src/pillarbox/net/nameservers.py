"""Put one question to name servers, by dnspython: "not there" is told from "no answer", and from what can't be.

Remembering answers, and asking no more at once than is good, is the business of `net.resolver`.
"""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.nameserver
import dns.rdatatype
import dns.resolver

from pillarbox.mailauth.dns import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillarbox.net.resolver import ResolverSettings

_DNS_PORT = 53
_MAX_RECORDS = 100  # of one answer that are kept


class NameServers:
    """The name servers at these addresses, or those of the system; the one that answered last is asked first."""

    def __init__(self, settings: ResolverSettings, addresses: Sequence[tuple[str, int]]) -> None:
        """Nothing is asked yet; the list of the system's is read from its file."""
        self._settings = settings
        self._servers = _servers(addresses)
        self._dns = _make_resolver(settings, self._servers)

    async def ask(self, name: str, kind: str) -> Answer:
        """The answer to one question; never raises."""
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
        secure = self._is_secure(found)
        if found.rrset is None:
            return Answer(ttl_s=min(settings.negative_ttl_s, _negative_ttl(found)), secure=secure)
        records = tuple(sorted(_READERS[kind](record) for record in found.rrset)[:_MAX_RECORDS])
        ttl_s = min(settings.max_ttl_s, found.rrset.ttl)
        return Answer(records, ttl_s=ttl_s, secure=secure, name=_alias_of(found))

    def _prefer(self, found: dns.resolver.Answer) -> None:
        """Ask the server first that answered: a dead one in front of it would cost every question a wait."""
        who = (found.nameserver, found.port)
        self._servers = sorted(self._servers, key=lambda one: (one.address, one.port) != who)
        self._dns.nameservers = self._servers

    def _is_secure(self, found: dns.resolver.Answer) -> bool:
        """Whether the flag "authentic data" is set and can be believed: nobody may stand between us and who set it."""
        if not found.response.flags & dns.flags.AD:
            return False
        believed = self._settings.dnssec
        return believed == "trusted" or (
            believed == "loopback" and ipaddress.ip_address(found.nameserver or "0.0.0.0").is_loopback
        )


def _alias_of(found: dns.resolver.Answer) -> str:
    """The name at the end of a chain of aliases; "" if there was none."""
    if found.canonical_name == found.qname:
        return ""
    return found.canonical_name.to_text(omit_final_dot=True).lower()


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
    "CNAME": lambda record: record.target.to_text(omit_final_dot=True),
    "TLSA": lambda record: (record.usage, record.selector, record.mtype, record.cert),
    # the strings of one record belong together (RFC 7208 3.3); what is not ASCII stays recognisable as such
    "TXT": lambda record: b"".join(record.strings).decode("utf-8", "replace"),
}


def _servers(addresses: Sequence[tuple[str, int]]) -> list[dns.nameserver.Do53Nameserver]:
    found = list(addresses)
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
