"""`pillarbox check` asks an unbound that validates zones signed here: what counts, what does not, and what is bogus."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
import threading

import dns.dnssec
import dns.dnssecalgs
import dns.rdataset
import dns.zone
import pytest
import trustme
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pillarbox.cli.commands import cli

UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed"),
]
CONFIGURATION = """
server:
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 1
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{folder}"
  interface: 127.0.0.1@{port}
  port: {port}
  module-config: "validator iterator"
  trust-anchor-file: "anchor"
  do-not-query-localhost: no
  local-zone: "test." nodefault
  local-zone: "_dmarc.test." static
remote-control:
  control-enable: no
"""
AUTHORITATIVE = """
auth-zone:
  name: "{name}"
  zonefile: "{name}zone"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""
SIGNED = """
$ORIGIN signed.test.
$TTL 300
@ SOA ns admin 1 7200 900 1209600 60
@ NS ns
ns A 127.0.0.1
fits MX 10 mx1
mx1 A 127.0.0.1
_25._tcp.mx1 TLSA 3 1 1 {key}
strange MX 10 mx2
mx2 A 127.0.0.1
_25._tcp.mx2 TLSA 3 1 1 {nobody}
bogus MX 10 mx3
mx3 A 127.0.0.1
_25._tcp.mx3 TLSA 3 1 1 {key}
free MX 10 mx4
mx4 A 127.0.0.1
"""
PLAIN = """
$ORIGIN plain.test.
$TTL 300
@ SOA ns admin 1 7200 900 1209600 60
@ NS ns
ns A 127.0.0.1
elsewhere MX 10 mx1.signed.test.
vain MX 10 mx
mx A 127.0.0.1
_25._tcp.mx TLSA 3 1 1 {key}
"""
NOBODY = "00" * 32


@pytest.fixture(scope="module")
def host():
    """A mail host with a certificate of its own: its port, and the digest of its key."""
    issued = trustme.CA().issue_cert("whoever.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    key = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening, context), daemon=True).start()
        yield listening.getsockname()[1], digest


def serve(listening, context):
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=greet, args=(connection, context), daemon=True).start()


def greet(connection, context):
    with connection:
        connection.settimeout(20)
        try:
            connection.sendall(b"220 mx.test ESMTP\r\n")
            connection.recv(1000)
            connection.sendall(b"250-mx.test\r\n250 STARTTLS\r\n")
            connection.recv(1000)
            connection.sendall(b"220 go ahead\r\n")
            with context.wrap_socket(connection, server_side=True) as encrypted:
                encrypted.recv(1000)
                encrypted.sendall(b"221 bye\r\n")
        except OSError:
            pass


def signed(text):
    """A zone signed with a new key, and the key as an anchor; afterwards somebody changed a record of mx3."""
    zone = dns.zone.from_text(text, relativize=False)
    private = ed25519.Ed25519PrivateKey.generate()
    public = dns.dnssec.make_dnskey(private.public_key(), dns.dnssecalgs.Algorithm.ED25519, flags=257)
    dns.dnssec.sign_zone(zone, keys=[(private, public)], lifetime=86400, dnskey_ttl=300)
    zone.replace_rdataset(
        "_25._tcp.mx3.signed.test.", dns.rdataset.from_text("IN", "TLSA", 300, f"3 1 1 {NOBODY}")
    )
    return zone.to_text(relativize=False), f"signed.test. 300 IN DNSKEY {public.to_text()}\n"


@pytest.fixture(scope="module")
def names(launch, open_folder, host):
    """The port of a name server that validates."""
    folder = open_folder()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    values = {"key": host[1], "nobody": NOBODY}
    zone, anchor = signed(SIGNED.format(**values))
    (folder / "signed.test.zone").write_text(zone)
    (folder / "plain.test.zone").write_text(PLAIN.format(**values))
    (folder / "anchor").write_text(anchor)
    zones = "".join(AUTHORITATIVE.format(name=name) for name in ("signed.test.", "plain.test."))
    (folder / "unbound.conf").write_text(CONFIGURATION.format(folder=folder, port=port) + zones)
    program = launch(folder / "log", UNBOUND, "-d", "-c", folder / "unbound.conf")
    program.ready(lambda: "start of service" in program.said)
    return port


@pytest.mark.parametrize(
    ("domain", "level", "words", "proposes"),
    [
        ("fits.signed.test", "ok", "shows what its TLSA record says", False),
        ("strange.signed.test", "error", "no certificate fits a TLSA record", True),
        ("bogus.signed.test", "error", "TLSA of mx3.signed.test", False),
        ("free.signed.test", "hint", "mx4.signed.test has no TLSA record", True),
        ("elsewhere.plain.test", "hint", "DNSSEC does not vouch for its MX record", False),
        ("vain.plain.test", "hint", "for which DNSSEC does not vouch", False),
    ],
)
def test_what_is_said_of_tlsa_records(names, host, domain, level, words, proposes):
    port, digest = host
    arguments = ["check", domain, "--resolver", f"127.0.0.1:{names}", "--smtp-port", str(port), "--json"]
    done = CliRunner().invoke(cli, arguments)
    found = [one for one in json.loads(done.output)["remarks"] if one["topic"] == "DANE"]
    (one,) = (one for one in found if words in one["found"])
    assert one["level"] == level
    assert (one["record"] is not None and one["record"]["data"] == f"3 1 1 {digest}") is proposes
