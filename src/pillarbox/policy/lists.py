"""Look things up in the lists that operators write: client addresses in networks, names and mail addresses in lists.

What follows from that is the business of `policy.rules` and the checks.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_KNOWN = 10_000


class Networks:
    """A list of networks, with a memory for the addresses that were asked about; small, cleared when full."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError if a network is not well formed."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known: dict[str, bool] = {}

    def holds(self, address: str) -> bool:
        """Whether the address lies in one of them."""
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: str) -> bool:
        ip = parse_ip(address)
        return ip is not None and any(ip in network for network in self._networks)


class Names:
    """A list of mail addresses, domains ("example.org" or "@example.org") and all below a domain ("*.example.org")."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Compare without regard to case, and not by a final dot."""
        self._entries = frozenset(entry.lower().removeprefix("@").rstrip(".") for entry in entries)
        self._below = any(entry.startswith("*.") for entry in self._entries)

    def __bool__(self) -> bool:
        """Whether anything is listed."""
        return bool(self._entries)

    def holds(self, name: str) -> bool:
        """Whether a mail address, or its domain, or a host name is on the list."""
        name = name.lower().rstrip(".")
        domain = name.rpartition("@")[2]
        if name in self._entries or domain in self._entries:
            return True
        if not self._below:
            return False
        labels = domain.split(".")
        return any(f"*.{'.'.join(labels[at:])}" in self._entries for at in range(1, len(labels)))


def parse_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address; ::ffff:127.0.0.1 is 127.0.0.1. None for "local" and whatever else is no address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def neighbourhood(address: str, v4_bits: int = 24, v6_bits: int = 64) -> str:
    """The network that a client is counted by: hosts of one sender often have neighbouring addresses."""
    ip = parse_ip(address)
    if ip is None:
        return address
    bits = v4_bits if ip.version == 4 else v6_bits
    return str(ipaddress.ip_network((ip, bits), strict=False))
