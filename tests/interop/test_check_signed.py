"""`pillarbox check` asks an unbound that validates zones signed here: what counts, what does not, and what is bogus."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
import threading

import pytest
import trustme
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pillarbox.cli.commands import cli

UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed"),
]
SIGNED = """
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


@pytest.fixture(scope="module")
def names(serve_zones, host):
    """The port of a name server that validates."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    values = {"key": host[1], "nobody": NOBODY}
    place = f'interface: 127.0.0.1@{port}\n  port: {port}\n  local-zone: "_dmarc.test." static'
    serve_zones(SIGNED.format(**values), PLAIN.format(**values), place)
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
