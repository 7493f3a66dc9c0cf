"""What one client can hold: its time is up if it dawdles, and what has no end is not waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from pillarbox.inbound import session as driver
from pillarbox.mail.units import Octets, Seconds
from pillarbox.net.listener import ConnectionLimits
from pillarbox.smtp.profile import Limits

HELLO = b"EHLO client.example\r\n"
OPENED = HELLO + b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\n"
LINE = b"x" * 62 + b"\r\n"


@pytest.fixture
def begin(dial):
    async def connect(office, commands=HELLO):
        caller = await dial(office.port)
        await caller.send(commands)
        for _ in range(commands.count(b"\r\n") + 1):
            assert (await caller.reply())[:1] in b"23"
        return caller

    return connect


def clock(office, caller_number=0):
    """How long the server will wait for the next octets of a client."""
    return office.protocols[caller_number].deadline - time.monotonic()


async def dribble(caller, octets, pause_s=0.01):
    with contextlib.suppress(ConnectionError):
        while True:
            await caller.send(octets)
            await asyncio.sleep(pause_s)


@pytest.mark.parametrize("start", [b"DATA\r\n", b"BDAT 100000000\r\n"])
async def test_E421_31_a_message_that_comes_too_slowly(open_office, begin, until, start):
    """Each octet in time, but all of them would take days."""
    limits = Limits(data_timeout_s=Seconds(0.3), min_data_octets=Octets(1 << 20))
    office = await open_office(limits=limits)
    caller = await begin(office, OPENED + (start if start[:1] == b"D" else b""))
    if start[:1] == b"B":
        await caller.send(start)
    feeding = asyncio.create_task(dribble(caller, b"x\r\n", 0.05))
    assert await caller.reply() == b"421 4.4.2 mx.example.org the message comes too slowly, closing\r\n"
    feeding.cancel()
    assert office.drafts == []


async def test_a_message_that_comes_fast_enough_has_as_much_time_as_it_needs(open_office, begin):
    limits = Limits(data_timeout_s=Seconds(0.3), min_data_octets=Octets(1000))
    office = await open_office(limits=limits)
    caller = await begin(office, OPENED + b"DATA\r\n")
    await caller.send(b"Subject: x\r\n\r\n")
    for _ in range(15):
        await caller.send(LINE)
        await asyncio.sleep(0.05)
    assert (await caller.ask(b".")).startswith(b"250 ")


@pytest.mark.parametrize("start", [b"DATA\r\n", b"BDAT 99999999999999999999 LAST\r\n"])
async def test_E421_32_a_message_without_end(open_office, begin, start):
    office = await open_office(limits=Limits(message_octets=Octets(1 << 20)))
    caller = await begin(office, OPENED + (start if start[:1] == b"D" else b""))
    if start[:1] == b"B":
        await caller.send(start)
    feeding = asyncio.create_task(caller.send(LINE * 80_000))
    said = await caller.reply()
    assert said == b"421 4.7.0 mx.example.org far more octets than a message may have, closing\r\n"
    feeding.cancel()
    assert office.drafts == []


async def test_refused_chunks_have_an_end_too(open_office, begin):
    """They must be read, because their octets can't be told from commands; not for ever."""
    office = await open_office(limits=Limits(message_octets=Octets(1 << 20)))
    caller = await begin(office)
    feeding = asyncio.create_task(dribble(caller, b"BDAT 64000\r\n" + LINE * 1000, 0))
    said = await caller.rest()
    feeding.cancel()
    assert said.splitlines()[-1].startswith(b"421 4.7.0 ")


async def test_when_places_run_short_the_silent_lose_theirs_first(open_office, begin, until):
    """A slow loris holds most places. They are wanted, so patience shrinks; who talks keeps its place."""
    office = await open_office(
        connections=ConnectionLimits(total=20, hurry_s=Seconds(0.5)), limits=Limits(empty_commands=1_000_000)
    )
    silent = [await begin(office, commands) for commands in [HELLO] * 8 + [OPENED + b"DATA\r\n"] * 6]
    talking = await begin(office)
    assert min(clock(office, number) for number in range(15)) > 100  # nobody wants them yet
    late = [await begin(office), await begin(office)]  # now more than three quarters are taken
    async with asyncio.timeout(20):
        while len(office.connections) > 15:
            for caller in (talking, *late):
                assert await caller.ask(b"RSET") == b"250 2.0.0 OK\r\n"
    left = len(office.connections)
    assert left >= 3
    said = await asyncio.gather(
        *(asyncio.wait_for(caller.reply(), 0.5) for caller in silent), return_exceptions=True
    )
    sent_away = [line for line in said if isinstance(line, bytes)]
    assert len(sent_away) == 17 - left
    assert all(line.startswith(b"421 4.4.2 ") for line in sent_away)


