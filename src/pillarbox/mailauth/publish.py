"""Write the DNS records with which a domain says where its mail goes, who sends for it, and how that is proved.

What the domain's server and keys are comes in as facts; whether the world sees these records is told by `diagnose.domain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

TTL_S = 3600
_STRING = 255  # octets of one string of a TXT record (RFC 1035 3.3.14)
_LINE = 80  # strings are cut shorter, so that a line can be read


class Record(NamedTuple):
    """One record to publish; `data` is as in a zone, or the text of a TXT record. `about` says what it is for."""

    name: str  # without final dot
    kind: str
    data: str
    about: str = ""

    @property
    def shown(self) -> str:
        """The data as a zone file has them."""
        return zone_strings(self.data) if self.kind == "TXT" else self.data

    def __str__(self) -> str:
        """The record as one line of a zone file (RFC 1035 5.1)."""
        return f"{self.name}. {TTL_S} IN {self.kind} {self.shown}"


class Hint(NamedTuple):
    """Something to do that is no record of this domain; `topic` is where it belongs."""

    topic: str
    text: str


class Key(msgspec.Struct, frozen=True):
    """A DKIM key: where its record belongs, what that says, and whether it signs, waits or is retired."""

    name: str
    record: str
    state: str = "signs"


class Pin(msgspec.Struct, frozen=True):
    """The data of a TLSA record, and whose key it names."""

    data: str
    about: str


class Facts(msgspec.Struct, frozen=True):
    """What is known of a domain and of the server that takes its mail."""

    domain: str  # A-labels
    hostname: str  # of the server, A-labels
    takes_mail: bool = True
    keys: tuple[Key, ...] = ()
    reports_to: str = ""  # a mail address; "" for postmaster of the domain
    dmarc_policy: str = "none"
    sts_policy: str = ""  # the text of the MTA-STS policy that is served; "" for none
    sts_certificate: bool = True  # there is a certificate for the host that serves it
    tlsa: tuple[Pin, ...] = ()  # for the keys that the server's TLS shows, and is going to show
    senders: tuple[str, ...] = ()  # further terms of SPF, such as "include:spf.example.net"


def txt_strings(text: str, most: int = _STRING) -> list[str]:
    """A text cut into the strings of one TXT record."""
    return [text[at : at + most] for at in range(0, len(text), most)] or [""]


def zone_strings(text: str) -> str:
    """The strings of a TXT record as a zone file has them, in quotes."""
    cut = txt_strings(text) if len(text) <= _STRING else txt_strings(text, _LINE)
    escaped = ('"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"' for one in cut)
    return " ".join(escaped) if len(cut) == 1 else "( " + " ".join(escaped) + " )"


def records(facts: Facts) -> Iterator[Record | Hint]:
    """Everything to publish for a domain, in the order in which it is best done."""
    if not facts.takes_mail:
        yield from _no_mail(facts)
        return
    yield Record(facts.domain, "MX", f"10 {facts.hostname}.", "where mail for the domain goes")
    yield Hint(
        "MX",
        f"{facts.hostname} needs an A record, and an AAAA record if it has IPv6; and each address a PTR record that names "
        f"{facts.hostname} (ask whoever gave you the address)",
    )
    yield from _spf(facts)
    yield from _dkim(facts)
    yield from _dmarc(facts)
    yield from _transport(facts)


def _no_mail(facts: Facts) -> Iterator[Record | Hint]:
    """A domain that neither takes nor sends mail says so (RFC 7505, RFC 7208 10.1.2)."""
    yield Record(facts.domain, "MX", "0 .", "the domain takes no mail")
    yield spf_of_nobody(facts.domain)
    yield Record(f"_dmarc.{facts.domain}", "TXT", "v=DMARC1; p=reject", "mail in its name is forged")


def spf_of_nobody(domain: str) -> Record:
    """The record of a domain that sends no mail."""
    return Record(domain, "TXT", "v=spf1 -all", "nobody sends for the domain")


def spf_record(domain: str, senders: Sequence[str] = ()) -> Record:
    """The record of a domain whose exchangers send its mail, and who else does.

    What is not listed fails softly: DMARC decides about it, and mail that somebody forwards is not lost at once.
    """
    return Record(domain, "TXT", " ".join(("v=spf1", "mx", *senders, "~all")), "who sends for the domain")


def _spf(facts: Facts) -> Iterator[Record | Hint]:
    yield spf_record(facts.domain, facts.senders)
    if facts.hostname != facts.domain:
        yield Record(
            facts.hostname, "TXT", "v=spf1 a -all", "for bounces, whose sender is the server's own name"
        )
    yield Hint(
        "SPF", "add whoever else sends in the domain's name, such as a newsletter service (include:...)"
    )


def _dkim(facts: Facts) -> Iterator[Record | Hint]:
    about = {
        "signs": "a key that signs",
        "waits": "a key that will sign after `pillarbox dkim rotate --activate`",
        "retired": "a key that signs no more; remove it a week after its last signature",
    }
    for key in facts.keys:
        yield Record(key.name, "TXT", key.record, about[key.state])
    if not facts.keys:
        yield Hint("DKIM", f"there is no key yet: `pillarbox dkim new {facts.domain}` makes one")


def dmarc_record(domain: str, policy: str, reports_to: str) -> Record:
    """What receivers are to do with mail that does not prove to come from the domain."""
    return Record(
        f"_dmarc.{domain}",
        "TXT",
        f"v=DMARC1; p={policy}; rua=mailto:{reports_to}",
        "what to do with forgeries",
    )


def report_consent(domain: str, reports_to: str) -> Record | None:
    """What the domain that reports go to has to publish, if it is another one (RFC 9990 4)."""
    other = reports_to.rpartition("@")[2].lower()
    if other == domain or other.endswith(f".{domain}") or domain.endswith(f".{other}"):
        return None
    return Record(f"{domain}._report._dmarc.{other}", "TXT", "v=DMARC1", "it agrees to get the reports")


def tls_report_record(domain: str, reports_to: str) -> Record:
    """Where others tell how encryption to the domain went (RFC 8460 3)."""
    return Record(
        f"_smtp._tls.{domain}", "TXT", f"v=TLSRPTv1; rua=mailto:{reports_to}", "how encryption went"
    )


def sts_record(domain: str, policy: str) -> Record:
    """That there is an MTA-STS policy (RFC 8461 3.1); its id changes with the text, and only with it."""
    number = sha256(policy.encode()).hexdigest()[:20]
    return Record(f"_mta-sts.{domain}", "TXT", f"v=STSv1; id={number}", "mail comes here only encrypted")


def _dmarc(facts: Facts) -> Iterator[Record | Hint]:
    reports_to = facts.reports_to or f"postmaster@{facts.domain}"
    yield dmarc_record(facts.domain, facts.dmarc_policy, reports_to)
    consent = report_consent(facts.domain, reports_to)
    if consent is not None:
        yield consent
    if facts.dmarc_policy == "none":
        yield Hint(
            "DMARC",
            "read the reports for some weeks; once all your mail passes, write p=quarantine, then p=reject",
        )


def _transport(facts: Facts) -> Iterator[Record | Hint]:
    reports_to = facts.reports_to or f"postmaster@{facts.domain}"
    if facts.sts_policy:
        yield sts_record(facts.domain, facts.sts_policy)
        if not facts.sts_certificate:
            yield Hint(
                "MTA-STS",
                f"no certificate of the server is for mta-sts.{facts.domain}, so nobody can read the policy: add the name to "
                "acme.names, or name a certificate",
            )
        if facts.hostname != f"mta-sts.{facts.domain}":
            yield Record(f"mta-sts.{facts.domain}", "CNAME", f"{facts.hostname}.", "who serves the policy")
    yield tls_report_record(facts.domain, reports_to)
    for one in facts.tlsa:
        yield Record(f"_25._tcp.{facts.hostname}", "TLSA", one.data, one.about)
    if facts.tlsa:
        yield Hint(
            "TLSA",
            f"it counts only if DNSSEC signs the zone of {facts.hostname}, and that of {facts.domain}. A key may change only "
            f"when its record has stood beside the old one for {2 * TTL_S // 3600} hours (--next prints it), and the old one is "
            "removed after that",
        )
    else:
        yield Hint("TLSA", "the configuration names no certificate, so there is no TLSA record to publish")
