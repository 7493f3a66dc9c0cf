"""What reports are made of: counts that workers share, days that are reported once, reports that came twice."""

import asyncio
import os

import pytest

from pillarbox.mailauth.aggregate import DmarcRow
from pillarbox.mailauth.tls_report import TlsFailure, TlsRow
from pillarbox.policy import report_store
from pillarbox.policy.report_store import FILE, Kept, ReportStore, open_reports
from pillarbox.policy.reporting import DAY_S, due_at

ROW = DmarcRow(
    "sender.test", "v=DMARC1; p=none; rua=mailto:d@sender.test", "192.0.2.1", "sender.test", "none"
)
SESSION = TlsRow("peer.test", "sts", ("version: STSv1", "mode: enforce"), ("mx.peer.test",))
FAILED = TlsRow("peer.test", "sts", failure=TlsFailure("certificate-expired", mx="mx.peer.test"))
NOON = 20_000 * DAY_S + DAY_S / 2


class Clock:
    now = NOON

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def open_store(tmp_path, clock):
    opened = []

    def make():
        opened.append(ReportStore(tmp_path, due_at=due_at("mx.test"), clock=clock))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


async def test_workers_count_together_and_one_of_them_reports(open_store, clock):
    stores = [open_store(), open_store()]
    for store in stores:
        for row in (ROW, ROW, SESSION, FAILED):
            store.count(row)
        await store.flush()
    assert await stores[0].ask(lambda reports: reports.take_due(60)) is None, "the day is not over"
    clock.now += DAY_S
    taken = await asyncio.gather(*(store.ask(lambda reports: reports.take_due(60)) for store in stores * 2))
    found = {one.kind: one for one in taken if one is not None}
    assert sum(one is not None for one in taken) == 2
    assert found["dmarc"].counts == ((ROW, 4),)
    assert dict(found["tls"].counts) == {SESSION: 2, FAILED: 2}
    assert found["dmarc"].begins == 20_000 * DAY_S


async def test_a_day_that_was_not_reported_is_due_again_and_given_up_in_the_end(open_store, clock):
    store = open_store()
    store.count(ROW)
    await store.flush()
    clock.now += DAY_S
    taken = await store.ask(lambda reports: reports.take_due(60))
    assert await store.ask(lambda reports: reports.take_due(60)) is None
    clock.now += 61
    assert await store.ask(lambda reports: reports.take_due(60)) == taken
    clock.now += 6 * DAY_S
    await store.ask(lambda _: None)
    assert await store.ask(lambda reports: reports.take_due(60)) is None


async def test_what_was_reported_is_not_reported_again(open_store, clock):
    store = open_store()
    store.count(ROW)
    await store.flush()
    clock.now += DAY_S
    await store.ask(lambda reports: reports.finish(reports.take_due(60)))
    clock.now += DAY_S
    assert await store.ask(lambda reports: reports.take_due(60)) is None


async def test_a_flood_of_names_is_bounded(open_store, clock, monkeypatch, tmp_path):
    monkeypatch.setattr(report_store, "MAX_ROWS_OF_REPORT", 10)
    monkeypatch.setattr(report_store, "_MAX_HELD", 50)
    store = open_store()
    for number in range(100):
        store.count(DmarcRow("sender.test", "", f"192.0.2.{number}", "sender.test", "none"))
    assert len(store._held) == 50
    await store.flush()
    clock.now += DAY_S
    assert len((await store.ask(lambda reports: reports.take_due(60))).counts) == 10


async def test_the_oldest_days_go_first_when_there_is_too_much(open_store, clock, monkeypatch):
    monkeypatch.setattr(report_store, "_MAX_ROWS", 2)
    store = open_store()
    for _ in range(4):
        store.count(ROW)
        await store.flush()
        clock.now += DAY_S
    await store.ask(lambda _: None)
    days = []
    while (taken := await store.ask(lambda reports: reports.take_due(10 * DAY_S))) is not None:
        days.append(taken.day)
    assert days == [20_002, 20_003]


async def test_counting_never_fails(tmp_path):
    store = ReportStore(tmp_path / "missing", due_at=due_at("mx.test"))
    store.count(ROW)
    await store.close()


async def test_a_report_that_comes_twice_is_kept_once(open_store, tmp_path):
    store = open_store()
    one = Kept(0, "in", "dmarc", "example.org", "Receiver", "1@r", 0, 86400, NOON, 7, 2, "file", b"{}")
    assert await store.ask(lambda reports: reports.keep(one))
    assert not await store.ask(lambda reports: reports.keep(one))
    assert await store.ask(lambda reports: reports.keep(one._replace(name="2@r", kind="tls")))
    reports = open_reports(tmp_path, now=NOON)
    assert [found.name for found in reports.listed()] == ["2@r", "1@r"]
    assert [found.name for found in reports.listed(kind="dmarc", domain="example.org", direction="in")] == [
        "1@r"
    ]
    assert reports.get(1) == one._replace(id=1)
    assert reports.get(99) is None


async def test_a_damaged_file_is_put_aside(open_store, tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database" * 1000)
    assert await open_store().ask(lambda reports: reports.listed()) == []
    assert (tmp_path / f"{FILE}.damaged").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_command_of_root_makes_the_file_for_the_user_of_the_service(tmp_path):
    os.chown(tmp_path, 12345, 12346)
    open_reports(tmp_path, now=NOON)
    about = (tmp_path / FILE).stat()
    assert (about.st_uid, about.st_gid, about.st_mode & 0o777) == (12345, 12346, 0o600)
