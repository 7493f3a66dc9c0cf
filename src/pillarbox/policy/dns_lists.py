"""Refuse strangers in the greeting whose address is on lists in DNS (RFC 5782), each list with a weight of its own.

A list of good senders has a weight below 0.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from typing import TYPE_CHECKING, Annotated

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import AtLeast, Seconds, Settings
from pillarbox.mailauth.dns import Answer, Query
from pillarbox.policy.evidence import Asking
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import parse_ip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup
    from pillarbox.policy.evidence import Proven
    from pillarbox.policy.hooks import Client

_ANSWERS = ipaddress.ip_network("127.0.0.0/8")  # all else comes from a resolver that lies (RFC 5782 2.1)
_REFUSALS = ipaddress.ip_network(
    "127.255.255.0/24"
)  # "I do not answer you", which says nothing of the client
_ALARM_S = 3600.0


class ZoneSettings(Settings, frozen=True):
    """One list: `[[dns_lists.zone]]`."""

    zone: str
    """The domain of the list, such as "zen.spamhaus.org"."""
    weight: Annotated[float, AtLeast(-math.inf)] = 1.0
    """What a listed address counts; below 0 for a list of good senders."""
    answers: tuple[str, ...] = ()
    """Which answers count: addresses, networks, or ranges such as "127.0.0.4-127.0.0.7"; none: all but refusals."""


class DnsListSettings(Settings, frozen=True):
    """Lists in DNS of strangers' addresses: `[dns_lists]`."""

    action: Action = Action.REJECT
    """What to do with a client whose weights add up to `reject_at` (554 in the greeting)."""
    limit_s: Seconds = Seconds(5)
    """How long the greeting may wait for the lists; one that has not answered by then counts nothing."""
    reject_at: float = 1.0
    """The sum of weights from which a client is refused."""
    zones: tuple[ZoneSettings, ...] = msgspec.field(default=(), name="zone")


class DnsLists:
    """Ask all lists at once, and add up their weights. A list that gives no answer counts nothing."""

    def __init__(self, settings: DnsListSettings, lookup: Lookup, hostname: str) -> None:
        """Ask by `lookup`. Raises ValueError if an answer is not well formed."""
        self.action = settings.action
        self._zones = [(zone.zone, zone.weight, parse_answers(zone.answers)) for zone in settings.zones]
        self._reject_at = settings.reject_at
        self._limit_s = settings.limit_s
        self._lookup = lookup
        self._hostname = hostname
        self._next_alarm: dict[str, float] = {}  # by list

    async def decide_connect(self, client: Client) -> Reply | Proven | None:
        """Refuse a client whose weights add up to too much."""
        ip = parse_ip(client.address)
        if ip is None or not client.stranger:
            return None
        name = ip.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
        asking = Asking(self._lookup)
        queries = [Query(f"{name}.{zone}", "A") for zone, _, _ in self._zones]
        answers = await asyncio.gather(*map(self._ask, queries))
        for query, answer in zip(queries, answers, strict=True):  # in this order, whichever list was faster
            asking.note(query, answer)
        listed = [
            (weight, zone)
            for (zone, weight, wanted), answer in zip(self._zones, answers, strict=True)
            if self._counts(zone, answer, wanted)
        ]
        if sum(weight for weight, _ in listed) < self._reject_at:
            return asking.prove(None)
        zones = " and ".join(zone for weight, zone in listed if weight > 0)
        return asking.prove(
            policy.CLIENT_LISTED.reply(hostname=self._hostname, address=client.address, zones=zones)
        )

    async def _ask(self, query: Query) -> Answer:
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._lookup(query)
        except TimeoutError:
            return Answer(failed=True, detail="no answer in time")

    def _counts(self, zone: str, answer: Answer, wanted: list[_Range]) -> bool:
        found = [ip for ip in map(parse_ip, answer.records) if ip is not None and ip in _ANSWERS]
        if any(ip in _REFUSALS for ip in found):
            self._alarm(zone, found)
            return False
        return any(not wanted or any(first <= int(ip) <= last for first, last in wanted) for ip in found)

    def _alarm(self, zone: str, answer: Iterable[object]) -> None:
        """Tell the operator, once in a while, that a list does not answer this server."""
        now = time.monotonic()
        if now >= self._next_alarm.get(zone, now):
            self._next_alarm[zone] = now + _ALARM_S
            said = ", ".join(map(str, answer))
            observe.ALARM.note(
                cause=policy.CLIENT_LISTED.id,
                problem=f"the list {zone} does not answer this server ({said}); ask it by a resolver of your own",
            )


_Range = tuple[int, int]


def parse_answers(texts: Iterable[str]) -> list[_Range]:
    """Read addresses, networks and ranges of addresses. Raises ValueError."""
    ranges = []
    for text in texts:
        first, dash, last = text.partition("-")
        if dash:
            ranges.append((int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last))))
        else:
            network = ipaddress.IPv4Network(text)
            ranges.append((int(network.network_address), int(network.broadcast_address)))
    return ranges
