"""Choose who delivers the messages of a route.

How it is done is `relay.transaction`'s business for SMTP and LMTP, and that of the local couriers for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.route import Route, Transport
from pillarbox.relay.destination import Destination
from pillarbox.relay.hosts import Hosts
from pillarbox.relay.transaction import SmtpCourier

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.net.resolver import Resolver
    from pillarbox.queue.attempt import Courier
    from pillarbox.relay.session import SmtpSettings

_BY_NETWORK = frozenset({Transport.MX, Transport.SMTP, Transport.LMTP})


class Couriers:
    """Makes couriers; those that send by network share what they learn about hosts."""

    def __init__(
        self,
        settings: SmtpSettings,
        resolver: Resolver,
        *,
        hostname: str,
        local: Callable[[Route], Courier],
    ) -> None:
        """`local` makes the couriers of all other transports; `hostname` is our name in EHLO."""
        self._settings = settings
        self._resolver = resolver
        self._hostname = hostname
        self._local = local
        self._hosts = Hosts()

    def __call__(self, route: Route) -> Courier:
        """A courier for `route`. Raises ValueError if its target can't be read."""
        if route.transport not in _BY_NETWORK:
            return self._local(route)
        destination = Destination(
            route, settings=self._settings, resolver=self._resolver, hostname=self._hostname
        )
        return SmtpCourier(destination, self._settings, self._hosts)
