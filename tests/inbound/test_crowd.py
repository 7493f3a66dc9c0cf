"""Sessions among so many others that what they ask for in one turn of the loop is handled together."""

import pytest

MAIL = b"MAIL FROM:<a@sender.example>"
RCPT = b"RCPT TO:<alice@example.org>"
LETTER = b"Subject: hello\r\n\r\nHello.\r\n.\r\n"


@pytest.fixture
async def crowd(open_office, dial):
    """An office with twelve callers who have said EHLO."""
    office = await open_office(tls="offered")
    callers = [await dial(office.port) for _ in range(12)]
    for caller in callers:
        assert (await caller.reply())[:3] == b"220"
    for caller in callers:
        assert (await caller.ask(b"EHLO client.example"))[:3] == b"250"
    return office, callers


async def ask_all(callers, lines):
    """Send each its line, all before any reply is read; the codes of the replies."""
    for caller, line in zip(callers, lines, strict=True):
        caller.writer.write(line)
    return [(await caller.reply())[:3] for caller in callers]


async def test_each_gets_its_own_replies_however_their_commands_mix(crowd):
    office, callers = crowd
    script = [
        (MAIL + b"\r\n", b"250"),
        (RCPT + b"\r\n", b"250"),
        (b"NONSENSE\r\n", b"500"),
        (b"DATA\r\n", b"354"),
        (LETTER, b"250"),
        (b"QUIT\r\n", b"221"),
    ]
    turns = len(script) + len(callers) - 1
    for turn in range(turns):  # each caller begins one step later than the one before
        steps = [(caller, turn - late) for late, caller in enumerate(callers)]
        now = [(caller, *script[step]) for caller, step in steps if 0 <= step < len(script)]
        found = await ask_all([caller for caller, *_ in now], [line for _, line, _ in now])
        assert found == [code for *_, code in now]
    assert len(office.queued) == len(callers)


async def test_who_is_done_sending_is_still_answered(crowd):
    office, callers = crowd
    for caller in callers:
        caller.writer.write(b"\r\n".join([MAIL, RCPT, b"BDAT 6 LAST", b"Hi.", b"x", b""]))
        caller.writer.write_eof()
    for caller in callers:
        assert b"250 2.0.0 Queued as " in await caller.rest()
    assert len(office.queued) == len(callers)


async def test_who_goes_in_the_middle_leaves_nothing(crowd, until):
    office, callers = crowd
    for line in (MAIL, RCPT, b"DATA"):
        await ask_all(callers, [line + b"\r\n"] * len(callers))
    for caller in callers:
        caller.writer.write(b"Subject: half\r\n")
        caller.cut()
    await until(lambda: len(office.connections) == 0)
    assert office.drafts == []
    assert office.queued == []


async def test_much_that_comes_at_once_is_handled_in_its_order(crowd):
    office, callers = crowd
    body = b"x" * 900 + b"\r\n"
    for caller in callers:
        caller.writer.write(MAIL + b"\r\n" + RCPT + b"\r\nDATA\r\n" + body * 90 + b".\r\nNOOP\r\n")
    codes = [[(await caller.reply())[:3] for _ in range(5)] for caller in callers]
    assert codes == [[b"250", b"250", b"354", b"250", b"250"]] * len(callers)
    assert len(office.queued) == len(callers)


async def test_what_is_said_in_clear_with_starttls_is_never_heard(crowd, certificates):
    _office, callers = crowd
    injected = b"STARTTLS\r\nEHLO injected.example\r\n" + MAIL + b"\r\n"
    assert await ask_all(callers, [injected] * len(callers)) == [b"220"] * len(callers)
    for caller in callers:
        await caller.upgrade(certificates.client)
        assert (await caller.ask(MAIL))[:3] == b"503"
