"""Reports are made of what was counted and go where DNS says: DMARC and TLS-RPT, a name server on loopback, a real store."""

from __future__ import annotations

import pytest

from pillarbox.inbound import reporting
from pillarbox.inbound.report_office import Outside
from pillarbox.inbound.reporting import Reporter
from pillarbox.mail.message import scan_head
from pillarbox.mailauth.aggregate import DmarcRow
from pillarbox.mailauth.report_mail import read_reports
from pillarbox.mailauth.tls_report import TlsFailure, TlsRow
from pillarbox.net.resolver import Resolver, ResolverSettings
from pillarbox.policy.report_store import ReportStore
from pillarbox.policy.reporting import DAY_S, ReportSettings, due_at

DAY = 20_000
RECORD = "v=DMARC1; p=reject; rua=mailto:d@sender.test"
SETTINGS = ReportSettings(dmarc=True, tls=True, organization="Example", sender="reports@example.org")


def row(record=RECORD, source="192.0.2.1", domain="sender.test"):
    return DmarcRow(domain, record, source, domain, "reject")


class Clock:
    now = DAY * DAY_S + 1000.0

    def __call__(self):
        return self.now


class World:
    """Takes what is sent."""

    def __init__(self):
        self.mails = []
        self.posted = []
        self.refusal = ""

    async def send(self, envelope, octets):
        self.mails.append((envelope, octets))
        return f"ID{len(self.mails)}"

    async def post(self, url, octets):
        self.posted.append((url, octets))
        return self.refusal


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world():
    return World()


@pytest.fixture
async def store(tmp_path, clock):
    opened = ReportStore(tmp_path, due_at=due_at("mx.test"), clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def report(store, clock, world, serve_dns):
    """Count these rows, let the day end, and report all that is due; how often there was something."""

    async def report(zone, *rows, settings=SETTINGS):
        for one in rows:
            store.count(one)
        await store.flush()
        clock.now += DAY_S + 5 * 3600
        names = await serve_dns(zone)
        resolver = Resolver(ResolverSettings(nameservers=(names.address,), timeout_s=30.0))
        outside = Outside(resolver.lookup, world.send, post=world.post)
        reporter = Reporter(settings, store, outside, hostname="mx.test")
        times = 0
        while await reporter.report_next():
            times += 1
        return times

    return report


def txt(**texts):
    zone = {}
    for name, text in texts.items():
        owner = name.replace("__", ".").replace("d_", "_") + ".test."
        zone[f"{owner} TXT"] = text if text == "servfail" else [(owner, 300, "IN", "TXT", f'"{text}"')]
    return zone


HOME = txt(d_dmarc__sender=RECORD)


async def test_a_dmarc_report_goes_to_who_asks_for_it(report, world, store):
    assert await report(HOME, row(), row(), row(source="192.0.2.2")) == 1
    ((envelope, octets),) = world.mails
    assert envelope.sender == "reports@example.org"
    assert [one.address for one in envelope.recipients] == ["d@sender.test"]
    (found,) = read_reports(octets)
    assert (found.organization, found.email) == ("Example", "reports@example.org")
    assert (found.begins, found.ends) == (DAY * DAY_S, (DAY + 1) * DAY_S - 1)
    assert (found.policy.domain, found.policy.policy, found.policy.method) == (
        "sender.test",
        "reject",
        "treewalk",
    )
    assert [(one.source, number) for one, number in found.rows] == [("192.0.2.1", 2), ("192.0.2.2", 1)]
    subject = " ".join(scan_head(octets).get("subject").split())
    assert subject == f"Report Domain: sender.test Submitter: example.org Report-ID: <{found.report_id}>"
    (kept,) = await store.ask(lambda reports: reports.listed())
    assert (kept.direction, kept.domain, kept.total, kept.failed, kept.note) == (
        "out",
        "sender.test",
        3,
        3,
        "d@sender.test (ID1)",
    )
    assert kept.name == found.report_id


async def test_nothing_is_reported_twice(report, world):
    assert await report(HOME, row()) == 1
    assert await report(HOME) == 0
    assert len(world.mails) == 1


async def test_each_policy_of_a_day_has_a_report_of_its_own(report, world):
    await report(HOME, row(), row(RECORD.replace("reject", "none")))
    policies = sorted(read_reports(octets)[0].policy.policy for _, octets in world.mails)
    assert policies == ["none", "reject"]
    assert len({read_reports(octets)[0].report_id for _, octets in world.mails}) == 2


ELSEWHERE = (
    "v=DMARC1; p=none; rua=mailto:a@far.test, mailto:b%2Bc@sub.sender.test!10m,mailto:bad@@x,https://x.test/"
)


@pytest.mark.parametrize(
    ("zone", "to"),
    [
        ({}, ["b+c@sub.sender.test"]),
        (txt(sender__test__d_report__d_dmarc__far="v=DMARC1"), ["a@far.test", "b+c@sub.sender.test"]),
        (txt(sender__test__d_report__d_dmarc__far="v=DMARC2"), ["b+c@sub.sender.test"]),
        (
            txt(sender__test__d_report__d_dmarc__far="v=DMARC1; rua=mailto:other@far.test"),
            ["other@far.test", "b+c@sub.sender.test"],
        ),
        (
            txt(sender__test__d_report__d_dmarc__far="v=DMARC1; rua=mailto:victim@third.test"),
            ["b+c@sub.sender.test"],
        ),
    ],
)
async def test_who_gets_reports_about_others_has_to_want_them(report, world, zone, to):
    await report(HOME | zone, row(ELSEWHERE))
    ((envelope, _),) = world.mails
    assert [one.address for one in envelope.recipients] == to


async def test_when_dns_gives_no_answer_the_report_waits(report, world, noted):
    silent = HOME | txt(sender__test__d_report__d_dmarc__far="servfail")
    await report(silent, row(ELSEWHERE))
    assert world.mails == []
    assert [facts["domain"] for name, facts in noted if name == "report.not_sent"] == ["sender.test"]
    await report(HOME)
    assert len(world.mails) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [row("v=DMARC1; p=none")],
        [row("v=DMARC1; p=none; rua=mailto:x@far.test")],
        [TlsRow("quiet.test", "sts")],
    ],
)
async def test_who_does_not_ask_gets_nothing(report, world, store, rows):
    assert await report(HOME, *rows) == 1
    assert world.mails == []
    assert await report(HOME) == 0


