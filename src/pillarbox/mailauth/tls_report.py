"""Write and read reports about sessions with TLS, and those that should have had it: TLS-RPT (RFC 8460), JSON.

Which sessions there were, and where reports go, is the business of others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from pillarbox.mailauth.aggregate import ReportError

MAX_POLICIES = 1000  # of a report that is read
MAX_FAILURES = 10_000
_MAX_TEXT = 300
_MAX_COUNT = 1 << 40
_NOT_JSON = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


class TlsFailure(msgspec.Struct, frozen=True, gc=False):
    """Why a session did not have the TLS that a policy wants (RFC 8460 4.4)."""

    result: str  # of RFC 8460 4.3, such as "starttls-not-supported" or "certificate-expired"
    sending_ip: str = ""  # the address of who sent
    mx: str = ""  # the host's name in its MX record
    mx_helo: str = ""  # how it named itself
    receiving_ip: str = ""
    details: str = ""  # for people
    code: str = ""  # an error of the TLS software


class TlsRow(msgspec.Struct, frozen=True, gc=False):
    """One session with a host of a domain, as reports count it: by the policy that was applied, and how it went."""

    domain: str  # the policy domain: that of the recipients, in A-labels
    policy: str  # "sts", "tlsa" or "no-policy-found"
    text: tuple[str, ...] = ()  # lines of the MTA-STS policy, or TLSA records
    mx_hosts: tuple[str, ...] = ()  # the patterns of an MTA-STS policy
    failure: TlsFailure | None = None  # None if all was as it should be


class PolicyResult(msgspec.Struct, frozen=True, gc=False):
    """How sessions went to which one policy applied."""

    domain: str
    policy: str
    text: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()
    successful: int = 0
    failed: int = 0
    failures: tuple[tuple[TlsFailure, int], ...] = ()


class TlsReport(msgspec.Struct, frozen=True, gc=False):
    """One report: who made it, for when, and what became of the sessions."""

    organization: str
    contact: str
    report_id: str
    begins: int
    ends: int
    policies: tuple[PolicyResult, ...]

    @property
    def domain(self) -> str:
        """Whom it is about."""
        return self.policies[0].domain if self.policies else ""

    @property
    def failed(self) -> int:
        """How many sessions failed."""
        return sum(one.failed for one in self.policies)

    @property
    def total(self) -> int:
        """How many sessions it tells of."""
        return sum(one.successful + one.failed for one in self.policies)


def gather(counts: Iterable[tuple[TlsRow, int]]) -> tuple[PolicyResult, ...]:
    """The rows of one day and domain, by policy."""
    found: dict[tuple[object, ...], list[tuple[TlsRow, int]]] = {}
    for row, number in counts:
        found.setdefault((row.domain, row.policy, row.text, row.mx_hosts), []).append((row, number))
    return tuple(
        PolicyResult(
            rows[0][0].domain,
            rows[0][0].policy,
            rows[0][0].text,
            rows[0][0].mx_hosts,
            sum(number for row, number in rows if row.failure is None),
            sum(number for row, number in rows if row.failure is not None),
            tuple((row.failure, number) for row, number in rows if row.failure is not None),
        )
        for rows in found.values()
    )


# --- writing ----------------------------------------------------------------------------------------------------------


def format_report(report: TlsReport) -> bytes:
    """The JSON document (RFC 8460 4.4)."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "organization-name": _clean(report.organization),
                "date-range": {
                    "start-datetime": _stamp(report.begins),
                    "end-datetime": _stamp(report.ends),
                },
                "contact-info": _clean(report.contact),
                "report-id": _clean(report.report_id),
                "policies": [_policy(one) for one in report.policies],
            }
        ),
        indent=1,
    )


