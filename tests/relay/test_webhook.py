import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Seconds
from pillarbox.net.public_hosts import is_public
from pillarbox.queue.spool import Content, Pending, Queued, format_id
from pillarbox.relay.local import LocalCouriers, LocalSettings
from pillarbox.relay.webhook import WebhookSettings, _json_pieces, retry_after

ROUTE = Route(Transport.WEBHOOK, "crm")
BODY = b"Subject: =?utf-8?q?hi?=\r\nX-Long: a\r\n b\r\nTo: \xc3\xbc\xff@x\r\nno colon\r\n\r\nbody\r\n"


class Service(ThreadingHTTPServer):
    """A web service that keeps what it got and answers as told."""

    daemon_threads = True

    def __init__(self):
        self.got = []
        self.status, self.headers, self.text = 200, {}, b"ok"
        self.wait = threading.Event()
        self.wait.set()
        super().__init__(("127.0.0.1", 0), Request)


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        self.server.wait.wait(60)
        self.send_response(self.server.status)
        for name, value in {"Content-Length": str(len(self.server.text)), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(self.server.text)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.wait.set()
    server.shutdown()
    thread.join()
    server.server_close()


def make_queued(body=BODY, path=None, sender="bob@example.net"):
    recipient = Recipient("alice@example.org", original="sales@example.org")
    pending = Pending(0x123456789, 2, recipient, ROUTE, 0.0, 1)
    content = Content(b"Received: x\r\n", None if path else body, path, len(body))
    return Queued(0x123456789, Envelope(sender, (recipient,)), 1000.0, [pending], content)


async def post(service, queued=None, **settings):
    if service is not None:
        settings = {
            "url": f"http://127.0.0.1:{service.server_port}/in?x=1",
            "allow_private": True,
            **settings,
        }
    local = LocalSettings(webhook={"crm": WebhookSettings(**settings)})
    couriers = LocalCouriers(local, hostname="mx.example.org")
    try:
        return (await couriers(ROUTE).deliver(queued or make_queued()))[2]
    finally:
        await couriers.close()


def check_signature(headers, body, secret):
    signed = headers["X-Pillarbox-Timestamp"].encode() + b"." + body
    assert (
        headers["X-Pillarbox-Signature"] == "sha256=" + hmac.new(secret, signed, hashlib.sha256).hexdigest()
    )
    assert abs(time.time() - float(headers["X-Pillarbox-Timestamp"])) < 300


async def test_json_carries_everything_signed(service):
    result = await post(service, secret="key", headers={"Authorization": "Bearer t"})
    assert result.reply.cause_id == "delivery.delivered"
    ((path, headers, body),) = service.got
    assert path == "/in?x=1"
    check_signature(headers, body, b"key")
    assert headers["Host"] == f"127.0.0.1:{service.server_port}"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == f"{format_id(0x123456789)}-2"
    assert headers["Authorization"] == "Bearer t"
    facts = json.loads(body)
    assert facts["queue_id"] == format_id(0x123456789)
    assert facts["received_at"] == "1970-01-01T00:16:40Z"
    assert (facts["attempt"], facts["recipient_number"]) == (2, 2)
    assert facts["envelope"] == {
        "sender": "bob@example.net",
        "recipient": "alice@example.org",
        "original_recipient": "sales@example.org",
        "body": "7BIT",
        "smtputf8": False,
    }
    assert facts["headers"] == [
        ["Received", "x"],
        ["Subject", "=?utf-8?q?hi?="],
        ["X-Long", "a b"],
        ["To", "ü\ufffd@x"],
    ]
    assert base64.b64decode(facts["message"], validate=True) == b"Received: x\r\n" + BODY
    assert facts["octets"] == len(BODY) + 13


async def test_mime_is_the_message_with_its_envelope_in_front(service):
    result = await post(
        service, make_queued(sender='"a\tb"ü@x'.replace("\t", "")), secret="key", format="mime"
    )
    assert result.reply.positive
    ((_, headers, body),) = service.got
    check_signature(headers, body, b"key")
    assert headers["Content-Type"] == "message/rfc822"
    assert headers["X-Pillarbox-Sender"] == '"ab"%C3%BC@x'
    assert headers["X-Pillarbox-Recipient"] == "alice@example.org"
    fields = 'Return-Path: <"ab"ü@x>\r\nDelivered-To: alice@example.org\r\nReceived: x\r\n'.encode()
    assert body == fields + BODY


@pytest.mark.parametrize("kind", ["json", "mime"])
async def test_a_large_message_is_streamed_from_its_file(service, tmp_path, kind):
    content = b"Subject: big\r\n\r\n" + b"0123456789\r\n" * 100_000
    file = tmp_path / "body"
    file.write_bytes(content)
    result = await post(service, make_queued(content, file), secret="key", format=kind)
    assert result.reply.positive
    ((_, headers, body),) = service.got
    check_signature(headers, body, b"key")
    whole = base64.b64decode(json.loads(body)["message"]) if kind == "json" else body
    assert whole.endswith(b"Received: x\r\n" + content)


async def test_without_a_secret_nothing_is_signed(service):
    await post(service)
    assert "X-Pillarbox-Signature" not in service.got[0][1]


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (200, "delivered"),
        (204, "delivered"),
        (302, "webhook_deferred"),
        (400, "webhook_refused"),
        (404, "webhook_refused"),
        (408, "webhook_deferred"),
        (413, "webhook_refused"),
        (425, "webhook_deferred"),
        (429, "webhook_deferred"),
        (500, "webhook_deferred"),
        (503, "webhook_deferred"),
    ],
)
async def test_the_status_decides(service, status, cause):
    service.status, service.headers = status, {"Location": f"http://127.0.0.1:{service.server_port}/other"}
    service.text = b"" if status == 204 else "because\r\n550 of groß \x1b".encode()
    result = await post(service)
    assert result.reply.cause_id == f"delivery.{cause}"
    assert len(service.got) == 1  # no redirect is followed
    if status != 204 and not result.reply.positive:
        assert f"{status} because 550 of groß \\x1b" in result.reply.text


