"""Delivery reports: what people read, what programs read, and what hostile input can't do."""

from __future__ import annotations

import email
import email.policy
from email.headerregistry import Address as HeaderAddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pillarbox.mail import dsn
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.dsn import ReportedRecipient, ReportKind
from pillarbox.mail.envelope import Body, Envelope, Notify, Recipient, Ret, Terms
from pillarbox.mail.message import parse_date
from pillarbox.mail.reply import Origin, Reply, Result, Stage, parse_reply
from pillarbox.queue.schedule import left_alone

RECEIVED = 1_764_000_000.0
NOW = 1_764_000_200.0
ORIGINAL = (
    b"From: alice@example.org\r\n"
    b"Subject: Invoice\r\n"
    b"Date: Mon, 24 Nov 2025 16:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
    b"\r\n"
    b"The secret body\r\n"
)
UNKNOWN = Result(parse_reply([b"550 5.1.1 No such user"]), Stage.RCPT, Origin.PEER, "mx.example.net")
DOWN = Result(
    delivery.CONNECT_FAILED.reply(host="mx.example.com", detail="refused"),
    Stage.CONNECT,
    Origin.LOCAL,
    "mx.example.com",
)
DONE = Result(parse_reply([b"250 2.0.0 kept"]), Stage.BODY, Origin.PEER, "mx.example.net")


def failed(address="bob@example.net", result=UNKNOWN, **values):
    return ReportedRecipient(Recipient(address, **values), ReportKind.FAILED, result, NOW)


def build(*recipients, envelope=None, original=(ORIGINAL,), **values):
    arguments = {
        "hostname": "mx.example.org",
        "postmaster": "postmaster@example.org",
        "envelope": envelope or Envelope("alice@example.org", tuple(found.recipient for found in recipients)),
        "queue_id": "0ABCDEF",
        "received_at": RECEIVED,
        "now": NOW,
        "message_id": "<18c.0123456789abcdef@mx.example.org>",
        "recipients": recipients,
        "original": original,
    }
    return dsn.build(**arguments | values)


def read(octets):
    """What Python's own mail package makes of it: the message, its three parts, the groups of fields."""
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert not message.defects
    parts = list(message.iter_parts())
    return message, parts, parts[1].get_payload()


def flat(text):
    """Format=flowed text with its paragraphs on one line each."""
    return text.replace(" \r\n", " ").replace(" \n", " ")


def test_failure_as_others_read_it():
    report, octets = build(failed(orcpt="rfc822;Bob@example.net"))
    assert report == Envelope("", (Recipient("alice@example.org", Notify.NEVER),))
    message, parts, groups = read(octets)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["auto-submitted"] == "auto-replied"
    assert message["subject"] == "Not delivered: bob@example.net"
    assert message["from"].addresses[0] == HeaderAddress(
        "Mail delivery at mx.example.org", "postmaster", "example.org"
    )
    assert message["to"] == "alice@example.org"
    assert message["in-reply-to"] == "<1@example.org>"
    assert [part.get_content_type() for part in parts] == [
        "text/plain",
        "message/delivery-status",
        "message/rfc822",
    ]
    assert groups[0].items() == [
        ("Reporting-MTA", "dns; mx.example.org"),
        ("Arrival-Date", "Mon, 24 Nov 2025 16:00:00 +0000"),
        ("X-Pillarbox-Queue-ID", "0ABCDEF"),
    ]
    assert groups[1].items() == [
        ("Original-Recipient", "rfc822; Bob@example.net"),
        ("Final-Recipient", "rfc822; bob@example.net"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.example.net"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 No such user"),
        ("Last-Attempt-Date", "Mon, 24 Nov 2025 16:03:20 +0000"),
        ("X-Pillarbox-Cause", "peer"),
    ]
    assert parts[2].get_payload()[0].as_bytes() == ORIGINAL.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mx.example.net", "dns; mx.example.net"),
        ("mx.example.net[192.0.2.1]", "dns; mx.example.net"),
        ("mx.example.net[2001:db8::1]:2525", "dns; mx.example.net"),
        ("[192.0.2.1]", "dns; [192.0.2.1]"),
        ("[192.0.2.1]:2525", "dns; [192.0.2.1]"),
        ("[2001:db8::1]:2525", "dns; [IPv6:2001:db8::1]"),
        ("[/run/lmtp.sock]", None),
        ("", None),
    ],
)
def test_the_remote_mta_is_a_domain_name_or_an_address_literal(host, name):
    one = failed()
    _, _, groups = read(build(replace(one, result=replace(one.result, host=host)))[1])
    assert groups[1]["remote-mta"] == name


