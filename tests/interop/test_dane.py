"""DANE and MTA-STS end to end: unbound validates zones signed here, hosts listen on port 25 of a network of our own.

One of the hosts is a real Postfix, and the MTA-STS policy is served by the server itself.
"""

import contextlib
import hashlib
import json
import shutil
import ssl
from pathlib import Path

import apsw
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pillarbox.queue.spool import State
from pillarbox.testing import ScriptedPeer, StartTls

UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.xdist_group("unbound"),
    pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed"),
]
SIGNED = """
fits MX 10 mx1
mx1 A 127.0.1.1
_25._tcp.mx1 TLSA 3 1 1 {key}
strange MX 10 mx2
mx2 A 127.0.1.1
_25._tcp.mx2 TLSA 3 1 1 {nobody}
bogus MX 10 mx3
mx3 A 127.0.1.1
_25._tcp.mx3 TLSA 3 1 1 {key}
free MX 10 mx4
mx4 A 127.0.1.1
below MX 10 mx5
mx5 A 127.0.1.5
_25._tcp.mx5 TLSA 2 0 1 {authority}
alias MX 10 mx6
mx6 CNAME mx1
outside MX 10 mx7
mx7 CNAME mx.plain.test.
_25._tcp.mx7 TLSA 3 1 1 {nobody}
unusable MX 10 mx8
mx8 A 127.0.1.1
_25._tcp.mx8 TLSA 0 0 1 {nobody}
naked MX 10 mx9
mx9 A 127.0.1.9
_25._tcp.mx9 TLSA 3 1 1 {key}
second MX 10 mx2
second MX 20 mx1
postfix MX 10 mxp
mxp A 127.0.0.1
_25._tcp.mxp TLSA 3 1 1 {postfix}
itself A 127.0.1.1
_25._tcp.itself TLSA 3 1 1 {nobody}
"""
PLAIN = """
any MX 10 mx
mx A 127.0.1.1
_25._tcp.mx TLSA 3 1 1 {nobody}
sts MX 10 mx5.signed.test.
_mta-sts.sts TXT "v=STSv1; id=20261126"
mta-sts.sts A 127.0.0.1
forged MX 10 mx
_mta-sts.forged TXT "v=STSv1; id=20261126"
mta-sts.forged A 127.0.0.1
"""
NOBODY = "00" * 32


def digest(octets):
    return hashlib.sha256(octets).hexdigest()


def read(pem):
    return x509.load_pem_x509_certificate(pem)


def key_digest(pem):
    info = read(pem).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return digest(info)


class Certificates:
    def __init__(self):
        self.authority = trustme.CA()
        self.own = trustme.CA().issue_cert("whoever.test")  # which only a record of its own can vouch for
        self.below = self.authority.issue_cert("mx5.signed.test")
        self.contexts = {}
        for name, issued in (("own", self.own), ("below", self.below)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            issued.configure_cert(context)
            self.contexts[name] = context

    def with_authority(self, folder):
        """Below shows its authority too, as usage 2 wants it."""
        file = folder / "below.pem"
        file.write_bytes(
            self.below.private_key_pem.bytes()
            + self.below.cert_chain_pems[0].bytes()
            + self.authority.cert_pem.bytes()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def certificates():
    return Certificates()


@pytest.fixture(scope="module")
def start_unbound(own_network, serve_zones, certificates, pem):
    """Start a validating name server."""
    values = {
        "key": key_digest(certificates.own.cert_chain_pems[0].bytes()),
        "authority": digest(read(certificates.authority.cert_pem.bytes()).public_bytes(Encoding.DER)),
        "postfix": key_digest(Path(pem.chain).read_bytes()),
        "nobody": NOBODY,
    }
    serve_zones(SIGNED.format(**values), PLAIN.format(**values), "interface: 127.0.0.1")


SETTINGS = """
dns.nameservers = ["127.0.0.1"]
dns.timeout = "3s"
relay.dead = "10ms"
relay.families = ["ipv4"]
relay.ca_file = "{ca}"
queue.idle = "0s"
queue.unreachable_after = 1000
suppression.enabled = false
tls.certificate = "{policy}"
tls.key = "{policy}"
[domain."sts.plain.test"]
deliver = "hold"
mta_sts = {{ mode = "enforce", mx = ["mx5.signed.test"] }}
[domain."forged.plain.test"]
deliver = "hold"
mta_sts = {{ mode = "enforce", mx = ["mx.elsewhere.test"] }}
"""
SENDING = """
dns.nameservers = ["127.0.0.1"]
dns.timeout = "3s"
relay.dead = "10ms"
relay.families = ["ipv4"]
relay.ca_file = "{ca}"
queue.idle = "0s"
queue.unreachable_after = 1000
suppression.enabled = false
reports.tls = true
"""


@pytest.fixture(scope="module")
def publishing(start_unbound, serve, certificates, open_folder):
    """The server of the domains that have policies."""
    folder = open_folder()
    issued = certificates.authority.issue_cert("mta-sts.sts.plain.test", "mta-sts.forged.plain.test")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "policy.pem"))
    certificates.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    settings = SETTINGS.format(policy=folder / "policy.pem", ca=folder / "ca.pem")
    serve(settings, ['role = "relay"', 'role = "policy"\ntls = "implicit"\naddress = "127.0.0.1:443"'])
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def serving(publishing, serve):
    return serve(SENDING.format(ca=publishing))


