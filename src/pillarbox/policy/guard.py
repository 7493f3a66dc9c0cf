"""Slow down those who guess passwords: each failed login makes the next of that network or account wait longer.

An account that logged in from a network before is not held up there by the failures of others. Each worker counts
for itself; checking the password is the business of `policy.accounts`.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from typing import NamedTuple

_MAX_KEPT = 50_000
_FORGIVE_S = 60.0  # after so long without a failure one is forgotten
_FREE_OF_NETWORK = 20  # failures without consequences: others share the network
_FREE_OF_ACCOUNT = 5
_MAX_DOUBLINGS = 20


class _Failures(NamedTuple):
    number: float
    at: float

    def left(self, now: float) -> float:
        return max(self.number - max(now - self.at, 0.0) / _FORGIVE_S, 0.0)


class Guard:
    """What is known of failed logins. The least recently used is forgotten when there is too much of it."""

    def __init__(self) -> None:
        """Begin without suspicion."""
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()  # who logged in from where

    def delay_s(self, address: str, name: str, now: float) -> float:
        """How long a login has to wait before it is looked at."""
        network = block(address)
        if (network, name) in self._known:
            return 0.0
        return max(
            self._delay_s(network, _FREE_OF_NETWORK, now), self._delay_s(_of(name), _FREE_OF_ACCOUNT, now)
        )

    def _delay_s(self, key: str, free: int, now: float) -> float:
        found = self._failures.get(key)
        failures = 0 if found is None else math.ceil(found.left(now))
        return 0.0 if failures < free else 2.0 ** min(failures - free, _MAX_DOUBLINGS)

    def failed(self, address: str, name: str, now: float) -> None:
        """A login failed."""
        network = block(address)
        self._known.pop((network, name), None)
        for key in network, _of(name):
            found = self._failures.pop(key, _Failures(0.0, now))
            self._failures[key] = _Failures(found.left(now) + 1, now)
        while len(self._failures) > _MAX_KEPT:
            self._failures.popitem(last=False)

    def succeeded(self, address: str, name: str) -> None:
        """A login was right: its account is no stranger in that network."""
        self._known[block(address), name] = None
        self._known.move_to_end((block(address), name))
        if len(self._known) > _MAX_KEPT:
            self._known.popitem(last=False)


def _of(name: str) -> str:
    return f"account {name}"


def block(address: str) -> str:
    """The network that a client address counts for: a /24 of IPv4, a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return str(ipaddress.ip_network(f"{mapped}/{24 if mapped.version == 4 else 64}", strict=False))
