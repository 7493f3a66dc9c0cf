"""Greylisting, rates, lists in DNS and emergencies, each told over a socket; time is a number that the tests set."""

import pytest

from pillarbox.mail.units import Octets, Rate, Seconds
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.dns_lists import DnsListSettings, ZoneSettings
from pillarbox.policy.emergency import EmergencySettings
from pillarbox.policy.greylist import GreylistSettings
from pillarbox.policy.hooks import Action
from pillarbox.policy.rates import RateSettings

EHLO, MAIL, RCPT = b"EHLO client.test", b"MAIL FROM:<a@sender.test>", b"RCPT TO:<alice@example.org>"
OK = b"250 2.1.5 Recipient OK\r\n"


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_greylisting(open_office, clock):
    def make(**settings):
        return open_office(
            checks=CheckSettings(greylist=GreylistSettings(action="defer", **settings)), clock=clock
        )

    return make


@pytest.fixture
def knock(converse):
    """Try to send: the reply to RCPT."""

    async def make(office, sender=b"a@sender.test", recipient=b"alice@example.org"):
        *_, reply = await converse(office, EHLO, b"MAIL FROM:<%s>" % sender, b"RCPT TO:<%s>" % recipient)
        return reply

    return make


def greylisted(seconds):
    return b"450 4.7.1 Greylisted, try again in %d seconds\r\n" % seconds


async def test_E450_3_mail_from_an_unknown_sender_is_put_off_and_accepted_later(
    open_greylisting, knock, clock
):
    office = await open_greylisting()
    assert await knock(office) == greylisted(300)
    clock.now += 100
    assert await knock(office) == greylisted(200), "the wait does not begin anew"
    clock.now += 200
    assert await knock(office) == OK
    clock.now += 30 * 86400
    assert await knock(office) == OK
    clock.now += 30 * 86400
    assert await knock(office) == OK, "each time makes it remembered for longer"


async def test_a_greylist_knows_mail_by_network_sender_and_recipient(open_greylisting, knock, clock):
    office = await open_greylisting(trust_after=0)
    await knock(office)
    clock.now += 300
    assert await knock(office, sender=b"b@sender.test") == greylisted(300)
    assert await knock(office, recipient=b"bob@example.org") == greylisted(300)
    assert await knock(office, sender=b"A@Sender.TEST", recipient=b"ALICE@example.ORG") == OK


async def test_a_list_that_numbers_its_messages_is_one_sender(open_greylisting, knock, clock):
    office = await open_greylisting()
    await knock(office, sender=b"list-bounce-1024@sender.test")
    clock.now += 300
    assert await knock(office, sender=b"list-bounce-1025@sender.test") == OK


async def test_mail_that_comes_again_too_late_is_new(open_greylisting, knock, clock):
    office = await open_greylisting(window_s=Seconds(3600))
    await knock(office)
    clock.now += 3601
    assert await knock(office) == greylisted(300)


async def test_a_network_that_has_come_through_often_enough_is_trusted(open_greylisting, knock, clock):
    office = await open_greylisting(trust_after=2)
    for number in (b"x", b"y"):
        await knock(office, sender=number + b"@sender.test")
        clock.now += 300
        assert await knock(office, sender=number + b"@sender.test") == OK
    assert await knock(office, sender=b"new@sender.test") == OK


@pytest.mark.parametrize(
    "settings",
    [
        {"allow_networks": ("127.0.0.0/8",)},
        {"allow_senders": ("sender.test",)},
        {"allow_senders": ("a@sender.test",)},
        {"allow_recipients": ("alice@example.org",)},
        {"allow_recipients": ("example.org",)},
    ],
)
async def test_who_is_allowed_is_not_put_off(open_greylisting, knock, settings):
    assert await knock(await open_greylisting(**settings)) == OK


async def test_a_recipient_that_does_not_exist_is_not_greylisted(open_greylisting, knock):
    assert (await knock(await open_greylisting(), recipient=b"nobody@example.org"))[:9] == b"550 5.1.1"


async def test_a_greylist_on_trial_puts_nothing_off(open_office, knock, noted):
    office = await open_office(checks=CheckSettings(greylist=GreylistSettings(action="warn")))
    assert await knock(office) == OK
    assert [facts["cause"] for name, facts in noted if name == "check.warned"] == ["policy.greylisted"]


