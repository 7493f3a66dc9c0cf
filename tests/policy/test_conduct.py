"""Strangers who make mistakes: slower answers, harvests of addresses, caps and budgets, and mail that is only tagged."""

import asyncio

import pytest

from pillarbox.inbound.greeting import GreetSettings
from pillarbox.mail.units import Rate, Seconds
from pillarbox.net.listener import ConnectionLimits
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.dns_lists import DnsListSettings, ZoneSettings
from pillarbox.policy.harvest import HarvestSettings
from pillarbox.policy.hello import HelloSettings
from pillarbox.policy.hooks import Action
from pillarbox.policy.patience import Patience
from pillarbox.policy.proxies import ProxySettings
from pillarbox.policy.rates import RateSettings
from pillarbox.policy.tarpit import Tarpit, TarpitSettings

EHLO = b"EHLO client.test"
MAIL, RCPT = b"MAIL FROM:<a@sender.test>", b"RCPT TO:<alice@example.org>"
NOBODY = b"RCPT TO:<nobody%d@example.org>"
MESSAGE = b"Subject: x\r\n\r\nx\r\n."
TRUSTED = ProxySettings(xclient_networks=("127.0.0.0/8",))

# --- the tarpit


def test_each_mistake_costs_more_than_the_one_before():
    tarpit = Tarpit(TarpitSettings(delay_s=Seconds(2), free=1, max_delay_s=Seconds(9)))
    assert [tarpit.length_s(number, number + 1) for number in range(7)] == [0, 2, 4, 6, 8, 9, 9]
    assert tarpit.length_s(0, 3) == 2 + 4
    assert tarpit.length_s(5, 5) == 0


@pytest.fixture
def held(monkeypatch):
    """For how long answers were kept back; nobody really waits."""
    delays = []

    async def wait(_self, seconds):
        delays.append(seconds)
        await asyncio.sleep(0)
        return True

    monkeypatch.setattr(Patience, "wait", wait)
    return delays


async def test_refused_recipients_and_bad_commands_are_answered_later_and_later(open_office, converse, held):
    office = await open_office(tarpit=TarpitSettings(delay_s=Seconds(1), free=1))
    replies = await converse(office, EHLO, MAIL, NOBODY % 1, b"FROB", NOBODY % 2, RCPT, b"QUIT")
    assert [reply[:3] for reply in replies] == [b"250", b"250", b"550", b"500", b"550", b"250", b"221"]
    assert held == [1, 2]


async def test_a_group_is_kept_back_as_a_whole_and_stays_in_order(open_office, dial, held):
    office = await open_office(tarpit=TarpitSettings(delay_s=Seconds(1), free=1))
    caller = await dial(office.port)
    await caller.reply()
    await caller.send(EHLO + b"\r\nFROB\r\nFROB\r\nFROB\r\nNOOP\r\nQUIT\r\n")
    replies = [await caller.reply() for _ in range(6)]
    assert [reply[:3] for reply in replies] == [b"250", b"500", b"500", b"500", b"250", b"221"]
    assert await caller.rest() == b""
    assert sum(held) == 1 + 2


async def test_those_who_may_relay_are_not_kept_waiting(open_office, converse, held):
    office = await open_office(tarpit=TarpitSettings(delay_s=Seconds(1), free=0), relay=("127.0.0.0/8",))
    await converse(office, EHLO, MAIL, NOBODY % 1)
    assert held == []


async def test_no_more_wait_than_there_is_room_for():
    patience = Patience(1)
    first = asyncio.create_task(patience.wait(60))
    await asyncio.sleep(0)
    assert not await patience.wait(60)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await patience.wait(0)


# --- harvests


def harvest(action=Action.REJECT, **more):
    values = {"limit": Rate(4, 60.0), "slow_after": 2, "delay_s": Seconds(1), "block_s": Seconds(600)} | more
    return CheckSettings(harvest=HarvestSettings(action=action, **values))


