"""Reports, written and read: DMARC aggregate (XML), TLS-RPT (JSON), failures (ARF); packed, in mail, and hostile."""

from __future__ import annotations

import gzip
import io
import itertools
import zipfile
import zlib
from importlib import resources
from ipaddress import ip_address

import msgspec
import pytest
import xmlschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillarbox.inbound.counted import Counting
from pillarbox.mail.message import scan_head
from pillarbox.mailauth import aggregate, dkim, dmarc, packed, report_mail, spf, tls_report, xml_tree
from pillarbox.mailauth.aggregate import AggregateReport, DkimResult, DmarcRow, ReportError, SpfResult
from pillarbox.mailauth.failure_report import FailureReport
from pillarbox.mailauth.report_mail import Outgoing, build, read_reports
from pillarbox.mailauth.tls_report import TlsFailure, TlsReport, TlsRow
from pillarbox.policy.author import DmarcSettings
from pillarbox.policy.origin import OriginPolicy, Verdicts
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings

RECORD = "v=DMARC1; p=reject; sp=quarantine; np=reject; adkim=s; t=y; fo=1; rua=mailto:d@sender.test"
ROW = DmarcRow(
    "sender.test",
    RECORD,
    "2001:db8::1",
    "mail.sender.test",
    "quarantine",
    spf_aligned=True,
    envelope_from="bounce.sender.test",
    envelope_to="example.org",
    reasons=(("policy_test_mode", "t=y"), ("local_policy", "")),
    dkim=(DkimResult("sender.test", "s1", "fail", 'the body was changed <&"'),),
    spf=SpfResult("bounce.sender.test", "pass"),
)
PLAIN = DmarcRow("sender.test", RECORD, "192.0.2.1", "sender.test", "none")
REPORT = AggregateReport(
    "Example Ärzte",
    "postmaster@mx.test",
    "abc@mx.test",
    86_400,
    172_799,
    aggregate.published("sender.test", dmarc.parse_record(RECORD), "treewalk"),
    ((ROW, 7), (PLAIN, 2)),
    "https://mx.test/",
    ("a record is there twice",),
    "Pillarbox",
)
FAILURE = TlsFailure(
    "certificate-expired", "192.0.2.1", "mx.peer.test", "mx", "198.51.100.1", "expired", "10"
)
ROWS = (
    (TlsRow("peer.test", "sts", ("version: STSv1", "mode: enforce"), ("*.peer.test",)), 40),
    (TlsRow("peer.test", "sts", ("version: STSv1", "mode: enforce"), ("*.peer.test",), FAILURE), 2),
    (TlsRow("peer.test", "no-policy-found"), 5),
)
TLS = TlsReport("Example", "postmaster@mx.test", "abc@mx.test", 86_400, 172_799, tls_report.gather(ROWS))


def as_read(report):
    """What a reader knows: of a record not its text, of its discovery only what is said once."""
    rows = tuple((msgspec.structs.replace(row, record="", method=""), number) for row, number in report.rows)
    return msgspec.structs.replace(report, rows=rows)


def test_an_aggregate_report_is_read_as_it_was_written():
    document = aggregate.format_report(REPORT)
    assert aggregate.parse_report([document]) == as_read(REPORT)
    assert aggregate.parse_report(document[at : at + 1] for at in range(len(document))) == as_read(REPORT)
    assert (REPORT.total, REPORT.failed) == (9, 2)


def test_an_aggregate_report_says_what_rfc_9990_wants():
    text = aggregate.format_report(REPORT).decode()
    assert text.startswith(
        '<?xml version="1.0" encoding="UTF-8"?>\n<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">'
    )
    for part in (
        "<version>1.0</version>",
        "<date_range><begin>86400</begin><end>172799</end></date_range>",
        "<discovery_method>treewalk</discovery_method>",
        "<p>reject</p>",
        "<sp>quarantine</sp>",
        "<np>reject</np>",
        "<testing>y</testing>",
        "<count>7</count>",
        "<disposition>quarantine</disposition>",
        "<reason><type>policy_test_mode</type><comment>t=y</comment></reason>",
        "<spf><domain>bounce.sender.test</domain><scope>mfrom</scope><result>pass</result></spf>",
    ):
        assert part in text
    places = [
        text.index(f"<{name}>") for name in ("version", "report_metadata", "policy_published", "record")
    ]
    assert places == sorted(places)


@pytest.fixture(scope="module")
def schema():
    """The schema of RFC 9990, appendix A, as the library of somebody else has it."""
    return xmlschema.XMLSchema(
        resources.files("dmarc.report").joinpath("schemas/dmarc-2.0.xsd").read_text("utf-8")
    )