async def test_retry_after_is_handed_on(service):
    service.status, service.headers = 503, {"Retry-After": "120"}
    assert (await post(service)).wait_s == 120.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("99999999", 86400.0),
        ("Thu, 01 Jan 1970 00:17:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 9999 00:00:00 GMT", 86400.0),
        ("-5", 0.0),
        ("+5", 0.0),
        ("1_0", 0.0),
        ("\u0661", 0.0),
        ("9" * 5000, 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_bounded(value, seconds):
    assert retry_after(value, 1000.0) == seconds


async def test_an_endless_answer_is_cut_off(service):
    service.status, service.text = 500, b"x" * 50_000_000
    result = await post(service)
    assert result.reply.cause_id == "delivery.webhook_deferred"
    assert len(result.reply.text) < 400


async def test_a_service_that_does_not_answer_in_time(service):
    service.wait.clear()
    result = await post(service, limit_s=Seconds(0.2))
    assert result.reply.cause_id == "delivery.webhook_deferred"
    assert "within 0.2 seconds" in result.reply.text


async def test_a_service_that_is_not_there(service):
    port = service.server_port
    service.server_close()
    result = await post(None, url=f"http://127.0.0.1:{port}/", allow_private=True)
    assert result.reply.cause_id == "delivery.webhook_deferred"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0", "127.1"]
)
async def test_private_addresses_need_to_be_allowed(service, host):
    result = await post(None, url=f"http://{host}:{service.server_port}/")
    assert result.reply.cause_id == "delivery.webhook_deferred"
    assert service.got == []
    assert "allow_private" in result.reply.text


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:a00:1::", False),
        ("::10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("64:ff9b:1::a00:1", False),
        ("fec0::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) == public


async def test_a_name_that_changes_its_address_after_the_check_leads_nowhere_else(service, monkeypatch):
    """DNS rebinding: the name is asked once, and what was checked is what is connected to."""
    asked = []

    async def answer(host, port, **_options):
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.99"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer)
    result = await post(service, url=f"http://rebinding.example:{service.server_port}/in")
    assert result.reply.positive
    assert asked == ["rebinding.example"]
    ((_, headers, _),) = service.got
    assert headers["Host"] == f"rebinding.example:{service.server_port}"


async def test_the_certificate_must_be_that_of_the_name(service, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    port = service.server_port
    good = await post(None, url=f"https://localhost:{port}/", allow_private=True, ca_file=str(trusted))
    assert good.reply.positive
    assert service.got[0][1]["Host"] == f"localhost:{port}"
    for url, ca_file in ((f"https://127.0.0.1:{port}/", str(trusted)), (f"https://localhost:{port}/", "")):
        bad = await post(None, url=url, allow_private=True, ca_file=ca_file)
        assert bad.reply.cause_id == "delivery.webhook_deferred"
        assert "certificate" in bad.reply.text.lower()
    lost = await post(None, url="https://localhost/", allow_private=True, ca_file=str(tmp_path / "no.pem"))
    assert (lost.reply.cause_id, "No such file" in lost.reply.text) == ("delivery.webhook_deferred", True)
    assert len(service.got) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://x/"},
        {"url": "https:///x"},
        {"url": "https://user:pw@x/"},
        {"url": "x"},
        {"url": "https://x/", "headers": {"Host": "y"}},
        {"url": "https://x/", "headers": {"A b": "y"}},
        {"url": "https://x/", "headers": {"A": "y\r\nB: c"}},
        {"url": "https://x/", "format": "xml"},
        {"url": "https://x/", "colour": "red"},
    ],
)
def test_a_broken_configuration_is_refused(settings):
    with pytest.raises((ValueError, msgspec.ValidationError)):
        msgspec.convert(settings, WebhookSettings)


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_any_message_makes_sound_json(body, sender):
    queued = make_queued(body, sender=sender.decode("utf-8", "surrogateescape"))
    facts = json.loads(b"".join(_json_pieces(queued, queued.pending[0])))
    assert base64.b64decode(facts["message"]) == b"Received: x\r\n" + body