async def test_E550_24_a_network_that_names_too_many_unknown_recipients_is_refused_for_a_while(
    open_office, converse, held
):
    now = [1000.0]
    office = await open_office(checks=harvest(), clock=lambda: now[0])
    unknown = [NOBODY % number for number in range(5)]
    replies = await converse(office, EHLO, MAIL, *unknown, RCPT)
    assert [reply[:9] for reply in replies[2:7]] == [b"550 5.1.1"] * 5
    assert replies[7] == (
        b"550 5.7.1 Too many recipients that do not exist were named from 127.0.0.0/24;"
        b" it is refused for 600 seconds\r\n"
    )
    assert held == [1, 2]  # before the fourth and the fifth
    now[0] += 500
    replies = await converse(office, EHLO, MAIL, RCPT, NOBODY % 1)
    assert {reply[:9] for reply in replies[2:]} == {b"550 5.7.1"}, "it learns no more about any name"
    now[0] += 101
    assert (await converse(office, EHLO, MAIL, RCPT))[-1][:3] == b"250"


async def test_a_harvest_is_counted_over_all_workers_and_may_only_defer(open_office, converse, held):
    one = await open_office(checks=harvest(Action.DEFER))
    other = await open_office(checks=harvest(Action.DEFER), memory_of=one)
    for office in (one, other, one):
        await converse(office, EHLO, MAIL, NOBODY % 1, NOBODY % 2)
    assert (await converse(other, EHLO, MAIL, RCPT))[-1][:9] == b"450 4.7.1"
    assert held


async def test_a_few_wrong_addresses_now_and_then_are_no_harvest(open_office, converse, held):
    now = [1000.0]
    office = await open_office(checks=harvest(), clock=lambda: now[0])
    for number in range(12):
        assert (await converse(office, EHLO, MAIL, NOBODY % number))[-1][:9] == b"550 5.1.1"
        now[0] += 15
    assert (await converse(office, EHLO, MAIL, RCPT))[-1][:3] == b"250"
    assert held == []


@pytest.mark.parametrize("action", [Action.WARN, Action.TAG])
async def test_a_harvest_on_trial_keeps_nobody_waiting(open_office, converse, held, action):
    office = await open_office(checks=harvest(action))
    replies = await converse(office, EHLO, MAIL, *(NOBODY % number for number in range(6)), RCPT)
    assert replies[-1][:3] == b"250"
    assert held == []


# --- caps and budgets


@pytest.fixture
def come(dial):
    """Call as a client of some address: `caller, reply = await come(office, "192.0.2.1")`."""

    async def call(office, address):
        caller = await dial(office.port)
        await caller.reply()
        await caller.ask(EHLO)
        return caller, await caller.ask(b"XCLIENT ADDR=" + address.encode())

    return call


async def test_connections_of_one_network_are_capped(open_office, come, until):
    limits = ConnectionLimits(per_network=2)
    office = await open_office(proxy=TRUSTED, connections=limits)
    callers = [await come(office, f"192.0.2.{number}") for number in range(3)]
    assert [reply[:3] for _, reply in callers] == [b"220", b"220", b"421"]
    assert (await come(office, "198.51.100.1"))[1][:3] == b"220"
    await callers[0][0].close()
    await until(lambda: len(office.connections) <= 2)
    assert (await come(office, "192.0.2.9"))[1][:3] == b"220"


async def test_E454_5_sessions_of_one_account_are_capped(open_office, dial, until):
    office = await open_office(login=True, login_in_clear=True, connections=ConnectionLimits(per_account=1))
    login = b"AUTH PLAIN AGJvYkBleGFtcGxlLm9yZwBidWlsZGVy"
    callers = [await dial(office.port) for _ in range(3)]
    replies = []
    for caller in callers:
        await caller.reply()
        await caller.ask(EHLO)
    replies = [await caller.ask(login) for caller in callers[:2]]
    assert [reply[:9] for reply in replies] == [b"235 2.7.0", b"454 4.7.0"]
    await callers[0].close()
    await until(lambda: len(office.connections) == 2)
    assert (await callers[2].ask(login))[:3] == b"235"