async def test_the_first_try_is_remembered_over_a_restart(open_office, knock, clock, tmp_path):
    checks = CheckSettings(greylist=GreylistSettings(action="defer"))
    office = await open_office(checks=checks, clock=clock)
    await knock(office)
    other = await open_office(checks=checks, clock=clock, memory_of=office)
    clock.now += 300
    assert await knock(other) == OK, "another worker, or the same after a restart"


# --- rates ---------------------------------------------------------------------------------------------------------------


async def test_E450_21_a_network_of_strangers_has_its_share_of_messages(open_office, converse, clock):
    settings = RateSettings(client=Rate(2, 60))
    office = await open_office(checks=CheckSettings(rate=settings), clock=clock)
    replies = [(await converse(office, EHLO, MAIL))[-1] for _ in range(3)]
    assert replies[0] == replies[1] == b"250 2.1.0 Sender OK\r\n"
    assert replies[2] == b"450 4.7.1 127.0.0.0/24 may send 2/1m, try again in 30 seconds\r\n"
    clock.now += 30
    assert (await converse(office, EHLO, MAIL))[-1][:3] == b"250"


async def test_E450_21_a_sender_has_its_share_of_recipients(open_office, converse, clock):
    office = await open_office(checks=CheckSettings(rate=RateSettings(sender=Rate(2, 3600))), clock=clock)
    replies = await converse(
        office, EHLO, MAIL, RCPT, b"RCPT TO:<bob@example.org>", b"RCPT TO:<carol@example.org>"
    )
    assert [reply[:3] for reply in replies[2:]] == [b"250", b"250", b"450"]
    assert replies[4] == b"450 4.7.1 a@sender.test may send 2/1h, try again in 1800 seconds\r\n"
    *_, reply = await converse(office, EHLO, b"MAIL FROM:<b@sender.test>", RCPT)
    assert reply == OK


async def test_E450_21_an_account_has_its_share_of_recipients(open_office, converse, clock):
    office = await open_office(
        login=True,
        login_in_clear=True,
        checks=CheckSettings(rate=RateSettings(account=Rate(1, 3600), sender=Rate(1, 3600))),
        clock=clock,
    )
    login = b"AUTH PLAIN AGJvYkBleGFtcGxlLm9yZwBidWlsZGVy"  # bob@example.org, builder
    *_, first, second = await converse(
        office, EHLO, login, b"MAIL FROM:<bob@example.org>", RCPT, b"RCPT TO:<carol@example.org>"
    )
    assert first == OK
    assert second == b"450 4.7.1 bob@example.org may send 1/1h, try again in 3600 seconds\r\n"


async def test_E550_17_a_flood(open_office, converse, clock):
    settings = RateSettings(client=Rate(1, 60), flood=Rate(3, 60))
    office = await open_office(checks=CheckSettings(rate=settings), clock=clock)
    replies = [(await converse(office, EHLO, MAIL))[-1] for _ in range(4)]
    assert [reply[:3] for reply in replies] == [b"250", b"450", b"450", b"550"]
    assert replies[3] == b"550 5.7.28 Mail flood: 127.0.0.0/24 sent more than 3/1m\r\n"


# --- lists in DNS --------------------------------------------------------------------------------------------------------


def listed(zone, *answers):
    name = f"1.0.0.127.{zone}."
    return {f"{name} A": [(name, 300, "IN", "A", *answers)]}


@pytest.fixture
def greet(open_office, serve_dns, dial):
    """The greeting of an office that asks these lists: (zone, weight) or (zone, weight, answers)."""

    async def make(zone, *lists, **settings):
        server = await serve_dns(zone)
        zones = tuple(
            ZoneSettings(zone=name, weight=weight, answers=tuple(answers)) for name, weight, *answers in lists
        )
        office = await open_office(
            checks=CheckSettings(dns_lists=DnsListSettings(zones=zones, **settings)),
            nameserver=server.address,
        )
        caller = await dial(office.port)
        return caller, await caller.reply()

    return make


