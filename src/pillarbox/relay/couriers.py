"""Choose who delivers the messages of a route.

How it is done is `relay.transaction`'s business for SMTP and LMTP, and that of the local couriers for the rest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.route import Route, Transport
from pillarbox.relay.destination import Destination
from pillarbox.relay.hosts import Hosts
from pillarbox.relay.probe import probe
from pillarbox.relay.transaction import SmtpCourier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillarbox.mail.reply import Result
    from pillarbox.net.resolver import Resolver
    from pillarbox.policy.forwarding import SenderFor
    from pillarbox.queue.attempt import Courier
    from pillarbox.queue.spool import Queued
    from pillarbox.relay.plan import Tls
    from pillarbox.relay.protection import Protection
    from pillarbox.relay.session import SmtpSettings

_BY_NETWORK = frozenset({Transport.MX, Transport.SMTP, Transport.LMTP})


class Couriers:
    """Makes couriers; those that send by network share what they learn about hosts."""

    def __init__(  # noqa: PLR0913 - one argument for each part that it works with
        self,
        settings: SmtpSettings,
        resolver: Resolver,
        *,
        hostname: str,
        local: Callable[[Route], Courier],
        hosts: Hosts | None = None,
        is_us: Callable[[str, int], bool] = lambda _address, _port: False,
        sender_for: SenderFor | None = None,
        protection: Protection | None = None,
        level_of: Callable[[str], Tls | None] = lambda _domain: None,
    ) -> None:
        """`local` makes the couriers of all other transports; `hostname` is our name in EHLO.

        `hosts` is what is known about hosts, if somebody knows anything already; `is_us` tells whether an address and
        port are this server's. `sender_for` gives the reverse-path of a recipient's copy where senders are rewritten.
        `protection` finds out how hosts prove who they are, `level_of` tells what a route demands of a domain's exchangers.
        """
        self._settings = settings
        self._resolver = resolver
        self._hostname = hostname
        self._local = local
        self._hosts = hosts or Hosts()
        self._is_us = is_us
        self._sender_for = sender_for
        self._protection = protection
        self._level_of = level_of

    def __call__(self, route: Route) -> Courier:
        """A courier for `route`. Raises ValueError if its target can't be read."""
        if route.transport not in _BY_NETWORK:
            return self._local(route)
        return SmtpCourier(self._destination(route), self._settings, self._hosts, self._sender_for)

    async def probe(self, route: Route, address: str) -> Result:
        """What the hosts of a route, which goes by network, say about an address. Raises ValueError as above."""
        return await probe(self._destination(route), self._settings, self._hosts, address)

    def _destination(self, route: Route) -> Destination:
        return Destination(
            route,
            settings=self._settings,
            resolver=self._resolver,
            hostname=self._hostname,
            is_us=self._is_us,
            protection=self._protection,
            level=self._level_of(route.target) if route.transport is Transport.MX else None,
        )


class _Makers(msgspec.Struct, eq=False):
    """Those who make couriers by the settings of a time; `close` gives back what the couriers share."""

    make: Callable[[Route], Courier]
    close: Callable[[], Awaitable[None]]
    couriers: int = 0  # in use


class PresentCouriers:
    """Makes couriers that follow the settings: one made by older settings is replaced before its next message."""

    def __init__(self, make: Callable[[Route], Courier], close: Callable[[], Awaitable[None]]) -> None:
        """Begin with couriers that `make` makes; `close` gives back what they share."""
        self.present = _Makers(make, close)
        self._closing: set[asyncio.Future[None]] = set()

    def __call__(self, route: Route) -> Courier:
        """A courier for `route`; a route that can't be read shows when there is a message for it."""
        return _Follower(self, route)

    def renew(self, make: Callable[[Route], Courier], close: Callable[[], Awaitable[None]]) -> None:
        """The settings have changed. What the old couriers share is given back when none of them is used any more."""
        old, self.present = self.present, _Makers(make, close)
        self.let_go(old)

    def let_go(self, makers: _Makers) -> None:
        """Close these makers if nobody needs them any more."""
        if makers is not self.present and not makers.couriers:
            task = asyncio.ensure_future(makers.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the present makers; their couriers are closed."""
        await self.present.close()
        await asyncio.gather(*self._closing)


class _Follower:
    """The courier of one lane."""

    def __init__(self, couriers: PresentCouriers, route: Route) -> None:
        self._couriers = couriers
        self._route = route
        self._makers: _Makers | None = None
        self._courier: Courier

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        if self._makers is not self._couriers.present:
            await self.close()
            makers = self._couriers.present
            self._courier = makers.make(self._route)
            self._makers = makers
            makers.couriers += 1
        return await self._courier.deliver(queued)

    async def close(self) -> None:
        makers, self._makers = self._makers, None
        if makers is not None:
            try:
                await self._courier.close()
            finally:
                makers.couriers -= 1
                self._couriers.let_go(makers)