def test_an_aggregate_report_is_valid_by_the_schema(schema):
    schema.validate(aggregate.format_report(REPORT).decode())
    two = msgspec.structs.replace(REPORT, errors=("one", "two"))
    schema.validate(aggregate.format_report(two).decode())
    assert not schema.is_valid(aggregate.format_report(REPORT).decode().replace("quarantine<", "junk<"))


SPF_RESULTS = ("none", "neutral", "pass", "fail", "softfail", "temperror", "permerror")
DKIM_RESULTS = ("pass", "fail", "policy", "neutral", "temperror", "permerror")
ADDRESSES = ("192.0.2.1", "2001:db8::1", "::1", "2001:db8:0:1:2:3:4:5", "::ffff:192.0.2.1", "fe80::1%eth0")
MATTERS = DmarcSettings(check=True, except_domains=("odd.test",), except_networks=("192.0.2.0/24",))


@pytest.mark.parametrize("matters", [MATTERS, DmarcSettings(check=True, reject="junk"), DmarcSettings(check=True, enforce=False)])  # fmt: skip
def test_whatever_is_counted_is_valid_by_the_schema(schema, run_plan, matters):
    """Each result of SPF with each of DKIM, from each form of address, under policies that are heeded and that are not."""
    rows = []
    policy = OriginPolicy(SpfSettings(), DkimSettings(), matters, ArcSettings())
    counting = Counting(lambda row: rows.append((row, 1)), suffixes=False)
    wishes = itertools.cycle(
        ("none", "reject", "quarantine; t=y", "bogus", "reject; psd=n; np=reject; fo=1:d:s")
    )
    for (of_spf, of_dkim), address, wish in zip(
        itertools.product(SPF_RESULTS, DKIM_RESULTS), itertools.cycle(ADDRESSES), wishes, strict=False
    ):
        for domain, sender in (("sender.test", "a@sender.test"), ("odd.test", "")):
            zone = {(f"_dmarc.{domain}", "TXT"): [f"v=DMARC1; p={wish}; rua=mailto:d@sender.test"]}
            spf_verdict = spf.Verdict(of_spf, "mailfrom", domain, "x <&> \0")
            dkim_verdict = dkim.Verdict(of_dkim, "list.test", "s", "why \x1b")
            discovery = run_plan(dmarc.discover(domain), zone)
            verdict = run_plan(dmarc.judge(discovery, spf_verdict, (dkim_verdict,)), zone)
            found = Verdicts(spf=spf_verdict, dkim=(dkim_verdict,), dmarc=(verdict,))
            counting.count(counting.rows(found, policy.judge(found, address), address, sender))
    assert len(rows) > len(SPF_RESULTS)
    for row, number in rows:
        assert ip_address(row.source)
        assert "%" not in row.source
        record = dmarc.parse_record(row.record)
        published = aggregate.published(row.domain, record, row.method)
        report = msgspec.structs.replace(
            REPORT, policy=published, rows=((row, number),), errors=(), contact=""
        )
        schema.validate(aggregate.format_report(report).decode())


texts = st.text(max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts)
def test_whatever_text_stands_in_a_row_is_valid_by_the_schema(schema, name, detail):
    results = (DkimResult(name, detail, "fail", detail),)
    row = msgspec.structs.replace(ROW, header_from=name, envelope_from=detail, dkim=results)
    report = msgspec.structs.replace(
        REPORT, rows=((row, 1),), organization=name, errors=(detail,), contact=name
    )
    schema.validate(aggregate.format_report(report).decode())


@given(texts, texts, st.integers(1, 1 << 39))
def test_whatever_text_stands_in_a_row_the_document_can_be_read(name, detail, number):
    row = DmarcRow("a.test", "", name, name, "none", dkim=(DkimResult(name, detail, detail, detail),))
    report = msgspec.structs.replace(REPORT, rows=((row, number),), organization=name, errors=(detail,))
    assert aggregate.parse_report([aggregate.format_report(report)]).total == number


OLD = """<?xml version="1.0" encoding="windows-1252" ?>
<n:feedback xmlns:n="http://dmarc.org/dmarc-xml/0.1" xmlns:x="urn:other"><report_metadata><org_name>M\xfcller</org_name>
<email>a@b.test</email><report_id>1</report_id><date_range><begin>1</begin><end>2</end></date_range></report_metadata>
<policy_published><domain>Sender.Test</domain><adkim></adkim><p>none</p><sp>bogus</sp><pct>100</pct></policy_published>
<x:record><row/></x:record>
<record><row><source_ip> 192.0.2.1 </source_ip><count>3.0</count><policy_evaluated><disposition>none</disposition>
<dkim>pass</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>sender.test</header_from></identifiers>
<auth_results><spf><domain>a.test</domain><result>unknown</result></spf></auth_results></record></n:feedback>"""