def test_text_tells_a_person_everything():
    _, parts, _ = read(build(failed())[1])
    text = flat(parts[0].get_content())
    for phrase in (
        "could not be delivered to bob@example.net",
        "Why: ",
        "mx.example.net said:",
        "> 550 5.1.1 No such user",
        "will not try again",
        "What you can do: ",
        "Who has to act: You, the sender",
        "Subject: Invoice",
        "Queue id: 0ABCDEF",
    ):
        assert phrase in text


def test_delay_says_until_when():
    waiting = ReportedRecipient(
        Recipient("bob@example.com"), ReportKind.DELAYED, DOWN, NOW, RECEIVED + 432000
    )
    octets = build(waiting)[1]
    message, parts, groups = read(octets)
    assert message["subject"] == "Delayed: bob@example.com"
    assert groups[1]["action"] == "delayed"
    assert groups[1]["status"] == "4.4.1"
    assert groups[1]["will-retry-until"] == "Sat, 29 Nov 2025 16:00:00 +0000"
    assert groups[1]["diagnostic-code"].startswith("x-pillarbox; ")
    assert groups[1]["x-pillarbox-cause"] == "delivery.connect_failed"
    text = flat(parts[0].get_content())
    assert "Do not send it again" in text
    assert "tried again until Sat, 29 Nov 2025" in text
    assert parts[2].get_content_type() == "text/rfc822-headers"
    assert b"secret body" not in octets


@pytest.mark.parametrize(
    ("result", "advice"),
    [
        (
            Result(parse_reply([b"451 4.3.0 later"]), Stage.RCPT, Origin.PEER, "h"),
            "reach the recipient in another way",
        ),
        (DOWN, "Find out whether the trouble is over before you send it again"),
        (
            Result(delivery.IN_DOUBT.reply(host="h"), Stage.BODY, Origin.LOCAL, "h"),
            "Ask the recipient whether it arrived before you send it again.",
        ),
        (Result(delivery.MAILBOX_FAILED.reply(detail="x"), Stage.LOCAL, Origin.LOCAL), "another way"),
        (Result(delivery.INTERNAL_ERROR.reply(incident="1"), Stage.LOCAL, Origin.LOCAL), "another way"),
    ],
)
def test_who_need_not_wait_any_more_is_not_told_to(result, advice):
    found = ReportedRecipient(Recipient("bob@example.net"), ReportKind.FAILED, result, RECEIVED + 432000)
    text = flat(read(build(found)[1])[1][0].get_content())
    assert "What happens next: nothing." in text
    assert advice in text
    for promise in ("Wait", "stays in the queue", "is sent once more"):
        assert promise not in text


def test_what_was_not_tried_has_no_time_of_an_attempt():
    waiting = ReportedRecipient(
        Recipient("bob@example.com"), ReportKind.DELAYED, left_alone("h", DOWN, 60.0, NOW), NOW, NOW + 1
    )
    _, parts, groups = read(build(waiting)[1])
    assert "last-attempt-date" not in groups[1]
    assert groups[1]["x-pillarbox-cause"] == "delivery.left_alone"
    assert "the last try: 451 4.4.1 Connecting to mx.example.com failed" in flat(parts[0].get_content())


