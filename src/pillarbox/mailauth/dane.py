"""Find the TLSA records that say how a mail host proves who it is (RFC 7672, RFC 7671).

Which certificates they fit is told by `mailauth.certificates`; whose word it is that DNSSEC vouches for an answer is the
business of `net.nameservers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pillarbox.mailauth.dns import Query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.mailauth.dns import Answer, Plan

TRUST_ANCHOR, END_ENTITY = 2, 3  # usages that mail knows (RFC 7672 3.1)
WHOLE, PUBLIC_KEY = 0, 1  # selectors
EXACT, SHA_256, SHA_512 = 0, 1, 2  # matching types
_DIGEST_OCTETS = {SHA_256: 32, SHA_512: 64}


class Tlsa(NamedTuple):
    """One TLSA record."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        """As it stands in a zone; long data are cut."""
        shown = self.data[:64].hex()
        more = "..." if len(self.data) > 64 else ""
        return f"{self.usage} {self.selector} {self.matching} {shown}{more}"


class Finding(msgspec.Struct, frozen=True):
    """What DNS says of a host.

    Without `records` and `failed` the host has nothing to do with DANE. With `failed` nobody knows, and the host must not
    be used: that is what an attack would look like (RFC 7672 2.1.1).
    """

    base: str = ""  # the name that the records belong to: it is asked for in the handshake
    records: tuple[Tlsa, ...] = ()
    failed: str = ""

    @property
    def usable(self) -> tuple[Tlsa, ...]:
        """The records that can be checked."""
        return usable(self.records)


def find_tlsa(host: str, port: int) -> Plan[Finding]:
    """Ask for the records of a host that has addresses (RFC 7672 2.2.2).

    A host whose addresses DNSSEC does not vouch for is not asked about, unless it is a secure alias: the name servers of
    many a zone that is not signed do not know the question.
    """
    host = host.rstrip(".").lower()
    answers = [(yield Query(host, "A")), (yield Query(host, "AAAA"))]
    answered = [answer for answer in answers if answer.records]
    if not answered:
        return Finding()
    expanded = answered[0].name or host
    bases = [host]
    if all(answer.secure for answer in answered):
        bases = list(dict.fromkeys([expanded, host]))
    elif expanded == host or not (yield from _is_secure_alias(host)):
        return Finding()
    for base in bases:
        found: Answer = yield Query(f"_{port}._tcp.{base}", "TLSA")
        if found.failed:
            return Finding(base, failed=f"TLSA of {base}: {found.detail or 'no answer'}")
        if found.records and found.secure:
            return Finding(base, tuple(Tlsa(*record) for record in found.records))
    return Finding()


def _is_secure_alias(host: str) -> Plan[bool]:
    answer = yield Query(host, "CNAME")
    return answer.secure and bool(answer.records)


def usable(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """Those that mail can check, and of digests of one kind the strongest alone (RFC 7672 3.1, RFC 7671 9)."""
    good = [
        record
        for record in dict.fromkeys(records)
        if record.usage in (TRUST_ANCHOR, END_ENTITY)
        and record.selector in (WHOLE, PUBLIC_KEY)
        and (
            bool(record.data)
            if record.matching == EXACT
            else _DIGEST_OCTETS.get(record.matching) == len(record.data)
        )
    ]
    strong = {record[:2] for record in good if record.matching == SHA_512}
    return tuple(record for record in good if record.matching != SHA_256 or record[:2] not in strong)
