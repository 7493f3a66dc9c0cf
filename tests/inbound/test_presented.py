"""Clients that a trusted host tells of: they count as if they had connected by themselves."""

import pytest

from pillarbox.inbound.greeting import GreetSettings
from pillarbox.mail.units import Rate, Seconds
from pillarbox.net.listener import ConnectionLimits
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.hooks import Action
from pillarbox.policy.proxies import ProxySettings
from pillarbox.policy.rates import RateSettings
from pillarbox.policy.reverse import ReverseSettings
from pillarbox.policy.rules import Role

LOOPBACK = ("127.0.0.0/8",)
PROXY = ProxySettings(xclient_networks=LOOPBACK, xforward_networks=LOOPBACK)
GREETING = b"220 mx.example.org ESMTP Pillarbox\r\n"
EHLO = b"EHLO client.example"
MAIL, RCPT = b"MAIL FROM:<a@sender.example>", b"RCPT TO:<alice@example.org>"
MESSAGE = b"Subject: x\r\n\r\nx\r\n."


async def test_E220_4_the_message_is_that_of_the_client_that_was_told(open_office, begin):
    office = await open_office(proxy=PROXY)
    caller, reply = await begin(
        office, b"XCLIENT ADDR=192.0.2.7 PORT=4321 NAME=mail.client.example HELO=old.example"
    )
    assert reply == GREETING
    for line in (EHLO, MAIL, RCPT, b"DATA", MESSAGE):
        reply = await caller.ask(line)
    assert reply[:3] == b"250"
    octets, _ = await office.stored()
    assert octets.startswith(b"Received: from client.example (mail.client.example [192.0.2.7])\r\n")
    assert office.ledger.show(office.queued[0].id).trace.client == "192.0.2.7:4321"


async def test_several_commands_tell_one_client_and_a_second_address_another(open_office, begin):
    both = ProxySettings(xclient_networks=("127.0.0.0/8", "192.0.2.0/24"))
    office = await open_office(proxy=both)
    caller, _ = await begin(office, b"XCLIENT NAME=one.example HELO=one.example")
    for told, expected in (
        (b"ADDR=192.0.2.1 PORT=1", ("192.0.2.1", 1, "one.example", "one.example")),
        (b"ADDR=IPV6:2001:DB8::7", ("2001:db8::7", 0, "", "")),
    ):
        assert await caller.ask(b"XCLIENT " + told) == GREETING
        client = office.protocols[0]._client
        assert (client.address, client.port, client.name, client.helo) == expected
    await caller.ask(EHLO)
    assert (await caller.ask(b"XCLIENT ADDR=192.0.2.1"))[:3] == b"550"


async def test_a_client_that_was_told_and_is_denied_is_refused_in_the_greeting(open_office, begin):
    office = await open_office(proxy=PROXY, deny=("192.0.2.0/24",))
    caller, reply = await begin(office, b"XCLIENT ADDR=192.0.2.1")
    assert reply.startswith(b"554 mx.example.org ")
    assert (await caller.ask(EHLO))[:9] == b"503 5.5.1"


async def test_connections_count_for_the_address_that_was_told(open_office, begin, until):
    office = await open_office(proxy=PROXY, connections=ConnectionLimits(total=3, per_address=1))
    first, reply = await begin(office, b"XCLIENT ADDR=192.0.2.1")
    assert reply == GREETING
    second, reply = await begin(office, b"XCLIENT ADDR=192.0.2.2")
    assert reply == GREETING
    third, reply = await begin(office, b"XCLIENT ADDR=192.0.2.1")
    assert reply.startswith(b"421 mx.example.org ")
    assert await third.rest() == b""
    await first.close()
    await second.close()
    await until(lambda: not len(office.connections))
    again, reply = await begin(office, b"XCLIENT ADDR=192.0.2.1")
    assert reply == GREETING
    await again.close()


async def test_rates_count_for_the_address_that_was_told(open_office, begin):
    checks = CheckSettings(rate=RateSettings(client=Rate(1, 3600)))
    office = await open_office(proxy=PROXY, checks=checks)
    replies = []
    for address in (b"192.0.2.1", b"192.0.2.2", b"198.51.100.1"):
        caller, _ = await begin(office, b"XCLIENT ADDR=" + address, EHLO)
        replies.append((await caller.ask(MAIL))[:3])
    assert replies == [b"250", b"450", b"250"]


