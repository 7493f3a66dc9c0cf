"""A list of networks that knows which addresses lie in it.

What that means for a client is the business of those who ask.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Networks:
    """A list of networks, with a memory for the addresses that were asked about; small, cleared when full."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError if one is not well formed."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known: dict[str, bool] = {}

    def holds(self, address: str) -> bool:
        """Whether an address lies in one of them."""
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) > 10_000:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(ip, "ipv4_mapped", None)  # ::ffff:127.0.0.1 is 127.0.0.1
        return any((mapped or ip) in network for network in self._networks)
