"""The reports command: files are read into the store, and what is there is shown."""

from __future__ import annotations

import gzip
import json
import zipfile

import msgspec
import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.mailauth import aggregate, tls_report
from pillarbox.mailauth.aggregate import AggregateReport, DkimResult, DmarcRow, Published
from pillarbox.mailauth.tls_report import PolicyResult, TlsFailure, TlsReport

ROW = DmarcRow(
    "example.org", "", "192.0.2.1", "example.org", "reject", dkim=(DkimResult("far.test", "s", "fail"),)
)
DMARC = AggregateReport(
    "Far", "p@far.test", "1@far.test", 86_400, 172_799, Published("example.org", "reject"), ((ROW, 12),)
)
TLS = TlsReport(
    "Far", "p@far.test", "2@far.test", 86_400, 172_799,
    (PolicyResult("example.org", "sts", successful=3, failed=1, failures=((TlsFailure("certificate-expired", mx="mx.example.org"), 1),)),),
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    def run(*arguments, status=0, given=None):
        done = CliRunner().invoke(cli, ["reports", *arguments, "--data", str(tmp_path)], input=given)
        assert done.exit_code == status, done.output
        return done

    return run


@pytest.fixture
def files(tmp_path):
    dmarc, tls = tmp_path / "far.xml.gz", tmp_path / "tls.json"
    dmarc.write_bytes(gzip.compress(aggregate.format_report(DMARC)))
    tls.write_bytes(tls_report.format_report(TLS))
    return [str(dmarc), str(tls)]


def test_files_are_read_listed_and_shown(run, files):
    assert "dmarc report about example.org\n" in run("read", *files).output
    assert "(known already)" in run("read", files[0]).output
    listed = run("list").output
    assert "example.org" in listed
    assert "1970-01-02" in listed
    ids = {one["kind"]: one["id"] for one in json.loads(run("list", "--json").output)}
    assert json.loads(run("list", "--kind", "tls", "--json").output)[0]["failed"] == 1
    assert run("list", "--domain", "other.test").output == "No report.\n"
    assert run("list", "--sent").output == "No report.\n"
    shown = run("show", str(ids["dmarc"])).output
    for word in ("p=reject", "12 messages, 12 failed", "192.0.2.1", "far.test=fail"):
        assert word in shown
    shown = run("show", str(ids["tls"])).output
    for word in ("3 sessions with TLS, 1 failed", "certificate-expired", "mx.example.org"):
        assert word in shown
    content = json.loads(run("show", str(ids["tls"]), "--json").output)["content"]
    assert msgspec.convert(content, TlsReport) == TLS
    assert (
        run("show", "99", status=1).stderr == "no report 99\n"
        or "no report 99" in run("show", "99", status=1).output
    )


FAILURE = b"""From: <a@far.test>
Content-Type: multipart/report; report-type=feedback-report; boundary=x

--x
Content-Type: message/feedback-report

Feedback-Type: auth-failure
Version: 1
Source-IP: 192.0.2.7
Reported-Domain: example.org
Auth-Failure: dmarc

--x
Content-Type: text/rfc822-headers

From: eve@example.org
Subject: win now

--x--
"""


def test_all_three_kinds_are_read_from_what_others_send(run, tmp_path, files):
    """Packed or not, bare or in a mail."""
    zipped, failure = tmp_path / "far.zip", tmp_path / "failure.eml"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("report.xml", aggregate.format_report(DMARC))
    failure.write_bytes(FAILURE)
    run("read", str(zipped), str(failure), files[1])
    found = {one["kind"]: one for one in json.loads(run("list", "--json").output)}
    assert sorted(found) == ["dmarc", "failure", "tls"]
    shown = run("show", str(found["failure"]["id"])).output
    for word in ("192.0.2.7", "win now", "eve@example.org"):
        assert word in shown


def test_a_bomb_is_not_unpacked(run, tmp_path):
    bomb = tmp_path / "bomb.xml.gz"
    bomb.write_bytes(gzip.compress(b"<feedback>" + b" " * (65 << 20), 1))
    said = run("read", str(bomb), status=65).output
    assert "octets" in said
    assert "unpack" in said
    assert run("list").output == "No report.\n"


def test_standard_input_and_what_is_no_report(run, tmp_path, files):
    given = aggregate.format_report(DMARC)
    assert json.loads(run("read", "-", "--json", given=given).output)[0]["new"]
    (tmp_path / "x").write_text("hello")
    done = run("read", str(tmp_path / "x"), files[1], str(tmp_path / "none"), status=65)
    assert "no part of it is a report" in done.output
    assert "tls report about example.org" in done.output
    assert "No such file" in done.output
