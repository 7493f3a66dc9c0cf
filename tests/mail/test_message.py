"""Header scanning and the fields a hop adds."""

from __future__ import annotations

import email
import email.policy
from email.utils import parsedate_to_datetime

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail import message

NOW = 1_764_000_000.7  # Mon, 24 Nov 2025 16:00:00 UTC

SAMPLE = (
    b"Received: from a by b; date\r\n"
    b"Received-SPF: pass\r\n"
    b"received : obsolete form\r\n"
    b"Subject: one\r\n\ttwo\r\n three\r\n"
    b"X-Empty:\r\n"
    b"X-Twice: 1\r\n"
    b"x-twice: 2\r\n"
    b"\r\n"
    b"Received: in the body\r\n\r\nText\r\n"
)


def test_scan_finds_fields_hops_and_body():
    head = message.scan_head(SAMPLE)
    assert SAMPLE[head.body_at :].startswith(b"Received: in the body")
    assert head.section.endswith(b"x-twice: 2\r\n")
    assert head.complete
    assert head.hops == 2
    assert not head.eight_bit
    assert head.get("Subject") == "one\ttwo three"
    assert head.get("x-empty") == ""
    assert "X-Empty" in head
    assert "X-Emp" not in head
    assert head.get_all("X-Twice") == ["1", "2"]
    assert head.get_all("X-Twice", limit=1) == ["1"]
    assert head.get("missing") == ""


def test_scan_without_header_or_without_end():
    for start in (b"\r\n", b"\n"):
        head = message.scan_head(start + b"Received: x\r\n\r\n")
        assert (head.hops, head.section, head.body_at, head.complete) == (
            0,
            b"",
            len(start),
            True,
        )
    head = message.scan_head(b"Subject: x\r\nmore", 1000)
    assert (head.complete, head.body_at, head.get("subject")) == (False, 16, "x")
    head = message.scan_head(b"A: " + b"b" * 1000 + b"\r\n\r\n", 100)
    assert (head.complete, head.body_at, len(head.section)) == (False, 100, 100)
    assert message.scan_head(b"").body_at == 0


def test_scan_bare_line_feeds_and_utf8():
    head = message.scan_head("Subject: Grüße\nTo: b\n\nBody\r\n\r\n".encode())
    assert head.get("subject") == "Grüße"
    assert head.get("to") == "b"
    assert head.eight_bit
    assert head.body_at == len("Subject: Grüße\nTo: b\n\n".encode())


def test_empty_field_does_not_take_the_next_one():
    assert message.scan_head(b"A:\r\nB: 2\r\n\r\n").get("a") == ""


@given(st.binary(max_size=400), st.integers(0, 400))
def test_scan_never_fails_and_stays_within_limit(data, limit):
    head = message.scan_head(data, limit)
    assert head.body_at <= max(limit + 2, 2)
    assert head.section == data[: len(head.section)]
    head.get("subject")
    head.get_all("received")


def test_scan_is_linear_on_hostile_heads():
    for piece in (
        b"a:\n ",
        b"Received:",
        b"\nreceived",
        b"\nsubject  ",
        b"\n ",
        b"\r\r\n",
    ):
        head = message.scan_head(piece * 300_000, 1_000_000)
        head.get("subject")
        head.get_all("received")


def test_received_field_is_readable_and_exact():
    field = message.received_field(
        hostname="mx.example.org",
        protocol="ESMTPS",
        queue_id="0ABC",
        now=NOW,
        helo="client.example.net",
        client="192.0.2.7",
        client_name="rdns.example.net",
        recipient="bob@example.org",
        tls_cipher="TLS_AES_256_GCM_SHA384",
    )
    assert field == (
        b"Received: from client.example.net (rdns.example.net [192.0.2.7])\r\n"
        b"\tby mx.example.org (Pillarbox) with ESMTPS id 0ABC\r\n"
        b"\tfor <bob@example.org>\r\n"
        b"\ttls TLS_AES_256_GCM_SHA384;\r\n"
        b"\tMon, 24 Nov 2025 16:00:00 +0000\r\n"
    )


def test_received_field_for_local_mail_and_ipv6():
    field = message.received_field(hostname="h", protocol="ESMTP", queue_id="1", now=NOW)
    assert field.startswith(b"Received: by h (Pillarbox) with ESMTP id 1;\r\n\tMon,")
    field = message.received_field(
        hostname="h",
        protocol="SMTP",
        queue_id="1",
        now=NOW,
        helo="",
        client="2001:db8::1",
    )
    assert field.startswith(b"Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\tby h ")


def test_openssl_cipher_names_become_registered_ones():
    for given_name, registered in {
        "ECDHE-RSA-AES256-GCM-SHA384": b"tls TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;",
        "ECDHE-ECDSA-CHACHA20-POLY1305": b"tls TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;",
        "DHE-RSA-AES128-SHA": b"tls TLS_DHE_RSA_WITH_AES_128_CBC_SHA;",
        "ECDHE-RSA-AES256-SHA384": b"tls TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384;",
    }.items():
        field = message.received_field(hostname="h", protocol="S", queue_id="1", now=0, tls_cipher=given_name)
        assert registered in field
    assert b"tls" not in message.received_field(
        hostname="h", protocol="S", queue_id="1", now=0, tls_cipher="odd; x"
    )


@given(st.text(max_size=600), st.text(max_size=600))
def test_received_field_cannot_be_split(helo, recipient):
    field = message.received_field(
        hostname="h",
        protocol="ESMTP",
        queue_id="1",
        now=NOW,
        helo=helo,
        client="::1",
        recipient=recipient,
    )
    lines = field.split(b"\r\n")
    assert lines[-1] == b""
    assert all(line.startswith(b"\t") for line in lines[1:-1])
    assert len(lines) <= 5
    assert all(len(line) < 998 * 2 for line in lines)
    assert b"\r" not in field.replace(b"\r\n", b"")
    assert b"\n" not in field.replace(b"\r\n", b"")


@given(st.text(max_size=100))
def test_address_fields_cannot_be_split(text):
    for field in (message.return_path(text), message.delivered_to(text)):
        assert field.endswith(b"\r\n")
        assert field.count(b"\n") == field.count(b"\r") == 1


def test_protocol_names():
    name = message.protocol_name
    assert name() == "ESMTP"
    assert name(extended=False) == "SMTP"
    assert name(tls=True, login=True) == "ESMTPSA"
    assert name(lmtp=True, login=True) == "LMTPA"
    assert name(smtputf8=True, tls=True) == "UTF8SMTPS"
    assert name(lmtp=True, smtputf8=True) == "UTF8LMTP"


@given(st.integers(0, 4_000_000_000))
def test_dates_read_back(second):
    assert parsedate_to_datetime(message.format_date(second)).timestamp() == second


def test_completing_fields_adds_only_what_is_missing():
    added = message.completing_fields(
        message.scan_head(b"Subject: x\r\n\r\n"),
        hostname="h.example",
        now=NOW,
        random=bytes(8),
        sender="a@b",
    )
    fields = email.message_from_bytes(added, policy=email.policy.default)
    assert fields["date"].datetime.timestamp() == int(NOW)
    assert fields["from"] == "a@b"
    assert fields["message-id"].endswith(".0000000000000000@h.example>")
    full = b"From: a@b\r\nDATE: x\r\nMessage-Id: <y>\r\n\r\n"
    assert (
        message.completing_fields(message.scan_head(full), hostname="h", now=NOW, random=b"", sender="a@b")
        == b""
    )
    assert message.return_path("") == b"Return-Path: <>\r\n"