def test_reports_of_older_writers_are_read():
    found = aggregate.parse_report([OLD.encode("cp1252")])
    assert (found.organization, found.policy.domain, found.policy.adkim, found.total) == (
        "Müller",
        "sender.test",
        "r",
        3,
    )
    assert found.rows[0][0].dkim_aligned
    assert not found.rows[0][0].spf_aligned


def test_a_tls_report_is_read_as_it_was_written():
    document = tls_report.format_report(TLS)
    assert tls_report.parse_report(document) == TLS
    assert tls_report.parse_report(b"\xef\xbb\xbf" + document) == TLS
    assert (TLS.domain, TLS.total, TLS.failed) == ("peer.test", 47, 2)
    said = msgspec.json.decode(document)
    assert said["date-range"] == {
        "start-datetime": "1970-01-02T00:00:00Z",
        "end-datetime": "1970-01-02T23:59:59Z",
    }
    assert said["policies"][0]["summary"] == {
        "total-successful-session-count": 40,
        "total-failure-session-count": 2,
    }
    assert said["policies"][0]["failure-details"][0]["failed-session-count"] == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"[]", "object"),
        (b'{"date-range": {}}', "start-datetime"),
        (b'{"date-range": {"start-datetime": "x"}, "policies": []}', "$.date-range"),
        (b"{" * 100_000, ""),
        (b'{"a":' + b"[" * 100_000, ""),
        (b"\xff{", ""),
    ],
)
def test_what_is_no_tls_report_says_where(text, place):
    with pytest.raises(ReportError) as caught:
        tls_report.parse_report(text)
    assert place in str(caught.value)


def document(inside="", head=""):
    return (head + f"<feedback>{inside}</feedback>").encode()


BILLION = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (document("&b;", BILLION), "document type"),
        (document("&x;", '<!DOCTYPE x SYSTEM "file:///etc/passwd">'), "document type"),
        (document("&x;"), "undefined entity"),
        (document("<a>" * 50), "nested too deep"),
        (document("<record>" + "<a/>" * 6000 + "</record>"), "too many elements"),
        (document("<record></record>"), "before policy_published"),
        (document("<report_metadata/>"), "policy_published is missing"),
        (document("<policy_published/><report_metadata/>"), "begin is no number"),
        (b"<html></html>", "not <feedback>"),
        (b"<feedback>", "no element found"),
        (b'<?xml version="1.0" encoding="nonsense"?><feedback/>', "encoding"),
        (b"<feedback a='" + b"x" * (3 << 20), "has no end"),
        (b"<feedback><!--" + b"x" * (3 << 20), "has no end"),
        (b"", "no element found"),
    ],
)
def test_hostile_xml_is_refused_with_the_place(octets, problem):
    with pytest.raises(ReportError, match=problem):
        aggregate.parse_report(octets[at : at + 65_536] for at in range(0, len(octets) or 1, 65_536))


@given(st.binary(max_size=300))
def test_octets_without_meaning_raise_nothing_else(octets):
    for start in (b"", b"<feedback>", b"{", b"\x1f\x8b", b"PK\x03\x04", b"Content-Type: application/zip\n\n"):
        with pytest.raises(ReportError):
            read_reports(start + octets)


def test_reading_takes_time_in_proportion(grows_linearly):
    grows_linearly(
        lambda octets: aggregate.parse_report([octets]),
        lambda count: aggregate.format_report(msgspec.structs.replace(REPORT, rows=((ROW, 1),) * count)),
        60,
    )


# --- packed -----------------------------------------------------------------------------------------------------------


def zipped(octets, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("folder/", b"")
        archive.writestr("report.xml", octets)
    return file.getvalue()


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, zipped, bytes, lambda octets: gzip.compress(octets[:9]) + gzip.compress(octets[9:])],
)
def test_what_is_packed_is_unpacked(pack):
    octets = aggregate.format_report(REPORT)
    assert b"".join(packed.unpack(pack(octets), 1 << 20)) == octets
    assert read_reports(pack(octets)) == [as_read(REPORT)]


@pytest.mark.parametrize("pack", [gzip.compress, zipped, bytes])
def test_a_bomb_goes_off_nowhere(pack, monkeypatch):
    bomb = pack(b"<feedback>" + b" " * (20 << 20))
    taken = []
    with pytest.raises(packed.PackError, match="larger than"):
        taken.extend(map(len, packed.unpack(bomb, 1 << 20)))
    assert sum(taken) <= 1 << 20
    monkeypatch.setattr(report_mail, "MAX_UNPACKED", 1 << 20)
    with pytest.raises(ReportError, match="larger than"):
        read_reports(bomb)


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (gzip.compress(b"<feedback>" * 1000)[:-20], "end is missing"),
        (gzip.compress(b"x")[:12] + b"\0\0\0\0\0\0\0\0\0", "gzip"),
        (gzip.compress(b"") * 100_000, "members"),
        (zipped(b"x")[:40], "zip"),
        (zipped(b"x" * 1000, zipfile.ZIP_BZIP2), "not read"),
        (b"PK\x03\x04", "zip"),
        (zipped(b"")[:30] + b"\xff" * 100, "zip"),
    ],
    ids=["cut gzip", "broken gzip", "many members", "cut zip", "bzip2", "four octets", "broken zip"],
)
def test_what_is_packed_badly_is_refused(octets, problem):
    with pytest.raises(packed.PackError, match=problem):
        list(packed.unpack(octets, 1 << 20))


