"""Find the hosts of a route, one after the other, asking DNS only as far as it is needed.

The order is `relay.plan`'s, trying the hosts `relay.transaction`'s business.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.mail.route import Route, Transport
from pillarbox.mailauth.dns import Answer
from pillarbox.relay.demand import Demand, Target
from pillarbox.relay.plan import (
    SMTP_PORT,
    FixedHost,
    Hop,
    Tls,
    exchangers,
    literal_address,
    order_addresses,
    parse_fixed_host,
    parse_unix_socket,
)
from pillarbox.relay.protection import Protection
from pillarbox.relay.session import Manner, SmtpSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pillarbox.net.resolver import Resolver

_random = random.SystemRandom().random


class Destination:
    """Where a route leads, and how one talks there."""

    def __init__(  # noqa: PLR0913 - one argument for each part that it works with
        self,
        route: Route,
        *,
        settings: SmtpSettings,
        resolver: Resolver,
        hostname: str,
        is_us: Callable[[str, int], bool] = lambda _address, _port: False,
        protection: Protection | None = None,
        level: Tls | None = None,
    ) -> None:
        """Read the route. `is_us` tells whether an address and port are this server's.

        `protection` finds out how hosts prove who they are; without one only the route counts. `level` is what the
        operator demands of mail exchangers, if not what the settings say. Raises ValueError if the target can't be read.
        """
        self._route = route
        self._resolver = resolver
        self._settings = settings
        self._is_us = is_us
        self._names_of_ours = frozenset({hostname.lower()})
        self._protection = protection or Protection(verify=settings.verify_certificates)
        self._level = level or settings.tls
        self.watch = self._protection.watch
        self._fixed: FixedHost | None = None
        self._socket: Hop | None = None
        if route.transport is Transport.MX:
            self.manner = Manner(hostname, exchanger=True)
            return
        lmtp = route.transport is Transport.LMTP
        self._socket = parse_unix_socket(route.target) if lmtp else None
        if self._socket is not None:
            self.manner = Manner(hostname, lmtp=True)
            return
        fixed = self._fixed = parse_fixed_host(route.target)
        account = f"{fixed.user}@{fixed.host}"
        self.manner = Manner(
            hostname,
            lmtp=lmtp,
            user=fixed.user,
            secret=settings.passwords.get(account, ""),
            token_file=settings.token_files.get(account, ""),
        )

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._route.target

    async def targets(self, *, lax: bool = False) -> AsyncIterator[Target | Result]:
        """Each address to try in order, and what to demand there; for a host or domain that has none, the result that says so.

        With `lax` neither DANE nor MTA-STS is heeded.
        """
        if self._socket is not None:
            yield Target(self._socket, Demand(Tls.NONE, vouched=True))
        elif self._fixed is not None:
            fixed = self._fixed
            demand = await self._protection.of_host(fixed.host, fixed.port, fixed.tls)
            for found in self._targets_of(fixed.host, fixed.port, await self._addresses(fixed.host), demand):
                yield found
        else:
            async for found in self._exchangers(lax=lax):
                yield found

    async def _exchangers(self, *, lax: bool) -> AsyncIterator[Target | Result]:
        """The addresses of a domain's mail exchangers, as far as they are preferred to this server.

        Its name need not show that an exchanger is this server, so their addresses are looked at too. The hosts of one
        preference are looked up together: if one of them is this server, none of them may be tried (RFC 5321 5.1).
        """
        domain = self._route.target
        if literal_address(domain) is not None:
            groups: tuple[tuple[str, ...], ...] | Reply = ((domain,),)
            answer = Answer()
        else:
            answer = await self._resolver.mx(domain)
            groups = exchangers(domain, answer, names_of_ours=self._names_of_ours, random=_random)
        if isinstance(groups, Reply):
            yield _result(groups, answer.ttl_s)
            return
        protection = (
            self._protection if not lax and literal_address(domain) is None else self._protection.none
        )
        demanded = await protection.of_domain(domain, self._level, secure=answer.secure)
        for hosts in groups:
            found = await asyncio.gather(*map(self._addresses, hosts))
            if any(self._is_us(address, SMTP_PORT) for answer in found for address in answer.records):
                if hosts is groups[0]:
                    yield _result(delivery.MX_IS_US.reply(domain=domain))
                return
            for host, answer in zip(hosts, found, strict=True):
                demand = await demanded.demand(host, SMTP_PORT) if answer.records else demanded.usual
                for one in self._targets_of(host, SMTP_PORT, answer, demand):
                    yield one

    async def _addresses(self, host: str) -> Answer:
        literal = literal_address(host)
        return Answer((literal,)) if literal is not None else await self._resolver.addresses(host)

    def _targets_of(
        self, host: str, port: int, answer: Answer, demand: Demand | Reply
    ) -> Iterator[Target | Result]:
        if isinstance(demand, Reply):
            yield _result(demand, host=host)
            return
        literal = literal_address(host)
        if literal is not None:
            yield Target(Hop(literal, literal, port), demand)
            return
        addresses = order_addresses(answer.records, families=self._settings.families, random=_random)
        for address in addresses:
            yield Target(Hop(host, address, port), demand)
        if answer.failed:
            yield _result(delivery.DNS_FAILED.reply(domain=host, detail=answer.detail))
        elif not addresses:
            yield _result(delivery.NO_ROUTE.reply(domain=host))


def _result(reply: Reply, holds_s: float = 0.0, host: str = "") -> Result:
    return Result(reply, Stage.DNS, Origin.LOCAL, host, wait_s=holds_s)
