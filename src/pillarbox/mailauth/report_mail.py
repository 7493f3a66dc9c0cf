"""Put a report into a mail as the standards want it (RFC 9990 3.5, RFC 8460 5.3), and find those in a mail or a file.

What a report says is read and written by `aggregate`, `tls_report` and `failure_report`.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pillarbox.mail import mime
from pillarbox.mail.message import format_date
from pillarbox.mailauth import aggregate, failure_report, tls_report
from pillarbox.mailauth.aggregate import AggregateReport, ReportError
from pillarbox.mailauth.failure_report import FEEDBACK, FailureReport
from pillarbox.mailauth.packed import PackError, unpack
from pillarbox.mailauth.tls_report import TlsReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Report: TypeAlias = AggregateReport | TlsReport | FailureReport

MAX_UNPACKED = 64 << 20  # octets of all reports of one mail or file
_MAX_JSON = 16 << 20
_MAX_REPORTS = 20  # of one mail
_LINE = 57  # octets that make a line of 76 in base64
_TYPES = {"dmarc": "application/gzip", "tls": "application/tlsrpt+gzip"}
_KINDS = frozenset(
    {
        "application/gzip",
        "application/x-gzip",
        "application/zip",
        "application/x-zip",
        "application/x-zip-compressed",
        "application/octet-stream",
        "application/xml",
        "text/xml",
        "application/json",
        "application/tlsrpt+gzip",
        "application/tlsrpt+json",
    }
)
_XML = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe<", b"\xfe\xff")
_PACKED = (b"\x1f\x8b", b"PK\x03\x04")


class Outgoing(NamedTuple):
    """A report to be sent; `document` is the XML or JSON."""

    kind: Literal["dmarc", "tls"]
    domain: str  # whom it is about
    submitter: str  # the domain of who reports
    begins: int
    ends: int
    unique: str  # letters and digits
    document: bytes

    @property
    def report_id(self) -> str:
        """Its id for all times."""
        return f"{self.unique}@{self.submitter}"

    @property
    def file_name(self) -> str:
        """As both standards have it; the same if it is sent again."""
        extension = "xml.gz" if self.kind == "dmarc" else "json.gz"
        return f"{self.submitter}!{self.domain}!{self.begins}!{self.ends}!{self.unique}.{extension}"

    def packed(self) -> bytes:
        """The document by gzip; the same octets each time."""
        packer = zlib.compressobj(wbits=31)
        return packer.compress(self.document) + packer.flush()


def build(
    report: Outgoing, packed: bytes, *, sender: str, to: Sequence[str], now: float, boundary: str
) -> bytes:
    """The mail with a report, CRLF line ends."""
    kind = _TYPES[report.kind]
    if report.kind == "dmarc":
        outer = f'multipart/mixed;\r\n\tboundary="{boundary}"'
        about = "what came in the name of"
        more: list[str] = []
    else:
        outer = f'multipart/report; report-type="tlsrpt";\r\n\tboundary="{boundary}"'
        about = "how sessions with TLS went with hosts of"
        more = [
            f"TLS-Report-Domain: {report.domain}",
            f"TLS-Report-Submitter: {report.submitter}",
            "TLS-Required: No",  # it tells of trouble with TLS, and must not fail for the same (RFC 8460 3, RFC 8689 5)
        ]
    text = (
        f"This is a report by {report.submitter}:\r\n"
        f"{about} {report.domain},\r\n"
        f"from {format_date(report.begins)} to {format_date(report.ends)}.\r\n"
    )
    head = [
        f"From: <{sender}>",
        "To: " + ",\r\n\t".join(f"<{address}>" for address in to),
        f"Subject: Report Domain: {report.domain}\r\n\tSubmitter: {report.submitter}\r\n\tReport-ID: <{report.report_id}>",
        f"Date: {format_date(now)}",
        f"Message-ID: <{report.report_id}>",
        "Auto-Submitted: auto-generated",
        *more,
        "MIME-Version: 1.0",
        f"Content-Type: {outer}",
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        text,
        f"--{boundary}",
        f'Content-Type: {kind};\r\n\tname="{report.file_name}"',
        f'Content-Disposition: attachment;\r\n\tfilename="{report.file_name}"',
        "Content-Transfer-Encoding: base64",
        "",
        *(base64.b64encode(packed[at : at + _LINE]).decode() for at in range(0, len(packed), _LINE)),
        f"--{boundary}--",
    ]
    return "".join(f"{line}\r\n" for line in head).encode("utf-8", "surrogateescape")


def read_reports(octets: bytes) -> list[Report]:
    """All reports in a mail, or in a file that is one, packed or not. Raises ReportError if there is none to be read."""
    if octets.startswith((*_XML, *_PACKED)) or octets.lstrip()[:1] in (b"<", b"{"):
        return [_read_document(octets, MAX_UNPACKED)[0]]
    found: list[Report] = []
    problems: list[str] = []
    left = MAX_UNPACKED
    parts = mime.parts(octets)
    for part in parts:
        if len(found) + len(problems) >= _MAX_REPORTS:
            break
        try:
            if part.kind == FEEDBACK:
                found.append(failure_report.parse_report(parts))
            elif part.kind in _KINDS:
                report, used = _read_document(part.octets, left)
                left -= used
                found.append(report)
        except ReportError as error:
            problems.append(f"{part.kind}: {error}")
    if not found:
        raise ReportError(problems[0] if problems else "no part of it is a report")
    return found


def _read_document(octets: bytes, limit: int) -> tuple[AggregateReport | TlsReport, int]:
    """One report, and how many octets it has unpacked. Raises ReportError."""
    meter = _Meter(unpack(octets, limit))
    try:
        first = next(meter, b"")
        if first.startswith(_XML) or first.lstrip()[:1] == b"<":
            return aggregate.parse_report(itertools.chain((first.lstrip(),), meter)), meter.octets
        if first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
            document = bytearray(first)
            for piece in meter:
                document += piece
                if len(document) > _MAX_JSON:
                    raise ReportError(f"it is larger than {_MAX_JSON} octets when unpacked")
            return tls_report.parse_report(bytes(document)), meter.octets
    except PackError as error:
        raise ReportError(str(error)) from error
    raise ReportError("it is neither XML nor JSON")


class _Meter:
    """Counts what passes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.octets = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self.octets += len(piece)
        return piece