async def test_domains_can_be_left_out(report, world):
    settings = ReportSettings(dmarc=True, except_domains=("Sender.test",))
    await report(HOME, row(), settings=settings)
    assert world.mails == []


TLS = txt(d_smtp__d_tls__peer="v=TLSRPTv1; rua=mailto:tls@peer.test,https://peer.test/report,ftp://x")
FAILED = TlsRow(
    "peer.test", "tlsa", ("3 1 1 ab",), failure=TlsFailure("validation-failure", mx="mx.peer.test")
)


async def test_a_tls_report_goes_by_mail_and_https(report, world, store):
    await report(TLS, FAILED, FAILED, TlsRow("peer.test", "tlsa", ("3 1 1 ab",)))
    ((envelope, octets),) = world.mails
    assert [one.address for one in envelope.recipients] == ["tls@peer.test"]
    (found,) = read_reports(octets)
    assert [(url, read_reports(packed)) for url, packed in world.posted] == [
        ("https://peer.test/report", [found])
    ]
    (policy,) = found.policies
    assert (policy.domain, policy.policy, policy.successful, policy.failed) == ("peer.test", "tlsa", 1, 2)
    assert [(one.result, one.mx, number) for one, number in policy.failures] == [
        ("validation-failure", "mx.peer.test", 2)
    ]
    (kept,) = await store.ask(lambda reports: reports.listed())
    assert (kept.total, kept.failed) == (3, 2)
    assert kept.note == "https://peer.test/report, tls@peer.test (ID1)"


async def test_a_refused_report_is_logged_and_tried_again(report, world, store, noted):
    world.refusal = "503 later"
    zone = txt(d_smtp__d_tls__peer="v=TLSRPTv1; rua=https://peer.test/report")
    await report(zone, FAILED)
    assert await store.ask(lambda reports: reports.listed()) == []
    (facts,) = [facts for name, facts in noted if name == "report.not_sent"]
    assert facts["problem"] == "https://peer.test/report: 503 later"
    world.refusal = ""
    await report(zone)
    assert len(world.posted) == 2
    assert world.posted[0] == world.posted[1], "it is the same report"


async def test_what_was_sent_is_not_sent_again_when_another_report_of_the_day_has_to_wait(report, world):
    silent = txt(sender__test__d_report__d_dmarc__far="servfail")
    rows = (row(), row("v=DMARC1; p=none; rua=mailto:a@far.test"))
    await report(HOME | silent, *rows)
    assert len(world.mails) == 1
    await report(HOME | txt(sender__test__d_report__d_dmarc__far="v=DMARC1"))
    assert [mail[0].recipients[0].address for mail in world.mails] == ["d@sender.test", "a@far.test"]


async def test_a_report_that_would_be_too_large_keeps_what_was_seen_most(report, world, monkeypatch):
    monkeypatch.setattr(reporting, "_MAX_OCTETS", 1000)
    await report(
        HOME,
        row(source="203.0.113.1"),
        row(source="203.0.113.1"),
        *(row(source=f"192.0.2.{n}") for n in range(200)),
    )
    (found,) = read_reports(world.mails[0][1])
    assert 1 <= len(found.rows) < 200
    assert found.rows[0][0].source == "203.0.113.1"
