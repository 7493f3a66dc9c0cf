"""`pillarbox check` with name servers and hosts on loopback: what it finds, in which order, and its exit status."""

import asyncio
import datetime as dt
import json
import ssl

import dns.rdatatype
import dns.zone
import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.testing import ScriptedPeer, StartTls

GOOD = """
@ MX 10 mx
@ TXT "v=spf1 mx ~all"
_dmarc TXT "v=DMARC1; p=reject; rua=mailto:postmaster@example.org"
_smtp._tls TXT "v=TLSRPTv1; rua=mailto:postmaster@example.org"
_mta-sts TXT "v=STSv1; id=1"
mta-sts A 127.0.0.1
mx A 127.0.0.1
1.0.0.127.in-addr.arpa. PTR mx
default._domainkey TXT "v=DKIM1; k=ed25519; p=dVtgZ6wnbI86Fs08DLTCzP3pUF5tGdeV7CHu1d6R5Iw="
"""
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmax_age: 2592000\r\n"
EXTENSIONS = ("STARTTLS", "8BITMIME")


def answers(text):
    """What the name server says for a zone file; a name that is there has nothing of other kinds."""
    zone = {}
    origin = dns.name.from_text("example.org")
    for line in text.strip().splitlines():
        name, kind, data = line.split(" ", 2)
        full = str(dns.name.from_text(name, origin)) if name != "@" else str(origin)
        rdata = dns.rdata.from_text("IN", kind, data, origin=origin, relativize=False)
        zone.setdefault(f"{full} {kind}", []).append((full, 300, "IN", kind, rdata.to_text()))
        zone.setdefault(f"{full} *", "nothing")
    for name in [one.removesuffix(" CNAME") for one in zone if one.endswith(" CNAME")]:
        (alias,) = zone[f"{name} CNAME"]
        for kind in ("A", "AAAA"):
            behind = zone.get(f"{alias[-1]} {kind}", [])
            zone[f"{name} {kind}"] = [alias, *behind]
    return zone


@pytest.fixture
async def look(serve_dns, certificates):
    """Check example.org with a zone, and a host that behaves as it is told: `done = await look(zone, "--json")`."""

    mail, web_tls = (context_of(certificates, f"{name}.example.org") for name in ("mx", "mta-sts"))

    async def run(zone, *arguments, peer=None, authentic=False, policy=POLICY):
        names = await serve_dns(answers(zone))
        names.authentic = authentic
        moves = {"STARTTLS": StartTls(mail)} if peer is None else peer
        web = await asyncio.start_server(lambda r, w: serve_policy(r, w, policy), "127.0.0.1", 0, ssl=web_tls)
        async with ScriptedPeer(moves, extensions=EXTENSIONS if "STARTTLS" in moves else ()) as host, web:
            fixed = (
                "check", "example.org", "--resolver", names.address, "--smtp-port", str(host.port), "--ca-file",
                certificates.authority, "--https-port", str(web.sockets[0].getsockname()[1]), "--timeout", "5",
            )  # fmt: skip
            return await asyncio.to_thread(CliRunner().invoke, cli, [*fixed, *arguments])

    return run


def context_of(certificates, name, **facts):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.issuer.issue_cert(name, **facts).configure_cert(context)
    return context


async def serve_policy(reader, writer, policy):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(policy) + policy)
    await writer.drain()
    writer.close()


async def test_a_domain_that_is_as_it_should_be(look):
    done = await look(GOOD)
    assert done.output == "example.org: 0 remarks, 9 things as it should be\n"
    assert done.exit_code == 0
    done = await look(GOOD, "--all", "--sending", "127.0.0.1")
    for words in (
        "mail goes to 10 mx.example.org",
        "may send for the domain (mx)",
        "encrypts with TLSv1.3",
        "mode enforce",
    ):
        assert words in done.output, done.output