def test_given_up_after_a_temporary_refusal():
    busy = Result(parse_reply([b"451 try later"]), Stage.RCPT, Origin.PEER, "mx.example.net")
    found = ReportedRecipient(Recipient("bob@example.net"), ReportKind.FAILED, busy, RECEIVED + 432000)
    _, parts, groups = read(build(found)[1])
    assert groups[1]["action"] == "failed"
    assert groups[1]["status"] == "4.0.0"
    assert "tried for 5d" in flat(parts[0].get_content())


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (ReportKind.DELIVERED, "Delivered: bob@example.net"),
        (ReportKind.RELAYED, "Passed on: bob@example.net"),
        (ReportKind.EXPANDED, "Passed on: bob@example.net"),
    ],
)
def test_good_news_returns_headers_only(kind, subject):
    found = ReportedRecipient(Recipient("bob@example.net"), kind, DONE, NOW)
    envelope = Envelope("alice@example.org", (found.recipient,), ret=Ret.FULL)
    message, parts, groups = read(build(found, envelope=envelope)[1])
    assert message["subject"] == subject
    assert groups[1]["action"] == kind.value
    assert groups[1]["status"] == "2.0.0"
    assert parts[2].get_content_type() == "text/rfc822-headers"


def test_ret_and_size_decide_what_comes_back():
    headers_only = Envelope("alice@example.org", (), ret=Ret.HEADERS)
    assert b"secret body" not in build(failed(), envelope=headers_only)[1]
    many = iter([ORIGINAL, *[b"x" * 70 + b"\r\n"] * 20_000])
    octets = build(failed(), original=many)[1]
    assert b"text/rfc822-headers" in octets
    assert b"secret body" not in octets
    assert next(many)  # the rest of the message was not read
    assert len(read(build(failed(), original=())[1])[1]) == 2


@pytest.mark.parametrize(
    "body", [b"bare\nline feed\r\n", b"nul \0\r\n", b"x" * 1200 + b"\r\n", b"bare \r return\r\n"]
)
def test_what_data_can_not_carry_is_not_returned(body):
    octets = build(failed(), original=[ORIGINAL + body])[1]
    assert b"text/rfc822-headers" in octets
    assert octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r")
    assert b"\0" not in octets


def test_several_recipients_are_grouped_and_counted():
    people = [failed(f"user{number}@example.net") for number in range(30)]
    waiting = ReportedRecipient(Recipient("late@example.com"), ReportKind.DELAYED, DOWN, NOW, NOW + 1)
    message, parts, groups = read(build(waiting, *people)[1])
    assert message["subject"] == "Not delivered: user0@example.net and 29 more"
    text = flat(parts[0].get_content())
    assert text.count("> 550 5.1.1 No such user") == 1
    assert "* user9@example.net" in text
    assert "* and 20 more" in text
    assert len(groups) == 32


def test_alias_target_is_not_told():
    octets = build(failed("hidden@elsewhere.example", original="bob@example.org"))[1]
    assert b"hidden" not in octets
    assert b"Final-Recipient: rfc822; bob@example.org" in octets


def test_utf8_addresses():
    envelope = Envelope("zoë@example.org", (), smtputf8=True)
    report, octets = build(failed("grüße@example.net", orcpt="utf-8;grüße@example.net"), envelope=envelope)
    assert report.smtputf8
    assert report.body is Body.EIGHT_BIT
    assert b"message/global-delivery-status" in octets
    assert b"message/global\r\n" in octets
    assert "Final-Recipient: utf-8; grüße@example.net".encode() in octets
    found = dsn.parse(octets)
    assert found.recipients[0].address == found.recipients[0].original == "grüße@example.net"
    # without SMTPUTF8 the part for programs is ASCII, and reads back the same
    report, octets = build(failed("grüße@example.net"))
    assert not report.smtputf8
    message, parts, _ = read(octets)
    assert message["subject"] == "Not delivered: grüße@example.net"
    assert parts[1].get_content_type() == "message/delivery-status"
    assert dsn.parse(octets).recipients[0].address == "grüße@example.net"


def test_eight_bit_original_needs_8bitmime():
    original = ORIGINAL + "Grüße\r\n".encode()
    report, octets = build(failed(), original=[original])
    assert report.body is Body.EIGHT_BIT
    assert original in octets


