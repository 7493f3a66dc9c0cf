"""A whole server sets suspicious mail apart, counts what it sees, and mails the reports of days that are over."""

from __future__ import annotations

import signal
import time

from pillarbox.mailauth.aggregate import AggregateReport, DmarcRow, Published, format_report
from pillarbox.mailauth.report_mail import Outgoing, build, read_reports
from pillarbox.mailauth.tls_report import PolicyResult, TlsReport
from pillarbox.mailauth.tls_report import format_report as format_tls_report
from pillarbox.policy.report_store import ReportStore, open_reports
from pillarbox.policy.reporting import DAY_S, due_at

START = """
[limits]
min_free = 0
[policy]
relay_networks = []
[[listen]]
address = "127.0.0.1:0"
[dns]
nameservers = ["127.0.0.1:{port}"]
timeout = "2s"
[domain."example.org"]
deliver = "maildir:{folder}/mail/{{user}}"
users = ["alice", "dmarc"]
[dmarc]
check = true
"""
RECORD = "v=DMARC1; p=quarantine; rua=mailto:dmarc@example.org"
MESSAGE = b"From: eve@example.org\r\nSubject: x\r\n\r\nhello\r\n"


FAILURE = (
    b"From: <a@far.test>\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=x\r\n\r\n"
    b"--x\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: auth-failure\r\nVersion: 1\r\n"
    b"Reported-Domain: example.org\r\nAuth-Failure: dmarc\r\n\r\n--x--\r\n"
)


def zone(name, text):
    return {f"{name} TXT": [(name, 300, "IN", "TXT", f'"{text}"')]}


async def test_suspicious_mail_lands_in_junk(serve, serve_dns, send, mailbox, tmp_path):
    names = await serve_dns(zone("_dmarc.example.org.", RECORD))
    server = await serve(START.format(port=names.port, folder=tmp_path))
    await send(server.port, "alice@example.org", message=MESSAGE)
    (junk,) = await mailbox("alice/.Junk").filled()
    assert junk["X-Spam-Flag"] == "YES"
    assert mailbox("alice").files == []


async def test_suspicious_mail_waits_for_the_operator(serve, serve_dns, send, mailbox, tmp_path):
    names = await serve_dns(zone("_dmarc.example.org.", RECORD))
    server = await serve(START.format(port=names.port, folder=tmp_path) + 'quarantine = "hold"\n')
    sent = await send(server.port, "alice@example.org", message=MESSAGE)
    assert server.recipient(sent.id)["state"] == "held"
    server.command("queue", "release", sent.id)
    await mailbox("alice").filled()


async def count_one(data, then):
    """Have another server count one message at that time; `data` is made."""
    data.mkdir(mode=0o700)
    store = ReportStore(data, due_at=due_at("mx.example.org"), clock=lambda: then)
    store.count(DmarcRow("example.org", RECORD, "192.0.2.1", "example.org", "quarantine"))
    await store.close()


async def test_days_that_are_over_are_reported(serve, serve_dns, send, mailbox, tmp_path):
    """What the server counts today is kept; what another counted days ago is reported, once, at the start."""
    names = await serve_dns(zone("_dmarc.example.org.", RECORD))
    data, then = tmp_path / "data", time.time() - 2 * DAY_S
    await count_one(data, then)
    settings = '[reports]\ndmarc = true\nsender = "postmaster@example.org"\n'
    server = await serve(START.format(port=names.port, folder=tmp_path) + settings)
    await mailbox("dmarc").filled()
    (found,) = read_reports(mailbox("dmarc").raw[0])
    assert (found.begins, found.total) == (then // DAY_S * DAY_S, 1)
    await server.logged("report.sent", domain="example.org")
    await send(server.port, "alice@example.org", message=MESSAGE)
    await mailbox("alice/.Junk").filled()
    await server.stop()
    reports = open_reports(data, now=time.time() + 2 * DAY_S)
    assert [one.note.split()[0] for one in reports.listed()] == ["dmarc@example.org"]
    period = reports.take_due(60)
    assert [(one.source, one.disposition, number) for one, number in period.counts] == [
        ("127.0.0.1", "quarantine", 1)
    ]


async def test_a_reload_begins_and_ends_to_count_and_to_report(serve, serve_dns, send, mailbox, tmp_path):
    names = await serve_dns(zone("_dmarc.example.org.", RECORD))
    await count_one(tmp_path / "data", time.time() - 2 * DAY_S)
    silent = START.format(port=names.port, folder=tmp_path)
    server = await serve(silent)

    async def reload(text):
        before = len(server.events("config.reloaded"))
        server.configure(text)
        server.signal(signal.SIGHUP)
        await server.until(lambda: server.events("config.reloaded")[before:])
        assert not server.events("config.waits")

    await send(server.port, "alice@example.org", message=MESSAGE)
    await reload(silent + '[reports]\ndmarc = true\nsender = "reports@example.org"\n')
    (mail,) = await mailbox("dmarc").filled()
    assert "reports@example.org" in mail["From"]
    await send(server.port, "alice@example.org", message=MESSAGE)
    await reload(silent)
    await send(server.port, "alice@example.org", message=MESSAGE)
    await mailbox("alice/.Junk").filled(3)
    await server.stop()
    period = open_reports(tmp_path / "data", now=time.time() + 2 * DAY_S).take_due(60)
    assert [number for _, number in period.counts] == [1], "only what came while reports were on"


async def test_mail_to_the_address_of_reports_is_read(serve, serve_dns, send, tmp_path):
    names = await serve_dns({})
    aliases = '[domain."example.org".aliases]\nrua = "reports:"\n'
    server = await serve(
        START.format(port=names.port, folder=tmp_path).replace("[dmarc]", f"{aliases}[dmarc]")
    )
    row = DmarcRow("example.org", "", "192.0.2.1", "example.org", "none", spf_aligned=True)
    report = AggregateReport(
        "Far", "p@far.test", "1@far.test", 86_400, 172_799, Published("example.org"), ((row, 3),)
    )
    one = Outgoing("dmarc", "example.org", "far.test", 86_400, 172_799, "1", format_report(report))
    mail = build(one, one.packed(), sender="p@far.test", to=["rua@example.org"], now=0, boundary="b")
    for message in (mail, mail, b"From: a@far.test\r\n\r\nHello, is anybody there?\r\n"):
        sent = await send(server.port, "rua@example.org", message=message)
        await server.reached("delivered", sent.id)
    tls = TlsReport(
        "Far",
        "p@far.test",
        "2@far.test",
        86_400,
        172_799,
        (PolicyResult("example.org", "sts", successful=3),),
    )
    packed = Outgoing("tls", "example.org", "far.test", 86_400, 172_799, "2", format_tls_report(tls))
    further = build(packed, packed.packed(), sender="p@far.test", to=["rua@example.org"], now=0, boundary="b")
    for message in (further, FAILURE):
        sent = await send(server.port, "rua@example.org", message=message)
        await server.reached("delivered", sent.id)
    failure, encryption, bad, good = server.command("reports", "list")
    assert (encryption["kind"], encryption["total"]) == ("tls", 3)
    assert (failure["kind"], failure["domain"]) == ("failure", "example.org")
    assert (good["kind"], good["organization"], good["total"], good["failed"]) == ("dmarc", "Far", 3, 0)
    assert bad["kind"] == "unreadable"
    assert bad["note"].endswith("no part of it is a report")
    assert "is anybody there?" in server.command("reports", "show", str(bad["id"]))["content"]
