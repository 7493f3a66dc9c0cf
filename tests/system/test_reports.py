"""What senders are told of their mail: delivery reports as they arrive in a mailbox, read by Python's email package."""

from __future__ import annotations

import re
import sqlite3

import pytest

from pillarbox.testing import ScriptedPeer

PLAIN = ("PIPELINING", "8BITMIME", "SIZE 50000000", "SMTPUTF8", "ENHANCEDSTATUSCODES")  # no DSN
LETTER = (
    "From: a@sender.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from here\r\n"
    "Message-ID: <1@sender.example>\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\n\r\n"
    "First line\r\n.dots and Ümläute\r\n"
).encode()


def configuration(tmp_path, peer, retry='first = "50ms"\nmax = "200ms"', extra=""):
    return f"""
[limits]
min_free = 0
[queue.retry]
{retry}
[[listen]]
address = "127.0.0.1:0"
[[route]]
match = "*"
via = "smtp://127.0.0.1:{peer.port}"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
users = ["a", "jürgen"]
{extra}"""


def parts(report):
    """The three parts of a report: the text, the groups of fields, and what was returned."""
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    text, status, *returned = report.iter_parts()
    return text.get_content(), status.get_payload(), returned


def words(text):
    return " ".join(text.split())


# --- one report


async def test_a_failure_report_is_for_people_and_for_programs(serve, send, mailbox, tmp_path):
    refusal = "550-5.1.1 <x@far.example>: Recipient address rejected:\r\n550 5.1.1 User unknown in table"
    async with ScriptedPeer({"RCPT": refusal}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        sent = await send(
            server.port,
            "x@far.example ORCPT=rfc822;sales+2Bx@list.example",
            sender="a@sender.example ENVID=order+2B17 BODY=8BITMIME",
            message=LETTER,
        )
        (report,) = await mailbox("a").filled()
    assert report["return-path"] == "<>"
    assert report["from"] == '"Mail delivery at mx.example.org" <postmaster@mx.example.org>'
    assert report["to"] == "a@sender.example"
    assert report["subject"] == "Not delivered: x@far.example"
    assert report["auto-submitted"] == "auto-replied"
    assert report["in-reply-to"] == report["references"] == "<1@sender.example>"
    assert report["message-id"].endswith("@mx.example.org>")
    text, (message, recipient), (returned,) = parts(report)
    for phrase in (
        "Your message could not be delivered to x@far.example.",
        "Why: There is no such mailbox.",
        f"[127.0.0.1]:{peer.port} said: > 550 5.1.1 <x@far.example>: Recipient address rejected: User unknown > in table",
        "What happens next: nothing. This server will not try again.",
        "What you can do: Check the address for typing errors",
        "Who has to act: You, the sender.",
        "Subject: Grüße from here",
        f"Queue id: {sent.id}",
    ):
        assert words(phrase).replace("> ", "") in words(text).replace("> ", "")
    assert max(map(len, text.splitlines())) <= 78
    assert dict(message.items()).keys() == {
        "Reporting-MTA",
        "Original-Envelope-Id",
        "Arrival-Date",
        "X-Pillarbox-Queue-ID",
    }
    assert message["reporting-mta"] == "dns; mx.example.org"
    assert message["original-envelope-id"] == "order+17"
    assert recipient["original-recipient"] == "rfc822; sales+x@list.example"
    assert recipient["final-recipient"] == "rfc822; x@far.example"
    assert recipient["action"] == "failed"
    assert recipient["status"] == "5.1.1"
    assert recipient["remote-mta"] == "dns; [127.0.0.1]"
    said = "smtp; 550 5.1.1 <x@far.example>: Recipient address rejected: User unknown in table"
    assert words(recipient["diagnostic-code"]) == said
    assert "will-retry-until" not in recipient
    assert returned.get_content_type() == "message/rfc822"
    original = returned.get_content()
    assert original["subject"] == "Grüße from here"
    assert f"id {sent.id}" in original["received"]


@pytest.mark.parametrize(
    ("ret", "size", "kind"),
    [
        ("", 1, "message/rfc822"),
        (" RET=FULL", 1, "message/rfc822"),
        (" RET=HDRS", 1, "text/rfc822-headers"),
        (" RET=FULL", 30_000, "text/rfc822-headers"),  # more than a mebibyte
    ],
)
async def test_as_much_of_the_message_comes_back_as_was_asked_for(
    serve, send, mailbox, tmp_path, ret, size, kind
):
    async with ScriptedPeer({".": "554 5.6.0 not this"}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        message = LETTER + b"One of many lines that make the message large\r\n" * size
        await send(
            server.port, "x@far.example", sender=f"a@sender.example{ret} BODY=8BITMIME", message=message
        )
        (report,) = await mailbox("a").filled()
        (octets,) = mailbox("a").raw
    _, _, (returned,) = parts(report)
    assert returned.get_content_type() == kind
    assert b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from here\n" in octets
    head, body = message.replace(b"\r\n", b"\n").split(b"\n\n")
    assert head in octets
    assert (body in octets) is (kind == "message/rfc822")
    assert len(octets) < 1_000_000


async def test_a_message_that_waits_is_reported_once_and_again_when_it_is_given_up(
    serve, send, mailbox, tmp_path
):
    retry = 'first = "50ms"\nmax = "100ms"\ndelay_notice = "100ms"\ngive_up = "3s"'
    async with ScriptedPeer({"RCPT": "451 4.3.0 the store is being repaired"}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer, retry))
        sent = await send(
            server.port, "x@far.example", message=LETTER, sender="a@sender.example BODY=8BITMIME"
        )
        failed = await server.reached("failed", sent.id)
        reports = await mailbox("a").filled(2)
        late, last = sorted(reports, key=lambda report: report["subject"])
        assert failed["attempts"] >= 3
        assert len(mailbox("a").files) == 2
    assert (late["subject"], last["subject"]) == ("Delayed: x@far.example", "Not delivered: x@far.example")
    text, (_, recipient), (returned,) = parts(late)
    assert "Do not send it again: this server keeps trying." in words(text)
    assert "the store is being repaired" in text
    assert (recipient["action"], recipient["status"]) == ("delayed", "4.3.0")
    assert recipient["will-retry-until"]
    assert returned.get_content_type() == "text/rfc822-headers"
    text, (_, recipient), (returned,) = parts(last)
    assert re.search(r"It was tried for [34]s, and that is as long as this server tries\.", words(text))
    assert (recipient["action"], recipient["status"]) == ("failed", "4.3.0")
    assert "the store is being repaired" in recipient["diagnostic-code"]
    assert returned.get_content_type() == "message/rfc822"


# --- who is told what


async def test_success_is_reported_when_asked_for(serve, send, mailbox, tmp_path):
    async with ScriptedPeer(extensions=PLAIN) as peer:
        home = f'[domain."home.example"]\ndeliver = "maildir:{tmp_path}/mail/{{user}}"\naliases = {{ sales = "bob" }}\n'
        server = await serve(configuration(tmp_path, peer, extra=home))
        wanted = "NOTIFY=SUCCESS,FAILURE"
        await send(server.port, f"x@far.example {wanted}", f"sales@home.example {wanted}", "y@far.example")
        await mailbox("bob").filled()
        reports = {report["subject"]: report for report in await mailbox("a").filled(2)}
        assert not any("NOTIFY" in command for command in peer.commands)
    assert set(reports) == {"Passed on: x@far.example", "Delivered: sales@home.example"}
    text, (_, recipient), (returned,) = parts(reports["Passed on: x@far.example"])
    assert "was passed on to a host that sends no delivery reports." in words(text)
    assert (recipient["action"], recipient["status"]) == ("relayed", "2.0.0")
    assert returned.get_content_type() == "text/rfc822-headers"
    text, (_, recipient), _ = parts(reports["Delivered: sales@home.example"])
    assert "Your message was delivered to sales@home.example." in words(text)
    assert "bob" not in reports["Delivered: sales@home.example"].as_string()
    assert (recipient["action"], recipient["status"]) == ("delivered", "2.0.0")
    assert recipient["final-recipient"] == "rfc822; sales@home.example"


async def test_the_next_host_reports_if_it_can(serve, send, mailbox, tmp_path):
    behind = await serve(
        f"""
[limits]
min_free = 0
[[listen]]
address = "127.0.0.1:0"
[domain."far.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
users = ["x"]
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
users = ["a"]
""",
        folder=tmp_path / "behind",
        hostname="far.example",
    )
    server = await serve(configuration(tmp_path, behind))
    sent = await send(
        server.port,
        "x@far.example NOTIFY=SUCCESS ORCPT=rfc822;list@here.example",
        sender="a@sender.example ENVID=17 RET=HDRS",
    )
    await server.reached("delivered", sent.id)
    await mailbox("x").filled()
    (report,) = await mailbox("a").filled()
    _, (message, recipient), _ = parts(report)
    assert message["reporting-mta"] == "dns; far.example"
    assert message["original-envelope-id"] == "17"
    assert (recipient["action"], recipient["original-recipient"]) == (
        "delivered",
        "rfc822; list@here.example",
    )
    assert server.events("report.queued") == []


@pytest.mark.parametrize(
    ("sender", "notify"),
    [("a@sender.example", "NOTIFY=NEVER"), ("", "NOTIFY=FAILURE"), ("", "NOTIFY=SUCCESS")],
)
async def test_nobody_is_told_who_does_not_want_to_know(serve, send, mailbox, tmp_path, sender, notify):
    async with ScriptedPeer({"RCPT": ["550 5.1.1 no", "250 2.1.5 ok"]}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        sent = await send(server.port, f"x@far.example {notify}", f"y@far.example {notify}", sender=sender)
        await server.reached("failed", sent.id, 0)
        await server.reached("delivered", sent.id, 1)
        later = await send(server.port, "a@sender.example")
        await server.reached("delivered", later.id)
    assert server.events("report.queued") == []
    assert len(mailbox("a").files) == 1
    assert server.queue() == []


async def test_one_report_tells_of_all_recipients_of_an_attempt(serve, send, mailbox, tmp_path):
    answers = [
        "550 5.1.1 who?",
        "250 ok",
        "553 5.7.1 not from you",
        "550 5.1.1 who?",
        "452 4.2.2 full",
        "250 ok",
    ]
    async with ScriptedPeer({"RCPT": answers}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer, 'first = "1h"'))
        sent = await send(
            server.port, *(f"u{number}@far.example" for number in range(5)), "u5@far.example NOTIFY=SUCCESS"
        )
        (report,) = await mailbox("a").filled()
        assert (await server.reached("queued", sent.id, 4))["attempts"] == 1
    assert report["subject"] == "Not delivered: u0@far.example and 2 more"
    text, (_, *recipients), _ = parts(report)
    told = {
        one["final-recipient"].removeprefix("rfc822; "): (one["action"], one["status"]) for one in recipients
    }
    assert told == {
        "u0@far.example": ("failed", "5.1.1"),
        "u2@far.example": ("failed", "5.7.1"),
        "u3@far.example": ("failed", "5.1.1"),
        "u5@far.example": ("relayed", "2.0.0"),
    }
    assert "could not be delivered to these 2 addresses. * u0@far.example * u3@far.example" in words(text)
    assert "could not be delivered to u2@far.example" in words(text)
    assert "u1@far.example" not in text
    assert "u4@far.example" not in text
    assert len(mailbox("a").files) == 1


async def test_a_sender_beyond_ascii_is_told_in_unicode(serve, send, mailbox, tmp_path):
    async with ScriptedPeer({"RCPT": "550 5.1.1 niemand da: ü".encode() + b"\r\n"}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        await send(
            server.port,
            "grüße@weit.example",
            sender="jürgen@sender.example SMTPUTF8 BODY=8BITMIME",
            message="From: jürgen@sender.example\r\nSubject: schöner Tag\r\n\r\nHallo\r\n".encode(),
        )
        (report,) = await mailbox("jürgen").filled()
        (octets,) = mailbox("jürgen").raw
    assert "To: <jürgen@sender.example>\n" in octets.decode()
    assert report["subject"] == "Not delivered: grüße@weit.example"
    text, status, returned = report.iter_parts()
    assert "Subject: schöner Tag" in text.get_content()
    assert status.get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; grüße@weit.example" in octets.decode()
    assert returned.get_content_type() == "message/global"


async def test_what_others_say_stays_within_its_field(serve, send, mailbox, tmp_path):
    hostile = b"550 5.7.1 \x1b[2Jlook\r\x00X-Injected: yes \xff\xe2\x80\xae" + b"<b>" * 200 + b"\r\n"
    subject = "=?utf-8?b?QXR0YWNoDQpYLUluamVjdGVkOiB5ZXMb?= \u202eoops"
    async with ScriptedPeer({"RCPT": hostile}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        message = f"From: a@sender.example\r\nSubject: {subject}\r\n\r\nx\r\n".encode()
        sent = await send(
            server.port,
            '"a\\"<b> c"@far.example',
            sender="a@sender.example RET=HDRS SMTPUTF8 BODY=8BITMIME",
            message=message,
        )
        await server.reached("failed", sent.id)
        (report,) = await mailbox("a").filled()
        (octets,) = mailbox("a").raw
    assert not report.defects
    assert b"\nX-Injected" not in octets
    ours = octets.partition(b"\nContent-Type: message/global-headers")[0] or octets
    ours = ours.partition(b"\nContent-Type: text/rfc822-headers")[0]
    assert all(letter.isprintable() or letter in "\n\t" for letter in ours.decode())
    _, (_, recipient), _ = parts(report)
    assert recipient["status"] == "5.7.1"
    assert max(map(len, octets.splitlines())) < 999


# --- when there is no way to tell


async def test_a_sender_of_ours_who_does_not_exist_leaves_nothing_behind(serve, send, tmp_path):
    async with ScriptedPeer({"RCPT": "550 5.1.1 no"}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        for times in (1, 30):
            message = LETTER + b"a long line of text\r\n" * 4000 * times
            sent = await send(
                server.port, "x@far.example", sender="ghost@sender.example BODY=8BITMIME", message=message
            )
            await server.reached("failed", sent.id)
            alarm = await server.logged("alarm", message=sent.id)
            assert "ghost@sender.example" in alarm["problem"]
    assert server.queue() == []
    with sqlite3.connect(server.data / "pillarbox.db") as store:
        assert store.execute("SELECT count(*) FROM message").fetchone() == (2,)
        assert store.execute("SELECT count(*) FROM recipient").fetchone() == (2,)
        assert store.execute("SELECT count(*) FROM body").fetchone() == (0,)
    assert [path for path in (server.data / "bodies").rglob("*") if path.is_file()] == []
    assert [path for path in (server.data / "drafts").rglob("*") if path.is_file()] == []


async def test_a_report_that_cannot_be_delivered_makes_no_other_report(serve, send, tmp_path):
    async with ScriptedPeer({"RCPT": "550 5.1.1 no"}, extensions=PLAIN) as peer:
        server = await serve(configuration(tmp_path, peer))
        sent = await send(server.port, "x@far.example", sender="gone@elsewhere.example")
        await server.reached("failed", sent.id)
        report = (await server.logged("report.queued"))["message"]
        assert (await server.reached("failed", report))["address"] == "gone@elsewhere.example"
        assert "MAIL FROM:<>" in {command.partition(" SIZE")[0] for command in peer.commands}
    assert len(server.events("report.queued")) == 1
    assert server.queue() == []
