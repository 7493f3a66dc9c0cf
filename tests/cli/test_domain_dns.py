"""`pillarbox domain dns` prints a zone that name servers load and that our own checks find sound."""

import hashlib
import json
from datetime import UTC, datetime

import dns.rdatatype
import dns.zone
import pytest
import trustme
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

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


def digest(pem):
    """What a TLSA record says of the key of a certificate, or of a key."""
    key = (
        x509.load_pem_x509_certificate(pem).public_key()
        if b"CERTIFICATE" in pem
        else load_pem_private_key(pem, None).public_key()
    )
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(octets).hexdigest()


def pinned(output):
    """The digests of the TLSA records that were printed, each with what is said of it."""
    found = json.loads(output)["records"]
    return {one["data"].split()[-1]: one["about"] for one in found if one["type"] == "TLSA"}


@pytest.fixture
def issue(tmp_path):
    """Have a certificate issued: `pem = issue("mx1", "mx1.example.org")`, in mx1.pem with its key."""
    authority = trustme.CA()

    def make(file, *names, kind=trustme.KeyType.ECDSA):
        issued = authority.issue_cert(*names, key_type=kind)
        issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{file}.pem"))
        return issued.cert_chain_pems[0].bytes()

    return make


def test_the_key_is_that_of_the_certificate_which_the_host_shows(pillarbox, issue, tmp_path):
    """Of both kinds, if it has both: each sender is shown the one that it can use."""
    issue("web", "www.example.org")
    ecdsa, rsa = (
        issue(kind.name, "mx1.example.org", kind=kind)
        for kind in (trustme.KeyType.ECDSA, trustme.KeyType.RSA)
    )
    wild = issue("wild", "*.example.net")
    files = "".join(f'[[certificate]]\nchain = "{tmp_path}/{one}.pem"\n' for one in ("ECDSA", "RSA", "wild"))
    more = f'[tls]\ncertificate = "{tmp_path}/web.pem"\nkey = "{tmp_path}/web.pem"\n{files}'
    found = pinned(pillarbox("domain", "dns", "example.org", "--json", more=more))
    assert set(found) == {digest(ecdsa), digest(rsa)}
    assert found[digest(rsa)] == "the key that TLS shows now (RSA)"
    other = pillarbox("domain", "dns", "example.org", "--host", "in.example.net", "--json", more=more)
    assert set(pinned(other)) == {digest(wild)}


def test_a_key_that_is_to_come_stands_beside_the_old_one(pillarbox, issue, tmp_path):
    now, later = issue("now", "mx1.example.org"), issue("later", "mx1.example.org")
    more = f'[tls]\ncertificate = "{tmp_path}/now.pem"\nkey = "{tmp_path}/now.pem"\n'
    found = pillarbox(
        "domain", "dns", "example.org", "--next", str(tmp_path / "later.pem"), "--json", more=more
    )
    assert list(pinned(found)) == [digest(now), digest(later)]
    broken = tmp_path / "broken.pem"
    broken.write_text("x")
    said = pillarbox("domain", "dns", "example.org", "--next", str(broken), more=more, exit_code=65)
    assert "neither a certificate nor a key" in said


def test_the_key_of_the_next_certificate_is_known_before_it_is_issued(pillarbox, issue, tmp_path):
    folder = tmp_path / "data/acme"
    folder.mkdir()
    now, _ = issue("now", "mx1.example.org"), (tmp_path / "now.pem").rename(folder / "ecdsa.pem")
    issue("next", "x.example.org")
    coming = (tmp_path / "next.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    (folder / "ecdsa.next.pem").write_bytes(coming)
    more = '[acme]\ndirectory = "https://acme.example/dir"\nterms_agreed = true\n'
    found = pinned(pillarbox("domain", "dns", "example.org", "--json", more=more))
    assert list(found) == [digest(now), digest(coming)]
    assert "publish it before the renewal" in found[digest(coming)]


def test_a_policy_that_nobody_can_read_for_want_of_a_certificate_is_told(pillarbox, issue, tmp_path):
    issue("mx", "mx1.example.org", "mta-sts.example.net")
    tls = f'[tls]\ncertificate = "{tmp_path}/mx.pem"\nkey = "{tmp_path}/mx.pem"\n'
    for domain, told in (("example.net", False), ("example.com", True)):
        more = f'{tls}[domain."{domain}"]\ndeliver = "hold"\nmta_sts = {{ mode = "testing" }}\n'
        said = pillarbox("domain", "dns", domain, more=more)
        assert (f"no certificate of the server is for mta-sts.{domain}" in said) is told


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


def test_a_domain_that_the_server_does_not_know_is_told(pillarbox):
    assert "; server: it takes no mail for strange.example yet" in pillarbox(
        "domain", "dns", "strange.example"
    )
    assert "takes no mail for" not in pillarbox("domain", "dns", "example.org")


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
