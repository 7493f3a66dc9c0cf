"""Greetings that take their time, clients that do not wait, and what HELP tells to whom."""

import pytest

from pillarbox.inbound.greeting import GreetSettings
from pillarbox.inbound.status import HelpSettings
from pillarbox.mail.units import Seconds

SLOW = GreetSettings(delay_s=Seconds(0.2))
TEASER, GREETING = (
    b"220-mx.example.org wait for the end of this greeting\r\n",
    b"220 mx.example.org ESMTP Pillarbox\r\n",
)


async def test_E220_2_a_greeting_that_takes_its_time(open_office, dial):
    office = await open_office(greet=SLOW)
    caller = await dial(office.port)
    assert await caller.reply() == TEASER + GREETING
    assert (await caller.ask(b"EHLO client.example"))[:3] == b"250"


async def test_E554_7_a_client_that_does_not_wait_for_the_greeting(open_office, dial):
    office = await open_office(greet=SLOW)
    caller = await dial(office.port)
    await caller.send(b"EHLO spammer.example\r\nMAIL FROM:<a@sender.example>\r\n")
    assert await caller.reply() == TEASER + GREETING
    told = b"554 5.5.0 You spoke before the end of the greeting\r\n"
    assert [await caller.reply(), await caller.reply(), await caller.ask(b"NOOP")] == [told] * 3
    assert (await caller.ask(b"QUIT"))[:3] == b"221"


async def test_an_early_talker_on_trial_is_served(open_office, dial):
    office = await open_office(greet=GreetSettings(delay_s=Seconds(0.2), early_talker="warn"))
    caller = await dial(office.port)
    await caller.send(b"EHLO hasty.example\r\n")
    assert await caller.reply() == TEASER + GREETING
    assert (await caller.reply())[:3] == b"250"
    (protocol,) = office.protocols
    assert protocol._warned == ["554 5.5.0 You spoke before the end of the greeting"]


async def test_those_who_may_relay_are_greeted_at_once(open_office, dial):
    office = await open_office(greet=SLOW, relay=("127.0.0.0/8",))
    assert await (await dial(office.port)).reply() == GREETING


async def test_a_client_that_leaves_during_the_greeting_leaves_nothing_behind(open_office, dial, until):
    office = await open_office(greet=GreetSettings(delay_s=Seconds(0.1)))
    caller = await dial(office.port)
    await caller.reader.readline()
    caller.cut()
    await until(lambda: not len(office.connections))


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        ([b"EHLO a.example\r\nNOOP"], [b"554", b"250"]),
        ([b"EHLO a.example", b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>"], [b"250", b"250", b"250"]),
        ([b"HELO a.example", b"MAIL FROM:<a@sender.example>\r\nNOOP"], [b"250", b"554", b"250"]),
        (
            [
                b"EHLO a.example",
                b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nRSET",
            ],
            [b"250", b"250", b"250", b"554", b"421"],  # what follows may be a body
        ),
    ],
)  # fmt: skip
async def test_E554_7_commands_behind_one_that_has_to_be_answered_first(open_office, dial, lines, replies):
    office = await open_office(greet=GreetSettings(strict_pipelining=True))
    caller = await dial(office.port)
    await caller.reply()
    found = []
    for line in lines:
        await caller.send(line + b"\r\n")
        found += [await caller.reply() for _ in range(line.count(b"\r\n") + 1)]
    assert [reply[:3] for reply in found] == replies
    told = b"554 5.5.0 Wait for the answer to this command before you send more\r\n"
    assert all(reply == told for reply in found if reply[:3] == b"554")


# --- HELP ----------------------------------------------------------------------------------------------------------------


async def test_E211_1_the_status_for_a_client_of_this_machine(open_office, begin):
    office = await open_office()
    _, reply = await begin(office, b"HELP STATUS")
    lines = reply.decode().split("\r\n")
    assert [line[:10] for line in lines[:-1]] == ["211-2.0.0 "] * 5 + ["211 2.0.0 "]
    up, sessions, queue, load, free, encryption = [line[10:] for line in lines[:-1]]
    assert up.startswith("Up ")
    assert sessions == "Sessions of this worker: 1"
    assert queue == "Recipients in the queue: 0 waiting, 0 active, 0 held"
    assert load.startswith("Load: ")
    assert free.startswith("Free: disk ")
    assert encryption == "This session: not encrypted"


async def test_E211_1_the_status_tells_what_waits_and_how_the_session_is_encrypted(
    open_office, begin, certificates
):
    office = await open_office(tls="implicit", relay=("127.0.0.0/8",))
    caller, _ = await begin(office, tls=certificates.client)
    for line in (b"MAIL FROM:<>", b"RCPT TO:<alice@example.org>", b"DATA", b"Subject: x\r\n\r\nx\r\n."):
        await caller.ask(line)
    reply = await caller.ask(b"help status")
    assert b"1 held" in reply
    assert b"This session: TLS_" in reply


async def test_E211_2_the_status_is_not_for_everybody(open_office, begin):
    office = await open_office(help=HelpSettings(status_acl=("192.0.2.0/24",)))
    _, reply = await begin(office, b"HELP STATUS")
    assert reply == b"504 5.5.4 No help on this\r\n"


async def test_E211_1_the_status_for_an_administrator_who_logged_in(open_office, begin):
    office = await open_office(
        login=True,
        login_in_clear=True,
        help=HelpSettings(status_acl=(), admins=("bob@example.org",)),
    )
    caller, _ = await begin(office)
    assert (await caller.ask(b"HELP STATUS"))[:3] == b"504"
    assert (await caller.ask(b"AUTH PLAIN AGJvYkBleGFtcGxlLm9yZwBidWlsZGVy"))[:3] == b"235"
    assert (await caller.ask(b"HELP STATUS"))[:3] == b"211"


@pytest.mark.parametrize("line", [b"HELP", b"HELP MAIL", b"HELP STATUS"])
async def test_E502_1_help_that_is_off(open_office, begin, line):
    office = await open_office(help=HelpSettings(enabled=False))
    _, reply = await begin(office, line)
    assert reply == b"502 5.5.1 Command not implemented\r\n"