def _stamp(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(_STAMP)


def _clean(text: str) -> str:
    return _NOT_JSON.sub("?", text[:_MAX_TEXT])


def _policy(one: PolicyResult) -> dict[str, object]:
    policy: dict[str, object] = {"policy-type": one.policy}
    if one.text:
        policy["policy-string"] = [_clean(line) for line in one.text]
    policy["policy-domain"] = one.domain
    if one.mx_hosts:
        policy["mx-host"] = [_clean(host) for host in one.mx_hosts]
    said: dict[str, object] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": one.successful,
            "total-failure-session-count": one.failed,
        },
    }
    if one.failures:
        said["failure-details"] = [_failure(failure, number) for failure, number in one.failures]
    return said


def _failure(failure: TlsFailure, number: int) -> dict[str, object]:
    pairs = {
        "result-type": failure.result,
        "sending-mta-ip": failure.sending_ip,
        "receiving-mx-hostname": failure.mx,
        "receiving-mx-helo": failure.mx_helo,
        "receiving-ip": failure.receiving_ip,
        "additional-information": failure.details,
        "failure-reason-code": failure.code,
    }
    return {**{key: _clean(text) for key, text in pairs.items() if text}, "failed-session-count": number}


# --- reading ----------------------------------------------------------------------------------------------------------


class _Read(msgspec.Struct, rename="kebab"):
    """What a document has, as its writers spell it; unknown members are left out."""


class _Range(_Read):
    start_datetime: datetime
    end_datetime: datetime


class _Policy(_Read):
    policy_type: str = "no-policy-found"
    policy_domain: str = ""
    policy_string: str | list[str] | None = None
    mx_host: str | list[str] | None = None


class _Summary(_Read):
    total_successful_session_count: int = 0
    total_failure_session_count: int = 0


class _Failure(_Read):
    result_type: str = ""
    sending_mta_ip: str | None = None
    receiving_mx_hostname: str | None = None
    receiving_mx_helo: str | None = None
    receiving_ip: str | None = None
    additional_information: str | None = None
    failure_reason_code: str | None = None
    failed_session_count: int = 0


class _Result(_Read):
    policy: _Policy
    summary: _Summary = msgspec.field(default_factory=_Summary)
    failure_details: list[_Failure] | None = None


class _Document(_Read):
    date_range: _Range
    policies: list[_Result]
    organization_name: str = ""
    contact_info: str | None = None
    report_id: str = ""


_DECODER = msgspec.json.Decoder(_Document, strict=False)


def parse_report(octets: bytes) -> TlsReport:
    """Read a document. Raises ReportError with the place."""
    try:
        found = _DECODER.decode(octets.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(str(error)) from error
    if len(found.policies) > MAX_POLICIES:
        raise ReportError(f"$.policies: more than {MAX_POLICIES}")
    return TlsReport(
        _text(found.organization_name),
        _text(found.contact_info),
        _text(found.report_id),
        _seconds(found.date_range.start_datetime),
        _seconds(found.date_range.end_datetime),
        tuple(_read_result(one) for one in found.policies),
    )


def _text(value: str | None) -> str:
    return (value or "")[:_MAX_TEXT]


def _count(value: int) -> int:
    return min(max(value, 0), _MAX_COUNT)


def _seconds(at: datetime) -> int:
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())


def _lines(value: str | Sequence[str] | None) -> tuple[str, ...]:
    lines = [value] if isinstance(value, str) else value or ()
    return tuple(_text(line) for line in lines[:100])


def _read_result(one: _Result) -> PolicyResult:
    failures = [
        TlsFailure(
            _text(failure.result_type),
            _text(failure.sending_mta_ip),
            _text(failure.receiving_mx_hostname),
            _text(failure.receiving_mx_helo),
            _text(failure.receiving_ip),
            _text(failure.additional_information),
            _text(failure.failure_reason_code),
        )
        for failure in (one.failure_details or ())[:MAX_FAILURES]
    ]
    numbers = [_count(failure.failed_session_count) for failure in one.failure_details or ()]
    return PolicyResult(
        _text(one.policy.policy_domain).lower(),
        _text(one.policy.policy_type),
        _lines(one.policy.policy_string),
        _lines(one.policy.mx_host),
        _count(one.summary.total_successful_session_count),
        _count(one.summary.total_failure_session_count),
        tuple(zip(failures, numbers[:MAX_FAILURES], strict=True)),
    )
