"""Judge what the world sees of a mail domain: what a remark is, how remarks are ranked, and where the domain's mail goes.

Who sends for it is judged in `domain_senders`, how its hosts behave in `domain_hosts`; asking DNS and the hosts is the
business of `cli.check`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mailauth.dns import Query
from pillarbox.mailauth.publish import Record, dmarc_record, spf_of_nobody

if TYPE_CHECKING:
    from collections.abc import Generator

    from pillarbox.mailauth.dns import Answer, Plan

MAX_HOSTS = 20  # exchangers that are looked at
_MAX_NAMES = 10  # of one address


class Level(IntEnum):
    """How much a remark matters."""

    OK = 0  # as it should be
    HINT = 1  # could be better
    UNCLEAR = 2  # nobody knows: DNS or a host gave no answer
    WARNING = 3  # mail is believed less, or can be read or forged on the way
    ERROR = 4  # mail is lost or refused


# What is mended first if two remarks matter alike: what keeps mail from coming, then what keeps it from being believed.
TOPICS = ("MX", "host", "SPF", "DKIM", "DMARC", "reverse DNS", "TLS", "DANE", "MTA-STS", "TLS-RPT")


class Remark(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found, and what to do about it."""

    topic: str
    level: Level
    found: str
    advice: str = ""
    record: Record | None = None  # to publish


class Exchanger(msgspec.Struct, frozen=True):
    """One host that takes mail for the domain."""

    name: str
    preference: int
    addresses: tuple[str, ...] = ()
    secure: bool = False  # DNSSEC vouches for its being one
    alias_of: str = ""  # the name that its addresses belong to, if that is another one


class Exchangers(msgspec.Struct, frozen=True):
    """Where a domain's mail goes."""

    hosts: tuple[Exchanger, ...] = ()
    takes_mail: bool = True
    exists: bool = True
    remarks: tuple[Remark, ...] = ()


def ranked(remarks: Iterable[Remark]) -> list[Remark]:
    """What matters most comes first."""
    return sorted(remarks, key=lambda one: (-one.level, TOPICS.index(one.topic)))


def unclear(topic: str, query: str, answer: Answer) -> Remark:
    """DNS did not say."""
    return Remark(
        topic,
        Level.UNCLEAR,
        f"{query}: {answer.detail or 'no answer'}",
        "Mail servers put mail off while DNS does not answer. Try again; if it stays so, look at the domain's name servers.",
    )


def find_exchangers(domain: str, *, private: bool = False) -> Plan[Exchangers]:
    """Find the hosts that take mail for a domain, and what is odd about the way there (RFC 5321 5.1, RFC 7505).

    With `private` addresses of inner networks are as good as others: a name server of such a network was asked.
    """
    answer = yield Query(domain, "MX")
    if answer.failed:
        return Exchangers(remarks=(unclear("MX", f"MX of {domain}", answer),))
    if answer.no_domain:
        gone = Remark(
            "MX", Level.ERROR, f"{domain} does not exist in DNS", "Register it, or mend its delegation."
        )
        return Exchangers(takes_mail=False, exists=False, remarks=(gone,))
    named = list(answer.records)[:MAX_HOSTS]
    null = [host for _, host in named if host in ("", ".")]
    if null:
        return (yield from _null_mx(domain, named))
    remarks = []
    if not named:
        named = [(0, domain)]
        remarks.append(
            Remark(
                "MX",
                Level.HINT,
                f"{domain} has no MX record, so mail goes to its address record",
                "Say where mail goes, or that the domain takes none (MX 0 .).",
                Record(domain, "MX", f"10 {domain}."),
            )
        )
    hosts = []
    for preference, host in named:
        found = yield from _find_host(domain, host, preference, secure=answer.secure, private=private)
        if not isinstance(found, Exchanger):
            remarks.append(found)
            continue
        hosts.append(found)
        if found.alias_of and answer.records:
            remarks.append(_named_by_alias(domain, found))
    if not hosts and not any(one.level is Level.UNCLEAR for one in remarks):
        remarks.append(
            Remark("MX", Level.ERROR, "no host takes mail for the domain", "Mail to it is returned.")
        )
    elif hosts:
        shown = ", ".join(f"{one.preference} {one.name}" for one in hosts)
        remarks.append(Remark("MX", Level.OK, f"mail goes to {shown}"))
    return Exchangers(tuple(hosts), remarks=tuple(remarks))


