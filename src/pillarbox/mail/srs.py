"""Name ourselves as the sender of forwarded mail, and find the real sender in such an address again: SRS.

The address carries a day and a keyed hash, so nobody can make one up, and it ends: bounces reach the sender for some weeks,
and no stranger is served as an open relay. There is no RFC; the form is that of the Sender Rewriting Scheme which other
servers write (SRS0 for the first host that forwards, SRS1 for those behind it). Which mail is forwarded, where the keys
lie, and who sent a message that an address names, is `policy.forwarding`'s business.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Sequence
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as keyed
from typing import NamedTuple

from pillarbox.mail.address import MAX_LOCAL_OCTETS, Address

VALID_DAYS = 21  # a message may wait for days, here and at each host behind us, before it comes back
_HASH_LETTERS = 6  # 30 bits: letters in which case means nothing, for some hosts change it
_DAY_S = 86_400
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL
_FIRST = re.compile(r"srs0[=+-]([a-z2-7]{6})=([a-z2-7]{2})=([^=@]+)=(.+)", _FLAGS)
_LATER = re.compile(r"srs1[=+-]([a-z2-7]{6})=([^=@]+)=([=+-].+)", _FLAGS)
_FOREIGN_FIRST = re.compile(r"srs0([=+-].+)", _FLAGS)
_FOREIGN_LATER = re.compile(r"srs1[=+-][^=]+=([^=@]+)=([=+-].+)", _FLAGS)
_OF_MESSAGE = "_sent"  # stands for a domain, and can't be one
_ROUTING = frozenset(
    "%!@"
)  # a local part with one of these is not taken at RCPT, so a bounce could not come back


class Kept(NamedTuple):
    """A sender that the address has no room for: it is that of this message."""

    queue_id: str


class Flaw(Enum):
    """Why an address is none of ours."""

    FORGED = "forged"
    EXPIRED = "expired"


def looks_rewritten(local: str) -> bool:
    """Whether a local part claims to be one of these."""
    return local[:4].lower() in ("srs0", "srs1") and local[4:5] in ("=", "+", "-")


class Rewriter:
    """Writes and reads with one set of keys: the first one signs, and all of them are believed."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """At least one key."""
        self._keys = tuple(keys)

    def rewrite(self, sender: Address, domain: str, *, now: float, queue_id: str = "") -> Address | None:
        """The sender as an address of `domain`.

        What there is no room for in a local part (RFC 5321 4.5.3.1.1) is not written there: the address names the message
        instead that came from the sender. Without `queue_id` there is no address then.
        """
        local, host = sender.local, sender.dns_domain
        first, later = _FOREIGN_FIRST.fullmatch(local), _FOREIGN_LATER.fullmatch(local)
        if first is not None:
            hashed = f"{host}={first[1]}"
            made = f"SRS1={self._hash(self._keys[0], hashed)}={hashed}"
        elif later is not None:
            hashed = f"{later[1]}={later[2]}"
            made = f"SRS1={self._hash(self._keys[0], hashed)}={hashed}"
        else:
            made = self._first(now, host, local)
        fits = len(made.encode("utf-8", "surrogateescape")) <= MAX_LOCAL_OCTETS
        if fits and _ROUTING.isdisjoint(made):
            return Address(made, domain)
        return Address(self._first(now, _OF_MESSAGE, queue_id), domain) if queue_id else None

    def _first(self, now: float, host: str, local: str) -> str:
        hashed = f"{_format_day(now)}={host}={local}"
        return f"SRS0={self._hash(self._keys[0], hashed)}={hashed}"

    def read(self, local: str, *, now: float) -> Address | Kept | Flaw:
        """Whom a bounce to such a local part is for."""
        first, later = _FIRST.fullmatch(local), _LATER.fullmatch(local)
        if first is not None:
            if not self._made(first[1], f"{first[2]}={first[3]}={first[4]}"):
                return Flaw.FORGED
            if not _is_fresh(first[2], now):
                return Flaw.EXPIRED
            host = first[3].lower()
            return Kept(first[4].upper()) if host == _OF_MESSAGE else Address(first[4], host)
        if later is not None and self._made(later[1], f"{later[2]}={later[3]}"):
            return Address(f"SRS0{later[3]}", later[2].lower())  # that host knows the day
        return Flaw.FORGED

    def _made(self, said: str, hashed: str) -> bool:
        """Whether one of our keys made a hash."""
        mine = [compare_digest(self._hash(key, hashed), said.lower()) for key in self._keys]
        return any(mine)

    @staticmethod
    def _hash(key: bytes, text: str) -> str:
        octets = keyed(key, text.lower().encode("utf-8", "surrogateescape"), sha256)
        return b32encode(octets)[:_HASH_LETTERS].decode().lower()


def _format_day(now: float) -> str:
    day = int(now) // _DAY_S
    return _LETTERS[day >> 5 & 31] + _LETTERS[day & 31]


def _is_fresh(day: str, now: float) -> bool:
    """Whether a day of these 1,024 was not too long ago; a clock may run a day ahead of another."""
    said = _LETTERS.index(day[0].lower()) << 5 | _LETTERS.index(day[1].lower())
    age = (int(now) // _DAY_S - said) % 1024
    return age <= VALID_DAYS or age == 1023
