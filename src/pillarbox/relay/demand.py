"""Decide what TLS a session with a host must have, from the route, DANE and MTA-STS.

What DNS and policies say is found by `relay.protection`; whether a host meets the demand by `relay.handshake`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from pillarbox.mail.catalogue import transport
from pillarbox.mail.reply import Reply, Result
from pillarbox.mailauth.dane import Finding, Tlsa
from pillarbox.mailauth.mta_sts import Mode, StsPolicy
from pillarbox.relay.plan import Hop, Tls

_TLS_ALWAYS = (Tls.ENCRYPTED, Tls.REQUIRED, Tls.SECURE, Tls.DANE)


class Source(StrEnum):
    """By whose word TLS is demanded, as `pillarbox trace` and reports call it."""

    ROUTE = "route"
    DANE = "dane"
    STS = "mta-sts"


class StsFinding(msgspec.Struct, frozen=True):
    """The MTA-STS policy that holds for a domain, if any; `failed` says why a newer one could not be had.

    `kind` is what RFC 8460 4.3 calls that failure.
    """

    policy: StsPolicy | None = None
    id: str = ""
    failed: str = ""
    kind: str = ""


class Demand(msgspec.Struct, frozen=True):
    """What a session with one host must be like."""

    tls: Tls  # NONE, OPPORTUNISTIC, REQUIRED or IMPLICIT
    source: Source = Source.ROUTE
    checked: bool = False  # an authority that is trusted has to vouch for the host's name
    tlsa: tuple[Tlsa, ...] = ()  # one of which has to fit instead
    base: str = ""  # the name that the records belong to
    names: tuple[str, ...] = ()  # what a host may be called whose authority is in them
    vouched: bool = False  # nobody can have made up that this host takes the domain's mail (RFC 8689 4.2.1)
    domain: str = ""  # whose mail it is
    sts: StsFinding = msgspec.field(default=StsFinding())
    testing: bool = False  # what the policy demands is tried first, and only told if it fails (RFC 8461 5)
    strict: bool = False  # it is for a message that must not travel without TLS
    min_version: str = "1.2"  # of TLS
    ca_file: str = ""  # whose certificates may vouch for it, if not those that are usual

    @property
    def required(self) -> bool:
        """Whether nothing may be sent in clear."""
        return self.tls in (Tls.REQUIRED, Tls.IMPLICIT)

    @property
    def counts(self) -> bool:
        """Whether a session with such a demand tells something about the domain's hosts."""
        return bool(self.domain) and not self.strict and self.tls is not Tls.NONE

    @property
    def proves(self) -> bool:
        """Whether a host that meets it is the one that it should be."""
        return self.checked or bool(self.tlsa)

    def on_trial(self) -> Demand:
        """What a policy in testing would demand if it were enforced."""
        return replace(self, tls=Tls.REQUIRED, source=Source.STS, checked=True, testing=False)

    def without_trial(self) -> Demand:
        """What holds when the trial has failed."""
        return replace(self, testing=False)

    @property
    def evidence(self) -> str:
        """By whose word it is demanded, and on what grounds, for people."""
        if self.source is Source.DANE:
            return (
                f"DANE: {len(self.tlsa)} TLSA of {self.base}"
                if self.tlsa
                else f"DANE: no usable TLSA of {self.base}"
            )
        if self.sts.policy is not None:
            return f"MTA-STS {self.sts.policy.mode.value}, id {self.sts.id}"
        return ""


class Target(NamedTuple):
    """An address to connect to, and what to demand there."""

    hop: Hop
    demand: Demand


def by_route(tls: Tls, *, verify: bool, vouched: bool = False, domain: str = "") -> Demand:
    """What the operator demands of a route; `verify` tells whether certificates are checked where TLS is required."""
    return Demand(
        Tls.REQUIRED if tls in _TLS_ALWAYS else tls,
        checked=verify and tls in (Tls.REQUIRED, Tls.IMPLICIT),
        vouched=vouched,
        domain=domain,
    )


def decide(host: str, level: Tls, usual: Demand, dane: Finding, sts: StsFinding) -> Demand | Reply:
    """What to demand of a host, or why it can't be used; `usual` is what the route demands, at `level`, of any.

    DANE comes first: what it forbids no policy allows (RFC 8461 2).
    """
    if dane.failed:
        return transport.DANE_UNKNOWN.reply(host=host, detail=dane.failed)
    if dane.usable:
        names = tuple(dict.fromkeys((dane.base, host, usual.domain)))
        return replace(
            usual,
            tls=Tls.REQUIRED,
            source=Source.DANE,
            checked=False,
            tlsa=dane.usable,
            base=dane.base,
            names=tuple(filter(None, names)),
        )
    proven = None if level is Tls.DANE else _by_policy(host, usual, sts)
    if proven is not None:
        return proven
    if level in (Tls.SECURE, Tls.DANE):
        return transport.NO_PROOF.reply(host=host, domain=usual.domain or host)
    if dane.records:  # none of which can be checked: encrypted, but nobody proves anything (RFC 7672 2.2)
        return replace(usual, tls=Tls.REQUIRED, source=Source.DANE, base=dane.base)
    policy = sts.policy
    if policy is None:
        return replace(usual, sts=sts) if sts.kind else usual
    named = policy.names(host)
    return replace(usual, sts=sts, testing=named, vouched=usual.vouched or named)


def _by_policy(host: str, usual: Demand, sts: StsFinding) -> Demand | Reply | None:
    """What an enforced policy demands; None if there is none."""
    policy = sts.policy
    if policy is None or policy.mode is not Mode.ENFORCE:
        return None
    if not policy.names(host):
        return transport.STS_NOT_NAMED.reply(host=host, domain=usual.domain)
    return replace(usual, tls=Tls.REQUIRED, source=Source.STS, checked=True, vouched=True, sts=sts)


def problem_with(
    host: str, demand: Demand | Reply, usual: Demand, dane: Finding, sts: StsFinding
) -> tuple[Demand, str, str] | None:
    """What reports should tell of a host before anybody connects to it: the demand that it fails, how, and in what words.

    The kinds of failures are those of RFC 8460 4.3.
    """
    by_dane = replace(usual, source=Source.DANE, base=dane.base)
    if dane.failed:
        return by_dane, "dnssec-invalid", dane.failed
    if dane.records and not dane.usable:
        return by_dane, "tlsa-invalid", f"no usable TLSA of {dane.base}"
    by_policy = isinstance(demand, Reply) or demand.source is Source.ROUTE
    if sts.policy is not None and by_policy and not sts.policy.names(host):
        return (
            replace(usual, source=Source.STS, sts=sts),
            "validation-failure",
            f"the policy does not name {host}",
        )
    return None


def is_about_proof(result: Result) -> bool:
    """Whether a host could not be used because of DANE or MTA-STS alone."""
    return result.reply.cause in (transport.DANE_UNKNOWN, transport.STS_NOT_NAMED)


def under_tls(demand: Demand) -> Demand:
    """What to demand for a message that must not travel without TLS (RFC 8689 4.2.1)."""
    tls = Tls.IMPLICIT if demand.tls is Tls.IMPLICIT else Tls.REQUIRED
    return replace(demand, tls=tls, checked=not demand.tlsa, testing=False, strict=True)
