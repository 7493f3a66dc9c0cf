"""Write and read DMARC aggregate reports: XML (RFC 9990), and what older writers make of it (RFC 7489).

Which messages there were, and where reports go, is the business of others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import msgspec

from pillarbox.mailauth.xml_tree import Element, XmlError, children_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pillarbox.mailauth.dmarc import Record

NAMESPACE = "urn:ietf:params:xml:ns:dmarc-2.0"
MAX_ROWS = 20_000  # of a report that is read; the rest only counts
_MAX_VALUES = 100  # signatures and reasons of one row (RFC 9990 3.1.3)
_MAX_TEXT = 300  # characters of one value
_MAX_COUNT = 1 << 40
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_DISPOSITIONS = ("none", "pass", "quarantine", "reject")
_POLICIES = ("none", "quarantine", "reject")


class ReportError(ValueError):
    """What is no report, or none that can be used; the text says where it goes wrong."""


class DkimResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one signature."""

    domain: str
    selector: str
    result: str
    detail: str = ""


class SpfResult(msgspec.Struct, frozen=True, gc=False):
    """What SPF said of the reverse-path, or of EHLO if that was empty."""

    domain: str
    result: str
    detail: str = ""


class DmarcRow(msgspec.Struct, frozen=True, gc=False):
    """One message as reports count it."""

    domain: str  # whose record decided, in A-labels
    record: str  # what it published; "" in reports of others
    source: str  # the client's address
    header_from: str
    disposition: str  # none, pass, quarantine, reject: what was done
    dkim_aligned: bool = False
    spf_aligned: bool = False
    envelope_from: str = ""
    envelope_to: str = ""
    reasons: tuple[tuple[str, str], ...] = ()  # why it was not what the policy wants: type and comment
    dkim: tuple[DkimResult, ...] = ()
    spf: SpfResult | None = None
    method: str = "treewalk"  # or psl: how the record was found

    @property
    def passed(self) -> bool:
        """Whether DMARC passed."""
        return self.dkim_aligned or self.spf_aligned


class Published(msgspec.Struct, frozen=True, gc=False):
    """The policy that a report is about, defaults filled in."""

    domain: str
    policy: str = "none"
    of_subdomains: str = ""
    of_missing: str = ""
    adkim: str = "r"
    aspf: str = "r"
    testing: str = "n"
    failure_options: str = ""  # fo=
    method: str = ""


class AggregateReport(msgspec.Struct, frozen=True, gc=False):
    """One report: who made it, for when, about which policy, and how often each row was seen."""

    organization: str
    email: str
    report_id: str
    begins: int
    ends: int
    policy: Published
    rows: tuple[tuple[DmarcRow, int], ...]
    contact: str = ""
    errors: tuple[str, ...] = ()
    generator: str = ""
    left_out: int = 0  # rows beyond the limit

    @property
    def total(self) -> int:
        """How many messages it tells of."""
        return sum(number for _, number in self.rows)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(number for row, number in self.rows if not row.passed)


def published(domain: str, record: Record, method: str) -> Published:
    """The policy of a record that was found at a domain, as a report tells it."""
    return Published(
        domain,
        record.policy or "none",
        record.of_subdomains,
        record.of_missing,
        "s" if record.strict_dkim else "r",
        "s" if record.strict_spf else "r",
        "y" if record.testing else "n",
        record.failure_options,
        method,
    )


# --- writing ----------------------------------------------------------------------------------------------------------