@pytest.mark.parametrize(
    ("name", "code"),
    [(b"[UNAVAILABLE]", b"550"), (b"[TEMPUNAVAIL]", b"450"), (b"mail.client.example", b"250")],
)
async def test_the_name_that_was_told_is_believed(open_office, begin, name, code):
    checks = CheckSettings(reverse_dns=ReverseSettings(action=Action.REJECT))
    office = await open_office(proxy=PROXY, checks=checks)
    caller, _ = await begin(office, b"XCLIENT ADDR=192.0.2.1 NAME=" + name, EHLO, MAIL)
    assert (await caller.ask(RCPT))[:3] == code


async def test_a_client_without_an_address_is_a_stranger_that_may_nothing(open_office, begin):
    office = await open_office(proxy=PROXY, relay=LOOPBACK)
    caller, _ = await begin(office, b"XCLIENT ADDR=[UNAVAILABLE]", EHLO, MAIL)
    assert (await caller.ask(b"RCPT TO:<somebody@far.example>")).startswith(b"550 5.7.1 ")
    assert (await caller.ask(RCPT))[:3] == b"250"


async def test_a_client_that_was_told_waits_for_its_greeting_too(open_office, begin):
    office = await open_office(proxy=PROXY, greet=GreetSettings(delay_s=Seconds(0.1)), relay=LOOPBACK)
    caller, reply = await begin(office, b"XCLIENT ADDR=192.0.2.1")
    assert [line[:4] for line in reply.splitlines()] == [b"220-", b"220 "]
    assert (await caller.ask(EHLO))[:3] == b"250"


async def test_commands_in_one_group_with_xclient_are_those_of_the_new_client(open_office, begin):
    office = await open_office(proxy=PROXY)
    caller, _ = await begin(office)
    await caller.send(
        b"XCLIENT ADDR=192.0.2.1\r\nHELO client.example\r\nMAIL FROM:<a@sender.example>\r\nQUIT\r\n"
    )
    assert [(await caller.reply())[:3] for _ in range(4)] == [b"220", b"250", b"250", b"221"]


async def test_under_tls_rights_stay_and_the_certificate_of_the_proxy_does_not_count(
    open_office, begin, certificates
):
    office = await open_office(proxy=PROXY, tls="offered")
    caller, _ = await begin(office, b"STARTTLS")
    await caller.upgrade(certificates.client)
    assert b"XCLIENT NAME" in await caller.ask(EHLO)
    assert await caller.ask(b"XCLIENT ADDR=192.0.2.1") == GREETING
    offer = await caller.ask(EHLO)
    assert b"XCLIENT" not in offer
    assert b"STARTTLS" not in offer


async def test_on_a_submission_listener_a_login_that_was_told_is_one(open_office, begin):
    office = await open_office(proxy=PROXY, role=Role.SUBMISSION, login=True, login_in_clear=True)
    caller, _ = await begin(office, b"XCLIENT ADDR=192.0.2.1 LOGIN=bob@example.org", EHLO)
    assert (await caller.ask(b"AUTH PLAIN"))[:3] == b"503"
    assert (await caller.ask(b"MAIL FROM:<bob@example.org>"))[:3] == b"250"
    assert (await caller.ask(b"MAIL FROM:<bob@example.org>"))[:3] == b"503"
    assert office.protocols[0]._client.login == "bob@example.org"


async def test_E250_9_what_xforward_told_is_kept_with_one_message(open_office, begin):
    office = await open_office(proxy=PROXY)
    caller, _ = await begin(
        office,
        b"XFORWARD NAME=spike.example ADDR=192.0.2.1 PORT=[UNAVAILABLE]",
        b"XFORWARD HELO=spike.example IDENT=4F1A SOURCE=REMOTE",
    )
    for _ in range(2):
        for line in (MAIL, RCPT, b"DATA", MESSAGE):
            reply = await caller.ask(line)
        assert reply[:3] == b"250"
    told = "name=spike.example addr=192.0.2.1 helo=spike.example ident=4F1A source=REMOTE"
    kept = [office.ledger.show(queued.id).trace for queued in office.queued]
    assert [trace.forwarded for trace in kept] == [told, ""]
    assert [trace.client.partition(":")[0] for trace in kept] == ["127.0.0.1"] * 2
