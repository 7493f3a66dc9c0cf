"""Which hosts in front of this server may speak for its clients, and in which of three ways.

How the PROXY header is read is the business of `net.arrivals`, what XCLIENT and XFORWARD tell that of `smtp.attributes`.
"""

from __future__ import annotations

from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.lists import Networks

_NOTHING: frozenset[str] = frozenset()


class ProxySettings(Settings, frozen=True):
    """Hosts of yours that stand in front of this server and speak for its clients: `[proxy]`."""

    networks: tuple[str, ...] = ()
    """Balancers that begin each connection with a PROXY header, on listeners with `proxy_protocol = true`. Whoever else
    connects there is cut off."""
    header_limit_s: Seconds = Seconds(5)
    """How long the PROXY header may take."""
    xclient_networks: tuple[str, ...] = ()
    """Hosts that may say by XCLIENT that somebody else is the client, or who has logged in."""
    xforward_networks: tuple[str, ...] = ()
    """Hosts that may say by XFORWARD where a message came from; it is kept with the message and decides nothing."""

    @property
    def verbs(self) -> frozenset[str]:
        """The commands that some host may use."""
        told = (("XCLIENT", self.xclient_networks), ("XFORWARD", self.xforward_networks))
        return frozenset(verb for verb, networks in told if networks)


class Proxies:
    """Who may speak for clients."""

    def __init__(self, settings: ProxySettings) -> None:
        """Raises ValueError if a network is not well formed."""
        self.header_limit_s = settings.header_limit_s
        self._balancers = Networks(settings.networks)
        self._xclient = Networks(settings.xclient_networks)
        self._xforward = Networks(settings.xforward_networks)

    def balances(self, address: str) -> bool:
        """Whether a host may begin its connections with a PROXY header."""
        return self._balancers.holds(address)

    def verbs(self, address: str) -> frozenset[str]:
        """The commands that a client may use."""
        found = set()
        if self._xclient.holds(address):
            found.add("XCLIENT")
        if self._xforward.holds(address):
            found.add("XFORWARD")
        return frozenset(found) if found else _NOTHING