async def test_E554_1_an_address_that_lists_in_dns_know(greet):
    zone = listed("bl.test", "127.0.0.2") | listed("xbl.test", "127.0.0.4")
    caller, greeting = await greet(zone, ("bl.test", 0.5), ("xbl.test", 0.5), ("clean.test", 0.5))
    assert greeting == b"554 mx.example.org no service for 127.0.0.1, listed by bl.test and xbl.test\r\n"
    assert (await caller.ask(EHLO))[:3] == b"503"
    assert (await caller.ask(b"QUIT"))[:3] == b"221"


@pytest.mark.parametrize(
    ("zone", "lists"),
    [
        (listed("bl.test", "127.0.0.2"), [("bl.test", 0.9)]),
        (listed("bl.test", "127.255.255.254"), [("bl.test", 1.0)]),  # "open resolver"
        (listed("bl.test", "127.255.255.252", "127.0.0.2"), [("bl.test", 1.0)]),
        (listed("bl.test", "192.0.2.7"), [("bl.test", 1.0)]),  # a resolver that lies about all names
        ({"1.0.0.127.bl.test. A": "servfail"}, [("bl.test", 1.0)]),
        ({"1.0.0.127.bl.test. A": "silent"}, [("bl.test", 1.0)]),
        (listed("bl.test", "127.0.0.9"), [("bl.test", 1.0, "127.0.0.2-127.0.0.7", "127.0.0.16/30")]),
        (
            listed("bl.test", "127.0.0.2") | listed("wl.test", "127.0.10.3"),
            [("bl.test", 1.0), ("wl.test", -1.0)],
        ),
    ],
)
async def test_addresses_that_do_not_weigh_enough_are_welcome(greet, zone, lists):
    assert (await greet(zone, *lists))[1][:3] == b"220"


async def test_only_the_answers_that_count_are_counted(greet):
    answers = ("127.0.0.2", "127.0.0.4-127.0.0.7")
    assert (await greet(listed("bl.test", "127.0.0.5"), ("bl.test", 1.0, *answers)))[1][:3] == b"554"


async def test_a_list_that_refuses_this_server_is_told_to_the_operator_once(greet, noted, dial):
    await greet(listed("bl.test", "127.255.255.254"), ("bl.test", 1.0))
    (alarm,) = [facts for name, facts in noted if name == "alarm"]
    assert "bl.test does not answer this server (127.255.255.254)" in alarm["problem"]


async def test_lists_on_trial_greet_everybody(greet, noted):
    zone = listed("bl.test", "127.0.0.2")
    assert (await greet(zone, ("bl.test", 1.0), action=Action.WARN))[1][:3] == b"220"
    assert [facts["cause"] for name, facts in noted if name == "check.warned"] == ["policy.client_listed"]


# --- emergencies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "greeting"),
    [
        (
            {"min_disk_octets": Octets(1 << 60)},
            b"421 mx.example.org is short of disk space, try again later\r\n",
        ),
        (
            {"min_memory_octets": Octets(1 << 60)},
            b"421 mx.example.org is short of memory, try again later\r\n",
        ),
        ({"max_load": 0.0}, b"421 mx.example.org is overloaded, try again later\r\n"),
    ],
)
async def test_E421_8_an_emergency_turns_everybody_away(open_office, dial, settings, greeting, monkeypatch):
    office = await open_office(checks=CheckSettings(emergency=EmergencySettings(**settings)))
    caller = await dial(office.port)
    assert await caller.rest() == greeting


async def test_while_all_is_well_everybody_is_greeted(open_office, dial):
    settings = EmergencySettings(min_disk_octets=Octets(1), min_memory_octets=Octets(1), max_load=1e6)
    office = await open_office(checks=CheckSettings(emergency=settings))
    assert (await (await dial(office.port)).reply())[:3] == b"220"


async def test_a_list_that_is_slow_holds_the_greeting_for_a_while_only(open_office, serve_dns, dial):
    server = await serve_dns({"1.0.0.127.bl.test. A": "silent"})
    lists = DnsListSettings(zones=(ZoneSettings(zone="bl.test"),), limit_s=Seconds(0.1))
    office = await open_office(
        checks=CheckSettings(dns_lists=lists), nameserver=server.address, dns_timeout_s=1000.0
    )
    assert (await (await dial(office.port)).reply())[:3] == b"220"