async def test_E421_21_a_network_that_connects_too_often_is_put_off(open_office, come):
    checks = CheckSettings(rate=RateSettings(connections=Rate(2, 3600.0)))
    office = await open_office(proxy=TRUSTED, checks=checks, relay=("127.0.0.0/8",))
    replies = [(await come(office, "192.0.2.1"))[1] for _ in range(3)]
    assert [reply[:3] for reply in replies] == [b"220", b"220", b"421"]
    assert replies[2].startswith(b"421 mx.example.org 192.0.2.0/24 may connect 2/1h, try again in ")
    assert (await come(office, "198.51.100.1"))[1][:3] == b"220"


async def test_one_address_has_a_budget_of_its_own(open_office, come):
    checks = CheckSettings(rate=RateSettings(address=Rate(1, 3600.0)))
    office = await open_office(proxy=TRUSTED, checks=checks)
    replies = []
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        caller, _ = await come(office, address)
        await caller.ask(EHLO)
        replies.append(await caller.ask(MAIL))
    assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"250 2.1.0", b"450 4.7.1"]
    assert replies[2].startswith(b"450 4.7.1 192.0.2.1 may send 1/1h, ")


@pytest.mark.parametrize(
    ("rate", "refused"),
    [
        (RateSettings(domain=Rate(2, 3600.0)), b"450 4.7.1 sender.test may send 2/1h, "),
        (RateSettings(recipient_domain=Rate(2, 3600.0)), b"450 4.7.1 example.org may send 2/1h, "),
    ],
)
async def test_domains_have_budgets_of_their_own(open_office, converse, rate, refused):
    office = await open_office(checks=CheckSettings(rate=rate))
    senders = [b"MAIL FROM:<%d@sender.test>" % number for number in range(3)]
    replies = [(await converse(office, EHLO, sender, RCPT))[-1] for sender in senders]
    assert [reply[:3] for reply in replies] == [b"250", b"250", b"450"]
    assert replies[2].startswith(refused)


# --- tags


async def test_what_checks_that_tag_have_found_stands_in_the_message(
    open_office, converse, noted, monkeypatch, serve_dns
):
    names = await serve_dns({"1.0.0.127.bl.test. A": [("1.0.0.127.bl.test.", 300, "IN", "A", "127.0.0.2")]})
    checks = CheckSettings(
        dns_lists=DnsListSettings(action=Action.TAG, zones=(ZoneSettings(zone="bl.test"),)),
        helo=HelloSettings(deny=("client.test",), deny_action=Action.WARN),
    )
    office = await open_office(checks=checks, nameserver=names.address)
    replies = await converse(office, EHLO, MAIL, RCPT, b"DATA", MESSAGE)
    assert replies[-1][:3] == b"250"
    octets, _ = await office.stored()
    head = octets.partition(b"\r\n\r\n")[0]
    assert (
        b"\r\nX-Policy-Tag: mx.example.org; policy.client_listed;\r\n"
        b"\t554 5.7.1 mx.example.org no service for 127.0.0.1, listed by bl.test\r\n" in head + b"\r\n"
    )
    assert head.count(b"X-Policy-Tag") == 1
    assert {name for name, _ in noted} >= {"check.warned"}
    kept = office.ledger.show(office.queued[0].id)
    assert "listed by bl.test" in kept.trace.warned


async def test_an_early_talker_may_be_tagged(open_office, dial):
    office = await open_office(greet=GreetSettings(delay_s=Seconds(0.1), early_talker=Action.TAG))
    caller = await dial(office.port)
    await caller.send(EHLO + b"\r\n")
    assert (await caller.reply())[:3] == b"220"
    await caller.reply()
    for line in (MAIL, RCPT, b"DATA", MESSAGE):
        reply = await caller.ask(line)
    assert reply[:3] == b"250"
    octets, _ = await office.stored()
    assert b"X-Policy-Tag: mx.example.org; policy.early_talker;" in octets
