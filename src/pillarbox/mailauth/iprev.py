"""Ask whether the name that DNS gives to an address leads back to it: iprev, as a plan (RFC 8601 3).

What follows from that is the business of `policy.reverse` and `policy.origin`.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mailauth.dns import Query

if TYPE_CHECKING:
    from pillarbox.mailauth.dns import Plan

_MAX_NAMES = 10  # of one address that are looked up


class Verdict(msgspec.Struct, frozen=True):
    """What was found; `name` is one that leads back, else the first."""

    result: str  # pass, fail, temperror, permerror
    address: str
    name: str = ""
    detail: str = ""


def check(address: str) -> Plan[Verdict]:
    """Ask for the names of an address, and whether one of them leads back."""
    asked = _asked(address)
    if asked is None:
        return Verdict("permerror", address, detail="not an address")
    pointer, kind, plain = asked
    names = yield Query(pointer, "PTR")
    if names.failed:
        return Verdict("temperror", address, detail=names.detail or "no answer")
    if not names.records:
        return Verdict("permerror", address, detail="there is none")
    unclear = ""
    for name in names.records[:_MAX_NAMES]:
        back = yield Query(name, kind)
        if plain in back.records or any(_plain(one) == plain for one in back.records):
            return Verdict("pass", address, name)
        unclear = unclear or ((back.detail or "no answer") if back.failed else "")
    first = names.records[0]
    if unclear:
        return Verdict("temperror", address, first, unclear)
    return Verdict("fail", address, first, f"{first} does not lead back to it")


@lru_cache(maxsize=4096)
def _asked(address: str) -> tuple[str, str, str] | None:
    """The name to ask for, the kind of address that it leads to, and the address in its usual form."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.reverse_pointer, "A" if ip.version == 4 else "AAAA", str(ip)


def _plain(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
