"""What a handshake of a listener begins with."""

import trustme

from pillarbox.net.certificates import find_certificates
from pillarbox.net.handshakes import ListenerTls, new_contexts
from pillarbox.net.tls import TlsManner, TlsSettings


def test_the_first_handshake_of_a_new_worker_knows_whom_to_trust_by_now(tmp_path):
    """It begins with a context of its parent's, whose keys open sessions begun under the old authority."""
    old, new, authority = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    issued = new.issue_cert("mx.example.org")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "mx.pem"))
    old.cert_pem.write_to_path(str(authority))
    manner = TlsManner(asks=True)
    (inherited,) = new_contexts([manner], str(authority))
    new.cert_pem.write_to_path(str(authority))
    settings = TlsSettings(
        certificate=str(tmp_path / "mx.pem"), key=str(tmp_path / "mx.pem"), client_ca=str(authority)
    )
    certificates = find_certificates(settings, (), tmp_path, "mx.example.org")
    assert ListenerTls(certificates, manner, inherited).context is not inherited
