"""What `pillarbox domain dns` prints goes into a zone as it is, and `pillarbox check` then finds nothing to mend.

The zone is signed and served by an unbound that validates, the hosts and the policy are a running server's.
"""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import trustme
from click.testing import CliRunner

from pillarbox.cli.commands import cli

UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed"),
]
DOMAIN, HOST = "ours.signed.test", "mx.signed.test"
SETTINGS = f"""
[[certificate]]
chain = "{{certs}}/ecdsa.pem"
[[certificate]]
chain = "{{certs}}/rsa.pem"
[domain."{DOMAIN}"]
deliver = "hold"
mta_sts = {{{{ mode = "enforce", mx = ["{HOST}"] }}}}
"""
SIGNED = """
mx A 127.0.0.1
mx3 A 127.0.0.1
"""


def pillarbox(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture(scope="module")
def checked(serve, serve_zones, open_folder):
    """Publish what is printed for a server, and check the domain."""
    certs, authority = open_folder(), trustme.CA()
    authority.cert_pem.write_to_path(str(certs / "ca.pem"))
    for kind in (trustme.KeyType.ECDSA, trustme.KeyType.RSA):
        issued = authority.issue_cert(HOST, f"mta-sts.{DOMAIN}", key_type=kind)
        issued.private_key_and_cert_chain_pem.write_to_path(str(certs / f"{kind.name.lower()}.pem"))
    server = serve(SETTINGS.format(certs=certs), ['role = "mx"', 'role = "policy"\ntls = "implicit"'])
    config = ("--config", server.folder / "pillarbox.toml")
    made = pillarbox("dkim", "new", DOMAIN, *config, "--json")
    assert made.exit_code == 0, made.output
    selector = json.loads(made.stdout)[0]["selector"]
    printed = pillarbox("domain", "dns", DOMAIN, "--host", HOST, "--dmarc", "reject", *config)
    assert printed.exit_code == 0, printed.output
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    place = f'interface: 127.0.0.1@{port}\n  port: {port}\n  local-zone: "_dmarc.test." static'
    serve_zones(SIGNED + printed.output, "", place)

    def check(*arguments):
        return pillarbox(
            "check", DOMAIN, "--resolver", f"127.0.0.1:{port}", "--smtp-port", server.ports[0], "--https-port",
            server.ports[1], "--ca-file", certs / "ca.pem", "--selector", selector, *config, *arguments,
        )  # fmt: skip

    return check


def test_there_is_nothing_to_mend(checked):
    done = checked("--fail-on", "hint", "--sending", "127.0.0.1", "--json")
    remarks = json.loads(done.stdout)["remarks"]
    assert [(one["topic"], one["found"]) for one in remarks if one["level"] != "ok"] == []
    assert done.exit_code == 0
    said = [one["found"] for one in remarks]
    for words in (
        f"mail goes to 10 {HOST}",
        "127.0.0.1 may send for the domain (mx)",
        "ed25519",
        "2048 bits",
        "v=DMARC1; p=reject",
        "encrypts with TLSv1.3 and a good certificate",
        "shows what its TLSA record says: 3 1 1",
        "demands encryption from senders (mode enforce)",
        "v=TLSRPTv1",
    ):
        assert any(words in one for one in said), said