# --- in mail ----------------------------------------------------------------------------------------------------------


def outgoing(kind, document):
    return Outgoing(kind, "sender.test", "mx.test", 86_400, 172_799, "abc", document)


def mail(one):
    return build(
        one,
        one.packed(),
        sender="postmaster@mx.test",
        to=["d@sender.test", "e@sender.test"],
        now=0,
        boundary="=_b",
    )


def test_a_mail_with_an_aggregate_report():
    one = outgoing("dmarc", aggregate.format_report(REPORT))
    octets = mail(one)
    head = scan_head(octets)
    assert head.get("subject") == "Report Domain: sender.test\tSubmitter: mx.test\tReport-ID: <abc@mx.test>"
    assert head.get("auto-submitted") == "auto-generated"
    assert head.get("message-id") == "<abc@mx.test>"
    assert b'filename="mx.test!sender.test!86400!172799!abc.xml.gz"' in octets
    assert b"Content-Type: application/gzip;" in octets
    assert all(len(line) <= 78 and not line.endswith(b"\r") for line in octets.split(b"\r\n"))
    assert read_reports(octets) == [as_read(REPORT)]
    assert mail(one) == octets, "a report that is sent again is the same"


def test_a_mail_with_a_tls_report():
    octets = mail(outgoing("tls", tls_report.format_report(TLS)))
    head = scan_head(octets)
    assert head.get("tls-report-domain") == "sender.test"
    assert head.get("tls-report-submitter") == "mx.test"
    assert head.get("tls-required") == "No"
    assert head.get("content-type").startswith('multipart/report; report-type="tlsrpt"')
    assert b'filename="mx.test!sender.test!86400!172799!abc.json.gz"' in octets
    assert b"Content-Type: application/tlsrpt+gzip;" in octets
    assert read_reports(octets) == [TLS]


ARF = b"""From: <a@b.test>
Content-Type: multipart/report; report-type=feedback-report; boundary=x

--x
Content-Type: text/plain

It failed.
--x
Content-Type: message/feedback-report

Feedback-Type: auth-failure
User-Agent: Lua/1.0
Version: 1
Original-Mail-From: <eve@other.test>
Arrival-Date: Thu, 1 Jan 1970 00:01:40 +0000
Source-IP: 192.0.2.1
Reported-Domain: Sender.test
Delivery-Result: reject
Identity-Alignment: none
Auth-Failure: dmarc
Incidents: 3

--x
Content-Type: text/rfc822-headers

From: Eve <eve@sender.test>
Subject: hello
Message-ID: <1@sender.test>

--x--
"""


def test_a_failure_report_is_read():
    assert read_reports(ARF) == [
        FailureReport(
            "auth-failure", "dmarc", "sender.test", "192.0.2.1", 100.0, "eve@other.test", "reject", "", "none",
            incidents=3, agent="Lua/1.0", message_id="<1@sender.test>", header_from="Eve <eve@sender.test>", subject="hello",
        )
    ]  # fmt: skip


def test_a_mail_without_a_report_says_so():
    with pytest.raises(ReportError, match="no part of it is a report"):
        read_reports(b"From: a@b.test\n\nHello\n")
    with pytest.raises(ReportError, match="application/zip: zip: "):
        read_reports(b"Content-Type: application/zip\n\nPK\x03\x04")


def test_a_mail_of_bombs_unpacks_no_more_than_one_may(monkeypatch):
    unpacked = []
    monkeypatch.setattr(report_mail, "MAX_UNPACKED", 1 << 20)
    whole = aggregate.format_report(REPORT) + b" " * 500_000
    part = b"\n--x\nContent-Type: application/gzip\n\n" + gzip.compress(whole)
    real = zlib.decompressobj

    def counting(**options):
        unpacked.append(1)
        return real(**options)

    monkeypatch.setattr(zlib, "decompressobj", counting)
    assert len(read_reports(b"Content-Type: multipart/mixed; boundary=x\n" + part * 50)) == 2


def test_elements_of_one_child_are_counted_anew():
    inside = "<record><row/></record>" * 6000
    assert sum(1 for _ in xml_tree.children_of("feedback", [document(inside)])) == 6000
