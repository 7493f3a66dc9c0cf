"""TLS reports are posted by HTTPS, to public addresses and hosts that prove their name."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from pillarbox.net.report_post import post_report

OK = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def service(tmp_path):
    """A web service: what it got, and what it answers."""

    class Service:
        def __init__(self):
            self.answer, self.got = OK, []

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        service.got = [head, await reader.readexactly(length)]
        writer.write(service.answer)
        await writer.drain()
        writer.close()

    service = Service()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    service.port = server.sockets[0].getsockname()[1]
    service.ca = str(tmp_path / "ca.pem")
    yield service
    server.close()


async def test_a_report_is_posted(service):
    url = f"https://localhost:{service.port}/report?x=1"
    assert await post_report(url, b"packed", ca_file=service.ca, allow_private=True) == ""
    head, body = service.got
    assert head.startswith(b"POST /report?x=1 HTTP/1.1\r\n")
    assert b"Content-Type: application/tlsrpt+gzip\r\n" in head
    assert f"Host: localhost:{service.port}\r\n".encode() in head
    assert body == b"packed"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nlater", "503 later"),
        (b"HTTP/1.1 302 No\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "302"),
        (b"what?\r\n\r\n", ""),
    ],
)
async def test_what_is_not_taken_is_told(service, answer, problem):
    service.answer = answer
    said = await post_report(
        f"https://localhost:{service.port}/", b"x", ca_file=service.ca, allow_private=True
    )
    assert said
    assert said.startswith(problem)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "https://a:b@localhost/", "https://", "https://[", "nonsense"]
)
async def test_only_https_is_posted_to(url):
    assert await post_report(url, b"x", allow_private=True)


async def test_private_addresses_and_strangers_get_nothing(service):
    url = f"https://localhost:{service.port}/"
    assert "no public address" in await post_report(url, b"x", ca_file=service.ca)
    assert "certificate" in (await post_report(url, b"x", allow_private=True)).lower()
    assert service.got == []