SHORT = "MHwwDQYJKoZIhvcNAQEBBQADawAwaAJhAMZXPTWUl9mSCR862Uzs/AgUpYDM/K00xgAkpG2fT+M1Ko5FpVwfIgs/WvVbiJli/8UQdYP+KTBO1C5Uk9WtLm/NORennFr4rpmCrxyaUkalVBhwUBGgbnz/p/+63itU6QIDAQAB"  # 768 bits


@pytest.mark.parametrize(
    ("old", "new", "topic", "level", "words", "record"),
    [
        ("@ MX 10 mx\n", "@ MX 10 www\nwww CNAME mx\n", "MX", "warning", "www.example.org, which is only an alias of mx.example.org",
         "example.org. 3600 IN MX 10 mx.example.org."),
        ("@ MX 10 mx\n", "@ MX 10 192.0.2.1.\n", "MX", "error", "MX names the address 192.0.2.1",
         "example.org. 3600 IN MX 10 mail.example.org."),
        ("@ MX 10 mx\n", "@ A 127.0.0.1\n", "MX", "hint", "has no MX record, so mail goes to its address",
         "example.org. 3600 IN MX 10 example.org."),
        ("@ MX 10 mx\n", "@ MX 10 mx\n@ MX 20 gone\n", "MX", "error", "gone.example.org, which does not exist", None),
        ("@ MX 10 mx\n", "@ MX 10 mx\n@ MX 20 bare\nbare TXT x\n", "MX", "error", "bare.example.org, which has no address", None),
        ("@ MX 10 mx\n", "@ MX 10 mx\n@ MX 0 .\n", "MX", "error", "a null MX stands beside others", "example.org. 3600 IN MX 0 ."),
        ("~all", '~all"\n@ TXT "v=spf1 ip4:192.0.2.1 -all', "SPF", "error", "2 SPF records",
         'example.org. 3600 IN TXT "v=spf1 ip4:192.0.2.1 mx ~all"'),
        ("mx ~all", " ".join(f"a:mx{n}.example.org" for n in range(11)) + " ~all", "SPF", "error", "takes 11 look-ups, and 10 are allowed", None),
        ("rua=mailto:postmaster@example.org", "", "DMARC", "hint", "nobody gets the DMARC reports",
         '_dmarc.example.org. 3600 IN TXT "v=DMARC1; p=reject; rua=mailto:postmaster@example.org"'),
        ("k=ed25519; p=dVtgZ6wnbI86Fs08DLTCzP3pUF5tGdeV7CHu1d6R5Iw=", f"p={SHORT}", "DKIM", "error", "768 bits", None),
        ("1.0.0.127.in-addr.arpa. PTR mx\n", "", "reverse DNS", "warning", "127.0.0.1 (mx.example.org) has no name",
         "1.0.0.127.in-addr.arpa. 3600 IN PTR mx.example.org."),
        ("@ MX 10 mx\n", "@ MX 10 mx\n@ MX 20 mx2\nmx2 A 127.0.0.1\n", "MTA-STS", "error", "the policy does not name mx2.example.org",
         '_mta-sts.example.org. 3600 IN TXT "v=STSv1; id='),
    ],
    ids=("alias", "address", "none", "gone", "bare", "null", "two-spf", "11-look-ups", "rua", "768", "ptr", "sts"),
)  # fmt: skip
async def test_what_is_wrong_with_a_zone(look, old, new, topic, level, words, record):
    """Each served by a name server, and each with the record that mends it, if it can be known."""
    assert old in GOOD
    done = await look(GOOD.replace(old, new), "--json", "--fail-on", "hint")
    remarks = json.loads(done.output)["remarks"]
    (found,) = (one for one in remarks if one["topic"] == topic and words in one["found"])
    assert found["level"] == level
    assert (found["record"] or {}).get("zone", "").startswith(record or "")
    assert (found["record"] is None) == (record is None)
    assert done.exit_code == 1