def test_a_report_may_travel_as_its_message_might():
    """RFC 8689 6; what must stay under TLS is stronger (4.1)."""
    careless = b"TLS-Required: No\r\n" + ORIGINAL
    message, _, _ = read(build(failed(), original=[careless])[1])
    assert message["TLS-Required"] == "No"
    assert "TLS-Required" not in read(build(failed())[1])[0]
    strict = Envelope("alice@example.org", (Recipient("bob@example.net"),), terms=Terms(require_tls=True))
    report, octets = build(failed(), envelope=strict, original=[careless])
    assert "TLS-Required" not in read(octets)[0]
    assert report.terms.require_tls


def test_never_a_report_to_a_report():
    with pytest.raises(ValueError, match="null reverse-path"):
        build(failed(), envelope=Envelope("", ()))
    with pytest.raises(ValueError, match="recipient"):
        build()


def test_peer_words_in_utf8_reach_the_person_and_not_the_program():
    words = Result(
        parse_reply(
            [
                "550 Empfänger unbekannt".encode(),
            ]
        ),
        Stage.RCPT,
        Origin.PEER,
        "mx.example.net",
    )
    _, parts, groups = read(build(failed(result=words))[1])
    assert "> 550 Empfänger unbekannt" in parts[0].get_content()
    assert groups[1]["diagnostic-code"] == r"smtp; 550 Empf\xe4nger unbekannt"
    assert groups[1]["status"] == "5.0.0"


def test_octets_that_are_no_text_look_alike_to_the_person_and_the_program():
    words = Result(parse_reply([b"550 5.1.1 d\xe9sol\xe9 \0nul"]), Stage.RCPT, Origin.PEER, "mx.example.net")
    _, parts, groups = read(build(failed(result=words))[1])
    assert r"> 550 5.1.1 d\xe9sol\xe9 \x00nul" in parts[0].get_content()
    assert groups[1]["diagnostic-code"] == r"smtp; 550 5.1.1 d\xe9sol\xe9 \x00nul"


def test_class_of_status_follows_the_code():
    slip = Result(parse_reply([b"554 4.4.7 Message expired"]), Stage.BODY, Origin.PEER, "h")
    assert read(build(failed(result=slip))[1])[2][1]["status"] == "5.4.7"


foreign = st.text(max_size=300) | st.text('\r\n\t :;<>=?-\\"\0aX\u202e', max_size=100)


@given(
    envid=foreign,
    orcpt=foreign,
    words=st.lists(foreign, min_size=1, max_size=4),
    host=foreign,
    subject=st.binary(max_size=200),
)
@settings(deadline=None)
def test_nothing_foreign_can_add_a_field_or_a_part(envid, orcpt, words, host, subject):
    lines = tuple(word.replace("\r", "").replace("\n", "") for word in words)
    result = Result(Reply(550, "", lines), Stage.RCPT, Origin.PEER, host)
    envelope = Envelope("alice@example.org", (), envid=envid)
    original = (
        b"X-Original: yes\r\nSubject: "
        + subject.replace(b"\r", b"").replace(b"\n", b"")
        + b"\r\n\r\nbody\r\n"
    )
    octets = build(failed(orcpt=f"rfc822;{orcpt}", result=result), envelope=envelope, original=[original])[1]
    assert octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r")
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    found = dsn.parse(octets)
    assert len(found.recipients) == 1
    assert found.queue_id == "0ABCDEF"
    assert found.original.get("x-original") == "yes"
    recipient = found.recipients[0]
    assert (recipient.address, recipient.action, recipient.cause) == ("bob@example.net", "failed", "peer")
    message = email.message_from_bytes(octets)
    assert len(message.get_payload()) == 3
    assert len(message.get_payload()[1].get_payload()) == 2
    assert set(message.keys()) <= {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
        "In-Reply-To", "References",
    }  # fmt: skip


printables = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