NO_MEMORY = b"421 4.3.1 mx.example.org is short of memory, closing, try again later\r\n"
HELD = ConnectionLimits(memory_octets=Octets(200_000))


async def test_E421_33_those_who_hold_most_are_sent_away(open_office, begin, until):
    """Messages that stop halfway are in memory up to 64 KiB each. Others go on."""
    office = await open_office(connections=HELD)
    small = await begin(office, OPENED + b"DATA\r\n")
    await small.send(b"Subject: x\r\n\r\n")
    large = [await begin(office, OPENED + b"DATA\r\n") for _ in range(4)]
    for number, caller in enumerate(large):
        await caller.send(b"Subject: x\r\n\r\n" + LINE * (800 + number))
    assert (
        await large[3].reply() == await large[2].reply() == NO_MEMORY
    )  # 16 KiB of each are kept as its beginning, too
    assert sum(one.held_octets for one in office.protocols) <= 150_000
    for caller in (small, large[0], large[1]):
        assert (await caller.ask(b".")).startswith(b"250 ")
    assert office.drafts == []


async def test_recipients_take_memory_too(open_office, begin):
    office = await open_office(connections=HELD)
    caller = await begin(office, OPENED + b"RCPT TO:<alice@example.org>\r\n" * 400)
    assert await caller.reply() == NO_MEMORY


@pytest.mark.parametrize(
    "held", [ConnectionLimits(memory_octets=Octets(1 << 20)), ConnectionLimits(memory_octets=Octets(0))]
)
async def test_answers_that_nobody_reads_and_what_waits_behind_them_take_memory_too(
    open_office, begin, until, held
):
    office = await open_office(connections=held, limits=Limits(empty_commands=1_000_000))
    other = await begin(office)
    deaf = [await begin(office) for _ in range(8)]
    for caller in deaf:
        caller.writer.transport.pause_reading()
        caller.writer.write(b"HELP\r\n" * 100_000)
    if held.memory_octets:
        await until(lambda: len(office.connections) < 9)
    else:
        await until(lambda: all(one._choked for one in office.protocols[1:]))
        assert len(office.connections) == 9
    assert await other.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    for caller in deaf:
        caller.cut()


async def test_only_so_many_linger_after_a_refusal(open_office, begin, dial, until, monkeypatch):
    """Who was refused is read for a moment, so that the refusal is not lost; a flood of them holds no places."""
    monkeypatch.setattr(driver, "_MAX_LINGERING", 3)
    office = await open_office(connections=ConnectionLimits(total=1))
    await begin(office)
    refused = [await dial(office.port) for _ in range(10)]
    for caller in refused:
        assert (await caller.reply()).startswith(b"421 ")
    await until(lambda: len(office.connections) <= 4)
    assert office.connections.lingering <= 3
    await until(lambda: len(office.connections) == 1)
    assert office.connections.lingering == 0


@pytest.mark.parametrize("fields", [300, 900, 4000])
async def test_a_long_header_section_is_read_whole_but_kept_once(open_office, begin, fields):
    """Its last field is as good as its first, and what waits for its end is not all in memory."""
    office = await open_office(limits=Limits(hops=1))
    caller = await begin(office, OPENED + b"DATA\r\n")
    field = b"X-Many: " + b"y" * 80 + b"\r\n"
    for _ in range(0, fields, 100):
        await caller.send(field * 100)
    assert len(office.protocols[0]._letter.head) <= 16_385 + 262_144
    hops = b"Received: by here; now\r\n" * 2
    answer = await caller.ask(hops + b"Subject: x\r\n\r\ntext\r\n.")
    expected = b"554 5.4.6 " if fields < 2900 else b"552 5.3.4 "
    assert answer.startswith(expected), answer


async def test_who_asks_for_much_waits_in_line_and_others_are_served_in_between(open_office, begin):
    """However many flood the server, a client with one question waits for no more than a turn of one of them."""
    office = await open_office(limits=Limits(empty_commands=1_000_000))
    flooders = [await begin(office) for _ in range(10)]
    other = await begin(office)
    for caller in flooders:
        caller.writer.write(b"NOOP\r\n" * 5000)
    for _ in range(5):
        assert await other.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    answered = sum(protocol._session._used.empty for protocol in office.protocols[:10])
    assert answered < 3000, "each turn of the loop would have answered all of them"
    for caller in flooders:
        for _ in range(5000):
            assert await caller.reply() == b"250 2.0.0 OK\r\n"