def _find_host(
    domain: str, host: str, preference: int, *, secure: bool, private: bool
) -> Generator[Query, Answer, Exchanger | Remark]:
    if _ip(host) is not None:
        named = Record(f"mail.{domain}", "AAAA" if ":" in host else "A", host)
        return Remark(
            "MX",
            Level.ERROR,
            f"MX names the address {host}, and must name a host (RFC 5321 5.1)",
            f"No sender finds it. Give the host a name, {named}, and name that.",
            Record(domain, "MX", f"{preference} {named.name}."),
        )
    answers = [(yield Query(host, "AAAA")), (yield Query(host, "A"))]
    addresses = [address for answer in answers for address in answer.records]
    failed = next((answer for answer in answers if answer.failed), None)
    if not addresses and failed is not None:
        return unclear("MX", f"addresses of {host}", failed)
    if not addresses:
        why = "does not exist" if answers[1].no_domain else "has no address"
        return Remark(
            "MX", Level.ERROR, f"MX names {host}, which {why}", f"Give {host} an A record, or take it out."
        )
    inner = [address for address in addresses if not _is_global(address)]
    if len(inner) == len(addresses) and not private:
        return Remark(
            "MX",
            Level.ERROR,
            f"{host} has only addresses that the internet can't reach: {', '.join(inner)}",
            "Publish its public address.",
        )
    return Exchanger(
        host,
        preference,
        tuple(addresses),
        secure=secure and all(one.secure for one in answers),
        alias_of=next((one.name for one in answers if one.records), ""),
    )


def _named_by_alias(domain: str, host: Exchanger) -> Remark:
    return Remark(
        "MX",
        Level.WARNING,
        f"MX names {host.name}, which is only an alias of {host.alias_of}",
        "That is not allowed (RFC 2181 10.3), and some senders deliver nothing. Name the host itself.",
        Record(domain, "MX", f"{host.preference} {host.alias_of}."),
    )


def _null_mx(domain: str, named: list[tuple[int, str]]) -> Plan[Exchangers]:
    if len(named) > 1:
        wrong = Remark(
            "MX",
            Level.ERROR,
            "a null MX stands beside others, which is not allowed (RFC 7505 3)",
            "Keep the null MX alone if the domain takes no mail, else remove it.",
            Record(domain, "MX", "0 ."),
        )
        return Exchangers(takes_mail=False, remarks=(wrong,))
    remarks = [Remark("MX", Level.OK, "the domain takes no mail (null MX)")]
    answer = yield Query(domain, "TXT")
    if not answer.failed and "v=spf1 -all" not in (" ".join(text.lower().split()) for text in answer.records):
        remarks.append(
            Remark(
                "SPF",
                Level.WARNING,
                "a domain that takes no mail should send none, and does not say so",
                "Mail without a way back is refused by many; say that nobody sends.",
                spf_of_nobody(domain),
            )
        )
    answer = yield Query(f"_dmarc.{domain}", "TXT")
    if not answer.failed and not any("p=reject" in text.replace(" ", "") for text in answer.records):
        wanted = dmarc_record(domain, "reject", "")
        remarks.append(
            Remark(
                "DMARC",
                Level.WARNING,
                "forged mail in the name of a domain that sends none is not asked to be refused",
                record=wanted._replace(data="v=DMARC1; p=reject"),
            )
        )
    return Exchangers(takes_mail=False, remarks=tuple(remarks))


def check_reverse(address: str, host: str = "") -> Plan[Remark]:
    """Whether the name of an address leads back to it (RFC 8601 2.7.3); `host` is who has it."""
    ip = ipaddress.ip_address(address)
    who = f"{address} ({host})" if host else address
    names = yield Query(ip.reverse_pointer, "PTR")
    if names.failed:
        return unclear("reverse DNS", f"PTR of {who}", names)
    wanted = Record(ip.reverse_pointer, "PTR", f"{host or 'mail.example.org'}.")
    if not names.records:
        return Remark(
            "reverse DNS",
            Level.WARNING,
            f"{who} has no name",
            "Many servers refuse mail from such an address. Whoever gave you the address publishes the record.",
            wanted,
        )
    for name in names.records[:_MAX_NAMES]:
        back = yield Query(name, "A" if ip.version == 4 else "AAAA")
        if any(_ip(one) == ip for one in back.records):
            return Remark("reverse DNS", Level.OK, f"{who} is called {name}, and that leads back to it")
        if back.failed:
            return unclear("reverse DNS", f"address of {name}", back)
    name = names.records[0]
    return Remark(
        "reverse DNS",
        Level.WARNING,
        f"{who} is called {name}, but {name} does not have that address",
        "Name and address have to lead to each other, or many servers refuse mail from there.",
        Record(name, "A" if ip.version == 4 else "AAAA", address),
    )


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_global(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and ip.is_global
