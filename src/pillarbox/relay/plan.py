"""Order the hosts to try for a destination, from what DNS said or what the route says (RFC 5321 5, RFC 7505).

Asking DNS is `net.resolver`'s and trying the hosts `relay.transaction`'s business.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Answer

SMTP_PORT = 25
SUBMISSIONS_PORT = 465  # TLS from the first octet (RFC 8314 3.3)
MAX_EXCHANGERS = 10  # of a domain that are looked at: one may publish hundreds
MAX_ADDRESSES = 5  # of one host that are tried


class Tls(StrEnum):
    """How a session with a host is encrypted."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"  # STARTTLS if it works, in clear if not (RFC 7435)
    ENCRYPTED = "encrypted"  # STARTTLS, whatever the certificate
    REQUIRED = "required"  # STARTTLS and a certificate for the host's name
    SECURE = "secure"  # as DANE or MTA-STS demand, or nothing is sent
    DANE = "dane"  # as TLSA records demand, or nothing is sent
    IMPLICIT = "implicit"  # from the first octet, and a certificate for the host's name


class Hop(msgspec.Struct, frozen=True):
    """One address to connect to. `port` 0 means that `address` is the path of a Unix socket."""

    host: str
    address: str
    port: int = SMTP_PORT

    @property
    def name(self) -> str:
        """What reports and logs call it: "mx.example.org[192.0.2.1]", with the port if it is unusual."""
        port = f":{self.port}" if self.port not in (0, SMTP_PORT) else ""
        return (
            f"{self.host}[{self.address}]{port}" if self.host != self.address else f"[{self.address}]{port}"
        )


class FixedHost(msgspec.Struct, frozen=True):
    """A host that a route names, instead of the mail exchangers of a domain."""

    host: str
    port: int
    user: str = ""
    tls: Tls = Tls.OPPORTUNISTIC


def parse_fixed_host(target: str) -> FixedHost:
    """Read the target of an smtp or lmtp route: `//[user@]host[:port][?tls=MODE]`. Raises ValueError.

    Without `tls`, a route with a user requires TLS, and port 465 means implicit TLS.
    """
    parts = urlsplit(f"smtp:{target}")
    if not parts.hostname or parts.path not in ("", "/") or parts.password is not None or parts.fragment:
        msg = f"not a host to send to: {printable(target)}; write //[user@]host[:port][?tls=required]"
        raise ValueError(msg)
    options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    if set(options) - {"tls"}:
        msg = f"unknown option in {printable(target)}; there is only tls"
        raise ValueError(msg)
    user = unquote(parts.username or "")
    port = parts.port or SMTP_PORT
    if "tls" in options:
        tls = _read_tls(options["tls"][-1], target)
        if tls is Tls.SECURE or (tls is Tls.DANE and port == SUBMISSIONS_PORT):
            raise ValueError(f"tls={tls} can't be had of {printable(target)}; write tls=required")
    elif port == SUBMISSIONS_PORT:
        tls = Tls.IMPLICIT
    else:
        tls = Tls.REQUIRED if user else Tls.OPPORTUNISTIC
    return FixedHost(parts.hostname, port, user, tls)


def _read_tls(word: str, target: str) -> Tls:
    """Raises ValueError."""
    try:
        return Tls(word)
    except ValueError:
        known = ", ".join(level for level in Tls if level is not Tls.SECURE)
        raise ValueError(f"no such tls={printable(word)} in {printable(target)}; there are {known}") from None


def parse_unix_socket(target: str) -> Hop | None:
    """The hop of an lmtp route to a Unix socket, `unix:/path`; None if the target is something else."""
    if not target.startswith("unix:/"):
        return None
    path = target.removeprefix("unix:")
    return Hop(path, path, 0)


def literal_address(domain: str) -> str | None:
    """The address in an address literal such as `[192.0.2.1]`; None if `domain` is a name (RFC 5321 4.1.3)."""
    text = domain[1:-1] if domain.startswith("[") and domain.endswith("]") else domain
    try:
        return str(ipaddress.ip_address(text[5:] if text[:5].lower() == "ipv6:" else text))
    except ValueError:
        return None


def exchangers(
    domain: str, answer: Answer, *, names_of_ours: frozenset[str], random: Callable[[], float]
) -> tuple[tuple[str, ...], ...] | Reply:
    """The hosts to try for `domain`, those of equal preference together, or why there are none, from its MX records.

    Hosts of equal preference come in random order (`random` gives numbers to sort by). If this server is among
    them, it and all that are not preferred to it are left out: they would send the mail back (RFC 5321 5.1).
    """
    if answer.no_domain:
        return delivery.NO_DOMAIN.reply(domain=domain)
    if answer.failed:
        return delivery.DNS_FAILED.reply(domain=domain, detail=answer.detail)
    if not answer.records:
        return ((domain,),)  # the implicit MX of RFC 5321 5.1
    records = [(int(preference), host.rstrip(".").lower()) for preference, host in answer.records]
    hosts = [(preference, host) for preference, host in records if host]
    if not hosts:
        return delivery.NULL_MX.reply(domain=domain)
    ours = min((preference for preference, host in hosts if host in names_of_ours), default=None)
    if ours is not None:
        hosts = [(preference, host) for preference, host in hosts if preference < ours]
        if not hosts:
            return delivery.MX_IS_US.reply(domain=domain)
    ordered = sorted((preference, random(), host) for preference, host in dict.fromkeys(hosts))
    equals: dict[int, list[str]] = defaultdict(list)
    for preference, _, host in ordered[:MAX_EXCHANGERS]:
        equals[preference].append(host)
    return tuple(map(tuple, equals.values()))


def order_addresses(
    addresses: Sequence[str], *, families: Sequence[str], random: Callable[[], float]
) -> tuple[str, ...]:
    """The addresses of one host in the order to try them: the families take turns, the first of `families` first.

    Within a family the order is random, so that a host with many addresses shares its load (RFC 5321 5.1).
    """
    lanes = [
        sorted((random(), address) for address in addresses if family_of(address) == name)
        for name in families
    ]
    turns = sorted(
        (turn, place, lane[turn][1]) for place, lane in enumerate(lanes) for turn in range(len(lane))
    )
    return tuple(address for _, _, address in turns[:MAX_ADDRESSES])


def family_of(address: str) -> str:
    """Tell "ipv6" from "ipv4"."""
    return "ipv6" if ":" in address else "ipv4"