@given(
    st.lists(
        st.builds(
            ReportedRecipient,
            st.builds(
                Recipient,
                printables.map(lambda local: f"{local.replace('<', '')}@example.net"),
                orcpt=st.just("")
                | printables.filter(lambda text: text != "<").map(
                    lambda text: f"rfc822;{text.replace('<', '')}"
                ),
            ),
            st.sampled_from(ReportKind),
            st.sampled_from([UNKNOWN, DOWN, DONE]),
            st.integers(0, 4_000_000_000).map(float),
            st.integers(0, 4_000_000_000).map(float),
        ),
        min_size=1,
        max_size=5,
    ),
    printables,
)
@settings(deadline=None)
def test_what_is_built_reads_back(recipients, envid):
    octets = build(*recipients, envelope=Envelope("alice@example.org", (), envid=envid))[1]
    report = dsn.parse(octets)
    assert report.reporting_mta == "mx.example.org"
    assert report.envid == envid
    assert report.arrived_at == RECEIVED
    assert report.original.get("subject") == "Invoice"
    assert report.text.startswith("Your message")
    assert len(report.recipients) == len(recipients)
    for built, found in zip(recipients, report.recipients, strict=True):
        assert found.address == built.recipient.address
        assert found.original == built.recipient.orcpt.removeprefix("rfc822;")
        assert found.action == built.kind
        assert found.diagnostic == str(built.result.reply)
        assert (found.diagnostic_type == "smtp") == (built.result.origin is Origin.PEER)
        assert found.remote_mta == built.result.host
        assert found.last_attempt == built.at
        assert found.retry_until == (built.retry_until if built.kind is ReportKind.DELAYED else None)
        assert found.cause == built.result.reply.cause_id


@given(st.binary(max_size=600))
def test_parse_never_raises(junk):
    dsn.parse(junk)
    dsn.parse(b"Content-Type: message/delivery-status\r\n\r\n" + junk)
    dsn.parse(b'Content-Type: multipart/report; boundary="b"\r\n\r\n--b\r\n' + junk + b"\r\n--b--\r\n")


def test_parse_is_linear_on_hostile_reports():
    head = b"Content-Type: message/delivery-status\r\n\r\n"
    for piece in (b"\r\n\r\n", b"\n ", b"Final-Recipient: rfc822; a\n\n", b"a: \n \n", b"status:"):
        dsn.parse(head + piece * 400_000)
    nested = b"".join(b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n' for _ in range(10_000))
    assert dsn.parse(nested) is None


def test_ordinary_mail_is_no_report():
    assert dsn.parse(ORIGINAL) is None
    assert dsn.parse(b"") is None


FOREIGN = b"""\
Content-Type: multipart/report; report-type=delivery-status; boundary=simple

--simple
Content-Type: text/plain

Sorry.

--simple
Content-Type: Message/Delivery-Status
Content-Transfer-Encoding: base64

UmVwb3J0aW5nLU1UQTogZG5zOyBtYWlsLmV4YW1wbGUuY29tCgpGaW5hbC1SZWNpcGllbnQ6IHJm
YzgyMjsgPEdvbmVAZXhhbXBsZS5jb20+CkFjdGlvbjogRmFpbGVkIChtYWlsYm94KQpTdGF0dXM6
IDUuMS4xIChiYWQgYWRkcmVzcykK

--simple
Content-Type: text/rfc822-headers

Subject: Hello
"""


def test_report_of_another_host():
    report = dsn.parse(FOREIGN)
    assert report.reporting_mta == "mail.example.com"
    assert report.text.strip() == "Sorry."
    assert report.original.get("subject") == "Hello"
    (recipient,) = report.recipients
    assert (recipient.address, recipient.action, recipient.status) == ("Gone@example.com", "failed", "5.1.1")


def test_dates_with_zones():
    assert parse_date("Mon, 24 Nov 2025 17:00:00 +0100 (CET)") == RECEIVED
    assert parse_date("24 nov 25 16:00 GMT") == RECEIVED
    assert parse_date("Mon, 32 Nov 2025 16:00:00 +0000") is None
    assert parse_date("yesterday") is None
    assert parse_date("99 " * 1000) is None
