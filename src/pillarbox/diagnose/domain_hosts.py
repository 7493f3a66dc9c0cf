"""Judge how the hosts of a domain behave to a stranger, and what DNS promises about their encryption.

A visit is made by `cli.visit`; what TLSA records and MTA-STS policies mean is told by `mailauth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from pillarbox.diagnose.domain import Exchanger, Level, Remark, unclear
from pillarbox.mailauth import certificates, dane, mta_sts
from pillarbox.mailauth.dns import Query
from pillarbox.mailauth.publish import Pin, Record, sts_record, tls_report_record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from pillarbox.mailauth.dns import Plan

_PORT = 25
_DAY_S = 86_400
_STS_AGE_S = 30 * _DAY_S
_SOON_DAYS = 14  # a certificate that ends so soon is not being renewed


class Visit(msgspec.Struct, frozen=True):
    """What one address of an exchanger said to a stranger."""

    host: str
    address: str
    problem: str = ""  # why there was no conversation
    refused: str = ""  # the reply that ended it
    encrypts: bool = False  # it offers STARTTLS, and the handshake worked
    handshake: str = ""  # why it did not work
    version: str = ""  # of TLS
    untrusted: str = ""  # what is wrong with the certificate
    ends_at: float = 0.0  # the last moment of the certificate
    chain: tuple[bytes, ...] = ()  # certificates in DER, the host's own first
    extensions: frozenset[str] = frozenset()

    @property
    def who(self) -> str:
        """The host and its address."""
        return f"{self.host} [{self.address}]"


def judge_visits(visits: Sequence[Visit], *, now: float) -> list[Remark]:
    """What is wrong with the hosts."""
    remarks: list[Remark] = []
    working = [one for one in visits if not one.problem and not one.refused]
    for one in visits:
        if one.problem:
            remarks.append(_unreachable(one, anybody=bool(working)))
        elif one.refused:
            level = Level.WARNING if working else Level.ERROR
            remarks.append(Remark("host", level, f"{one.who} takes no mail from here: {one.refused}"))
        else:
            remarks += _judge_tls(one, now)
    if working:
        remarks.append(Remark("host", Level.OK, f"{', '.join(one.who for one in working)} takes mail"))
    return remarks


def _unreachable(one: Visit, *, anybody: bool) -> Remark:
    if anybody:
        advice = "Senders try the others, but each first try waits. Mend the host, or take it out of the MX records."
        return Remark("host", Level.WARNING, f"{one.who} can't be reached: {one.problem}", advice)
    advice = (
        "No mail comes in. If the host works, look at its firewall; and many networks let nobody out to port 25, so try "
        "this from a server elsewhere."
    )
    return Remark("host", Level.ERROR, f"{one.who} can't be reached: {one.problem}", advice)


def _judge_tls(one: Visit, now: float) -> list[Remark]:
    if one.handshake:
        advice = "Most senders fall back to no encryption at all, careful ones give the mail back."
        return [Remark("TLS", Level.WARNING, f"{one.who}: the handshake fails: {one.handshake}", advice)]
    if not one.encrypts:
        advice = "Anybody on the way can read the mail. Get a certificate and offer STARTTLS."
        return [Remark("TLS", Level.WARNING, f"{one.who} offers no encryption", advice)]
    remarks = []
    if one.version < "TLSv1.2":
        found = f"{one.who} speaks no newer encryption than {one.version}"
        remarks.append(Remark("TLS", Level.WARNING, found, "Allow TLS 1.2 and 1.3."))
    if one.untrusted:
        advice = "Get one from an authority that everybody trusts; or publish TLSA records, if DNSSEC signs your zone."
        remarks.append(
            Remark(
                "TLS", Level.WARNING, f"{one.who}: its certificate proves nothing: {one.untrusted}", advice
            )
        )
    elif 0 < one.ends_at < now + _SOON_DAYS * _DAY_S:
        days = int((one.ends_at - now) // _DAY_S)
        found = f"{one.who}: its certificate ends in {days} days"
        remarks.append(Remark("TLS", Level.WARNING, found, "See why it is not renewed."))
    return remarks or [
        Remark("TLS", Level.OK, f"{one.who} encrypts with {one.version} and a good certificate")
    ]


def check_tls_reports(domain: str) -> Plan[list[Remark]]:
    """Whether others know where to tell how encryption went (RFC 8460 3)."""
    name = f"_smtp._tls.{domain}"
    answer = yield Query(name, "TXT")
    if answer.failed:
        return [unclear("TLS-RPT", f"TXT of {name}", answer)]
    wanted = tls_report_record(domain, f"postmaster@{domain}")
    found = [text for text in answer.records if text.replace(" ", "").startswith("v=TLSRPTv1;")]
    if len(found) > 1:
        advice = "With more than one there is none (RFC 8460 3)."
        return [Remark("TLS-RPT", Level.WARNING, f"{name} has {len(found)} records", advice, wanted)]
    if not found:
        advice = "Reports tell when others can't send here encrypted, which you would not notice."
        return [Remark("TLS-RPT", Level.HINT, "nobody gets reports about encryption", advice, wanted)]
    if "rua=" not in found[0]:
        return [Remark("TLS-RPT", Level.WARNING, f"{name} names nobody who gets reports", record=wanted)]
    return [Remark("TLS-RPT", Level.OK, found[0])]


def check_dane(
    domain: str, host: Exchanger, visits: Sequence[Visit], *, now: float, pins: Sequence[Pin] = ()
) -> Plan[list[Remark]]:
    """Whether the TLSA records of a host, if it has any, fit what it shows (RFC 7672).

    `pins` are the records that it should have, if it is a host of ours.
    """
    found = yield from dane.find_tlsa(host.name, _PORT)
    if found.failed:
        advice = "Senders that use DANE do not deliver. Often the name servers choke on the question, or a signature is wrong."
        return [Remark("DANE", Level.ERROR, found.failed, advice)]
    met = [one for one in visits if one.host == host.name and not one.problem and not one.refused]
    if not found.records:
        return (yield from _without_records(host, met))
    shown = "; ".join(map(str, found.records[:4]))
    if not found.usable:
        advice = "Mail knows usages 2 and 3 alone (RFC 7672 3.1); so hosts must encrypt, but nothing proves who they are."
        return [Remark("DANE", Level.WARNING, f"no TLSA record of {host.name} can be used: {shown}", advice)]
    remarks = [_judge_match(domain, found, one, now) for one in met]
    known = {*map(str, found.records), *(tlsa_of(one.chain[0]) for one in met if one.chain)}
    remarks += [_not_published(found.base, pin) for pin in pins if pin.data not in known]
    if not host.secure:
        unsigned = (
            f"TLSA records of {host.name} do not count for {domain}: DNSSEC does not vouch for its MX record"
        )
        remarks.append(Remark("DANE", Level.HINT, unsigned, "Sign that zone, too."))
    return remarks or [Remark("DANE", Level.OK, f"{host.name} has TLSA records: {shown}")]


def _without_records(host: Exchanger, met: Sequence[Visit]) -> Plan[list[Remark]]:
    name = f"_{_PORT}._tcp.{host.name}"
    answer = yield Query(name, "TLSA")
    if answer.records and not answer.secure:
        advice = "Sign the zone; or ask by a name server that checks signatures, if it is signed."
        return [
            Remark("DANE", Level.HINT, f"{name} has TLSA records for which DNSSEC does not vouch", advice)
        ]
    chain = next((one.chain for one in met if one.chain), ())
    if not host.secure or not chain:
        return []
    advice = "The zone is signed, so the record would let senders be sure whom they talk to. Keep the key when you renew."
    wanted = Record(name, "TLSA", tlsa_of(chain[0]))
    return [Remark("DANE", Level.HINT, f"{host.name} has no TLSA record", advice, wanted)]


def _not_published(base: str, pin: Pin) -> Remark:
    found = f"{base} has no TLSA record for {pin.about}"
    advice = (
        "Senders that use DANE do not deliver to a host that shows it. Publish the record beside the others."
    )
    return Remark("DANE", Level.WARNING, found, advice, Record(f"_{_PORT}._tcp.{base}", "TLSA", pin.data))


def _judge_match(domain: str, found: dane.Finding, one: Visit, now: float) -> Remark:
    wanted = Record(f"_{_PORT}._tcp.{found.base}", "TLSA", tlsa_of(one.chain[0])) if one.chain else None
    if not one.encrypts:
        advice = "Senders that use DANE do not deliver. Offer STARTTLS, or remove the records."
        return Remark("DANE", Level.ERROR, f"{one.who} has TLSA records and does not encrypt", advice)
    try:
        fits = certificates.verify(found.usable, one.chain, (found.base, one.host, domain), now=now)
    except certificates.MismatchError as error:
        advice = "Senders that use DANE do not deliver. Publish the record of the certificate that the host shows now."
        return Remark("DANE", Level.ERROR, f"{one.who}: {error}", advice, wanted)
    return Remark("DANE", Level.OK, f"{one.who} shows what its TLSA record says: {fits}")


def tlsa_of(certificate: bytes) -> str:
    """The data of the TLSA record for a certificate in DER: DANE-EE, its public key, by SHA-256 (RFC 7672 3.1.1)."""
    return tlsa_of_key(x509.load_der_x509_certificate(certificate).public_key())


def tlsa_of_key(key: PublicKeyTypes) -> str:
    """The data of the TLSA record for a public key."""
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {sha256(octets).hexdigest()}"


def without_sts(domain: str, hosts: Sequence[Exchanger]) -> Remark:
    """What to do where no policy is announced."""
    text = str(mta_sts.StsPolicy(mta_sts.Mode.TESTING, _STS_AGE_S, tuple(one.name for one in hosts)))
    lines = ", ".join(f'"{line}"' for line in text.splitlines())
    advice = (
        "An attacker on the way can switch encryption off unnoticed. Serve the lines "
        f"{lines} as https://mta-sts.{domain}/.well-known/mta-sts.txt, and publish the record."
    )
    return Remark(
        "MTA-STS", Level.HINT, "the domain does not demand encryption", advice, sts_record(domain, text)
    )


def judge_sts(
    domain: str, policy: mta_sts.StsPolicy, hosts: Sequence[Exchanger], visits: Sequence[Visit]
) -> list[Remark]:
    """Whether the hosts keep what the domain's policy promises."""
    strict = policy.mode is mta_sts.Mode.ENFORCE
    level = Level.ERROR if strict else Level.WARNING
    harm = (
        "Senders that heed the policy do not deliver there."
        if strict
        else "In mode enforce, mail would not arrive."
    )
    remarks = []
    if policy.mode is not mta_sts.Mode.NONE:
        unnamed = [host.name for host in hosts if not policy.names(host.name)]
        wanted = replace(policy, mx=(*policy.mx, *unnamed))
        for name in unnamed:
            found = f"the policy does not name {name}, which takes mail"
            advice = f"{harm} Add the line mx: {name}, and change the id of the record."
            remarks.append(Remark("MTA-STS", level, found, advice, sts_record(domain, str(wanted))))
        for one in visits:
            if (
                policy.names(one.host)
                and not one.problem
                and not one.refused
                and (one.untrusted or not one.encrypts)
            ):
                why = one.untrusted or one.handshake or "it offers no encryption"
                remarks.append(Remark("MTA-STS", level, f"{one.who} breaks the policy: {why}", harm))
    if not strict and not remarks:
        advice = "If the reports show no failures, write mode: enforce, and change the id of the record."
        announced = sts_record(domain, str(replace(policy, mode=mta_sts.Mode.ENFORCE)))
        remarks.append(Remark("MTA-STS", Level.HINT, f"the policy has mode {policy.mode}", advice, announced))
    if policy.max_age_s < _DAY_S:
        found = f"the policy is forgotten after {policy.max_age_s} seconds"
        remarks.append(Remark("MTA-STS", Level.HINT, found, f"Some weeks are right: max_age: {_STS_AGE_S}"))
    return remarks or [
        Remark("MTA-STS", Level.OK, f"{domain} demands encryption from senders (mode enforce)")
    ]


def unusable_sts(domain: str, problem: str) -> Remark:
    """A policy is announced, and nobody can read it."""
    advice = f"Senders ignore it. It has to be served as https://mta-sts.{domain}/.well-known/mta-sts.txt"
    return Remark("MTA-STS", Level.WARNING, f"the policy can't be had: {problem}", advice)