@pytest.fixture
async def hosts(serving, certificates, tmp_path):
    """Three hosts on port 25: one with a certificate of nobody, one below an authority, one without TLS."""
    async with contextlib.AsyncExitStack() as stack:
        own = {"STARTTLS": StartTls(certificates.contexts["own"])}
        below = {"STARTTLS": StartTls(certificates.with_authority(tmp_path))}
        yield [
            await stack.enter_async_context(
                ScriptedPeer(script, host=address, port=25, extensions=extensions)
            )
            for address, script, extensions in (
                ("127.0.1.1", own, ("STARTTLS",)),
                ("127.0.1.5", below, ("STARTTLS",)),
                ("127.0.1.9", None, ()),
            )
        ]


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("fits.signed.test", "DANE: 1 TLSA of mx1.signed.test"),
        ("below.signed.test", "DANE: 1 TLSA of mx5.signed.test; certificate of mx5.signed.test"),
        ("alias.signed.test", "DANE: 1 TLSA of mx1.signed.test"),
        ("second.signed.test", "DANE: 1 TLSA of mx1.signed.test"),
        ("unusable.signed.test", "DANE: no usable TLSA of mx8.signed.test"),
        ("free.signed.test", "TLSv1.3"),
        ("any.plain.test", "TLSv1.3"),
        ("sts.plain.test", "MTA-STS enforce, id 20261126; certificate of mx5.signed.test"),
    ],
)
async def test_who_gets_the_mail(serving, hosts, domain, words):
    queue_id = serving.send(f"user@{domain}")
    fate = await serving.fate(queue_id)
    assert fate.state is State.DELIVERED, fate.result
    assert all(visit.encrypted for peer in hosts for visit in peer.visits[-1:])
    (delivered,) = [step for step in serving.steps(queue_id) if step.kind == "delivered"]
    assert words in delivered.detail["tls"]


@pytest.mark.parametrize(
    ("domain", "cause", "words"),
    [
        ("strange.signed.test", "transport.dane_mismatch", "no certificate fits"),
        ("itself.signed.test", "transport.dane_mismatch", "no certificate fits"),
        ("outside.signed.test", "transport.dane_mismatch", "no certificate fits"),
        ("bogus.signed.test", "transport.dane_unknown", "TLSA of mx3.signed.test"),
        ("naked.signed.test", "transport.dane_mismatch", "offers no TLS"),
        ("forged.plain.test", "transport.sts_not_named", "mx.plain.test"),
    ],
)
async def test_who_does_not(serving, hosts, domain, cause, words):
    fate = await serving.fate(serving.send(f"user@{domain}"))
    assert fate.state is State.QUEUED, fate.result
    assert fate.result.reply.cause_id == cause
    assert fate.result.reply.status == "4.7.5"
    assert words in fate.result.reply.text
    assert not any(peer.messages for peer in hosts)


async def test_postfix_proves_by_a_record_who_it_is(serving, unused_port, postfix):
    """Its certificate is of an authority that this server does not trust."""
    host = postfix({"postfix.signed.test": (25, "smtpd_tls_security_level=may")})
    user = host.user()
    fate = await serving.fate(serving.send(f"{user}@postfix.signed.test"))
    assert fate.state is State.DELIVERED, fate.result
    assert "DANE: 1 TLSA of mxp.signed.test" in fate.result.tls
    (message,) = await host.mail(user)
    assert "(using TLSv1.3 with cipher" in message["Received"]


async def test_what_is_counted_for_reports(serving, hosts):
    """A day's report about a domain says by which policy its hosts were judged, and how often they failed."""
    for domain in ("fits.signed.test", "strange.signed.test", "sts.plain.test", "any.plain.test"):
        await serving.fate(serving.send(f"user@{domain}"))

    def counted():
        with contextlib.closing(apsw.Connection(str(serving.folder / "data/reports.db"))) as connection:
            rows = [json.loads(row) for (row,) in connection.execute("SELECT row FROM counted")]
        return {(row["domain"], row["policy"], (row.get("failure") or {}).get("result")) for row in rows}

    wanted = {
        ("fits.signed.test", "tlsa", None),
        ("strange.signed.test", "tlsa", "validation-failure"),
        ("sts.plain.test", "sts", None),
        ("any.plain.test", "no-policy-found", None),
    }
    await serving.until(lambda: (serving.folder / "data/reports.db").exists() and wanted <= counted())
