"""What single hosts must do before they get mail: show a key that is known, come from one authority, speak a newer TLS."""

import base64
import hashlib
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pillarbox import testing
from pillarbox.relay.demand import by_route
from pillarbox.relay.peers import Peers, PeerSettings
from pillarbox.relay.plan import Tls
from pillarbox.relay.session import Patience
from pillarbox.testing import FakeResolver, ScriptedPeer, StartTls

HASTY = Patience(connect_s=2, command_s=2, tls_s=2, end_s=2, quit_s=0.1)


class Host:
    def __init__(self, folder):
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.ca_file = str(folder / "ca.pem")
        issued = self.authority.issue_cert("mx.there.test")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(self.context)
        key = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).public_key()
        octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.pin = f"sha256/{base64.b64encode(hashlib.sha256(octets).digest()).decode()}"


OTHER_PIN = f"sha256/{base64.b64encode(bytes(32)).decode()}"


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def deliver(courier_for, host, monkeypatch):
    """Send a message to there.test, whose exchanger offers TLS with `host`'s certificate or, without it, none."""

    async def send(*peers, tls=True, implicit=False):
        script = {"STARTTLS": StartTls(host.context)} if tls and not implicit else {}
        extensions = ("STARTTLS",) if tls and not implicit else ()
        context = host.context if implicit else None
        async with ScriptedPeer(script, host="127.0.0.2", extensions=extensions, tls=context) as peer:
            monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", peer.port)
            resolver = FakeResolver(
                mx={"there.test": [(10, "mx.there.test")]}, addresses={"mx.there.test": ["127.0.0.2"]}
            )
            route = f"smtp://mx.there.test:{peer.port}?tls=implicit" if implicit else "mx:there.test"
            courier = courier_for(route, resolver=resolver, patience=HASTY, peers=peers)
            result = (await courier.deliver(testing.letter("b@there.test")))[0]
            assert bool(peer.messages) == result.reply.positive
            return result

    return send


def told(result):
    return "taken" if result.reply.positive else result.reply.cause_id


@pytest.mark.parametrize("implicit", [False, True])
async def test_a_key_that_is_known_needs_no_authority(deliver, host, implicit):
    known = PeerSettings(host="*.there.test", pins=(OTHER_PIN, host.pin))
    assert told(await deliver(known, implicit=implicit)) == "taken"
    wrong = await deliver(PeerSettings(host="mx.there.test", pins=(OTHER_PIN,)), implicit=implicit)
    assert told(wrong) == "delivery.tls_failed"
    assert wrong.reply.temporary


async def test_an_authority_of_ones_own_has_to_vouch(deliver, host, tmp_path):
    assert told(await deliver(PeerSettings(host="mx.there.test", ca_file=host.ca_file))) == "taken"
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    other = await deliver(PeerSettings(host="MX.there.test", ca_file=str(tmp_path / "other.pem")))
    assert told(other) == "delivery.tls_failed"
    assert "certificate" in other.reply.text


async def test_a_version_of_tls_may_be_demanded(deliver, host):
    newer = PeerSettings(host="mx.there.test", min_tls="1.3")
    assert told(await deliver(newer)) == "taken"
    host.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert told(await deliver(newer)) == "delivery.tls_failed"
    assert told(await deliver()) == "taken"
    assert told(await deliver(PeerSettings(host="elsewhere.test", min_tls="1.3"))) == "taken"


async def test_nothing_goes_to_such_a_host_in_clear(deliver):
    assert told(await deliver(tls=False)) == "taken"
    assert told(await deliver(PeerSettings(host="mx.there.test"), tls=False)) == "delivery.tls_not_offered"


def test_the_first_entry_that_fits_counts_and_pins_must_be_hashes():
    usual = by_route(Tls.OPPORTUNISTIC, verify=True)
    peers = Peers(
        [PeerSettings(host="*.a.test", min_tls="1.3"), PeerSettings(host="mx.a.test", ca_file="/x.pem")]
    )
    assert peers.demand("mx.a.test.", usual).min_version == "1.3"
    assert peers.demand("a.test", usual) == usual
    for pin in ("sha256/AAAA", "sha1/AAAA", "x"):
        with pytest.raises(ValueError, match="not the hash of a key"):
            PeerSettings(host="mx.a.test", pins=(pin,))