def format_report(report: AggregateReport) -> bytes:
    """The XML document (RFC 9990 3.1.1, appendix A)."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<feedback xmlns="{NAMESPACE}">',
        " <version>1.0</version>",
        *_section("report_metadata", 1, _metadata(report)),
        *_section("policy_published", 1, _published(report.policy)),
    ]
    for row, number in report.rows:
        lines.append(" <record>")
        lines += _section("row", 2, _row(row, number))
        identifiers = [
            _leaf("header_from", row.header_from),
            _leaf("envelope_from", row.envelope_from),
            _leaf("envelope_to", row.envelope_to) if row.envelope_to else "",
        ]
        lines += _section("identifiers", 2, identifiers)
        lines += _section("auth_results", 2, _auth_results(row))
        lines.append(" </record>")
    lines.append("</feedback>")
    return "".join(f"{line}\n" for line in lines if line).encode()


def _section(name: str, depth: int, inside: Iterable[str]) -> Iterator[str]:
    space = " " * depth
    yield f"{space}<{name}>"
    for line in inside:
        if line:
            yield f"{space} {line}"
    yield f"{space}</{name}>"


def _leaf(name: str, value: object) -> str:
    text = escape(_NOT_XML.sub("?", str(value)[:_MAX_TEXT]))
    return f"<{name}>{text}</{name}>"


def _metadata(report: AggregateReport) -> Iterator[str]:
    yield _leaf("org_name", report.organization)
    yield _leaf("email", report.email)
    if report.contact:
        yield _leaf("extra_contact_info", report.contact)
    yield _leaf("report_id", report.report_id)
    yield f"<date_range>{_leaf('begin', report.begins)}{_leaf('end', report.ends)}</date_range>"
    if report.errors:
        yield _leaf("error", "; ".join(report.errors))  # the schema allows for one
    if report.generator:
        yield _leaf("generator", report.generator)


def _published(policy: Published) -> Iterator[str]:
    yield _leaf("domain", policy.domain)
    if policy.method:
        yield _leaf("discovery_method", policy.method)
    yield _leaf("p", policy.policy)
    yield _leaf("sp", policy.of_subdomains or policy.policy)
    yield _leaf("np", policy.of_missing or policy.of_subdomains or policy.policy)
    if policy.failure_options:
        yield _leaf("fo", policy.failure_options)
    yield _leaf("adkim", policy.adkim)
    yield _leaf("aspf", policy.aspf)
    yield _leaf("testing", policy.testing)


def _row(row: DmarcRow, number: int) -> Iterator[str]:
    yield _leaf("source_ip", row.source)
    yield _leaf("count", number)
    evaluated = [
        _leaf("disposition", row.disposition),
        _leaf("dkim", "pass" if row.dkim_aligned else "fail"),
        _leaf("spf", "pass" if row.spf_aligned else "fail"),
    ]
    for kind, comment in row.reasons:
        said = _leaf("comment", comment) if comment else ""
        evaluated.append(f"<reason>{_leaf('type', kind)}{said}</reason>")
    yield from _section("policy_evaluated", 0, evaluated)


def _auth_results(row: DmarcRow) -> Iterator[str]:
    for one in row.dkim[:_MAX_VALUES]:
        inside = [_leaf("domain", one.domain), _leaf("selector", one.selector), _leaf("result", one.result)]
        yield f"<dkim>{''.join(inside)}{_human(one.detail)}</dkim>"
    if row.spf is not None:
        spf = row.spf
        inside = [_leaf("domain", spf.domain), _leaf("scope", "mfrom"), _leaf("result", spf.result)]
        yield f"<spf>{''.join(inside)}{_human(spf.detail)}</spf>"


def _human(detail: str) -> str:
    return _leaf("human_result", detail) if detail else ""


# --- reading ----------------------------------------------------------------------------------------------------------


def parse_report(pieces: Iterable[bytes]) -> AggregateReport:
    """Read a document that comes in pieces. Raises ReportError, and what `pieces` raises."""
    metadata = published = None
    rows: list[tuple[DmarcRow, int]] = []
    left_out = 0
    try:
        for element in children_of("feedback", pieces):
            if element.name == "report_metadata" and metadata is None:
                metadata = element
            elif element.name == "policy_published" and published is None:
                published = element
            elif element.name == "record":
                if published is None:
                    raise ReportError("record: it stands before policy_published")
                if len(rows) < MAX_ROWS:
                    rows.append(_read_record(element, published.text_of("domain").lower()))
                else:
                    left_out += 1
    except XmlError as error:
        raise ReportError(str(error)) from error
    if metadata is None or published is None:
        raise ReportError(f"{'report_metadata' if metadata is None else 'policy_published'} is missing")
    period = metadata.find("date_range") or metadata
    return AggregateReport(
        metadata.text_of("org_name"),
        metadata.text_of("email"),
        metadata.text_of("report_id"),
        _number(period, "begin"),
        _number(period, "end"),
        _read_policy(published),
        tuple(rows),
        metadata.text_of("extra_contact_info"),
        tuple(one.text for one in metadata.find_all("error")[:_MAX_VALUES]),
        metadata.text_of("generator"),
        left_out,
    )


def _read_policy(found: Element) -> Published:
    if not found.text_of("domain"):
        raise ReportError("policy_published/domain is missing")
    return Published(
        found.text_of("domain").lower(),
        _choice(found, "p", _POLICIES, "none"),
        _choice(found, "sp", _POLICIES, ""),
        _choice(found, "np", _POLICIES, ""),
        _choice(found, "adkim", ("r", "s"), "r"),
        _choice(found, "aspf", ("r", "s"), "r"),
        _choice(found, "testing", ("y", "n"), "n"),
        found.text_of("fo"),
        found.text_of("discovery_method"),
    )


def _read_record(record: Element, domain: str) -> tuple[DmarcRow, int]:
    row, nothing = record.find("row"), Element("")
    if row is None:
        raise ReportError("record/row is missing")
    evaluated = row.find("policy_evaluated") or nothing
    identifiers = record.find("identifiers") or record.find("identities") or nothing
    results = record.find("auth_results") or nothing
    spf = results.find("spf")
    return DmarcRow(
        domain,
        "",
        row.text_of("source_ip"),
        identifiers.text_of("header_from").lower(),
        _choice(evaluated, "disposition", _DISPOSITIONS, "none"),
        evaluated.text_of("dkim").lower() == "pass",
        evaluated.text_of("spf").lower() == "pass",
        identifiers.text_of("envelope_from").lower(),
        identifiers.text_of("envelope_to").lower(),
        tuple(
            (one.text_of("type").lower(), one.text_of("comment"))
            for one in evaluated.find_all("reason")[:_MAX_VALUES]
        ),
        tuple(
            DkimResult(
                one.text_of("domain").lower(),
                one.text_of("selector"),
                one.text_of("result").lower(),
                one.text_of("human_result"),
            )
            for one in results.find_all("dkim")[:_MAX_VALUES]
        ),
        None
        if spf is None
        else SpfResult(
            spf.text_of("domain").lower(), spf.text_of("result").lower(), spf.text_of("human_result")
        ),
        "",
    ), _number(row, "count")


def _choice(parent: Element, name: str, allowed: tuple[str, ...], otherwise: str) -> str:
    value = parent.text_of(name).lower()
    return value if value in allowed else otherwise


def _number(parent: Element, name: str) -> int:
    text = parent.text_of(name).partition(".")[0]  # some write "1.0"
    if not _NUMBER.fullmatch(text) or int(text) > _MAX_COUNT:
        raise ReportError(f"{parent.name}/{name} is no number: {text[:40]!r}")
    return int(text)
