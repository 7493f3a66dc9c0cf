"""The policies of our own domains, as others fetch them."""

import asyncio
import contextlib
import ssl

import pytest
import trustme

from pillarbox.config import parse
from pillarbox.inbound.sts_host import StsHost, StsProtocol, policy_of
from pillarbox.mailauth.mta_sts import Mode, StsPolicy, parse_policy
from pillarbox.net.https import FetchError, fetch

TEXT = str(StsPolicy(Mode.ENFORCE, 604800, ("mx.example.org",)))


@pytest.fixture
async def policies():
    """A listener with the policy of example.org; `ask` sends octets and returns all that comes back."""
    host = StsHost(lambda domain: TEXT if domain == "example.org" else "")
    server = await asyncio.get_running_loop().create_server(lambda: StsProtocol(host), "127.0.0.1", 0)

    async def ask(*pieces):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer

    yield ask
    server.close()


def request(host="mta-sts.example.org", path="/.well-known/mta-sts.txt", method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_a_policy_is_told(policies):
    head, _, body = (await policies(request())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")
    assert b"\r\nContent-Length: %d" % len(TEXT) in head
    assert body.decode() == TEXT
    assert (await policies(request(method="HEAD"))).endswith(b"\r\n\r\n")
    assert (await policies(*(bytes([octet]) for octet in request("MTA-STS.Example.ORG:443")))).endswith(body)


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (request("mta-sts.example.com"), 404),
        (request("example.org"), 404),
        (request(path="/"), 404),
        (request(path="/.well-known/mta-sts.txt?x"), 404),
        (request(method="POST"), 405),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"EHLO client.example\r\n\r\n", 400),
        (b"\xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 9000, 431),
    ],
)
async def test_everything_else_is_refused(policies, octets, status):
    assert (await policies(octets)).startswith(b"HTTP/1.1 %d " % status)


async def test_who_says_nothing_is_sent_away(policies, monkeypatch):
    monkeypatch.setattr("pillarbox.inbound.sts_host._LIMIT_S", 0.1)
    with contextlib.suppress(ConnectionResetError):
        assert await policies(b"GET") == b""


def test_what_the_settings_publish():
    config = parse(
        """
hostname = "mx.example.org"
data = "/var/lib/pillarbox"
[domain."example.org"]
deliver = "hold"
mta_sts = { mode = "testing" }
[domain."b\u00fccher.example"]
deliver = "hold"
mta_sts = { mode = "enforce", mx = ["*.example.org", "MX.example.net."], max_age = "1d" }
[domain."example.com"]
deliver = "hold"
""",
        "pillarbox.toml",
    )
    found = {name: policy_of(one.mta_sts, config.hostname) for name, one in config.domains.items()}
    assert found == {
        "example.org": StsPolicy(Mode.TESTING, 604800, ("mx.example.org",)),
        "b\u00fccher.example": StsPolicy(Mode.ENFORCE, 86400, ("*.example.org", "mx.example.net")),
        "example.com": None,
    }
    assert all(parse_policy(str(one).encode()) == one for one in found.values() if one is not None)


async def test_a_running_server_tells_the_policies_of_its_domains_over_tls(tmp_path, serve_policies):
    authority = trustme.CA()
    issued = authority.issue_cert("mta-sts.example.org")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    port = await serve_policies(tmp_path / "own.pem")
    limits = {"limit_s": 10, "max_octets": 65536, "port": port}
    where = ("mta-sts.example.org", "/.well-known/mta-sts.txt", ["127.0.0.1"])
    octets = await fetch(*where, trusting, **limits)
    assert parse_policy(octets) == StsPolicy(Mode.ENFORCE, 604800, ("mx.example.org",))
    with pytest.raises(FetchError, match="certificate"):
        await fetch(*where, ssl.create_default_context(), **limits)


@pytest.fixture
async def serve_policies(tmp_path):
    """Start a server with a listener for policies; its port."""
    from pillarbox.service import Service  # noqa: PLC0415 - it takes long to load

    services = []

    async def start(certificate):
        services.append(
            Service(
                parse(
                    f"""
hostname = "mx.example.org"
data = "{tmp_path}/data"
[[listen]]
address = "127.0.0.1:0"
role = "policy"
tls = "implicit"
[tls]
certificate = "{certificate}"
key = "{certificate}"
[domain."example.org"]
deliver = "hold"
mta_sts = {{ mode = "enforce" }}
""",
                    "pillarbox.toml",
                )
            )
        )
        (tmp_path / "data").mkdir()
        await services[-1].start()
        return services[-1].addresses[0][1]

    yield start
    for service in services:
        await service.stop()