async def test_what_to_mend_comes_in_order_with_the_record(look):
    zone = (
        GOOD.replace('@ TXT "v=spf1 mx ~all"\n', "")
        .replace("_dmarc TXT", "_dmarc2 TXT")
        .replace("_smtp._tls", "x")
    )
    done = await look(zone, "--json", peer={})
    found = json.loads(done.output)["remarks"]
    assert [(one["topic"], one["level"]) for one in found if one["level"] != "ok"] == [
        ("MTA-STS", "error"), ("SPF", "warning"), ("DMARC", "warning"), ("TLS", "warning"), ("TLS-RPT", "hint"),
    ]  # fmt: skip
    records = {one["topic"]: one["record"]["zone"] for one in found if one["record"]}
    assert records["SPF"] == 'example.org. 3600 IN TXT "v=spf1 mx ~all"'
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "status"), [((), 0), (("--fail-on", "hint"), 1), (("--fail-on", "error"), 0)]
)
async def test_what_makes_it_fail_is_for_the_caller_to_say(look, arguments, status):
    done = await look(GOOD.replace("_smtp._tls", "x"), *arguments)
    assert "nobody gets reports about encryption" in done.output
    assert done.exit_code == status


async def test_a_certificate_that_proves_nothing_is_seen_and_said(look, certificates):
    context = context_of(certificates, "mx.example.org", not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    done = await look(GOOD, "--json", peer={"STARTTLS": StartTls(context)})
    found = {one["topic"]: one["found"] for one in json.loads(done.output)["remarks"]}
    assert found["TLS"].endswith("its certificate proves nothing: certificate has expired")
    assert "breaks the policy" in found["MTA-STS"]
    assert done.exit_code == 1


async def test_tlsa_records_that_do_not_fit_are_an_error_with_the_right_one(look):
    done = await look(GOOD + f"_25._tcp.mx TLSA 3 1 1 {'00' * 32}\n", "--json", authentic=True)
    (wrong,) = (one for one in json.loads(done.output)["remarks"] if one["level"] == "error")
    assert (wrong["topic"], wrong["record"]["type"]) == ("DANE", "TLSA")
    name, _, data = wrong["record"]["zone"].partition(". 3600 IN ")
    done = await look(GOOD + f"{name}. {data}\n", "--all", authentic=True)
    assert "shows what its TLSA record says: 3 1 1" in done.output
    assert done.exit_code == 0


async def test_a_host_that_refuses_and_one_that_is_gone(look):
    done = await look(GOOD, "--no-smtp")
    assert done.exit_code == 0
    done = await look(GOOD, peer={"connect": "554 5.7.1 not you"})
    assert "takes no mail from here: 554 5.7.1 not you" in done.output
    done = await look(GOOD, "--smtp-port", "9")
    assert "can't be reached: connection refused" in done.output


@pytest.mark.parametrize(
    ("policy", "words"), [(b"version: STSv1\n", "mode"), (b"x" * 70_000, "octets"), (b"\xff", "UTF-8")]
)
async def test_a_policy_that_cannot_be_read(look, policy, words):
    done = await look(GOOD, policy=policy)
    assert "the policy can't be had" in done.output
    assert words in done.output


async def test_dns_that_does_not_answer_is_another_status(serve_dns):
    names = await serve_dns({"example.org. MX": "servfail"})
    done = await asyncio.to_thread(
        CliRunner().invoke, cli, ["check", "example.org", "--resolver", names.address]
    )
    assert done.exit_code == 1  # the rest of it is not there
    names = await serve_dns({"example.org. *": "servfail", "_dmarc.example.org. *": "servfail"})
    arguments = ["check", "example.org", "--resolver", names.address, "--fail-on", "error"]
    done = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    assert done.exit_code == 75


@pytest.mark.parametrize(
    "arguments", [("nodots",), ("example.org", "--resolver", "x y"), ("example.org", "--sending", "x")]
)
def test_wrong_use(arguments):
    done = CliRunner().invoke(cli, ["check", *arguments])
    assert done.exit_code == 64
