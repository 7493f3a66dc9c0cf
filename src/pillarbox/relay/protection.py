"""Find out how the hosts of a destination prove who they are: ask DNS for TLSA records, and MTA-STS for a policy.

What follows for a session is decided by `relay.demand`; policies are fetched and kept by `relay.sts`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from pillarbox.mailauth.dane import Finding, find_tlsa
from pillarbox.mailauth.dns import follow
from pillarbox.relay.demand import Demand, StsFinding, by_route, decide, problem_with
from pillarbox.relay.plan import Tls

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup
    from pillarbox.relay.tls_watch import TlsWatch

_NO_DANE = Finding()
_NO_POLICY = StsFinding()


FindPolicy: TypeAlias = Callable[[str], Awaitable[StsFinding]]
"""The MTA-STS policy that holds for a domain now."""


class Protection:
    """Asks what hosts of mail exchangers must prove. Without `lookup` DANE, without `find_policy` MTA-STS is left alone."""

    def __init__(
        self,
        lookup: Lookup | None = None,
        find_policy: FindPolicy | None = None,
        *,
        verify: bool = True,
        watch: TlsWatch | None = None,
    ) -> None:
        """`verify` tells whether certificates are checked where a route requires TLS; `watch` hears what came of it."""
        self._lookup = lookup
        self._find_policy = find_policy
        self.verify = verify
        self.watch = watch

    @property
    def none(self) -> Protection:
        """One that leaves both alone."""
        return Protection(verify=self.verify)

    async def of_domain(self, domain: str, level: Tls, *, secure: bool) -> DomainProtection:
        """What is demanded of all hosts of a domain; `secure` tells whether DNSSEC vouches for their names."""
        usual = by_route(level, verify=self.verify, vouched=secure, domain=domain)
        sts = _NO_POLICY
        if self._find_policy is not None and level not in (Tls.NONE, Tls.DANE):
            sts = await self._find_policy(domain)
        lookup = self._lookup if secure and level is not Tls.NONE else None  # secure MX only (RFC 7672 2.2.1)
        return DomainProtection(level, usual, sts, lookup, self.watch)

    async def of_host(self, host: str, port: int, level: Tls) -> Demand | Reply:
        """What is demanded of a host that a route names."""
        usual = by_route(level, verify=self.verify, vouched=True)
        if level is not Tls.DANE:
            return usual
        return await DomainProtection(level, usual, _NO_POLICY, self._lookup).demand(host, port)


class DomainProtection:
    """What is demanded of the hosts of one domain."""

    def __init__(
        self,
        level: Tls,
        usual: Demand,
        sts: StsFinding,
        lookup: Lookup | None,
        watch: TlsWatch | None = None,
    ) -> None:
        """With `lookup` they are asked about TLSA records, each when it is its turn."""
        self._level = level
        self._watch = watch
        self.usual = usual
        self._sts = sts
        self._lookup = lookup

    async def demand(self, host: str, port: int) -> Demand | Reply:
        """What is demanded of a host, or why it can't be used."""
        dane = _NO_DANE if self._lookup is None else await follow(find_tlsa(host, port), self._lookup)
        demand = decide(host, self._level, self.usual, dane, self._sts)
        if self._watch is not None and (problem := problem_with(host, demand, self.usual, dane, self._sts)):
            self._watch.note_unusable(host, *problem)
        return demand
