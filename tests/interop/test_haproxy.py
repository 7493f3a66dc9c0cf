"""HAProxy in front of Pillarbox: both versions of the PROXY header, TLS behind it, and its own looks at our health."""

import asyncio
import shutil
import socket
import ssl

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("haproxy")]

SETTINGS = """
policy.relay_networks = []
policy.deny_networks = ["127.0.0.66/32"]
proxy.networks = ["127.0.0.1/32"]
tls.certificate = "{pem.chain}"
tls.key = "{pem.key}"
log.level = "debug"
[domain."example.org"]
deliver = "maildir:{{folder}}/mail/{{user}}"
users = ["alice"]
"""
LISTENERS = ('role = "mx"\nproxy_protocol = true', 'role = "mx"\nproxy_protocol = true\ntls = "implicit"')
CONFIG = """
global
    log stderr format raw local0
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
"""
PAIR = """
listen {name}
    bind 127.0.0.1:{front}
    server pillarbox 127.0.0.1:{back} source 127.0.0.1 {send} check inter 200ms
"""
WAYS = {"one": (0, "send-proxy"), "two": (0, "send-proxy-v2"), "tls": (1, "send-proxy-v2")}


@pytest.fixture(scope="module")
def serving(serve, pem):
    return serve(SETTINGS.format(pem=pem), LISTENERS)


@pytest.fixture(scope="module")
def fronts(launch, open_folder, serving, unused_port):
    """The ports of HAProxy, by the way that it takes to Pillarbox."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin") or pytest.skip("haproxy is not installed")
    folder, ports = open_folder(), {name: unused_port() for name in WAYS}
    pairs = (
        PAIR.format(name=name, front=ports[name], back=serving.ports[listener], send=send)
        for name, (listener, send) in WAYS.items()
    )
    (folder / "haproxy.cfg").write_text(CONFIG + "".join(pairs))
    running = launch(folder / "log", program, "-db", "-f", folder / "haproxy.cfg")
    running.ready(lambda: all(map(listens, ports.values())))
    return ports


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def call(port, source, tls=None):
    """Connect from an address of this machine; the streams."""
    server = "mx.example.org" if tls else None
    return await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(source, 0), ssl=tls, server_hostname=server
    )


async def replies(reader, writer, *lines):
    found = []
    for line in (None, *lines):
        if line is not None:
            writer.write(line + b"\r\n")
        while True:
            reply = await asyncio.wait_for(reader.readline(), 20)
            if reply[3:4] != b"-":
                break
        found.append(reply)
    return found


MESSAGE = (
    b"EHLO client.example",
    b"MAIL FROM:<a@sender.example>",
    b"RCPT TO:<alice@example.org>",
    b"DATA",
    b"Subject: %b\r\n\r\nx\r\n.",
)


@pytest.mark.parametrize("way", WAYS)
async def test_the_address_of_the_client_comes_through(serving, fronts, pem, way):
    tls = ssl.create_default_context(cafile=pem.authority) if way == "tls" else None
    reader, writer = await call(fronts[way], "127.0.0.77", tls)
    lines = (*MESSAGE[:-1], MESSAGE[-1] % way.encode())
    assert [reply[:3] for reply in await replies(reader, writer, *lines)] == [
        b"220",
        b"250",
        b"250",
        b"250",
        b"354",
        b"250",
    ]
    writer.close()
    await writer.wait_closed()
    await serving.until(lambda: [one for one in serving.peek("alice") if one["Subject"] == way])
    (message,) = [one for one in serving.peek("alice") if one["Subject"] == way]
    assert message["Received"].startswith("from client.example ([127.0.0.77])")


@pytest.mark.parametrize("way", ["one", "two"])
async def test_a_client_that_is_denied_is_refused_behind_the_balancer(fronts, way):
    reader, writer = await call(fronts[way], "127.0.0.66")
    (greeting,) = await replies(reader, writer)
    assert greeting.startswith(b"554 ")
    writer.close()
    await writer.wait_closed()


async def test_its_looks_at_our_health_are_no_trouble(serving, fronts):
    await serving.until(lambda: len(serving.events("session.opened")) > 3)
    assert not serving.events("session.proxy_refused")


async def test_a_client_that_goes_around_the_balancer_is_cut_off(serving, fronts):
    reader, writer = await call(serving.ports[0], "127.0.0.88")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    await writer.wait_closed()
    await serving.until(lambda: serving.events("session.proxy_refused"))
    assert serving.events("session.proxy_refused")[-1]["client"] == "127.0.0.88"
