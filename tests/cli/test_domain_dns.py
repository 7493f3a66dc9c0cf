"""`pillarbox domain dns` prints a zone that name servers load and that our own checks find sound."""

import json
from datetime import UTC, datetime

import dns.rdatatype
import dns.zone
import pytest
import trustme
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.mailauth import dmarc, keys
from pillarbox.mailauth.mta_sts import parse_records
from pillarbox.mailauth.spf_record import parse_record

CONFIG = """
hostname = "mx1.example.org"
data = "{folder}"
[[listen]]
address = "127.0.0.1:0"
[domain."example.org"]
deliver = "hold"
[domain."bücher.example"]
deliver = "hold"
[domain."closed.example"]
no_mail = true
{more}
"""


@pytest.fixture
def pillarbox(tmp_path):
    """Run a command with a configuration: `pillarbox("domain", "dns", "example.org")`."""
    config = tmp_path / "pillarbox.toml"
    (tmp_path / "data").mkdir(mode=0o700)

    def run(*arguments, more="", exit_code=0):
        config.write_text(CONFIG.format(folder=tmp_path / "data", more=more))
        done = CliRunner().invoke(cli, [*arguments, "--config", str(config)])
        assert done.exit_code == exit_code, done.output
        return done.output

    return run


def texts(zone, name):
    """The TXT records at a name, as a resolver would join them."""
    found = zone.find_rdataset(name, dns.rdatatype.TXT)
    return [b"".join(one.strings).decode() for one in found]


def load(text, origin="example.org"):
    return dns.zone.from_text(
        f"@ 60 IN SOA ns admin 1 2 3 4 5\n@ 60 IN NS ns\n{text}", origin, relativize=True
    )


def test_a_zone_file_takes_it_as_it_is(pillarbox, tmp_path):
    authority = trustme.CA()
    (tmp_path / "cert.pem").write_bytes(authority.issue_cert("mx1.example.org").cert_chain_pems[0].bytes())
    pillarbox("dkim", "new", "example.org")
    more = f'[tls]\ncertificate = "{tmp_path}/cert.pem"\nkey = "{tmp_path}/key.pem"\n'
    zone = load(pillarbox("domain", "dns", "example.org", more=more))
    assert [str(one) for one in zone.find_rdataset("@", "MX")] == ["10 mx1"]
    assert [parse_record(text).terms[0].kind for text in texts(zone, "@")] == ["mx"]
    assert texts(zone, "mx1") == ["v=spf1 a -all"]
    (said,) = texts(zone, "_dmarc")
    assert dmarc.parse_record(said).reports_to == ("postmaster@example.org",)
    assert texts(zone, "_smtp._tls") == ["v=TLSRPTv1; rua=mailto:postmaster@example.org"]
    day = datetime.now(UTC).strftime("%Y%m%d")
    for letter, bits in (("r", 2048), ("e", 256)):
        (said,) = texts(zone, f"{day}{letter}._domainkey")
        assert keys.parse_record(said).bits == bits
    (tlsa,) = zone.find_rdataset("_25._tcp.mx1", "TLSA")
    assert (tlsa.usage, tlsa.selector, tlsa.mtype, len(tlsa.cert)) == (3, 1, 1, 32)


def test_what_was_asked_for_stands_in_it(pillarbox):
    said = json.loads(
        pillarbox(
            "domain", "dns", "example.org", "--json", "--host", "in.example.net", "--dmarc", "reject",
            "--reports-to", "dmarc@reports.example", "--spf", "include:news.example",
        )
    )  # fmt: skip
    by_name = {(one["name"], one["type"]): one["data"] for one in said["records"]}
    assert by_name["example.org", "MX"] == "10 in.example.net."
    assert by_name["example.org", "TXT"] == "v=spf1 mx include:news.example ~all"
    assert by_name["_dmarc.example.org", "TXT"] == "v=DMARC1; p=reject; rua=mailto:dmarc@reports.example"
    assert by_name["example.org._report._dmarc.reports.example", "TXT"] == "v=DMARC1"
    assert any("pillarbox dkim new example.org" in hint["text"] for hint in said["hints"])


def test_a_policy_that_this_server_serves_is_announced_and_announced_anew_if_it_changes(pillarbox):
    ids = []
    for mode in ("testing", "enforce", "enforce"):
        more = f'[domain."example.net"]\ndeliver = "hold"\nmta_sts = {{ mode = "{mode}" }}\n'
        zone = load(pillarbox("domain", "dns", "example.net", more=more), "example.net")
        assert str(zone.find_rdataset("mta-sts", "CNAME")[0]) == "mx1.example.org."
        (said,) = texts(zone, "_mta-sts")
        ids.append(parse_records((said,)))
    assert ids[0] != ids[1] == ids[2] != ""


def test_a_domain_without_mail_says_so_three_times(pillarbox):
    zone = load(pillarbox("domain", "dns", "closed.example"), "closed.example")
    assert [str(one) for one in zone.find_rdataset("@", "MX")] == ["0 ."]
    assert texts(zone, "@") == ["v=spf1 -all"]
    assert texts(zone, "_dmarc") == ["v=DMARC1; p=reject"]


def test_an_international_domain_is_written_in_a_labels(pillarbox):
    pillarbox("dkim", "new", "bücher.example", "--kind", "ed25519")
    said = json.loads(pillarbox("domain", "dns", "bücher.example", "--json"))
    names = {one["name"].rpartition("xn--bcher-kva.example")[1] for one in said["records"]}
    assert names == {"xn--bcher-kva.example", ""}  # the server's own record is elsewhere
    assert any(one["name"].endswith("._domainkey.xn--bcher-kva.example") for one in said["records"])


@pytest.mark.parametrize("domain", ["", "nodots", "a..b", "x" * 70 + ".org"])
def test_what_is_no_domain_is_refused(pillarbox, domain):
    assert "not a domain name" in pillarbox("domain", "dns", domain, exit_code=64)


def test_without_a_server_it_asks_for_one(monkeypatch, tmp_path):
    monkeypatch.delenv("PILLARBOX_CONFIG", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, ["domain", "dns", "example.org"])
    assert (done.exit_code, "--host" in done.output) == (64, True)
    done = CliRunner().invoke(cli, ["domain", "dns", "example.org", "--host", "mx.example.org"])
    assert done.exit_code == 0
